"""The table of the strangers."""

from __future__ import annotations

import dataclasses
import math

from dpmi.report.numbers.tables import summary
from dpmi.report.page.strangers import judged
from dpmi.study.results import Results

from ..conftest import make_results


def with_strangers(results: Results, *, names: tuple[str, ...], linked: bool = False) -> Results:
    """The same study, judged by these strangers with the same shares for all classes."""
    shares = {
        **{f"attack_accuracy_{name}": 0.25 * (1 + place) for place, name in enumerate(names)},
        **{f"delta_face_{name}": 1.25 for name in names},
        **({f"identified_gain_{name}": -0.125 for name in names} if linked else {}),
        "strangers_disagreement": 0.375 if len(names) == 2 else math.nan,
        "type_one_errors": math.nan,
    }
    of_trials = {
        **{f"attack_accuracy_top5_{name}": 0.75 for name in names},
        **{f"evaluator_accuracy_{name}": 0.9 for name in names},
        "strangers_chance": 0.1,
    }
    return dataclasses.replace(
        results,
        trials=results.trials.assign(**shares, **of_trials),
        per_class=results.per_class.assign(**shares),
    )


def cells(names: tuple[str, ...], *, linked: bool = False) -> dict[str, str]:
    table = judged(summary(with_strangers(make_results(), names=names, linked=linked)))
    return dict(zip(table.header, table.rows[0], strict=True))


def test_every_stranger_has_its_columns() -> None:
    found = cells(("faceres", "sface"))
    assert found["Model"] == "none"
    starts = {
        "Attack accuracy, faceres": "25.0",
        "Attack accuracy, sface": "50.0",
        "Chance": "10.0",
        "Top-5, sface": "75.0",
        "delta_face, faceres": "1.25 [",
        "Disagreement": "37.5",
    }
    assert {name: found[name].startswith(start) for name, start in starts.items()} == dict.fromkeys(
        starts, True
    )
    assert found["Type-I errors"] == "–"
    assert not [name for name in found if name.startswith("Gain")]


def test_with_linkage_the_gain_stands_beside() -> None:
    assert cells(("sface",), linked=True)["Gain over a decoy, sface"].startswith("−12.5")


def test_one_stranger_has_no_disagreement() -> None:
    found = cells(("sface",))
    assert found["Disagreement"] == "–"
    assert "Attack accuracy, faceres" not in found


def test_the_caption_says_how_good_they_are() -> None:
    table = judged(summary(with_strangers(make_results(), names=("faceres", "sface"))))
    assert "faceres 90.0" in table.caption
    assert "sface 90.0" in table.caption
