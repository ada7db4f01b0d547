"""The elementwise passes of the video VAE on channels-last activations: GroupNorm of frames with SiLU, bias, residual.

One entry point an operation; what is here runs on every device and is the reference for the Triton kernels, which are
taken on CUDA when no gradient is wanted. Letters: B clips · T frames · H, W pixels · C channels · S chunks of pixels.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from common.kernels.group_norm import frame_group_norm
from common.kernels.norm_statistics import Norm, NormStatistics
from common.kernels.triton_support import use_triton

MOST_SCORES = 2**30  # bytes


Gather = Callable[[Tensor], Tensor]  # the same tensor of every block of a picture, [blocks, ...] in the blocks' order


def norm_silu_into(
    out: Tensor,
    x: Tensor,
    norm: Norm,
    deferred: Tensor | None = None,
    statistics: NormStatistics | None = None,
    gather: Gather | None = None,
) -> None:
    """GroupNorm of every frame of x + deferred alone, then SiLU where asked, written into `out`.

    Args:
        out: [B, T, H, W, C], any strides in B, T and from pixel to pixel (part of a larger buffer).
        x, deferred, statistics, gather: see `norm_coefficients`.
    """
    if not use_triton(x, out) and gather is None:
        x = x if deferred is None else x + deferred
        y = frame_group_norm(x.permute(0, 4, 1, 2, 3), norm.weight, norm.bias, norm.groups, norm.eps, norm.silu)
        out.copy_(y.permute(0, 2, 3, 4, 1))
        return
    scale, shift = norm_coefficients(x, norm, deferred, statistics, gather)
    if use_triton(x, out):
        from common.kernels import frame_norm_triton as kernels

        kernels.scale_shift(out, x, scale, shift, norm.silu)
        return
    of_frame = (*x.shape[:2], 1, 1, x.shape[-1])
    y = x.to(scale.dtype) * scale.view(of_frame) + shift.view(of_frame)
    out.copy_(F.silu(y) if norm.silu else y)


def norm_coefficients(
    x: Tensor,
    norm: Norm,
    deferred: Tensor | None = None,
    statistics: NormStatistics | None = None,
    gather: Gather | None = None,
) -> tuple[Tensor, Tensor]:
    """(scale, shift), [B * T, C] in float32 at least, that make GroupNorm of x + deferred, frame by frame, out of x.

    Args:
        x: [B, T, H, W, C]; deferred: [C], a bias that its producer left out.
        statistics: of x (without `deferred`), when its producer measured them.
        gather: where x is one block of rows of a picture; statistics of all blocks are combined, in the blocks' order,
            so that every rank gets the same bits. None: x is the whole picture.
    """
    if use_triton(x):
        from common.kernels import frame_norm_triton as kernels

        statistics = kernels.measure(x) if statistics is None else statistics
        if gather is None:
            return kernels.coefficients(x, statistics, norm, deferred)
        return kernels.combine(gather(kernels.group_statistics(x, statistics, norm, deferred)), norm, deferred)
    own = group_statistics(x, norm.groups, deferred)
    return combine_statistics(own[None] if gather is None else gather(own), norm, deferred)


def group_statistics(x: Tensor, groups: int, deferred: Tensor | None) -> Tensor:
    """Count, mean and sum of squared deviations of x + deferred by frame and group: [B * T, groups, 3]."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    value = x.to(wide) if deferred is None else x.to(wide) + deferred.to(wide)
    grouped = value.flatten(2, 3).flatten(0, 1).unflatten(-1, (groups, -1))  # (b t) p g c
    variance, mean = torch.var_mean(grouped, (1, 3), correction=0)  # (b t) g
    count = torch.full_like(mean, grouped.shape[1] * grouped.shape[3])
    return torch.stack([count, mean, variance * count], -1)


