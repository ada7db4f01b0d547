"""The presets of all models: their networks, weights and sampling."""

from dataclasses import dataclass
from functools import partial


@dataclass(frozen=True)
class Preset:
    """One model variant.

    name: its name for messages.
    config: the YAML of its networks and diffusion, relative to the repository.
    checkpoint: file name of the transformer's weights in the checkpoint folder.
    download: its name for `projects/download.py`; None: the weights are part of the repository.
    steps, cfg_scale, cfg_rescale: the sampling for which the model was made. They replace the values of the released
        YAML, which are those of training, unless the user changes them there.
    condition_noise: noise on the condition, as a fraction of the schedule in [0, 1].
    channels_read_as_width: compute the condition noise from the last three entries of (t, h, w, c), as the program
        released with the multi-step models does; see `common.diffusion.timesteps.condition_timestep`.
    window_frames: longer clips pass through the transformer in overlapping windows of this many frames.
    res: default (height, width) whose product is the area of the result.
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
