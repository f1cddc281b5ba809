"""Modules of ``fully_shard``: parameters whole for the passes; sum, noise, optimizer state and update in shards."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard

_LIBRARY = "torch.distributed.fsdp"

_STATE = ("__composable_api_state_key", "_is_fsdp_managed_module", "_fsdp_use_orig_params")
"""Beginnings of the names of the attributes in which ``fully_shard`` keeps its state."""


def is_sharded(module: nn.Module) -> bool:
    """Return whether a parameter of the module is a DTensor, or a part of it is one of ``fully_shard``."""
    return any(isinstance(p, DTensor) for p in module.parameters()) or any(
        isinstance(layer, FSDPModule) for layer in module.modules()
    )


def check_sharding(module: nn.Module) -> None:
    """Reject a sharded module unless ``fully_shard`` has divided every parameter among all ranks, and nothing more.

    Raises:
        ValueError: the module is rejected; the message names the parameter or the layer.
    """
    if not is_sharded(module):
        return
    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, FSDPModule)]
    if not layers:
        name = next(name for name, p in module.named_parameters() if isinstance(p, DTensor))
        raise ValueError(
            f"parameter {name!r} of module is a DTensor, but no part of module is one of fully_shard: with tensor "
            "parallelism no rank has the whole gradient of a bucket, so it cannot be clipped. Shard the module by "
            "fully_shard only, or pass the plain module on every rank"
        )
    for name, layer in layers:
        policy = fully_shard.state(layer)._mp_policy  # type: ignore[attr-defined]
        if policy.param_dtype or policy.output_dtype or policy.reduce_dtype:
            raise ValueError(
                f"layer {name!r} of module is sharded with {policy}, which the engine does not follow; call "
                "fully_shard without mp_policy, and use torch.autocast in the loop"
            )
    world = list(range(dist.get_world_size()))
    for name, p in module.named_parameters():
        if not isinstance(p, DTensor):
            raise ValueError(
                f"parameter {name!r} of module is not sharded, and others are. Call fully_shard on the whole module "
                "after its parts; after a forward pass, call module.reshard() first"
            )
        mesh, placements = p.device_mesh, p.placements
        kinds = [(type(placement), getattr(placement, "dim", None)) for placement in placements]
        if kinds != [(Shard, 0)] or mesh.mesh.flatten().tolist() != world:
            raise ValueError(
                f"parameter {name!r} of module has placements {placements} on {mesh}, but it must be divided along "
                f"dimension 0 among all {len(world)} ranks: neither tensor parallelism, nor replicas (HSDP), nor a "
                "shard_placement_fn. Call fully_shard(module) without a mesh, or pass the plain module on every rank"
            )
        if p.to_local().device.type != mesh.device_type:
            raise ValueError(
                f"parameter {name!r} of module is kept on {p.to_local().device}, but computed on {mesh.device_type} "
                "(CPU offload), which is not supported; call fully_shard without offload_policy"
            )


def layout(module: nn.Module) -> dict[str, str]:
    """Return shape, type and placement of every parameter, for the ranks to compare; empty if none is sharded."""
    if not is_sharded(module):
        return {}
    return {
        f"tensor {name!r}": f"{tuple(p.shape)} {p.dtype} {getattr(p, 'placements', 'whole')}"
        for name, p in module.named_parameters()
    }


class Sharding:
    """The whole parameters of a module, and the shards that the optimizer updates.

    The engine takes the module out of FSDP's hands: its parameters become plain and whole on every rank, and FSDP's
    hooks and classes are removed. Gathering layer by layer would need the same number of forward passes on all ranks,
    but each rank has its own share of the buckets.

    Between two updates the whole parameters count, so a loop may change them as it may change those of a plain module.
    An update copies them into the shards, and gathers the shards afterwards.

    Args:
        module: the module, as :func:`check_sharding` accepts it; it is changed in place. All ranks must call.
    """

    @torch.no_grad()
    def __init__(self, module: nn.Module) -> None:
        # full_tensor() of a single process is no copy.
        self._whole: dict[Tensor, nn.Parameter] = {
            p: nn.Parameter(p.full_tensor().clone(), requires_grad=p.requires_grad)  # type: ignore[attr-defined]
            for p in module.parameters()
        }
        for layer in module.modules():
            for name, p in list(layer.named_parameters(recurse=False, remove_duplicate=False)):
                setattr(layer, name, self._whole[p])
            if isinstance(layer, nn.RNNBase):
                layer._update_flat_weights()  # it keeps a list of them
            _make_plain(layer)
        self._pairs: list[tuple[DTensor, nn.Parameter]] = []
        self._versions: list[int] = []

    def whole(self, sharded: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        """Return the module's parameters for those of the optimizer; these are updated from now on."""
        self._pairs = [(p, self._whole[p]) for p in sharded if isinstance(p, DTensor)]
        self._whole = {}  # the shards of frozen parameters are not needed any more
        self.end_update()
        return [whole for _, whole in self._pairs]

    def check(self) -> None:
        """Raise an error if the shards were changed since the last update, because the change would be lost.

        Raises:
            RuntimeError: they were.
        """
        if self._written() != self._versions:
            raise RuntimeError(
                "the optimizer's sharded parameters were changed between two steps, but the module's whole parameters "
                "count; change module.parameters() instead"
            )

    @torch.no_grad()
    def scatter(self) -> None:
        """Copy this rank's part of the whole parameters into its shards."""
        for p, whole in self._pairs:
            shard = p.to_local()
            rows = -(
                -len(whole) // p.device_mesh.size()
            )  # as torch.chunk divides; the last ranks may have fewer
            first = min(p.device_mesh.get_local_rank() * rows, len(whole))
            shard.copy_(whole.narrow(0, first, len(shard)))

    @torch.no_grad()
    def gather(self) -> None:
        """Copy the updated shards of all ranks into the whole parameters; all ranks must call."""
        for p, whole in self._pairs:
            whole.copy_(p.full_tensor())

    def end_update(self) -> None:
        """Expect the shards to stay as they are until the next update."""
        self._versions = self._written()

    def _written(self) -> list[int]:
        with torch.no_grad():
            return [p.to_local()._version for p, _ in self._pairs]


def _make_plain(layer: nn.Module) -> None:
    """Remove everything that ``fully_shard`` has added to a layer."""
    for name, value in list(vars(layer).items()):
        if name.endswith("_hooks") and isinstance(value, dict):
            for key in [key for key, hook in value.items() if _is_of_fsdp(getattr(hook, "hook", hook))]:
                del value[key]
        elif name.startswith(_STATE) or _is_of_fsdp(
            value
        ):  # the latter: a method of register_fsdp_forward_method
            delattr(layer, name)
    if isinstance(layer, FSDPModule):
        own: Any = next(kind for kind in type(layer).__mro__ if not issubclass(kind, FSDPModule))
        layer.__class__ = own


def _is_of_fsdp(function: object) -> bool:
    """Return whether a function is FSDP's, even one that has taken over the name of a function of the user."""
    function = getattr(function, "__func__", function)
    places = (getattr(function, "__module__", ""), getattr(function, "__globals__", {}).get("__name__", ""))
    return any(str(place).startswith(_LIBRARY) for place in places)
