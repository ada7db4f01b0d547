"""Attention over many short sequences in one packed tensor, with one entry point and three backends.

No backend pads or masks. FlashAttention and torch's varlen kernel read the boundaries of sequences; SDPA makes one
dense call per run of equally long sequences.
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
    """The positions of sequences in a packed tensor.

    groups: (count, length) of each run of equally long sequences, in order.
    boundaries: int32 [number of sequences + 1], first row of each sequence, then the number of rows.
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
    """softmax(q k^T / sqrt(D)) v within each sequence, with the backend of `fastest_backend`.

    Args:
        q, k, v: [rows, H, D], any float dtype.
        sequences: the positions of the sequences in these rows.
    Returns:
        [rows, H, D] in the dtype of q.
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
    assert isinstance(out, Tensor)  # it returns a tuple only if more results are requested
    return out


def _sdpa(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences) -> Tensor:
    """The reference: one dense call per run of equally long sequences."""
    outputs, rows = [], [count * length for count, length in sequences.groups]
    # `split`, because the gradient of a slice has the size of the whole tensor, and all of them would be summed.
    for (count, length), *run in zip(sequences.groups, *(x.split(rows) for x in (q, k, v)), strict=True):
        dense = [x.unflatten(0, (count, length)).transpose(1, 2) for x in run]  # count H length D
        outputs.append(F.scaled_dot_product_attention(*dense).transpose(1, 2).flatten(0, 1))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


@cached_choice
def fastest_backend(device_type: str, dtype: torch.dtype, index: int | None = None) -> Backend:
    """The fastest backend for a device and dtype; chosen and logged once per argument.

    On Hopper, SDPA uses cuDNN's attention, 1.6 times as fast as FlashAttention-2 (docs/performance.md). On older CUDA
    devices it does not, and one call of FlashAttention-2 over all sequences is faster than one dense call per run.
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
