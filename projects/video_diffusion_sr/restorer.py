"""What all files of a run share: the networks, and everything else that does not depend on the file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from common.distributed.parallel import Parallel
from common.distributed.row_parallel import Rows, UnshardedClip
from data.media import ClipRange, MediaInfo
from data.media.video_reader import Deinterlace
from data.video.framing import causal_length, latents_within
from models.video_vae_v3.modules.reach import decoder_reach, encoder_reach
from projects.video_diffusion_sr.geometry import Geometry
from projects.video_diffusion_sr.infer import VideoDiffusionInfer
from projects.video_diffusion_sr.memory.plan import MemoryPlan
from projects.video_diffusion_sr.record import Recorder
from projects.video_diffusion_sr.request import ResultOptions
from projects.video_diffusion_sr.scene_cuts import SceneCuts
from projects.video_diffusion_sr.segments import Grid, Place, RunIn, run_in

MOST_EXPECTED = 2**23  # latent positions of a clip whose container may be wrong about its length; 720p x 97 has 360,000


@dataclass(frozen=True)
class Restorer:
    """The networks and everything about a run that does not depend on the file."""

    infer: VideoDiffusionInfer
    geometry: Geometry
    seed: int
    default_plan: Callable[[int, int, bool], MemoryPlan]  # of the networks' height and width, and whether it is a still
    window: int | None  # latent frames that go through the transformer at once; None: all
    parallel: Parallel  # the ranks, and those that share a clip
    use_sample: bool = True  # encode to a sample of the posterior, not its mean
    result_options: ResultOptions = field(default_factory=ResultOptions)
    deinterlace: Deinterlace = "auto"
    clip_range: ClipRange = field(default_factory=ClipRange)  # the part of each clip that is restored
    recorder: Recorder | None = None  # writes a record beside each result
    cuts: SceneCuts = field(default_factory=SceneCuts)
    identity: Mapping[str, str] | None = None  # of all but the file, see `resume`; None: nothing is kept of a file
    overlap: bool = True  # reading and writing happen in threads beside the one that computes

    @property
    def device(self) -> torch.device:
        return self.infer.device

    def latent_size(self, info: MediaInfo) -> tuple[int, int]:
        """(h, w) of the latents of a file."""
        return tuple(n // self.infer.vae.spatial_factor for n in self.geometry.network_size(info.height, info.width))

    def rows(self, info: MediaInfo) -> Rows:
        """How the ranks that share the current clip share its pictures; tiles are of whole pictures, so every rank
        computes all of them."""
        return UnshardedClip() if self.infer.stages.schedule.tile else self.parallel.rows(self.latent_size(info)[0])

    @property
    def slice_frames(self) -> int | None:
        """Frames of the current clip that go through the VAE at once, after the first; None: all."""
        return self.infer.stages.schedule.slice_frames

    @property
    def grid(self) -> Grid:
        """Where windows end and slices begin, of the current clip."""
        return Grid(self.window, self.slice_frames, self.infer.vae.temporal_factor)

    def expected_latents(self, info: MediaInfo) -> tuple[int, int, int] | None:
        """The latents (t, h, w) of a clip's first window, if its container is right about its length.

        None for pictures, for clips of unknown length, and for lengths that are hardly true.
        """
        if info.frame_count_hint is None:
            return None
        factor, (height, width) = self.infer.vae.temporal_factor, self.latent_size(info)
        latents = latents_within(causal_length(info.frame_count_hint, factor), factor)
        latents = latents if self.window is None else min(latents, self.window)
        return (latents, height, width) if 1 < latents <= MOST_EXPECTED // (height * width) else None

    def run_in(self, place: Place) -> RunIn:
        """What is computed again before a place of the current clip."""
        vae, schedule = self.infer.vae, self.infer.stages.schedule
        return run_in(place, self.grid, encoder_reach(vae, schedule), decoder_reach(vae, schedule))

    def first_read(self, place: Place) -> int:
        """The first frame of the current clip that is read to go on at a place."""
        return place.shot + self.grid.factor * self.run_in(place).encoded

    def apply_plan(self, info: MediaInfo, plan: MemoryPlan | None = None) -> MemoryPlan:
        """Begin with a file: run it by this plan, or by the default one for its size. Returns the plan."""
        if plan is None:
            plan = self.default_plan(*self.geometry.network_size(info.height, info.width), info.kind == "image")
        self.infer.stages.apply_plan(plan)
        return plan
