"""The weights that ship with the repository do no harm."""

import skimage.data
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from common.distributed.parallel import Parallel
from common.distributed.process import process_group
from projects.video_diffusion_sr.build import build
from projects.video_diffusion_sr.presets import SEEDVR2_TINY
from projects.video_diffusion_sr.request import Request
from projects.video_diffusion_sr.restore import restore_clip
from tests.projects.test_restore import read


def test_a_sharp_picture_passes(tmp_path):
    """Detail that degraded pictures never have must not be blown up; an earlier fit broke such input into blocks."""
    Image.fromarray(skimage.data.astronaut()[:256, 128:384]).save(tmp_path / "sharp.png")
    with process_group("cpu") as process:
        restorer = build(SEEDVR2_TINY, Request(res=(256, 256)), Parallel(process))
        report = restore_clip(tmp_path / "sharp.png", tmp_path / "out", restorer)
    before, after = read(tmp_path / "sharp.png")[0], read(report.output)[0]
    assert before.shape == after.shape == torch.Size([3, 256, 256])
    assert peak_signal_noise_ratio(before.numpy(), after.numpy(), data_range=255) > 27
