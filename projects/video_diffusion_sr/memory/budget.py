"""How much device memory a run may take, and the fastest plan for each of its files that is predicted to fit."""

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import torch

from common.distributed.parallel import Parallel
from common.distributed.process import Process
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

FREE_SHARE = 0.95  # of the free memory, that a run without a bound plans with
SAFETY = 1.03  # for what differs from the runs that predictions were fitted to, none of which took more than predicted
NO_DEMANDS = Demands()
SIZES_KEPT = 2  # of pictures whose graphs are there at a time, see `common.kernels.replay.MOST`
MANY = 5  # pictures of a size, from which on recording the work of one of them pays


@dataclass(frozen=True)
class Clip:
    """The facts of a file on which its plan depends. frames: as the container says; None where it does not.

    still: one picture, which the file cannot turn out to be wrong about.
    repeated: of one of many pictures of a size, how many such sizes there are, as far as that matters; else 0.
    deep: more than 8 bits a sample: pixels come as float32, results as words of 16 bits.
    """

    height: int
    width: int
    frames: int | None
    still: bool = False
    repeated: int = 0
    deep: bool = False


def clip_of(info: MediaInfo | Probe, output: OutputOptions | None = None, clip_range: ClipRange = WHOLE) -> Clip:
    """What planning needs of a file that was opened, or looked into.

    Args:
        output: how its result is stored. clip_range: the part of it that is restored.
    """
    more = output is not None and (output.bit_depth or 8) > 8
    deep = info.depth > 8 or more
    return Clip(info.height, info.width, clip_range.frames(info), info.kind == "image", deep=deep)


@dataclass(frozen=True)
class Budget:
    """What a run may take, and what its networks need.

    gib: of device memory for this process. is_hard_limit: the user set `gib`; otherwise it is what was free.
    networks: a workload whose clip is to be filled in. demands: what every plan must do.
    """

    gib: float
    is_hard_limit: bool
    networks: Workload
    settings: RunSettings
    demands: Demands = NO_DEMANDS

    def work(self, clip: Clip) -> Workload:
        """The workload of a file.

        Raises:
            ValueError: of unknown length, and to go through the transformer whole.
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
        """The plan for a file; without a hard limit the smallest one where nothing fits, and a warning.

        Args:
            blocks: the transformer's blocks travel for another file, so for this one as well.
            derived: Winograd transforms whose weights another file needs.
        Raises:
            ValueError: nothing fits, under a hard limit.
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
        """(the plan of each file, a sentence for each file that cannot be run).

        What one file needs and cannot be undone, all files get: travelling blocks, and the weights of every Winograd
        transform that some plan takes. So files are planned again until nothing is added.
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
        """The clips, pictures marked of which there are many."""
        size_of = self.settings.geometry.network_size
        sizes = Counter(size_of(clip.height, clip.width) for clip in clips.values() if clip.still)
        many = {size for size, count in sizes.items() if count >= MANY}
        count = min(len(many), SIZES_KEPT)
        return {
            path: replace(clip, repeated=count if clip.still and size_of(clip.height, clip.width) in many else 0)
            for path, clip in clips.items()
        }


def choose_plan(vram_gib: float, work: Workload, blocks: bool = False, demands: Demands = NO_DEMANDS) -> MemoryPlan:
    """The fastest plan predicted to stay within `vram_gib`.

    Args:
        blocks: only plans in which the transformer's blocks travel. demands: only plans that do this.
    Raises:
        ValueError: nothing fits; says what the smallest plan needs.
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
    """The plan predicted to take least."""
    plans = (priced(plan, work) for plan in demands.select(candidates(work)))
    return min(plans, key=lambda plan: plan.predicted_peak_gib)


def priced(plan: MemoryPlan, work: Workload) -> MemoryPlan:
    """The plan with its predicted peaks."""
    return replace(plan, predicted=tuple(predict(plan, work).items()))


def read_budget(settings: RunSettings, parallel: Parallel) -> Budget | None:
    """The budget of a run on a CUDA device: `--vram`, or what is free; None elsewhere. No weights are read.

    With a bound of the user's, PyTorch's allocator is kept from taking more than it.
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
    """A budget of `gib` for the networks of a run, which have no weights yet."""
    request = settings.request
    networks = workload_of(
        settings.vae,
        settings.dit,
        settings.dtype,
        slice_frames=settings.slice_frames,
        fixed_slices=settings.fixed_slices,
        texts=settings.texts,
        ranks=parallel.size,
        sharded=request.shard_weights,
        storage_8_bit=request.weights_8_bit,
    )
    return Budget(gib, request.vram is not None, networks, settings)


def _least_free(parallel: Parallel) -> float:
    """GiB that every rank of the group has free, shared among the processes on a GPU."""
    process = parallel.process
    free = torch.cuda.mem_get_info(process.device)[0] / GIB / _processes_on_a_gpu(process)
    if parallel.size == 1:
        return free
    rows = parallel.group.gather_rows(torch.tensor([[free]]), [1] * parallel.size, "free memory")
    return float(rows.min())


def _processes_on_a_gpu(process: Process) -> int:
    return max(-(-process.local_world // torch.cuda.device_count()), 1)


def _hold_allocator_to(device: torch.device, gib: float) -> None:
    """Let the allocator return cached memory, and fail, rather than reserve more than `gib`."""
    # Segments that grow leave no gaps between tensors of different sizes. The name may change, and can be missed.
    settings = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
    if sys.platform == "linux" and settings is not None:
        settings("expandable_segments:True")
    total = torch.cuda.get_device_properties(device).total_memory / GIB
    torch.cuda.set_per_process_memory_fraction(min(gib / total, 1.0), device)
