"""The VAE's networks for inference: the same numbers as `encoder.py` and `decoder.py`, with less memory traffic.

Activations are [B, T, H, W, C], packed, which a convolution sees as channels-last [B, C, T, H, W]. What saves a pass
over memory is carried along in a `Flow`: biases wait for the next pass, and moments for the next norm are taken by the
pass that writes the activation. A norm writes straight behind the carried frames in the next convolution's input. The
first frame of a clip goes alone, through 2-D convolutions (`fold.py` derives their weights).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.kernels.conv3d import conv3d
from common.kernels.few_channels import FEW, conv_from_few, onto_taps, projects_onto_taps, sum_taps, taps_dtype
from common.kernels.frame_norm import Moments, add_bias_residual, add_phase_bias, norm_silu_into, wide_attention
from models.video_vae_v3.modules.blocks import Downsample, FrameAttention, FrameNorm, MidBlock, ResnetBlock, Upsample
from models.video_vae_v3.modules.causal_conv import CausalConv3d
from models.video_vae_v3.modules.decoder import Decoder3D
from models.video_vae_v3.modules.encoder import Encoder3D
from models.video_vae_v3.modules.strips import in_strips
from models.video_vae_v3.modules.temporal_memory import TemporalMemory


@dataclass(frozen=True)
class Flow:
    """An activation on its way: its value is x + pending.

    x: [B, T, H, W, C]. pending: [C], a bias not yet added. moments: of x, where the pass that wrote it took them.
    """

    x: Tensor
    pending: Tensor | None = None
    moments: Moments | None = None

    @staticmethod
    def settled(x: Tensor, moments: Moments | None) -> "Flow":
        return Flow(x, None, moments)

    def frames(self, start: int, stop: int) -> "Flow":
        stop = min(stop, self.x.shape[1])
        moments = None if self.moments is None else self.moments.frames(start, stop)
        return Flow(self.x[:, start:stop], self.pending, moments)

    def split(self, frames: int) -> "list[Flow]":
        """Cut in time; one piece where that is enough."""
        total = self.x.shape[1]
        return [self] if total <= frames else [self.frames(start, start + frames) for start in range(0, total, frames)]


class FastPath:
    """One slice of one clip through the encoder or the decoder.

    Args:
        memory: of the clip. A slice at the start of a clip is its first frame alone.
        conv_bytes: bound on a convolution's input; longer slices are cut in time inside the network, down to one frame.
    """

    def __init__(self, memory: TemporalMemory, conv_bytes: int | None = None) -> None:
        self.memory, self.conv_bytes = memory, conv_bytes

    def encode(self, encoder: Encoder3D, x: Tensor) -> Tensor:
        """[B, 3, T, H, W] -> moments [B, 2 * latent_channels, t, h, w]."""
        flow = Flow(x.permute(0, 2, 3, 4, 1))
        for level, block in enumerate(encoder.down_blocks):
            down = block.downsamplers[0] if len(block.downsamplers) else None
            parts = []
            for part in self._parts(flow, self._frames(flow.x, _width(block.resnets), 1, 2 if down is not None else 1)):
                part = self._conv_in(encoder.conv_in, part.x) if level == 0 else part
                parts.append(self._down_level(block.resnets, down, part))
            flow = parts[0] if len(parts) == 1 else Flow(torch.cat([p.x for p in parts], 1), parts[0].pending)
        return self._conv_out(encoder, self._mid(encoder.mid_block, flow))

    def decode(self, decoder: Decoder3D, z: Tensor) -> Tensor:
        """[B, latent_channels, t, h, w] -> [B, 3, T, H, W]."""
        flow = self._mid(decoder.mid_block, self._conv_in(decoder.conv_in, z.permute(0, 2, 3, 4, 1)))
        parts = self._up_levels(decoder, 0, flow)
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def _up_levels(self, decoder: Decoder3D, level: int, flow: Flow) -> list[Tensor]:
        if level == len(decoder.up_blocks):
            return [self._conv_out(decoder, flow)]
        block, frames = decoder.up_blocks[level], []
        up = block.upsamplers[0] if len(block.upsamplers) else None
        growth = 1 if up is None else 4 * up.time_factor
        for part in self._parts(flow, self._frames(flow.x, _width(block.resnets), growth, 1)):
            frames += self._up_levels(decoder, level + 1, self._up_level(block.resnets, up, part))
        return frames

    def _parts(self, flow: Flow, frames: int) -> Iterator[Flow]:
        """Cut in time; the memory is told that what all but the last leave behind is for the next part."""
        *before, last = flow.split(frames)
        for part in before:
            with self.memory.keeping():
                yield part
        yield last

    def _frames(self, x: Tensor, channels: int, growth: int, multiple: int) -> int:
        """How many frames may go through a level at once, at least `multiple`."""
        batch, frames, height, width, _ = x.shape
        if self.conv_bytes is None:
            return frames
        frame_bytes = batch * height * width * channels * x.element_size()
        most = min(self.conv_bytes // frame_bytes - 2, self.conv_bytes // (frame_bytes * growth))
        return max(most // multiple, 1) * multiple

    def _down_level(self, resnets: nn.ModuleList, down: Downsample | None, flow: Flow) -> Flow:
        for resnet in resnets[:-1]:
            flow = self._resnet(resnet, flow)
        if down is None:
            return self._resnet(resnets[-1], flow)
        conv, (batch, frames, height, width, _) = down.conv, flow.x.shape
        past = self._past(conv.kernel_size[0] - conv.stride[0])

        def padded() -> Tensor:
            buffer = flow.x.new_empty(batch, past + frames, height + 1, width + 1, conv.in_channels)
            buffer[:, past:, -1], buffer[:, past:, :, -1] = 0, 0
            return buffer

        return self._convolve(conv, self._resnet_into(resnets[-1], flow, padded, past), past)

    def _up_level(self, resnets: nn.ModuleList, up: Upsample | None, flow: Flow) -> Flow:
        for resnet in resnets[:-1]:
            flow = self._resnet(resnet, flow)
        if up is None:
            return self._resnet(resnets[-1], flow)
        past = self._past(3 - up.time_factor)
        channels = up.conv.in_channels
        buffer = self._resnet_into(resnets[-1], flow, lambda: self._buffer(flow.x, past, channels), past)
        return self._upsample(up, buffer, past)

    def _past(self, frames: int) -> int:
        return 0 if self.memory.starts_clip else frames

    def _buffer(self, x: Tensor, past: int, channels: int) -> Tensor:
        batch, frames, height, width, _ = x.shape
        return x.new_empty(batch, past + frames, height, width, channels)

    def _recall(self, owner: nn.Module, buffer: Tensor, past: int, kernel: int, carry: int) -> None:
        """Fill the frames in front of a buffer with those of the slice before, and remember for the next one."""
        view = buffer.permute(0, 4, 1, 2, 3)  # B C T H W
        if past:
            buffer[:, :past] = self.memory.past(owner, view[:, :, past:], kernel - 1).permute(0, 2, 3, 4, 1)
        elif kernel > 1:
            view = view.expand(-1, -1, kernel, -1, -1)
        self.memory.remember(owner, view, carry)

    def _convolve(self, conv: CausalConv3d, buffer: Tensor, past: int) -> Flow:
        """The convolution of a buffer whose first `past` frames are filled in here; its bias stays pending."""
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        alone = self.memory.starts_clip
        if kernel > 1:
            self._recall(conv, buffer, past, kernel, kernel - stride)
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

    def _norm_conv(self, norm: FrameNorm, conv: CausalConv3d, flow: Flow) -> Flow:
        past = self._past(conv.kernel_size[0] - conv.stride[0])
        buffer = self._buffer(flow.x, past, conv.in_channels)
        frames, carry = flow.x.shape[1], conv.kernel_size[0] - conv.stride[0]
        if self.memory.others_wait and frames > carry > 0:  # these travel while the rest is normed
            tail = buffer[:, -carry:]
            self._norm_into(tail, norm, flow.frames(frames - carry, frames))
            self.memory.offer(conv, tail.permute(0, 4, 1, 2, 3))
            self._norm_into(buffer[:, past:-carry], norm, flow.frames(0, frames - carry))
        else:
            self._norm_into(buffer[:, past:], norm, flow)
        return self._convolve(conv, buffer, past)

    def _norm_into(self, out: Tensor, norm: FrameNorm, flow: Flow) -> None:
        given = norm.weight, norm.bias, norm.num_groups, norm.eps, norm.silu
        norm_silu_into(out, flow.x, *given, flow.pending, flow.moments)

    def _resnet(self, block: ResnetBlock, flow: Flow) -> Flow:
        y, bias, x, pending = self._resnet_sum(block, flow)
        if x is None:
            return Flow(y, bias)
        return Flow.settled(*add_bias_residual(y, bias, x, pending))

    def _resnet_into(self, block: ResnetBlock, flow: Flow, make: Callable[[], Tensor], past: int) -> Tensor:
        """The block's result behind the first `past` frames of a buffer, which is made when it is needed."""
        y, bias, x, pending = self._resnet_sum(block, flow)
        buffer = make()
        _, _, height, width, _ = y.shape
        add_bias_residual(y, bias, x, pending, buffer[:, past:, :height, :width], measure=False)
        return buffer

    def _resnet_sum(self, block: ResnetBlock, flow: Flow) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """The block's result as y + bias + x + pending; the last two None where channels change."""
        h = self._norm_conv(block.norm1, block.conv1, flow)
        h = self._norm_conv(block.norm2, block.conv2, h)
        if block.conv_shortcut is None:
            return h.x, h.pending, flow.x, flow.pending
        weight, bias = block.conv_shortcut.weight.flatten(1), h.pending + block.conv_shortcut.bias
        if flow.pending is not None:
            bias = bias + F.linear(flow.pending, weight)
        h.x.flatten(0, 3).addmm_(flow.x.reshape(-1, flow.x.shape[-1]), weight.T)
        return h.x, bias, None, None

    def _mid(self, mid: MidBlock, flow: Flow) -> Flow:
        return self._resnet(mid.resnets[1], self._attention(mid.attentions[0], self._resnet(mid.resnets[0], flow)))

    def _attention(self, block: FrameAttention, flow: Flow) -> Flow:
        batch, frames, height, width, _ = flow.x.shape
        normed = torch.empty_like(flow.x)
        self._norm_into(normed, block.group_norm, flow)
        pixels = normed.flatten(2, 3).flatten(0, 1)  # (b t) (h w) c
        out = wide_attention(block.to_q(pixels), block.to_k(pixels), block.to_v(pixels))
        y = F.linear(out, block.to_out[0].weight).view(batch, frames, height, width, -1)
        return Flow.settled(*add_bias_residual(y, block.to_out[0].bias, flow.x, flow.pending))

    def _upsample(self, up: Upsample, buffer: Tensor, past: int) -> Flow:
        """The folded upsampler. The frame after the clip's first one has weights of its own where time doubles."""
        twice, after_first = up.time_factor == 2, self.memory.follows_first(up)
        self._recall(up, buffer, past, 4 - up.time_factor, 3 - up.time_factor)
        if not past:
            y = self._transpose(buffer, up.derived_alone, twice)
            return Flow.settled(*add_phase_bias(y, up.derived_table_alone))
        if not (twice and after_first):
            y = self._transpose(buffer, up.derived_folded, twice)
            return Flow.settled(*add_phase_bias(y, up.derived_table))
        y = self._transpose(buffer[:, :2], up.derived_after, twice)
        if buffer.shape[1] == 2:
            return Flow.settled(*add_phase_bias(y, up.derived_table_after))
        rest = self._transpose(buffer[:, 1:], up.derived_folded, twice)
        x = rest.new_empty(rest.shape[0], 2 + rest.shape[1], *rest.shape[2:])
        add_phase_bias(y, up.derived_table_after, x[:, :2], measure=False)
        add_phase_bias(rest, up.derived_table, x[:, 2:], measure=False)
        return Flow(x)

    def _transpose(self, buffer: Tensor, weight: Tensor, twice: bool) -> Tensor:
        if weight.ndim == 4:

            def run(x: Tensor) -> Tensor:
                y = F.conv_transpose2d(_channels_second(x[:, 0]), weight, None, stride=2, padding=1)
                return _channels_last(y[:, :, None])

        else:

            def run(x: Tensor) -> Tensor:
                stride = (2 if twice else 1, 2, 2)
                return _channels_last(F.conv_transpose3d(_channels_second(x), weight, None, stride, (2, 1, 1)))

        batch, frames, height, width, _ = buffer.shape
        frames = 1 if weight.ndim == 4 else (2 * (frames - 1) if twice else frames - 2)
        return in_strips(run, buffer, (batch, frames, 2 * height, 2 * width, weight.shape[1]), up=2)

    def _conv_in(self, conv: CausalConv3d, x: Tensor) -> Flow:
        past = self._past(2)
        buffer = self._buffer(x, past, conv.in_channels)
        buffer[:, past:] = x
        return self._convolve(conv, buffer, past)

    def _conv_out(self, network: Encoder3D | Decoder3D, flow: Flow) -> Tensor:
        """[B, T, H, W, C] -> [B, O, T, H, W], the last norm and convolution."""
        norm, conv = network.conv_norm_out, network.conv_out
        if not projects_onto_taps(flow.x, conv.out_channels):
            y = self._norm_conv(norm, conv, flow)
            return (y.x + y.pending).permute(0, 4, 1, 2, 3)
        batch, frames, height, width, _ = flow.x.shape
        past, planes = self._past(2), 27 * conv.out_channels
        taps = flow.x.new_empty(batch, planes, past + frames, height, width, dtype=taps_dtype(flow.x))
        norm_of = norm.weight, norm.bias, norm.num_groups, norm.eps
        onto_taps(taps[:, :, past:], flow.x, *norm_of, conv.weight, flow.pending, flow.moments)
        if past:
            taps[:, :, :past] = self.memory.past(conv, taps[:, :, past:], 2)
        else:
            taps = taps.expand(-1, -1, 3, -1, -1)
        self.memory.remember(conv, taps, 2)
        return sum_taps(taps, conv.bias)


def _width(resnets: nn.ModuleList) -> int:
    return max(max(block.conv1.in_channels, block.conv1.out_channels) for block in resnets)


def _channels_second(x: Tensor) -> Tensor:
    """[B, (T,) H, W, C] -> [B, C, (T,) H, W], the same memory."""
    return x.movedim(-1, 1)


def _channels_last(y: Tensor) -> Tensor:
    """[B, C, T, H, W] -> [B, T, H, W, C], packed: the same memory wherever the convolution kept the layout."""
    return y.permute(0, 2, 3, 4, 1).contiguous()
