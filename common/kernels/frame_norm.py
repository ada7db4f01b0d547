"""The elementwise passes of the video VAE on channels-last activations: GroupNorm of frames with SiLU, bias, residual.

One entry point an operation; what is here runs on every device and is the reference for the Triton kernels, which are
taken on CUDA when no gradient is wanted. Letters: B clips · T frames · H, W pixels · C channels · S chunks of pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from common.kernels.group_norm import frame_group_norm
from common.kernels.triton_support import use_triton

MOST_SCORES = 2**30  # bytes


@dataclass(frozen=True)
class Moments:
    """What a pass over an activation learned about it, for the norm that reads it next.

    parts: [B, T, S, C, 2] float32, mean and sum of squared deviations of every chunk of pixels and channel.
    chunk: pixels in a chunk (the last one may have fewer); pixels: of a frame.
    """

    parts: Tensor
    chunk: int
    pixels: int

    def frames(self, start: int, stop: int) -> "Moments":
        """Of the frames start..stop alone."""
        return Moments(self.parts[:, start:stop], self.chunk, self.pixels)


def norm_silu_into(
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    silu: bool,
    pending: Tensor | None = None,
    moments: Moments | None = None,
) -> None:
    """GroupNorm of every frame of x + pending alone, then SiLU where asked, written into `out`.

    Args:
        out: [B, T, H, W, C], any strides in B, T and from pixel to pixel (part of a larger buffer).
        x: [B, T, H, W, C]; pending: [C], a bias that its producer left out.
        moments: of x (without `pending`), when its producer measured them.
    """
    if use_triton(x, out):
        from common.kernels import frame_norm_triton as kernels

        moments = kernels.measure(x) if moments is None else moments
        kernels.normalise(out, x, moments, weight, bias, groups, eps, silu, pending)
        return
    x = x if pending is None else x + pending
    out.copy_(frame_group_norm(x.permute(0, 4, 1, 2, 3), weight, bias, groups, eps, silu).permute(0, 2, 3, 4, 1))


def norm_coefficients(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    pending: Tensor | None = None,
    moments: Moments | None = None,
) -> tuple[Tensor, Tensor]:
    """(scale, shift), [B * T, C] in float32 at least, that make GroupNorm of x + pending, frame by frame, out of x.

    The arguments are those of `norm_silu_into`.
    """
    if use_triton(x):
        from common.kernels import frame_norm_triton as kernels

        moments = kernels.measure(x) if moments is None else moments
        return kernels.coefficients(x, moments, weight, bias, groups, eps, pending)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    waiting = torch.zeros(x.shape[-1], dtype=wide, device=x.device) if pending is None else pending.to(wide)
    grouped = (x.to(wide) + waiting).flatten(2, 3).flatten(0, 1).unflatten(-1, (groups, -1))  # (b t) p g c
    variance, mean = torch.var_mean(grouped, (1, 3), correction=0)  # (b t) g
    of_group = x.shape[-1] // groups
    scale = weight.to(wide) * (variance + eps).rsqrt().repeat_interleave(of_group, 1)
    return scale, bias.to(wide) + (waiting - mean.repeat_interleave(of_group, 1)) * scale


def add_bias_residual(
    y: Tensor,
    bias: Tensor | None,
    x: Tensor | None = None,
    pending: Tensor | None = None,
    out: Tensor | None = None,
    measure: bool = True,
) -> tuple[Tensor, Moments | None]:
    """(y + bias) + (x + pending) in one pass, into `out` or over y.

    Args:
        y, x: [B, T, H, W, C]; bias, pending: [C].
        out: [B, T, H, W, C], any strides but in C (part of a larger buffer).
        measure: also return the moments of the result, where the pass can have them for free (the kernel can).
    """
    out = y if out is None else out
    if use_triton(y, out):
        from common.kernels import frame_norm_triton as kernels

        return out, kernels.add(out, y, bias, x, pending, measure)
    total = y if bias is None else y + bias
    if x is not None:
        total = total + (x if pending is None else x + pending)
    out.copy_(total)
    return out, None


def add_phase_bias(
    y: Tensor, table: Tensor, out: Tensor | None = None, measure: bool = True
) -> tuple[Tensor, Moments | None]:
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


def phase_bias(table: Tensor, size: tuple[int, int, int]) -> Tensor:
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
