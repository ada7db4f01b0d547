"""How long will the networks take? Nanoseconds a pixel, fitted to the measurements of docs/performance.md.

All three stages are linear in the pixels of all frames: windows of attention have one size. The fit is to SeedVR2-3B at
720p and 1080p, 97 frames, and to SeedVR2-7B at 720p, 25 frames, in bfloat16 on one H100 with 80 GB; it is within 10% of
these, 25% too low for 4K, where the plan moves networks, and for single pictures.
"""

from collections.abc import Mapping
from dataclasses import dataclass

MEASURED_ON = "H100"  # in the name that CUDA gives the device


@dataclass(frozen=True)
class Throughput:
    """Nanoseconds for each pixel of each frame that the networks see; transformer: of one call."""

    encode: float
    transformer: float
    decode: float

    def seconds(self, pixels: int, frames: int, sampled: int, calls: int) -> float:
        """Of encode, transformer and decode together, resizing and finishing included.

        Args:
            pixels: of a frame of the networks. frames: of the clip. sampled: frames of all windows; those that two
                windows share count twice. calls: of the transformer for a window.
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
