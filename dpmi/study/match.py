"""Defences at equal accuracy, or at equal epsilon: the strength of each that meets a target.

A match starts from a study file in which the strengths are open, and ends with one in which they are found. The
models that it trains are stored as those of any study, so an interrupted match goes on where it stopped, and
the study that it leaves trains none of them again.
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
"""Trains the models of the n-th round, n = 1, 2, ..., none of which is in the store; returns those that failed."""


@dataclass(frozen=True)
class Candidate:
    """A defence of the study.

    Args:
        label: tells it from the others, whatever its strength.
        ends: of the range in which its strength is searched, the weakest first; None if it is taken as it is.
        jobs: one per seed, at its own strength or at the weakest.
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
            replace(job, defense=defense, attacks=(), attack_labels=(), setting=setting) for job in self.jobs
        )

    @property
    def field(self) -> str:
        """Name of its strength; empty where it has none."""
        return self.jobs[0].defense.strength_field or ""

    @property
    def strength(self) -> float:
        """Its own; NaN where it has none."""
        return self.jobs[0].defense.strength


@dataclass(frozen=True)
class Match:
    """A study whose strengths are open.

    Args:
        document: the study file.
        candidates: one per table of its defences, in its order.
        weakest: the study with every open strength at its weakest.
    """

    document: Mapping[str, Any]
    candidates: tuple[Candidate, ...]
    weakest: StudySpec

    def on(self, content: Content) -> Match:
        """The same, with keys: its jobs' numbers depend on this content."""
        return replace(
            self,
            candidates=tuple(
                replace(candidate, jobs=tuple(replace(job, content=content) for job in candidate.jobs))
                for candidate in self.candidates
            ),
        )

    @property
    def name(self) -> str:
        """Of the study."""
        return str(self.document["name"])

    def study(self, matched_on: str, strengths: Mapping[str, float]) -> str:
        """The study file with every defence at its found strength; candidates that are not named are left out.

        Args:
            matched_on: what was asked for, such as "accuracy 0.97".
            strengths: by label of the candidate.
        """
        tables = [
            {**table, **({candidate.field: strengths[candidate.label]} if candidate.ends else {})}
            for table, candidate in zip(self.document["defenses"], self.candidates, strict=True)
            if candidate.label in strengths
        ]
        return tomli_w.dumps({**self.document, "matched_on": matched_on, "defenses": tables})


def parse_match(text: str) -> Match:
    """The match that a study file asks for.

    A strength that is missing is searched in the ``strength_range`` of its defence, one that is a list between the
    smallest and the largest of its values. One that is a number stays as it is.

    Raises:
        SpecError: no study can be made of it, or there is no range to search in.
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

    # Whatever is wrong with one of the ends is said before anything is trained.
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
        raise SpecError(f"the strength of {twice[0]} is asked for twice; remove one")
    candidates = tuple(
        Candidate(
            label=label,
            # Read from the defences: there they have the type of the field, also where the file has 1 for 1.0.
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
    """Search the strength of every candidate by the test accuracy of its models; of the fixed ones, measure it.

    Every round trains what all of the searches need next, so defences and seeds run in parallel.

    Args:
        match: what to search, :meth:`Match.on` a content.
        store: where the models are.
        target: the accuracy.
        train: trains models into the store.

    Returns:
        By label, in the order of the file; a failure where a training failed.
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
    """The least noise multiplier at which the training of every private candidate costs at most epsilon.

    Nothing is trained, and no data are looked at. Epsilon is the headline: tight, of one unit replaced, at the
    defence's own delta. record-dp may draw at a rate that is a little lower than the one that is calibrated
    for, and then costs a little less.

    Returns:
        Noise multipliers by label, rounded up; a candidate without strength, or with one that is given, is left as
        it is and has its own, or NaN.

    Raises:
        SpecError: a candidate whose strength is open is not private.
        ValueError: no noise multiplier meets the target.
    """
    open_ones = [candidate for candidate in match.candidates if candidate.ends is not None]
    public = [
        candidate.label for candidate in open_ones if defenses.private_part(candidate.jobs[0].defense) is None
    ]
    if public:
        raise SpecError(
            f"{', '.join(public)}: no strength has an epsilon, which only differentially private defences have; give "
            "the strength in the study, or match on accuracy"
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
    """Name of the strength that a table leaves open, and the range to search, the weakest first; None if none is."""
    try:
        kind = defenses.get(str(table.get("name")))
    except ValueError:
        return None  # checked() says so
    where, name = f"defenses {kind.name}", kind.strength_field
    swept = [key for key, value in table.items() if isinstance(value, list) and key != name]
    if swept:
        raise SpecError(
            f"{where}: {swept[0]} is a list; to match, write one table of [[defenses]] for each value"
        )
    if name is None or not isinstance(table.get(name, []), list):
        return None
    given = table.get(name, kind.strength_range)
    if given is None:
        raise SpecError(f"{where}: {name} is missing, and has no usual range; give {name} = [from, to]")
    numbers = [value for value in given if isinstance(value, int | float)]
    if len(numbers) < len(given) or len(set(numbers)) < 2:
        raise SpecError(
            f"{where}: {name} is {given}: a range to search needs 2 different numbers, from and to"
        )
    low, high = min(numbers), max(numbers)
    return name, (low, high) if kind.stronger == "larger" else (high, low)


def _but(job: Job, open_field: str | None) -> dict[str, Any]:
    """What tells a candidate from others: all of its settings but the strength that is searched."""
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
    """To a few significant digits: more noise costs less."""
    scale = 10.0 ** (DIGITS - 1 - math.floor(math.log10(noise_multiplier)))
    return math.ceil(noise_multiplier * scale) / scale
