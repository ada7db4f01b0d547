"""Which encoder of this build of FFmpeg is used for a codec, does it start here, and which pixel formats does it take?

Errors are sentences for the user: they name the option and the alternatives.
"""

from collections.abc import Iterable
from fractions import Fraction
from functools import cache

import av
from av.video.codeccontext import VideoCodecContext

from data.media.codecs import TABLE, Codec, OutputOptions, either, planar_of
from data.media.errors import reason

TRIED_PX = 256  # side of the frames for which a hardware encoder is opened as a test


def encoder_of(name: str, options: OutputOptions, available: Iterable[str] | None) -> str:
    """libav's name of the encoder for a codec.

    Args:
        name: a key of `TABLE`.
        options: `encoder` chooses between CPU and GPU.
        available: names of libav's encoders; None: those of this build.

    Raises:
        ValueError: there is no such encoder, or this build lacks it.
    """
    codec = TABLE[name]
    here = set(av.codecs_available if available is None else available)
    encoder = codec.encoders.get(options.encoder)
    if encoder is None:
        others = [n for n, c in TABLE.items() if options.encoder in c.encoders]
        raise ValueError(f"--encoder {options.encoder} makes {either(others)}, no {codec.name}; leave it out")
    if encoder not in here:
        there = [n for n, c in TABLE.items() if c.encoders.get(options.encoder) in here]
        raise ValueError(
            f"this build of FFmpeg has no {encoder}, which makes {codec.name}; it has {either(there) or 'none such'}"
            f"{' (--encoder nvenc)' if options.encoder == 'nvenc' else ''}"
        )
    return encoder


@cache
def try_hardware(encoder: str) -> None:
    """Raise ValueError if a hardware encoder of this build does not open on this machine."""
    context = av.CodecContext.create(encoder, "w")
    assert isinstance(context, VideoCodecContext)
    context.width = context.height = TRIED_PX
    context.pix_fmt, context.framerate, context.time_base = "yuv420p", Fraction(25), Fraction(1, 25)
    try:
        context.open()
    except (av.FFmpegError, OSError) as error:
        raise ValueError(
            f"--encoder nvenc: {encoder} does not start on this machine ({reason(error)}); it needs an NVIDIA GPU with "
            "an encoder and its driver. Leave it out to encode on the CPU"
        ) from error


def formats_of_encoder(encoder: str) -> tuple[str, ...]:
    """The pixel formats that an encoder of this build takes, by libav's names."""
    return tuple(form.name for form in av.Codec(encoder, "w").video_formats or ())


def takes(encoder: str, pixel_format: str) -> bool:
    """Whether an encoder is in this build and takes a pixel format that `frame_from` can make."""
    return (
        encoder in av.codecs_available
        and pixel_format in formats_of_encoder(encoder)
        and planar_of(pixel_format) is not None
    )


def check_format(codec: Codec, encoder: str, stored: str, options: OutputOptions) -> None:
    """Raise ValueError if an encoder does not take a pixel format, or it cannot be made; lists those that work.

    Args:
        codec: the codec, for messages.
        encoder: libav's name of its encoder.
        stored: libav's name of the pixel format.
        options: the user's options, among them the pixel format that was asked for.
    """
    if stored in formats_of_encoder(encoder) and planar_of(
        stored if options.encoder == "cpu" else options.pixel_format or stored
    ):
        return
    if options.pixel_format is None:
        raise ValueError(f"{encoder} takes no {stored} in this build of FFmpeg; choose another --bit_depth or --codec")
    known = [name for name in formats_of_encoder(encoder) if planar_of(name)]
    raise ValueError(f"--pixel_format {options.pixel_format}: {codec.name} ({encoder}) takes {', '.join(known)} here")
