"""The networks of the table in plain JAX: a function of weights, named as in PyTorch, and inputs (n, ...).

Logits have the classes last. Convolutions are computed with the channels last, which XLA prefers on a CPU.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def head(weights: Any, x: Any) -> Any:
    """A linear layer."""
    return _linear(weights, "0", x)


def cnn(weights: Any, x: Any) -> Any:
    """`dpmi.models.classifiers.cnn` for images (n, 1, 28, 28)."""
    x = x.transpose(0, 2, 3, 1)
    x = _pool(jax.nn.relu(_convolution(weights, "0", x, padding=3)))
    x = _pool(jax.nn.relu(_convolution(weights, "3", x, padding=0)))
    x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
    return _linear(weights, "9", jax.nn.relu(_linear(weights, "7", x)))


def gpt(weights: Any, x: Any, *, heads: int = 4) -> Any:
    """`benchmarks.peers.gpt.Gpt` for words (n, length)."""
    x = weights["words.weight"][x] + weights["positions.weight"][: x.shape[1]]
    layers = sum(name.endswith("norm1.weight") for name in weights)
    for layer in range(layers):
        block = f"blocks.{layer}."
        parts = _linear(weights, block + "attention", _norm(weights, block + "norm1", x))
        query, key, value = jnp.moveaxis(parts.reshape(*x.shape[:2], 3, heads, -1), 2, 0)
        seen = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        x = x + _linear(weights, block + "out", seen.reshape(x.shape))
        dense = jax.nn.gelu(_linear(weights, block + "up", _norm(weights, block + "norm2", x)))
        x = x + _linear(weights, block + "down", dense)
    return _norm(weights, "norm", x) @ weights["words.weight"].T


NETWORKS = {"head": head, "cnn": cnn, "gpt": gpt}


def _linear(weights: Any, name: str, x: Any) -> Any:
    return x @ weights[name + ".weight"].T + weights[name + ".bias"]


def _convolution(weights: Any, name: str, x: Any, *, padding: int) -> Any:
    out = lax.conv_general_dilated(
        x,
        weights[name + ".weight"].transpose(2, 3, 1, 0),
        window_strides=(2, 2),
        padding=[(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return out + weights[name + ".bias"]


def _pool(x: Any) -> Any:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "VALID")


def _norm(weights: Any, name: str, x: Any) -> Any:
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + 1e-5) * weights[name + ".weight"] + weights[name + ".bias"]
