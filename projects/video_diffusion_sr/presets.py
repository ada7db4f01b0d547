"""The models that the program runs: their networks, weights and sampling."""

from dataclasses import dataclass
from functools import partial


@dataclass(frozen=True)
class Preset:
    """One model variant.

    config: YAML of its networks and diffusion, relative to the repository.
    checkpoint: file name of the transformer's weights in the checkpoint folder.
    download: name for `projects/download.py`; None when the weights are part of the repository.
    steps, cfg_scale, cfg_rescale: how it was made to be sampled; they win over the released YAML, which
        holds training's values, and give way to what the user changes in it.
    condition_noise: share of the schedule that the condition is noised by.
    channels_read_as_width: the multi-step models were released with a program that computes the condition noise from
        the last three entries of (t, h, w, c); see `common.diffusion.timesteps.condition_timestep`.
    window_frames: clips up to this long go through the transformer whole; longer ones in overlapping windows of it.
    res: default output (height, width).
    """

    name: str
    config: str
    checkpoint: str
    download: str | None
    steps: int = 1
    cfg_scale: float = 1.0
    cfg_rescale: float = 0.0
    condition_noise: float = 0.0
    channels_read_as_width: bool = False
    window_frames: int = 121
    res: tuple[int, int] = (720, 1280)


SEEDVR2_3B = Preset("SeedVR2-3B", "configs_3b/main.yaml", "seedvr2_ema_3b.pth", "seedvr2_3b")
SEEDVR2_7B = Preset("SeedVR2-7B", "configs_7b/main.yaml", "seedvr2_ema_7b.pth", "seedvr2_7b")
SEEDVR2_7B_SHARP = Preset("SeedVR2-7B-sharp", "configs_7b/main.yaml", "seedvr2_ema_7b_sharp.pth", "seedvr2_7b_sharp")
MULTI_STEP = partial(Preset, steps=50, cfg_scale=6.5, condition_noise=0.1, channels_read_as_width=True)
SEEDVR_3B = MULTI_STEP("SeedVR-3B", "configs_3b/main.yaml", "seedvr_ema_3b.pth", "seedvr_3b")
SEEDVR_7B = MULTI_STEP("SeedVR-7B", "configs_7b/main.yaml", "seedvr_ema_7b.pth", "seedvr_7b")
SEEDVR2_TINY = Preset(
    "SeedVR2-tiny", "configs_tiny/main.yaml", "tiny/dit.safetensors", None, window_frames=57, res=(256, 384)
)

PRESETS = {
    "seedvr2_3b": SEEDVR2_3B,
    "seedvr2_7b": SEEDVR2_7B,
    "seedvr2_7b_sharp": SEEDVR2_7B_SHARP,
    "seedvr_3b": SEEDVR_3B,
    "seedvr_7b": SEEDVR_7B,
    "seedvr2_tiny": SEEDVR2_TINY,
}
