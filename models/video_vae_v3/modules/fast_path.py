"""The VAE's networks for inference: the same numbers as `encoder.py` and `decoder.py`, with less memory traffic.

What saves a pass over memory is carried along in a `Flow`: biases wait for the next pass, and moments for the next norm
are taken by the pass that writes the activation. A norm writes straight behind the carried frames in the next
convolution's input. The first frame of a clip goes alone, through 2-D convolutions (`fold.py` derives their weights).
Where pictures are large, later frames go by fours, with half of a convolution's products (`fours.py`), or one by one,
and carried frames stay where they are (`rolling.py`).
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from common.kernels.minimal_filter import GIVEN
from models.video_vae_v3.modules.blocks import Downsample, Upsample
from models.video_vae_v3.modules.decoder import Decoder3D
from models.video_vae_v3.modules.encoder import Encoder3D
from models.video_vae_v3.modules.fast_layers import FastLayers
from models.video_vae_v3.modules.flow import Flow
from models.video_vae_v3.modules.temporal_memory import TemporalMemory


class FastPath:
    """One slice of one clip through the encoder or the decoder.

    Args:
        memory: of the clip. A slice at the start of a clip is its first frame alone.
        conv_bytes: bound on a convolution's input and on the attention's scores; longer slices are cut in time inside
            the network, down to one frame.
    """

    def __init__(self, memory: TemporalMemory, conv_bytes: int | None = None) -> None:
        self.memory, self.conv_bytes = memory, conv_bytes
        self.layers = FastLayers(memory, conv_bytes)

    def encode(self, encoder: Encoder3D, x: Tensor) -> Tensor:
        """[B, 3, T, H, W] -> moments [B, 2 * latent_channels, t, h, w]."""
        flow = Flow(x.permute(0, 2, 3, 4, 1))
        for level, block in enumerate(encoder.down_blocks):
            down = block.downsamplers[0] if len(block.downsamplers) else None
            parts = []
            for part in self._parts(flow, self._frames(flow.x, block.resnets, 1, 1 if down is None else 2)):
                single = self.layers.rolls(block.resnets[0].conv1, part.x)
                pieces = self._parts(part, 1 if single else part.x.shape[1])
                if level == 0:
                    pieces = (self.layers.conv_in(encoder.conv_in, piece.x) for piece in pieces)
                parts.append(self._down_level(block.resnets, down, part.x.shape[1], pieces))
            flow = Flow.joined(parts)
        return self.layers.conv_out(encoder, self.layers.mid(encoder.mid_block, flow))

    def decode(self, decoder: Decoder3D, z: Tensor) -> Tensor:
        """[B, latent_channels, t, h, w] -> [B, 3, T, H, W]."""
        flow = self.layers.mid(decoder.mid_block, self.layers.conv_in(decoder.conv_in, z.permute(0, 2, 3, 4, 1)))
        frames = list(self._up_levels(decoder, 0, lambda: flow))
        return frames[0] if len(frames) == 1 else torch.cat(frames, 2)

    def _up_levels(self, decoder: Decoder3D, level: int, make: Callable[[], Flow]) -> Iterator[Tensor]:
        """[B, 3, T, H, W] pieces: each goes through all levels before the next one is made."""
        if level == len(decoder.up_blocks):
            yield self.layers.conv_out(decoder, make())
            return
        block = decoder.up_blocks[level]
        up = block.upsamplers[0] if len(block.upsamplers) else None
        growth = 1 if up is None else 4 * up.time_factor
        for piece in self._up_level(block.resnets, up, self._level_parts(make(), block.resnets, growth)):
            yield from self._up_levels(decoder, level + 1, piece)

    def _parts(self, flow: Flow, frames: int) -> Iterator[Flow]:
        """Cut in time; the memory is told that what all but the last leave behind is for the next part.

        Nothing here holds on to a part that is being worked on.
        """
        parts = flow.split(frames)
        del flow
        while len(parts) > 1:
            with self.memory.keeping():
                yield parts.pop(0)
        yield parts.pop()

    def _level_parts(self, flow: Flow, resnets: nn.ModuleList, growth: int) -> Iterator[Flow]:
        return self._parts(flow, self._frames(flow.x, resnets, growth, 1))

    def _frames(self, x: Tensor, resnets: nn.ModuleList, growth: int, multiple: int) -> int:
        """How many frames may go through a level at once, at least `multiple`."""
        if self.layers.rolls(resnets[0].conv1, x):
            return multiple
        if self.layers.takes_fours(resnets[0].conv1, x):
            return GIVEN
        batch, frames, height, width, _ = x.shape
        if self.conv_bytes is None:
            return frames
        channels = max(max(block.conv1.in_channels, block.conv1.out_channels) for block in resnets)
        frame_bytes = batch * height * width * channels * x.element_size()
        most = min(self.conv_bytes // frame_bytes - 2, self.conv_bytes // (frame_bytes * growth))
        return max(most // multiple, 1) * multiple

    def _down_level(self, resnets: nn.ModuleList, down: Downsample | None, frames: int, pieces: Iterable[Flow]) -> Flow:
        """`frames` frames in pieces through the resnets, and together through what halves them."""
        done, target, conv = [], None, None if down is None else down.conv
        past = 0 if conv is None else self.layers.past(conv.kernel_size[0] - conv.stride[0])
        start = past
        for piece in pieces:
            for resnet in resnets[:-1]:
                piece = self.layers.resnet(resnet, piece)
            if conv is None:
                done.append(self.layers.resnet(resnets[-1], piece))
                continue
            batch, count, height, width, _ = piece.x.shape
            if target is None:
                target = piece.x.new_empty(batch, past + frames, height + 1, width + 1, conv.in_channels)
                target[:, past:, -1], target[:, past:, :, -1] = 0, 0
            own = target[:, start : start + count, :height, :width]
            self.layers.resnet_into(resnets[-1], piece, lambda own=own: own)
            start += count
        return Flow.joined(done) if conv is None else self.layers.convolve(conv, target, past)

    def _upsampled_four(self, up: Upsample, flow: list[Flow]) -> Flow:
        """Takes the flow, the only one of a list, so that nobody holds on to it afterwards."""
        return self.layers.upsample_four(up, flow.pop())

    def _up_level(
        self, resnets: nn.ModuleList, up: Upsample | None, parts: Iterator[Flow]
    ) -> Iterator[Callable[[], Flow]]:
        """The level's results piece by piece, each made when it is called for and held no longer than it is used."""
        past = 0 if up is None else self.layers.past(3 - up.time_factor)
        for flow in parts:
            for resnet in resnets[:-1]:
                flow = self.layers.resnet(resnet, flow)
            if up is None:
                yield partial(self.layers.resnet, resnets[-1], flow)
                continue
            if flow.x.shape[1] == GIVEN and self.layers.filtered_past(up) is not None:
                done = [self.layers.resnet(resnets[-1], flow)]
                del flow
                yield partial(self._upsampled_four, up, done)
                continue
            ring = self.layers.ring(up)
            if ring is not None:
                self.layers.resnet_into(resnets[-1], flow, lambda ring=ring: ring.free[:, None])
                del flow
                yield partial(self.layers.upsample_ring, up, ring)
                continue
            buffers, make = [], partial(self.layers.buffer, flow.x, past, up.conv.in_channels)
            self.layers.resnet_into(resnets[-1], flow, lambda b=buffers, m=make: b.append(m()) or b[0][:, past:])
            del flow, make
            *before, last = self.layers.upsample(up, buffers.pop(), past)
            while before:
                with self.memory.keeping():
                    yield before.pop(0)
            yield last
