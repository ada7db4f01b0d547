"""The released networks without weights, as workloads to be planned."""

from collections.abc import Callable
from functools import cache

import torch

from projects.video_diffusion_sr.communication import token_share
from projects.video_diffusion_sr.memory.workload import Workload, workload_of
from projects.video_diffusion_sr.presets import PRESETS
from projects.video_diffusion_sr.request import Request
from projects.video_diffusion_sr.settings import RunSettings, resolve


@cache
def settings_of(preset: str) -> RunSettings:
    request = Request(res=(720, 1280), dtype="bfloat16", vram=1.0, random_weights=True)
    return resolve(PRESETS[preset], request, torch.device("cpu"))


@cache
def released(preset: str = "seedvr2_3b") -> Callable[..., Workload]:
    """A function of a clip's frames, height and width, and of other fields of the workload, in bfloat16."""
    settings = settings_of(preset)
    networks = workload_of(settings.vae, settings.dit, settings.dtype, slice_frames=settings.slice_frames)
    share = cache(token_share)

    def of(frames: int, height: int, width: int, ranks: int = 1, **more) -> Workload:
        vae = networks.vae
        latents = (frames - 1) // vae.temporal_factor + 1, height // vae.spatial_factor, width // vae.spatial_factor
        given = {"still": frames == 1, "token_share": share(networks.dit, latents, ranks)} | more
        fields = vars(networks) | {"frames": frames, "height": height, "width": width, "ranks": ranks} | given
        return Workload(**fields)

    return of
