"""Shards weights over the ranks that share a clip, for a network that is too large for one rank.

Each rank holds an equal part of every block. Blocks are gathered one at a time, each while the previous one computes.
The ranks of a group run the blocks at the same time, so groups need not wait for each other. If a group spans machines,
the ranks of each machine hold all weights together (hybrid), so that nothing is gathered over slow links.

FSDP2 does the same for any network, and copies every gathered weight once more out of a receive buffer. Here weights
are views of that buffer: a block's weights are flattened, and the flat tensor is what ranks share
(docs/decisions/0015-gathered-weights.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.checkpoint import ADVICE, converted, is_rope_frequency, refuse_mismatch, reset_buffers, with_current_names
from common.distributed.collectives import Group, all_gather
from common.distributed.process import Process
from common.logger import get_logger
from common.weights.stored import StoredWeight, dense

logger = get_logger(__name__)

ALIGNMENT = 64  # elements: weights begin at multiples of it in the flat tensor, for kernels that load 16 bytes at once


@torch.inference_mode(False)  # parameters cannot become views of inference tensors
def load_sharded(
    module: nn.Module,
    units: Sequence[nn.Module],
    state: Mapping[str, Tensor | StoredWeight],
    group: Group,
    *,
    dtype: torch.dtype,
    source: str | Path = "the checkpoint",
) -> None:
    """Load every rank's part of the weights of a network that was built on the meta device, for inference.

    Every rank of the job must call this. No rank ever holds more than its part and one tensor of the file. Weights
    outside of the units are few, and whole on every rank. The network's calls gather those of the units.

    Args:
        units: the submodules that are gathered one at a time, in the order of their calls: the blocks.
        state: name -> whole tensor, memory-mapped (`common.weights.read.read_weights`); a rank reads only its part.
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
    reset_buffers(module, device)
    sharing = SharingRanks.of(group)
    prefix_of = {submodule: name for name, submodule in module.named_modules()}
    flat = [FlatWeights.of(prefix_of[unit], unit, sharing.size) for unit in units]
    shards = [weights.shard(state, sharing, dtype) for weights in flat]
    # Rotary frequencies are computed by formula, in float32.
    local = {name: tensor.to(device) for name, tensor in module.state_dict().items() if is_rope_frequency(name)}
    for weights, shard in zip(flat, shards, strict=True):
        local |= {name: without_values(shape, shard) for name, shape, _ in weights.places}
    outside = {name: converted(state[name], dtype, device) for name in module.state_dict() if name not in local}
    local |= outside
    module.load_state_dict(local, strict=True, assign=True)
    held = sum(shard.nbytes for shard in shards) + sum(tensor.nbytes for tensor in outside.values())
    logger.info("weights over %d ranks: %.2f GiB on each", sharing.size, held / 2**30)
    ShardedUnits(units, flat, shards, sharing).gather_in_calls_of(module)


@dataclass(frozen=True)
class SharingRanks:
    """The ranks that together hold one copy of the weights.

    handle: their process group.
    size, rank: their number, and the number of this one among them.
    group: the ranks that share a clip, which these are a part of.
    """

    handle: dist.ProcessGroup
    size: int
    rank: int
    group: Group

    @staticmethod
    def of(group: Group) -> "SharingRanks":
        """Those of this group on this machine. Every rank of the job must call it."""
        process = group.process
        size = ranks_that_share(process, group.size)
        if size > process.local_world > 1:
            logger.warning(
                "groups of %d do not end with machines of %d: weights are gathered between machines",
                group.size, process.local_world,
            )  # fmt: skip
        handle: dist.ProcessGroup | None = None
        for first in range(0, process.world, size):
            made = dist.new_group(list(range(first, first + size)))
            handle = made if first <= process.rank < first + size else handle
        assert handle is not None, "every rank is in one group"
        return SharingRanks(handle, size, process.rank % size, group)


