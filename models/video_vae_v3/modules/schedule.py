"""The schedule by which a clip passes through the VAE in inference, computed from integers before its first frame.

The network only follows a `Schedule`, and the memory plan estimates the cost of the same object.
"""

from collections.abc import Sequence
from dataclasses import dataclass

DIRECT, F23, F43 = 0, 2, 4  # a level's temporal convolutions: direct, Winograd F(2, 3) or F(4, 3)
LARGE = 128 * 128  # pixels of a level's picture; in smaller ones Winograd's launches take longer than it saves


@dataclass(frozen=True)
class LevelSchedule:
    """The schedule of one level (one picture size) of the encoder and of the decoder.

    group: number of frames that pass through the level at once; None: all frames of a slice.
    winograd: `F23` or `F43`, which need groups of 2 or 4 frames, or `DIRECT`.

    Raises:
        ValueError: `winograd` is none of these, or `group` does not fit it.
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
    """The schedule of a clip through the encoder or the decoder.

    slice_frames: number of frames that enter the encoder or leave the decoder at once, without the clip's first frame;
        a multiple of the VAE's temporal compression. None: the whole clip.
    levels: the schedule of each level, from full resolution down.
    single_frame: whether the clip is a single frame, so that no frames are carried.
    scores_bytes: bound of the memory of the mid-block attention's scores, in bytes; None: the kernel's own bound.
    tile: side of the tiles of the picture in latents (not exact, see `tiling.py`); None: the whole picture.
    """

    slice_frames: int | None
    levels: tuple[LevelSchedule, ...]
    single_frame: bool = False
    scores_bytes: int | None = None
    tile: int | None = None

    @property
    def winograds(self) -> frozenset[int]:
        """The values of m whose Winograd weights the schedule needs."""
        return frozenset(level.winograd for level in self.levels if level.winograd)


@dataclass(frozen=True)
class LevelShape:
    """The shape of a level of the encoder and of the decoder, independent of the clip.

    channels: number of channels of its widest activation.
    time: number of frames of the clip per frame of this level.
    """

    channels: int
    time: int


def level_shapes(block_out_channels: Sequence[int], temporal_scale_num: int) -> tuple[LevelShape, ...]:
    """The levels of the networks that a VAE's YAML describes, from full resolution down."""
    widths, last = list(block_out_channels), len(block_out_channels) - 1
    unhalved = last - temporal_scale_num  # the levels before this one halve height and width, but not time
    # The decoder's first block of a level reads the result of the level below, with that level's channels.
    widest = [max(widths[level : level + 2]) for level in range(last + 1)]
    return tuple(LevelShape(widest[level], 2 ** max(level - unhalved, 0)) for level in range(last + 1))


def direct_schedule(slice_frames: int | None, levels: int) -> Schedule:
    """The schedule in which every level processes all frames of a slice at once, by direct convolutions."""
    return Schedule(slice_frames, (LevelSchedule(),) * levels)


def may_filter(levels: Sequence[LevelShape], height: int, width: int) -> list[bool]:
    """For each level, whether Winograd pays off for pictures of height x width pixels.

    It never does in the last level, whose pictures are the smallest. The result does not depend on the number of ranks
    that share the picture's rows, so that all numbers of ranks compute the same products.
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
    """The schedule with Winograd in large levels and direct convolutions in others, without tiles or a score bound.

    Args:
        levels: see `level_shapes`.
        height, width: size of the picture in pixels or, if it is cut into tiles, of one tile.
        slice_frames: see `Schedule`. Levels in which a slice has fewer frames than `winograd` use direct convolutions.
        winograd: `F43` or `F23` for the large levels; `DIRECT`: no level uses Winograd.
        single_frame: see `Schedule`; no level uses Winograd then.
        most_numbers: bound of the number of elements of a direct convolution's input, for one clip, with its carried
            frames; None: no bound. At least one frame (two if the next level halves time) passes through at once.
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
    """The number of frames of the shortest slice with a whole Winograd group in every level that may use Winograd."""
    return max([winograd * shape.time for shape, large in zip(levels, may_filter(levels, height, width), strict=True)
                if large], default=levels[-1].time)  # fmt: skip


def _direct_group(frames: int | None, frame_numbers: int, most_numbers: int | None, multiple: int) -> int | None:
    """The group size for which a convolution's input has at most `most_numbers` elements; None: the whole slice."""
    if most_numbers is None:
        return None
    group = max((most_numbers // frame_numbers - 2) // multiple, 1) * multiple  # two frames are carried
    return None if frames is not None and group >= frames else group
