"""The step by pfl-research's simulation: one local step per user, clipped, averaged, and a central step.

A local step of rate 1 on all records of a user gives the user's mean gradient. Runs in an environment of its own.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByUser
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel
from pfl.privacy.privacy_mechanism import CentrallyAppliedPrivacyMechanism, NormClippingOnly
from torch import Tensor, nn
from torch.nn import functional as F

from .protocol import Arrays, Step, serve


def make(
    settings: dict[str, Any], folder: Path, data: Arrays, _weights: Arrays
) -> tuple[Step, Callable[[], Arrays]]:
    """Make the simulation of users with the records from ``start[i]`` to ``start[i + 1]``."""
    # The process that started this one has just written the file, with a whole module in it.
    module: nn.Module = torch.load(folder / "model.pt", weights_only=False)
    module.loss = types.MethodType(_loss, module)  # type: ignore[assignment]
    # The first iteration evaluates every user; nothing is evaluated here.
    module.metrics = lambda *_: {"records": Weighted(0.0, 1.0)}  # type: ignore[assignment]
    inputs, targets, start = (torch.as_tensor(data[name]) for name in ("inputs", "targets", "start"))
    users = len(start) - 1
    datasets = [
        PyTorchTensorDataset((inputs[start[i] : start[i + 1]], targets[start[i] : start[i + 1]]), str(i))
        for i in range(users)
    ]
    federated = FederatedDataset(datasets.__getitem__, get_user_sampler("minimize_reuse", list(range(users))))
    clipping = CentrallyAppliedPrivacyMechanism(NormClippingOnly(2.0, settings["max_grad_norm"]))
    backend = SimulatedBackend(federated, federated, [WeightByUser(), clipping])
    model = PyTorchModel(
        module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=settings["learning_rate"])
    )
    local = NNTrainHyperParams(local_num_epochs=1, local_learning_rate=1.0, local_batch_size=None)
    algorithm = FederatedAveraging()
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        central = NNAlgorithmParams(
            central_num_iterations=steps,
            evaluation_frequency=2**30,
            train_cohort_size=users,
            val_cohort_size=0,
        )
        algorithm.run(central, backend, model, local, send_metrics_to_platform=False)

    return step, lambda: {name: p.detach().numpy() for name, p in module.named_parameters()}


def _loss(self: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(self(x), y)


if __name__ == "__main__":
    serve(make)
