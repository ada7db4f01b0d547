"""The outputs of one file while they are written: the result, the comparison, and the samples for the page."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from torch import Tensor

from common.logger import get_logger
from data.media import BusyError, MediaError, MediaInfo, open_writer
from data.media.segmented import is_long
from projects.video_diffusion_sr.comparison import Comparison
from projects.video_diffusion_sr.file_errors import OutputError, SkippedError, sentence
from projects.video_diffusion_sr.record import remove_record
from projects.video_diffusion_sr.request import ResultOptions
from projects.video_diffusion_sr.run_page.samples import Samples

logger = get_logger(__name__)

Existing = Literal["replace", "skip", "refuse"]


class Result:
    """A context manager that writes frames as they are finished. Leaving it without `complete` discards the result.

    Args:
        output: the path of the result.
        info: the facts of the input.
        size: (height, width) of the frames.
        existing: what to do if the result exists, or another run is making it.
        options: the user's options for the form of the result.
        identity: see `open_writer`. With a comparison no segments are kept, because a comparison cannot be resumed.

    Raises:
        SkippedError: the result exists or another run is making it, and `existing` is "skip".
        MediaError: the file cannot be written to this path.
    """

    def __init__(
        self,
        output: Path,
        info: MediaInfo,
        size: tuple[int, int],
        *,
        existing: Existing = "replace",
        options: ResultOptions | None = None,
        identity: Mapping[str, str] | None = None,
    ) -> None:
        options = options or ResultOptions()
        frames_out = None if info.kind == "image" else options.frames_out
        self.output, self.frames, self._open = output, 0, True
        try:
            self.writer = open_writer(
                output, info, size, options=options.output, frames_out=frames_out,
                identity=None if options.compare else identity,
            )  # fmt: skip
        except BusyError as error:
            if existing == "skip":
                raise SkippedError(f"{error}; skipped") from error
            raise MediaError(f"{error}; wait until it is done, or use --skip_existing to leave it") from error
        # Check again after claiming the file, because another run may have just finished it.
        if existing != "replace" and output.exists():
            self._abandon()
            if existing == "skip":
                raise SkippedError(f"{info.path.name}: skipped, {output} exists")
            raise MediaError(
                f"{info.path.name}: {output} exists by now; --overwrite replaces it, --skip_existing leaves it"
            )
        if options.compare and identity is not None and is_long(info.frame_count_hint):
            logger.info("%s: with --compare no segments are kept: after an interruption it starts again", output.name)
        beside = output.with_name(f"{output.name}.mp4") if frames_out else output
        self.comparison = Comparison(beside, info, size, options.compare, options.output.frame_rate)
        self.samples = Samples(info, options.page_bytes)

    def write(
        self,
        stored: Sequence[Tensor],
        times: Sequence[Fraction],
        compared: tuple[Tensor, Tensor] | None = None,
        borders: Mapping[int, int] | None = None,
    ) -> None:
        """Append T frames.

        Args:
            stored: the planes of the frames, as `writer.planes_for` returns them.
            times: the time of each frame in seconds.
            compared: the resized input and the result, uint8 [T, 3, h, w] each, if a comparison or page shows them.
            borders: see `MediaWriter.write_planes`.
        """
        try:
            self.writer.write_planes(stored, times, borders)
        except Exception as error:
            raise OutputError(sentence(error, self.output, "written")) from error
        self.frames += len(times)
        if compared is not None:
            self.comparison.write(*compared, times, self.writer.temporary, self.frames)
            self.samples.write(*compared, times)

    def complete(self) -> None:
        """Finish the result under its final name, then the comparison, whose errors must not affect the result."""
        self._open = False
        try:
            remove_record(self.output)
            self.writer.__exit__(None, None, None)
        except Exception as error:
            self.comparison.abandon()
            raise OutputError(sentence(error, self.output, "written")) from error
        self.comparison.complete()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open:
            try:
                self._abandon()
            finally:
                self.comparison.abandon()

    def _abandon(self) -> None:
        self._open = False
        stopped = OutputError("abandoned")
        self.writer.__exit__(OutputError, stopped, None)
