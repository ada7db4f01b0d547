"""Where does each pixel format of libav store its samples?"""

import re
from dataclasses import dataclass

import av
from av.video.format import names as KNOWN_FORMATS  # type: ignore[attr-defined]  # PyAV's stubs lack it

from data.yuv.layout import Model

SUBSAMPLING = {"420": (2, 2), "422": (2, 1), "444": (1, 1), "440": (1, 2), "411": (4, 1), "410": (4, 4)}
DEPTHS = (8, 9, 10, 12, 14, 16)
BITS = r"(?:(9|10|12|14|16)le)?"
PACKED_RGB = (
    "rgb24", "bgr24", "rgba", "bgra", "argb", "abgr", "rgb0", "bgr0", "0rgb", "0bgr",
    "rgb48le", "bgr48le", "rgba64le", "bgra64le",
)  # fmt: skip


@dataclass(frozen=True)
class Storage:
    """A pixel format whose samples are read without a copy."""

    model: Model  # see `YuvLayout`
    # For each plane of the layout (alpha last): (index of the frame's plane, index of the first sample in a row, step
    # from one pixel to the next in samples).
    places: tuple[tuple[int, int, int], ...]
    subsampling: tuple[int, int] = (1, 1)  # see `YuvLayout`
    depth: int = 8  # bits per sample
    shift: int = 0  # see `YuvLayout`
    full_range: bool = False  # whether the format implies full range (yuvj420p)
    alpha: bool = False  # whether the last of `places` is alpha


def storage_of(name: str) -> Storage | None:
    """The storage of a pixel format, by libav's name; None if libav must repack it first, see `stand_in`."""
    return _planar(name) or _semi_planar(name) or _packed_rgb(name)


def _planar(name: str) -> Storage | None:
    """Formats with one plane for each component, and grey with interleaved alpha."""
    if found := re.fullmatch(rf"yuv([aj]?)(4\d\d)p{BITS}", name):
        kind, sampling, bits = found.groups()
        places = tuple((n, 0, 1) for n in range(4 if kind == "a" else 3))
        return Storage("yuv", places, SUBSAMPLING[sampling], int(bits or 8), 0, kind == "j", kind == "a")
    if found := re.fullmatch(rf"gbr(a?)p{BITS}", name):
        places = tuple((n, 0, 1) for n in (2, 0, 1, 3))[: 4 if found[1] else 3]
        return Storage("rgb", places, depth=int(found[2] or 8), alpha=bool(found[1]))
    if found := re.fullmatch(rf"gray{BITS}", name):
        return Storage("grey", ((0, 0, 1),), depth=int(found[1] or 8))
    if name in ("ya8", "ya16le"):
        return Storage("grey", ((0, 0, 2), (0, 1, 2)), depth=8 if name == "ya8" else 16, alpha=True)
    return None


def _semi_planar(name: str) -> Storage | None:
    """Formats with a plane of luma and one of interleaved chroma, which hardware decoders give."""
    if found := re.fullmatch(r"nv(12|21|16|24|42)", name):
        u, v = (1, 0) if found[1] in ("21", "42") else (0, 1)
        sampling = {"12": (2, 2), "21": (2, 2), "16": (2, 1)}.get(found[1], (1, 1))
        return Storage("yuv", ((0, 0, 1), (1, u, 2), (1, v, 2)), sampling)
    if found := re.fullmatch(r"p([024])(10|12|16)le", name):
        sampling, depth = {"0": (2, 2), "2": (2, 1), "4": (1, 1)}[found[1]], int(found[2])
        return Storage("yuv", ((0, 0, 1), (1, 0, 2), (1, 1, 2)), sampling, depth, 16 - depth)
    return None


def _packed_rgb(name: str) -> Storage | None:
    """Formats with interleaved colours; in their names, 0 stands for an unused byte."""
    if name not in PACKED_RGB:
        return None
    order = name.rstrip("le").rstrip("2468")  # removes "48le" and the like: the letters of the colours and 0 remain
    alpha = "a" in order
    places = tuple((0, order.index(colour), len(order)) for colour in ("rgba" if alpha else "rgb"))
    return Storage("rgb", places, depth=16 if name.endswith("le") else 8, alpha=alpha)


def stand_in(name: str) -> str:
    """The format to which libav repacks a frame whose format `storage_of` does not read.

    It has at least as many bits and chroma samples as the format, so samples keep their precision. Floats, Bayer
    patterns and XYZ are converted to 16 bits.
    """
    form = av.VideoFormat(name, 64, 64)
    bits = max(component.bits for component in form.components)
    if form.has_palette:
        return "rgba"
    if form.is_rgb and bits <= 8:
        return "rgba" if len(form.components) > 3 else "rgb24"  # in gbrp, libswscale would give 248 for white of 5 bits
    depth = next((d for d in DEPTHS if d >= bits), 16)
    suffix = "" if depth == 8 else f"{depth}le"
    alpha = "a" if any(component.is_alpha for component in form.components) else ""
    if form.is_rgb or form.is_bayer or name.startswith("xyz"):
        return f"gbr{alpha}p16le"
    if len(form.components) < 3:
        return "gray" if depth == 8 and not alpha else "ya8" if depth == 8 else "ya16le" if alpha else "gray16le"
    ratio = (64 // form.chroma_width(64), 64 // form.chroma_height(64))
    sampling = next(digits for digits, known in SUBSAMPLING.items() if known == ratio)
    known = f"yuv{alpha}{sampling}p{suffix}"
    return known if known in KNOWN_FORMATS else f"yuv{alpha}444p16le"
