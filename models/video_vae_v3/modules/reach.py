"""The receptive field of the VAE in the past: where to start in a clip so that its end has the same bits.

Norms and attention process single frames, so only temporal convolutions read past frames, two at their own frame rate
each. The rounding of a Winograd group of m frames depends on all frames that it reads. Frames further back cannot
change a bit of the result.
"""

from collections.abc import Iterable

from torch import nn

from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from models.video_vae_v3.modules.causal_conv import CausalConv3d
from models.video_vae_v3.modules.schedule import DIRECT, Schedule


def encoder_reach(vae: VideoAutoencoderKL, schedule: Schedule) -> int:
    """The receptive field of the encoder in the past: an upper bound, in latents.

    An encoder that starts in the middle of a clip gives the latents of the whole clip, bit for bit, after this many.

    Args:
        schedule: the schedule of the clip, whose slices must begin where those of the whole clip begin.
    """
    levels = enumerate(vae.encoder.down_blocks)
    return _latents_back(vae, schedule, levels, vae.encoder.conv_in, (vae.encoder.mid_block, vae.encoder.conv_out))


def decoder_reach(vae: VideoAutoencoderKL, schedule: Schedule) -> int:
    """The same for the decoder: after this many latents it gives the frames of the whole clip, bit for bit."""
    levels = zip(reversed(range(len(vae.levels))), vae.decoder.up_blocks, strict=True)
    return _latents_back(vae, schedule, levels, vae.decoder.conv_out, (vae.decoder.conv_in, vae.decoder.mid_block))


def _latents_back(
    vae: VideoAutoencoderKL,
    schedule: Schedule,
    levels: Iterable[tuple[int, nn.Module]],
    at_full_rate: nn.Module,
    at_latents: Iterable[nn.Module],
) -> int:
    """The receptive field in latents, rounded up, plus one for the first frame, which takes the place of its past.

    Args:
        levels: (index, module) of each level.
        at_full_rate: the layer outside the levels that runs at the rate of frames.
        at_latents: the layers outside the levels that run at the rate of latents.
    """
    times = [shape.time for shape in vae.levels]
    frames = _frames_back(at_full_rate) + vae.temporal_factor * sum(map(_frames_back, at_latents))
    for level, block in levels:
        # Layers that change the frame rate are counted at the lower rate, that of the level below.
        below, winograd = times[min(level + 1, len(times) - 1)], schedule.levels[level].winograd
        resamplers = [*getattr(block, "downsamplers", ()), *getattr(block, "upsamplers", ())]
        resnets = block.get_submodule("resnets")
        frames += times[level] * _frames_back(resnets, winograd)
        frames += max(below, times[level]) * sum(_frames_back(part, winograd) for part in resamplers)
    return -(-frames // vae.temporal_factor) + 1


def _frames_back(part: nn.Module, winograd: int = DIRECT) -> int:
    """The number of past frames that the convolutions of `part`, applied in sequence, read at their own frame rate."""
    convolutions = [module for module in part.modules() if isinstance(module, CausalConv3d)]
    return sum(max(conv.kernel_size[0] - 1, winograd) for conv in convolutions if conv.kernel_size[0] > 1)
