"""Draws training pairs: chooses a source, crops it in time and space, moves a camera over it, flips and degrades it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from common.logger import get_logger
from data.degradation.pipeline import Degradation
from data.scene_cuts import has_cut
from data.training.buckets import fits
from data.training.decode import DecodeError, FrameReader
from data.training.index import Index, Source
from data.training.motion import MotionConfig, animate
from data.training.sampling import ClipShape

logger = get_logger(__name__)

MAX_ATTEMPTS = 16


@dataclass(frozen=True)
class Pair:
    """One training pair.

    hq: the ground truth, uint8 [T, H, W, 3].
    lq: the degraded clip, uint8 [T, H/s, W/s, 3]; None if the sampler does not degrade.
    identity: source, position and degradation, for log messages.
    text: the file with the source's text embedding; None if there is none.
    """

    hq: np.ndarray
    lq: np.ndarray | None
    identity: str
    text: str | None = None


@dataclass(frozen=True)
class SamplerConfig:
    """How pairs are cropped and moved.

    Attributes:
        image_share: the fraction of clips of several frames that are made from photographs, if there are videos too.
            No paper does this; use 0 unless there are few videos.
        frame_share: the fraction of single frames that come from videos, if there are photographs too.
        motion: the camera over photographs; None: no clips are made from photographs.
        flip: the probability of a horizontal mirror.
        cache_bytes: memory for decoded short clips, per process.
        reject_cuts: replace a clip that spans a scene cut (`data.scene_cuts`) by another draw.
    """

    image_share: float = 0.5
    frame_share: float = 0.2
    motion: MotionConfig | None = field(default_factory=MotionConfig)
    flip: float = 0.5
    cache_bytes: int = 0
    reject_cuts: bool = True


class PairSampler:
    """Draws training pairs. The same generator state gives the same pair in any process."""

    def __init__(
        self,
        index: Index,
        shapes: Sequence[ClipShape],
        degrade_clip: Degradation | None,
        degrade_image: Degradation | None,
        config: SamplerConfig | None = None,
    ) -> None:
        """Find the sources that are large and long enough for each shape.

        Args:
            degrade_clip, degrade_image: the degradation of clips and of single frames; None: pairs have no `lq`.

        Raises:
            ValueError: a shape has no source; the message states the largest source.
        """
        self.index = index
        self.degrade_clip, self.degrade_image = degrade_clip, degrade_image
        self.config = config or SamplerConfig()
        self.reader = FrameReader(self.config.cache_bytes)
        self.broken: set[str] = set()
        self._candidates = {shape: self._fitting(shape) for shape in shapes}

    def draw(self, shape: ClipShape, generator: np.random.Generator) -> Pair:
        """One pair of the given shape.

        If a source cannot be decoded, it is logged and added to `broken`, and another is drawn with the same generator.
        A clip that spans a scene cut is replaced as well, except at the last attempt.

        Raises:
            RuntimeError: many sources in a row could not be decoded.
        """
        for attempt in range(MAX_ATTEMPTS):
            source = self._choose(shape, generator)
            try:
                hq, where = self._cut(source, shape, generator)
            except DecodeError as error:
                if source.path not in self.broken:
                    self.broken.add(source.path)
                    logger.warning("skipping a broken file (%d so far): %s", len(self.broken), error)
                continue
            if self.config.reject_cuts and source.is_video and attempt + 1 < MAX_ATTEMPTS and has_cut(hq):
                continue
            flipped = bool(generator.random() < self.config.flip)
            hq = (hq[:, :, ::-1] if flipped else hq).copy()  # not a view of the cache
            seed = int(generator.integers(2**63))
            degrade = self.degrade_image if shape.frames == 1 else self.degrade_clip
            identity = f"{source.path} {where} flipped={int(flipped)} degradation={seed}"
            return Pair(hq, None if degrade is None else degrade(hq, seed), identity, source.text)
        raise RuntimeError(f"{MAX_ATTEMPTS} sources in a row could not be decoded; the last one was {source.path}.")

    def _fitting(self, shape: ClipShape) -> tuple[list[Source], list[Source]]:
        """The videos and the images from which a shape can be cut."""
        large = [s for s in self.index.sources if fits(shape, s)]
        videos = [s for s in large if s.is_video and s.frames >= shape.frames]
        images = [s for s in large if not s.is_video and (shape.frames == 1 or self.config.motion)]
        if videos or images:
            return videos, images
        clips = f"clips of {shape.frames} frames of {shape.height}x{shape.width}"
        if not large:
            width, height = max(((s.width, s.height) for s in self.index.sources), key=lambda size: size[0] * size[1])
            raise ValueError(
                f"no source is large enough for {clips}; the largest is {height}x{width}. Use smaller data.shapes or "
                "larger material."
            )
        longest = max((s.frames for s in large if s.is_video), default=0)
        raise ValueError(
            f"no source is long enough for {clips}; the longest that is large enough has {longest} frames. Use shorter "
            "data.shapes, longer clips, or let photographs move (data.sampler.motion)."
        )

    def _choose(self, shape: ClipShape, generator: np.random.Generator) -> Source:
        videos, images = self._candidates[shape]
        share = 1 - self.config.frame_share if shape.frames == 1 else self.config.image_share
        from_image = generator.random() < share
        pool = (images or videos) if from_image else (videos or images)
        return pool[int(generator.integers(len(pool)))]

    def _cut(self, source: Source, shape: ClipShape, generator: np.random.Generator) -> tuple[np.ndarray, str]:
        start = int(generator.integers(source.frames - shape.frames + 1)) if source.is_video else 0
        frames = self.reader.read(source, start, shape.frames if source.is_video else 1)
        if not source.is_video and shape.frames > 1:
            assert self.config.motion is not None
            return animate(frames[0], shape.frames, shape.height, shape.width, generator, self.config.motion), "filmed"
        top = int(generator.integers(source.height - shape.height + 1))
        left = int(generator.integers(source.width - shape.width + 1))
        crop = frames[:, top : top + shape.height, left : left + shape.width]
        return crop, f"frame={start} top={top} left={left}"
