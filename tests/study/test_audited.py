"""Studies under audit: what they train, their columns and their page, and what is refused before training.

Modules: dpmi/study/work.py, dpmi/study/spec.py.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from dpmi.privacy import Account
from dpmi.report.write import write
from dpmi.study import Machines, SpecError, Store, parse, prepare, run, work
from dpmi.study.schema import TRIALS, problems

from .conftest import TINY, gather

AUDITED = TINY.replace('model = "softmax"', 'model = "softmax"\naudit = { canaries = 30 }').replace(
    "seeds = [0, 1]", "seeds = [0]"
)


def test_private_models_are_audited_and_the_page_says_so(tmp_path: Path) -> None:
    spec, store = parse(AUDITED), Store.create(tmp_path, AUDITED)
    assert run(spec, store, machines=Machines(workers=1)) == []
    results = gather(spec, store)
    assert list(problems(results.trials, TRIALS)) == []
    table = results.trials.set_index("label")
    assert table.loc["none", "audit_verdict"] == ""
    assert math.isnan(table.loc["none", "audit_lower_bound"])
    private = table[table["unit"] == "class"]
    assert len(private) == 2
    assert (private["audit_verdict"] == "consistent").all()
    assert (private["audit_lower_bound"] < private["epsilon"]).all()
    assert (private["audit_ceiling"] < private["epsilon"]).all()
    assert (private["audit_canaries"] == 30).all()
    assert (private["buckets"] == 10).all()  # the canaries are no class
    job = next(job for job in spec.jobs_on(store.content()) if job.defense.name == "class-dp")
    record = store.model_record(job.key)
    assert record is not None
    (finding,) = Account.from_json(record["account"]).findings
    assert finding.canaries == 30
    shared = dataclasses.replace(Account.from_json(record["account"]), buckets_per_unit=2)
    with pytest.raises(ValueError, match="owns up to 2 buckets, but a study compares epsilons and bounds"):
        work._privacy_columns(job, shared)
    write(results, tmp_path)
    page = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "Audits: the epsilon that the trainings have at least" in page
    assert "| class-dp, noise multiplier 0.5 |" in page
    assert "- Audit: consistent with the claim" in "".join(results.statements.values())


def test_an_audit_is_part_of_the_keys_of_the_models_that_it_changes_only() -> None:
    content = prepare(parse(TINY))
    plain, audited, other = (
        {job.defense.name: job.key for job in parse(text).jobs_on(content)}
        for text in (TINY, AUDITED.replace("seeds = [0]", "seeds = [0, 1]"), AUDITED.replace("= 30", "= 20"))
    )
    assert plain["none"] == audited["none"]
    assert len({found["class-dp"] for found in (plain, audited, other)}) == 3


@pytest.mark.parametrize(
    ("audit", "message"),
    [
        ("audit = { canaries = 1 }", "audit.canaries"),
        ("audit = { canaries = 30, colour = 1 }", "audit: unknown key 'colour'"),
    ],
)
def test_settings_out_of_range(audit: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(AUDITED.replace("audit = { canaries = 30 }", audit))


def test_what_cannot_be_audited_is_said_before_anything_is_trained() -> None:
    without = AUDITED.replace('name = "class-dp"', 'name = "record-dp"')
    with pytest.raises(
        SpecError, match="no defence of the study can be audited; add class-dp, subclass-dp or user-dp"
    ):
        parse(without)
    text = "audit.canaries is 33, but the model of class-dp, noise multiplier 0.5 has room for 32"
    with pytest.raises(ValueError, match=text):
        prepare(parse(AUDITED.replace("= 30", "= 33")))
