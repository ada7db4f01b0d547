"""Which decoder is used for a clip? FFmpeg's native one, unless another one decodes transparency too. No torch."""

from collections.abc import Callable

import av
from av.video.codeccontext import VideoCodecContext

# FFmpeg's native decoders of VP8 and VP9 ignore the second picture, which holds the transparency.
WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def decoder_of(stream: av.VideoStream) -> Callable[[av.Packet], list[av.VideoFrame]]:
    """A function from packets of a stream to frames with their transparency; an empty packet ends the stream."""
    name = WITH_ALPHA.get(stream.codec_context.name)
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    if name is None or tags.get("alpha_mode") != "1" or name not in av.codecs_available:
        return av.Packet.decode
    context = av.CodecContext.create(name, "r")
    assert isinstance(context, VideoCodecContext)
    context.extradata = stream.codec_context.extradata

    def decode(packet: av.Packet) -> list[av.VideoFrame]:
        try:
            return context.decode(packet if packet.size else None)
        except av.EOFError:  # the demuxer says several times that this is the end
            return []

    return decode
