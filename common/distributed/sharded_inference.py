"""Shards weights over the ranks that share a clip (FSDP2), for a network that is too large for one rank.

Each rank holds a shard of every block. Blocks are gathered one at a time, each while the previous one computes. The
ranks of a group run the blocks at the same time, so groups need not wait for each other. If a group spans machines, the
ranks of each machine hold all weights together (hybrid), so that nothing is gathered over slow links.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard

from common.checkpoint import ADVICE, converted, is_rope_frequency, refuse_mismatch, reset_buffers, with_current_names
from common.distributed.collectives import Group
from common.distributed.process import Process
from common.logger import get_logger
from common.weights.stored import StoredWeight, dense

logger = get_logger(__name__)


def load_sharded(
    module: nn.Module,
    units: Sequence[nn.Module],
    state: Mapping[str, Tensor | StoredWeight],
    group: Group,
    *,
    dtype: torch.dtype,
    source: str | Path = "the checkpoint",
) -> None:
    """Shard a network that was built on the meta device, and load every rank's shard of the weights, for inference.

    Every rank of the job must call this. No rank ever holds more than its shard and one tensor of the file.

    Args:
        units: the submodules that are gathered one at a time, in the order of their calls: the blocks.
        state: name -> whole tensor, memory-mapped (`common.weights.read.read_weights`); a rank reads only its rows.
        group: the ranks that share a clip.
        dtype: dtype of the loaded weights.
        source: name of the checkpoint, for error messages.
    Raises:
        ValueError: names or shapes do not fit, or the group has one rank.
    """
    if group.size == 1:
        raise ValueError("weights are sharded over the ranks that share a clip: use --sp_size 2 or more")
    state, device = with_current_names(state), group.process.device
    refuse_mismatch(module, state, source, ADVICE)
    module.requires_grad_(False).to(dtype)
    mesh = local_mesh(group)
    for unit in units:
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)
    fully_shard(module, mesh=mesh, reshard_after_forward=True)
    reset_buffers(module, device)
    local_state = {}
    for name, parameter in module.state_dict().items():
        if is_rope_frequency(name):  # computed by formula, in float32
            local_state[name] = parameter.to(device)
        elif isinstance(parameter, DTensor):
            local_state[name] = local_shard(state[name], parameter, dtype, device)
        else:
            local_state[name] = converted(state[name], dtype, device)
    module.load_state_dict(local_state, strict=True, assign=True)
    for unit, following in pairwise(units):
        assert isinstance(unit, FSDPModule) and isinstance(following, FSDPModule)  # since `fully_shard`
        unit.set_modules_to_forward_prefetch([following])
    held = sum(_held_bytes(parameter) for parameter in module.parameters())
    logger.info("weights over %d ranks: %.2f GiB on each", mesh.size(), held / 2**30)


def local_shard(whole: Tensor | StoredWeight, form: DTensor, dtype: torch.dtype, device: torch.device) -> DTensor:
    """This rank's rows of a tensor, on the device, as a DTensor like `form`."""
    rows = dense(whole).chunk(form.device_mesh.size(), dim=0)  # as in FSDP2: equal chunks, the last shorter or empty
    rank = form.device_mesh.get_local_rank()
    local = rows[rank] if rank < len(rows) else rows[0][:0]
    local = converted(local.clone(), dtype, device).contiguous()
    return DTensor.from_local(local, form.device_mesh, [Shard(0)], shape=form.shape, stride=form.stride())


def local_mesh(group: Group) -> DeviceMesh:
    """The mesh of the ranks that share weights: those of this group on this machine. Every rank must call it."""
    process = group.process
    size = ranks_that_share(process, group.size)
    handle: dist.ProcessGroup | None = None
    for first in range(0, process.world, size):
        made = dist.new_group(list(range(first, first + size)))
        handle = made if first <= process.rank < first + size else handle
    assert handle is not None, "every rank is in one group"
    return DeviceMesh.from_group(handle, process.device.type)


def ranks_that_share(process: Process, group_size: int) -> int:
    """The number of consecutive ranks that together hold one copy of the weights."""
    local = process.local_world
    if local > 1 and group_size > local and group_size % local == 0:
        return local
    if group_size > local > 1:
        logger.warning(
            "groups of %d do not end with machines of %d: weights are gathered between machines", group_size, local
        )
    return group_size


def _held_bytes(parameter: Tensor) -> int:
    local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    return local.numel() * local.element_size()
