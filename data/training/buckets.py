"""Aspect-ratio buckets: one entry of `data.shapes` becomes several shapes of about the same area.

The sizes of SeedVR2's adaptive windows vary only if the aspect ratios of clips vary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log, sqrt
from typing import Any

from data.training.index import Source
from data.training.sampling import ClipShape

MULTIPLE = 16  # pixels: the VAE's compression in space times the transformer's patch


@dataclass(frozen=True)
class Bucket(ClipShape):
    """A shape for the sources whose aspect ratio is nearest to its own within a group of buckets.

    siblings: (height, width) in pixels of every bucket of the group, including this one.
    """

    siblings: tuple[tuple[int, int], ...] = ()

    def takes(self, source: Source) -> bool:
        """Whether this bucket has the nearest aspect ratio among the siblings that are no larger than the source."""
        fitting = [size for size in self.siblings if source.height >= size[0] and source.width >= size[1]]
        aspect = source.width / source.height
        return bool(fitting) and (self.height, self.width) == min(
            fitting, key=lambda size: (abs(log(size[1] / size[0] / aspect)), size)
        )


def fits(shape: ClipShape, source: Source) -> bool:
    """Whether a source is at least as large as a shape, and belongs to it if it is a bucket; frames are not checked."""
    large = source.height >= shape.height and source.width >= shape.width
    return large and (not isinstance(shape, Bucket) or shape.takes(source))


def expand(shapes: Sequence[ClipShape], sources: Sequence[Source]) -> tuple[ClipShape, ...]:
    """Replace each shape with `aspects` by its buckets that have sources, weighted by their numbers of sources.

    Raises:
        ValueError: an aspect is not positive, or no bucket of a group has a source.
    """
    expanded: list[ClipShape] = []
    for shape in shapes:
        if not shape.aspects:
            expanded.append(shape)
            continue
        sizes = tuple(dict.fromkeys(size_of(shape, aspect) for aspect in shape.aspects))
        common: dict[str, Any] = {"frames": shape.frames, "start": shape.start, "end": shape.end, "siblings": sizes}
        buckets = [Bucket(height=h, width=w, **common) for h, w in sizes]
        long_enough = [s for s in sources if s.frames >= shape.frames or not s.is_video]
        counts = [sum(bucket.takes(source) for source in long_enough) for bucket in buckets]
        if not sum(counts):
            raise ValueError(
                f"no source is large enough for {shape.frames} frames of about {shape.height}x{shape.width} in any of "
                f"the aspects {list(shape.aspects)}; use smaller shapes or larger material."
            )
        total = sum(counts)
        expanded += [replace(b, weight=shape.weight * n / total) for b, n in zip(buckets, counts, strict=True) if n]
    return tuple(expanded)


def size_of(shape: ClipShape, aspect: float) -> tuple[int, int]:
    """(height, width) in pixels, multiples of 16, with about the given aspect and at most the area of the shape."""
    if not aspect > 0:
        raise ValueError(f"data.shapes: an aspect is width / height and positive, got {aspect}")
    area = shape.height * shape.width
    height = max(1, round(sqrt(area / aspect) / MULTIPLE)) * MULTIPLE
    width = max(1, round(sqrt(area * aspect) / MULTIPLE)) * MULTIPLE
    while height * width > area and max(height, width) > MULTIPLE:
        if height >= width:
            height -= MULTIPLE
        else:
            width -= MULTIPLE
    return height, width
