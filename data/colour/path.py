"""Converts the pixels of one file to the networks' input, and results to the pixels that its output stores."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from data.colour.tone import bt2020_to_bt709, hlg_to_tone, pq_to_tone, tone_to_pq, words_of
from data.pixel_range import model_to_uint8

Curve = Literal["none", "pq", "pq to sdr", "hlg to sdr"]


@dataclass(frozen=True)
class PixelPath:
    """How the pixels of one file are converted before and after the networks."""

    deep: bool = False  # whether the file has more than 8 bits: its pixels are then float32 in [0, 1], otherwise u8
    bits: Literal[8, 16] = 8  # bits per sample of results: 8 (u8), or 16 (words, whose bits torch holds as int16)
    # "none": no conversion. "pq": a tone curve before the networks, its inverse after them. "pq to sdr", "hlg to sdr":
    # a conversion to SDR of BT.709, which is not inverted.
    curve: Curve = "none"
    peak: int = 1000  # peak luminance of a PQ picture in nits

    @property
    def dtype_in(self) -> torch.dtype:
        """The dtype of the pixels that `into` takes, for `rgb_of`."""
        return torch.float32 if self.deep or self.curve != "none" else torch.uint8

    @property
    def dtype_out(self) -> torch.dtype:
        """The dtype of results."""
        return torch.uint8 if self.bits == 8 else torch.int16

    def into(self, rgb: Tensor) -> Tensor:
        """Convert a file's pixels [..., 3, H, W] of `dtype_in` from HDR to SDR; with the curve "none", return them."""
        if self.curve == "none":
            return rgb
        tone = hlg_to_tone(rgb) if self.curve == "hlg to sdr" else pq_to_tone(rgb, self.peak)
        return tone if self.curve == "pq" else bt2020_to_bt709(tone)

    def back(self, frames: Tensor) -> Tensor:
        """Convert finished frames to what the file stores.

        Args:
            frames: floats of any shape, about [-1, 1].

        Returns:
            The same shape in `dtype_out`, clipped and rounded; with the curve "pq", codes of PQ.
        """
        if self.bits == 8:
            return model_to_uint8(frames)
        words = words_of((frames.float() + 1) * 0.5)
        return (tone_to_pq(words, self.peak) if self.curve == "pq" else words).to(torch.int16)
