"""The options of a caller for one clip, and the part of the clip to restore."""

from dataclasses import dataclass, replace
from typing import Literal

from data.media import ClipRange, OutputOptions
from data.media.clip_range import seconds_of
from data.media.encoding import check_options
from projects.video_diffusion_sr.color_fix import KINDS
from projects.video_diffusion_sr.output_size import OutputSize
from seedvr.errors import InputError, errors_as


@dataclass(frozen=True)
class ClipOptions:
    """A caller's options for one clip. None stands for the preset's value."""

    size: OutputSize
    seed: int = 666
    strength: float = 1.0  # 1: the restored clip, 0: the resized input
    color_fix: str = "wavelet"  # as on the command line
    steps: int | None = None  # number of sampling steps
    guidance: float | None = None  # guidance scale; 1: no guidance
    codec: str = "auto"  # this and the following fields describe the result's file, see `data.media.OutputOptions`
    bit_depth: int | None = None
    pixel_format: str | None = None
    container: str | None = None
    encoder: str = "cpu"
    hdr: Literal["keep", "sdr"] = "keep"
    crf: float | None = None

    def __post_init__(self) -> None:
        check_options(self.output)
        if not 0 <= self.strength <= 1:
            raise InputError(f"strength {self.strength} must lie between 0 (the input) and 1 (the restored clip)")
        if self.color_fix not in KINDS:
            raise InputError(f"unknown colour fix {self.color_fix!r}; choose one of {', '.join(KINDS)}")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps {self.steps} must be at least 1")

    @property
    def output(self) -> OutputOptions:
        """Codec, depth and container of the result's file."""
        return OutputOptions(
            self.codec, self.bit_depth, self.pixel_format, self.container, self.encoder, self.hdr, self.crf
        )


@dataclass(frozen=True)
class Part:
    """The part of a file to restore, and which files to keep beside its result."""

    clip_range: ClipRange  # the part
    record: bool = False  # write a JSON record beside the result
    resume: bool = False  # keep finished segments until the clip is complete, and continue after them


def clip_range_of(
    start: float | str | None, end: float | str | None, frames: int | tuple[int, int] | None
) -> ClipRange:
    """Convert a caller's arguments to a part of a clip; InputError if they are invalid."""
    with errors_as(InputError, ValueError):
        begin, until = (None if moment is None else seconds_of(str(moment)) for moment in (start, end))
        if frames is None or isinstance(frames, int):
            return ClipRange(begin or None, until, count=frames)
        if not (isinstance(frames, list | tuple) and [type(number) for number in frames] == [int, int]):
            raise InputError(f"frames={frames!r} is neither a number nor two: of the first frame and of the one behind")
        numbered = ClipRange.of_frames(*frames)
        return replace(numbered, start=begin or None, end=until)
