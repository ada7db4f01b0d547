"""The networks and settings that all files of a run share."""

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

MOST_EXPECTED = 2**23  # most latent positions, as a container may state a wrong length; 97 frames of 720p have 360,000


@dataclass(frozen=True)
class Restorer:
    """The networks of a run, and its settings that do not depend on the file."""

    infer: VideoDiffusionInfer
    geometry: Geometry
    seed: int
    default_plan: Callable[[int, int, bool], MemoryPlan]  # (height, width in the networks, is a still)
    window: int | None  # latent frames that go through the transformer at once; None: all
    parallel: Parallel  # the ranks, and those that share a clip
    use_sample: bool = True  # encode to a sample of the posterior, not its mean
    result_options: ResultOptions = field(default_factory=ResultOptions)
    deinterlace: Deinterlace = "auto"
    clip_range: ClipRange = field(default_factory=ClipRange)  # the part of each clip that is restored
    recorder: Recorder | None = None  # writes a record beside each result
    cuts: SceneCuts = field(default_factory=SceneCuts)
    identity: Mapping[str, str] | None = None  # identity of the run, see `resume`; None: no segments are kept
    overlap: bool = True  # read and write in separate threads

    @property
    def device(self) -> torch.device:
        return self.infer.device

    def latent_size(self, info: MediaInfo) -> tuple[int, int]:
        """(h, w) of the latents of a file."""
        return tuple(n // self.infer.vae.spatial_factor for n in self.geometry.network_size(info.height, info.width))

    def rows(self, info: MediaInfo) -> Rows:
        """How the rows of the current clip's pictures are split between ranks; with tiles every rank has all rows."""
        return UnshardedClip() if self.infer.stages.schedule.tile else self.parallel.rows(self.latent_size(info)[0])

    @property
    def slice_frames(self) -> int | None:
        """Number of frames of the current clip in a slice of the VAE, without the first frame; None: all."""
        return self.infer.stages.schedule.slice_frames

    @property
    def grid(self) -> Grid:
        """Where windows end and slices begin in the current clip."""
        return Grid(self.window, self.slice_frames, self.infer.vae.temporal_factor)

    def expected_latents(self, info: MediaInfo) -> tuple[int, int, int] | None:
        """The latents (t, h, w) of a clip's first window, according to its container.

        None for pictures, for clips of unknown length, and for lengths that are probably wrong (`MOST_EXPECTED`).
        """
        if info.frame_count_hint is None:
            return None
        factor, (height, width) = self.infer.vae.temporal_factor, self.latent_size(info)
        latents = latents_within(causal_length(info.frame_count_hint, factor), factor)
        latents = latents if self.window is None else min(latents, self.window)
        return (latents, height, width) if 1 < latents <= MOST_EXPECTED // (height * width) else None

    def run_in(self, place: Place) -> RunIn:
        """From where the current clip must be recomputed to continue at a place."""
        vae, schedule = self.infer.vae, self.infer.stages.schedule
        return run_in(place, self.grid, encoder_reach(vae, schedule), decoder_reach(vae, schedule))

    def first_read(self, place: Place) -> int:
        """The first frame of the current clip that must be read to continue at a place."""
        return place.shot + self.grid.factor * self.run_in(place).encoded

    def apply_plan(self, info: MediaInfo, plan: MemoryPlan | None = None) -> MemoryPlan:
        """Begin a file with this plan, or with the default plan for its size. Returns the plan."""
        if plan is None:
            plan = self.default_plan(*self.geometry.network_size(info.height, info.width), info.kind == "image")
        self.infer.stages.apply_plan(plan)
        return plan
