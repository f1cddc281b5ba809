"""Audits of a user's own function: found in its file, called under an audit, and refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from dpmi.privacy import Partition, PrivacyEngine
from dpmi.privacy.audit import Audit, audited, auditing
from dpmi.privacy.audit.own_training import load
from dpmi.privacy.observer import AMBIENT

from .small import CANARIES, X, Y, network, trained


def test_a_training_without_an_audit_of_its_own_gets_this_one(capsys: pytest.CaptureFixture[str]) -> None:
    def function() -> tuple[float, PrivacyEngine]:
        print("test accuracy: 0.5")
        return 0.5, trained(audit=None)

    engine = audited(function, Audit(canaries=30))
    assert engine.finding().canaries == 30
    assert capsys.readouterr().out == ""
    assert audited(trained, Audit(canaries=30)).finding().canaries == CANARIES  # its own
    assert AMBIENT.get() is None


def test_calibrated_trainings_are_audited_too() -> None:
    model, engine = network(), PrivacyEngine()
    with auditing(Audit(canaries=12)):
        engine.make_private_with_epsilon(
            module=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            data_loader=DataLoader(TensorDataset(X, Y)),
            partition=Partition.by_class(Y.numpy()),
            sampling_rate=0.3,
            steps=5,
            target_epsilon=4.0,
            target_delta=1e-3,
            max_grad_norm=1.0,
        )
    assert engine.plan.canaries == 12


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (
            None,
            "the function returned NoneType, with 0 privacy engines; it must return the one PrivacyEngine",
        ),
        ((0.5, "model"), "returned float, str, with 0 privacy engines"),
        (PrivacyEngine(), "returned an engine without an audit: make_private was not called yet"),
    ],
)
def test_a_function_that_returns_no_trained_engine(result: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        audited(lambda: result, Audit())


def test_an_audit_ends_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), auditing(Audit()):
        _ = 1 / 0
    assert AMBIENT.get() is None
    path = tmp_path / "mine.py"
    path.write_text("def main():\n    return 7\n\nVALUE = 3\n")
    assert load(f"{path}:main")() == 7


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("mine.py", "the target is 'mine.py'; it must be engine, or FILE.py:function"),
        ("mine.txt:main", "mine.txt cannot be imported: ModuleNotFoundError"),
        ("nowhere.py:main", "there is no file nowhere.py"),
        ("{}:other", "has no function or class 'other'; it has main"),
        ("{}:VALUE", "has no function or class 'VALUE'; it has main"),
        ("{}.broken.py:main", "cannot be imported: SyntaxError"),
    ],
)
def test_a_target_that_is_no_function(tmp_path: Path, target: str, text: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def main():\n    return 7\n\nVALUE = 3\n")
    Path(f"{path}.broken.py").write_text("def main(:\n")
    with pytest.raises(ValueError, match=text):
        load(target.format(path))
