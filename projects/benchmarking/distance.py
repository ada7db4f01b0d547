"""Measures how far a run differs from a run of the same clip on one rank, and in float32 on the reference path."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.distributed.parallel import Parallel
from common.kernels.triton_support import Kernels, kernels
from projects.benchmarking.pipeline import NoiseClip, Pipeline
from projects.benchmarking.timing import relative_distance
from projects.video_diffusion_sr.build import load
from projects.video_diffusion_sr.memory.plan import unplanned
from projects.video_diffusion_sr.presets import Preset
from projects.video_diffusion_sr.request import Request
from projects.video_diffusion_sr.settings import resolve


@dataclass(frozen=True)
class Results:
    """The results of a run for one clip, on the CPU.

    latents: restored latents, float32 [t, h, w, c].
    frames: u8 [T, 3, h, w]; None on ranks other than the group's leader.
    """

    latents: Tensor
    frames: Tensor | None

    def distance_to(self, reference: "Results") -> dict[str, float]:
        """The distances by name: "latents" and, if both have frames, "levels".

        "latents" is |x - reference| / |reference|, and "levels" the mean absolute difference of 8-bit values. Rounding
        to 8 bits hardly changes that mean, since the closer two values are, the more rarely they round differently.
        """
        both = {"latents": relative_distance(self.latents, reference.latents)}
        if self.frames is not None and reference.frames is not None:
            both["levels"] = float((self.frames.int() - reference.frames.int()).abs().double().mean())
        return both


def results_of(pipeline: Pipeline) -> Results:
    """Run all stages of a pipeline on its clip."""
    pipeline.keep_result = True
    for stage in (pipeline.encode, pipeline.transformer, pipeline.decode):
        stage()
    return Results(torch.cat([piece.float().cpu() for piece in pipeline.restored]), pipeline.result)


def distances(
    results: Results, preset: Preset, request: Request, parallel: Parallel, clip: NoiseClip
) -> dict[str, dict[str, float]]:
    """The distances by name of what is compared, each as `Results.distance_to` returns it.

    `results` are compared with a run on one rank (if they are from several) and with float32 on the reference path. The
    reference path in the run's dtype is also compared with float32. Every rank of a group computes all references.
    """
    alone = Parallel(parallel.process, 1)

    def reference(of: Request, fold: bool) -> Results:
        settings = resolve(preset, replace(of, shard_weights=False), parallel.process.device)
        size = settings.geometry.network_size(clip.info.height, clip.info.width)
        plan = unplanned(settings, *size, clip.info.kind == "image")
        restorer = load(settings, alone, [plan], fold)
        return results_of(Pipeline(restorer, clip, plan))

    found = {}
    if parallel.size > 1:
        found["this run to one rank"] = results.distance_to(reference(request, fold=True))
    with kernels(Kernels.PLAIN):
        exact = reference(replace(request, dtype="float32"), fold=False)
        found["this run to float32, reference path"] = results.distance_to(exact)
        plain = reference(request, fold=False)
        found["reference path in its dtype to float32"] = plain.distance_to(exact)
    return found
