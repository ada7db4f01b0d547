"""The memory budget of a run, and the choice of a plan for each file: the fastest one that is predicted to fit."""

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import torch

from common.distributed.parallel import Parallel
from common.distributed.process import Process
from common.distributed.sharded_inference import ranks_that_share
from common.logger import get_logger
from data.media import ClipRange, MediaInfo, OutputOptions, Probe
from data.media.clip_range import WHOLE
from data.video.framing import causal_length, latent_frames, pixel_frames
from projects.video_diffusion_sr.communication import token_share
from projects.video_diffusion_sr.memory.plan import Demands, MemoryPlan, candidates
from projects.video_diffusion_sr.memory.predict import predict
from projects.video_diffusion_sr.memory.workload import GIB, Workload, workload_of
from projects.video_diffusion_sr.settings import RunSettings

logger = get_logger(__name__)

FREE_SHARE = 0.95  # fraction of the free memory that a run without a limit uses
SAFETY = 1.03  # margin for other runs than those to which predictions were fitted; none of those exceeded its own
NO_DEMANDS = Demands()
SIZES_KEPT = 2  # number of picture sizes whose graphs are kept at a time, see `common.kernels.replay.MOST`
MANY = 5  # number of pictures of one size from which on capturing a graph saves time


@dataclass(frozen=True)
class Clip:
    """The facts of a file on which its plan depends.

    height, width: size of its frames in pixels.
    frames: number of frames according to the container; None if it does not say.
    still: the file is a single picture, so this number is certain.
    repeated: for a picture whose size many others have, the number of such sizes, at most `SIZES_KEPT`; else 0.
    deep: the file has more than 8 bits per sample, so pixels are float32 and results 16-bit words.
    """

    height: int
    width: int
    frames: int | None
    still: bool = False
    repeated: int = 0
    deep: bool = False


def clip_of(info: MediaInfo | Probe, output: OutputOptions | None = None, clip_range: ClipRange = WHOLE) -> Clip:
    """The facts that planning needs, of an opened or probed file.

    Args:
        output: how the result is stored.
        clip_range: the part of the file that is restored.
    """
    more = output is not None and (output.bit_depth or 8) > 8
    deep = info.depth > 8 or more
    return Clip(info.height, info.width, clip_range.frames(info), info.kind == "image", deep=deep)


@dataclass(frozen=True)
class Budget:
    """The memory that a run may take, and the networks that share it.

    gib: device memory for this process, in GiB.
    is_hard_limit: whether the user set `gib`; otherwise it is the memory that was free.
    networks: a workload without a clip.
    settings: the settings of the run.
    demands: requirements on every plan.
    """

    gib: float
    is_hard_limit: bool
    networks: Workload
    settings: RunSettings
    demands: Demands = NO_DEMANDS

    def work(self, clip: Clip) -> Workload:
        """The workload of a file.

        Raises:
            ValueError: the length is unknown, and the transformer has to take the whole clip.
        """
        vae, window = self.networks.vae, self.settings.window
        longest = None if window is None else pixel_frames(window, vae.temporal_factor)
        if clip.frames is None and longest is None:
            raise ValueError("the file does not say how long it is, so its memory cannot be planned; use --window")
        frames = min(n for n in (clip.frames, longest) if n is not None)
        frames = causal_length(max(frames, 1), vae.temporal_factor)
        height, width = self.settings.geometry.network_size(clip.height, clip.width)
        latents = latent_frames(frames, vae.temporal_factor), height // vae.spatial_factor, width // vae.spatial_factor
        return replace(
            self.networks,
            frames=frames,
            height=height,
            width=width,
            still=clip.still,
            repeated=clip.repeated,
            long=longest is not None and (clip.frames is None or clip.frames > longest),
            source=clip.height * clip.width,
            result_bytes=2 if clip.deep else 1,
            token_share=token_share(self.networks.dit, latents, self.networks.ranks),
        )

    def plan(self, clip: Clip, blocks: bool = False, derived: frozenset[int] = frozenset()) -> MemoryPlan:
        """Choose the plan for a file. If nothing fits and there is no hard limit, take the smallest plan, and warn.

        Args:
            blocks: use block offloading, because another file needs it.
            derived: Winograd transforms whose weights another file needs.
        Raises:
            ValueError: nothing fits into a hard limit.
        """
        work = replace(self.work(clip), derived=derived)
        try:
            return choose_plan(self.gib, work, blocks, self.demands)
        except ValueError:
            if self.is_hard_limit:
                raise
            plan = smallest(work, self.demands)
            logger.warning(
                "%.1f GiB of device memory are free, and the smallest plan is predicted to need %.1f: this "
                "may fail; a smaller --res_h and --res_w or --window needs less", self.gib, plan.predicted_peak_gib,
            )  # fmt: skip
            return plan

    def plan_all(self, clips: Mapping[Path, Clip]) -> tuple[dict[Path, MemoryPlan], dict[Path, str]]:
        """Plan all files. Returns the plan of each file, and an error message for each file without a plan.

        Block offloading and the weights of Winograd transforms cannot be undone, so if one file needs them, all files
        get them. Files are planned again until no such requirement is added.
        """
        clips, blocks = self.with_repeated(clips), False
        derived: frozenset[int] = frozenset()
        while True:
            plans, refused = {}, {}
            for path, clip in clips.items():
                try:
                    plans[path] = self.plan(clip, blocks, derived)
                except ValueError as error:
                    refused[path] = f"{path.name}: {error}"
            needed = derived.union(*(plan.schedule.winograds for plan in plans.values()))
            travel = blocks or any(plan.offload == "blocks" for plan in plans.values())
            counted = all(plan.schedule.winograds | derived == needed for plan in plans.values())
            if travel == blocks and counted:
                return plans, refused
            blocks, derived = travel, needed

    def with_repeated(self, clips: Mapping[Path, Clip]) -> dict[Path, Clip]:
        """The clips, with `repeated` set for pictures whose size many others have."""
        size_of = self.settings.geometry.network_size
        sizes = Counter(size_of(clip.height, clip.width) for clip in clips.values() if clip.still)
        many = {size for size, count in sizes.items() if count >= MANY}
        count = min(len(many), SIZES_KEPT)
        return {
            path: replace(clip, repeated=count if clip.still and size_of(clip.height, clip.width) in many else 0)
            for path, clip in clips.items()
        }


