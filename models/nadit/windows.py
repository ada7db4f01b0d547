"""Cuts a token grid into attention windows (SeedVR2, equations 1 and 2, with the rounding of the released code)."""

from math import ceil, sqrt

Size3 = tuple[int, int, int]
Window = tuple[int, int, int, int, int, int]  # t0, t1, h0, h1, w0, w1

REFERENCE_AREA = 45 * 80  # tokens of one 720p frame; windows have the size that they have in a frame of this area
LONGEST_CLIP = 30  # latent frames, above which windows do not grow in time


def window_size(grid: Size3, counts: Size3) -> Size3:
    """The size in tokens (time, height, width) of a full window, for a grid (T, H, W) and counts (nt, nh, nw)."""
    frames, height, width = grid
    scale = sqrt(REFERENCE_AREA / (height * width))
    return (
        ceil(min(frames, LONGEST_CLIP) / counts[0]),
        ceil(round(height * scale) / counts[1]),  # Python's round, half to even, as the weights were trained
        ceil(round(width * scale) / counts[2]),
    )


def _regular(length: int, window: int) -> list[tuple[int, int]]:
    return [(start, min(start + window, length)) for start in range(0, length, window)]


def _shifted(length: int, window: int) -> list[tuple[int, int]]:
    shift = 0.5 if window < length else 0
    count = ceil((length - shift) / window) + 1 if shift else 1
    spans = [(max(int((i - shift) * window), 0), min(int((i - shift + 1) * window), length)) for i in range(count)]
    return [(start, stop) for start, stop in spans if stop > start]


def cut_windows(grid: Size3, counts: Size3, shifted: bool) -> list[Window]:
    """All windows of a grid, width outermost, then height, time innermost.

    Args:
        grid: tokens (T, H, W) of one sample.
        counts: windows (nt, nh, nw) that a 720p frame is cut into.
        shifted: move the cuts by half a window along every axis that has more than one.
    """
    cut = _shifted if shifted else _regular
    spans_t, spans_h, spans_w = (cut(n, window) for n, window in zip(grid, window_size(grid, counts), strict=True))
    return [(*t, *h, *w) for w in spans_w for h in spans_h for t in spans_t]
