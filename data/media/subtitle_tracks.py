"""Writes one subtitle track to the output: packets are copied, or converted to another text codec."""

from fractions import Fraction
from typing import Any

import av

from data.media.clock import time_base_of
from data.media.extras import TEXT_CODECS, SubtitleTrack
from data.media.sound_tracks import CopiedTrack, TrackWriter

TICK = Fraction(1, 1000)  # seconds
# FFmpeg's text encoders look up a style; if there is none, they write uninitialised memory.
PLAIN_STYLE = b"""[Script Info]
ScriptType: v4.00+
PlayResX: 384
PlayResY: 288

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Default,Arial,16,&Hffffff,&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


class SubtitleTimes:
    """Gives subtitle packets strictly increasing times; unlike `RisingTimes`, it takes long pauses as normal.

    See `RisingTimes` for the arguments and attributes.
    """

    def __init__(self, time_base: Fraction, origin: Fraction) -> None:
        self.shift = -round(origin / time_base)
        self.last = -1
        self.moved = self.skipped = self.joined = 0

    def push(self, packet: av.Packet | None) -> av.Packet | None:
        """Return the packet with its times set; None if it has no time, ends before zero, or its time decreases."""
        if packet is None or packet.pts is None:
            return None
        start, duration = packet.pts + self.shift, packet.duration or 0
        if start < 0:
            start, duration = 0, duration + start
        if start < self.last or (packet.pts + self.shift < 0 and duration <= 0):
            self.skipped += 1
            return None
        self.last = max(start, self.last + 1)  # subtitles that begin at the same time
        packet.pts = packet.dts = self.last
        packet.duration = duration
        return packet


class CopiedSubtitles(CopiedTrack):
    """Copies packets unchanged, apart from their times."""

    divides = True

    def new_times(self, stream: av.stream.Stream, origin: Fraction) -> SubtitleTimes:
        return SubtitleTimes(time_base_of(stream), origin)


class ConvertedSubtitles(TrackWriter):
    """Decodes packets to text and encodes it for the container. Italics and bold stay; positions and fonts are lost."""

    divides = True

    def new_times(self, stream: av.stream.Stream, origin: Fraction) -> SubtitleTimes:
        return SubtitleTimes(time_base_of(stream), origin)

    def __init__(
        self, track: SubtitleTrack, stream: Any, output: av.container.OutputContainer, *clock: Fraction
    ) -> None:
        super().__init__(track, stream, output, *clock)
        self.source = stream
        codec = TEXT_CODECS.get(f".{output.format.name}", "subrip")
        self.stream: Any = output.add_stream(codec)  # PyAV's stub has no class for it
        encoder: Any = self.stream.codec_context
        encoder.subtitle_header = PLAIN_STYLE
        encoder.time_base = self.stream.time_base = TICK
        self.describe(self.stream)

    def write(self, packet: av.Packet) -> None:
        try:
            text = self.source.decode2(packet)
            if text is None or not text.rects:
                return
            encoded = self.stream.codec_context.encode_subtitle(text)
        except Exception as error:  # decoders raise anything; the next line may be intact
            self.refuse(error)
            return
        encoded.time_base = TICK
        seconds = time_base_of(packet) / TICK  # ticks of the output per tick of the input
        encoded.pts = encoded.dts = round((packet.pts or 0) * seconds)
        encoded.duration = round((packet.duration or 0) * seconds)
        encoded.stream = self.stream
        self.output.mux(encoded)
