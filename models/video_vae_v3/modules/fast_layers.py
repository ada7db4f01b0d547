"""The layers of the VAE's fast path: convolutions with their past, norms, resnets, attention, upsamplers.

Activations are [B, T, H, W, C], packed, which a convolution sees as channels-last [B, C, T, H, W].
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.kernels.conv3d import conv3d
from common.kernels.few_channels import (
    FEW,
    conv_from_few,
    new_sums,
    onto_taps,
    projects_onto_taps,
    sum_taps,
    sum_taps_onward,
    taps_dtype,
)
from common.kernels.frame_norm import (
    add_bias_residual,
    add_phase_bias,
    norm_coefficients,
    norm_silu_into,
    wide_attention,
)
from common.kernels.minimal_filter import GIVEN
from models.video_vae_v3.modules.blocks import FrameAttention, FrameNorm, MidBlock, ResnetBlock, Upsample
from models.video_vae_v3.modules.causal_conv import CausalConv3d
from models.video_vae_v3.modules.decoder import Decoder3D
from models.video_vae_v3.modules.encoder import Encoder3D
from models.video_vae_v3.modules.flow import Flow
from models.video_vae_v3.modules.fours import FilteredPast, filter_four, has_filter
from models.video_vae_v3.modules.rolling import LeanRing, Ring, has_turns, turned_weight
from models.video_vae_v3.modules.strips import in_strips
from models.video_vae_v3.modules.temporal_memory import TemporalMemory


class FastLayers:
    """Single layers for one slice of one clip.

    Args:
        memory: of the clip. A slice at the start of a clip is its first frame alone.
        most_bytes: bound on the scores of the attention, see `wide_attention`.
    """

    def __init__(self, memory: TemporalMemory, most_bytes: int | None = None) -> None:
        self.memory, self.most_bytes = memory, most_bytes

    def past(self, frames: int) -> int:
        """How many frames before the slice a buffer begins with."""
        return 0 if self.memory.starts_clip else frames

    def is_large(self, height: int, width: int) -> bool:
        """Are pictures of this size among those that `Rolling` is for?"""
        rolling = self.memory.rolling
        return rolling is not None and height * width >= rolling.smallest

    def rolls(self, layer: nn.Module, x: Tensor) -> bool:
        """Do the frames that this layer reads, of the size of x [B, T, H, W, C], stay in a ring?"""
        return self.is_large(*x.shape[2:4]) and not self.memory.rolling.fours and has_turns(layer)

    def takes_fours(self, layer: nn.Module, x: Tensor) -> bool:
        """Do frames of the size of x [B, T, H, W, C] go through this layer four at a time?"""
        return self.is_large(*x.shape[2:4]) and self.memory.rolling.fours and has_filter(layer)

    def ring(self, layer: nn.Module) -> Ring | LeanRing | None:
        """Where the frames that a layer reads stay, once it has seen the clip's first one."""
        return None if self.memory.rolling is None else self.memory.rolling.rings.get(layer)

    def filtered_past(self, layer: nn.Module) -> FilteredPast | None:
        """The same for a layer that takes four frames at a time."""
        return None if self.memory.rolling is None else self.memory.rolling.pasts.get(layer)

    def convolve(self, conv: CausalConv3d, buffer: Tensor, past: int) -> Flow:
        """The convolution of a buffer whose first `past` frames are filled in here; its bias stays pending."""
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        if kernel > 1:
            self._recall(conv, buffer, past, kernel, kernel - stride)
        alone = self.memory.starts_clip or (kernel == 1 and buffer.shape[1] == 1)  # one frame: a 2-D convolution
        weight = conv.derived_first if alone else conv.weight

        def run(x: Tensor) -> Tensor:
            if conv.in_channels <= FEW:
                return conv_from_few(x, weight[:, :, None] if alone else weight)
            if alone:
                y = F.conv2d(_channels_second(x[:, 0]), weight, None, conv.stride[1:], conv.padding[1:])[:, :, None]
            else:
                y = conv3d(_channels_second(x), weight, None, conv.stride, conv.padding)
            return _channels_last(y)

        batch, frames, height, width, _ = buffer.shape
        frames = 1 if alone else (frames - kernel) // stride + 1
        out_shape = (batch, frames, height // conv.stride[1], width // conv.stride[2], len(weight))
        halo = (0, 1) if conv.pad_end else (1, 1)
        return Flow(in_strips(run, buffer, out_shape, down=conv.stride[1], halo=halo), conv.bias)

    def norm_conv(self, norm: FrameNorm, conv: CausalConv3d, flow: Flow) -> Flow:
        return self.normed(norm, conv, flow)()

    def normed(self, norm: FrameNorm, conv: CausalConv3d, flow: Flow) -> Callable[[], Flow]:
        """Norm and SiLU into the input of `conv`; calling the result convolves, and needs `flow` no more."""
        ring = self.ring(conv)
        if ring is not None:
            self._norm_into(ring.free[:, None], norm, flow)
            return lambda: self._convolve_ring(conv, ring)
        past = self.past(conv.kernel_size[0] - conv.stride[0])
        buffer = self.buffer(flow.x, past, conv.in_channels)
        frames, carry = flow.x.shape[1], conv.kernel_size[0] - conv.stride[0]
        if self.memory.others_wait and frames > carry > 0:  # these travel while the rest is normed
            tail = buffer[:, -carry:]
            self._norm_into(tail, norm, flow.frames(frames - carry, frames))
            self.memory.offer(conv, tail.permute(0, 4, 1, 2, 3))
            self._norm_into(buffer[:, past:-carry], norm, flow.frames(0, frames - carry))
        else:
            self._norm_into(buffer[:, past:], norm, flow)
        return lambda: self.convolve(conv, buffer, past)

    def buffer(self, x: Tensor, past: int, channels: int) -> Tensor:
        batch, frames, height, width, _ = x.shape
        return x.new_empty(batch, past + frames, height, width, channels)

    def _convolve_ring(self, conv: CausalConv3d, ring: Ring | LeanRing) -> Flow:
        def run(x: Tensor, newest: int) -> Tensor:
            y = F.conv2d(_channels_second(x[:, 0]), turned_weight(conv, newest), None, 1, conv.padding[1:])
            return _channels_last(y[:, :, None])

        return Flow(ring.convolve(run, conv.out_channels), conv.bias)

    def _recall(self, owner: nn.Module, buffer: Tensor, past: int, kernel: int, carry: int) -> None:
        """Fill the frames in front of a buffer with those of the slice before, and remember for the next one."""
        view = buffer.permute(0, 4, 1, 2, 3)  # B C T H W
        if self.filtered_past(owner) is not None:
            self.filtered_past(owner).hand_over(buffer)
            return
        if past:
            buffer[:, :past] = self.memory.past(owner, view[:, :, past:], kernel - 1).permute(0, 2, 3, 4, 1)
        elif kernel > 1:
            if self.memory.keep and self.rolls(owner, buffer):
                self.memory.rolling.begin(owner, buffer[:, 0])
                return
            if self.memory.keep and self.takes_fours(owner, buffer):
                self.memory.rolling.pasts[owner] = FilteredPast(buffer[:, 0])
                return
            view = view.expand(-1, -1, kernel, -1, -1)
        self.memory.remember(owner, view, carry)

    def _norm_into(self, out: Tensor, norm: FrameNorm, flow: Flow) -> None:
        given = norm.weight, norm.bias, norm.num_groups, norm.eps, norm.silu
        norm_silu_into(out, flow.x, *given, flow.pending, flow.moments)

    def resnet(self, block: ResnetBlock, flow: Flow) -> Flow:
        """The block's result, which may have taken the place of `flow`."""
        if self._is_four(block, flow):
            return self._resnet_of_four(block, flow)
        y, bias, x, pending = self._resnet_sum(block, flow)
        if x is None:
            return Flow(y, bias)
        return Flow.settled(*add_bias_residual(y, bias, x, pending))

    def resnet_into(self, block: ResnetBlock, flow: Flow, make: Callable[[], Tensor]) -> None:
        """The block's result into [B, T, H, W, C], which is made when it is needed; any strides but in C."""
        if self._is_four(block, flow):
            self._resnet_of_four(block, flow, make)
            return
        y, bias, x, pending = self._resnet_sum(block, flow)
        add_bias_residual(y, bias, x, pending, make(), measure=False)

    def _resnet_sum(self, block: ResnetBlock, flow: Flow) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """The block's result as y + bias + x + pending; the last two None where channels change."""
        h = self.norm_conv(block.norm1, block.conv1, flow)
        convolve = self.normed(block.norm2, block.conv2, h)
        del h  # a frame less while the second convolution runs
        h = convolve()
        if block.conv_shortcut is None:
            return h.x, h.pending, flow.x, flow.pending
        weight, bias = block.conv_shortcut.weight.flatten(1), h.pending + block.conv_shortcut.bias
        if flow.pending is not None:
            bias = bias + F.linear(flow.pending, weight)
        h.x.flatten(0, 3).addmm_(flow.x.reshape(-1, flow.x.shape[-1]), weight.T)
        return h.x, bias, None, None

    def _is_four(self, block: ResnetBlock, flow: Flow) -> bool:
        return flow.x.shape[1] == GIVEN and self.filtered_past(block.conv1) is not None

    def _resnet_of_four(self, block: ResnetBlock, flow: Flow, make: Callable[[], Tensor] | None = None) -> Flow:
        """A resnet of four frames by minimal filtering, into what `make` makes; else over its input if that fits."""
        shape = (*flow.x.shape[:-1], block.conv1.out_channels)
        h = self._filter(block.norm1, block.conv1, flow, flow.x.new_empty(shape))
        x, pending = flow.x, flow.pending
        del flow
        if block.conv_shortcut is not None:
            weight, bias = block.conv_shortcut.weight.flatten(1), block.conv_shortcut.bias
            x, pending = _linear_in_place(x, weight), bias if pending is None else bias + F.linear(pending, weight)
        return self._filter(block.norm2, block.conv2, h, x if make is None else make(), x, pending, make is None)

    def _filter(
        self,
        norm: FrameNorm,
        conv: CausalConv3d,
        flow: Flow,
        out: Tensor,
        x: Tensor | None = None,
        pending: Tensor | None = None,
        measure: bool = True,
    ) -> Flow:
        """Norm, SiLU and convolution of four frames, plus x + pending, into `out`."""
        given = norm.weight, norm.bias, norm.num_groups, norm.eps
        scaled = norm_coefficients(flow.x, *given, flow.pending, flow.moments)
        into = out, conv.bias, x, pending, measure
        return Flow.settled(out, filter_four(conv, self.filtered_past(conv), flow.x, scaled, norm.silu, *into))

    def mid(self, mid: MidBlock, flow: Flow) -> Flow:
        return self.resnet(mid.resnets[1], self._attention(mid.attentions[0], self.resnet(mid.resnets[0], flow)))

    def _attention(self, block: FrameAttention, flow: Flow) -> Flow:
        batch, frames, height, width, _ = flow.x.shape
        normed = torch.empty_like(flow.x)
        self._norm_into(normed, block.group_norm, flow)
        pixels = normed.flatten(2, 3).flatten(0, 1)  # (b t) (h w) c
        out = wide_attention(block.to_q(pixels), block.to_k(pixels), block.to_v(pixels), self.most_bytes)
        y = F.linear(out, block.to_out[0].weight).view(batch, frames, height, width, -1)
        return Flow.settled(*add_bias_residual(y, block.to_out[0].bias, flow.x, flow.pending))

    def upsample(self, up: Upsample, buffer: Tensor, past: int) -> list[Callable[[], Flow]]:
        """The folded upsampler, as pieces in the order of time: calling one computes its frames.

        Where frames roll through what follows, a piece comes from one new frame, where they go by fours it has four,
        else it comes from all of them. The frame after the clip's first one has weights of its own where time doubles.
        """
        twice, after_first = up.time_factor == 2, self.memory.follows_first(up)
        self._recall(up, buffer, past, 4 - up.time_factor, 3 - up.time_factor)
        if not past:
            return [lambda: self._enlarged(buffer, up.derived_alone, up.derived_table_alone, twice)]
        frames, held = buffer.shape[1] - past, [buffer]
        step = frames
        if self.is_large(2 * buffer.shape[2], 2 * buffer.shape[3]):
            step = GIVEN // up.time_factor if self.memory.rolling.fours else 1

        def piece(start: int) -> Flow:
            stop = min(start + step, frames)
            part = (held.pop() if stop == frames else held[0])[:, start : stop + past]  # nobody needs it after the last
            if twice and after_first and start == 0:
                return self._enlarged_after_first(up, part)
            return self._enlarged(part, up.derived_folded, up.derived_table, twice)

        return [partial(piece, start) for start in range(0, frames, step)]

    def upsample_four(self, up: Upsample, flow: Flow) -> Flow:
        """The folded upsampler of four frames by minimal filtering."""
        batch, _, height, width, channels = flow.x.shape
        out = flow.x.new_empty(batch, GIVEN, 2 * height, 2 * width, up.conv.out_channels)
        scale = flow.x.new_ones(batch * GIVEN, channels, dtype=torch.promote_types(flow.x.dtype, torch.float32))
        norm = scale, torch.zeros_like(scale) if flow.pending is None else scale * flow.pending  # none but the bias
        moments = filter_four(up, self.filtered_past(up), flow.x, norm, False, out, up.derived_table, up=2)
        return Flow.settled(out, moments)

    def upsample_ring(self, up: Upsample, ring: Ring | LeanRing) -> Flow:
        """The folded upsampler of the frame that was just put into the ring."""
        y = ring.convolve(lambda x, newest: _enlarge(x, turned_weight(up, newest)), up.conv.out_channels, up=2)
        return Flow.settled(*add_phase_bias(y, up.derived_table))

    def _enlarged(self, buffer: Tensor, weight: Tensor, table: Tensor, twice: bool) -> Flow:
        return Flow.settled(*add_phase_bias(self._transpose(buffer, weight, twice), table))

    def _enlarged_after_first(self, up: Upsample, buffer: Tensor) -> Flow:
        if buffer.shape[1] == 2:
            return self._enlarged(buffer, up.derived_after, up.derived_table_after, True)
        y = self._transpose(buffer[:, :2], up.derived_after, True)
        rest = self._transpose(buffer[:, 1:], up.derived_folded, True)
        x = rest.new_empty(rest.shape[0], 2 + rest.shape[1], *rest.shape[2:])
        add_phase_bias(y, up.derived_table_after, x[:, :2], measure=False)
        add_phase_bias(rest, up.derived_table, x[:, 2:], measure=False)
        return Flow(x)

    def _transpose(self, buffer: Tensor, weight: Tensor, twice: bool) -> Tensor:
        if weight.ndim == 4:

            def run(x: Tensor) -> Tensor:
                return _enlarge(x, weight)

        else:

            def run(x: Tensor) -> Tensor:
                stride = (2 if twice else 1, 2, 2)
                return _channels_last(F.conv_transpose3d(_channels_second(x), weight, None, stride, (2, 1, 1)))

        batch, frames, height, width, _ = buffer.shape
        frames = 1 if weight.ndim == 4 else (2 * (frames - 1) if twice else frames - 2)
        return in_strips(run, buffer, (batch, frames, 2 * height, 2 * width, weight.shape[1]), up=2)

    def conv_in(self, conv: CausalConv3d, x: Tensor) -> Flow:
        past = self.past(2)
        buffer = self.buffer(x, past, conv.in_channels)
        buffer[:, past:] = x
        return self.convolve(conv, buffer, past)

    def conv_out(self, network: Encoder3D | Decoder3D, flow: Flow) -> Tensor:
        """[B, T, H, W, C] -> [B, O, T, H, W], the last norm and convolution."""
        norm, conv = network.conv_norm_out, network.conv_out
        if not projects_onto_taps(flow.x, conv.out_channels):
            y = self.norm_conv(norm, conv, flow)
            return (y.x + y.pending).permute(0, 4, 1, 2, 3)
        batch, frames, height, width, _ = flow.x.shape
        norm_of = norm.weight, norm.bias, norm.num_groups, norm.eps

        rolling, past = self.memory.rolling, self.past(2)
        if self.is_large(height, width) and (past > 0 or self.memory.keep):
            outs, taps = [], flow.x.new_empty(batch, 27 * conv.out_channels, 1, height, width, dtype=taps_dtype(flow.x))
            for n in range(frames):
                frame = flow.frames(n, n + 1)
                onto_taps(taps, frame.x, *norm_of, conv.weight, frame.pending, frame.moments)
                if not past:
                    rolling.sums[conv] = new_sums(taps)
                outs.append(sum_taps_onward(taps, conv.bias, rolling.sums[conv], first=not past))
            return outs[0] if frames == 1 else torch.cat(outs, 2)
        taps = flow.x.new_empty(batch, 27 * conv.out_channels, past + frames, height, width, dtype=taps_dtype(flow.x))
        onto_taps(taps[:, :, past:], flow.x, *norm_of, conv.weight, flow.pending, flow.moments)
        if past:
            taps[:, :, :past] = self.memory.past(conv, taps[:, :, past:], 2)
        else:
            taps = taps.expand(-1, -1, 3, -1, -1)
        self.memory.remember(conv, taps, 2)
        return sum_taps(taps, conv.bias)


def _linear_in_place(x: Tensor, weight: Tensor) -> Tensor:
    """x [B, T, H, W, C] times weight [O, C], frame by frame in the place of x where it fits."""
    if len(weight) > x.shape[-1]:
        return F.linear(x, weight)
    batch, frames, height, width, _ = x.shape
    y = x.flatten(2)[..., : height * width * len(weight)].view(batch, frames, height, width, len(weight))
    for clip in range(batch):
        for n in range(frames):
            y[clip, n] = F.linear(x[clip, n], weight)
    return y


def _enlarge(x: Tensor, weight: Tensor) -> Tensor:
    """[B, 1, H, W, C], [C, O, 4, 4] -> [B, 1, 2H, 2W, O], the folded upsampler of one frame."""
    y = F.conv_transpose2d(_channels_second(x[:, 0]), weight, None, stride=2, padding=1)
    return _channels_last(y[:, :, None])


def _channels_second(x: Tensor) -> Tensor:
    """[B, (T,) H, W, C] -> [B, C, (T,) H, W], the same memory."""
    return x.movedim(-1, 1)


def _channels_last(y: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [B, T, H, W, C], packed: the same memory wherever the convolution kept the layout."""
    return y.permute(0, 2, 3, 4, 1).contiguous()
