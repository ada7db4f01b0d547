"""The elementwise passes of the video VAE on channels-last activations: GroupNorm of frames with SiLU, bias, residual.

Each operation has one entry point. The code here runs on every device and is the reference of the Triton kernels, which
are used on CUDA outside of autograd. Letters: B clips · T frames · H, W pixels · C channels · S chunks of pixels.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from common.kernels.group_norm import frame_group_norm
from common.kernels.norm_statistics import Norm, NormStatistics
from common.kernels.triton_support import use_triton

MOST_SCORES = 2**30  # bytes of one chunk's attention scores and weights


Gather = Callable[[Tensor], Tensor]  # all-gather over the row blocks of a picture: [...] -> [blocks, ...]


def norm_silu_into(
    out: Tensor,
    x: Tensor,
    norm: Norm,
    deferred: Tensor | None = None,
    statistics: NormStatistics | None = None,
    gather: Gather | None = None,
) -> None:
    """GroupNorm of x + deferred over each frame separately, then SiLU if `norm.silu`; written to `out`.

    Args:
        out: [B, T, H, W, C]; it may be a slice of a larger buffer in any dimension but C.
        x, deferred, statistics, gather: see `norm_coefficients`.
    """
    if not use_triton(x, out) and gather is None:
        x = x if deferred is None else x + deferred
        y = frame_group_norm(x.permute(0, 4, 1, 2, 3), norm.weight, norm.bias, norm.groups, norm.eps, norm.silu)
        out.copy_(y.permute(0, 2, 3, 4, 1))
        return
    scale_shift(out, x, *norm_coefficients(x, norm, deferred, statistics, gather), norm.silu)


def scale_shift(out: Tensor, x: Tensor, scale: Tensor, shift: Tensor, silu: bool) -> None:
    """x * scale + shift, then SiLU if `silu`; written to `out`.

    Args:
        out: [B, T, H, W, C]; it may be a slice of a larger buffer in any dimension but C.
        x: [B, T, H, W, C].
        scale, shift: [B * T, C], see `norm_coefficients`.
    """
    if use_triton(x, out):
        from common.kernels import frame_norm_triton as kernels

        kernels.scale_shift(out, x, scale, shift, silu)
        return
    of_frame = (*x.shape[:2], 1, 1, x.shape[-1])
    y = x.to(scale.dtype) * scale.view(of_frame) + shift.view(of_frame)
    out.copy_(F.silu(y) if silu else y)


def norm_coefficients(
    x: Tensor,
    norm: Norm,
    deferred: Tensor | None = None,
    statistics: NormStatistics | None = None,
    gather: Gather | None = None,
) -> tuple[Tensor, Tensor]:
    """Coefficients with which x * scale + shift is GroupNorm of x + deferred, over each frame separately.

    Args:
        x: [B, T, H, W, C].
        deferred: [C], a bias that is not yet added to x; None: no bias.
        statistics: those of x without `deferred`, if the pass that wrote x measured them; None: measure them.
        gather: given if x is one row block of the picture; the statistics of all blocks are combined in the order of
            the blocks, so that every rank computes the same bits. None: x is the whole picture.
    Returns:
        (scale, shift), each [B * T, C], float32, or float64 for a float64 x.
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
    """Count, mean and sum of squared deviations of x + deferred for each frame and group: [B * T, groups, 3]."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    value = x.to(wide) if deferred is None else x.to(wide) + deferred.to(wide)
    grouped = value.flatten(2, 3).flatten(0, 1).unflatten(-1, (groups, -1))  # (b t) p g c
    variance, mean = torch.var_mean(grouped, (1, 3), correction=0)  # (b t) g
    count = torch.full_like(mean, grouped.shape[1] * grouped.shape[3])
    return torch.stack([count, mean, variance * count], -1)


def combine_statistics(blocks: Tensor, norm: Norm, deferred: Tensor | None) -> tuple[Tensor, Tensor]:
    """The result of `norm_coefficients` from the `group_statistics` of all blocks, [N, B * T, groups, 3]."""
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
    """(y + bias) + (x + deferred) in one pass.

    Args:
        y, x: [B, T, H, W, C], packed pixels.
        bias, deferred: [C].
        out: [B, T, H, W, C], where the result is written; it may be a slice of a larger buffer in any dimension but C.
            None: the result replaces y.
        measure: also measure the statistics of the result. Only the Triton kernel does so.
    Returns:
        (out, its statistics); None in their place if they were not measured.
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
    """Add the bias of a folded upsampler, which depends on a pixel's phase and on whether it is at the border.

    Args:
        y: [B, T, H, W, C], H and W even.
        table: [Z, 4, 4, C], indexed by frame modulo Z, class of the row and class of the column; the classes are
            first, odd, even, last.
        out, measure: as in `add_bias_residual`.
    Returns:
        As `add_bias_residual`.
    """
    out = y if out is None else out
    if use_triton(y, out):
        from common.kernels import frame_norm_triton as kernels

        return out, kernels.add_table(out, y, table, measure)
    out.copy_(y + phase_bias(table, y.shape[1:4]).to(y.dtype))
    return out, None


def phase_bias(table: Tensor, size: Sequence[int]) -> Tensor:
    """Expand the table [Z, 4, 4, C] of `add_phase_bias` to all pixels of `size` (T, H, W): [T, H, W, C]."""
    frames = torch.arange(size[0], device=table.device) % table.shape[0]
    rows, columns = (_border_class(n, table.device) for n in size[1:])
    return table[frames][:, rows][:, :, columns]


def _border_class(length: int, device: torch.device) -> Tensor:
    """The class of each position: 0 first, 1 odd, 2 even, 3 last; int64 [length]."""
    classes = 2 - torch.arange(length, device=device) % 2
    classes[0], classes[-1] = 0, 3
    return classes


def wide_attention(q: Tensor, k: Tensor, v: Tensor, most_bytes: int | None = None) -> Tensor:
    """softmax(q k^T / sqrt(C)) v for one head that is too wide for fused attention kernels.

    On CUDA without gradients queries go in chunks, to bound the memory of scores; elsewhere this is torch's SDPA.

    Args:
        q, k, v: [N, L, C].
        most_bytes: bound of the scores of a chunk, in bytes, see `scores_bytes`.
    Returns:
        [N, L, C]
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
            del scores  # before those of the next chunk are made
    return out


def scores_bytes(most_bytes: float | None) -> int:
    """The bound of the scores of one chunk of queries, in bytes: `most_bytes`, but at most `MOST_SCORES`."""
    return MOST_SCORES if most_bytes is None else min(MOST_SCORES, int(most_bytes))


def query_rows(keys: int, itemsize: int, most_bytes: int) -> int:
    """The number of queries in a chunk, a multiple of 128 and at least 128.

    Each query takes a float32 score and an attention weight in the dtype of the values (`itemsize` bytes) per key.
    """
    return max(128, most_bytes // ((4 + itemsize) * keys) // 128 * 128)
