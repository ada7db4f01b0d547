"""How far back the VAE looks: behind that not one bit of a clip depends on where it was begun."""

import pytest
import torch

from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL, split_after_first
from models.video_vae_v3.modules.fold import prepare_inference
from models.video_vae_v3.modules.reach import decoder_reach, encoder_reach
from models.video_vae_v3.modules.schedule import DIRECT, F23, F43, LevelSchedule, Schedule

SHAPES = [(1, DIRECT), (2, F43), *(pytest.param(*rare, marks=pytest.mark.slow) for rare in ((2, DIRECT), (1, F23)))]
SLACK = 6  # latents by which the bound may be too large


def in_slices(run, vae: VideoAutoencoderKL, schedule: Schedule, x: torch.Tensor, size: int, whole_first: bool):
    memory = vae.new_memory(schedule)
    parts = split_after_first(x, size) if whole_first else x.split(size, 2)
    return torch.cat([run(part, memory) for part in parts], 2)


def first_equal(whole: torch.Tensor, late: torch.Tensor) -> int:
    """Frames of `late`, the end of the clip by itself, before all are bit for bit those of the whole clip."""
    same = [torch.equal(a, b) for a, b in zip(whole[:, :, -late.shape[2] :].unbind(2), late.unbind(2), strict=True)]
    return len(same) - same[::-1].index(False)


@pytest.mark.parametrize(("temporal", "winograd"), SHAPES)
@torch.inference_mode()
def test_behind_its_reach_a_clip_is_the_same_wherever_it_was_begun(temporal, winograd):
    torch.manual_seed(0)
    widths = (4, 4, 8)
    vae = VideoAutoencoderKL(
        block_out_channels=widths, layers_per_block=1, norm_num_groups=1, temporal_scale_num=temporal
    ).eval()
    for parameter in vae.parameters():
        parameter.normal_(0, 0.2)
    prepare_inference(vae, winograd={winograd} - {DIRECT})
    factor = vae.temporal_factor
    size = max(winograd, factor)
    levels = [LevelSchedule(winograd, winograd) if winograd and size // shape.time >= winograd else LevelSchedule()
              for shape in vae.levels[:-1]]  # fmt: skip
    schedule, step = Schedule(size, (*levels, LevelSchedule())), size // factor
    start = 3 * size
    clip = torch.rand(1, 3, 1 + start + factor * (encoder_reach(vae, schedule) + 4) // size * size, 8, 8)
    whole, late = (in_slices(vae.encode_slice, vae, schedule, x, size, True) for x in (clip, clip[:, :, start:]))
    assert encoder_reach(vae, schedule) - SLACK <= first_equal(whole, late) <= encoder_reach(vae, schedule)
    latents = torch.randn(1, 16, (decoder_reach(vae, schedule) + 8) // step * step, 2, 2)
    late = latents[:, :, 3 * step :]
    whole, late = (in_slices(vae.decode_slice, vae, schedule, z, step, False) for z in (latents, late))
    seen = -(-(first_equal(whole, late) - 1) // factor) + 1
    assert decoder_reach(vae, schedule) - SLACK <= seen <= decoder_reach(vae, schedule)
