"""What does a video file show, frame by frame, and when?

Damage: a packet that the decoder refuses is skipped, counted and reported (`MediaReader.damage`), and the frames
around it keep their times; when nothing decodes after it, the rest of the file is gone and the iteration ends in a
MediaError that counts what was read.
"""

import itertools
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av

from common.logger import get_logger
from data.media.clock import Clock, nominal_rate
from data.media.colour import HDR_CURVES, to_rgb
from data.media.deinterlace import Deinterlacer
from data.media.info import Frame, MediaError, MediaInfo, MediaReader
from data.media.orientation import orientation_of

logger = get_logger(__name__)

Deinterlace = Literal["auto", "always", "never"]

# FFmpeg would also open text (as terminal art), playlists that point elsewhere, and pictures; none of them is a clip.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,flv,mpegts,mpegtsraw,mpeg,mpegvideo,m4v,ogg,mxf,dv,rm,nut,wtv,gxf,ivf,"
    "h264,hevc,vc1,yuv4mpegpipe,swf,nsv,bink,smk,amv,mtv,roq,film_cpk,4xm,xmv"
)


class VideoReader(MediaReader):
    """Frames of the best video stream: right matrix and range, upright, deinterlaced, with exact times.

    Args:
        path: the file.
        deinterlace: "auto" treats frames that are marked as interlaced, "always" all, "never" none.
    """

    def __init__(self, path: Path, deinterlace: Deinterlace = "auto") -> None:
        self.path = path
        self.deinterlace = deinterlace
        self._running: list[av.container.InputContainer] = []
        with open_container(path) as container:
            stream = _video_stream(container, path)
            first = next(self._decode(container, stream), None)
            if first is None:
                raise MediaError(f"{path.name}: the video stream holds no frame that can be decoded")
            self._orientation = orientation_of(first)
            self._coded_size = (first.width, first.height)
            self.info = _describe(path, container, stream, first, self._orientation.transpose)
        if first.color_trc in HDR_CURVES:
            logger.warning("%s: HDR picture; its values are used as they are, without tone mapping", path.name)

    def __iter__(self) -> Iterator[Frame]:
        container = open_container(self.path)
        self._running.append(container)
        self.damage = None
        try:
            stream = _video_stream(container, self.path)
            for frame, time in self._progressive(container, stream):
                pixels = to_rgb(frame, *self._coded_size)  # 3 H W
                yield Frame(self._orientation.apply(pixels), time)
        finally:
            self._running.remove(container)
            container.close()

    def close(self) -> None:
        for container in self._running:
            container.close()

    def _progressive(self, container, stream) -> Iterator[tuple[av.VideoFrame, Fraction]]:
        """Decoded frames with their times, through the deinterlacer from the first interlaced frame on."""
        clock = Clock(self.info.frame_rate, stream.time_base, self.info.time_origin)
        filtered = Deinterlacer(stream, only_flagged=False) if self.deinterlace == "always" else None
        for frame in self._decode(container, stream):
            time = clock.time_of(frame.pts)
            if filtered is None and frame.interlaced_frame and self.deinterlace == "auto":
                filtered = Deinterlacer(stream, only_flagged=True)
            yield from filtered.push(frame, time) if filtered else ((frame, time),)
        if filtered:
            yield from filtered.flush()

    def _decode(self, container, stream) -> Iterator[av.VideoFrame]:
        """Every frame that decodes, in display order; MediaError where the file goes on but cannot be decoded."""
        packets = container.demux(stream)
        decoded, damaged, whole_since = 0, 0, True
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    break
                frames = packet.decode()
                whole_since = whole_since or packet.size > 0
            except av.FFmpegError as error:
                damaged, whole_since = damaged + 1, False
                logger.debug("%s: damaged data after frame %d (%s)", self.path.name, decoded, error)
                continue  # the demuxer moves on, or says that this is the end
            decoded += len(frames)
            yield from frames
        if not whole_since or _reaches_past_the_end(stream, self.path):
            promised = _frame_count_hint(container, stream)
            raise MediaError(
                f"{self.path.name}: only {decoded} of {promised or 'an unknown number of'} frames could be decoded, "
                "the rest of the file is damaged or missing; get a complete copy, or cut the clip to its readable part"
            )
        if damaged:
            self.damage = f"{self.path.name}: damaged data was skipped in {damaged} places, {decoded} frames were read"
            logger.warning(self.damage)


