"""Settings and files that a training cannot follow are refused in a sentence, by their name."""

import pytest
import torch

from common.config import load_config
from data.training.index import Index
from data.training.pair_sampler import SamplerConfig
from data.training.sampling import ClipShape
from models.nadit.model import NaDiT
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from projects.video_diffusion_sr.bare_network import network_of
from projects.video_diffusion_sr.prompts import NEGATIVE, POSITIVE
from projects.video_diffusion_sr.training.run import training_prompts
from projects.video_diffusion_sr.training.settings import LoopSettings
from projects.video_diffusion_sr.training.sources import DataSettings, resident_clips
from tests.conftest import ROOT


def test_clips_that_stay_on_the_device_need_a_camera():
    """They are filmed from photographs, so without a camera there is none."""
    data = DataSettings(shapes=(ClipShape(5, 32, 32),), sampler=SamplerConfig(motion=None), resident=True)
    with pytest.raises(ValueError, match=r"data\.sampler\.motion"):
        resident_clips(Index([]), data, LoopSettings(), None)


def test_a_null_text_is_a_tensor(tmp_path):
    for prompt in (POSITIVE, NEGATIVE):
        torch.save(torch.zeros(prompt.shape, dtype=torch.bfloat16), tmp_path / prompt.file)
    torch.save({"text": torch.zeros(1, POSITIVE.shape[1])}, tmp_path / "null_emb.pt")
    with pytest.raises(ValueError, match=r"null_emb\.pt must hold one tensor"):
        training_prompts(tmp_path, POSITIVE.shape[1])


def test_a_yaml_that_names_another_network_is_refused():
    config = load_config(ROOT / "configs_tiny" / "main.yaml")
    assert isinstance(network_of(NaDiT, config.dit.model), NaDiT)
    with pytest.raises(ValueError, match="is no VideoAutoencoderKL"):
        network_of(VideoAutoencoderKL, config.dit.model)
