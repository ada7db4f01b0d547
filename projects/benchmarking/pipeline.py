"""Times each stage of `restore_clip` separately, on a clip that is made in memory."""

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
    """A reader of random frames, uint8 [3, height, width] each, the same on every rank."""

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
    """Passes one clip through a restorer stage by stage; each stage stores the input of the next one.

    Attributes:
        latents, restored: chunks of latents [t, h, w, c], encoded and restored.
        result: uint8 [T, 3, h, w] on the group's leader if `keep_result`; else None.
    """

    def __init__(self, restorer: Restorer, clip: NoiseClip, plan: MemoryPlan, keep_result: bool = False) -> None:
        self.restorer, self.clip, self.plan, self.keep_result = restorer, clip, plan, keep_result
        self.progress = ProgressBar("", None, show=False)
        self.latents: list[Tensor] = []
        self.restored: list[Tensor] = []
        self.result: Tensor | None = None
        restorer.apply_plan(clip.info, plan)

    def encode(self) -> None:
        """Resize and encode the clip."""
        self.latents = self.restored = []
        self.restorer.infer.guard.begin()
        rows, latent_size = self.restorer.rows(self.clip.info), self.restorer.latent_size(self.clip.info)
        frames = prepare(iter(self.clip), self.restorer, rows)
        self.latents = list(encode(frames, latent_size, self.restorer, rows, self.progress))

    def transformer(self) -> None:
        self.restored = []
        self.restored = list(sample(iter(self.latents), self.restorer, self.progress))

    def decode(self) -> None:
        """Decode the restored latents, resize the input for the colour fix, fix colours and round to 8 bits."""
        info, rows = self.clip.info, self.restorer.rows(self.clip.info)
        size = self.restorer.geometry.output_size(info.height, info.width)
        inputs, restored = iter(self.clip), iter(self.restored)
        self._take(decode_and_finish(restored, inputs, Finisher(size, self.restorer), rows))

    def whole(self) -> None:
        """Run all stages interleaved, as for a file."""
        self.latents = self.restored = []
        frames, inputs = iter(self.clip), iter(self.clip)
        self._take(restore_frames(self.clip.info, frames, inputs, self.restorer, self.progress))

    def _take(self, finished: Iterator[Finished]) -> None:
        """Wait for the results on the host, one slice behind the device, as a writer does."""
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
    """Time, memory and communication of one stage.

    seconds: time of the slowest rank.
    peak_gib: memory peak of every rank of the group, in GiB.
    sent: bytes that this rank sent, by purpose.
    """

    seconds: float
    peak_gib: tuple[float, ...]
    sent: dict[str, int]


def time_stages(pipeline: Pipeline, runs: int, warm_up: int, whole: bool) -> dict[str, dict[str, Any]]:
    """The `StageTimes` of every stage, as dictionaries by name.

    Args:
        runs: number of runs; seconds are their median, peaks their maximum.
        warm_up: number of runs of all stages before them.
        whole: also time `Pipeline.whole`.
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
    """Time one call on all ranks of a group, which start it at the same time."""
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
