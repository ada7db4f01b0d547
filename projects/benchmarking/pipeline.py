"""The stages of one clip as `restore_clip` runs them, on a clip that was made in memory, each timed by itself."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from data.media import Frame, MediaInfo, MediaReader
from projects.benchmarking.timing import peak_gib, timed
from projects.video_diffusion_sr.finishing import Finisher
from projects.video_diffusion_sr.memory.plan import MemoryPlan
from projects.video_diffusion_sr.progress import ProgressBar
from projects.video_diffusion_sr.restore import restore_frames, sample
from projects.video_diffusion_sr.restorer import Restorer
from projects.video_diffusion_sr.to_frames import Finished, decode_and_finish
from projects.video_diffusion_sr.to_latents import encode, prepare

STAGES = ("encode", "transformer", "decode", "whole")
RATE = 25


class NoiseClip(MediaReader):
    """Random pixels as a file would give them, u8 [3, height, width] a frame; the same on every rank."""

    def __init__(self, frames: int, height: int, width: int) -> None:
        self.frames = frames
        self.info = MediaInfo(
            Path("noise"), "image" if frames == 1 else "video", width, height, frame_count_hint=frames
        )
        generator = torch.Generator().manual_seed(0)
        self._pixels = torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8, generator=generator)

    def _frames(self) -> Generator[Frame]:
        for number, pixels in enumerate(self._pixels):
            yield Frame.of_rgb(pixels, Fraction(number, RATE))


class Pipeline:
    """One clip through a restorer, stage by stage: each leaves what the next one takes.

    Attributes:
        latents, restored: pieces [t, h, w, c], as the stages hand them on. result: u8 [T, 3, h, w] on the group's
            leader, None elsewhere; kept where `keep_result`.
    """

    def __init__(self, restorer: Restorer, clip: NoiseClip, plan: MemoryPlan, keep_result: bool = False) -> None:
        self.restorer, self.clip, self.plan, self.keep_result = restorer, clip, plan, keep_result
        self.progress = ProgressBar("", None, show=False)
        self.latents: list[Tensor] = []
        self.restored: list[Tensor] = []
        self.result: Tensor | None = None
        restorer.apply_plan(clip.info, plan)

    def encode(self) -> None:
        """Resizing included."""
        self.latents = self.restored = []
        self.restorer.infer.guard.begin()
        rows, latent_size = self.restorer.rows(self.clip.info), self.restorer.latent_size(self.clip.info)
        frames = prepare(iter(self.clip), self.restorer, rows)
        self.latents = list(encode(frames, latent_size, self.restorer, rows, self.progress))

    def transformer(self) -> None:
        self.restored = []
        self.restored = list(sample(iter(self.latents), self.restorer, self.progress))

    def decode(self) -> None:
        """Resizing for the colour fix, the fix and the rounding included."""
        info, rows = self.clip.info, self.restorer.rows(self.clip.info)
        size = self.restorer.geometry.output_size(info.height, info.width)
        inputs, restored = iter(self.clip), iter(self.restored)
        self._take(decode_and_finish(restored, inputs, Finisher(size, self.restorer), rows))

    def whole(self) -> None:
        """All stages in one go, as a file goes."""
        self.latents = self.restored = []
        frames, inputs = iter(self.clip), iter(self.clip)
        self._take(restore_frames(self.clip.info, frames, inputs, self.restorer, self.progress))

    def _take(self, finished: Iterator[Finished]) -> None:
        """The results on the host, a slice behind the device as a writer takes them."""
        waiting = []
        for frames_of_slice in finished:
            waiting.append(frames_of_slice)
            if len(waiting) > 1 and not self.keep_result:
                waiting.pop(0).arrive()
        frames = [frames_of_slice.arrive()[0][0] for frames_of_slice in waiting]
        if self.keep_result and frames:
            self.result = torch.cat(frames)


@dataclass(frozen=True)
class StageTimes:
    """One stage. seconds: of the slowest rank. peak_gib: of every rank of the group. sent: by this rank, by purpose."""

    seconds: float
    peak_gib: tuple[float, ...]
    sent: dict[str, int]


def time_stages(pipeline: Pipeline, runs: int, warm_up: int, whole: bool) -> dict[str, dict[str, Any]]:
    """Every stage's `StageTimes`, the median of `runs` after `warm_up` runs of all stages.

    Args:
        whole: also time all stages in one go.
    """
    names = STAGES if whole else STAGES[:-1]
    taken: dict[str, list[StageTimes]] = {name: [] for name in names}
    for run in range(warm_up + runs):
        for name in names:
            times = one_run(getattr(pipeline, name), pipeline.restorer)
            if run >= warm_up:
                taken[name].append(times)
    return {name: _middle(of_stage) for name, of_stage in taken.items()}


def one_run(run: Callable[[], None], restorer: Restorer) -> StageTimes:
    """One call on all ranks of a group, which begin together."""
    parallel, device = restorer.parallel, restorer.device
    before = dict(parallel.traffic.sent)
    parallel.process.barrier()
    with peak_gib(device) as peak:
        seconds = timed(run, device)
        of_rank = seconds, peak() + restorer.infer.stages.held_bytes / 2**30
    sent = {name: count - before.get(name, 0) for name, count in parallel.traffic.sent.items()}
    sent = {name: count for name, count in sent.items() if count}
    rows = [of_rank] if parallel.size == 1 else parallel.group.gather_rows(
        torch.tensor([of_rank], dtype=torch.float64), [1] * parallel.size, "benchmark"
    ).tolist()  # fmt: skip
    return StageTimes(max(row[0] for row in rows), tuple(row[1] for row in rows), sent)


def _middle(of_stage: list[StageTimes]) -> dict[str, Any]:
    peaks = tuple(max(column) for column in zip(*(times.peak_gib for times in of_stage), strict=True))
    return asdict(StageTimes(median(times.seconds for times in of_stage), peaks, of_stage[-1].sent))
