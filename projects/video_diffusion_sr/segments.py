"""A clip as a list of segments: which begin anew, which carry on, and how one is computed without those before it.

A shot lies between two cuts: nothing is carried into it, and its latent frames are counted from 0, as if it were a file
of its own. A long shot goes through the transformer in windows. Where a window ends or a shot begins, a segment of the
clip ends: what is written up to there can be kept, and the clip goes on there after an interruption.

In here frames and latents are counted from the beginning of their shot, unless a name says `clip`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from data.media import Frame
from data.video.framing import pixel_frames
from projects.video_diffusion_sr.temporal_windows import SHARED_LATENTS


@dataclass(frozen=True)
class Place:
    """Where a clip goes on: the number of a frame in the clip, and of the first frame of its shot."""

    frame: int = 0
    shot: int = 0


@dataclass(frozen=True)
class Grid:
    """Where windows end and slices begin.

    Attributes:
        window: latent frames that the transformer takes at once; None: whole shots.
        slice_frames: that go through the VAE at once, after a shot's first; None: whole shots.
        factor: frames of a latent frame; a shot's first latent is one frame.
    """

    window: int | None
    slice_frames: int | None
    factor: int

    @property
    def kept(self) -> int | None:
        """Latents by which a window moves on."""
        return None if self.window is None else self.window - SHARED_LATENTS

    @property
    def slice_latents(self) -> int | None:
        """Latents of a slice."""
        return None if self.slice_frames is None else self.slice_frames // self.factor

    def first_frame(self, latent: int) -> int:
        """The first frame that a latent stands for."""
        return pixel_frames(latent, self.factor) if latent else 0

    def ends_segment(self, frame: int) -> bool:
        """Does a segment begin with this frame of a shot?"""
        if frame == 0 or self.kept is None:
            return frame == 0
        latent, inside = divmod(frame - 1, self.factor)
        return inside == 0 and (latent + 1) % self.kept == 0

    def borders(self, first: int, count: int, shot: int) -> dict[int, int]:
        """Which of a clip's frames first, ..., first + count - 1, counted from 0, begin a segment: {number: shot}.

        Args:
            first, shot: in the clip: the first frame, and the first one of its shot.
        """
        return {number: shot for number in range(count) if self.ends_segment(first + number - shot)}


@dataclass(frozen=True)
class RunIn:
    """From which latents a shot is computed again so that `wanted` and what follows come out bit for bit.

    Attributes:
        encoded: where the encoder begins, with a slice. sampled: the first window. decoded: where the decoder begins,
            with a slice. wanted: the first latent whose frames are given out.
    """

    encoded: int = 0
    sampled: int = 0
    decoded: int = 0
    wanted: int = 0


def run_in(place: Place, grid: Grid, encoder_reach: int, decoder_reach: int) -> RunIn:
    """What must be computed again before a place where a segment ends.

    Each step begins as early as the next one needs what it gives: latents before the reach of the networks are not
    those of the whole shot, nor is the head of a window without the one before.

    Args:
        encoder_reach, decoder_reach: latents, see `models/video_vae_v3/modules/reach.py`.
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
        first: number of its first frame in the clip. read: how many of its frames have been taken, or left out.
    """

    def __init__(self, clip: "Shots", first: int, read: int) -> None:
        self.first, self.read, self._clip, self._taken = first, read, clip, 0

    def __next__(self) -> Frame:
        frame = self._clip.take(begins=self._taken == 0)
        self._taken += 1
        self.read += 1
        return frame


class Shots:
    """A clip cut into shots. Each must be read to its end before the next one is asked for.

    Args:
        frames: of the clip, from `start` on; `Frame.begins_shot` says where shots begin.
        start: number in the clip of the first one. shot: of the first frame of its shot.
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
        """The next frame of a shot; StopIteration where the shot ends.

        Args:
            begins: it is the first one that is asked for of its shot.
        """
        frame = self._peek()
        if frame is None or (frame.begins_shot and not begins):
            raise StopIteration
        self._waiting = None
        return frame

    def _peek(self) -> Frame | None:
        """The next frame, which stays the next one; None at the end."""
        if self._waiting is None and not self.ended:
            self._waiting = next(self._frames, None)
            self.ended = self._waiting is None
        return self._waiting


class ShotInputs(Iterator[Frame]):
    """The frames of a shot once more: as many as have been read of it when they are asked for.

    Args:
        inputs: of the clip, from the frame on that the shot is read from.
    """

    def __init__(self, shot: Shot, inputs: Iterator[Frame]) -> None:
        self._shot, self._inputs, self._given = shot, inputs, shot.read

    def __next__(self) -> Frame:
        if self._given == self._shot.read:
            raise StopIteration
        self._given += 1
        return next(self._inputs)


def without_first(slices: Iterator[Tensor], count: int) -> Iterator[Tensor]:
    """Slices [t, ...] of a stream without its first `count` frames; the other slices as they come."""
    for frames in slices:
        if count < len(frames):
            yield frames[count:]
        count = max(count - len(frames), 0)
