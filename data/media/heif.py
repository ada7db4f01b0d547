"""Reads HEIC pictures of more than 8 bits per sample, and their colour. Works without torch, for the probing process.

Through Pillow, pillow-heif gives 8 bits; its own function gives all bits, as the high bits of 16-bit words.
"""

from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image

from data.media.colour import SDR, Colour, colour_of_numbers


def heif_bits(image: Image.Image) -> int:
    """Bits per sample of an open HEIC picture; 8 for other formats."""
    return int(image.info.get("bit_depth", 8)) if image.format == "HEIF" else 8


def heif_words(image: Image.Image, path: Path) -> np.ndarray | None:
    """Decode a HEIC of more than 8 bits: u16 [H, W] (gray) or [H, W, 3 or 4], upright, white is 65535.

    Args:
        image: the open picture.
        path: its file.

    Returns:
        None for HEICs of 8 bits and for other formats.
    """
    bits = heif_bits(image)
    if bits == 8:
        return None
    plug_in = import_module("pillow_heif")  # it is installed, since `image` could be opened
    stored = np.asarray(plug_in.open_heif(path, convert_hdr_to_8bit=False))
    return widened(stored >> (16 - bits), bits)


def widened(codes: np.ndarray, bits: int, white: int | None = None) -> np.ndarray:
    """Codes of `bits` bits as u16 with white at 65535, rounded to the nearest; `white` is its code, if not the last."""
    most = white or 2**bits - 1
    return ((codes.astype(np.uint32) * 65535 + most // 2) // most).astype(np.uint16)


def heif_colour(image: Image.Image) -> Colour:
    """The colour of a HEIC from its nclx numbers; `SDR` if it has none, or an ICC profile, which is used instead."""
    said = image.info.get("nclx_profile")
    if image.format != "HEIF" or not said or image.info.get("icc_profile"):
        return SDR
    return colour_of_numbers(int(said["color_primaries"]), int(said["transfer_characteristics"]))
