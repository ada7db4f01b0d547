"""Writes the input beside the result, as a clip and a contact sheet, into the folder `compare` beside the results."""

import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from common.logger import get_logger
from data.media import MediaInfo
from data.media.preview import SideBySide, contact_sheet
from projects.video_diffusion_sr.file_errors import sentence

logger = get_logger(__name__)

FOLDER = "compare"
STILLS = 6  # rows of a contact sheet
SPARE_BYTES = 1 << 20  # free disk space to leave in addition to what the result still needs


class Comparison:
    """Writes a side-by-side clip or picture of one file and, for clips, a contact sheet of stills over its length.

    Frames are passed as they are computed. Errors are logged as warnings, so that they never affect the result.

    Args:
        output: the path of the result.
        info, size, frame_rate: as for the result's writer.
        wanted: False: nothing is written.
    """

    def __init__(
        self, output: Path, info: MediaInfo, size: tuple[int, int], wanted: bool, frame_rate: Fraction | None = None
    ) -> None:
        self.folder = output.parent / FOLDER
        self.name, self.expected = output.name, info.frame_count_hint
        self.sheet = self.folder / f"{output.stem}.png" if wanted and info.kind != "image" else None
        self.stills: list[tuple[str, Tensor, Tensor]] = []
        self.seen, self.every = 0, 1
        self.clip: SideBySide | None = None
        if wanted:
            try:
                self.clip = SideBySide(self.folder / output.name, info, size, frame_rate=frame_rate)
            except Exception as error:
                self._give_up(error)

    def write(
        self, inputs: Tensor, outputs: Tensor, times: Sequence[Fraction], result: Path | None = None, written: int = 0
    ) -> None:
        """Append frames, uint8 [T, 3, h, w] each: the resized input and the result.

        Args:
            result: the file or folder of the result so far, for which enough disk space must remain.
            written: its number of frames.
        """
        if self.clip is None:
            return
        try:
            if result is not None:
                self._leave_space(result, written)
            self.clip.write(inputs, outputs, times)
        except Exception as error:
            self._give_up(error)
            return
        for before, after, time in zip(inputs, outputs, times, strict=True):
            if self.seen % self.every == 0:
                self.stills.append((f"bicubic, {float(time):.2f} s", before, after))
            self.seen += 1
            if len(self.stills) == 2 * STILLS:  # the length is unknown until the end, so keep every second still
                self.stills, self.every = self.stills[::2], 2 * self.every

    def complete(self) -> None:
        """Finish the clip under its final name, and write the contact sheet."""
        clip, self.clip = self.clip, None
        if clip is None:
            return
        try:
            clip.__exit__(None, None, None)
            if self.sheet is not None:
                count = min(STILLS, len(self.stills))
                contact_sheet([self.stills[i * len(self.stills) // count] for i in range(count)], self.sheet)
        except Exception as error:
            self._say(error)

    def abandon(self) -> None:
        """Remove the unfinished clip."""
        clip, self.clip = self.clip, None
        if clip is not None:
            stopped = ValueError("abandoned")
            clip.__exit__(ValueError, stopped, None)

    def _leave_space(self, result: Path, written: int) -> None:
        """Raise OSError if the disk has not enough space left for the result and `SPARE_BYTES`."""
        files = result.iterdir() if result.is_dir() else [result]
        size = sum(file.stat().st_size for file in files)
        left = max((self.expected or 2 * written) - written, 0)
        needed = 2 * size * left // max(written, 1) + SPARE_BYTES
        if shutil.disk_usage(result.parent).free < needed:
            raise OSError(f"the disk is nearly full, and the result still needs about {needed / 2**20:.0f} MiB")

    def _give_up(self, error: Exception) -> None:
        self._say(error)
        self.abandon()

    def _say(self, error: Exception) -> None:
        logger.warning("%s", sentence(error, self.folder / self.name, "compared"))
        logger.debug("where it happened:", exc_info=error)
