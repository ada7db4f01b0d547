"""H.264 with exact times, true colour tags and the sound of the input."""

from collections.abc import Mapping
from fractions import Fraction
from math import lcm
from pathlib import Path

import av
import torch
from torch import Tensor

from common.kept import Kept, discard
from common.logger import get_logger
from data.media.clock import USUAL_RATE
from data.media.colour import tag_bt709
from data.media.errors import shown
from data.media.extras import told_extras
from data.media.info import MediaInfo
from data.media.joined import Stretch
from data.media.mux import complete
from data.media.muxer import muxer_options
from data.media.names import WRITABLE_VIDEOS
from data.media.sound_plan import SoundTrack, told_plan
from data.media.whole import MediaWriter
from data.yuv.frames import format_of, frame_from
from data.yuv.from_rgb import from_rgb
from data.yuv.layout import YuvLayout

logger = get_logger(__name__)

# x264 makes other files of the same frames on other numbers of threads and with other instructions, so neither is left
# to the machine. The macroblock tree reads memory that nobody wrote: no two files would be equal with it.
ENCODER = {"preset": "medium", "x264-params": "mbtree=0:cpu-independent=1"}
ROWS_OF_A_THREAD, MOST_THREADS = 90, 8

LEAST_KEPT = 96  # frames of a stretch that is kept; each begins with a key frame, of which x264 makes one in 250

FINE_TICKS, MOST_TICKS = 90_000, 10_000_000  # per second


