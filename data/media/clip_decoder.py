"""Which decoder does a clip get? FFmpeg's native one, unless only another decodes transparency. Works without torch."""

from collections.abc import Callable

import av
from av.video.codeccontext import VideoCodecContext

# Matroska and WebM store the alpha of VP8 and VP9 as a second picture, which FFmpeg's native decoders ignore.
WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def decoder_of(stream: av.VideoStream) -> Callable[[av.Packet], list[av.VideoFrame]]:
    """A function that decodes packets of a stream to frames, with transparency if they have any.

    An empty packet ends the stream: the function then returns the frames that the decoder still holds.
    """
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
        except av.EOFError:  # the demuxer sends several empty packets at the end
            return []

    return decode
