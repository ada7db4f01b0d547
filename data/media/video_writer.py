"""Writes a clip with exact times, correct colour tags, and the sound of the input."""

from collections.abc import Mapping
from fractions import Fraction
from math import lcm
from pathlib import Path

import av
import torch
from torch import Tensor

from common.logger import get_logger
from data.media.clock import USUAL_RATE
from data.media.codecs import OutputOptions
from data.media.colour import tag
from data.media.encoder import add_stream, left_out, timed
from data.media.encoding import Encoding
from data.media.errors import shown
from data.media.extras import logged_extras
from data.media.info import MediaInfo
from data.media.joined import Segment
from data.media.mux import complete
from data.media.muxer import muxer_options
from data.media.names import WRITABLE_VIDEOS
from data.media.segmented import SegmentedWriter
from data.media.sound_plan import SoundTrack, logged_sound_plan
from data.yuv.frames import frame_from
from data.yuv.from_rgb import from_rgb
from data.yuv.layout import YuvLayout

logger = get_logger(__name__)

# The container of the video until it is muxed with sound and tags, for codecs that MP4 cannot hold.
NOT_IN_MP4 = {"prores": "mov", "ffv1": "matroska", "vp9": "matroska"}

FINE_TICKS, MOST_TICKS = 90_000, 10_000_000  # ticks per second


