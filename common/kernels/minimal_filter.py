"""Causal convolutions of three taps in time, four frames for the price of two: Winograd's minimal filtering F(4, 3).

Four outputs of a filter of three taps need six products instead of twelve (Winograd 1980; Lavin and Gray, arXiv
1509.09308, for convolutions): y = A [(G g) * (B d)] with six inputs d, taps g and constant matrices. Along time every
product is a 2-D convolution. A, G and B follow from five points and infinity, here 0, +-3/4 and +-3/2: of those tried
they lose least (docs/performance.md).

For 16-bit activations the six frames and weights are float16 whatever the network's dtype: three bits more than
bfloat16 has, of which the transform loses one. `SHRINK` keeps what goes through within float16's range.

What is here runs on every device and is the reference for the Triton kernels. Letters: B clips · H, W pixels · R rows
of a band · C, O channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from common.kernels.frame_norm import Moments, phase_bias
from common.kernels.triton_support import use_triton

TAPS, GIVEN, TAKEN = 3, 4, 6  # taps, frames that come out, frames that go in and products
CARRIED = TAKEN - GIVEN
NEAR, FAR = 0.75, 1.5  # the points
SHRINK = 0.125  # of the frames that go in: their largest combination is 5.7 times a frame
WEIGHT_SHRINK = 0.25  # of the weights: products four times as large as float16's largest number still pass
MOST_IN_CHUNK = 320  # pixels of which moments are taken together


def input_rows() -> list[list[float]]:
    """B, [6][6]: for each point the polynomial that vanishes at the others."""
    near, far = NEAR**2, FAR**2
    return [
        [near * far, 0, -(near + far), 0, 1, 0],
        [0, -NEAR * far, -far, NEAR, 1, 0],
        [0, NEAR * far, -far, -NEAR, 1, 0],
        [0, -FAR * near, -near, FAR, 1, 0],
        [0, FAR * near, -near, -FAR, 1, 0],
        [0, near * far, 0, -(near + far), 0, 1],
    ]


def weight_rows() -> list[list[float]]:
    """G, [6][3]: powers of each point, over that polynomial's value there."""
    near, far = NEAR**2, FAR**2
    of_near, of_far = 2 * near * (near - far), 2 * far * (far - near)
    rows = [[1 / (near * far), 0, 0]]
    rows += [[power / of_near for power in (1, point, near)] for point in (NEAR, -NEAR)]
    rows += [[power / of_far for power in (1, point, far)] for point in (FAR, -FAR)]
    return [*rows, [0, 0, 1]]


def output_rows() -> list[list[float]]:
    """A, [4][6]: powers of each point."""
    points = (0.0, NEAR, -NEAR, FAR, -FAR)
    return [[point**power for point in points] + [float(power == GIVEN - 1)] for power in range(GIVEN)]


def filter_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of the frames and weights of the products, for activations of `dtype`."""
    return torch.float16 if dtype in (torch.bfloat16, torch.float16) else dtype


def filter_weights(taps: Tensor) -> Tensor:
    """[3, A, B, h, w], from the oldest frame's to the newest's -> WEIGHT_SHRINK * G g, [6, A, B, h, w].

    Each of the six is channels-last; in the dtype of `taps`.
    """
    rows = torch.tensor(weight_rows(), dtype=torch.float64, device=taps.device) * WEIGHT_SHRINK
    return torch.einsum("mt,tabhw->mahwb", rows, taps.double()).to(taps.dtype).permute(0, 1, 4, 2, 3)


def filter_input(
    out: Tensor,
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    silu: bool,
    carried: Tensor,
    rows: tuple[int, int],
    settled: tuple[int, int],
) -> None:
    """Norm and SiLU of four frames, and the six combinations B d of them and the two before, for a band of rows.

    Args:
        out: [6, B, R, W, C] packed; R = rows[1] - rows[0].
        x: [B, 4, H, W, C]; pixels packed.
        scale, shift: [B * 4, C], the norm of x, see `frame_norm.norm_coefficients`.
        carried: [B, 2, H, W, C] packed, SHRINK times the two normed frames before these; changed: in the rows `settled`
            (within `rows`) these frames' last two take their place.
        rows, settled: from, to.
    """
    if use_triton(x, out):
        from common.kernels import minimal_filter_triton as kernels

        kernels.filter_input(out, x, scale, shift, silu, carried, rows, settled)
        return
    (first, stop), (begin, end) = rows, settled
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    of_frame = (x.shape[0], GIVEN, 1, 1, x.shape[-1])
    new = x[:, :, first:stop].to(wide) * scale.to(wide).view(of_frame) + shift.to(wide).view(of_frame)
    new = (F.silu(new) if silu else new) * SHRINK
    six = torch.cat([carried[:, :, first:stop].to(wide), new], 1)
    out.copy_(torch.einsum("mt,bthwc->mbhwc", torch.tensor(input_rows(), dtype=wide, device=x.device), six))
    carried[:, :, begin:end] = new[:, -CARRIED:, begin - first : end - first]


def filter_output(
    out: Tensor,
    products: Sequence[Tensor],
    rows: tuple[int, int],
    skip: int,
    bias: Tensor | None,
    x: Tensor | None = None,
    pending: Tensor | None = None,
    moments: Moments | None = None,
) -> None:
    """(A of the products + bias) + (x + pending), four frames, for a band of rows.

    Args:
        out: [B, 4, H, W, O], any strides but in O; `x` may be the same tensor.
        products: six of [B, R, W, O] packed, from rows `skip` on those of the band.
        rows: from, to; multiples of the rows of a chunk of `moments`, but for the last.
        bias: [O], or the table [1, 4, 4, O] of a folded upsampler, see `frame_norm.add_phase_bias`; pending: [O].
        x: [B, 4, H, W, O], pixels packed.
        moments: of `new_moments(out)`, filled in for the band.
    """
    if use_triton(out, *products):
        from common.kernels import minimal_filter_triton as kernels

        kernels.filter_output(out, products, rows, skip, bias, x, pending, moments)
        return
    first, stop = rows
    wide = torch.float64 if out.dtype == torch.float64 else torch.float32
    six = torch.stack([p[:, skip : skip + stop - first] for p in products]).to(wide)
    matrix = torch.tensor(output_rows(), dtype=wide, device=out.device) / (SHRINK * WEIGHT_SHRINK)
    total = torch.einsum("fm,mbhwc->bfhwc", matrix, six)
    if bias is not None and bias.ndim == 4:
        bias = phase_bias(bias, out.shape[1:4])[:, first:stop]
    for term in (bias, None if x is None else x[:, :, first:stop], pending):
        total = total if term is None else total + term.to(wide)
    out[:, :, first:stop] = total


def chunk_of(width: int) -> tuple[int, int]:
    """(pixels whose moments are taken together, rows that bands begin at multiples of)."""
    if width > MOST_IN_CHUNK:
        return max(size for size in range(1, MOST_IN_CHUNK + 1) if width % size == 0), 1
    rows = MOST_IN_CHUNK // width
    return rows * width, rows


def new_moments(out: Tensor) -> Moments | None:
    """Room for the moments of a result [B, 4, H, W, O] that comes in bands; None where the path takes none."""
    if not use_triton(out):
        return None
    batch, frames, height, width, channels = out.shape
    chunk, pixels = chunk_of(width)[0], height * width
    parts = out.new_empty(batch, frames, -(-pixels // chunk), channels, 2, dtype=torch.float32)
    return Moments(parts, chunk, pixels)
