"""The interface of this package to the restoration pipeline in `projects/video_diffusion_sr`.

An `Engine` calls the functions of the pipeline in the same order as the command line, so the results are the same.
It computes on its own device, whichever device is current in the calling thread.
"""

import gc
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from common.config import load_config
from common.distributed.parallel import Parallel
from common.distributed.process import Process, choose_device
from common.distributed.timeout import TIMEOUT_S
from common.extras import MissingExtra
from common.kernels.current_device import enter_stream, inside, steps_inside, stream_of
from data.media import ClipRange, Frame, MediaError, MediaInfo, MediaReader
from data.media.video_reader import Deinterlace
from projects.video_diffusion_sr import file_errors, restore, restorer
from projects.video_diffusion_sr.build import load
from projects.video_diffusion_sr.clip_run import NO_CUTS
from projects.video_diffusion_sr.dry_run import kernels_for
from projects.video_diffusion_sr.finishing import PixelForm
from projects.video_diffusion_sr.finite_guard import check_marks
from projects.video_diffusion_sr.geometry import Geometry
from projects.video_diffusion_sr.infer import VideoDiffusionInfer
from projects.video_diffusion_sr.input_file import frames_of, open_input
from projects.video_diffusion_sr.memory.budget import Budget, clip_of, read_budget
from projects.video_diffusion_sr.memory.plan import Demands, MemoryPlan, unplanned
from projects.video_diffusion_sr.memory.stages import irreversible_parts
from projects.video_diffusion_sr.output_form import path_of
from projects.video_diffusion_sr.presets import Preset
from projects.video_diffusion_sr.record import recorder
from projects.video_diffusion_sr.request import ROOT, Request, ResultOptions
from projects.video_diffusion_sr.resume import run_identity
from projects.video_diffusion_sr.scene_cuts import SceneCuts
from projects.video_diffusion_sr.settings import RunSettings, resolve
from seedvr.clip_options import ClipOptions, Part
from seedvr.errors import InputError, MemoryPlanError, NotFiniteError, OutputError, WeightsError, errors_as
from seedvr.progress import Report


