"""The step by jax_privacy's ``clipped_grad`` over padded users; runs in an environment of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax_privacy.clipping import clipped_grad

from .jax_networks import NETWORKS
from .protocol import Arrays, Step, serve


def make(
    settings: dict[str, Any], _folder: Path, data: Arrays, weights: Arrays
) -> tuple[Step, Callable[[], Arrays]]:
    """Compile the step for padded inputs (K, L, ...), targets (K, L, ...) and a mask (K, L)."""
    network = NETWORKS[settings["network"]]
    records = [jnp.asarray(data[name]) for name in ("inputs", "targets", "mask")]
    parameters = {name: jnp.asarray(value) for name, value in weights.items()}

    def loss(parameters: Any, inputs: Any, targets: Any, mask: Any) -> Any:
        logits = jax.nn.log_softmax(network(parameters, inputs))
        losses = -jnp.take_along_axis(logits, targets[..., None], axis=-1)
        each = losses.reshape(len(mask), -1).mean(axis=1)
        return jnp.sum(each * mask) / jnp.sum(mask)

    gradient = clipped_grad(
        loss,
        l2_clip_norm=settings["max_grad_norm"],
        batch_argnums=(1, 2, 3),
        keep_batch_dim=False,
        normalize_by=len(records[0]),
        microbatch_size=settings["users_at_once"],
    )

    def updated(parameters: Any, *records: Any) -> Any:
        change = gradient(parameters, *records)
        return jax.tree.map(lambda p, g: p - settings["learning_rate"] * g, parameters, change)

    compiled = jax.jit(updated, donate_argnums=0).lower(parameters, *records).compile()

    def step() -> None:
        nonlocal parameters
        parameters = jax.block_until_ready(compiled(parameters, *records))

    return step, lambda: {name: np.asarray(value) for name, value in parameters.items()}


if __name__ == "__main__":
    serve(make)
