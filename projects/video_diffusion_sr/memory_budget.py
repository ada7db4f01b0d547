"""How much device memory a run may take, and the plan for each of its files."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from common.config import create_object, load_config
from common.distributed.parallel import Parallel
from common.distributed.process import Process
from common.logger import get_logger
from data.video.framing import causal_length
from models.video_vae_v3.modules.fold import prepare_inference
from projects.video_diffusion_sr.build import ROOT, Request, choose_dtype, latent_window, make_geometry, read_sampling
from projects.video_diffusion_sr.geometry import Geometry
from projects.video_diffusion_sr.memory_plan import MemoryPlan, Workload, plan, smallest, weight_bytes
from projects.video_diffusion_sr.memory_prediction import GIB
from projects.video_diffusion_sr.presets import Preset

logger = get_logger(__name__)

FREE_SHARE = 0.95  # of the free memory, that a run without a bound plans with


@dataclass(frozen=True)
class Clip:
    """What planning needs to know of a file. frames: as the container says; None where it does not."""

    height: int
    width: int
    frames: int | None


@dataclass(frozen=True)
class Budget:
    """What a run may take, and what its networks need.

    gib: of device memory for this process. firm: the user's bound; otherwise what was free.
    networks: a workload whose clip is to be filled in. window: frames that the transformer takes at once; None: all.
    """

    gib: float
    firm: bool
    networks: Workload
    geometry: Geometry
    window: int | None
    parallel: Parallel

    def work(self, clip: Clip) -> Workload:
        """The workload of a file.

        Raises:
            ValueError: of unknown length, and to go through the transformer whole.
        """
        vae, multiple = self.networks.vae, self.geometry.multiple
        if clip.frames is None and self.window is None:
            raise ValueError("the file does not say how long it is, so its memory cannot be planned; use --window")
        frames = min(n for n in (clip.frames, self.window) if n is not None)
        height, width = (-(-n // multiple) * multiple for n in self.geometry.output_size(clip.height, clip.width))
        return replace(
            self.networks,
            frames=causal_length(max(frames, 1), vae.temporal_factor),
            height=height,
            width=width,
            slice_frames=self.parallel.slice_frames(vae.split_size, vae.temporal_factor, clip.frames),
            long=self.window is not None and (clip.frames is None or clip.frames > self.window),
            source=clip.height * clip.width,
        )

    def plan(self, clip: Clip, blocks: bool = False) -> MemoryPlan:
        """The plan for a file; without a firm bound the smallest one where nothing fits, and a warning.

        Raises:
            ValueError: nothing fits, with a firm bound.
        """
        work = self.work(clip)
        try:
            return plan(self.gib, work, blocks)
        except ValueError:
            if self.firm:
                raise
            way = smallest(work)
            logger.warning(
                "%.1f GiB of device memory are free, and the smallest way of running is predicted to need %.1f: this "
                "may fail; a smaller --res_h and --res_w or --window needs less", self.gib, way.predicted_peak_gib,
            )  # fmt: skip
            return way

    def plan_all(self, clips: Mapping[Path, Clip]) -> tuple[dict[Path, MemoryPlan], dict[Path, str]]:
        """(the plan of each file, a sentence for each file that cannot be run).

        Blocks that travel cannot be told to stay for the next file: where one file needs them to, all do.
        """
        ways, refused = {}, {}
        for path, clip in clips.items():
            try:
                ways[path] = self.plan(clip)
            except ValueError as error:
                refused[path] = f"{path.name}: {error}"
        if any(way.offload == "blocks" for way in ways.values()):
            ways = {path: self.plan(clips[path], blocks=True) for path in ways}
        return ways, refused


def read_budget(preset: Preset, request: Request, parallel: Parallel) -> Budget | None:
    """The budget of a run on a CUDA device: `--vram`, or what is free; None elsewhere. No weights are read.

    With a bound of the user's, PyTorch's allocator is kept from taking more than it.
    """
    device = parallel.process.device
    if device.type != "cuda":
        if request.vram is not None and parallel.process.leads:
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
    return make_budget(preset, request, parallel, gib)


def make_budget(preset: Preset, request: Request, parallel: Parallel, gib: float) -> Budget:
    """A budget of `gib` for the networks of a preset, which are built without weights to be counted."""
    config = load_config(request.config or ROOT / preset.config, request.overrides)
    dtype = choose_dtype(request.dtype, parallel.process.device, config.vae.dtype)
    with torch.device("meta"):
        vae, dit = create_object(config.vae.model).eval(), create_object(config.dit.model).to(dtype)
    prepare_inference(vae)
    vae.to(dtype).set_causal_slicing(config.vae.slicing.split_size)
    window = latent_window(preset, request, vae.temporal_factor)
    networks = Workload(
        vae, dit.config, weight_bytes(dit), weight_bytes(vae), 1, 0, 0, dtype.itemsize,
        streamed=True,
        texts=1 if read_sampling(config.diffusion, preset, request).guidance.scale == 1.0 else 2,
        ranks=parallel.size,
        sharded=request.shard_weights,
        storage_8_bit=request.weights_8_bit,
    )  # fmt: skip
    return Budget(
        gib=gib,
        firm=request.vram is not None,
        networks=networks,
        geometry=make_geometry(request, vae, dit),
        window=None if window is None else 1 + (window - 1) * vae.temporal_factor,
        parallel=parallel,
    )


def unbounded(request: Request) -> MemoryPlan:
    """Everything stays on the device: the plan for a CPU."""
    return MemoryPlan(storage_8_bit=request.weights_8_bit)


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