class Engine:
    """The networks of one preset on one device.

    Args:
        preset, request: the model and its settings. The size in the request is ignored, since every call has its own.
    Raises:
        InputError: a setting is invalid.
        WeightsError: weights are missing or do not fit the networks.
    """

    def __init__(self, preset: Preset, request: Request) -> None:
        self.preset, self.request = preset, request
        with errors_as(InputError, ValueError, RuntimeError):
            device = choose_device(request.device, 0)
        self.parallel = Parallel(Process(0, 1, 0, device, None, 0, TIMEOUT_S))
        self._restorer: restorer.Restorer | None = None
        self._placed: MemoryPlan | None = None  # the plan for which the networks were loaded
        self.demands = Demands()  # requirements on memory plans
        self.settings, self.budget = self._resolve()
        if self.budget is None:  # with a budget, the plan and the device of the weights depend on the clip
            self._place(unplanned(self.settings, *self.settings.geometry.network_size(*preset.res), False))

    @property
    def device(self) -> torch.device:
        """The device on which the networks compute."""
        return self.parallel.process.device

    @property
    def windowed(self) -> bool:
        """Whether clips longer than a window are restored in windows, which bounds memory."""
        return self.settings.window is not None

    def prepare(self, options: ClipOptions, info: MediaInfo) -> tuple[restorer.Restorer, MemoryPlan]:
        """Plan one clip, and load the networks as the plan requires. Returns the pipeline's restorer and the plan.

        Raises:
            MemoryPlanError: the clip does not fit into memory.
            WeightsError, InputError: as for the engine.
        """
        with errors_as(InputError, ValueError):
            geometry = replace(self.settings.geometry, size=options.size)
            geometry.output_size(info.height, info.width)
        plan = self._plan(geometry, info)
        if self._placed is not None and not is_compatible(self._placed, plan):
            self.release()
        built = self._restorer
        if built is None:
            settings = replace(self.settings, geometry=geometry)
            built = self._place(plan, kernels_for(settings, self.parallel, [(clip_of(info), plan)]))
        with errors_as(InputError, ValueError):
            infer = with_sampling(built.infer, options)
        frames_out = "png" if options.codec == "png" else None
        result = ResultOptions(options.color_fix, options.strength, frames_out=frames_out, output=options.output)
        return replace(built, infer=infer, geometry=geometry, seed=options.seed, result_options=result), plan

    def frames(
        self,
        source: Iterable[Frame],
        again: Iterable[Frame],
        info: MediaInfo,
        options: ClipOptions,
        report: Report,
        bits: Literal[8, 16] = 8,
    ) -> Generator[Tensor]:
        """Yield the restored frames in chunks [T, 3, h, w] on the CPU, as many as the source has. HDR becomes SDR.

        Args:
            source: the frames of the clip.
            again: an iterator of the same frames, which is read when results are finished (for the colour fix).
            info: size, depth and length of the clip; its path is used in messages only.
            bits: bits per value of the result: 8 (uint8), or 16 (unsigned 16-bit values in int16 tensors).
        """

        def slices() -> Generator[Tensor]:
            made, plan = self.prepare(options, info)
            made.apply_plan(info, plan)
            frames, inputs = marked(source, info, made.cuts), marked(again, info, NO_CUTS)
            form = PixelForm(path_of(info, "sdr", bits))
            with running():
                for finished in restore.restore_frames(info, frames, inputs, made, report, form):
                    (result,), _, marks = finished.arrive()
                    check_marks(info.path.name, finished.stages, marks)
                    report.advance("decode", len(result))
                    if len(result):
                        yield result

        return steps_inside(self.device, slices())

    def file(self, source: Path, folder: Path, options: ClipOptions, report: Report, part: Part) -> Path:
        """Restore a part of a file into a folder, with the same name as the command line. Returns the result's path."""
        info, clip_range = info_of(source), part.clip_range
        made, plan = self.prepare(options, replace(info, frame_count_hint=clip_range.frames(info)))
        made = replace(made, clip_range=clip_range)
        if part.record:
            made = replace(made, recorder=recorder(self._settings_of(options, made)))
        if part.resume:
            made = replace(made, identity=run_identity(self._settings_of(options, made)))
        with running(), inside(self.device):
            done = restore.restore_clip(
                source, folder, made, plan=plan, new_progress=lambda name, frames, show: report.expecting(frames)
            )
        assert done is not None, "nothing in the folder stands in the way of the result"
        return done.output

    def _settings_of(self, options: ClipOptions, made: restorer.Restorer) -> RunSettings:
        """The settings that the same run has on the command line."""
        request = replace(
            self.request, size=options.size, seed=options.seed, steps=options.steps, cfg_scale=options.guidance,
            result_options=made.result_options, clip_range=made.clip_range,
        )  # fmt: skip
        return replace(self.settings, request=request, sampling=made.infer.sampling)

    def in_this_stream(self, run: Callable[[Iterator[Any]], Iterable[Any]]) -> Callable[[Iterator[Any]], Iterable[Any]]:
        """`run` for another thread, where it queues its work in the stream that is current in the calling thread."""
        stream = stream_of(self.device)

        def run_there(frames: Iterator[Any]) -> Iterable[Any]:
            enter_stream(stream)
            return run(frames)

        return run_there

    def release(self) -> None:
        """Free the memory of the networks' weights; `prepare` loads them again."""
        self._restorer = self._placed = None
        del self.settings, self.budget  # the weights are in the settings' networks
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.settings, self.budget = self._resolve()

    def _plan(self, geometry: Geometry, info: MediaInfo) -> MemoryPlan:
        if self.budget is None:
            size = geometry.network_size(info.height, info.width)
            return unplanned(self.settings, *size, info.kind == "image")
        placed = self._placed
        blocks = placed is not None and placed.offload == "blocks"
        derived = frozenset() if placed is None else frozenset(placed.schedule.winograds)
        with errors_as(MemoryPlanError, ValueError):
            budget = replace(self.budget, settings=replace(self.settings, geometry=geometry), demands=self.demands)
            return budget.plan(clip_of(info), blocks, derived)

    def _resolve(self) -> tuple[RunSettings, Budget | None]:
        """Return the settings that follow from the request (networks without weights), and the GPU's memory budget."""
        with errors_as(InputError, FileNotFoundError):
            load_config(self.request.config or ROOT / self.preset.config)
        with errors_as(WeightsError, FileNotFoundError), errors_as(InputError, ValueError):
            settings = resolve(self.preset, self.request, self.device)
            return settings, read_budget(settings, self.parallel)

    def _place(self, plan: MemoryPlan, beside: AbstractContextManager[None] | None = None) -> restorer.Restorer:
        """Load the networks' weights onto the devices that a plan chooses.

        Args:
            beside: a context around the loading, see `dry_run.kernels_for`.
        """
        refusals = errors_as(WeightsError, ValueError, FileNotFoundError, MissingExtra)
        with refusals, inside(self.device), beside or nullcontext():
            built = load(self.settings, self.parallel, [plan])
        self._restorer, self._placed = built, plan
        return built


