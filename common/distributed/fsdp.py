"""Distributes networks over ranks in training: sharded with FSDP2, or whole on every rank with averaged gradients.

| `dit.fsdp.sharding_strategy` | parameters are sharded over | between forward and backward |
| --- | --- | --- |
| NO_SHARD | nothing | - |
| FULL_SHARD | all ranks | resharded |
| SHARD_GRAD_OP | all ranks | stay gathered |
| HYBRID_SHARD | the ranks of a host, replicated between hosts | resharded |
| _HYBRID_SHARD_ZERO2 | the ranks of a host, replicated between hosts | stay gathered |
"""

import os
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from common.checkpoint import reset_buffers
from common.logger import get_logger
from common.weights.stored import StoredWeight, dense

logger = get_logger(__name__)

STRATEGIES = {  # name -> (sharded, hybrid, resharded after forward)
    "NO_SHARD": (False, False, False),
    "FULL_SHARD": (True, False, True),
    "SHARD_GRAD_OP": (True, False, False),
    "HYBRID_SHARD": (True, True, True),
    "_HYBRID_SHARD_ZERO2": (True, True, False),
}
BUCKET = 2**26  # number of elements that are averaged in one call


def rank() -> int:
    """The number of this process in the job; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes in the job; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized():
        dist.barrier()


def any_rank(flag: bool, device: torch.device | str) -> bool:
    """Whether the flag is set on any rank. Every rank must call it."""
    if world_size() == 1:
        return flag
    value = torch.tensor(int(flag), device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())


def min_over_ranks(value: int, device: torch.device | str) -> int:
    """The smallest value over all ranks. Every rank must call it."""
    if world_size() == 1:
        return value
    least = torch.tensor(value, device=device)
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    return int(least.item())


def max_over_ranks(values: Tensor) -> Tensor:
    """The elementwise maximum of a plain tensor over all ranks. Every rank must call it."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values, op=dist.ReduceOp.MAX)
    return values


def mean_over_ranks(values: Tensor) -> Tensor:
    """The elementwise mean of a plain tensor over all ranks. Every rank must call it."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
        values /= world_size()
    return values


def training_mesh(strategy: str, device_type: str) -> DeviceMesh | None:
    """The device mesh of a sharding strategy; None if it does not shard.

    Hybrid strategies read the number of ranks per host from LOCAL_WORLD_SIZE, which torchrun sets.

    Raises:
        ValueError: the strategy is unknown, or hosts have different numbers of ranks.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"sharding_strategy={strategy!r} is unknown; choose from {', '.join(STRATEGIES)}")
    sharded, hybrid, _ = STRATEGIES[strategy]
    if not sharded or not dist.is_initialized():
        return None
    world = dist.get_world_size()
    if not hybrid:
        return init_device_mesh(device_type, (world,), mesh_dim_names=("shard",))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    if world % local:
        raise ValueError(f"{world} ranks on hosts of {local}: hybrid sharding needs equally many on every host")
    return init_device_mesh(device_type, (world // local, local), mesh_dim_names=("replicate", "shard"))


def shard(
    module: nn.Module,
    units: Sequence[nn.Module],
    strategy: str,
    mesh: DeviceMesh | None,
    *,
    bf16: bool,
    entry_points: Sequence[str] = (),
) -> None:
    """Shard a module in place: each unit separately, and the rest as one unit. Without a mesh nothing happens.

    Args:
        units: the submodules that are gathered one at a time, usually the blocks.
        strategy: a key of `STRATEGIES`.
        mesh: the mesh from `training_mesh`.
        bf16: gather weights and compute in bfloat16; sharded weights and the reduction of gradients stay float32.
        entry_points: methods apart from `forward` that use the weights.
    """
    if mesh is None:
        return
    _, _, reshard_after_forward = STRATEGIES[strategy]
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,  # times and rotary tables must stay float32; autocast casts the rest
    )
    for unit in units:
        fully_shard(unit, mesh=mesh, reshard_after_forward=reshard_after_forward, mp_policy=policy)
    fully_shard(module, mesh=mesh, reshard_after_forward=reshard_after_forward, mp_policy=policy)
    for method in entry_points:
        register_fsdp_forward_method(module, method)


def place(
    module: nn.Module, device: torch.device | str, state: Mapping[str, Tensor | StoredWeight] | None = None
) -> None:
    """Move a (sharded) module to its device. A module built on the meta device takes its values from `state`.

    Args:
        state: name -> whole tensor on the CPU, memory-mapped if large; each rank copies only its shard.
    """
    if state is None:
        module.to(device)
        return
    reset_buffers(module, device)
    filled = {}
    for name, parameter in module.state_dict().items():
        if name.endswith("rope.freqs"):  # computed by formula, in float32
            filled[name] = parameter.to(device)
        elif isinstance(parameter, DTensor):
            # Without a source rank, every rank slices its shard from its own mapping, and nothing is sent.
            whole = dense(state[name]).to(parameter.dtype)
            filled[name] = distribute_tensor(
                whole.to(device), parameter.device_mesh, parameter.placements, src_data_rank=None
            )
        else:
            filled[name] = dense(state[name]).to(device=device, dtype=parameter.dtype, copy=True)
    module.load_state_dict(filled, strict=True, assign=True)


def same_on_all_ranks(module: nn.Module) -> None:
    """Broadcast parameters and buffers that are not sharded from rank 0."""
    if world_size() == 1:
        return
    for tensor in [*module.parameters(), *module.buffers()]:
        if not isinstance(tensor, DTensor):
            dist.broadcast(tensor.detach(), 0)


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP has sharded this module."""
    return isinstance(module, FSDPModule)


def reshard(module: nn.Module) -> None:
    """Free weights that forward passes without a backward pass left gathered. Call it before weights change."""
    for submodule in module.modules() if is_sharded(module) else ():
        if isinstance(submodule, FSDPModule):
            submodule.reshard()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients over all ranks, in place, for parameters that are whole on every rank."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
    bucket: list[Tensor] = []
    for i, gradient in enumerate(gradients):
        bucket.append(gradient)
        if i + 1 == len(gradients) or sum(g.numel() for g in bucket) >= BUCKET:
            flat = torch.cat([g.flatten().float() for g in bucket])
            dist.all_reduce(flat)
            flat /= world_size()
            reduced = flat.split([g.numel() for g in bucket])
            for g, values in zip(bucket, reduced, strict=True):
                g.copy_(values.view_as(g))
            bucket = []


def local_tensors(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This rank's shard of each tensor, as plain tensors that share its memory, for fused operations."""
    return [t.to_local() if isinstance(t, DTensor) else t for t in tensors]


def gather_full(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor (every rank must call it); return a plain tensor unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def full_state(module: nn.Module, replaced: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Gather the full state dict on rank 0's CPU, tensor by tensor; empty on other ranks. Every rank must call it.

    Args:
        replaced: tensors that replace the module's, by name, such as averaged weights.
    """
    state = {}
    for name, tensor in module.state_dict().items():
        tensor = gather_full((replaced or {}).get(name, tensor))
        if rank() == 0:
            state[name] = tensor.detach().cpu().clone()
    return state
