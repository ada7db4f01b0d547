"""The codecs of results, what each supports here, and the options of users."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import av

from data.media.names import CONTAINERS
from data.yuv.frames import format_of
from data.yuv.layout import YuvLayout
from data.yuv.storage import storage_of

CODECS = ("auto", "h264", "hevc", "av1", "prores", "ffv1", "png")
DEPTHS = (8, 10, 12, 16)
HDR_OUT = ("keep", "sdr")
ENCODERS = ("cpu", "nvenc")


@dataclass(frozen=True)
class OutputOptions:
    """What a user asks of the form of results; None and "auto": by what the file is.

    Attributes:
        codec: one of `CODECS`; "png": a folder of numbered pictures.
        bit_depth: one of `DEPTHS`. pixel_format: libav's name, such as yuv422p10le. container: one of `CONTAINERS`.
        encoder: "cpu", or "nvenc" for that of an NVIDIA GPU.
        hdr: "keep" gives PQ and HLG back as they came; "sdr": BT.709.
        crf: quality of H.264, HEVC and AV1, lower is better.
    """

    codec: str = "auto"
    bit_depth: int | None = None
    pixel_format: str | None = None
    container: str | None = None
    encoder: str = "cpu"
    hdr: Literal["keep", "sdr"] = "keep"
    crf: float | None = None

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
    """What a codec can do here.

    Attributes:
        encoders: libav's name by `ENCODERS`. depths: of samples. containers: that carry it so that players understand.
        formats: pixel format by depth, of opaque clips and of transparent ones; empty for none.
        crf: (default, most), the least is 0; None: it has no such number.
        options: of the encoder.
    """

    name: str
    encoders: dict[str, str]
    depths: tuple[int, ...]
    containers: tuple[str, ...]
    formats: dict[int, str]
    transparent: dict[int, str] = field(default_factory=dict)
    crf: tuple[float, float] | None = None


# Default crf: visually lossless. x265 and SVT-AV1 use other scales than x264.
TABLE = {
    "h264": Codec(
        "H.264", {"cpu": "libx264", "nvenc": "h264_nvenc"}, (8, 10), CONTAINERS,
        {8: "yuv420p", 10: "yuv420p10le"}, crf=(16, 51),
    ),
    "hevc": Codec(
        "HEVC", {"cpu": "libx265", "nvenc": "hevc_nvenc"}, (8, 10, 12), CONTAINERS,
        {8: "yuv420p", 10: "yuv420p10le", 12: "yuv420p12le"}, crf=(17, 51),
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
AUTO = {8: "h264", 10: "hevc", 12: "hevc", 16: "ffv1"}  # by depth
LOSSLESS = ("ffv1", "png")
# Hardware encoders take samples of more than 8 bits in the high bits of 16-bit words.
NVENC_FORMATS = {"yuv420p10le": "p010le", "yuv444p10le": "yuv444p16le", "yuv422p10le": "p210le"}


def planar_of(name: str) -> str | None:
    """The planar format with the samples of another one, as `frame_from` makes it; None where it is not supported."""
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
    """Bits of a sample; ValueError for a name that is not known."""
    try:
        form = av.VideoFormat(name, 64, 64)
    except ValueError as error:
        raise ValueError(
            f"--pixel_format {name!r} is not known; names are as yuv420p10le, yuv444p, gbrp16le"
        ) from error
    return max(component.bits for component in form.components)


def either(names: Iterable[object]) -> str:
    """Names for a sentence: "a, b or c"."""
    *first, last = [str(name) for name in names] or [""]
    return f"{', '.join(first)} or {last}" if first else last
