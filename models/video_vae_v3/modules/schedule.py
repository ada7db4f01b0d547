"""How one clip goes through the VAE in inference: decided once, from integers, before its first frame.

The network follows a `Schedule` and decides nothing; the memory plan prices the same object.
"""

from collections.abc import Sequence
from dataclasses import dataclass

DIRECT, F23, F43 = 0, 2, 4  # a level's temporal convolution: as it is, Winograd F(2, 3) or F(4, 3)
LARGE = 128 * 128  # pixels of a level's picture; below, Winograd's launches cost more than its products save


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

    @property
    def winograds(self) -> frozenset[int]:
        """The Winograd transforms whose weights it needs."""
        return frozenset(level.winograd for level in self.levels if level.winograd)


@dataclass(frozen=True)
class LevelShape:
    """What a level of the encoder and of the decoder is made of, whatever the clip.

    channels: of its widest activation. time: frames at full resolution that one of its frames stands for.
    """

    channels: int
    time: int


def level_shapes(block_out_channels: Sequence[int], temporal_scale_num: int) -> tuple[LevelShape, ...]:
    """The levels of the networks that a VAE's YAML describes, from full resolution down."""
    widths, last = list(block_out_channels), len(block_out_channels) - 1
    unhalved = last - temporal_scale_num  # the levels above this one halve height and width, but not time
    # The decoder's first block of a level reads what the level below leaves.
    widest = [max(widths[level : level + 2]) for level in range(last + 1)]
    return tuple(LevelShape(widest[level], 2 ** max(level - unhalved, 0)) for level in range(last + 1))


def direct_schedule(slice_frames: int | None, levels: int) -> Schedule:
    """Every level takes a slice's frames as they come."""
    return Schedule(slice_frames, (LevelSchedule(),) * levels)


def may_filter(levels: Sequence[LevelShape], height: int, width: int) -> list[bool]:
    """Which levels are worth Winograd's products for pictures of height x width pixels.

    Never the last one, whose pictures are the smallest. How many ranks share the picture's rows does not matter, so
    that the same products are taken on any number of them.
    """
    return [level < len(levels) - 1 and (height >> level) * (width >> level) >= LARGE for level in range(len(levels))]


def default_schedule(
    levels: Sequence[LevelShape],
    height: int,
    width: int,
    slice_frames: int | None,
    winograd: int = DIRECT,
    *,
    single_frame: bool = False,
    most_numbers: int | None = None,
) -> Schedule:
    """The schedule that takes large levels by Winograd and all others by slices, without tiles or a bound of scores.

    Args:
        levels: see `level_shapes`.
        height, width: in pixels, of the picture or, where it is cut into tiles, of one tile.
        slice_frames: see `Schedule`. Levels to which a slice brings fewer frames than `winograd` are not filtered.
        winograd: `F43` or `F23` for the large levels; `DIRECT` filters none.
        most_numbers: that the input of a direct convolution may have, carried frames and batch included; None: any
            number. One frame (two, where the next level halves time) is the least that goes through at once.
    """
    chosen = []
    for level, large in enumerate(may_filter(levels, height, width)):
        shape = levels[level]
        frames = None if slice_frames is None else max(slice_frames // shape.time, 1)
        if single_frame:
            chosen.append(LevelSchedule())
        elif winograd and large and (frames is None or frames >= winograd):
            chosen.append(LevelSchedule(winograd, winograd))
        else:
            halves = level + 1 < len(levels) and levels[level + 1].time > shape.time
            numbers = (height >> level) * (width >> level) * shape.channels
            chosen.append(LevelSchedule(_direct_group(frames, numbers, most_numbers, 2 if halves else 1)))
    return Schedule(slice_frames, tuple(chosen), single_frame)


def filled_slice(levels: Sequence[LevelShape], height: int, width: int, winograd: int) -> int:
    """Frames of the shortest slice that brings a whole group to every level that may be filtered."""
    return max([winograd * shape.time for shape, large in zip(levels, may_filter(levels, height, width), strict=True)
                if large], default=levels[-1].time)  # fmt: skip


def _direct_group(frames: int | None, frame_numbers: int, most_numbers: int | None, multiple: int) -> int | None:
    """Frames at once of which a convolution's input has at most `most_numbers`; None: all that come."""
    if most_numbers is None:
        return None
    group = max((most_numbers // frame_numbers - 2) // multiple, 1) * multiple  # two frames are carried
    return None if frames is not None and group >= frames else group
