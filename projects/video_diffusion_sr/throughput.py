"""Predicts the time of the networks from nanoseconds per pixel, fitted to the measurements of docs/performance.md.

All three stages are linear in the number of pixels of all frames, since attention windows have a fixed size. The fit
uses SeedVR2-3B at 720p and 1080p with 97 frames, and SeedVR2-7B at 720p with 25 frames, in bfloat16 on one H100 with
80 GB. It is within 10% of these, and 25% too low for 4K, where the plan offloads networks, and for single pictures.
"""

from collections.abc import Mapping
from dataclasses import dataclass

MEASURED_ON = "H100"  # part of the device's name in CUDA


@dataclass(frozen=True)
class Throughput:
    """The time of the networks per pixel of each frame.

    encode, decode: nanoseconds of encoding and of decoding.
    transformer: nanoseconds of one call of the transformer.
    """

    encode: float
    transformer: float
    decode: float

    def seconds(self, pixels: int, frames: int, sampled: int, calls: int) -> float:
        """The seconds of encoding, transformer and decoding together, with resizing and finishing.

        Args:
            pixels: number of pixels of a frame in the networks.
            frames: number of frames of the clip.
            sampled: number of frames of all windows; frames that two windows share count twice.
            calls: number of calls of the transformer per window.
        """
        once = frames * (self.encode + self.decode) + sampled * calls * self.transformer
        return pixels * once * 1e-9


_3B, _7B = Throughput(15.2, 11.7, 30.5), Throughput(15.2, 16.1, 30.5)
BY_MODEL: Mapping[str, Throughput] = {
    "SeedVR2-3B": _3B,
    "SeedVR-3B": _3B,
    "SeedVR2-7B": _7B,
    "SeedVR2-7B-sharp": _7B,
    "SeedVR-7B": _7B,
}
