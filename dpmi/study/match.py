"""Match defences at equal accuracy or equal epsilon: find the strength at which each one meets a target.

The input is a study file with open strengths; the result is a study file with the matched strengths. The trained models
go into the study's store, so an interrupted match resumes, and the resulting study reuses them.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tomli_w

from accountants import calibrate
from dpmi import defenses

from .bisection import DIGITS, AccuracyTarget, Answer, Ask, MatchedStrength, as_it_is, search
from .content import Content
from .grid import Job, settings_of, told_apart
from .pool import Failure
from .spec import SpecError, load_toml, validated
from .store import Store
from .study import StudySpec, checked
from .work import model_numbers

Train = Callable[[int, Sequence[Job]], Sequence[Failure]]
"""Takes the round number, from 1, and jobs that are not in the store; trains their models and returns the failures."""


@dataclass(frozen=True)
class Candidate:
    """A defence of the study.

    Args:
        label: distinguishes the defence from the others; it does not contain the searched strength.
        ends: ends of the range of strengths to search, weakest first; None for a fixed strength.
        jobs: one per seed, at the fixed strength or at the weakest end.
    """

    label: str
    ends: tuple[float, float] | None
    jobs: tuple[Job, ...]

    def at(self, strength: float) -> tuple[Job, ...]:
        """The models to train at a strength, one per seed."""
        defense, setting = self.jobs[0].defense, self.label
        if self.ends is not None:
            defense = replace(defense, **{self.field: strength})
            setting = f"{self.label}, {self.field.replace('_', ' ')} {strength:g}"
        return tuple(
            # Without the seeds of the study no model is trained that is only a reference of the unit game.
            replace(job, defense=defense, attacks=(), attack_labels=(), setting=setting, seeds=())
            for job in self.jobs
        )

    @property
    def field(self) -> str:
        """Name of its strength; empty if it has none."""
        return self.jobs[0].defense.strength_field or ""

    @property
    def strength(self) -> float:
        """The strength of its jobs; NaN if it has none."""
        return self.jobs[0].defense.strength


@dataclass(frozen=True)
class Match:
    """A study with open strengths.

    Args:
        document: the study file.
        candidates: one per table of ``defenses``, in the order of the file.
        weakest: the study with every open strength at its weakest end.

    >>> match = parse_match('''
    ... name = "equal"
    ... seeds = [0]
    ... data = { name = "digits" }
    ... model = "softmax"
    ... training = { steps = 5, learning_rate = 0.1 }
    ... defenses = [{ name = "none" }, { name = "random-erasing", max_area = [0.1, 0.5] }]
    ... attacks = [{ name = "miface" }]
    ... ''')
    >>> [(candidate.label, candidate.ends) for candidate in match.candidates]
    [('none', None), ('random-erasing', (0.1, 0.5))]
    >>> matched = match.study("accuracy 0.9", {"none": float("nan"), "random-erasing": 0.2})
    >>> "max_area = 0.2" in matched
    True
    """

    document: Mapping[str, Any]
    candidates: tuple[Candidate, ...]
    weakest: StudySpec

    def on(self, content: Content) -> Match:
        """Return a copy whose jobs have keys for this content."""
        return replace(
            self,
            candidates=tuple(
                replace(candidate, jobs=tuple(replace(job, content=content) for job in candidate.jobs))
                for candidate in self.candidates
            ),
        )

    @property
    def name(self) -> str:
        """Name of the study."""
        return str(self.document["name"])

    def study(self, matched_on: str, strengths: Mapping[str, float]) -> str:
        """Return the study file with matched strengths; it omits candidates without an entry in ``strengths``.

        Args:
            matched_on: the target, such as "accuracy 0.97".
            strengths: matched strengths by label of the candidate.
        """
        tables = [
            {**table, **({candidate.field: strengths[candidate.label]} if candidate.ends else {})}
            for table, candidate in zip(self.document["defenses"], self.candidates, strict=True)
            if candidate.label in strengths
        ]
        return tomli_w.dumps({**self.document, "matched_on": matched_on, "defenses": tables})


def parse_match(text: str) -> Match:
    """Read a study file with open strengths.

    A missing strength is searched in the ``strength_range`` of its defence. A list is searched between its smallest and
    its largest value. A number is a fixed strength.

    Raises:
        SpecError: the file is not a valid study, or an open strength has no range to search.
    """
    document = load_toml(text)
    tables = validated(StudySpec, document).defenses
    opened = [_opened(table) for table in tables]

    def filled(end: int) -> StudySpec:
        closed = [
            table if found is None else {**table, found[0]: found[1][end]}
            for table, found in zip(tables, opened, strict=True)
        ]
        return checked({**document, "defenses": closed})

    # Reports errors at either end of a range before any training.
    weakest, strongest = filled(0), filled(1)
    seeds = len(weakest.seeds)
    pairs = list(zip(weakest.jobs[::seeds], strongest.jobs[::seeds], strict=True))
    labels = told_apart(
        [
            (weak.defense.name, _but(weak, None if found is None else found[0]))
            for (weak, _), found in zip(pairs, opened, strict=True)
        ]
    )
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise SpecError(f"defenses {twice[0]}: its strength is open in two tables; remove one")
    candidates = tuple(
        Candidate(
            label=label,
            # From the defences, not from the file: there 1 has become 1.0 if the field is a float.
            ends=None
            if found is None
            else (getattr(weak.defense, found[0]), getattr(strong.defense, found[0])),
            jobs=weakest.jobs[place * seeds : (place + 1) * seeds],
        )
        for place, (label, found, (weak, strong)) in enumerate(zip(labels, opened, pairs, strict=True))
    )
    return Match(document, candidates, weakest)


def match_accuracy(
    match: Match, store: Store, target: AccuracyTarget, *, train: Train
) -> dict[str, MatchedStrength | Failure]:
    """Search the strength of every candidate by test accuracy; measure the accuracy of fixed candidates.

    Every round trains the models that all searches need next, so defences and seeds run in parallel.

    Args:
        match: the candidates, with keys from :meth:`Match.on`.
        store: holds the models.
        target: the accuracy to reach.
        train: trains models into the store.

    Returns:
        Results by label, in the order of the file; a Failure if a training failed.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from dpmi.study import Machines, prepare, train_models
    >>> text = '''
    ... name = "equal"
    ... seeds = [0]
    ... data = { name = "digits" }
    ... model = "softmax"
    ... training = { steps = 5, learning_rate = 0.1 }
    ... defenses = [{ name = "none" }, { name = "random-erasing", max_area = [0.1, 0.5] }]
    ... attacks = [{ name = "miface" }]
    ... '''
    >>> match = parse_match(text)
    >>> with TemporaryDirectory() as folder:
    ...     store = Store.create(Path(folder, "study"), text)
    ...     def train(rounds: int, jobs: Sequence[Job]) -> Sequence[Failure]:
    ...         return train_models(jobs, store, machines=Machines(workers=1))
    ...     on = prepare(match.weakest)
    ...     found = match_accuracy(match.on(on), store, AccuracyTarget(0.99, trials=3), train=train)
    >>> {label: matched.trials for label, matched in found.items()}
    {'none': 1, 'random-erasing': 2}
    >>> found["random-erasing"].strength, found["random-erasing"].note
    (0.1, 'the weakest strength of the range is already below the target')
    """
    outcomes: dict[str, MatchedStrength | Failure] = {}
    searches = [(candidate, _search(candidate, target)) for candidate in match.candidates]
    going = [(candidate, search_, next(search_)) for candidate, search_ in searches]
    for rounds in itertools.count(1):
        if not going:
            break
        wanted = [
            {strength: candidate.at(strength)[:seeds] for strength, seeds in ask.items()}
            for candidate, _, ask in going
        ]
        jobs = [job for by_strength in wanted for group in by_strength.values() for job in group]
        missing = [job for job in jobs if model_numbers(job, store) is None]
        failed = {failure.label: failure for failure in (train(rounds, missing) if missing else ())}
        still_going = []
        for (candidate, search_, _), by_strength in zip(going, wanted, strict=True):
            own = [job.label for group in by_strength.values() for job in group if job.label in failed]
            if own:
                outcomes[candidate.label] = failed[own[0]]
                continue
            try:
                answer = {strength: _accuracies(group, store) for strength, group in by_strength.items()}
                still_going.append((candidate, search_, search_.send(answer)))
            except StopIteration as end:
                outcomes[candidate.label] = end.value
        going = still_going
    return {candidate.label: outcomes[candidate.label] for candidate in match.candidates}


def match_epsilon(match: Match, epsilon: float) -> dict[str, float]:
    """The smallest noise multiplier at which the training of every private candidate costs at most epsilon.

    This trains no model and reads no data. Epsilon is the headline value: accountant tight, one unit replaced, delta of
    the defence. record-dp may sample at a rate slightly below the calibrated one, and then costs slightly less.

    Returns:
        Noise multipliers by label, rounded up. A candidate with a fixed strength keeps it; a candidate without a
        strength has NaN.

    Raises:
        SpecError: a candidate with an open strength is not differentially private.
        ValueError: no noise multiplier meets the target.

    >>> match = parse_match('''
    ... name = "equal epsilon"
    ... seeds = [0]
    ... data = { name = "digits" }
    ... model = "softmax"
    ... training = { steps = 20, learning_rate = 0.1 }
    ... defenses = [{ name = "class-dp", sampling_rate = 0.2, max_grad_norm = 1.0 }]
    ... attacks = [{ name = "miface" }]
    ... ''')
    >>> {label: round(noise, 1) for label, noise in match_epsilon(match, epsilon=2.0).items()}
    {'class-dp': 2.0}
    """
    open_ones = [candidate for candidate in match.candidates if candidate.ends is not None]
    public = [
        candidate.label for candidate in open_ones if defenses.private_part(candidate.jobs[0].defense) is None
    ]
    if public:
        raise SpecError(
            f"{', '.join(public)}: only differentially private defences have an epsilon; give the strength in the "
            "study, or match on accuracy"
        )
    strengths = {}
    for candidate in match.candidates:
        private = defenses.private_part(candidate.jobs[0].defense)
        strengths[candidate.label] = candidate.strength
        if candidate.ends is not None and private is not None:
            found = calibrate(
                target_epsilon=epsilon,
                delta=private.delta,
                unit=private.unit,
                sampling_rate=private.sampling_rate,
                steps=candidate.jobs[0].recipe.steps,
            )
            strengths[candidate.label] = _rounded_up(found.mechanism.noise_multiplier)
    return strengths


def _opened(table: Mapping[str, Any]) -> tuple[str, tuple[Any, Any]] | None:
    """Name of the open strength of a table and its range, weakest end first; None if the strength is fixed."""
    try:
        kind = defenses.get(str(table.get("name")))
    except ValueError:
        return None  # checked() reports the unknown name
    where, name = f"defenses {kind.name}", kind.strength_field
    swept = [key for key, value in table.items() if isinstance(value, list) and key != name]
    if swept:
        raise SpecError(
            f"{where}: {swept[0]} is a list, which a match does not support; write one [[defenses]] table per value"
        )
    if name is None or not isinstance(table.get(name, []), list):
        return None
    given = table.get(name, kind.strength_range)
    if given is None:
        raise SpecError(f"{where}: {name} is missing and has no default range; give {name} = [from, to]")
    numbers = [value for value in given if isinstance(value, int | float)]
    if len(numbers) < len(given) or len(set(numbers)) < 2:
        raise SpecError(f"{where}: {name} is {given}; a range needs 2 different numbers, [from, to]")
    low, high = min(numbers), max(numbers)
    return name, (low, high) if kind.stronger == "larger" else (high, low)


def _but(job: Job, open_field: str | None) -> dict[str, Any]:
    """Settings that distinguish a candidate: all except the searched strength."""
    settings = {**settings_of(job.defense), **dataclasses.asdict(job.recipe)}
    settings.pop(open_field or "", None)
    return settings


def _search(candidate: Candidate, target: AccuracyTarget) -> Generator[Ask, Answer, MatchedStrength]:
    seeds = len(candidate.jobs)
    if candidate.ends is None:
        return as_it_is(candidate.strength, seeds=seeds)
    return search(*candidate.ends, target=target, seeds=seeds)


def _accuracies(jobs: Sequence[Job], store: Store) -> list[float]:
    """Test accuracies of stored models."""
    found = [model_numbers(job, store) for job in jobs]
    return [numbers["test_accuracy"] for numbers in found if numbers is not None]


def _rounded_up(noise_multiplier: float) -> float:
    """Round up to a few significant digits; rounding down could exceed the target epsilon."""
    scale = 10.0 ** (DIGITS - 1 - math.floor(math.log10(noise_multiplier)))
    return math.ceil(noise_multiplier * scale) / scale
