"""How far a run is from the same clip on one rank, and from float32 on the reference path."""

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
    """What a run made of a clip, on the CPU. latents: restored, float32. frames: u8; None on ranks that only help."""

    latents: Tensor
    frames: Tensor | None

    def distance_to(self, reference: "Results") -> dict[str, float]:
        """latents: |x - reference| / |reference|. levels: mean distance of 8-bit values, of 255.

        Rounding to levels does not change that mean: values close together round apart as rarely as they are close.
        """
        both = {"latents": relative_distance(self.latents, reference.latents)}
        if self.frames is not None and reference.frames is not None:
            both["levels"] = float((self.frames.int() - reference.frames.int()).abs().double().mean())
        return both


def results_of(pipeline: Pipeline) -> Results:
    """A clip through all stages."""
    pipeline.keep_result = True
    for stage in (pipeline.encode, pipeline.transformer, pipeline.decode):
        stage()
    return Results(torch.cat([piece.float().cpu() for piece in pipeline.restored]), pipeline.result)


def distances(
    results: Results, preset: Preset, request: Request, parallel: Parallel, clip: NoiseClip
) -> dict[str, dict[str, float]]:
    """Distances by name: of `results` to one rank's and to float32, and of the reference path in the same dtype to it.

    Every rank of a group computes the references for itself.
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
