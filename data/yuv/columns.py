"""Splits columns by phase (even and odd, for instance) into tensors, and merges them, without strided access to bytes.

Two neighbouring u8 samples are read as one 16-bit word, four as one 32-bit word. This assumes a little-endian machine,
where the first sample is in the lowest bits.
"""

import torch
from torch import Tensor

WORDS = {2: torch.int16, 4: torch.int32}


def split(samples: Tensor, ratio: int) -> list[Tensor]:
    """Split columns by phase.

    Args:
        samples: [..., ratio * w], u8 or int32.
        ratio: 1, 2 or 4.

    Returns:
        `ratio` tensors int32 [..., w]; tensor p has the columns p, p + ratio, ...
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
    """The inverse of `split`, written to `out`.

    Args:
        columns: 1, 2 or 4 tensors int32 [..., w] with values in 0..255.
        out: u8 [..., W]; columns beyond W are left out.
    """
    ratio, width = len(columns), out.shape[-1]
    if ratio == 1:
        out.copy_(columns[0][..., :width])
        return
    words = columns[0].add(columns[1], alpha=256)
    for phase in range(2, ratio):
        words.add_(columns[phase], alpha=256**phase)  # a large fourth byte overflows into the sign bit, as intended
    if width % ratio == 0 and _fits(out, ratio):
        out.view(WORDS[ratio]).copy_(words)
    else:
        out.copy_(words.to(WORDS[ratio]).contiguous().view(torch.uint8)[..., :width])


def _fits(samples: Tensor, ratio: int) -> bool:
    """Whether rows of bytes can be viewed as rows of words: they are contiguous, and all offsets are multiples."""
    steps = [step for step, size in zip(samples.stride()[:-1], samples.shape[:-1], strict=True) if size > 1]
    return samples.stride(-1) == 1 and all(n % ratio == 0 for n in (*steps, samples.storage_offset()))