def marked(source: Iterable[Frame], info: MediaInfo, cuts: SceneCuts) -> Iterator[Frame]:
    """Yield the frames, and mark the first frame of each shot."""
    return frames_of(source, cuts) if isinstance(source, MediaReader) else cuts.mark(iter(source), info.path, [])


def is_compatible(placed: MemoryPlan, plan: MemoryPlan) -> bool:
    """Whether networks that were loaded for one plan can run another plan."""
    return (
        irreversible_parts(placed) == irreversible_parts(plan)
        and (plan.offload == "none" or placed.offload != "none")
        and set(plan.schedule.winograds) <= set(placed.schedule.winograds)
    )


def with_sampling(infer: VideoDiffusionInfer, options: ClipOptions) -> VideoDiffusionInfer:
    """The same networks, with the caller's number of steps and guidance scale."""
    sampling = infer.sampling
    if options.steps is not None:
        sampling = replace(sampling, steps=options.steps)
    if options.guidance is not None:
        sampling = replace(sampling, guidance=replace(sampling.guidance, scale=options.guidance))
    if sampling == infer.sampling:
        return infer
    return VideoDiffusionInfer(
        infer.vae, infer.dit, infer.prompts, sampling, infer.scaling_factor, infer.sequence_group, infer.stages
    )


def open_clip(path: Path, deinterlace: Deinterlace) -> MediaReader:
    """Open a file for reading; InputError if it is missing or is not a clip."""
    with errors_as(InputError, ValueError):
        return open_input(path, deinterlace, ClipRange())


def info_of(path: Path) -> MediaInfo:
    """Read the facts of a file from its header."""
    with open_clip(path, "never") as reader:
        return reader.info


def facts(pixels: Tensor, frames: int | None) -> MediaInfo:
    """The facts of a clip in memory, from its frames [..., 3, H, W]. A clip of one frame counts as a picture."""
    height, width = pixels.shape[-2:]
    depth = 32 if pixels.is_floating_point() else 8
    return MediaInfo(
        Path("frames"), "image" if frames == 1 else "video", width, height, frame_count_hint=frames, depth=depth
    )


@contextmanager
def running() -> Iterator[None]:
    """A context that converts errors of the pipeline to this package's. Errors of callbacks and iterators pass."""
    try:
        yield
    except MediaError as error:
        kinds = {file_errors.NotFiniteError: NotFiniteError, file_errors.OutputError: OutputError}
        raise kinds.get(type(error), InputError)(str(error)) from error
    except torch.OutOfMemoryError as error:
        raise MemoryPlanError(
            "out of device memory; give load() a smaller vram or window, or ask for a smaller size"
        ) from error
