"""How far back the VAE looks: from where a clip must be computed again so that its end comes out bit for bit.

Norms and attention work on single frames, so only temporal convolutions look back, by two of their own frames each; a
Winograd group of m frames mixes all that it reads in its rounding. What lies further back does not touch a single bit.
"""

from collections.abc import Iterable

from torch import nn

from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from models.video_vae_v3.modules.causal_conv import CausalConv3d
from models.video_vae_v3.modules.schedule import DIRECT, Schedule


def encoder_reach(vae: VideoAutoencoderKL, schedule: Schedule) -> int:
    """Latents until an encoder that begins in the middle of a clip gives those of the whole clip, an upper bound.

    Args:
        schedule: by which the clip goes, in slices that begin where those of the whole clip do.
    """
    levels = enumerate(vae.encoder.down_blocks)
    return _latents_back(vae, schedule, levels, vae.encoder.conv_in, (vae.encoder.mid_block, vae.encoder.conv_out))


def decoder_reach(vae: VideoAutoencoderKL, schedule: Schedule) -> int:
    """As `encoder_reach`: latents that a decoder must have seen before it gives the frames of the whole clip."""
    levels = zip(reversed(range(len(vae.levels))), vae.decoder.up_blocks, strict=True)
    return _latents_back(vae, schedule, levels, vae.decoder.conv_out, (vae.decoder.conv_in, vae.decoder.mid_block))


def _latents_back(
    vae: VideoAutoencoderKL,
    schedule: Schedule,
    levels: Iterable[tuple[int, nn.Module]],
    at_full_rate: nn.Module,
    at_latents: Iterable[nn.Module],
) -> int:
    """Latents, rounded up, and one for the frame that stands for its own past.

    Args:
        levels: (number, modules). at_full_rate, at_latents: what lies at both ends of them.
    """
    times = [shape.time for shape in vae.levels]
    frames = _frames_back(at_full_rate) + vae.temporal_factor * sum(map(_frames_back, at_latents))
    for level, block in levels:
        # What changes the rate counts in the longer frames of the level below.
        below, winograd = times[min(level + 1, len(times) - 1)], schedule.levels[level].winograd
        resamplers = [*getattr(block, "downsamplers", ()), *getattr(block, "upsamplers", ())]
        resnets = block.get_submodule("resnets")
        frames += times[level] * _frames_back(resnets, winograd)
        frames += max(below, times[level]) * sum(_frames_back(part, winograd) for part in resamplers)
    return -(-frames // vae.temporal_factor) + 1


def _frames_back(part: nn.Module, winograd: int = DIRECT) -> int:
    """Of its own frames, that the convolutions of a part look back, one after the other."""
    convolutions = [module for module in part.modules() if isinstance(module, CausalConv3d)]
    return sum(max(conv.kernel_size[0] - 1, winograd) for conv in convolutions if conv.kernel_size[0] > 1)
