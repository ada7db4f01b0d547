"""How one clip goes through the VAE in inference: decided once, from integers, before its first frame.

The network follows a `Schedule` and decides nothing; the memory plan prices the same object.
"""

from dataclasses import dataclass

DIRECT, F23, F43 = 0, 2, 4  # a level's temporal convolution: as it is, Winograd F(2, 3) or F(4, 3)


@dataclass(frozen=True)
class LevelSchedule:
    """One level (one size of picture) of the encoder and of the decoder.

    group: frames that go through the level at once; None: a slice's frames as they come.
    winograd: `F23` or `F43` (which need groups of 2 or 4), or `DIRECT`.
    """

    group: int | None = None
    winograd: int = DIRECT

    def __post_init__(self) -> None:
        if self.winograd not in (DIRECT, F23, F43):
            raise ValueError(f"winograd={self.winograd} is not one of {DIRECT}, {F23}, {F43}")
        if self.winograd and self.group != self.winograd:
            raise ValueError(f"F({self.winograd}, 3) needs groups of {self.winograd} frames, not {self.group}")


@dataclass(frozen=True)
class Schedule:
    """A clip's way through the VAE.

    slice_frames: frames that enter the encoder or leave the decoder at once, after the clip's first frame; a multiple
        of the VAE's compression of time. None: the whole clip.
    levels: one a level, from full resolution down.
    single_frame: the clip is one frame, so nothing is carried.
    scores_bytes: most bytes of the mid-block attention's scores at once; None: the kernel's own limit.
    tile: side of the tiles of the picture in latents (not exact, see `tiling.py`); None: the whole picture.
    """

    slice_frames: int | None
    levels: tuple[LevelSchedule, ...]
    single_frame: bool = False
    scores_bytes: int | None = None
    tile: int | None = None