def combine_statistics(blocks: Tensor, norm: Norm, deferred: Tensor | None) -> tuple[Tensor, Tensor]:
    """(scale, shift) as `norm_coefficients` gives them, from the blocks' `group_statistics`, [N, B * T, groups, 3]."""
    count, mean, squares = blocks.unbind(-1)
    everything = count.sum(0)
    centre = (mean * count).sum(0) / everything
    variance = (squares + count * (mean - centre) ** 2).sum(0) / everything
    wide, of_group = blocks.dtype, len(norm.weight) // norm.groups
    scale = norm.weight.to(wide) * (variance + norm.eps).rsqrt().repeat_interleave(of_group, 1)
    waiting = 0 if deferred is None else deferred.to(wide)
    return scale, norm.bias.to(wide) + (waiting - centre.repeat_interleave(of_group, 1)) * scale


def add_bias_residual(
    y: Tensor,
    bias: Tensor | None,
    x: Tensor | None = None,
    deferred: Tensor | None = None,
    out: Tensor | None = None,
    measure: bool = True,
) -> tuple[Tensor, NormStatistics | None]:
    """(y + bias) + (x + deferred) in one pass, into `out` or over y.

    Args:
        y, x: [B, T, H, W, C]; bias, deferred: [C].
        out: [B, T, H, W, C], any strides but in C (part of a larger buffer).
        measure: also return the statistics of the result, where the pass can have them for free (the kernel can).
    """
    out = y if out is None else out
    if use_triton(y, out):
        from common.kernels import frame_norm_triton as kernels

        return out, kernels.add(out, y, bias, x, deferred, measure)
    total = y if bias is None else y + bias
    if x is not None:
        total = total + (x if deferred is None else x + deferred)
    out.copy_(total)
    return out, None


def add_phase_bias(
    y: Tensor, table: Tensor, out: Tensor | None = None, measure: bool = True
) -> tuple[Tensor, NormStatistics | None]:
    """y + the bias of a folded upsampler, which depends on a pixel's phase and on being at the border.

    Args:
        y: [B, T, H, W, C], H and W even.
        table: [Z, 4, 4, C], by frame modulo Z, then by row and by column: first, odd, even, last.
    """
    out = y if out is None else out
    if use_triton(y, out):
        from common.kernels import frame_norm_triton as kernels

        return out, kernels.add_table(out, y, table, measure)
    out.copy_(y + phase_bias(table, y.shape[1:4]).to(y.dtype))
    return out, None


def phase_bias(table: Tensor, size: Sequence[int]) -> Tensor:
    """The table [Z, 4, 4, C] of `add_phase_bias` for every pixel of `size`, [T, H, W, C]."""
    frames = torch.arange(size[0], device=table.device) % table.shape[0]
    rows, columns = (_border_class(n, table.device) for n in size[1:])
    return table[frames][:, rows][:, :, columns]


def _border_class(length: int, device: torch.device) -> Tensor:
    """0 first, 1 odd, 2 even, 3 last: [length]."""
    classes = 2 - torch.arange(length, device=device) % 2
    classes[0], classes[-1] = 0, 3
    return classes


def wide_attention(q: Tensor, k: Tensor, v: Tensor, most_bytes: int | None = None) -> Tensor:
    """softmax(q k^T / sqrt(C)) v with one head too wide for fused attention kernels, in chunks of queries.

    Args:
        q, k, v: [N, L, C].
        most_bytes: that the scores of one chunk may take; None: `MOST_SCORES`.
    """
    if not use_triton(q, k, v):
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
    from common.kernels import softmax_triton

    out, scale = torch.empty_like(q), q.shape[-1] ** -0.5
    rows = query_rows(k.shape[1], q.element_size(), scores_bytes(most_bytes))
    for n in range(len(q)):
        for start in range(0, q.shape[1], rows):
            scores = softmax_triton.scores(q[n, start : start + rows], k[n])  # rows L, float32
            torch.mm(softmax_triton.softmax(scores, scale, q.dtype), v[n], out=out[n, start : start + rows])
    return out


def scores_bytes(most_bytes: float | None) -> int:
    """How much the scores of one chunk of queries may take where other tensors are bounded by `most_bytes`."""
    return MOST_SCORES if most_bytes is None else min(MOST_SCORES, int(most_bytes))


def query_rows(keys: int, itemsize: int, most_bytes: int) -> int:
    """Queries of one chunk, 128 at least: float32 scores, and weights in the dtype of the values, for every key."""
    return max(128, most_bytes // ((4 + itemsize) * keys) // 128 * 128)
