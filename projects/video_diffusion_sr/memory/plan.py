"""Memory plans: the possible ways to run the networks, from the fastest to the one with the least memory.

Plans that change the result (tiles) come last. 8-bit weights are used only if the user asks for them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import ceil

from models.video_vae_v3.modules.schedule import (
    DIRECT,
    F23,
    F43,
    Schedule,
    default_schedule,
    filled_slice,
)
from models.video_vae_v3.modules.tiling import tile_spans
from projects.video_diffusion_sr.memory.workload import Workload
from projects.video_diffusion_sr.settings import RunSettings

TOKEN_CHUNK = 8192
SMALLEST_TILE = 32  # latents
TILED_SLICE = 32  # frames; the carried frames of a tile are copied to the host and back once per slice
TILE_OVERLAP = 8  # latents
MOST_REPLAYED = 2**21  # pixels; for larger pictures the device takes longer than launching the kernels
TIGHT_SCORES = 2**28  # bytes of attention scores at a time, with tiles
OFFLOADS = ("none", "models", "blocks")  # what is offloaded: nothing, the idle network, the transformer's blocks


@dataclass(frozen=True)
class MemoryPlan:
    """How the networks run a clip.

    schedule: how the clip passes through the VAE.
    token_chunk: largest number of tokens that a feed-forward layer processes at once; None: all.
    offload: "none": both networks stay on the device; "models": only one of them at a time; "blocks": the transformer's
        blocks are copied to the device one by one.
    prefetch: copy the transformer's weights to the device while the VAE encodes.
    offload_carried: while the VAE is idle, keep the frames that it carries between slices of a long clip on the host.
    storage_8_bit: store the transformer's weights as 8-bit floats.
    replay: capture the kernels of a picture as a CUDA graph, and replay it for the next pictures of this size.
    predicted: the peaks of "encode", "transformer" and "decode" on the busiest rank, in GiB.
    """

    schedule: Schedule
    token_chunk: int | None = None
    offload: str = "none"
    prefetch: bool = False
    offload_carried: bool = False
    storage_8_bit: bool = False
    replay: bool = False
    predicted: tuple[tuple[str, float], ...] = ()

    @property
    def predicted_peak_gib(self) -> float:
        return max((gib for _, gib in self.predicted), default=0.0)

    @property
    def saves_memory(self) -> bool:
        """Whether the plan does anything that is only needed to save memory."""
        slower = bool(self.schedule.winograds) and F43 not in self.schedule.winograds
        return slower or self.offload != "none" or self.token_chunk is not None or self.schedule.tile is not None

    def describe(self) -> str:
        """Describe the plan in one line for the user."""
        parts = [
            {"none": "both networks stay on the device", "models": "one network at a time on the device"}.get(
                self.offload, "the transformer's blocks travel one after the other"
            )
        ]
        frames = self.schedule.slice_frames
        if not self.schedule.single_frame:
            parts += ["VAE in slices of " + (f"{frames} frames" if frames else "the whole clip")]
        parts += [f"Winograd F({m}, 3) at its large levels" for m in sorted(self.schedule.winograds)]
        parts += [f"VAE tiles of {self.schedule.tile} latents (not exact)"] if self.schedule.tile else []
        parts += ["pictures by CUDA graphs"] if self.replay else []
        parts += [f"{self.token_chunk} tokens at once in feed-forward layers"] if self.token_chunk else []
        parts += ["carried frames wait on the host"] if self.offload_carried else []
        parts += ["8-bit weights (not exact)"] if self.storage_8_bit else []
        if self.predicted:
            peaks = ", ".join(f"{stage} {gib:.1f}" for stage, gib in self.predicted)
            parts += [f"predicted peak {self.predicted_peak_gib:.1f} GiB ({peaks})"]
        return "; ".join(parts)


@dataclass(frozen=True)
class Demands:
    """Requirements on all plans of a run, even if more memory is free.

    offload: the least offloading, one of `OFFLOADS`.
    tiles: the VAE processes pictures in tiles, unless they are smaller than the smallest tile.
    """

    offload: str = "none"
    tiles: bool = False

    def select(self, plans: Iterable[MemoryPlan]) -> list[MemoryPlan]:
        """Select the plans that meet the requirements, in their order."""
        plans = list(plans)
        tiles = self.tiles and any(plan.schedule.tile is not None for plan in plans)
        least = OFFLOADS.index(self.offload)
        return [
            plan
            for plan in plans
            if OFFLOADS.index(plan.offload) >= least and (plan.schedule.tile is not None or not tiles)
        ]


def unplanned(settings: RunSettings, height: int, width: int, still: bool) -> MemoryPlan:
    """The plan without offloading, for CPUs and for runs without a memory budget.

    Args:
        height, width: size of the networks' pictures, in pixels.
        still: the clip is a single picture.
    """
    cuda = settings.device.type == "cuda"
    numbers = None if settings.most_bytes is None else settings.most_bytes // settings.dtype.itemsize
    schedule = default_schedule(
        settings.vae.levels, height, width, settings.slice_frames, F43 if cuda else DIRECT,
        single_frame=still, most_numbers=None if cuda else numbers,
    )  # fmt: skip
    return MemoryPlan(schedule, storage_8_bit=settings.request.weights_8_bit)


def candidates(work: Workload) -> Iterator[MemoryPlan]:
    """Yield plans, roughly from the fastest to the smallest. Sharded weights are not offloaded."""
    whole, tiled = list(schedules(work)), list(tiled_schedules(work))
    last = "none" if work.sharded else "models"
    pairs = [(offload, schedule) for offload in dict.fromkeys(("none", last)) for schedule in whole]
    pairs += [(last, schedule) for schedule in tiled]
    if work.repeated and work.ranks == 1 and not work.storage_8_bit and work.pixels <= MOST_REPLAYED:
        yield MemoryPlan(whole[0], replay=True)
    for offload, schedule in pairs:
        away = work.long and offload != "none"
        plan = MemoryPlan(schedule, offload=offload, offload_carried=away, storage_8_bit=work.storage_8_bit)
        yield plan
        if work.sharded:
            yield replace(plan, token_chunk=TOKEN_CHUNK)
        if offload != "none":
            yield replace(plan, token_chunk=TOKEN_CHUNK, offload="blocks")


def schedules(work: Workload) -> Iterator[Schedule]:
    """Yield exact schedules, from the fastest to the smallest: with Winograd F(4, 3), then with F(2, 3)."""
    size = work.vae.levels, work.height, work.width
    if work.still:
        yield default_schedule(*size, work.slice_frames, single_frame=True)
        return
    for winograd in (F43, F23):
        usual, filled = work.slice_frames, filled_slice(*size, winograd)
        if not work.fixed_slices and usual is not None and usual < filled < work.frames:
            yield default_schedule(*size, filled, winograd)
        yield default_schedule(*size, usual, winograd)


def tiled_schedules(work: Workload) -> Iterator[Schedule]:
    """Yield schedules with tiles of decreasing size. With tiles, every rank of a group computes all tiles."""
    scale = work.vae.spatial_factor
    tile = max(work.height, work.width) // scale
    while tile > SMALLEST_TILE:
        tile = max(ceil(tile * 0.75 / 8) * 8, SMALLEST_TILE)
        schedule = default_schedule(work.vae.levels, *tile_size(work, tile), TILED_SLICE, F23, single_frame=work.still)
        yield replace(schedule, scores_bytes=TIGHT_SCORES, tile=tile)


def tile_size(work: Workload, tile: int) -> tuple[int, int]:
    """The height and width in pixels of tiles with sides of `tile` latents."""
    scale = work.vae.spatial_factor
    spans = [tile_spans(n // scale, tile, TILE_OVERLAP)[0] for n in (work.height, work.width)]
    return tuple((stop - start) * scale for start, stop in spans)
