"""The examples of docs/loops.md, run one after the other with the real libraries."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

os.environ["HF_HUB_OFFLINE"] = "1"
PAGE = Path(__file__).parents[2].joinpath("docs", "loops.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^## (.+?)\n.*?^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def libraries() -> dict[str, Any]:
    """What a reader has before the first example: a model, texts of users, and a table."""
    extras = ("accelerate", "datasets", "lightning", "peft", "transformers")
    _, datasets, lightning, _, transformers = (
        pytest.importorskip(name, reason=f"the extra `{name}` is not installed") for name in extras
    )
    texts = torch.randint(0, 50, (60, 8), generator=torch.Generator().manual_seed(0)).tolist()
    users = [f"user {i // 3}" for i in range(60)]
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(3, 2)

        def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return {
        "model": transformers.GPT2LMHeadModel(config),
        "texts": datasets.Dataset.from_dict({"input_ids": texts, "labels": texts, "user": users}),
        "public_texts": datasets.Dataset.from_dict({"input_ids": texts[:4], "labels": texts[:4]}),
        "x": torch.randn(60, 3),
        "y": torch.arange(60) % 2,
        "users": users,
        "module": Module(),
    }


def test_every_example_runs(
    libraries: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert list(BLOCKS) == [
        "Hugging Face Trainer",
        "Adapters",
        "Accelerate",
        "Lightning",
        "Data sets on disk",
    ]
    found = dict(libraries)
    exec(BLOCKS["Hugging Face Trainer"], found)
    statement = capsys.readouterr().out
    assert "after 6 steps" in statement
    assert "user-level (epsilon = 8" in statement or "user-level (epsilon = 7.9" in statement
    assert (tmp_path / "out" / "checkpoint-6" / "private.pt").exists()
    assert (tmp_path / "out" / "model" / "model.safetensors").exists()
    exec(BLOCKS["Adapters"], found)
    assert found["trainer"].engine.ledger.steps == 6
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").exists()
    exec(BLOCKS["Accelerate"], found)
    assert found["engine"].ledger.steps == 5, "one pass is 1 / sampling_rate steps"
    exec(BLOCKS["Lightning"], found)
    assert "after 6 steps" in capsys.readouterr().out
    exec(BLOCKS["Data sets on disk"], found)
    assert found["partition"].num_buckets == 20
    assert set(next(iter(found["loader"]))) == {"input_ids", "labels"}
