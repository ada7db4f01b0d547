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
    """The conversions of one file's pixels; decided once a file."""

    deep: bool = False  # the file has more than 8 bits: its pixels are float32 in [0, 1], otherwise u8
    bits: Literal[8, 16] = 8  # of results: 8 (u8), or 16 (words, whose bits torch holds as int16)
    curve: Curve = "none"  # "none": values stay. "pq": tone curve, and its inverse. "... to sdr": to BT.709, not undone
    peak: int = 1000  # of a PQ picture, nits

    @property
    def dtype_in(self) -> torch.dtype:
        """The dtype of pixels that `into` takes, for `rgb_of`."""
        return torch.float32 if self.deep or self.curve != "none" else torch.uint8

    @property
    def dtype_out(self) -> torch.dtype:
        """The dtype of results."""
        return torch.uint8 if self.bits == 8 else torch.int16

    def into(self, rgb: Tensor) -> Tensor:
        """Pixels [..., 3, H, W] of `dtype_in` -> the same, as SDR where they were HDR."""
        if self.curve == "none":
            return rgb
        tone = hlg_to_tone(rgb) if self.curve == "hlg to sdr" else pq_to_tone(rgb, self.peak)
        return tone if self.curve == "pq" else bt2020_to_bt709(tone)

    def back(self, frames: Tensor) -> Tensor:
        """Finished frames [..., h, w], about [-1, 1] -> `dtype_out`, clipped and rounded."""
        if self.bits == 8:
            return model_to_uint8(frames)
        words = words_of((frames.float() + 1) * 0.5)
        return (tone_to_pq(words, self.peak) if self.curve == "pq" else words).to(torch.int16)