class VideoWriter(MediaWriter):
    """Encodes frames as they come; see `open_writer` for the arguments.

    The picture is written by itself, and sound, subtitles and tags are added when the last frame is: whatever is wrong
    with them, the picture is complete by then. What goes over is decided here, before the first frame.

    A long picture is written stretch by stretch, each by an encoder of its own, and joined at the end, whether or not
    the work was interrupted: the bytes do not tell.
    """

    layout = YuvLayout()  # 8-bit 4:2:0, BT.709 limited; chroma on the left, where H.264 that does not say has it

    def __init__(
        self,
        path: Path,
        info: MediaInfo,
        size: tuple[int, int],
        *,
        crf: float,
        frame_rate: Fraction | None,
        quiet: bool = False,
        metadata: bool = True,
        identity: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(path)
        self.info = info
        self.size = size
        self.quiet = quiet
        if (size[0] % 2 or size[1] % 2) and not quiet:
            logger.info("%s: %dx%d made even by repeating the last row or column", shown(path), size[1], size[0])
        self.retimed = Fraction(frame_rate) if frame_rate else None
        self.rate = self.retimed or info.frame_rate or USUAL_RATE
        self.ticks = ticks_per_second(self.rate, None if self.retimed else info)
        self.steps: dict[int, int] = {}  # pts -> duration, of frames inside the encoder
        self.pending: tuple[av.VideoFrame, int] | None = None  # waits until the next one says how long it lasts
        self.metadata = metadata
        self.sound = self._choose_sound()
        timed, suffix = self.retimed in (None, info.frame_rate), path.suffix.lower()
        self.extras = told_extras(info, suffix, self.rate, metadata=metadata, timed=timed, quiet=quiet)
        # MP4 keeps exact times, so the picture waits in one for what stands beside it, whatever the result will be.
        self._take_up(identity)
        self.waits = bool(self.sound or self.extras or self.kept)
        self.crf, self.form = crf, "mp4" if self.waits else WRITABLE_VIDEOS[suffix]
        self._open_stretch()

    def _take_up(self, identity: Mapping[str, str] | None) -> None:
        """Go on behind what an earlier run has kept, if that is of use."""
        self.origin: int | None = None  # ticks at which the stretch at hand begins; None before its first frame
        self.stretch_from, self.border = 0, None  # its first frame; the shot of the next one, where that ends it
        frames = self.info.frame_count_hint
        if identity is None or (frames is not None and frames <= LEAST_KEPT):
            discard(self.claim.stem)
            return
        self.kept = Kept(self.claim.stem, identity, {"frames", "ticks", "shot"})
        if self.kept.dropped and not self.quiet:
            left = sum(piece.facts["frames"] for piece in self.kept.pieces)
            logger.warning(
                "%s: what an earlier run kept %s cannot be used: %s",
                shown(self.path), f"behind frame {left}" if left else "of it", self.kept.dropped,
            )  # fmt: skip
        self.frames = self.stretch_from = sum(piece.facts["frames"] for piece in self.kept.pieces)
        self.shot = self.kept.pieces[-1].facts["shot"] if self.kept.pieces else 0

    def _open_stretch(self) -> None:
        """A new file for the next frames."""
        options = muxer_options(self.form, self.ticks, complete=not self.waits)
        self.container = av.open(str(self.temporary.absolute()), "w", format=self.form, options=options)
        try:
            self._add_stream(self.crf)
        except BaseException:
            self._release()
            self.temporary.unlink(missing_ok=True)
            raise

    def _begin_stretch(self, shot: int) -> None:
        if self.kept is not None and self.frames - self.stretch_from >= LEAST_KEPT:
            self.border = shot

    def _end_stretch(self) -> None:
        """All frames so far are in the encoder: they are kept, and the next ones go into another file."""
        self._close_stretch()
        self.kept.add(
            self.temporary, {"frames": self.frames - self.stretch_from, "ticks": self.origin, "shot": self.border}
        )
        self.stretch_from, self.origin, self.border = self.frames, None, None
        self._open_stretch()

    def _close_stretch(self) -> None:
        self._mux(self.stream.encode(None))
        self.container.close()

    def _choose_sound(self) -> tuple[SoundTrack, ...]:
        if not self.info.has_audio:
            return ()
        if self.retimed not in (None, self.info.frame_rate):
            if not self.quiet:
                rate = float(self.rate)
                logger.warning(
                    "%s: the sound is left out, %s frames per second change the duration", shown(self.path), rate
                )
            return ()
        return told_plan(self.info, self.path.suffix.lower(), self.quiet, self.metadata)

    def _add_stream(self, crf: float) -> None:
        height, width = self.size
        options = {"crf": str(float(crf)), **ENCODER}
        if self.info.variable_frame_rate and not self.retimed:
            # MP4 adds up decoding steps; with B-frames these differ from the display steps, and the length is wrong.
            options["bf"] = "0"
        self.stream = self.container.add_stream("libx264", rate=self.rate, options=options)
        encoder = self.stream.codec_context
        encoder.width, encoder.height = width + width % 2, height + height % 2
        encoder.pix_fmt = format_of(self.layout)
        encoder.thread_type, encoder.thread_count = "FRAME", encoder_threads(height)
        encoder.time_base = self.stream.time_base = Fraction(1, self.ticks)
        encoder.sample_aspect_ratio = self.info.sample_aspect_ratio
        tag_bt709(encoder)

    def _stored(self, pixels: Tensor) -> tuple[Tensor, ...]:
        if tuple(pixels.shape[-2:]) != tuple(self.size):
            raise ValueError(f"frames of {tuple(pixels.shape[-2:])} for a clip of {tuple(self.size)} (height, width)")
        return from_rgb(even_sides(pixels), self.layout)

    def _write_one(self, planes: tuple[Tensor, ...], time: Fraction) -> None:
        encoder, stored = self.stream.codec_context, tuple(planes[0].shape)
        if stored != (encoder.height, encoder.width):
            raise ValueError(f"planes of {stored} for a clip of {(encoder.height, encoder.width)} (height, width)")
        pts = round((self.frames / self.rate if self.retimed else time) * self.ticks)
        if self.pending is not None:
            waiting, start = self.pending
            if pts <= start:
                raise ValueError(
                    f"{shown(self.path)}: frame {self.frames} at {float(time):.6f} s is not behind the last one"
                )
            self._encode(waiting, start, pts - start)
            if self.border is not None:
                self._end_stretch()
        self.pending = (frame_from(planes, self.layout), pts)

    def _encode(self, frame: av.VideoFrame, pts: int, duration: int) -> None:
        tag_bt709(frame)
        if self.origin is None:
            self.origin = pts if self.kept and self.kept.pieces else 0
        frame.pts, frame.time_base = pts - self.origin, Fraction(1, self.ticks)
        self.steps[frame.pts] = duration
        self._mux(self.stream.encode(frame))

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            packet.duration = self.steps.pop(packet.pts)
            self.container.mux(packet)

    def _finish(self) -> None:
        frame, pts = self.pending
        self._encode(frame, pts, self._last_duration(pts))
        self._close_stretch()
        if self.waits:
            kept = [] if self.kept is None else self.kept.pieces
            stretches = [Stretch(self.kept.path(piece), piece.facts["ticks"]) for piece in kept]
            stretches.append(Stretch(self.temporary, self.origin))
            complete(stretches, self.path, self.info, self.sound, self.extras, self.ticks, self.quiet)

    def _last_duration(self, pts: int) -> int:
        """Ticks of the last frame: one step of a constant rate, else up to the end of the input if that is near."""
        step = 1 / self.rate
        if self.info.variable_frame_rate and not self.retimed and self.info.duration is not None:
            left = self.info.duration - Fraction(pts, self.ticks)
            if 0 < left < 10 * step:
                step = left
        return max(round(step * self.ticks), 1)

    def _release(self) -> None:
        try:
            self.container.close()
        except (av.FFmpegError, ValueError) as error:
            logger.debug("%s: closing after an error: %s", shown(self.path), error)


def encoder_threads(height: int) -> int:
    """Frames that are encoded side by side, by the rows of a picture: each needs memory, and waits for the last one.

    PyAV's own choice, slices of one frame, keeps fewer cores busy and costs quality.
    """
    return min(max(height // ROWS_OF_A_THREAD, 1), MOST_THREADS)


def ticks_per_second(rate: Fraction, source: MediaInfo | None) -> int:
    """A clock on which every frame of a constant rate, and every time of a source that varies, is a whole number."""
    if source is not None and source.variable_frame_rate and source.time_base:
        ticks = source.time_base.denominator
    else:
        ticks = rate.numerator
        if source is not None and source.time_base:
            ticks = lcm(ticks, source.time_base.denominator)  # the first frame may stand between two steps
            ticks = ticks if ticks <= MOST_TICKS else rate.numerator
    if ticks > MOST_TICKS:
        return FINE_TICKS
    return ticks * -(-FINE_TICKS // ticks)


def even_sides(pictures: Tensor) -> Tensor:
    """u8 [..., H, W] with the last row and column repeated where a side is odd; 4:2:0 stores colour for 2x2 pixels."""
    if pictures.shape[-2] % 2:
        pictures = torch.cat([pictures, pictures[..., -1:, :]], dim=-2)
    if pictures.shape[-1] % 2:
        pictures = torch.cat([pictures, pictures[..., -1:]], dim=-1)
    return pictures
