"""How does the sound of the input reach the output? Packet by packet, as it is.

Only a codec that the output container cannot carry is re-encoded, and a log line says so; `names.video_suffix` picks
a container that avoids it.
"""

import math
from collections.abc import Iterator
from fractions import Fraction

import av

from common.logger import get_logger
from data.media.info import MediaError, MediaInfo
from data.media.names import carries
from data.media.video_reader import open_container

logger = get_logger(__name__)

AAC_BITS_PER_SECOND = 256_000
AAC_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}


class AudioCopier:
    """Adds the audio streams of a file to an output and moves their packets over, kept in step with the video.

    Args:
        info: the input; its `time_origin` becomes zero.
        output: an output container that has not started.
        suffix: of the output, as ".mp4".
    """

    def __init__(self, info: MediaInfo, output: av.container.OutputContainer, suffix: str) -> None:
        self.info, self.output = info, output
        self.input = open_container(info.path)
        self.targets: dict[int, _Copy | _Reencode] = {}
        for stream in self.input.streams.audio:
            codec = stream.codec_context.codec.canonical_name
            if carries(suffix, codec):
                self.targets[stream.index] = _Copy(stream, output, info.time_origin)
            else:
                logger.info("%s: %s sound does not fit into %s; re-encoded as AAC", info.path.name, codec, suffix[1:])
                self.targets[stream.index] = _Reencode(stream, output, info.time_origin)
        self._packets = self._read()
        self._next = next(self._packets, None)

    def copy_until(self, seconds: Fraction | float) -> None:
        """Move over every packet that starts before this time."""
        while self._next is not None and self._next[0] < seconds:
            _, packet = self._next
            self.targets[packet.stream.index].write(packet)
            self._next = next(self._packets, None)

    def finish(self) -> None:
        """Move over the rest."""
        self.copy_until(math.inf)
        for target in self.targets.values():
            target.finish()

    def close(self) -> None:
        """Let go of the input."""
        self.input.close()

    def _read(self) -> Iterator[tuple[Fraction, av.Packet]]:
        time = Fraction(0)
        try:
            for packet in self.input.demux(self.input.streams.audio):
                if packet.size == 0:  # the end of a stream
                    continue
                ticks = packet.dts if packet.dts is not None else packet.pts
                if ticks is not None:
                    time = ticks * packet.time_base - self.info.time_origin
                yield time, packet
        except av.FFmpegError as error:
            raise MediaError(
                f"{self.info.path.name}: the sound cannot be read behind {float(time):.2f} s ({error})"
            ) from error


class _Copy:
    """Packets as they are, moved so that the clip starts at zero."""

    def __init__(self, stream, output, origin: Fraction) -> None:
        self.output = output
        self.stream = output.add_stream_from_template(stream)
        self.offset = round(origin / stream.time_base)

    def write(self, packet: av.Packet) -> None:
        packet.pts = None if packet.pts is None else packet.pts - self.offset
        packet.dts = None if packet.dts is None else packet.dts - self.offset
        packet.stream = self.stream
        self.output.mux(packet)

    def finish(self) -> None:
        """Nothing is held back."""


class _Reencode:
    """Decoded, resampled to what AAC takes, encoded."""

    def __init__(self, stream, output, origin: Fraction) -> None:
        source = stream.codec_context
        self.output, self.origin = output, origin
        rate = source.sample_rate if source.sample_rate in (16000, 22050, 24000, 32000, 44100, 48000) else 48000
        layout = AAC_LAYOUTS.get(source.layout.nb_channels, "stereo")
        self.stream = output.add_stream("aac", rate=rate, layout=layout)
        self.stream.bit_rate = min(AAC_BITS_PER_SECOND, 128_000 * source.layout.nb_channels)
        self.resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate)

    def write(self, packet: av.Packet) -> None:
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            logger.warning("a damaged piece of sound was skipped (%s)", error)
            return
        for frame in frames:
            if frame.pts is not None:
                frame.pts -= round(self.origin / frame.time_base)
            self._encode(frame)

    def finish(self) -> None:
        self._encode(None)
        self.output.mux(self.stream.encode(None))

    def _encode(self, frame: av.AudioFrame | None) -> None:
        for resampled in self.resampler.resample(frame):
            self.output.mux(self.stream.encode(resampled))
