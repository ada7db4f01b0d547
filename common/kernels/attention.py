"""Attention over many short sequences packed one after another, with one entry point and three backends.

Nothing is ever padded and nothing is masked: sequences of one length form a group, and a group is one dense call.
"""

import importlib.util
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from common.kernels.cached_choice import cached_choice
from common.kernels.transfer import to_device
from common.logger import get_logger

logger = get_logger(__name__)

Backend = Literal["sdpa", "flash_attn", "torch_varlen"]


@dataclass(frozen=True)
class Sequences:
    """Where sequences lie in a packed tensor.

    groups: (count, length) of runs of equally long sequences, in order.
    boundaries: int32 [number of sequences + 1], first row of each sequence and the end.
    """

    groups: tuple[tuple[int, int], ...]
    boundaries: Tensor

    @staticmethod
    def from_groups(groups: list[tuple[int, int]], device: torch.device | str) -> "Sequences":
        lengths = torch.tensor([0] + [length for count, length in groups for _ in range(count)])
        return Sequences(tuple(groups), to_device(lengths.cumsum(0).to(torch.int32), device))

    @property
    def longest(self) -> int:
        return max(length for _, length in self.groups)


def attention(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences) -> Tensor:
    """softmax(q k^T / sqrt(D)) v within each sequence, by the fastest backend that this machine has.

    Args:
        q, k, v: [rows, H, D], sequences one after another as `sequences` says.
    Returns:
        [rows, H, D]
    """
    if not sequences.groups:
        return q  # no rows
    backend = fastest_backend(q.device.type, q.dtype, q.device.index)
    if backend == "sdpa":
        return _sdpa(q, k, v, sequences)
    bounds, longest = sequences.boundaries, sequences.longest
    if backend == "flash_attn":
        from flash_attn import flash_attn_varlen_func

        return flash_attn_varlen_func(q, k, v, bounds, bounds, longest, longest)
    from torch.nn.attention.varlen import varlen_attn

    out = varlen_attn(q, k, v, bounds, bounds, longest, longest)
    assert isinstance(out, Tensor)  # with what else it may return only where asked
    return out


def _sdpa(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences) -> Tensor:
    """The reference: a dense call for each run of equally long sequences."""
    outputs, rows = [], [count * length for count, length in sequences.groups]
    # `split`, as the gradient of a slice is as large as the whole, with zeros around it, and all of them are added up.
    for (count, length), *run in zip(sequences.groups, *(x.split(rows) for x in (q, k, v)), strict=True):
        dense = [x.unflatten(0, (count, length)).transpose(1, 2) for x in run]  # count H length D
        outputs.append(F.scaled_dot_product_attention(*dense).transpose(1, 2).flatten(0, 1))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


@cached_choice
def fastest_backend(device_type: str, dtype: torch.dtype, index: int | None = None) -> Backend:
    """The backend for a device and dtype; chosen and logged once.

    cuDNN's attention behind SDPA beats FlashAttention-2 by 1.6 times on Hopper (see docs/performance.md); older CUDA
    devices do without it, and there one ragged call of FlashAttention-2 is faster than a dense call a group.
    """
    backend: Backend = "sdpa"
    half = dtype in (torch.float16, torch.bfloat16)
    if device_type == "cuda" and half and (8, 0) <= torch.cuda.get_device_capability(index) < (9, 0):
        if importlib.util.find_spec("flash_attn") is not None:
            backend = "flash_attn"
        elif importlib.util.find_spec("torch.nn.attention.varlen") is not None and torch.version.hip is None:
            backend = "torch_varlen"
    logger.debug("attention on %s in %s: %s", device_type, dtype, backend)
    return backend
