"""Causal convolutions with three taps in time by Winograd's minimal filtering F(m, 3), m = 2 or 4.

F(m, 3) computes m outputs of a filter of three taps with m + 2 products instead of 3m (Winograd 1980; for convolutions
Lavin and Gray, arXiv 1509.09308): y = A [(G g) * (B d)] with m + 2 inputs d, taps g and constant matrices A, G and B.
Here the filter runs along time, and every product is a 2-D convolution. The matrices follow from m + 1 points and
infinity (Cook-Toom). The points are 0 and +-1 for F(2, 3), and 0, +-3/4 and +-3/2 for F(4, 3), which had the smallest
rounding error of those tried (docs/performance.md).

For 16-bit activations the transformed frames and weights are always float16, which has three more fraction bits than
bfloat16, and the transform loses one. `INPUT_SCALE` keeps the values in float16's range.

The code here runs on every device and is the reference of the Triton kernels. Letters: B clips · H, W pixels · R rows
of a block · C, O channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from common.kernels.frame_norm import phase_bias
from common.kernels.norm_statistics import NormStatistics
from common.kernels.triton_support import use_triton
from common.kernels.winograd_matrices import (
    CARRIED,
    INPUT_SCALE,
    WEIGHT_SCALE,
    input_matrix,
    output_matrix,
    weight_matrix,
)

MOST_IN_CHUNK = 320  # most pixels in a chunk of norm statistics


def transform_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of transformed frames and weights for activations of `dtype`: float16 if that has 16 bits."""
    return torch.float16 if dtype in (torch.bfloat16, torch.float16) else dtype


def transform_weights(taps: Tensor, m: int) -> Tensor:
    """The transformed weights WEIGHT_SCALE * G g, [m + 2, A, B, h, w], in the dtype of `taps`.

    Each [A, B, h, w] of them is channels-last.

    Args:
        taps: [3, A, B, h, w], ordered from the tap of the oldest frame to that of the newest.
        m: 2 or 4.
    """
    if taps.is_meta:  # arithmetic on the meta device imports torch's compiler, which takes two seconds
        _, a, b, height, width = taps.shape
        return taps.new_empty(m + 2, a, height, width, b).permute(0, 1, 4, 2, 3)
    rows = torch.tensor(weight_matrix(m), dtype=torch.float64, device=taps.device) * WEIGHT_SCALE
    return torch.einsum("mt,tabhw->mahwb", rows, taps.double()).to(taps.dtype).permute(0, 1, 4, 2, 3)


def transform_input(
    out: Sequence[Tensor],
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    silu: bool,
    carried: Tensor,
    rows: tuple[int, int],
    settled: tuple[int, int],
    skip: int = 0,
) -> None:
    """Norm and SiLU of m frames, and the input transform INPUT_SCALE * B d of them and the two frames before.

    Args:
        out: m + 2 tensors [B, R, W, C], packed, where the transformed rows are written, from row `skip` on.
        x: [B, m, H, W, C], packed pixels.
        scale, shift: [B * m, C], the norm of x, see `frame_norm.norm_coefficients`.
        silu: whether SiLU follows the norm.
        carried: [B, 2, H, W, C], packed, INPUT_SCALE times the two normalised frames before these. Updated in place:
            the last two of these frames replace its rows `settled`.
        rows: (start, stop) of the rows of x to transform.
        settled: (start, stop), a part of `rows`.
        skip: the first row of `out` to write.
    """
    if use_triton(x, *out):
        from common.kernels import winograd_triton as kernels

        kernels.transform_input(out, x, scale, shift, silu, carried, rows, settled, skip)
        return
    (first, stop), (begin, end), m = rows, settled, x.shape[1]
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    of_frame = (x.shape[0], m, 1, 1, x.shape[-1])
    new = x[:, :, first:stop].to(wide) * scale.to(wide).view(of_frame) + shift.to(wide).view(of_frame)
    new = (F.silu(new) if silu else new) * INPUT_SCALE
    frames = torch.cat([carried[:, :, first:stop].to(wide), new], 1)
    matrix = torch.tensor(input_matrix(m), dtype=wide, device=x.device)
    for combination, made in zip(out, torch.einsum("mt,bthwc->mbhwc", matrix, frames), strict=True):
        combination[:, skip : skip + stop - first] = made
    carried[:, :, begin:end] = new[:, -CARRIED:, begin - first : end - first]


def transform_output(
    out: Tensor,
    products: Sequence[Tensor],
    rows: tuple[int, int],
    skip: int,
    bias: Tensor | None,
    x: Tensor | None = None,
    deferred: Tensor | None = None,
    statistics: NormStatistics | None = None,
) -> None:
    """(Output transform of the products + bias) + (x + deferred), m frames, for a block of rows; written to `out`.

    Args:
        out: [B, m, H, W, O]; it may be a slice of a larger buffer in any dimension but O, and it may be `x`.
        products: m + 2 tensors [B, R, W, O], packed. Their rows from `skip` on are those of the block.
        rows: (start, stop) of the block in `out`. With `statistics`, start is a multiple of the rows of a chunk, and so
            is stop unless it is H.
        skip: the first row of the products to read.
        bias: [O], or the table [1, 4, 4, O] of a folded upsampler, see `frame_norm.add_phase_bias`.
        x: [B, m, H, W, O], packed pixels; None: nothing is added.
        deferred: [O], a bias that is not yet added to x.
        statistics: made by `new_statistics(out)`; the statistics of the block are filled in.
    """
    if use_triton(out, *products):
        from common.kernels import winograd_triton as kernels

        kernels.transform_output(out, products, rows, skip, bias, x, deferred, statistics)
        return
    first, stop = rows
    wide = torch.float64 if out.dtype == torch.float64 else torch.float32
    stacked = torch.stack([p[:, skip : skip + stop - first] for p in products]).to(wide)
    matrix = torch.tensor(output_matrix(out.shape[1]), dtype=wide, device=out.device) / (INPUT_SCALE * WEIGHT_SCALE)
    total = torch.einsum("fm,mbhwc->bfhwc", matrix, stacked)
    if bias is not None and bias.ndim == 4:
        bias = phase_bias(bias, out.shape[1:4])[:, first:stop]
    for term in (bias, None if x is None else x[:, :, first:stop], deferred):
        total = total if term is None else total + term.to(wide)
    out[:, :, first:stop] = total


def chunk_of(width: int) -> tuple[int, int]:
    """(pixels in a chunk of statistics, rows) for pictures of this width; blocks start at multiples of these rows."""
    if width > MOST_IN_CHUNK:
        return max(size for size in range(1, MOST_IN_CHUNK + 1) if width % size == 0), 1
    rows = MOST_IN_CHUNK // width
    return rows * width, rows


def new_statistics(out: Tensor) -> NormStatistics | None:
    """Uninitialised statistics of a result [B, m, H, W, O] that is written in blocks.

    None unless the Triton kernels are used, because the plain path does not measure statistics.
    """
    if not use_triton(out):
        return None
    batch, frames, height, width, channels = out.shape
    chunk, pixels = chunk_of(width)[0], height * width
    parts = out.new_empty(batch, frames, -(-pixels // chunk), channels, 2, dtype=torch.float32)
    return NormStatistics(parts, chunk, pixels)
