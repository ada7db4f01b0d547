"""Reads the colour information of clips and pictures, and writes it to results. Works without torch, for probing.

Numbers are those of ITU-T H.273, as in AVFrame. Files without colour information are taken to be BT.709.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
from av.video.reformatter import ColorRange

BT709, UNSPECIFIED, BT601_625, BT601_525, BT2020 = 1, 2, 5, 6, 9  # primaries; BT709 is also the transfer curve
DISPLAY_P3 = 12
SAME_CURVE_AS_BT709 = 6  # the transfer curve of BT.601
PQ, HLG = 16, 18  # transfer curves
MATRIX_BT709, MATRIX_BT2020 = 1, 9

KNOWN_MATRICES = (0, UNSPECIFIED, 3, 1, 4, 5, 6, 7, 8, 9, 10)

USUAL_PEAK = 1000  # nits; the assumed peak of PQ without metadata
LEAST_PEAK, MOST_PEAK = 400, 10_000  # nits
NAMES = {BT709: "BT.709", BT601_625: "BT.601", BT601_525: "BT.601", BT2020: "BT.2020", DISPLAY_P3: "Display P3"}


@dataclass(frozen=True)
class Colour:
    """The colour space of RGB values, and the HDR metadata."""

    primaries: int = BT709  # colour primaries, a number of H.273
    transfer: int = BT709  # transfer characteristics, a number of H.273
    # The mastering display (SMPTE ST 2086), in the order of HEVC: x and y of green, blue, red and white in steps of
    # 0.00002, then its highest and lowest luminance in steps of 0.0001 nits. None if the file does not state it.
    mastering: tuple[int, ...] | None = None
    # (MaxCLL, MaxFALL) of CTA-861.3: the highest luminance of a pixel and of a frame's mean, in nits. None if absent.
    light: tuple[int, int] | None = None

    @property
    def is_hdr(self) -> bool:
        return self.transfer in (PQ, HLG)

    @property
    def matrix(self) -> int:
        """The YUV matrix that results with these primaries get, a number of H.273."""
        return MATRIX_BT2020 if self.primaries == BT2020 else MATRIX_BT709

    @property
    def peak(self) -> int:
        """The peak luminance of a PQ picture in nits, from its metadata, limited to 400..10000; 1000 without any."""
        said = [self.light[0]] if self.light and self.light[0] else []
        if not said and self.mastering:
            said = [round(self.mastering[8] / 10_000)]
        return min(max(said[0], LEAST_PEAK), MOST_PEAK) if said else USUAL_PEAK

    @property
    def name(self) -> str:
        """The name for messages, such as "BT.2020 PQ"."""
        curve = {PQ: " PQ", HLG: " HLG"}.get(self.transfer, "")
        return f"{NAMES.get(self.primaries, f'primaries {self.primaries}')}{curve}"


SDR = Colour()


def colour_of(frame: av.VideoFrame) -> Colour:
    """The colour information of a decoded frame; unspecified values become BT.709, or BT.2020 primaries in HDR."""
    primaries, transfer = int(frame.color_primaries), int(frame.color_trc)
    known = primaries not in (0, UNSPECIFIED, 3)
    if transfer in (PQ, HLG):
        mastering, light = _side_data(frame) if transfer == PQ else (None, None)
        return Colour(primaries if known else BT2020, transfer, mastering, light)
    if transfer in (0, UNSPECIFIED, 3, SAME_CURVE_AS_BT709):
        transfer = BT709
    return Colour(primaries if known else BT709, transfer)


def colour_of_numbers(primaries: int, transfer: int) -> Colour:
    """The colour of a picture by its numbers of H.273; unspecified ones, and SDR of BT.709 primaries, are `SDR`."""
    primaries = BT709 if primaries in (0, UNSPECIFIED, 3) else primaries
    if primaries == BT709 and transfer not in (PQ, HLG):
        return SDR
    return Colour(primaries, BT709 if transfer in (0, UNSPECIFIED, 3) else transfer)


def ignored_colour_notes(frame: av.VideoFrame) -> list[str]:
    """Phrases for messages about the parts of a decoded frame's colour information that are ignored."""
    notes = []
    dynamic = {"DOVI_METADATA": "Dolby Vision", "DOVI_RPU_BUFFER": "Dolby Vision", "DYNAMIC_HDR_PLUS": "HDR10+"}
    try:
        found = dict.fromkeys(name for key, name in dynamic.items() if frame.side_data.get(key) is not None)
    except ValueError:  # PyAV raises for side data of a kind that it does not support
        found = {}
    notes += [f"the dynamic metadata of {name} is left out" for name in found]
    if not frame.format.is_rgb and int(frame.colorspace) not in KNOWN_MATRICES:
        notes.append(f"its matrix (number {int(frame.colorspace)} of ITU-T H.273) is not known, colours are guessed")
    return notes


def tag(target: av.VideoFrame | av.VideoCodecContext, colour: Colour, matrix: int, full_range: bool = False) -> None:
    """Set the four colour tags of a frame or an encoder.

    Args:
        matrix: the YUV matrix, a number of H.273; 0 for RGB.
        full_range: whether samples use all codes.
    """
    target.colorspace = matrix
    target.color_range = ColorRange.JPEG if full_range else ColorRange.MPEG
    target.color_primaries = colour.primaries
    target.color_trc = colour.transfer


def png_chunk(colour: Colour) -> bytes | None:
    """The content of a PNG's cICP chunk; None for SDR of BT.709 primaries, which needs no chunk."""
    if colour.primaries == BT709 and not colour.is_hdr:
        return None
    return bytes((colour.primaries, colour.transfer, 0, 1))


def colour_of_png(path: Path) -> Colour:
    """The colour of a PNG from its cICP chunk; `SDR` without one."""
    with path.open("rb") as file:
        file.seek(8)
        while len(header := file.read(8)) == 8:
            size, name = struct.unpack(">I4s", header)
            if name == b"cICP" and size == 4:
                primaries, transfer, _, _ = file.read(4)
                return Colour(primaries, transfer)
            if name == b"IDAT":
                break
            file.seek(size + 4, 1)
    return SDR


def _side_data(frame: av.VideoFrame) -> tuple[tuple[int, ...] | None, tuple[int, int] | None]:
    """(mastering display, content light level) of an HDR10 frame, as in `Colour`; None for what it lacks."""
    mastering: tuple[int, ...] | None = None
    light: tuple[int, int] | None = None
    try:
        display, level = (frame.side_data.get(n) for n in ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"))
        # AVMasteringDisplayMetadata: 10 fractions (red, green, blue, white as x, y; least and most light), 2 flags.
        if display is not None:
            *numbers, has_primaries, has_light = struct.unpack("=22i", buffer_of(display)[:88])
            values = [n / d if d else 0 for n, d in zip(numbers[:20:2], numbers[1:20:2], strict=True)]
            red, green, blue, white = (values[i : i + 2] for i in (0, 2, 4, 6))
            if has_primaries and has_light:
                places = [round(v * 50_000) for v in (*green, *blue, *red, *white)]
                mastering = (*places, round(values[9] * 10_000), round(values[8] * 10_000))
        if level is not None:
            most, mean = struct.unpack("=2I", buffer_of(level)[:8])
            light = (most, mean)
    except (ValueError, struct.error):  # PyAV raises for side data of a kind that it does not support; or it is damaged
        pass
    return mastering, light


def buffer_of(side_data: Any) -> bytes:
    """The bytes of side data. PyAV's stub does not declare it as a buffer, hence `Any`."""
    return bytes(side_data)
