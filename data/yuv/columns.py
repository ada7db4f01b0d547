"""Splits columns by phase (even and odd) into tensors, and merges them, without a strided pass over 8-bit samples.

Two neighbours in u8 are one 16-bit word, four are a 32-bit one. All machines on which torch runs are little-endian: the
first one is in the lowest bits.
"""

import torch
from torch import Tensor

WORDS = {2: torch.int16, 4: torch.int32}


def split(samples: Tensor, ratio: int) -> list[Tensor]:
    """[..., ratio * w] -> ratio tensors int32 [..., w]: columns p, p + ratio, ... each.

    Args:
        samples: u8, or int32.
    """
    if ratio == 1:
        return [samples.to(torch.int32)]
    if samples.dtype != torch.uint8:
        return [samples[..., phase::ratio].to(torch.int32) for phase in range(ratio)]
    if not _fits(samples, ratio):
        samples = samples.contiguous()
    words = samples.view(WORDS[ratio]).to(torch.int32)
    columns = [words & 255]
    for phase in range(1, ratio):
        columns.append((words >> 8 * phase).bitwise_and_(255))
    return columns


def merge(columns: list[Tensor], out: Tensor) -> None:
    """The inverse, written to `out`: u8 [..., W] from int32 [..., w] in 0..255; columns beyond W are left out."""
    ratio, width = len(columns), out.shape[-1]
    if ratio == 1:
        out.copy_(columns[0][..., :width])
        return
    words = columns[0].add(columns[1], alpha=256)
    for phase in range(2, ratio):
        words.add_(columns[phase], alpha=256**phase)  # the fourth byte takes the sign, as the word has it
    if width % ratio == 0 and _fits(out, ratio):
        out.view(WORDS[ratio]).copy_(words)
    else:
        out.copy_(words.to(WORDS[ratio]).contiguous().view(torch.uint8)[..., :width])


def _fits(samples: Tensor, ratio: int) -> bool:
    """Whether rows of bytes can be viewed as rows of words."""
    steps = [step for step, size in zip(samples.stride()[:-1], samples.shape[:-1], strict=True) if size > 1]
    return samples.stride(-1) == 1 and all(n % ratio == 0 for n in (*steps, samples.storage_offset()))
