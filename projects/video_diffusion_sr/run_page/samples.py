"""Collects stills and curves of one file for the page, from its frames as they are passed to the writer."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from PIL import Image
from torch import Tensor

from common.logger import get_logger
from data.media import MediaInfo
from projects.video_diffusion_sr.file_errors import sentence
from projects.video_diffusion_sr.run_page.pictures import LARGEST_SIDE, encode_pair, shrunk

logger = get_logger(__name__)

STILLS = 6  # most stills of a clip
LEAST_BYTES = 1500  # smallest useful size of a picture
GOOD_BYTES = 12_000  # size of a picture below which fewer pictures are better than smaller ones
POINTS = 300  # most points of a curve


@dataclass(frozen=True)
class Still:
    """A frame before and after restoration.

    seconds: its time.
    before, after: the resized input and the result, as WebP.
    size: (height, width) of both.
    """

    seconds: float
    before: bytes
    after: bytes
    size: tuple[int, int]


@dataclass(frozen=True)
class Curve:
    """The change of a clip from each frame to the next.

    times: times of the later frames in seconds.
    before, after: mean absolute differences of the resized input and of the result over pixels and channels, in 8-bit
        levels.
    frames: number of frames per point, which has their largest value.
    """

    times: tuple[float, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    frames: int = 1


@dataclass(frozen=True)
class Sampled:
    """The samples of one file.

    input_size: (height, width) of the file.
    stills: its stills, in order of time.
    curve: its curve, without points for a picture.
    flicker: means of the two curves over all frames; None for a picture.
    """

    input_size: tuple[int, int]
    stills: tuple[Still, ...]
    curve: Curve
    flicker: tuple[float, float] | None


class Samples:
    """Receives every frame of a file, and keeps some of them reduced, and the change to the previous frame of each.

    Errors are logged as warnings, so that they never affect the result.

    Args:
        info: the facts of the input.
        max_bytes: most bytes of pictures in the page for this file; None: there is no page.
    """

    def __init__(self, info: MediaInfo, max_bytes: int | None) -> None:
        self.info, self.max_bytes, self.wanted = info, max_bytes, max_bytes is not None
        self.stills: list[tuple[float, Image.Image, Image.Image]] = []
        self.seen, self.every = 0, 1
        self.last: tuple[np.ndarray, np.ndarray] | None = None
        self.times, self.changes = array("d"), (array("f"), array("f"))

    def write(self, inputs: Tensor, outputs: Tensor, times: Sequence[Fraction]) -> None:
        """Append frames, uint8 [T, 3, h, w] each: the resized input and the result; times are in seconds."""
        if not self.wanted:
            return
        try:
            for pair in zip(inputs.numpy(), outputs.numpy(), map(float, times), strict=True):
                self._take(*pair)
        except Exception as error:
            self._give_up(error)

    def _take(self, before: np.ndarray, after: np.ndarray, seconds: float) -> None:
        if self.last is not None:
            self.times.append(seconds)
            for changes, frame, earlier in zip(self.changes, (before, after), self.last, strict=True):
                changes.append(change(earlier, frame))
        self.last = before, after
        if self.seen % self.every == 0:
            self.stills.append((seconds, shrunk(before, LARGEST_SIDE), shrunk(after, LARGEST_SIDE)))
        self.seen += 1
        if len(self.stills) == 2 * STILLS:  # the length is unknown until the end, so keep every second still
            self.stills, self.every = self.stills[::2], 2 * self.every

    def complete(self) -> Sampled | None:
        """Call this after the last frame. Returns the samples; None if there is no page or nothing to show on it."""
        self.last = None
        if not self.wanted or self.seen == 0:
            return None
        try:
            size = (self.info.height, self.info.width)
            return Sampled(size, self._encoded(), curve(self.times, *self.changes), self._flicker())
        except Exception as error:
            self._give_up(error)
            return None

    def _encoded(self) -> tuple[Still, ...]:
        if self.max_bytes is None or self.max_bytes < 2 * LEAST_BYTES:
            return ()
        count = max(min(STILLS, len(self.stills), self.max_bytes // (2 * GOOD_BYTES)), 1)
        chosen = [self.stills[(2 * i + 1) * len(self.stills) // (2 * count)] for i in range(count)]
        stills = []
        for seconds, before, after in chosen:
            pictures, size = encode_pair(before, after, self.max_bytes // count)
            stills.append(Still(seconds, *pictures, size))
        return tuple(stills)

    def _flicker(self) -> tuple[float, float] | None:
        before, after = self.changes
        return (float(np.mean(before)), float(np.mean(after))) if self.times else None

    def _give_up(self, error: Exception) -> None:
        logger.warning("%s", sentence(error, self.info.path, "shown in the report"))
        logger.debug("where it happened:", exc_info=error)
        self.wanted, self.stills, self.last = False, [], None


def change(a: np.ndarray, b: np.ndarray) -> float:
    """The mean absolute difference of two pictures, uint8 [3, h, w] each, in 8-bit levels."""
    import cv2  # it has the fastest sum of differences; imported here, because it slows down the start

    rows = (-1, a.shape[-1])  # OpenCV takes a third dimension for channels
    return cv2.norm(np.ascontiguousarray(a).reshape(rows), np.ascontiguousarray(b).reshape(rows), cv2.NORM_L1) / a.size


def curve(times: Sequence[float], before: Sequence[float], after: Sequence[float]) -> Curve:
    """A curve of at most `POINTS` points. Each is the maximum over its frames, so that a single jump stays visible."""
    width = -(-len(times) // POINTS) or 1
    starts = range(0, len(times), width)
    highest = (tuple(round(max(values[i : i + width]), 3) for i in starts) for values in (before, after))
    return Curve(tuple(round(times[i], 3) for i in starts), next(highest), next(highest), width)
