"""Reads and writes the files of one clip: decodes frames ahead, writes results behind, and completes the output.

Two threads run beside the computing thread. One decodes the input; the other waits for finished frames, encodes and
writes them. The bytes in the queues between them are bounded, so memory does not depend on the length of a clip.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from fractions import Fraction
from itertools import tee
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from torch import Tensor

from common.background import ReadAhead, ReadInPlace, WriteBehind, WriteInPlace
from common.logger import get_logger
from data.media import Frame, MediaInfo
from projects.video_diffusion_sr.file_errors import InputError, OutputError, rebuild
from projects.video_diffusion_sr.finite_guard import check_marks
from projects.video_diffusion_sr.input_file import frames_of, open_input
from projects.video_diffusion_sr.memory.plan import MemoryPlan
from projects.video_diffusion_sr.output_form import alpha_wanted, pixel_path, place_of_result
from projects.video_diffusion_sr.output_size import say_size
from projects.video_diffusion_sr.report import Report, Waits, peak
from projects.video_diffusion_sr.restorer import Restorer
from projects.video_diffusion_sr.result import Existing, Result
from projects.video_diffusion_sr.resume import identity_of
from projects.video_diffusion_sr.scene_cuts import OFF, SceneCuts
from projects.video_diffusion_sr.segments import Place

logger = get_logger(__name__)

READ_AHEAD = 64 * 2**20  # bytes of decoded frames that wait for the networks
WRITE_BEHIND = 128 * 2**20  # bytes of finished frames that wait for the encoder
RGB_BYTES = 3  # bytes per pixel of a finished 8-bit picture
PIXEL_BYTES = 3 / 2  # bytes per pixel of a decoded 8-bit frame, about (4:2:0)
NO_CUTS = SceneCuts(OFF)
KEPT = 512 * 2**20  # bytes of frames that wait for the colour fix; a file with more is read a second time


class FinishedSlice(Protocol):
    """Finished frames, see `to_frames.Finished`."""

    @property
    def times(self) -> list[Fraction]: ...

    @property
    def stages(self) -> tuple[str, ...]: ...

    @property
    def borders(self) -> Mapping[int, int]: ...

    @property
    def nbytes(self) -> int: ...

    def arrive(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor] | None, Tensor]: ...


class ClipRun:
    """One file in progress. It is a context manager; leaving it without `complete` removes the unfinished output.

    Entering it opens the input, claims the result and starts to read. `write` passes finished frames to the writer,
    `end` marks the end of the frames, and `complete` waits for the writer and gives the result its name.

    Attributes:
        info: the facts of the input.
        frames, inputs: the frames of the input, for the networks and once more for the colour fix.
        path: converts the file's pixels for the networks, and their results to what the file stores.
        place: the frame at which the clip starts or, after an interruption, continues.
    """

    def __init__(self, source: Path, output_dir: Path, restorer: Restorer, existing: Existing = "replace") -> None:
        self.source = source
        self.is_leader, self._restorer = restorer.parallel.is_leader, restorer
        self._failure: Exception | None = None
        self._written, self._stopped = 0, False
        self._readers: list[ReadAhead[Frame] | ReadInPlace[Frame]] = []
        self._stack = ExitStack()
        with self._stack:
            with restorer.parallel.outcomes.same_for_all(Exception, rebuild=rebuild):
                self._open(output_dir, existing)
            self.place = self._same_place()
            if self.place == Place():  # otherwise the first frame to read depends on the plan
                self._begin_reading(self._stack, 0)
            self._opened = self._stack.pop_all()  # only now, so that a failure of another rank closes everything above

    def _open(self, output_dir: Path, existing: Existing) -> None:
        restorer, enter = self._restorer, self._stack.enter_context
        options, alpha = restorer.result_options, alpha_wanted(restorer.result_options.stored)
        self.reader = enter(open_input(self.source, restorer.deinterlace, restorer.clip_range, alpha))
        self.info: MediaInfo = self.reader.info
        self.output = place_of_result(self.source, output_dir, self.info, options, restorer.clip_range)
        self.size = restorer.geometry.output_size(self.info.height, self.info.width)
        self.path = pixel_path(self.info, options)
        self.result: Result | None = None
        if self.is_leader:
            identity = identity_of(restorer, self.info, self.size)
            self.result = enter(
                Result(self.output, self.info, self.size, existing=existing, options=options, identity=identity)
            )
            say_size(self.source, (self.info.height, self.info.width), self.size)
        self.writer: WriteBehind[FinishedSlice] | WriteInPlace[FinishedSlice]
        if restorer.overlap:
            self.writer = enter(WriteBehind(self._write, lambda finished: finished.nbytes, WRITE_BEHIND))
        else:
            self.writer = enter(WriteInPlace(self._write))

    def _same_place(self) -> Place:
        """The frame at which the clip continues. The first rank of the group reads it, and all ranks get it."""
        place = "" if self.result is None else json.dumps([self.result.writer.frames, self.result.writer.shot])
        frame, shot = json.loads(self._restorer.parallel.outcomes.exchange(place)[0])
        if self.is_leader and frame:
            logger.info("%s: goes on behind the %d frames that an earlier run has kept", self.source.name, frame)
        self._written = frame
        return Place(frame, shot)

    def _begin_reading(self, stack: ExitStack, first: int) -> None:
        """Yield the frames from number `first` on; earlier frames are decoded and dropped."""
        restorer, self._frames_read = self._restorer, first
        self._cuts: list[tuple[int, Fraction]] = []
        frames = self._read(stack, frames_of(self.reader, restorer.cuts, first, self._cuts))
        if fits(self.info, restorer.window, restorer.infer.vae.temporal_factor):
            self.frames, self.inputs = tee(self._count(frames))
        else:
            again = stack.enter_context(self.reader.reopened())
            self.frames, self.inputs = self._count(frames), self._read(stack, frames_of(again, NO_CUTS, first))

    def _read(self, stack: ExitStack, frames: Iterator[Frame]) -> Iterator[Frame]:
        reader: ReadAhead[Frame] | ReadInPlace[Frame]
        reader = ReadAhead(frames, bytes_of, READ_AHEAD) if self._restorer.overlap else ReadInPlace(frames)
        stack.enter_context(reader)
        self._readers.append(reader)
        return reader

    def _count(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        for frame in frames:
            self._frames_read += 1
            yield frame

    def begin(self, plan: MemoryPlan) -> None:
        """Note that computation of the clip starts now, with this plan."""
        self._started, self._plan = time.perf_counter(), plan
        self._writer_idle, self._writer_free = 0.0, self._started  # from now on only the writer changes them
        if self.place != Place():
            self._begin_reading(self._opened, self._restorer.first_read(self.place))

    @property
    def behind(self) -> int:
        """About the number of bytes of finished frames that may wait for the writer."""
        height, width = self.size
        bytes_of_pixel = RGB_BYTES * self.path.bits // 8
        return min(WRITE_BEHIND, bytes_of_pixel * height * width) if self.info.kind == "image" else WRITE_BEHIND

    def stored(self, frames: Tensor) -> tuple[Tensor, ...]:
        """Convert frames to the planes that the file stores (`MediaWriter.planes_for`); on the leader only."""
        return self._leaders_result.writer.planes_for(frames)

    @property
    def _leaders_result(self) -> Result:
        assert self.result is not None, "only the leader of a group has one"
        return self.result

    def write(self, finished: FinishedSlice) -> None:
        """Pass finished frames to the writer. An error of the writer is raised here or in `end`.

        If ranks share the clip, it is raised in `end` only, because the other ranks would wait for a rank that stops.
        """
        if self._failure is None:
            try:
                self.writer.put(finished)
            except Exception as error:
                if self._restorer.parallel.size == 1:
                    raise
                self._failure = error

    def _write(self, finished: FinishedSlice) -> None:
        """Wait for pixels, check them, and write them. This runs in the writer's thread."""
        stored, compared, marks = finished.arrive()
        self._writer_idle += time.perf_counter() - self._writer_free
        check_marks(self.source.name, finished.stages, marks)
        self._leaders_result.write(stored, finished.times, compared, finished.borders)
        self._written += len(finished.times)
        self._writer_free = time.perf_counter()

    def end(self) -> None:
        """Mark the end of the frames. If ranks share the clip, wait for the writer, so that all ranks agree."""
        if self._failure is not None:
            raise self._failure
        stages = self._restorer.infer.stages
        self._memory = peak(self._restorer.device, self._plan, stages.held_bytes)
        self._times = stages.times  # the times of this clip; the next clip gets a new object
        self._computed, self._blocked = time.perf_counter(), self.writer.waited  # before `finish` adds to it
        if self._restorer.parallel.size > 1:
            self._finish_writing()

    def _finish_writing(self) -> None:
        self.writer.finish()
        if self._stopped:
            raise OutputError(f"{self.source.name}: stopped before it was written")
        if self.is_leader and self._written != self._frames_read:
            counts = f"{self._frames_read} frames were read, but {self._written} when reading it once more"
            raise InputError(f"{self.source.name}: {counts}")

    def complete(self) -> Report | None:
        """Wait for the writer, and give the result its name. Called after the last frame; may run in another thread."""
        restorer = self._restorer
        with restorer.parallel.outcomes.same_for_all(Exception, rebuild=rebuild):
            if restorer.parallel.size == 1:
                self._finish_writing()
            if self.is_leader:
                self._leaders_result.complete()
                self._restorer.cuts.write(self.source, self._cuts)
        if not self.is_leader:
            return None
        ended = time.perf_counter()
        reading = sum(reader.waited for reader in self._readers)
        report = Report(
            self.source, self.output, self._written, self.size, ended - self._started, damage=self.reader.damage,
            kept=self.place.frame,
            waits=Waits(reading, self._blocked, self._writer_idle, ended - self._computed), ended=ended,
            samples=self._leaders_result.samples.complete(), stages=self._times.seconds(), **self._memory._asdict(),
        )  # fmt: skip
        if restorer.recorder is not None:
            restorer.recorder.write(self.output, report, self.info, restorer.clip_range, self._plan)
        return report

    def stop(self) -> None:
        """Ask the writer to stop, from another thread. `complete` then fails, and the unfinished output is removed."""
        self._stopped = True
        if (writer := self.writer) is not None:
            writer.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.__exit__(kind, error, trace)
        # The writer's thread refers to a method of this object. Breaking this cycle frees the decoder, the encoder and
        # waiting frames now, instead of when the garbage collector runs.
        for name in ("writer", "frames", "inputs", "result", "reader"):
            setattr(self, name, None)


def bytes_of(frame: Frame) -> int:
    """The host memory of a decoded frame, in bytes."""
    return frame.nbytes


def fits(info: MediaInfo, window: int | None, temporal_factor: int) -> bool:
    """Whether the frames between the encoder and the colour fix fit into `KEPT` bytes.

    Args:
        window: number of latent frames that the transformer takes at once; None: all.
    """
    frames = info.frame_count_hint
    if window is not None:
        longest = (window + 1) * temporal_factor
        frames = longest if frames is None else min(frames, longest)
    of_pixel = PIXEL_BYTES * (2 if info.depth > 8 else 1) + (2 if info.transparent else 0)
    return frames is not None and frames * of_pixel * info.height * info.width <= KEPT
