"""Divides a clip into shots and segments, and says what to recompute to continue after a segment.

A shot lies between two cuts. No frames are carried into it, and its latent frames are counted from 0, as in a separate
file. A long shot passes the transformer in windows. A segment of the result ends where a window ends or a shot begins.
Finished segments can be kept, and after an interruption the clip continues after the last one.

In this module, frames and latents are counted from the beginning of their shot, unless a name contains `clip`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from data.media import Frame
from data.video.framing import pixel_frames
from projects.video_diffusion_sr.temporal_windows import SHARED_LATENTS


@dataclass(frozen=True)
class Place:
    """A frame at which a clip can continue.

    frame: number of the frame in the clip.
    shot: number in the clip of the first frame of its shot.
    """

    frame: int = 0
    shot: int = 0


@dataclass(frozen=True)
class Grid:
    """Computes where windows end and slices begin.

    Attributes:
        window: number of latent frames that the transformer takes at once; None: whole shots.
        slice_frames: number of frames that the VAE takes at once, after a shot's first frame; None: whole shots.
        factor: number of frames per latent frame; the first latent frame of a shot stands for one frame.
    """

    window: int | None
    slice_frames: int | None
    factor: int

    @property
    def kept(self) -> int | None:
        """The number of latent frames from one window to the next."""
        return None if self.window is None else self.window - SHARED_LATENTS

    @property
    def slice_latents(self) -> int | None:
        """The number of latent frames of a slice."""
        return None if self.slice_frames is None else self.slice_frames // self.factor

    def first_frame(self, latent: int) -> int:
        """The first frame of a latent frame."""
        return pixel_frames(latent, self.factor) if latent else 0

    def ends_segment(self, frame: int) -> bool:
        """Whether a segment begins with this frame of a shot."""
        if frame == 0 or self.kept is None:
            return frame == 0
        latent, inside = divmod(frame - 1, self.factor)
        return inside == 0 and (latent + 1) % self.kept == 0

    def borders(self, first: int, count: int, shot: int) -> dict[int, int]:
        """The segments that begin within the clip's frames first, ..., first + count - 1: {frame: frame of its shot}.

        Args:
            first, shot: numbers in the clip, from 0, of the first frame and of the first frame of its shot.
        """
        return {number: shot for number in range(count) if self.ends_segment(first + number - shot)}


@dataclass(frozen=True)
class RunIn:
    """The latents from which a shot is recomputed, so that `wanted` and later latents have the same bits.

    Attributes:
        encoded: the first latent of the encoder, which begins a slice.
        sampled: the first latent of the transformer, which begins a window.
        decoded: the first latent of the decoder, which begins a slice.
        wanted: the first latent whose frames are written.
    """

    encoded: int = 0
    sampled: int = 0
    decoded: int = 0
    wanted: int = 0


def run_in(place: Place, grid: Grid, encoder_reach: int, decoder_reach: int) -> RunIn:
    """Compute what must be recomputed to continue after a segment.

    Each network begins early enough for its result to be exact where the next one needs it. The result of the VAE is
    exact after as many latents as it looks back, and that of the transformer after the overlap with an earlier window.

    Args:
        encoder_reach, decoder_reach: number of latents that each network looks back, see
            `models/video_vae_v3/modules/reach.py`.
    """
    frame = place.frame - place.shot
    if frame == 0:
        return FROM_ITS_BEGINNING
    wanted, kept = (frame - 1) // grid.factor + 1, grid.kept
    assert kept is not None, "without windows a segment is a whole shot"
    step = grid.slice_latents or kept
    window, inside = divmod(max(wanted - decoder_reach, 0), kept)
    decoded = window * kept + inside // step * step
    sampled = max(decoded - SHARED_LATENTS, 0) // kept * kept
    encoded = 0 if grid.slice_frames is None else max(sampled - encoder_reach, 0) // step * step
    return RunIn(encoded, sampled, decoded, wanted)


FROM_ITS_BEGINNING = RunIn()


class Shot(Iterator[Frame]):
    """The frames of one shot, in order.

    Attributes:
        first: number of its first frame in the clip.
        read: number of its frames that have been read or skipped.
    """

    def __init__(self, clip: "Shots", first: int, read: int) -> None:
        self.first, self.read, self._clip, self._taken = first, read, clip, 0

    def __next__(self) -> Frame:
        frame = self._clip.take(begins=self._taken == 0)
        self._taken += 1
        self.read += 1
        return frame


class Shots:
    """Iterates over the shots of a clip. Read each shot to its end before taking the next one.

    Args:
        frames: the frames of the clip from `start` on; `Frame.begins_shot` marks the first frame of a shot.
        start: number in the clip of the first of these frames.
        shot: number in the clip of the first frame of its shot.
    """

    def __init__(self, frames: Iterator[Frame], start: int = 0, shot: int = 0) -> None:
        self._frames = frames
        self._waiting: Frame | None = None
        self.start, self.shot, self.ended = start, shot, False

    def __iter__(self) -> Iterator[Shot]:
        first, read = self.shot, self.start - self.shot
        while self._peek():
            shot = Shot(self, first, read)
            yield shot
            first, read = first + shot.read, 0

    def take(self, begins: bool) -> Frame:
        """The next frame of a shot; StopIteration at the end of the shot.

        Args:
            begins: whether it is the first frame read from this shot.
        """
        frame = self._peek()
        if frame is None or (frame.begins_shot and not begins):
            raise StopIteration
        self._waiting = None
        return frame

    def _peek(self) -> Frame | None:
        """The next frame, without consuming it; None at the end."""
        if self._waiting is None and not self.ended:
            self._waiting = next(self._frames, None)
            self.ended = self._waiting is None
        return self._waiting


class ShotInputs(Iterator[Frame]):
    """Yields the frames of a shot a second time, never more than have been read the first time.

    Args:
        inputs: the frames of the clip, from the first frame that is read of the shot.
    """

    def __init__(self, shot: Shot, inputs: Iterator[Frame]) -> None:
        self._shot, self._inputs, self._given = shot, inputs, shot.read

    def __next__(self) -> Frame:
        if self._given == self._shot.read:
            raise StopIteration
        self._given += 1
        return next(self._inputs)


def without_first(slices: Iterator[Tensor], count: int) -> Iterator[Tensor]:
    """Yield the slices [t, ...] of a stream without its first `count` frames."""
    for frames in slices:
        if count < len(frames):
            yield frames[count:]
        count = max(count - len(frames), 0)
