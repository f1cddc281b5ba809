"""A study of seconds: softmax regression on the digits, attacks of a few iterations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import pandas as pd
import pytest

from dpmi.study import Failure, Job, Machines, Results, Store, Trial, gather, parse, prepare, run

TINY = """
name = "tiny"
seeds = [0, 1]
model = "softmax"

[data]
name = "digits"

[training]
steps = 20
learning_rate = 0.5

[[defenses]]
name = "none"

[[defenses]]
name = "class-dp"
noise_multiplier = [0.5, 1.0]
sampling_rate = 0.3
max_grad_norm = 1.0

[[attacks]]
name = "enhanced"
iterations = 5
"""

#: With an evaluator, and an attack that learns from public images.
JUDGED = """
name = "judged"
seeds = [0, 1]
model = "softmax"

[data]
name = "digits"

[training]
steps = 100
learning_rate = 0.5

[evaluator]
model = "cnn-small"
classes = "private"
training = { steps = 150, learning_rate = 0.05 }

[[defenses]]
name = "none"

[[attacks]]
name = "enhanced"
iterations = 30

[[attacks]]
name = "gmi"
iterations = 10
restarts = 1
images_per_class = 5
prior = { steps = 20, batch_size = 16, latent_size = 8 }
"""


def run_study(
    text: str, root: Path, *, workers: int = 1, failures: list[Failure] | None = None
) -> tuple[Store, Results]:
    """Run it, as the command line does; every failure must be one that was asked for."""
    spec = parse(text)
    store = Store.create(root, text)
    found = run(spec, store, machines=Machines(workers=workers))
    if failures is None:
        assert found == []
    else:
        failures += found
    return store, gather(spec, store)


def jobs_of(text: str) -> tuple[Job, ...]:
    """The jobs of a study, with keys."""
    spec = parse(text)
    return spec.jobs_on(prepare(spec))


def trials_of(text: str) -> tuple[Trial, ...]:
    """The trials of a study, with keys."""
    return tuple(trial for job in jobs_of(text) for trial in job.trials)


def count_calls(monkeypatch: pytest.MonkeyPatch, module: ModuleType, *names: str) -> dict[str, int]:
    """How often functions of a module are called in this process from now on, by name without leading underscores."""
    counts = {name.lstrip("_"): 0 for name in names}

    def counted(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            counts[name.lstrip("_")] += 1
            return function(*args, **kwargs)

        return call

    for name in names:
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    return counts


def comparable(table: pd.DataFrame) -> pd.DataFrame:
    """All columns that do not depend on the clock."""
    return table[[c for c in table if not str(c).endswith("_seconds")]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a Ray cluster of two nodes with one worker each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    # Sockets need a short path. No other cluster on this machine is seen from there, or sees this one.
    with TemporaryDirectory(prefix="ray", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "2")  # it is the study that must see to one thread
        node = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 2**20}
        nodes = Cluster(initialize_head=True, head_node_args=node)
        nodes.add_node(**node)
        yield nodes.address
        nodes.shutdown()
