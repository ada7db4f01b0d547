"""The one module in which this package meets the pipeline of `projects/video_diffusion_sr`.

Everything that an `Engine` does is in the pipeline's own functions, in the pipeline's order, so a result has the
numbers of the command line. Where the pipeline changes, this is the file that changes with it.
"""

import gc
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from common.config import create_object, load_config
from common.distributed.parallel import Parallel
from common.distributed.process import TIMEOUT_S, Process, choose_device
from common.extras import MissingExtra
from data.media import Frame, MediaError, MediaReader, open_media
from projects.video_diffusion_sr import restore
from projects.video_diffusion_sr.build import ROOT, Request, build, checkpoint_paths, choose_dtype, latent_window
from projects.video_diffusion_sr.color_fix import KINDS
from projects.video_diffusion_sr.infer import VideoDiffusionInfer
from projects.video_diffusion_sr.memory_budget import Clip, read_budget, unbounded
from projects.video_diffusion_sr.memory_plan import MemoryPlan
from projects.video_diffusion_sr.memory_stages import lasting
from projects.video_diffusion_sr.output_size import OutputSize
from projects.video_diffusion_sr.presets import Preset
from projects.video_diffusion_sr.restore import Finish, Restorer, restore_clip
from projects.video_diffusion_sr.weight_files import with_named_weights
from seedvr.errors import InputError, MemoryPlanError, WeightsError
from seedvr.progress import Report


@dataclass(frozen=True)
class Wishes:
    """What a caller asks of one clip. None: what the preset says.

    strength, color_fix: as on the command line. steps: network calls. guidance: 1 is none.
    """

    size: OutputSize
    seed: int = 666
    strength: float = 1.0
    color_fix: str = "wavelet"
    steps: int | None = None
    guidance: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise InputError(f"strength {self.strength} must lie between 0 (the input) and 1 (the restored clip)")
        if self.color_fix not in KINDS:
            raise InputError(f"unknown colour fix {self.color_fix!r}; choose one of {', '.join(KINDS)}")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps {self.steps} must be at least 1")


