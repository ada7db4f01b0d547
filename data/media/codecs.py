"""The codecs of results, what this program supports of each, and the user's options for the output."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import av

from data.media.names import CONTAINERS, USUAL_CONTAINERS
from data.yuv.frames import format_of
from data.yuv.layout import YuvLayout
from data.yuv.storage import storage_of

CODECS = ("auto", "h264", "hevc", "vp9", "av1", "prores", "ffv1", "png")
DEPTHS = (8, 10, 12, 16)
HDR_OUT = ("keep", "sdr")
ENCODERS = ("cpu", "nvenc")


@dataclass(frozen=True)
class OutputOptions:
    """The user's options for the format of results. None and "auto": the input file decides.

    Raises:
        ValueError: codec, bit depth, container, encoder or hdr is not one of the known values.
    """

    codec: str = "auto"  # one of `CODECS`; "png" makes a folder of numbered pictures
    bit_depth: int | None = None  # one of `DEPTHS`
    pixel_format: str | None = None  # libav's name, such as yuv422p10le
    container: str | None = None  # one of `CONTAINERS`
    encoder: str = "cpu"  # "cpu", or "nvenc": the hardware encoder of an NVIDIA GPU
    hdr: Literal["keep", "sdr"] = "keep"  # "keep": PQ and HLG stay; "sdr": they are converted to BT.709
    crf: float | None = None  # constant rate factor of H.264, HEVC, VP9 and AV1; lower is better; None: the default
    frame_rate: Fraction | None = None  # frames per second; all frames play at this rate. None: the input's times
    metadata: bool = True  # False leaves out tags, dates, places, covers, attachments; of pictures EXIF, XMP and texts

    def __post_init__(self) -> None:
        for name, value, known in (
            ("codec", self.codec, CODECS),
            ("bit depth", self.bit_depth, (None, *DEPTHS)),
            ("container", self.container, (None, *CONTAINERS)),
            ("encoder", self.encoder, ENCODERS),
            ("hdr", self.hdr, HDR_OUT),
        ):
            if value not in known:
                allowed = ", ".join(str(v) for v in known if v is not None)
                raise ValueError(f"{name} {value!r} is not known; choose one of {allowed}")


@dataclass(frozen=True)
class Codec:
    """What this program supports of a codec."""

    name: str  # name for messages
    encoders: dict[str, str]  # libav's name of the encoder, by the names of `ENCODERS`
    depths: tuple[int, ...]  # supported bits per sample
    containers: tuple[str, ...]  # containers in which players can play the codec
    formats: dict[int, str]  # pixel format by depth
    transparent: dict[int, str] = field(default_factory=dict)  # pixel format with alpha by depth; empty: no alpha
    crf: tuple[float, float] | None = None  # (default, largest) value; the smallest is 0. None: the codec has no crf


# The default crf is visually lossless. x265, libvpx and SVT-AV1 use other scales than x264.
TABLE = {
    "h264": Codec(
        "H.264", {"cpu": "libx264", "nvenc": "h264_nvenc"}, (8, 10), USUAL_CONTAINERS,
        {8: "yuv420p", 10: "yuv420p10le"}, crf=(16, 51),
    ),
    "hevc": Codec(
        "HEVC", {"cpu": "libx265", "nvenc": "hevc_nvenc"}, (8, 10, 12), USUAL_CONTAINERS,
        {8: "yuv420p", 10: "yuv420p10le", 12: "yuv420p12le"}, crf=(17, 51),
    ),
    "vp9": Codec(
        "VP9", {"cpu": "libvpx-vp9"}, (8,), ("webm", "mkv"), {8: "yuv420p"}, {8: "yuva420p"}, crf=(15, 63),
    ),
    "av1": Codec(
        "AV1", {"cpu": "libsvtav1", "nvenc": "av1_nvenc"}, (8, 10), ("mp4", "mkv"),
        {8: "yuv420p", 10: "yuv420p10le"}, crf=(18, 63),
    ),
    "prores": Codec(
        "ProRes", {"cpu": "prores_ks"}, (10,), ("mov", "mkv"), {10: "yuv422p10le"}, {10: "yuva444p10le"},
    ),
    "ffv1": Codec(
        "FFV1", {"cpu": "ffv1"}, DEPTHS, ("mkv",),
        {8: "bgr0", 10: "gbrp10le", 12: "gbrp12le", 16: "gbrp16le"},
        {8: "bgra", 10: "gbrap10le", 12: "gbrap12le", 16: "gbrap16le"},
    ),
    "png": Codec("PNG", {"cpu": "png"}, (8, 16), (), {8: "rgb24", 16: "rgb48be"}, {8: "rgba", 16: "rgba64be"}),
}  # fmt: skip
AUTO = {8: "h264", 10: "hevc", 12: "hevc", 16: "ffv1"}  # the default codec by depth
LOSSLESS = ("ffv1", "png")
# Hardware encoders take samples of more than 8 bits in the high bits of 16-bit words.
NVENC_FORMATS = {"yuv420p10le": "p010le", "yuv444p10le": "yuv444p16le", "yuv422p10le": "p210le"}


def planar_of(name: str) -> str | None:
    """The planar format, as `frame_from` makes it, with the same samples as a pixel format; None if unsupported."""
    storage = storage_of(name)
    if name == "rgb48be":
        return "gbrp16le"
    if name == "rgba64be":
        return "gbrap16le"
    if storage is None or storage.full_range or (storage.model == "grey" and storage.alpha):
        return None
    layout = YuvLayout(storage.model, storage.subsampling, storage.depth, alpha=storage.alpha)
    try:
        return format_of(layout)
    except ValueError:
        return None


def depth_of_format(name: str) -> int:
    """Bits per sample of a pixel format. Raises ValueError for an unknown name."""
    try:
        form = av.VideoFormat(name, 64, 64)
    except ValueError as error:
        raise ValueError(
            f"--pixel_format {name!r} is not known; names are such as yuv420p10le, yuv444p, gbrp16le"
        ) from error
    return max(component.bits for component in form.components)


def either(names: Iterable[object]) -> str:
    """Join names for a sentence: "a, b or c"; "" for none."""
    *first, last = [str(name) for name in names] or [""]
    return f"{', '.join(first)} or {last}" if first else last
