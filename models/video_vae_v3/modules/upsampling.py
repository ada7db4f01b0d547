"""The folded upsampler in inference: `Upsample` as one transposed convolution, see `fold.py`."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from common.kernels.frame_norm import add_phase_bias
from models.video_vae_v3.modules.activation import Activation
from models.video_vae_v3.modules.blocks import Upsample
from models.video_vae_v3.modules.conv_input import ConvInput, complete, fill_halo, input_like
from models.video_vae_v3.modules.inference_layers import channels_last, channels_second
from models.video_vae_v3.modules.row_blocks import in_row_blocks
from models.video_vae_v3.modules.rows import RowExchange
from models.video_vae_v3.modules.temporal_memory import ClipMemory
from models.video_vae_v3.modules.winograd import Addends, InputNorm, has_winograd, winograd_conv


def upsampler_input(memory: ClipMemory, up: Upsample, shape: Sequence[int]) -> ConvInput:
    """An uninitialised input of the folded upsampler for a group of `shape` (B, T, H, W, any)."""
    return input_like(memory, up.derived_folded, shape, up.conv.in_channels, 3 - up.time_factor)


def upsample(
    memory: ClipMemory, up: Upsample, given: ConvInput, frames_out: int | None, winograd: int
) -> Iterator[Activation]:
    """The upsampler by direct convolution. It yields groups of frames, each computed when it is requested.

    Args:
        given: the input; its part `new` is written.
        frames_out: number of frames in a group, which is rounded down to whole input frames; None: all frames.
        winograd: m of F(m, 3) in the level whose result the upsampler reads; 0: direct.
    """
    by_winograd = winograd > 0 and has_winograd(up, winograd)
    # If time doubles, the frame after the clip's first one has its own weights.
    twice, after_first = up.time_factor == 2, memory.follows_first(up)
    fill_halo(memory, given)
    buffer, past = complete(memory, up, given, 3 - up.time_factor, by_winograd), given.past
    enlarge = _Enlarge(memory.rows, given.halo)
    if not past:
        yield enlarge(buffer, up.derived_alone, up.derived_table_alone, twice)
        return
    frames = buffer.shape[1] - past
    step = frames if frames_out is None else max(frames_out // up.time_factor, 1)
    for start in range(0, frames, step):
        part = buffer[:, start : min(start + step, frames) + past]
        if start + step >= frames:
            del buffer, given.buffer
        if twice and after_first and start == 0:
            piece = _enlarged_after_first(enlarge, up, part)
        else:
            piece = enlarge(part, up.derived_folded, up.derived_table, twice)
        del part
        yield piece


def upsample_winograd(memory: ClipMemory, up: Upsample, group: Activation) -> Activation:
    """The upsampler of m frames by Winograd F(m, 3), if it does not double time."""
    x = group.take()
    batch, m, height, width, channels = x.shape
    out = x.new_empty(batch, m, 2 * height, 2 * width, up.conv.out_channels)
    scale = x.new_ones(batch * m, channels, dtype=torch.promote_types(x.dtype, torch.float32))
    shift = torch.zeros_like(scale) if group.bias is None else scale * group.bias  # adds the bias without a norm
    norm = InputNorm(scale, shift, False, *memory.rows.neighbours(x))
    table = table_of_rows(up.derived_table, memory.rows)
    return Activation(out, None, winograd_conv(memory, up, x, norm, out, Addends(table)))


def table_of_rows(table: Tensor, rows: RowExchange) -> Tensor:
    """The bias table [Z, 4, 4, C] of `add_phase_bias` for a block of rows.

    A block that is not the first starts with an even row, and one that is not the last ends with an odd row.
    """
    if rows.first and rows.last:
        return table
    first, odd, even, last = range(4)
    classes = first if rows.first else even, odd, even, last if rows.last else odd
    # Slices, because indexing with a list would copy it to the device and synchronise.
    return torch.cat([table[:, n : n + 1] for n in classes], 1)


class _Enlarge:
    """Applies a transposed convolution and its bias table to one block of rows."""

    def __init__(self, rows: RowExchange, halo: tuple[int, int]) -> None:
        self.rows, self.halo = rows, halo

    def __call__(self, buffer: Tensor, weight: Tensor, table: Tensor, twice: bool) -> Activation:
        y, statistics = add_phase_bias(self.transposed(buffer, weight, twice), table_of_rows(table, self.rows))
        return Activation(y, None, statistics)

    def transposed(self, buffer: Tensor, weight: Tensor, twice: bool) -> Tensor:
        """The convolution without the bias; the results of halo rows are dropped."""
        pad = (1 if self.halo == (0, 0) else 3), 1

        def run(x: Tensor) -> Tensor:
            if weight.ndim == 4:
                return channels_last(F.conv_transpose2d(channels_second(x[:, 0]), weight, None, 2, pad)[:, :, None])
            stride = (2 if twice else 1, 2, 2)
            return channels_last(F.conv_transpose3d(channels_second(x), weight, None, stride, (2, *pad)))

        batch, frames, height, width, _ = buffer.shape
        frames = 1 if weight.ndim == 4 else (2 * (frames - 1) if twice else frames - 2)
        out_shape = (batch, frames, 2 * (height - sum(self.halo)), 2 * width, weight.shape[1])
        return in_row_blocks(run, buffer, out_shape, up=2, halo=self.halo)


def _enlarged_after_first(enlarge: _Enlarge, up: Upsample, buffer: Tensor) -> Activation:
    if buffer.shape[1] == 2:
        return enlarge(buffer, up.derived_after, up.derived_table_after, True)
    y = enlarge.transposed(buffer[:, :2], up.derived_after, True)
    rest = enlarge.transposed(buffer[:, 1:], up.derived_folded, True)
    x = rest.new_empty(rest.shape[0], 2 + rest.shape[1], *rest.shape[2:])
    add_phase_bias(y, table_of_rows(up.derived_table_after, enlarge.rows), x[:, :2], measure=False)
    add_phase_bias(rest, table_of_rows(up.derived_table, enlarge.rows), x[:, 2:], measure=False)
    return Activation(x)
