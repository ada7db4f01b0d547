"""Writes one sound track to the output: packets are copied, or decoded and encoded as AAC or, in WebM, Opus.

Damaged packets are left out and counted; they raise no error.
"""

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.stream import Disposition

from data.media.clock import time_base_of
from data.media.errors import reason
from data.media.sound_plan import SoundTrack
from data.media.sound_times import TOLERANCE_S, RisingTimes

if TYPE_CHECKING:
    from data.media.extras import SubtitleTrack
    from data.media.subtitle_tracks import SubtitleTimes

MOST_BITS_PER_SECOND = 256_000
AFTER_THE_PICTURE_S = 10  # gaps are filled up to here after the video's end; later times come from a clock that jumped


@dataclass(frozen=True)
class SoundCodec:
    """The formats that an encoder of sound takes."""

    name: str  # libav's name of the encoder
    layouts: Mapping[int, str]  # libav's name of the channel layout, by the number of channels
    rates: tuple[int, ...]  # sample rates in Hz
    frame: int  # samples of a frame, for each channel


AAC = SoundCodec(
    "aac", {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"},
    (16000, 22050, 24000, 32000, 44100, 48000), 1024,
)  # fmt: skip
OPUS = SoundCodec("libopus", {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 8: "7.1"}, (48000,), 960)


class TrackWriter(ABC):
    """Writes one track to the output.

    Args:
        track: whether the track is copied, and the tags of the output track.
        stream: the stream of the input.
        output: the output; its header is not written yet.
        origin: the container time in seconds that becomes zero.
        picture_s: the duration of the video in seconds.
        until: if a part of a clip is restored, its end in seconds: only packets from zero up to here are written.
            None: all packets are written.

    Attributes:
        divides: whether a packet that lies partly inside the part is written, cut to it.
        refused: how many packets could not be decoded or muxed.
        reason_left_out: why the last of them could not.
    """

    divides = False

    def __init__(
        self,
        track: "SoundTrack | SubtitleTrack",
        stream: av.AudioStream,
        output: av.container.OutputContainer,
        origin: Fraction,
        picture_s: Fraction = Fraction(0),
        until: Fraction | None = None,
    ) -> None:
        self.track, self.output, self.picture_s = track, output, picture_s
        self.origin, self.until = origin, until
        self.times = self.new_times(stream, origin)
        self.refused = 0
        self.reason_left_out = ""

    def new_times(self, stream: Any, origin: Fraction) -> "RisingTimes | SubtitleTimes":
        """Make the object that gives the track's packets their times."""
        return RisingTimes(time_base_of(stream), origin, packet_seconds(stream))

    def takes(self, packet: av.Packet) -> bool:
        """Whether a packet of the input is written, as a whole or in part; its duration is cut at `until`."""
        ticks = packet.dts if packet.pts is None else packet.pts
        if self.until is None or ticks is None:
            return True
        start = ticks * packet.time_base - self.origin
        if start >= self.until:
            return False
        length = (packet.duration or 0) * packet.time_base
        if self.divides and start + length > self.until:
            packet.duration = round((self.until - start) / packet.time_base)
        return start >= 0 or (self.divides and start + length > 0)

    @abstractmethod
    def write(self, packet: av.Packet) -> None:
        """Write one packet, whose times have been set. Errors of the decoder or the muxer are counted, not raised."""

    def describe(self, stream: av.stream.Stream) -> None:
        """Set the tags and the disposition of the output stream."""
        stream.metadata.update(self.track.tags)
        stream.disposition = Disposition(self.track.disposition)

    def finish(self) -> None:  # noqa: B027 (a copied track holds nothing back)
        """Write everything that the decoder and the encoder still hold."""

    def faults(self) -> str | None:
        """The faults of the track as a sentence; None if there are none."""
        counts = (
            (self.refused, f"damaged and left out ({self.reason_left_out})"),
            (self.times.skipped, "repeated or out of order and left out"),
            (self.times.moved, "given a later time, so that times increase"),
        )
        parts = [f"{count} {'packet was' if count == 1 else 'packets were'} {what}" for count, what in counts if count]
        if self.times.joined:
            parts.append(f"{self.times.joined + 1} recordings with separate clocks were joined")
        return f"{self.track.name}: {', '.join(parts)}" if parts else None

    def refuse(self, error: Exception) -> None:
        """Count a packet that is left out because of this error."""
        self.refused, self.reason_left_out = self.refused + 1, reason(error)


def packet_seconds(stream: av.AudioStream) -> Fraction | None:
    """The duration of every packet in seconds, for codecs with a fixed frame size; None for others."""
    samples, rate = stream.codec_context.frame_size, stream.codec_context.sample_rate
    return Fraction(samples, rate) if samples and rate else None


class CopiedTrack(TrackWriter):
    """Copies packets unchanged.

    Each packet is first given to a test muxer, because the muxer of the output interleaves tracks and writes late: its
    errors could not be attributed to a packet, and some would make the file unusable.
    """

    def __init__(
        self, track: SoundTrack, stream: av.AudioStream, output: av.container.OutputContainer, *clock: Fraction
    ) -> None:
        super().__init__(track, stream, output, *clock)
        self.stream = output.add_stream_from_template(stream)
        self.describe(self.stream)
        self.trial = av.open(_Nowhere(), "w", format=output.format.name)
        self.trial_stream = self.trial.add_stream_from_template(stream)

    def write(self, packet: av.Packet) -> None:
        try:
            packet.stream = self.trial_stream
            self.trial.mux(packet)
        except (av.FFmpegError, ValueError) as error:
            self.refuse(error)
        else:
            packet.stream = self.stream
            self.output.mux(packet)


class EncodedTrack(TrackWriter):
    """Decodes packets, resamples them to a format that the encoder takes, and encodes them; fills gaps with silence."""

    divides = True

    def __init__(
        self, track: SoundTrack, stream: av.AudioStream, output: av.container.OutputContainer, *clock: Fraction
    ) -> None:
        super().__init__(track, stream, output, *clock)
        source = stream.codec_context
        self.codec = OPUS if output.format.name == "webm" else AAC
        self.rate = source.sample_rate if source.sample_rate in self.codec.rates else 48000
        self.layout = self.codec.layouts.get(source.layout.nb_channels, "stereo")
        self.decoder = source
        stream_out = output.add_stream(self.codec.name, rate=self.rate, layout=self.layout)
        assert isinstance(stream_out, av.AudioStream), "both are codecs of sound"
        self.stream = stream_out
        self.stream.bit_rate = min(MOST_BITS_PER_SECOND, 128_000 * max(source.layout.nb_channels, 1))
        self.describe(self.stream)
        self.fifo = av.AudioFifo()
        self.resampler = self._new_resampler()
        self.position = self.encoded = 0  # samples decoded, including silence; samples encoded
        self.last = None if self.until is None else round(self.until * self.rate)  # end of the part, in samples

    def write(self, packet: av.Packet) -> None:
        self._decode(packet)

    def finish(self) -> None:
        self._decode(None)
        self._write_resampled(self.resampler.resample(None))
        self._encode(partial=True)
        self.output.mux(self.stream.encode(None))

    def _decode(self, packet: av.Packet | None) -> None:
        """Decode a packet, or for None what the decoder still holds, and write the result."""
        try:
            frames = self.decoder.decode(packet)
        except Exception as error:  # decoders raise anything; the next packet may be intact
            self.refuse(error)
            return
        for frame in frames:
            start = Fraction(self.position, self.rate)
            if frame.pts is not None and frame.time_base:
                start = frame.pts * frame.time_base
            self._append(frame, start)

    def _append(self, frame: av.AudioFrame, start: Fraction) -> None:
        """Write a frame that starts at this time in seconds; fill the gap before it with silence."""
        gap = round(start * self.rate) - self.position
        if start < 0 and not self.position and self.until is not None:
            self.position = gap  # samples before time zero are decoded, but not written
        least = TOLERANCE_S * self.rate if self.position else 0  # the start is exact, small later gaps are rounding
        if least < gap <= (self.picture_s + AFTER_THE_PICTURE_S) * self.rate - self.position:
            self._write_silence(gap)
        frame.pts = None
        try:
            resampled = self.resampler.resample(frame)
        except ValueError:  # the track changed its rate or its channels
            self.resampler = self._new_resampler()
            resampled = self.resampler.resample(frame)
        self._write_resampled(resampled)

    def _write_silence(self, samples: int) -> None:
        while samples > 0:
            count = min(samples, 48_000)
            zeros = np.zeros((self.stream.codec_context.layout.nb_channels, count), np.float32)
            frame = av.AudioFrame.from_ndarray(zeros, format="fltp", layout=self.layout)
            frame.sample_rate = self.rate
            self._write_resampled([frame])
            samples -= count

    def _write_resampled(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            first, end = max(-self.position, 0), frame.samples
            if self.last is not None:
                end = min(end, self.last - self.position)
            self.position += frame.samples
            if first < end:
                frame = frame if end - first == frame.samples else samples_of(frame, first, end)
                frame.pts = None
                self.fifo.write(frame)
        self._encode(partial=False)

    def _encode(self, partial: bool) -> None:
        while (frame := self.fifo.read(self.codec.frame, partial=partial)) is not None:
            frame.pts, frame.time_base = self.encoded, Fraction(1, self.rate)
            self.encoded += frame.samples
            self.output.mux(self.stream.encode(frame))

    def _new_resampler(self) -> av.AudioResampler:
        return av.AudioResampler(format="fltp", layout=self.layout, rate=self.rate)


def samples_of(sound: av.AudioFrame, first: int, end: int) -> av.AudioFrame:
    """A new frame with samples `first` to `end - 1` of a planar frame."""
    samples: Any = np.ascontiguousarray(sound.to_ndarray()[:, first:end])
    cut = av.AudioFrame.from_ndarray(samples, format=sound.format.name, layout=sound.layout.name)
    cut.sample_rate = sound.sample_rate
    return cut


class _Nowhere(io.RawIOBase):
    """A file object that discards what is written and keeps only the position."""

    def __init__(self) -> None:
        self.position = 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset + (self.position if whence else 0)
        return self.position

    def tell(self) -> int:
        return self.position
