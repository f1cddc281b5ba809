"""A ledger as JSON: exact both ways, and refused as soon as anything about it is not what was written.

Modules: accountants/ledger.py, accountants/sealed_json.py.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accountants import BallsInBins, BucketMechanism, FixedNumber, Ledger, TruncatedPoisson
from accountants.sealed_json import digest

STEP = BucketMechanism(sampling_rate=0.2, noise_multiplier=1.6)
OTHER = BucketMechanism(sampling_rate=0.1, noise_multiplier=3.0)
RUN = Ledger().record(STEP, 200).record(OTHER, 30)


def mechanism(sampling_rate: float, noise_multiplier: float) -> BucketMechanism:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # q = 1 and sigma = 0 are legitimate
        return BucketMechanism(sampling_rate=sampling_rate, noise_multiplier=noise_multiplier)


mechanisms = st.builds(
    mechanism,
    st.floats(min_value=0, max_value=1, exclude_min=True),
    st.floats(min_value=0, allow_infinity=False),
)
ledgers = st.builds(
    lambda runs: Ledger(tuple(runs)), st.lists(st.tuples(mechanisms, st.integers(1, 10**9)), max_size=6)
)


@pytest.mark.filterwarnings("ignore:noise_multiplier is 0")
class TestRoundTrip:
    @given(ledgers)
    def test_a_ledger_reads_back_as_it_was(self, ledger: Ledger) -> None:
        text = ledger.to_json()
        again = Ledger.from_json(text)
        assert again == ledger
        assert again.to_json() == text
        assert again.hash == ledger.hash

    @given(ledgers, ledgers)
    def test_equal_hashes_are_equal_ledgers(self, one: Ledger, other: Ledger) -> None:
        assert (one.hash == other.hash) is (one == other)

    def test_a_third_of_a_bucket_is_exact(self) -> None:
        ledger = Ledger().record(mechanism(1 / 3, math.pi * 1e-300))
        assert Ledger.from_json(ledger.to_json()).runs[0][0] == ledger.runs[0][0]

    def test_numbers_of_numpy_are_numbers(self) -> None:
        step = BucketMechanism(sampling_rate=np.float64(0.2), noise_multiplier=np.float64(1.6))
        assert Ledger(((step, np.int64(200)),)).to_json() == Ledger().record(STEP, 200).to_json()

    def test_noise_of_minus_zero_is_no_noise(self) -> None:
        assert Ledger().record(mechanism(0.5, -0.0)).hash == Ledger().record(mechanism(0.5, 0.0)).hash


def test_the_text_is_what_an_auditor_can_check_by_hand() -> None:
    document = json.loads(RUN.to_json())
    sha256 = document.pop("sha256")
    assert document == {
        "format": "dpmi-ledger",
        "version": 1,
        "steps": 230,
        "runs": [
            {"sampling_rate": 0.2, "noise_multiplier": 1.6, "steps": 200},
            {"sampling_rate": 0.1, "noise_multiplier": 3.0, "steps": 30},
        ],
    }
    canonical = (
        '{"format":"dpmi-ledger","runs":[{"noise_multiplier":1.6,"sampling_rate":0.2,"steps":200},'
        '{"noise_multiplier":3.0,"sampling_rate":0.1,"steps":30}],"steps":230,"version":1}'
    )
    assert sha256 == RUN.hash == hashlib.sha256(canonical.encode()).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        Ledger(),
        Ledger().record(STEP, 200),
        Ledger().record(STEP, 201).record(OTHER, 29),
        Ledger().record(OTHER, 30).record(STEP, 200),
        Ledger().record(STEP, 200).record(mechanism(math.nextafter(0.1, 1), 3.0), 30),
        Ledger().record(STEP, 200).record(mechanism(0.1, math.nextafter(3.0, 4)), 30),
    ],
)
def test_the_hash_changes_with_the_content(other: Ledger) -> None:
    assert other.hash != RUN.hash


def test_the_hash_is_a_constant() -> None:
    """Statements of years ago quote it."""
    assert RUN.hash == "6d018c754becfaf06d90f843485099f531905fa01806019bbb94b6d77704313b"


class TestDamage:
    def test_cut_anywhere(self) -> None:
        text = RUN.to_json()
        for length in range(len(text)):
            with pytest.raises(ValueError, match=r"^ledger: not JSON, or truncated"):
                Ledger.from_json(text[:length])

    def test_without_one_character_anywhere(self) -> None:
        """Either refused, or the character was white space."""
        text = RUN.to_json()
        for at in range(len(text)):
            damaged = text[:at] + text[at + 1 :]
            if text[at].isspace():
                assert Ledger.from_json(damaged) == RUN
            else:
                with pytest.raises(ValueError, match=r"^ledger: "):
                    Ledger.from_json(damaged)

    @given(st.integers(0, len(RUN.to_json()) - 1), st.characters(max_codepoint=0x2FF))
    def test_with_another_character_anywhere(self, at: int, character: str) -> None:
        text = RUN.to_json()
        damaged = text[:at] + character + text[at + 1 :]
        try:
            found = Ledger.from_json(damaged)
        except ValueError as error:
            assert str(error).startswith("ledger: ")  # noqa: PT017
        else:
            assert found == RUN

    def test_a_run_taken_out(self) -> None:
        document = json.loads(RUN.to_json())
        del document["runs"][1]
        with pytest.raises(ValueError, match=r"^ledger: steps must be 200, the sum over the runs, got 230$"):
            Ledger.from_json(json.dumps(document))

    def test_a_run_taken_out_and_the_sum_adjusted(self) -> None:
        document = json.loads(RUN.to_json())
        del document["runs"][1]
        document["steps"] = 200
        wanted = Ledger().record(STEP, 200).hash
        with pytest.raises(ValueError, match=f"^ledger: sha256 must be {wanted} for this content, got '"):
            Ledger.from_json(json.dumps(document))


def changed(**parts: Any) -> str:
    """A document that is whole, hash included, but for its content."""
    content = {k: v for k, v in json.loads(RUN.to_json()).items() if k != "sha256"}
    content |= parts
    content = {k: v for k, v in content.items() if v is not ...}
    return json.dumps({**content, "sha256": digest(content)})


def with_run(**parts: Any) -> str:
    run = {"sampling_rate": 0.2, "noise_multiplier": 1.6, "steps": 230, **parts}
    return changed(runs=[{k: v for k, v in run.items() if v is not ...}])


RUN_KEYS = "expected the keys noise_multiplier, sampling_rate, steps"
KEYS = "expected the keys format, runs, sha256, steps, version"

REFUSED = {
    "": "not JSON, or truncated (Expecting value: line 1 column 1 (char 0)), got ''",
    "[]": "expected an object with the format 'dpmi-ledger', got []",
    "null": "expected an object with the format 'dpmi-ledger', got None",
    '{"steps": 1, "steps": 2}': "duplicate key 'steps'",
    changed(format="dpmi-account"): "expected an object with the format 'dpmi-ledger', got {",
    changed(format=...): "expected an object with the format 'dpmi-ledger', got {",
    changed(
        version=2
    ): "runs[0]: sampler must be one of poisson, fixed_number, truncated_poisson, balls_in_bins, got",
    changed(version=3): "version must be 1, got 3: another version of dpmi wrote it",
    changed(version=True): "version must be 1, got True: ",
    changed(version="1"): "version must be 1, got '1': ",
    changed(version=...): "version must be 1, got None: ",
    changed(runs=...): f"{KEYS}; missing: runs, unknown: none",
    changed(steps=...): f"{KEYS}; missing: steps, unknown: none",
    changed(unit="class"): f"{KEYS}; missing: none, unknown: 'unit'",
    changed(runs={}): "runs must be a list, got {}",
    changed(runs=None): "runs must be a list, got None",
    changed(steps=230.0): "steps must be an integer, got 230.0 (float)",
    changed(steps=True): "steps must be an integer, got True (bool)",
    changed(steps=-230): "steps must be at least 0, got -230",
    changed(steps=231): "steps must be 230, the sum over the runs, got 231",
    changed(runs=[["0.2", 1.6, 230]]): "runs[0]: expected an object with the keys noise_",
    with_run(steps=...): f"runs[0]: {RUN_KEYS}; missing: steps, unknown: none",
    with_run(sigma=1.0): f"runs[0]: {RUN_KEYS}; missing: none, unknown: 'sigma'",
    with_run(steps=0): "runs[0]: steps must be at least 1, got 0",
    with_run(steps=230.0): "runs[0]: steps must be an integer, got 230.0 (float)",
    with_run(sampling_rate=0): "runs[0]: sampling_rate must be in (0, 1], got 0.0: ",
    with_run(sampling_rate=1.5): "runs[0]: sampling_rate must be in (0, 1], got 1.5: ",
    with_run(sampling_rate="0.2"): "runs[0]: sampling_rate must be a real number, got '0.2' (str)",
    with_run(sampling_rate=None): "runs[0]: sampling_rate must be a real number, got None (NoneType)",
    with_run(sampling_rate=10**400): "runs[0]: sampling_rate must be finite, got inf",
    with_run(noise_multiplier=-1): "runs[0]: noise_multiplier must be at least 0, got -1.0: ",
    with_run(noise_multiplier=True): "runs[0]: noise_multiplier must be a real number, got True (bool)",
    RUN.to_json().replace("1.6", "1e999"): "runs[0]: noise_multiplier must be finite, got inf",
    RUN.to_json().replace("1.6", "NaN"): "runs[0]: noise_multiplier must be finite, got nan",
    RUN.to_json().replace("1.6", "1.7"): "sha256 must be ",
    RUN.to_json().replace(
        '"sha256": "', '"sha256": "0'
    ): f"sha256 must be {RUN.hash} for this content, got '0",
    "[" * 100_000: "not JSON, or truncated (",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items(), ids=range(len(REFUSED)))
def test_refused_with_the_part_the_value_and_what_is_expected(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Ledger.from_json(text)
    assert type(caught.value) is ValueError
    assert str(caught.value).startswith(f"ledger: {message}")
    assert len(str(caught.value)) < 400


def test_an_unchanged_copy_by_the_helpers_above_is_accepted() -> None:
    """So that what is refused above is refused for its one change."""
    assert Ledger.from_json(changed()) == RUN
    assert Ledger.from_json(with_run()) == Ledger().record(STEP, 230)


class TestSum:
    def test_is_the_runs_in_their_order(self) -> None:
        assert (RUN + Ledger().record(OTHER, 5).record(STEP, 1)).runs == ((STEP, 200), (OTHER, 35), (STEP, 1))
        assert RUN + Ledger() == Ledger() + RUN == RUN
        assert sum([RUN, RUN, RUN], Ledger()).totals == {STEP: 600, OTHER: 90}

    @given(ledgers, ledgers)
    def test_is_recording_step_by_step(self, one: Ledger, other: Ledger) -> None:
        recorded = one
        for step, steps in other.runs:
            recorded = recorded.record(step, steps)
        assert (one + other).totals == recorded.totals
        assert (one + other).steps == one.steps + other.steps

    @pytest.mark.parametrize("accountant", ["tight", "lemma3"])
    def test_costs_what_composing_directly_costs(self, accountant: str) -> None:
        """A search of three runs, then the final one; and one ledger that billed all of their steps."""
        search = [
            Ledger().record(BucketMechanism(sampling_rate=0.1, noise_multiplier=sigma), 50)
            for sigma in (1.0, 2.0, 1.0)
        ]
        final = Ledger().record(STEP, 200)
        direct = Ledger(
            (
                (BucketMechanism(sampling_rate=0.1, noise_multiplier=1.0), 100),
                (BucketMechanism(sampling_rate=0.1, noise_multiplier=2.0), 50),
                (STEP, 200),
            )
        )
        request = {"delta": 1e-3, "unit": "class", "accountant": accountant}
        together = sum(search, final).guarantee(**request)
        assert together.epsilon == pytest.approx(direct.guarantee(**request).epsilon, rel=1e-12)
        assert together.steps == 350
        assert together.epsilon > final.guarantee(**request).epsilon

    def test_of_something_else_is_refused(self) -> None:
        with pytest.raises(TypeError, match="unsupported operand"):
            RUN + RUN.runs  # type: ignore[operator]


@pytest.mark.parametrize("unit", ["a\nb", "class\n", "a\u2028b"])
def test_a_unit_is_one_line(unit: str) -> None:
    with pytest.raises(ValueError, match="unit must say what one bucket is in one line"):
        RUN.guarantee(delta=1e-3, unit=unit)


SAMPLED = (
    Ledger()
    .record(STEP, 3)
    .record(FixedNumber(units=600, drawn=60, noise_multiplier=2), 200)
    .record(TruncatedPoisson(units=600, sampling_rate=0.1, most=80, noise_multiplier=2), 7)
    .record(BallsInBins(steps_per_pass=10, noise_multiplier=2), 20)
)


class TestOtherSamplers:
    def test_a_run_reads_back_exactly(self) -> None:
        assert Ledger.from_json(SAMPLED.to_json()) == SAMPLED
        assert Ledger.from_json(SAMPLED.to_json()).hash == SAMPLED.hash

    def test_the_text_names_every_sampler(self) -> None:
        document = json.loads(SAMPLED.to_json())
        assert (document["version"], document["steps"]) == (2, 410)
        assert document["runs"] == [
            {"sampler": "poisson", "sampling_rate": 0.2, "noise_multiplier": 1.6, "times": 3},
            {"sampler": "fixed_number", "units": 600, "drawn": 60, "noise_multiplier": 2.0, "times": 200},
            {
                "sampler": "truncated_poisson",
                "units": 600,
                "sampling_rate": 0.1,
                "most": 80,
                "noise_multiplier": 2.0,
                "times": 7,
            },
            {"sampler": "balls_in_bins", "steps_per_pass": 10, "noise_multiplier": 2.0, "times": 20},
        ]

    @pytest.mark.parametrize(
        ("place", "parts", "message"),
        [
            (1, {"sampler": "shuffled"}, r"runs\[1\]: sampler must be one of poisson, .*got 'shuffled'"),
            (1, {"sampler": None}, "sampler must be one of"),
            (1, {"drawn": 601}, "drawn must be at most 600"),
            (1, {"most": 5}, "unknown: 'most'"),
            (2, {"sampler": "poisson"}, "unknown: 'most', 'units'"),
            (3, {"times": 0}, "times must be at least 1, got 0"),
            (3, {"times": 21}, "steps must be 420, the sum over the runs, got 410"),
        ],
    )
    def test_another_sampler_or_number_is_refused(
        self, place: int, parts: dict[str, Any], message: str
    ) -> None:
        content = {k: v for k, v in json.loads(SAMPLED.to_json()).items() if k != "sha256"}
        content["runs"][place] |= parts
        with pytest.raises(ValueError, match=message):
            Ledger.from_json(json.dumps({**content, "sha256": digest(content)}))

    def test_poisson_runs_alone_have_the_old_version_only(self) -> None:
        content = {k: v for k, v in json.loads(SAMPLED.to_json()).items() if k != "sha256"}
        content |= {"runs": content["runs"][:1], "steps": 3}
        with pytest.raises(ValueError, match="sha256 must be"):
            Ledger.from_json(json.dumps({**content, "sha256": digest(content)}))

    @given(st.integers(0, len(SAMPLED.to_json()) - 1), st.characters(max_codepoint=0x2FF))
    def test_with_another_character_anywhere(self, at: int, character: str) -> None:
        text = SAMPLED.to_json()
        try:
            found = Ledger.from_json(text[:at] + character + text[at + 1 :])
        except ValueError as error:
            assert str(error).startswith("ledger: ")  # noqa: PT017
        else:
            assert found == SAMPLED
