"""Which codec, depth, pixel format and container does a result get? This is decided before the result is computed."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import av

from data.media.codecs import (
    AUTO,
    LOSSLESS,
    NVENC_FORMATS,
    TABLE,
    Codec,
    OutputOptions,
    depth_of_format,
    either,
    planar_of,
)
from data.media.colour import HLG, PQ, SDR, Colour
from data.media.encoders import check_format, encoder_of, takes, try_hardware
from data.media.names import USUAL_CONTAINERS
from data.yuv.layout import MATRIX_OF_NUMBER, YuvLayout
from data.yuv.storage import storage_of


class Source(Protocol):
    """The facts of a clip on which the encoding depends; `MediaInfo` and `Probe` have them."""

    @property
    def depth(self) -> int: ...

    @property
    def transfer(self) -> int: ...

    @property
    def transparent(self) -> bool: ...


@dataclass(frozen=True)
class Encoding:
    """How the frames of one clip are stored; all frames have the same encoding."""

    codec: str = "h264"  # a key of `TABLE`
    encoder: str = "libx264"  # libav's name of the encoder
    # The planes that `frame_from` gets. The default is BT.709, limited range, chroma on the left as in H.264.
    layout: YuvLayout = YuvLayout()  # noqa: RUF009 (frozen)
    stored: str = "yuv420p"  # pixel format that the encoder gets, with the same samples as `layout`
    crf: float | None = 16  # constant rate factor; None for codecs without one
    colour: Colour = SDR  # colour tags of the result
    dither: bool = False  # whether 8-bit samples are dithered, since the source has more bits
    containers: tuple[str, ...] = USUAL_CONTAINERS  # containers that take the codec

    @property
    def result_bits(self) -> Literal[8, 16]:
        """Bits per sample of the RGB frames that are encoded."""
        return 8 if self.layout.depth == 8 and not self.dither else 16

    @property
    def matrix(self) -> int:
        """The matrix as a number of AVColorSpace; 0 for RGB."""
        if self.layout.model == "rgb":
            return 0
        return next(number for number, name in MATRIX_OF_NUMBER.items() if name == self.layout.matrix)

    @property
    def full_range(self) -> bool:
        """Whether the result is tagged as full range."""
        return self.layout.full_range or self.layout.model == "rgb"


@dataclass(frozen=True)
class _Plain:
    depth: int = 8
    transfer: int = SDR.transfer
    transparent: bool = False


def check_options(options: OutputOptions, available: Iterable[str] | None = None) -> None:
    """Raise ValueError for options that exclude each other, whatever the input is.

    Args:
        options: the user's options. If they ask for a hardware encoder, it is opened as a test.
        available: names of libav's encoders; None: those of this build.
    """
    choose(_Plain(), options, available=available)
    if options.encoder == "nvenc":
        try_hardware(TABLE[_codec_of(_Plain(), options)].encoders["nvenc"])


def choose(
    source: Source, options: OutputOptions, colour: Colour = SDR, *, available: Iterable[str] | None = None
) -> Encoding:
    """Choose the encoding of the result of a clip.

    Args:
        source: the input clip.
        options: the user's options.
        colour: the colour of the input.
        available: names of libav's encoders; None: those of this build.

    Raises:
        ValueError: the options exclude each other, or do not fit this input; the sentence names what works.
    """
    kept_hdr = source.transfer in (PQ, HLG) and options.hdr == "keep"
    name = _codec_of(source, options)
    codec = TABLE[name]
    containers = _containers(codec, options)
    depth = _depth_of(source, options, codec)
    if kept_hdr and depth < 10:
        raise ValueError(
            f"{codec.name} of {depth} bits cannot hold HDR; use --bit_depth 10 with --codec hevc or av1, or --hdr sdr"
        )
    encoder = encoder_of(name, options, available)
    wanted = options.pixel_format or _usual_format(codec, depth, source.transparent)
    stored = NVENC_FORMATS.get(wanted, wanted) if options.encoder == "nvenc" else wanted
    check_format(codec, encoder, stored, options)
    colour = colour_out(colour, options)
    deeper = source.depth > 8 or source.transfer in (PQ, HLG)
    return Encoding(
        codec=name,
        encoder=encoder,
        layout=_layout_of(wanted, colour),
        stored=stored,
        crf=_crf_of(codec, options),
        colour=colour,
        dither=depth == 8 and deeper,
        containers=containers,
    )


def keeps_alpha(options: OutputOptions) -> bool:
    """Whether the results of transparent clips keep their transparency under these options."""
    if options.pixel_format:
        return any(component.is_alpha for component in av.VideoFormat(options.pixel_format, 64, 64).components)
    return bool(TABLE[_codec_of(_Plain(), options)].transparent)


def colour_out(colour: Colour, options: OutputOptions) -> Colour:
    """The colour of a result: that of the input, or `SDR` if HDR is to be converted to SDR."""
    return SDR if colour.is_hdr and options.hdr == "sdr" else colour


def picture_bits(source: Source, options: OutputOptions, suffix: str) -> Literal[8, 16]:
    """Bits per sample of the result of a picture.

    PNG and TIFF get the bits that the options ask for (16 for any number above 8). If the options ask for none, they
    get 16 if the input has more than 8. Other formats have 8 bits.

    Args:
        source: the input picture.
        options: the user's options.
        suffix: the suffix of the result, such as ".png".

    Raises:
        ValueError: HDR is to be kept in a format of 8 bits.
    """
    if suffix.lower() not in (".png", ".tif", ".tiff"):
        if source.transfer in (PQ, HLG) and options.hdr == "keep":
            raise ValueError(f"{suffix[1:]} of 8 bits cannot hold HDR; use --hdr sdr")
        return 8
    if options.bit_depth is not None:
        return 8 if options.bit_depth == 8 else 16
    return 16 if source.depth > 8 else 8


def _codec_of(source: Source, options: OutputOptions) -> str:
    """The codec that was asked for; otherwise one that fits the pixel format, or the depth, and the container."""
    if options.codec != "auto":
        return options.codec
    names = [name for name in TABLE if name != "png" and options.encoder in TABLE[name].encoders]
    if options.container:
        names = [name for name in names if options.container in TABLE[name].containers]
    if options.pixel_format:
        depth_of_format(options.pixel_format)
        names = [n for n in names if takes(TABLE[n].encoders["cpu"], options.pixel_format)]
        if not names:
            where = f" in {options.container}" if options.container else ""
            raise ValueError(f"--pixel_format {options.pixel_format}: no codec{where} takes it here; name --codec")
        return names[0]
    depth = options.bit_depth or _needed(source, options)
    wanted = AUTO[depth]
    if wanted in names and TABLE[wanted].encoders[options.encoder] in av.codecs_available:
        return wanted
    other = [n for n in names if depth in TABLE[n].depths and TABLE[n].encoders[options.encoder] in av.codecs_available]
    if not other and not options.bit_depth and options.container:  # only WebM: its VP9 has 8 bits here
        return names[0]
    return other[0] if other else wanted


def _needed(source: Source, options: OutputOptions) -> int:
    """The bits that a result needs: 10 for HDR that is kept and for SDR of more than 8 bits, otherwise 8."""
    if source.transfer in (PQ, HLG):
        return 10 if options.hdr == "keep" else 8
    return 10 if source.depth > 8 else 8


def _depth_of(source: Source, options: OutputOptions, codec: Codec) -> int:
    depth = options.bit_depth
    if options.pixel_format:
        of_format = depth_of_format(options.pixel_format)
        if depth not in (None, of_format):
            raise ValueError(
                f"--pixel_format {options.pixel_format} has {of_format} bits and --bit_depth asks for {depth}; "
                "leave one of them out"
            )
        depth = of_format
    if depth is None:
        needed = _needed(source, options)
        if needed > 8 and codec in (TABLE[n] for n in LOSSLESS):
            needed = max(needed, source.depth)  # lossless codecs keep every bit
        depth = next((d for d in codec.depths if d >= needed), codec.depths[-1])
    if depth not in codec.depths:
        others = [n for n, c in TABLE.items() if depth in c.depths]
        raise ValueError(
            f"{codec.name} has {either(codec.depths)} bits, not {depth}; {depth} bits have --codec {either(others)}"
        )
    return depth


def _containers(codec: Codec, options: OutputOptions) -> tuple[str, ...]:
    if options.container is None or not codec.containers:
        if options.container:
            raise ValueError(f"--container {options.container}: PNG frames lie in a folder; leave it out")
        return codec.containers
    if options.container not in codec.containers:
        others = [n for n, c in TABLE.items() if options.container in c.containers]
        raise ValueError(
            f"{codec.name} goes into {either(codec.containers)}, not into {options.container}, which takes --codec "
            f"{either(others)}"
        )
    return (options.container,)


def _usual_format(codec: Codec, depth: int, transparent: bool) -> str:
    return (codec.transparent if transparent and codec.transparent else codec.formats)[depth]


def _layout_of(name: str, colour: Colour) -> YuvLayout:
    """The layout of the planes that have the samples of a pixel format."""
    storage = storage_of(planar_of(name) or name)
    assert storage is not None, f"every pixel format of the table has a layout, {name} as well"
    layout = YuvLayout(storage.model, storage.subsampling, storage.depth, alpha=storage.alpha)
    matrix = MATRIX_OF_NUMBER[colour.matrix]
    return replace(layout, matrix=matrix, full_range=storage.model == "rgb")


def _crf_of(codec: Codec, options: OutputOptions) -> float | None:
    if codec.crf is None:
        if options.crf is not None:
            raise ValueError(f"--crf {options.crf:g}: {codec.name} has no such number; leave it out")
        return None
    usual, most = codec.crf
    if options.crf is not None and not 0 <= options.crf <= most:
        raise ValueError(f"--crf {options.crf:g} must lie between 0 and {most:g} for {codec.name}")
    return usual if options.crf is None else options.crf
