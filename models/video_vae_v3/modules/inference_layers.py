"""The layers of the VAE in inference: causal convolutions, norms, resnet blocks and attention.

Activations are [B, T, H, W, C], packed; a convolution reads the same memory as channels-last [B, C, T, H, W]. Three
measures save passes over memory: the next pass adds a convolution's bias (it is deferred), the pass that writes an
activation measures the statistics of the next norm, and a norm writes its result directly into the next convolution's
input buffer, behind the carried frames.
"""

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from common.kernels.conv3d import conv3d
from common.kernels.frame_norm import (
    add_bias_residual,
    norm_coefficients,
    norm_silu_into,
    scale_shift,
    wide_attention,
)
from common.kernels.norm_statistics import Norm, NormStatistics
from common.kernels.rgb_conv import (
    MOST_RGB_CHANNELS,
    conv_from_rgb,
    new_tap_sums,
    streaming_tap_sum,
    tap_dtype,
    tap_projection,
    uses_tap_projection,
)
from models.video_vae_v3.modules.activation import Activation
from models.video_vae_v3.modules.blocks import FrameAttention, FrameNorm, MidBlock, ResnetBlock
from models.video_vae_v3.modules.causal_conv import CausalConv3d
from models.video_vae_v3.modules.conv_input import ConvInput, complete, conv_input, fill_halo
from models.video_vae_v3.modules.row_blocks import in_row_blocks
from models.video_vae_v3.modules.temporal_memory import ClipMemory
from models.video_vae_v3.modules.winograd import Addends, InputNorm, winograd_conv

LINEAR_BYTES = 256 * 2**20  # most bytes of a result that overwrites its input, before it does: a frame of 720 x 1280


