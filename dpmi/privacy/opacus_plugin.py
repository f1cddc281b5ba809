"""dpmi's accountants with Opacus's interface, for use in Opacus's own engine; the unit is then one record.

>>> import dpmi.privacy, opacus
>>> opacus.PrivacyEngine(accountant="bucket-pld").accountant.mechanism()
'bucket-pld'

"bucket-pld" is the accountant `tight`, "lemma3" is `lemma3`. Importing `dpmi.privacy` registers both.
"""

from __future__ import annotations

import difflib
from typing import ClassVar

from opacus.accountants import IAccountant, register_accountant

from accountants import Adjacency, BucketMechanism, Ledger

OPACUS_STEP = tuple[float, float, int]
"""(noise_multiplier, sample_rate, steps), the order in Opacus's history and checkpoints."""


class LedgerAccountant(IAccountant):
    """Computes the epsilon of Opacus's history with an accountant of `accountants.ACCOUNTANTS`.

    The history has Opacus's format, so checkpoints of `opacus.PrivacyEngine` store it. Opacus rejects a checkpoint of
    an accountant with another name.

    Opacus ensures neither Poisson sampling nor a single contribution per record. With ``poisson_sampling=False``,
    epsilon does not apply to the actual run, as with Opacus's own accountants.
    """

    _accountant: ClassVar[str]

    def __init__(self) -> None:
        self.history: list[OPACUS_STEP] = []

    def step(self, *, noise_multiplier: float, sample_rate: float) -> None:
        """Charge one step; equal consecutive steps are stored as a count, as in Opacus."""
        if self.history and self.history[-1][:2] == (noise_multiplier, sample_rate):
            self.history[-1] = (noise_multiplier, sample_rate, self.history[-1][2] + 1)
        else:
            self.history.append((noise_multiplier, sample_rate, 1))

    def get_epsilon(
        self,
        delta: float,
        *,
        adjacency: Adjacency = "add_remove",
        poisson: bool = True,
        **settings: object,
    ) -> float:
        """Return the epsilon spent so far on one record; 0 before the first step, inf without noise.

        Args:
            delta: in (0, 1).
            adjacency: "add_remove" one record, the adjacency of Opacus's epsilons, or "replace" one. Opacus's
                `make_private_with_epsilon` passes it on; its `get_epsilon` does not.
            poisson: must be True; False is Opacus's name for sampling without replacement.
            settings: ignored. Opacus passes the settings of its own accountants and optimizers, such as alphas, to
                every accountant.

        Raises:
            TypeError: an argument is not a number, or a setting looks like a misspelt adjacency, which would silently
                lower epsilon.
            ValueError: an argument or a step is out of range, or the accountant cannot compute the run; the message
                says what to change.
        """
        for name in difflib.get_close_matches("adjacency", settings):
            raise TypeError(f"get_epsilon got {name}={settings[name]!r}; use the argument adjacency")
        if not poisson:
            raise ValueError(
                f"poisson is {poisson}, but {self.mechanism()} accounts for Poisson sampling only; train with "
                "poisson_sampling=True"
            )
        ledger = Ledger()
        for noise_multiplier, sample_rate, steps in self.history:
            step = BucketMechanism(sampling_rate=sample_rate, noise_multiplier=noise_multiplier)
            ledger = ledger.record(step, steps)
        return ledger.guarantee(
            delta=delta, unit="record", adjacency=adjacency, accountant=self._accountant
        ).epsilon

    def __len__(self) -> int:
        return sum(steps for _, _, steps in self.history)


class BucketPLDAccountant(LedgerAccountant):
    """The tight accountant, registered as "bucket-pld" in Opacus.

    >>> accountant = BucketPLDAccountant()
    >>> for _ in range(50):
    ...     accountant.step(noise_multiplier=2.0, sample_rate=0.1)
    >>> round(accountant.get_epsilon(1e-3), 2), round(accountant.get_epsilon(1e-3, adjacency="replace"), 2)
    (1.05, 2.05)
    """

    _accountant = "tight"

    @classmethod
    def mechanism(cls) -> str:
        """The name in Opacus's registry and checkpoints."""
        return "bucket-pld"


class Lemma3Accountant(LedgerAccountant):
    """The moments accountant of Zhang et al. 2020, registered as "lemma3" in Opacus.

    >>> accountant = Lemma3Accountant()
    >>> for _ in range(50):
    ...     accountant.step(noise_multiplier=2.0, sample_rate=0.1)
    >>> len(accountant), round(accountant.get_epsilon(1e-3), 2)
    (50, 1.24)
    """

    _accountant = "lemma3"

    @classmethod
    def mechanism(cls) -> str:
        """The name in Opacus's registry and checkpoints."""
        return "lemma3"


for _accountant in (BucketPLDAccountant, Lemma3Accountant):
    # force=True, because reloading this module registers its classes a second time.
    register_accountant(_accountant.mechanism(), _accountant, force=True)