def open_container(path: Path) -> av.container.InputContainer:
    """Open a local clip; MediaError with a reason when it is none."""
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        # An absolute path: FFmpeg takes "a:b.mp4" for the protocol a.
        return av.open(str(path.absolute()), container_options=options, metadata_errors="replace")
    except (av.FFmpegError, ValueError, OSError) as error:
        raise MediaError(f"{path.name}: {_why_unreadable(path)}") from error


def _why_unreadable(path: Path) -> str:
    """A guess at what is wrong with a file that no demuxer accepts."""
    if path.stat().st_size == 0:
        return "the file is empty"
    with path.open("rb") as file:
        if file.read(12)[4:8] not in (b"ftyp", b"mdat", b"free", b"wide"):
            return "not a video or picture that can be read, or its header is damaged"
        position, boxes = 0, []
        while position < path.stat().st_size:  # walk the top-level boxes of an MP4 or MOV: size, type
            file.seek(position)
            header = file.read(16)
            if len(header) < 8:
                break
            size, kind = struct.unpack(">I4s", header[:8])
            if size == 1 and len(header) == 16:
                size = struct.unpack(">Q", header[8:])[0]
            boxes.append(kind)
            if size < 8:
                break
            position += size
    if b"moov" in boxes:
        return "an MP4 or MOV whose index (moov) is damaged"
    return "the index of the MP4 (moov) is missing: the recording or the download was cut off; get a complete copy"


def _video_stream(container, path: Path) -> av.VideoStream:
    """The first moving stream; cover pictures of songs do not count."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    held = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
    raise MediaError(f"{path.name}: there is no video stream in this file (it holds {held})")


def _describe(path: Path, container, stream, first: av.VideoFrame, transposed: bool) -> MediaInfo:
    rate, varies = nominal_rate(stream)
    starts = [s.start_time * s.time_base for s in (stream, *container.streams.audio) if s.start_time is not None]
    origin = min(starts, default=Fraction(0))
    if stream.duration:
        duration = ((stream.start_time or 0) + stream.duration) * stream.time_base - origin
    else:
        duration = Fraction(container.duration, av.time_base) if container.duration else None
    width, height, aspect = first.width, first.height, stream.sample_aspect_ratio or Fraction(1)
    if transposed:
        width, height, aspect = height, width, 1 / aspect
    return MediaInfo(
        path=path,
        kind="video",
        width=width,
        height=height,
        frame_rate=rate,
        variable_frame_rate=varies,
        has_audio=bool(container.streams.audio),
        sample_aspect_ratio=aspect,
        duration=duration,
        frame_count_hint=_frame_count_hint(container, stream),
        time_base=stream.time_base,
        time_origin=origin,
        audio_codecs=tuple(s.codec_context.codec.canonical_name for s in container.streams.audio),
    )


def _frame_count_hint(container, stream) -> int | None:
    if stream.frames:
        return stream.frames
    seconds = stream.duration * stream.time_base if stream.duration else None
    if seconds is None and container.duration:
        seconds = Fraction(container.duration, av.time_base)
    return round(seconds * nominal_rate(stream)[0]) if seconds else None


def _reaches_past_the_end(stream, path: Path) -> bool:
    """Whether the index lists packets behind the end of the file: a download cut exactly between two packets."""
    size = path.stat().st_size
    entries = stream.index_entries
    return any(entry.pos + entry.size > size for entry in itertools.islice(entries, max(len(entries) - 1000, 0), None))