def choose_plan(vram_gib: float, work: Workload, blocks: bool = False, demands: Demands = NO_DEMANDS) -> MemoryPlan:
    """Choose the fastest plan that is predicted to fit into `vram_gib` GiB.

    Args:
        blocks: consider only plans with block offloading.
        demands: consider only plans that meet these requirements.
    Raises:
        ValueError: nothing fits; the message says how much the smallest plan needs.
    """
    for candidate in demands.select(candidates(work)):
        if blocks and candidate.offload != "blocks":
            continue
        candidate = priced(candidate, work)
        if candidate.predicted_peak_gib * SAFETY <= vram_gib:
            early = priced(replace(candidate, prefetch=candidate.offload == "models"), work)
            return early if early.predicted_peak_gib * SAFETY <= vram_gib else candidate
    least = smallest(work, demands)
    needed = ceil(least.predicted_peak_gib * SAFETY * 10) / 10
    raise ValueError(
        f"{work.frames} frames of {work.width}x{work.height} do not fit into {vram_gib:g} GiB: the smallest plan needs "
        f"{needed:.1f} GiB ({least.describe()}); give it that much, or use a smaller size or fewer frames at once"
    )


def smallest(work: Workload, demands: Demands = NO_DEMANDS) -> MemoryPlan:
    """The plan with the smallest predicted memory."""
    plans = (priced(plan, work) for plan in demands.select(candidates(work)))
    return min(plans, key=lambda plan: plan.predicted_peak_gib)


def priced(plan: MemoryPlan, work: Workload) -> MemoryPlan:
    """Return the plan with its predicted peaks."""
    return replace(plan, predicted=tuple(predict(plan, work).items()))


def read_budget(settings: RunSettings, parallel: Parallel) -> Budget | None:
    """The budget of a run on a CUDA device: `--vram`, or the free memory; None on other devices. Reads no weights.

    If the user sets a limit, PyTorch's allocator is limited to it as well.
    """
    device, request = settings.device, settings.request
    if device.type != "cuda":
        if request.vram is not None and parallel.process.is_leader:
            logger.warning(
                "--vram %g bounds the memory of a GPU; on the %s it has no effect", request.vram, device.type
            )
        return None
    free = _least_free(parallel)
    if request.vram is not None:
        if request.vram > free:
            logger.warning("--vram %g: only %.1f GiB of the device are free, which is the bound", request.vram, free)
        _hold_allocator_to(device, min(request.vram, free))
    gib = FREE_SHARE * free if request.vram is None else min(request.vram, free)
    return make_budget(settings, parallel, gib)


def make_budget(settings: RunSettings, parallel: Parallel, gib: float) -> Budget:
    """Make a budget of `gib` GiB for the networks of a run, before they have weights."""
    request = settings.request
    networks = workload_of(
        settings.vae,
        settings.dit,
        settings.dtype,
        slice_frames=settings.slice_frames,
        fixed_slices=settings.fixed_slices,
        texts=settings.texts,
        ranks=parallel.size,
        sharing=ranks_that_share(parallel.process, parallel.size) if request.shard_weights else 1,
        storage_8_bit=request.weights_8_bit,
    )
    return Budget(gib, request.vram is not None, networks, settings)


def _least_free(parallel: Parallel) -> float:
    """The smallest free memory of a rank in the group, in GiB; processes on one GPU divide its memory."""
    process = parallel.process
    free = torch.cuda.mem_get_info(process.device)[0] / GIB / _processes_on_a_gpu(process)
    if parallel.size == 1:
        return free
    rows = parallel.group.gather_rows(torch.tensor([[free]]), [1] * parallel.size, "free memory")
    return float(rows.min())


def _processes_on_a_gpu(process: Process) -> int:
    return max(-(-process.local_world // torch.cuda.device_count()), 1)


def _hold_allocator_to(device: torch.device, gib: float) -> None:
    """Make the allocator return cached memory, and then fail, instead of reserving more than `gib` GiB."""
    # Expandable segments leave no gaps between tensors of different sizes. If this private call disappears, go without.
    settings = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
    if sys.platform == "linux" and settings is not None:
        settings("expandable_segments:True")
    total = torch.cuda.get_device_properties(device).total_memory / GIB
    torch.cuda.set_per_process_memory_fraction(min(gib / total, 1.0), device)
