"""Reads which streams a video has, and its facts, before its frames are read. Works without torch, for probing."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer

from common.logger import printable
from data.media.clip_decoder import decoder_of
from data.media.clock import nominal_rate, time_base_of
from data.media.colour import colour_of
from data.media.container_lengths import top_level_boxes
from data.media.errors import MACHINE_ERRORS, MediaError, decoding, shown
from data.media.info import MediaInfo
from data.media.unreadable import ADVICE, is_encrypted, is_encrypted_packet, video_codec_name

# FFmpeg would also open text (as terminal art), playlists that point elsewhere, and pictures; none of them is a video.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,flv,mpegts,mpegtsraw,mpeg,mpegvideo,m4v,ogg,mxf,dv,rm,nut,wtv,gxf,ivf,"
    "h264,hevc,vc1,yuv4mpegpipe,swf,nsv,bink,smk,amv,mtv,roq,film_cpk,4xm,xmv"
)

MOST_PIXELS = 1 << 27  # pixels of a frame: 16K by 8K
MOST_REFUSED = 1000  # undecodable packets at the start of a clip after which it is refused


def open_container(path: Path) -> av.container.InputContainer:
    """Open a local video. Raises MediaError with a reason if it cannot be opened as one."""
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    with decoding(path):
        try:
            # An absolute path: FFmpeg takes "a:b.mp4" for the protocol a.
            return av.open(str(path.absolute()), container_options=options, metadata_errors="replace")
        except (av.FFmpegError, ValueError) as error:
            if getattr(error, "errno", None) in MACHINE_ERRORS:
                raise
            raise MediaError(f"{shown(path)}: {_why_unreadable(path)}") from error


@dataclass(frozen=True)
class Tracks:
    """The streams of a video that are used."""

    video: av.VideoStream  # the video stream
    audio: tuple[av.AudioStream, ...]  # the audio streams with a supported codec
    notes: tuple[str, ...]  # sentences about the streams that are left out


def choose_tracks(container: InputContainer, path: Path) -> Tracks:
    """Choose the largest of the video tracks that are marked as default (of all, if none is), and all readable sound.

    Cover pictures do not count as video tracks. Streams whose codec FFmpeg does not support are left out.

    Raises:
        MediaError: there is no such video track, or its frames have more than `MOST_PIXELS` pixels.
    """
    moving: list[av.VideoStream] = []
    covers: list[av.VideoStream] = []
    for stream in container.streams.video:
        (covers if stream.disposition & av.stream.Disposition.attached_pic else moving).append(stream)
    known = [stream for stream in moving if stream.codec_context is not None]
    if not known:
        raise MediaError(f"{shown(path)}: {_why_no_video(path, container, moving, covers)}")
    default = [stream for stream in known if stream.disposition & av.stream.Disposition.default]
    video = max(default or known, key=_pixels)  # max takes the first of equals
    if _pixels(video) > MOST_PIXELS:
        raise MediaError(f"{shown(path)}: has frames of more than {MOST_PIXELS // 10**6} megapixels; scale it down")
    notes = []
    if len(moving) > 1:
        number, size = moving.index(video) + 1, f"{video.codec_context.width}x{video.codec_context.height}"
        notes.append(
            f"{shown(path)}: holds {len(moving)} video tracks; track {number} ({size}) is used, others are not"
        )
    sounds = list(container.streams.audio)
    for number, sound in enumerate(sounds, start=1):
        if sound.codec_context is None:
            notes.append(f"{shown(path)}: sound track {number} of {len(sounds)} is left out, its codec is not known")
    audio = tuple(sound for sound in sounds if sound.codec_context is not None)
    return Tracks(video, audio, tuple(notes))


def first_frame(container: InputContainer, stream: av.VideoStream, path: Path) -> av.VideoFrame:
    """Decode the first frame that can be decoded. Raises MediaError, with a reason, if there is none."""
    packets, refused, decode = container.demux(stream), 0, decoder_of(stream)
    while refused < MOST_REFUSED:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            if is_encrypted_packet(packet):
                raise MediaError(f"{shown(path)}: its video is encrypted; {ADVICE}")
            for frame in decode(packet):
                return frame
        except av.FFmpegError:
            refused += 1
    if is_encrypted(path):
        raise MediaError(f"{shown(path)}: its video is encrypted; {ADVICE}")
    if refused:
        promised = frame_count_hint(container, stream) or "an unknown number of"
        raise MediaError(
            f"{shown(path)}: only 0 of {promised} frames could be decoded, the file is damaged; get a complete copy"
        )
    raise MediaError(f"{shown(path)}: the video stream holds no frame that can be decoded")


def describe(
    path: Path, container: InputContainer, tracks: Tracks, first: av.VideoFrame, transposed: bool
) -> MediaInfo:
    """The facts of a video, from its header and its first frame.

    Args:
        path: the file.
        container: the open file.
        tracks: from `choose_tracks`.
        first: the first frame.
        transposed: whether width and height are exchanged when the frame is displayed.
    """
    stream = tracks.video
    rate, varies = nominal_rate(stream)
    time_base = time_base_of(stream)
    starts = [s.start_time * time_base_of(s) for s in (stream, *tracks.audio) if s.start_time is not None]
    origin = min(starts, default=Fraction(0))
    duration: Fraction | None
    if stream.duration:
        duration = ((stream.start_time or 0) + stream.duration) * time_base - origin
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
        has_audio=bool(tracks.audio),
        sample_aspect_ratio=aspect,
        duration=duration,
        frame_count_hint=frame_count_hint(container, stream),
        time_base=time_base,
        time_origin=origin,
        audio_codecs=tuple(s.codec_context.codec.canonical_name for s in tracks.audio),
        subtitle_codecs=tuple(
            s.codec_context.codec.canonical_name for s in container.streams.subtitles if s.codec_context is not None
        ),
        depth=depth_of(first),
        colour=colour_of(first),
        transparent=means_transparency(first, stream),
    )


def depth_of(frame: av.VideoFrame) -> int:
    """Bits per sample of a frame, without alpha, from 8 to 16; floats are read as 16 bits."""
    bits = max(component.bits for component in frame.format.components if not component.is_alpha)
    return min(max(bits, 8), 16)


def means_transparency(frame: av.VideoFrame, stream: av.VideoStream) -> bool:
    """Whether a frame has meaningful alpha. In uncompressed AVIs, the fourth byte of a pixel is not alpha."""
    means_nothing = stream.codec_context.name in ("rawvideo", "bmp") and stream.container.format.name == "avi"
    return not means_nothing and any(component.is_alpha for component in frame.format.components)


def has_captions(frame: av.VideoFrame) -> bool:
    """Whether a frame contains closed captions (CEA-608 or CEA-708), as in broadcasts."""
    try:
        return frame.side_data.get("A53_CC") is not None
    except ValueError:  # PyAV raises for side data of a kind that it does not support
        return False


def frame_count_hint(container: InputContainer, stream: av.VideoStream) -> int | None:
    """About how many frames the video has, by its header; None if that states neither frames nor a duration."""
    if stream.frames:
        return stream.frames
    seconds = stream.duration * time_base_of(stream) if stream.duration else None
    if seconds is None and container.duration:
        seconds = Fraction(container.duration, av.time_base)
    return round(seconds * nominal_rate(stream)[0]) if seconds else None


def _pixels(stream: av.VideoStream) -> int:
    return (stream.codec_context.width or 0) * (stream.codec_context.height or 0)


def _why_no_video(
    path: Path, container: InputContainer, moving: list[av.VideoStream], covers: list[av.VideoStream]
) -> str:
    if is_encrypted(path):
        return f"its video is encrypted; {ADVICE}"
    if moving:
        name = video_codec_name(path)
        codec = f"the codec of its video ({printable(name)})" if name else "the codec of its video"
        return f"{codec} is not known; convert it to H.264 with the program that made it"
    if covers and container.streams.audio:
        return "holds sound and only a cover picture, no video"
    held = sorted({s.type for s in container.streams if s not in covers}) + ["a cover picture"] * bool(covers)
    return f"there is no video stream in this file (it holds {', '.join(held) or 'nothing'})"


def _why_unreadable(path: Path) -> str:
    """The likely reason why FFmpeg cannot open a file, as the end of a sentence."""
    if path.stat().st_size == 0:
        return "the file is empty"
    with path.open("rb") as file:
        if is_encrypted(path):
            return f"its video is encrypted; {ADVICE}"
        if file.read(12)[4:8] not in (b"ftyp", b"mdat", b"free", b"wide"):
            return "not a video or picture that can be read, or its header is damaged"
    if b"moov" in top_level_boxes(path):
        return "an MP4 or MOV whose index (moov) is damaged"
    return "the index of the MP4 (moov) is missing: the recording or the download was cut off; get a complete copy"