class VideoWriter(SegmentedWriter):
    """Encodes frames as they come; see `open_writer` for the arguments.

    The video is written first. Sound, subtitles and tags are added after the last frame, so a fault in them cannot lose
    the video. The constructor decides which of them the result gets.

    With `identity`, a long video is written in segments, each with its own encoder, which are joined at the end. An
    uninterrupted run does the same, so its result has the same bytes as that of a resumed run.

    Raises:
        ValueError: frames of another size are written, or times that do not increase.
    """

    layout: YuvLayout

    def __init__(
        self,
        path: Path,
        info: MediaInfo,
        size: tuple[int, int],
        *,
        encoding: Encoding,
        options: OutputOptions,
        quiet: bool = False,
        identity: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(path)
        self.info = info
        self.size = size
        self.quiet = quiet
        self.encoding, self.layout, self.result_bits = encoding, encoding.layout, encoding.result_bits
        self.stored_size = full_size(size, self.layout)
        if self.stored_size != size and not quiet:
            logger.info("%s: %dx%d made even by repeating the last row or column", shown(path), size[1], size[0])
        if (lost := left_out(encoding)) and not quiet:
            logger.warning("%s: %s is left out, since %s cannot store it", shown(path), lost, encoding.encoder)
        self.retimed = Fraction(options.frame_rate) if options.frame_rate else None
        self.rate = self.retimed or info.frame_rate or USUAL_RATE
        self.ticks = ticks_per_second(self.rate, None if self.retimed else info)
        self.steps: dict[int, int] = {}  # pts -> duration of the frames that the encoder holds, in ticks
        self.pending: tuple[av.VideoFrame, int] | None = None  # the last frame, whose duration is unknown, and its pts
        self.last_step: Fraction | None = None  # duration of the frame before it, in seconds
        self.metadata = options.metadata
        self.sound = self._choose_sound()
        timed, suffix = self.retimed in (None, info.frame_rate), path.suffix.lower()
        self.extras = logged_extras(info, suffix, self.rate, metadata=options.metadata, timed=timed, quiet=quiet)
        # MP4 stores exact times, so the video is first written as MP4 if possible, whatever the result's container.
        self.origin: int | None = None  # ticks at which the current segment begins; None before its first frame
        self._take_up(identity, info.frame_count_hint, quiet)
        self.waits = bool(self.sound or self.extras or self.kept)
        self.form = NOT_IN_MP4.get(encoding.codec, "mp4") if self.waits else WRITABLE_VIDEOS[suffix]
        self._open_segment()

    def _open_segment(self) -> None:
        """Open a container and an encoder for the next frames."""
        options = muxer_options(self.form, self.ticks, complete=not self.waits)
        self.container = av.open(str(self.temporary.absolute()), "w", format=self.form, options=options)
        try:
            self.stream = add_stream(
                self.container,
                self.encoding,
                self.stored_size,
                self.rate,
                self.ticks,
                aspect=self.info.sample_aspect_ratio,
                reorder=not self.info.variable_frame_rate or self.retimed is not None,
            )
        except BaseException:
            self._release()
            self.temporary.unlink(missing_ok=True)
            raise

    def _end_segment(self) -> None:
        """Complete and keep the file of the frames so far, and open another one for the next frames."""
        assert self.kept is not None and self.origin is not None, "segments with frames end where they are kept"
        self._close_segment()
        self._keep_segment(self.origin)
        self.origin = None
        self._open_segment()

    def _close_segment(self) -> None:
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
        return logged_sound_plan(self.info, self.path.suffix.lower(), self.quiet, self.metadata)

    def _stored(self, pixels: Tensor) -> tuple[Tensor, ...]:
        if tuple(pixels.shape[-2:]) != tuple(self.size):
            raise ValueError(f"frames of {tuple(pixels.shape[-2:])} for a clip of {tuple(self.size)} (height, width)")
        pixels = repeated_to(pixels, self.stored_size)
        if self.layout.alpha and pixels.shape[1] == 3:
            opaque = 255 if pixels.dtype == torch.uint8 else -1  # all bits set
            pixels = torch.cat([pixels, torch.full_like(pixels[:, :1], opaque)], dim=1)
        return from_rgb(pixels[:, : 3 + self.layout.alpha], self.layout, self.encoding.dither)

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
            self.last_step = Fraction(pts - start, self.ticks)
            if self.border is not None:
                self._end_segment()
        self.pending = (frame_from(planes, self.layout, self.encoding.stored), pts)

    def _encode(self, frame: av.VideoFrame, pts: int, duration: int) -> None:
        tag(frame, self.encoding.colour, self.encoding.matrix, self.encoding.full_range)
        if self.origin is None:
            # MP4 files begin at time zero. Matroska files keep the clip's times, so that times are rounded to
            # milliseconds in the same way as in the result.
            self.origin = pts if self.kept and self.kept.pieces and self.form != "matroska" else 0
        frame.pts, frame.time_base = pts - self.origin, Fraction(1, self.ticks)
        self.steps[frame.pts] = duration
        self._mux(self.stream.encode(frame))

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            assert packet.pts is not None, "encoders keep the times of frames"
            packet.duration = self.steps.pop(packet.pts)
            self.container.mux(timed(packet, self.encoding, self.frames - self.segment_from))

    def _finish(self) -> None:
        assert self.pending is not None, "a clip has a frame"
        frame, pts = self.pending
        self._encode(frame, pts, self._last_duration(pts))
        self._close_segment()
        if self.waits:
            kept = self.kept
            segments = [Segment(kept.path(piece), piece.facts["ticks"]) for piece in kept.pieces] if kept else []
            segments.append(Segment(self.temporary, self.origin or 0))
            complete(segments, self.path, self.info, self.sound, self.extras, self.ticks, self.quiet)

    def _last_duration(self, pts: int) -> int:
        """The duration of the last frame in ticks.

        It is one step of the rate. If the rate varies, it is at most the duration of the frame before; but if the rest
        of the input's duration is less than ten such steps, it is this rest.
        """
        step = 1 / self.rate
        if self.info.variable_frame_rate and not self.retimed and self.last_step is not None:
            step = min(step, self.last_step)  # if the clip's clock jumps, its mean rate is far too low
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


def ticks_per_second(rate: Fraction, source: MediaInfo | None) -> int:
    """Ticks per second of a clock for which the times of frames are integers, unless that needs more than `MOST_TICKS`.

    Args:
        rate: frames per second; multiples of 1 / rate are integers on the clock, unless the source's rate varies.
        source: the input, whose times are integers on the clock too; None: its times are not kept.
    """
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


def full_size(size: tuple[int, int], layout: YuvLayout) -> tuple[int, int]:
    """(height, width) rounded up to multiples of the chroma subsampling, such as 2x2 pixels in 4:2:0."""
    across, down = layout.subsampling if layout.model == "yuv" else (1, 1)
    return -(-size[0] // down) * down, -(-size[1] // across) * across


def repeated_to(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge [..., H, W] to `size`, (height, width), by repeating the last row and column."""
    below, right = size[0] - pictures.shape[-2], size[1] - pictures.shape[-1]
    if below:
        pictures = torch.cat([pictures, *[pictures[..., -1:, :]] * below], dim=-2)
    if right:
        pictures = torch.cat([pictures, *[pictures[..., -1:]] * right], dim=-1)
    return pictures
