"""The base of all writers: atomic writes, so that a file has its name only when it is complete.

A writer fills a hidden file beside the target. The end of the `with` block renames it; an error removes it. Until then,
a claim on the target prevents other processes from writing the same file, see `common.claim`.
"""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from common.atomic import publish, publish_folder, refuse_folder
from common.claim import Claim, TargetInUseError, remove
from common.kept import Kept
from common.logger import get_logger
from data.media.errors import MediaError, shown
from data.yuv.layout import YuvLayout

logger = get_logger(__name__)


class BusyError(MediaError):
    """Another process is writing this file."""


class MediaWriter(ABC):
    """A context manager that takes frames in order. Its normal end completes the file; an error removes it.

    Args:
        path: the file to write.
        is_folder: whether the result is a folder of files.

    Attributes:
        path: the file to write.
        frames: number of frames written so far, including those of an earlier run that are kept.
        temporary: the hidden file or folder; it exists, empty, from the start.
        is_folder: whether the result is a folder of files.
        layout: the layout of the planes that a video stores; None for pictures.
        result_bits: bits per sample, 8 or 16, of the RGB from which the planes are made.
        kept: segments of the result that remain if this process ends early; None if nothing is kept.
        shot: number of the first frame of the shot in which this run continues; 0 if no earlier run has written frames.

    Raises:
        BusyError: another process is writing this file.
        MediaError: the file cannot be written here; or, at the end of the block, no frame was written.
    """

    layout: YuvLayout | None = None
    result_bits: int = 8
    kept: Kept | None = None
    shot = 0

    def __init__(self, path: Path, is_folder: bool = False) -> None:
        self.path, self.is_folder = path, is_folder
        self.frames = 0
        try:
            if not is_folder:
                refuse_folder(path)
            self.claim = Claim(path)
            self.temporary = self.claim.new_folder() if is_folder else self.claim.new_file(path.suffix)
        except TargetInUseError as error:
            raise BusyError(str(error)) from error
        except OSError as error:
            raise MediaError(f"{path.name}: cannot be written to {path.parent}: {error.strerror or error}") from error
        self._mode = self.temporary.stat().st_mode
        # This also removes the file if the constructor of a subclass fails, before the `with` block begins.
        self._discard = weakref.finalize(self, _discard, self.temporary, self.claim)

    def write(self, pixels: Tensor, times: Sequence[Fraction]) -> None:
        """Append frames.

        Args:
            pixels: as for `planes_for`, of the size for which the writer was opened; any device.
            times: T times in seconds, strictly increasing over all calls.
        """
        self.write_planes(self.planes_for(pixels), times)

    def planes_for(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Convert frames to the samples that the file stores, on their device.

        The method reads no state that changes, so any thread may call it.

        Args:
            pixels: [T, 3, H, W] RGB, or [T, 4, H, W] with alpha: u8, or 16-bit words (whose bits torch holds as int16).
                If their depth is not `result_bits`, they are rounded to 8 bits or multiplied by 257.

        Returns:
            For a video, planes of `layout` for T frames; both sides are multiples of its subsampling. For pictures,
            one tensor, [T, 3, H, W] RGB or [T, 4, H, W] RGBA.

        Raises:
            ValueError: another dtype, shape or size.
        """
        if pixels.dtype not in (torch.uint8, torch.int16) or pixels.ndim != 4 or pixels.shape[1] not in (3, 4):
            raise ValueError(
                f"frames are u8 [T, 3, H, W] or 16-bit words, got {pixels.dtype} {tuple(pixels.shape)}; round and "
                "clamp first"
            )
        if self.result_bits == 16 and pixels.dtype == torch.uint8:
            pixels = (pixels.to(torch.int32) * 257).to(torch.int16)
        elif self.result_bits == 8 and pixels.dtype == torch.int16:
            pixels = (((pixels.to(torch.int32) & 65535) + 128) // 257).to(torch.uint8)
        return self._stored(pixels)

    def write_planes(
        self, planes: Sequence[Tensor], times: Sequence[Fraction], borders: Mapping[int, int] | None = None
    ) -> None:
        """Append frames that `planes_for` made, on any device. They are copied before this returns.

        Args:
            planes: tensors of T frames each.
            times: T times in seconds, strictly increasing over all calls.
            borders: maps a frame that may begin a segment, counted from 0 in this call, to the number of the first
                frame of its shot. The frames before it can be kept for a later run.

        Raises:
            ValueError: the numbers of frames and times differ, or a time does not increase.
        """
        if any(len(times) != len(plane) for plane in planes):
            raise ValueError(f"{len(planes[0])} frames came with {len(times)} times; every frame needs one")
        planes = [plane.cpu() for plane in planes]
        for number, time in enumerate(times):
            if borders and number in borders:
                self._begin_segment(borders[number])
            self._write_one(tuple(plane[number] for plane in planes), time)
            self.frames += 1

    def _begin_segment(self, shot: int) -> None:  # noqa: B027 (most keep nothing)
        """Note that the next frame may begin a segment; `shot` is the number of the first frame of its shot."""

    @abstractmethod
    def _stored(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Convert frames of `result_bits` bits to the samples that the file stores, see `planes_for`."""

    @abstractmethod
    def _write_one(self, planes: tuple[Tensor, ...], time: Fraction) -> None:
        """Write one frame that `planes_for` made, on the CPU; `time` is in seconds."""

    @abstractmethod
    def _finish(self) -> None:
        """Complete the temporary file."""

    @abstractmethod
    def _release(self) -> None:
        """Close open files and encoders; called last, also after an error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        complete = False
        try:
            if kind is None:
                if self.frames == 0:
                    raise MediaError(f"{self.path.name}: no frame was written, so there is no file")
                self._finish()
                complete = True
        finally:
            try:
                self._release()
                if complete and self.kept is not None:
                    self.kept.file_is_complete(self.temporary)
                if complete and self.is_folder:
                    publish_folder(self.temporary, self.path, self.claim)
                elif complete:
                    publish(self.temporary, self.path, self._mode)
                if complete and self.kept is not None:
                    _tidy_up(self.path, self.kept.remove)
            finally:
                self._discard()


def _discard(temporary: Path, claim: Claim) -> None:
    """Remove the unfinished file, then release the claim."""
    try:
        _tidy_up(claim.target, partial(remove, temporary))
    finally:
        claim.release()


def _tidy_up(path: Path, work: Callable[[], None]) -> None:
    """Remove hidden files.

    A failure (a disk that became read-only, for instance) is logged and not raised, so that it does not hide the result
    or an earlier error. The next run removes the files.
    """
    try:
        work()
    except OSError as error:
        what = error.strerror or error
        logger.warning("%s: hidden files of it stay for the next run to remove (%s)", shown(path), what)