class InferenceLayers:
    """The layers of one level for one slice of one clip.

    Args:
        memory: that of the clip. The slice at the start of a clip must be its first frame only.
        winograd: m, if groups of m frames are convolved by Winograd F(m, 3); 0: convolutions are direct.
    """

    def __init__(self, memory: ClipMemory, winograd: int = 0) -> None:
        self.memory, self.winograd = memory, winograd

    def resnet(self, block: ResnetBlock, group: Activation) -> Activation:
        """A resnet block. The result may overwrite the memory of the input."""
        if self.goes_by_winograd(group):
            h, measured, out, waiting = self._winograd_first(block, group)
            return Activation(out, None, self._winograd_second(block, h, measured, out, out, waiting))
        y, bias, x, deferred = self._resnet_sum(block, group)
        return Activation(y, bias) if x is None else _settled(*add_bias_residual(y, bias, x, deferred))

    def resnet_into(self, block: ResnetBlock, group: Activation, make: Callable[[], ConvInput]) -> ConvInput:
        """A resnet block that writes its result into the next convolution's input, which `make` allocates late."""
        if self.goes_by_winograd(group):
            h, measured, residual, waiting = self._winograd_first(block, group)
            given = make()
            self._winograd_second(block, h, measured, given.new, residual, waiting, measure=False)
            return given
        y, bias, x, deferred = self._resnet_sum(block, group)
        given = make()
        add_bias_residual(y, bias, x, deferred, given.new, measure=False)
        return given

    def goes_by_winograd(self, group: Activation) -> bool:
        """Whether the group has the m frames that the level's F(m, 3) needs. The last group of a slice may not."""
        return group.frames == self.winograd and not self.memory.starts_clip

    def _resnet_sum(self, block: ResnetBlock, group: Activation) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """The block's result as the summands y, bias, x, deferred; the last two are None if the channels change."""
        x, deferred = group.take(), group.bias
        h = self._norm_conv(block.norm1, block.conv1, Activation(x, deferred, group.statistics))
        y = self._norm_conv(block.norm2, block.conv2, h).take()
        bias: Tensor = block.conv2.bias
        if block.conv_shortcut is None:
            return y, bias, x, deferred
        weight, bias = block.conv_shortcut.weight.flatten(1), bias + block.conv_shortcut.bias
        if deferred is not None:
            bias = bias + F.linear(deferred, weight)
        y.flatten(0, 3).addmm_(x.reshape(-1, x.shape[-1]), weight.T)
        return y, bias, None, None

    def _norm_conv(self, norm: FrameNorm, conv: CausalConv3d, group: Activation) -> Activation:
        """Norm, SiLU and convolution; the memory of the group is freed before the convolution runs."""
        x = group.take()
        given = conv_input(self.memory, conv, x.shape)
        if self.memory.rows.shared:
            scale, shift, silu, *rows = self._input_norm(norm, x, group.bias, group.statistics)
            scale_shift(given.new, x, scale, shift, silu)
            for target, row in zip(given.halo_rows, rows, strict=True):
                if target is not None:
                    target.zero_() if row is None else scale_shift(target, row, scale, shift, silu)
        else:
            norm_silu_into(given.new, x, norm_of(norm), group.bias, group.statistics)
            fill_halo(self.memory, given)
        del x
        return self.convolve(conv, given)

    def _input_norm(
        self, norm: FrameNorm, x: Tensor, deferred: Tensor | None, statistics: NormStatistics | None
    ) -> InputNorm:
        """The norm of x + deferred, and the halo rows of x, which arrive with the statistics of other row blocks."""
        rows: list[Tensor | None] = [None, None]

        def gather(part: Tensor) -> Tensor:
            rows[0], rows[1], everything = self.memory.rows.surroundings(x, part)
            return everything

        shared = gather if self.memory.rows.shared else None
        scale, shift = norm_coefficients(x, norm_of(norm), deferred, statistics, shared)
        return InputNorm(scale, shift, norm.silu, *rows)

    def convolve_after_halo(self, conv: CausalConv3d, given: ConvInput) -> Activation:
        """`convolve`, of an input whose halo rows are to be filled in."""
        fill_halo(self.memory, given)
        return self.convolve(conv, given)

    def convolve(self, conv: CausalConv3d, given: ConvInput) -> Activation:
        """Convolve an input whose new frames and halo rows are written; the convolution's bias stays deferred."""
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        by_winograd = self.winograd > 0 and kernel == 3 and stride == 1
        buffer = complete(self.memory, conv, given, kernel - stride, by_winograd)
        alone = self.memory.starts_clip or (kernel == 1 and buffer.shape[1] == 1)  # one frame: a 2-D convolution
        weight = conv.derived_first if alone else conv.weight
        pad = conv.padding[1] if given.halo == (0, 0) else 0, conv.padding[2]

        def run(x: Tensor) -> Tensor:
            if conv.in_channels <= MOST_RGB_CHANNELS:
                return conv_from_rgb(x, weight[:, :, None] if alone else weight, pad[0] == 1)
            if alone:
                y = F.conv2d(channels_second(x[:, 0]), weight, None, conv.stride[1:], pad)[:, :, None]
            else:
                y = conv3d(channels_second(x), weight, None, conv.stride, (0, *pad))
            return channels_last(y)

        batch, frames, height, width, _ = buffer.shape
        frames, height = 1 if alone else (frames - kernel) // stride + 1, height - sum(given.halo)
        out_shape = (batch, frames, height // conv.stride[1], width // conv.stride[2], len(weight))
        return Activation(in_row_blocks(run, buffer, out_shape, down=conv.stride[1], halo=given.halo), conv.bias)

    def _winograd_first(
        self, block: ResnetBlock, group: Activation
    ) -> tuple[Tensor, NormStatistics | None, Tensor, Tensor | None]:
        """The first half of a resnet block of m frames: conv1's result, its statistics, the shortcut x + deferred."""
        x, deferred = group.take(), group.bias
        h = x.new_empty(*x.shape[:-1], block.conv1.out_channels)
        norm = self._input_norm(block.norm1, x, deferred, group.statistics)
        statistics = winograd_conv(self.memory, block.conv1, x, norm, h, Addends(block.conv1.bias))
        if block.conv_shortcut is not None:
            weight, bias = block.conv_shortcut.weight.flatten(1), block.conv_shortcut.bias
            x, deferred = _linear_in_place(x, weight), bias if deferred is None else bias + F.linear(deferred, weight)
        return h, statistics, x, deferred

    def _winograd_second(
        self,
        block: ResnetBlock,
        h: Tensor,
        statistics: NormStatistics | None,
        out: Tensor,
        x: Tensor,
        deferred: Tensor | None,
        measure: bool = True,
    ) -> NormStatistics | None:
        """The second half of a resnet block: conv2 of the norm of h, plus x + deferred, into `out`, which may be x."""
        norm = self._input_norm(block.norm2, h, None, statistics)
        return winograd_conv(self.memory, block.conv2, h, norm, out, Addends(block.conv2.bias, x, deferred), measure)

    def mid(self, mid: MidBlock, group: Activation) -> Activation:
        return self.resnet(mid.resnets[1], self._attention(mid.attentions[0], self.resnet(mid.resnets[0], group)))

    def _attention(self, block: FrameAttention, group: Activation) -> Activation:
        """Attention, in which every pixel of this row block attends to all pixels of its frame."""
        x, rows = group.take(), self.memory.rows
        normed = torch.empty_like(x)
        gather = rows.gather if rows.shared else None
        norm_silu_into(normed, x, norm_of(block.group_norm), group.bias, group.statistics, gather)
        pixels = normed.flatten(2, 3).flatten(0, 1)  # (b t) (h w) c
        keys, values = rows.gather_pixels(block.to_k(pixels)), rows.gather_pixels(block.to_v(pixels))
        out = wide_attention(block.to_q(pixels), keys, values, self.memory.schedule.scores_bytes)
        y = F.linear(out, block.to_out[0].weight).view(x.shape)
        return _settled(*add_bias_residual(y, block.to_out[0].bias, x, group.bias))

    def conv_in(self, conv: CausalConv3d, group: Activation) -> Activation:
        """The first convolution of a network; its input is copied into a new buffer."""
        x = group.take()
        given = conv_input(self.memory, conv, x.shape)
        given.new.copy_(x)
        return self.convolve_after_halo(conv, given)

    def conv_out(self, norm: FrameNorm, conv: CausalConv3d, group: Activation) -> Tensor:
        """The last norm, SiLU and convolution of a network: [B, T, H, W, C] -> [B, O, T, H, W]."""
        x = group.take()
        if not uses_tap_projection(x, conv.out_channels):
            y = self._norm_conv(norm, conv, Activation(x, group.bias, group.statistics))
            return (y.take() + conv.bias).permute(0, 4, 1, 2, 3)
        scale, shift, _, above, below = self._input_norm(norm, x, group.bias, group.statistics)
        scale, shift = (part.unflatten(0, x.shape[:2]) for part in (scale, shift))  # b t c
        outs = []
        for n in range(x.shape[1]):
            halo_rows = [None if row is None else row[:, n : n + 1] for row in (above, below)]
            norm_n = scale[:, n].contiguous(), shift[:, n].contiguous()
            outs.append(self._streaming_conv_out(conv, x[:, n : n + 1], halo_rows, *norm_n))
        return outs[0] if len(outs) == 1 else torch.cat(outs, 2)

    def _streaming_conv_out(
        self, conv: CausalConv3d, frame: Tensor, halo_rows: list[Tensor | None], scale: Tensor, shift: Tensor
    ) -> Tensor:
        """One frame of `conv_out` by tap projections, whose contributions to the next two frames are carried.

        Args:
            frame: [B, 1, H, W, C].
            halo_rows: [B, 1, 1, W, C] above and below it; None at the picture's edge.
            scale, shift: [B, C], the norm of the frame.
        Returns:
            [B, O, 1, H, W]
        """
        halo = int(self.memory.rows.shared)
        batch, _, height, width, _ = frame.shape
        shape = (batch, 27 * conv.out_channels, 1, height + 2 * halo, width)
        taps = frame.new_empty(shape, dtype=tap_dtype(frame))
        places = slice(0, halo), slice(halo, height + halo), slice(height + halo, None)
        for part, place in zip((halo_rows[0], frame, halo_rows[1]), places, strict=True):
            if part is not None:
                tap_projection(taps[:, :, :, place], part, scale, shift, conv.weight)
            else:
                taps[:, :, :, place] = 0
        first = not self.memory.holds(conv)
        sums = new_tap_sums(taps) if first else self.memory.take(conv, taps.device)
        out = streaming_tap_sum(taps, conv.bias, sums, first)
        self.memory.put(conv, sums)
        return out[:, :, :, halo : height + halo]


def norm_of(norm: FrameNorm) -> Norm:
    """The parameters of the norm for the kernels."""
    return Norm(norm.weight, norm.bias, norm.num_groups, norm.eps, norm.silu)


def channels_second(x: Tensor) -> Tensor:
    """[B, (T,) H, W, C] -> [B, C, (T,) H, W], a view."""
    return x.movedim(-1, 1)


def channels_last(y: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [B, T, H, W, C], packed: a view if y is channels-last, else a copy."""
    return y.permute(0, 2, 3, 4, 1).contiguous()


def _settled(x: Tensor, statistics: NormStatistics | None) -> Activation:
    """The result of a pass that has added all biases, as an activation."""
    return Activation(x, None, statistics)


def _linear_in_place(x: Tensor, weight: Tensor) -> Tensor:
    """x [B, T, H, W, C] times weight [O, C]; if O <= C, the result overwrites x, some pixels after the others."""
    outer, inner = weight.shape
    if outer > inner:
        return F.linear(x, weight)
    batch, *size, _ = x.shape
    pixels = prod(size)
    y = x.flatten(1)[:, : pixels * outer].view(batch, pixels, outer)
    step = max(LINEAR_BYTES // (outer * x.element_size()), 1)
    for given, made in zip(x.flatten(1, 3), y, strict=True):
        for start in range(0, pixels, step):  # a result ends before the first pixel that is still to be read
            made[start : start + step] = F.linear(given[start : start + step], weight)
    return y.view(batch, *size, outer)