@dataclass(frozen=True)
class FlatWeights:
    """The weights of one unit, flattened one after the other into one tensor, which ranks share in equal parts.

    places: (name, shape, first element) of every weight, in the order of `unit.parameters()`.
    total: number of elements, a multiple of the number of ranks.
    """

    places: tuple[tuple[str, torch.Size, int], ...]
    total: int

    @staticmethod
    def of(prefix: str, unit: nn.Module, ranks: int) -> "FlatWeights":
        """`prefix`: the unit's name in the network."""
        places, end = [], 0
        for name, parameter in unit.named_parameters(prefix):
            places.append((name, parameter.shape, end))
            end += _up(parameter.numel(), ALIGNMENT)
        return FlatWeights(tuple(places), _up(end, ranks * ALIGNMENT))

    def shard(self, state: Mapping[str, Tensor | StoredWeight], sharing: SharingRanks, dtype: torch.dtype) -> Tensor:
        """Read this rank's part [total / ranks]."""
        length = self.total // sharing.size
        first = sharing.rank * length
        device = sharing.group.process.device
        shard = torch.zeros(length, dtype=dtype, device=device)
        for name, shape, start in self.places:
            begin, end = max(start, first), min(start + shape.numel(), first + length)
            if begin < end:
                piece = dense(state[name]).flatten()[begin - start : end - start]
                shard[begin - first : end - first] = converted(piece, dtype, device)
        return shard


class ShardedUnits:
    """Gathers the weights of a unit before it computes, and of the next one meanwhile, into two buffers in turn.

    The buffers exist from the call of the first unit to the end of the network's. Otherwise parameters have no values.
    """

    def __init__(
        self, units: Sequence[nn.Module], flat: Sequence[FlatWeights], shards: Sequence[Tensor], sharing: SharingRanks
    ) -> None:
        self._units, self._flat, self._shards, self._sharing = units, flat, shards, sharing
        self._parameters = [tuple(unit.parameters()) for unit in units]  # each call would look for them again
        self._released = [
            [without_values(parameter.shape, shard) for parameter in parameters]
            for parameters, shard in zip(self._parameters, shards, strict=True)
        ]
        self._buffers: list[Tensor] = []
        self._gathering: Any = None  # the gathering of the unit that is called next

    def gather_in_calls_of(self, network: nn.Module) -> None:
        """From now on every call of the network gathers the units' weights, and releases them also after an error."""
        for number, unit in enumerate(self._units):
            unit.register_forward_pre_hook(lambda *_, number=number: self._before(number))
        network.register_forward_hook(lambda *_: self._release(), always_call=True)

    def _before(self, number: int) -> None:
        """Make the weights of a unit ready, and begin to gather those of the next one."""
        if number == 0:
            most = max(flat.total for flat in self._flat)
            with torch.inference_mode(False):  # parameters cannot become views of inference tensors
                self._buffers = [self._shards[0].new_empty(most) for _ in range(2)]
            self._gathering = self._gather(0)
        self._wait()
        buffer, places = self._buffers[number % 2], self._flat[number].places
        for parameter, (_, shape, start) in zip(self._parameters[number], places, strict=True):
            parameter.data = buffer[start : start + shape.numel()].view(shape)
        # What is queued by now ends with the unit before this one, which used the other buffer.
        self._gathering = self._gather(number + 1) if number + 1 < len(self._units) else None

    def _gather(self, number: int) -> Any:
        """Begin to gather a unit's weights; the work starts when everything is done that is queued on the device."""
        buffer, shard = self._buffers[number % 2], self._shards[number]
        return all_gather(buffer[: self._flat[number].total], shard, self._sharing.handle, async_op=True)

    def _wait(self) -> None:
        with self._sharing.group.waiting("weights"):
            self._gathering.wait()

    def _release(self) -> None:
        if self._gathering is not None:
            self._wait()
        for parameters, released in zip(self._parameters, self._released, strict=True) if self._buffers else ():
            for parameter, without in zip(parameters, released, strict=True):
                parameter.data = without
        self._buffers, self._gathering = [], None


def without_values(shape: torch.Size, like: Tensor) -> Tensor:
    """A tensor of a shape in the memory of one element of `like`, for a parameter that is not there."""
    return like[:1].expand(shape)


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def ranks_that_share(process: Process, group_size: int) -> int:
    """The number of consecutive ranks that together hold one copy of the weights: those of a machine, if groups end
    with machines."""
    local = process.local_world
    return local if local > 1 and group_size > local and group_size % local == 0 else group_size
