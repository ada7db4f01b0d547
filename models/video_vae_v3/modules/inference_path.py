"""The encoder and the decoder in inference: the functions of `encoder.py` and `decoder.py`, with less memory traffic.

Each level is a generator. It requests a group of frames from the previous level, passes it through its resnet blocks,
and yields the result when the next level requests it. So groups are processed depth first, and no level stores more
than one group. The clip's `Schedule` says how many frames a group has and how they are convolved. The first frame of a
clip is processed separately by 2-D convolutions, whose weights `fold.py` derives.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from models.video_vae_v3.modules.activation import Activation, joined, regroup
from models.video_vae_v3.modules.causal_conv import CausalConv3d
from models.video_vae_v3.modules.conv_input import conv_input
from models.video_vae_v3.modules.decoder import Decoder3D, UpDecoderBlock3D
from models.video_vae_v3.modules.encoder import DownEncoderBlock3D, Encoder3D
from models.video_vae_v3.modules.inference_layers import InferenceLayers
from models.video_vae_v3.modules.temporal_memory import ClipMemory
from models.video_vae_v3.modules.upsampling import upsample, upsample_winograd, upsampler_input
from models.video_vae_v3.modules.winograd import has_winograd


def encode(encoder: Encoder3D, x: Tensor, memory: ClipMemory) -> Tensor:
    """Encode a slice [B, 3, T, H, W] to posterior parameters [B, 2 * latent_channels, t, h, w]."""
    groups = iter([Activation(x.permute(0, 2, 3, 4, 1))])
    for level, block in enumerate(encoder.down_blocks):
        of_level = memory.schedule.levels[level]
        layers = InferenceLayers(memory, of_level.winograd)
        groups = regroup(groups, of_level.group)
        if level == 0:
            groups = _convolved(InferenceLayers(memory), encoder.conv_in, groups)
        groups = _down_level(layers, block, groups)
    layers = InferenceLayers(memory)
    return layers.conv_out(encoder.conv_norm_out, encoder.conv_out, layers.mid(encoder.mid_block, joined(groups)))


def decode(decoder: Decoder3D, z: Tensor, memory: ClipMemory) -> Tensor:
    """Decode a slice [B, latent_channels, t, h, w] to frames [B, 3, T, H, W]."""
    layers, schedule = InferenceLayers(memory), memory.schedule
    group = layers.conv_in(decoder.conv_in, Activation(z.permute(0, 2, 3, 4, 1)))
    groups = iter([layers.mid(decoder.mid_block, group)])
    for level, block in zip(reversed(range(len(schedule.levels))), decoder.up_blocks, strict=True):
        of_level = schedule.levels[level]
        next_group = schedule.levels[level - 1].group if level else None
        layers = InferenceLayers(memory, of_level.winograd)
        groups = _up_level(layers, block, regroup(groups, of_level.group), next_group)
    frames = [layers.conv_out(decoder.conv_norm_out, decoder.conv_out, group) for group in groups]
    return frames[0] if len(frames) == 1 else torch.cat(frames, 2)


def _convolved(layers: InferenceLayers, conv: CausalConv3d, groups: Iterator[Activation]) -> Iterator[Activation]:
    """Apply the first convolution of the encoder to one group at a time."""
    for group in groups:
        yield layers.conv_in(conv, group)


def _down_level(
    layers: InferenceLayers, block: DownEncoderBlock3D, groups: Iterator[Activation]
) -> Iterator[Activation]:
    """A level of the encoder: resnet blocks, then the convolution that halves the picture, unless it is the last."""
    *before, last = block.resnets
    down = block.downsamplers[0].conv if len(block.downsamplers) else None
    for group in groups:
        for resnet in before:
            group = layers.resnet(resnet, group)
        if down is None:
            yield layers.resnet(last, group)
        else:
            make = partial(conv_input, layers.memory, down, group.shape, pad_end=True)
            yield layers.convolve_after_halo(down, layers.resnet_into(last, group, make))


def _up_level(
    layers: InferenceLayers, block: UpDecoderBlock3D, groups: Iterator[Activation], frames_out: int | None
) -> Iterator[Activation]:
    """A level of the decoder: resnet blocks, then the upsampler, unless it is the last level.

    Args:
        frames_out: number of frames that a direct upsampler computes at once; None: all frames of a group.
    """
    *before, last = block.resnets
    up = block.upsamplers[0] if len(block.upsamplers) else None
    for group in groups:
        for resnet in before:
            group = layers.resnet(resnet, group)
        if up is None:
            yield layers.resnet(last, group)
        elif layers.goes_by_winograd(group) and has_winograd(up, layers.winograd):
            yield upsample_winograd(layers.memory, up, layers.resnet(last, group))
        else:
            make = partial(upsampler_input, layers.memory, up, group.shape)
            given = layers.resnet_into(last, group, make)
            yield from upsample(layers.memory, up, given, frames_out, layers.winograd)
