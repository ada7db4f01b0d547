"""Causal convolutions of three taps in time by Winograd's minimal filtering F(m, 3), m = 2 or 4.

m outputs of a filter of three taps need m + 2 products instead of 3m (Winograd 1980; Lavin and Gray, arXiv 1509.09308,
for convolutions): y = A [(G g) * (B d)] with m + 2 inputs d, taps g and constant matrices. Along time every product is
a 2-D convolution. A, G and B follow from m + 1 points and infinity (Cook-Toom): 0 and +-1 for F(2, 3); 0, +-3/4 and
+-3/2 for F(4, 3), which lose least of those tried (docs/performance.md).

For 16-bit activations the transformed frames and weights are float16 whatever the network's dtype: three bits more than
bfloat16 has, of which the transform loses one. `INPUT_SCALE` keeps what goes through within float16's range.

What is here runs on every device and is the reference for the Triton kernels. Letters: B clips · H, W pixels · R rows
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

MOST_IN_CHUNK = 320  # pixels of which norm statistics are taken together


def transform_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of the transformed frames and weights, for activations of `dtype`."""
    return torch.float16 if dtype in (torch.bfloat16, torch.float16) else dtype


def transform_weights(taps: Tensor, m: int) -> Tensor:
    """[3, A, B, h, w], from the oldest frame's to the newest's -> WEIGHT_SCALE * G g, [m + 2, A, B, h, w].

    Each of them is channels-last; in the dtype of `taps`.
    """
    if taps.is_meta:  # arithmetic there loads torch's compiler
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
    """Norm and SiLU of m frames, and the combinations B d of the two frames before and them, for a block of rows.

    Args:
        out: m + 2 of [B, R, W, C], packed; their rows from `skip` on are filled.
        x: [B, m, H, W, C]; pixels packed.
        scale, shift: [B * m, C], the norm of x, see `frame_norm.norm_coefficients`.
        carried: [B, 2, H, W, C] packed, INPUT_SCALE times the two normed frames before these; changed: in the rows
            `settled` (within `rows`) these frames' last two take their place.
        rows, settled: from, to.
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
    """(A of the products + bias) + (x + deferred), m frames, for a block of rows.

    Args:
        out: [B, m, H, W, O], any strides but in O; `x` may be the same tensor.
        products: m + 2 of [B, R, W, O] packed, from rows `skip` on those of the block.
        rows: from, to; multiples of the rows of a chunk of `statistics`, but for the last.
        bias: [O], or the table [1, 4, 4, O] of a folded upsampler, see `frame_norm.add_phase_bias`; deferred: [O].
        x: [B, m, H, W, O], pixels packed.
        statistics: of `new_statistics(out)`, filled in for the block.
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
    """(pixels whose statistics are taken together, rows that blocks begin at multiples of)."""
    if width > MOST_IN_CHUNK:
        return max(size for size in range(1, MOST_IN_CHUNK + 1) if width % size == 0), 1
    rows = MOST_IN_CHUNK // width
    return rows * width, rows


def new_statistics(out: Tensor) -> NormStatistics | None:
    """Room for the statistics of a result [B, m, H, W, O] that comes in blocks; None where the path takes none."""
    if not use_triton(out):
        return None
    batch, frames, height, width, channels = out.shape
    chunk, pixels = chunk_of(width)[0], height * width
    parts = out.new_empty(batch, frames, -(-pixels // chunk), channels, 2, dtype=torch.float32)
    return NormStatistics(parts, chunk, pixels)
