"""Conversions between the ranges of pixel values: 8 bits (0 to 255), unit (0 to 1), and that of the networks (-1 to 1).

All functions take any shape on any device.
"""

from torch import Tensor, uint8


def uint8_to_model(pixels: Tensor) -> Tensor:
    """uint8, or floats from 0 to 255 -> float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def model_to_uint8(values: Tensor) -> Tensor:
    """Floats about [-1, 1] -> uint8, clipped and rounded: cutting off the fraction would darken the picture."""
    return ((values.float().clamp(-1, 1) + 1) * 127.5).round().to(uint8)


def unit_to_model(values: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1], in the dtype of the values."""
    return values * 2 - 1


def model_to_unit(values: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], in the dtype of the values."""
    return (values + 1) / 2
