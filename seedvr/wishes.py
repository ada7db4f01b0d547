"""What a caller asks of one clip and of one file."""

from dataclasses import dataclass
from typing import Literal

from data.media import OutputOptions, Stretch
from data.media.encoding import check_options
from projects.video_diffusion_sr.color_fix import KINDS
from projects.video_diffusion_sr.output_size import OutputSize
from seedvr.errors import InputError


@dataclass(frozen=True)
class Wishes:
    """What a caller asks of one clip. None: what the preset says.

    strength, color_fix: as on the command line. steps: network calls. guidance: 1 is none.
    codec to crf: of the result's file, see `data.media.OutputOptions`.
    """

    size: OutputSize
    seed: int = 666
    strength: float = 1.0
    color_fix: str = "wavelet"
    steps: int | None = None
    guidance: float | None = None
    codec: str = "auto"
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
        """The form of the result's file."""
        return OutputOptions(
            self.codec, self.bit_depth, self.pixel_format, self.container, self.encoder, self.hdr, self.crf
        )


@dataclass(frozen=True)
class Part:
    """Of a file: stretch: what of it is restored. record: a record is written beside the result."""

    stretch: Stretch
    record: bool = False