class Engine:
    """Networks of one preset on one device.

    Args:
        preset, request: what to build; the request's size is not used, every clip has its own.
    Raises:
        InputError: a setting that makes no sense. WeightsError: weights are missing or do not fit.
    """

    def __init__(self, preset: Preset, request: Request) -> None:
        self.preset, self.request = preset, request
        with errors_as(InputError, ValueError, RuntimeError, FileNotFoundError):
            device = choose_device(request.device, 0)
            config = load_config(request.config or ROOT / preset.config, request.overrides)
            choose_dtype(request.dtype, device, config.vae.dtype)
            with torch.device("meta"):
                latent_window(preset, request, create_object(config.vae.model).temporal_factor)
        self.parallel = Parallel(Process(0, 1, 0, device, None, 0, TIMEOUT_S))
        with errors_as(WeightsError, ValueError, FileNotFoundError, MissingExtra):
            named, config = with_named_weights(preset, config, request.checkpoint, request.vae_checkpoint)
            checkpoint_paths(named, request.ckpt_dir, config)
        with errors_as(InputError, ValueError):
            self.budget = read_budget(preset, request, self.parallel)
        self._built: tuple[Restorer, MemoryPlan] | None = None
        if self.budget is None:  # elsewhere the plan, and so where weights wait, depends on the clip
            self._place(unbounded(request))

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""
        return self.parallel.process.device

    @property
    def windowed(self) -> bool:
        """Whether clips longer than a window are restored in windows, so in bounded memory."""
        frames = self.preset.window_frames if self.request.window_frames is None else self.request.window_frames
        return frames != 0

    def prepare(self, wishes: Wishes, clip: Clip) -> Restorer:
        """The pipeline's restorer for one clip, its networks placed by the plan for that clip.

        Raises:
            MemoryPlanError: the clip does not fit. WeightsError, InputError: as for the engine.
        """
        way = self._plan(wishes, clip)
        if self._built is None or not may_follow(self._built[1], way):
            self._place(way)
        restorer = self._built[0]
        restorer.infer.stages.follow(way)
        infer, factor = restorer.infer, restorer.infer.vae.temporal_factor
        length = way.slice_frames or self.parallel.slice_frames(restorer.split_size, factor, clip.frames)
        with errors_as(InputError, ValueError):
            geometry = replace(restorer.geometry, size=wishes.size)
            geometry.output_size(clip.height, clip.width)
            infer = with_sampling(infer, wishes)
        finish = Finish(wishes.color_fix, wishes.strength)
        return replace(restorer, infer=infer, geometry=geometry, seed=wishes.seed, finish=finish, split_size=length)

    def frames(
        self, source: Iterable[Frame], again: Iterator[Frame], wishes: Wishes, clip: Clip, report: Report
    ) -> Iterator[Tensor]:
        """Restored frames, u8 [T, 3, h, w] on the CPU, piece by piece, as many in all as the source has.

        Args:
            source: the clip. again: the same frames once more, asked for when their results are finished.
        """
        restorer = self.prepare(wishes, clip)
        size = restorer.geometry.output_size(clip.height, clip.width)
        with running():
            frames = restore.prepare(source, restorer, deque(maxlen=1))  # its times are of no use here
            latents = restore.encode(frames, restorer, report)
            sampled = restore.sample(latents, restorer, report)
            for _, result in restore.decode_and_finish(sampled, again, size, restorer):
                report.advance("decode", len(result))
                if len(result):
                    yield result

    def file(self, source: Path, folder: Path, wishes: Wishes, report: Report) -> Path:
        """Restore a file into a folder, under the name that the command line gives it; the result's path."""
        clip = clip_of(source)
        restorer = self.prepare(wishes, clip)
        with running():
            done = restore_clip(source, folder, restorer, new_progress=lambda name, frames, show: report)
        return done.output

    def _plan(self, wishes: Wishes, clip: Clip) -> MemoryPlan:
        if self.budget is None:
            return unbounded(self.request)
        geometry = replace(self.budget.geometry, size=wishes.size)
        with errors_as(MemoryPlanError, ValueError):
            blocks = self._built is not None and self._built[1].offload == "blocks"
            return replace(self.budget, geometry=geometry).plan(clip, blocks=blocks)

    def _place(self, way: MemoryPlan) -> None:
        """Build the networks for a plan; another one's are dropped before."""
        if self._built is not None:
            self._built = None
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        with errors_as(WeightsError, ValueError, FileNotFoundError, MissingExtra):
            self._built = build(self.preset, self.request, self.parallel, [way]), way


def may_follow(built: MemoryPlan, way: MemoryPlan) -> bool:
    """Whether networks that were placed for one plan can run by another."""
    return lasting(built) == lasting(way) and (way.offload == "none" or built.offload != "none")


def with_sampling(infer: VideoDiffusionInfer, wishes: Wishes) -> VideoDiffusionInfer:
    """The same networks with the caller's steps and guidance."""
    sampling = infer.sampling
    if wishes.steps is not None:
        sampling = replace(sampling, steps=wishes.steps)
    if wishes.guidance is not None:
        sampling = replace(sampling, guidance=replace(sampling.guidance, scale=wishes.guidance))
    if sampling == infer.sampling:
        return infer
    return VideoDiffusionInfer(
        infer.vae, infer.dit, infer.prompts, sampling, infer.scaling_factor, infer.team, infer.stages
    )


def open_clip(path: Path, deinterlace: str) -> MediaReader:
    """A reader of a file; InputError when there is none, or it is no clip."""
    with errors_as(InputError, ValueError):
        return open_media(path, deinterlace=deinterlace)


def clip_of(path: Path) -> Clip:
    """Size and length of a file, as it says."""
    with open_clip(path, "never") as reader:
        return Clip(reader.info.height, reader.info.width, reader.info.frame_count_hint)


@contextmanager
def errors_as(kind: type[Exception], *caught: type[Exception]) -> Iterator[None]:
    """The engine's errors as one of this package's, with the same sentence."""
    try:
        yield
    except caught as error:
        raise kind(str(error)) from error


@contextmanager
def running() -> Iterator[None]:
    """Errors of a run. Only the pipeline's own are changed: what a callback or an iterator raises is its caller's."""
    try:
        yield
    except MediaError as error:
        raise InputError(str(error)) from error
    except torch.OutOfMemoryError as error:
        raise MemoryPlanError(
            "out of device memory; give load() a smaller vram or window, or ask for a smaller size"
        ) from error
