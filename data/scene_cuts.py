"""Where one shot ends and the next begins: a picture that differs from the one before it as no other step nearby does.

Frames are compared as small thumbnails, three frames ahead at most, so a stream stays one. docs/decisions/0011 has what
was measured, and why no library does it.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

WIDTH, HEIGHT = 32, 18  # of a thumbnail
LEAST = 1.0  # mean difference of 8-bit codes below which nothing is a cut: in the dark, those of noise and rounding
OF_CONTRAST = 0.5  # of the two pictures' contrast: unrelated ones differ by about as much as each varies in itself
PROMINENT = 3.0  # a cut differs this many times as much as the usual step beside it does
NEARBY = 2  # steps on both sides that say what is usual
DISTURBED = 2  # frames that a flash or a lost picture lasts at most
BRIGHTNESS = 0.25  # how much of a change that a whole plane has in common counts: old film flickers
ALIKE = 0.5  # of a step: frames before and behind it that differ less belong to one shot, whatever lay between


def thumbnail(planes: Sequence[np.ndarray]) -> np.ndarray:
    """Planes of a picture, [h, w] each, of 8-bit codes or those of 16-bit words -> float32 [planes, HEIGHT, WIDTH]."""
    import cv2  # a start does not wait for it

    small = [cv2.resize(np.ascontiguousarray(p), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA) for p in planes]
    return np.stack(small).astype(np.float32)


def find_cuts(thumbnails: Iterable[np.ndarray]) -> Iterator[tuple[int, bool]]:
    """(number of a thumbnail, whether a shot begins with it) for each in order, after those that the answer needs.

    The first one begins the clip and no shot.
    """
    ahead = DISTURBED + 1  # at least NEARBY + 1: the steps behind a cut
    recent: deque[tuple[int, np.ndarray]] = deque(maxlen=2 * ahead)
    decided = 0
    for number, small in enumerate(thumbnails):
        recent.append((number, small))
        if number >= decided + ahead - 1:
            yield decided, _is_cut(recent, decided)
            decided += 1
    while recent and decided <= recent[-1][0]:
        yield decided, _is_cut(recent, decided)
        decided += 1


def has_cut(frames: np.ndarray) -> bool:
    """Does a clip of pictures, uint8 [T, H, W, 3], span a cut?"""
    return any(cut for _, cut in find_cuts(thumbnail(np.moveaxis(frame, 2, 0)) for frame in frames))


def _is_cut(recent: Iterable[tuple[int, np.ndarray]], number: int) -> bool:
    """Does a shot begin with thumbnail `number`? recent: it, and those beside it that there are."""
    of = dict(recent)
    before = [of[n] for n in range(number - DISTURBED - 1, number) if n in of]
    behind = [of[n] for n in range(number, number + DISTURBED + 1) if n in of]
    if not before:
        return False
    step = _difference(before[-1], behind[0])
    if step < LEAST or step < OF_CONTRAST * (_contrast(before[-1]) + _contrast(behind[0])) / 2:
        return False
    beside = [(n - 1, n) for n in range(number - NEARBY, number + NEARBY + 1) if n != number]
    usual = [_difference(of[a], of[b]) for a, b in beside if a in of and b in of]
    if usual and step < PROMINENT * float(np.median(usual)):
        return False
    around = [(a, b) for a in before for b in behind if a is not before[-1] or b is not behind[0]]
    return all(_difference(a, b) >= ALIKE * step for a, b in around)


def _contrast(small: np.ndarray) -> float:
    """How much a thumbnail varies: the mean distance of its values from their plane's mean."""
    return float(np.abs(small - small.mean((1, 2), keepdims=True)).mean())


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean difference of two thumbnails; everything where their planes are not the same ones."""
    if a.shape != b.shape:
        return 255.0
    change = a - b
    return float(np.abs(change - (1 - BRIGHTNESS) * change.mean((1, 2), keepdims=True)).mean())
