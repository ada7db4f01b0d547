"""The two degradation pipelines: RealBasicVSR's order of steps for clips, Real-ESRGAN's for images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.degradation.blur import Frames, apply_blur, draw_blur, draw_sinc
from data.degradation.compression import apply_compression, draw_compression
from data.degradation.config import (
    BlurConfig,
    CompressionConfig,
    ImageDegradationConfig,
    JpegConfig,
    NoiseConfig,
    ResizeConfig,
    VideoDegradationConfig,
)
from data.degradation.jpeg import apply_jpeg, draw_jpeg, uint8_to_unit, unit_to_uint8
from data.degradation.noise import apply_noise, draw_noise
from data.degradation.resize import apply_resize, draw_interpolation, draw_resize, resize_to
from data.degradation.sharpen import apply_sharpen


@dataclass(frozen=True)
class Step:
    """A completed step: its name in the configuration, the parameters drawn, and the first frame after it (uint8)."""

    stage: str
    draw: Any
    first_frame: np.ndarray


class _Run:
    """The state of one clip in a pipeline: its current frames, the random generator, and the list of steps done."""

    def __init__(self, clip: np.ndarray, scale: int, generator: np.random.Generator, trace: list[Step] | None) -> None:
        self.frames: Frames = [uint8_to_unit(f) if f.dtype == np.uint8 else f.astype(np.float32) for f in clip]
        self.generator = generator
        self.trace = trace
        self.count, height, width = clip.shape[:3]
        self.area = height * width
        self.output = (height // scale, width // scale)

    def record(self, stage: str, draw: Any) -> None:
        if self.trace is not None:
            self.trace.append(Step(stage, draw, unit_to_uint8(self.frames[0])))

    def blur(self, stage: str, config: BlurConfig) -> None:
        draw = draw_blur(config, self.count, self.generator)
        self.frames = apply_blur(self.frames, draw)
        self.record(stage, draw)

    def resize(self, stage: str, config: ResizeConfig) -> None:
        draw = draw_resize(config, self.count, self.generator)
        self.frames = apply_resize(self.frames, draw, self.output if config.relative_to == "output" else None)
        self.record(stage, draw)

    def noise(self, stage: str, config: NoiseConfig, clip: bool = False) -> None:
        draw = draw_noise(config, self.count, self.generator)
        self.frames = apply_noise(self.frames, draw, self.generator)
        if clip:
            self.frames = [np.clip(frame, 0, 1) for frame in self.frames]
        self.record(stage, draw)

    def jpeg(self, stage: str, config: JpegConfig) -> None:
        draw = draw_jpeg(config, self.count, self.generator)
        self.frames = apply_jpeg(self.frames, draw)
        self.record(stage, draw)

    def compress(self, stage: str, config: CompressionConfig) -> None:
        draw = draw_compression(config, self.area, self.generator)
        self.frames = apply_compression(self.frames, draw)
        self.record(stage, draw)

    def final_resize(self, config: ImageDegradationConfig) -> None:
        interpolation = draw_interpolation(config.final_resize.interpolations, self.generator)
        self.frames = resize_to(self.frames, *self.output, interpolation)
        self.record("final_resize", interpolation)
        draw = draw_sinc(config.final_sinc, self.count, self.generator)
        self.frames = apply_blur(self.frames, draw)
        self.record("final_sinc", draw)

    def in_random_order(self, first: Callable[[], None], second: Callable[[], None]) -> None:
        for stage in (first, second) if self.generator.random() < 0.5 else (second, first):
            stage()


class VideoDegradation:
    """Makes low-quality clips: RealBasicVSR's order and numbers (`configs_degradation/video.yaml`).

    Kinds (blur shape, interpolation, noise, encoder) are drawn once per clip; magnitudes are random walks over frames.
    An instance has no state, so the same clip and seed give the same result in any process.
    """

    def __init__(self, config: VideoDegradationConfig | Mapping[str, Any]) -> None:
        if not isinstance(config, VideoDegradationConfig):
            config = VideoDegradationConfig.parse(config)
        self.config: VideoDegradationConfig = config

    def __call__(
        self, clip: np.ndarray, seed: int | np.random.Generator, trace: list[Step] | None = None
    ) -> np.ndarray:
        """Degrade one clip.

        Args:
            clip: ground truth, [T, H, W, 3] RGB, uint8 or float in [0, 1]; H and W divisible by the scale.
            seed: of all random draws, or the generator to draw from.
            trace: a list to which every completed step is appended.

        Returns:
            uint8 [T, H / scale, W / scale, 3].

        Raises:
            ValueError: the clip has another shape or dtype, or a size that the scale does not divide.
        """
        c = self.config
        run = _Run(_checked(clip, c.scale), c.scale, np.random.default_rng(seed), trace)
        run.frames = apply_sharpen(run.frames, c.sharpen)
        run.record("sharpen", c.sharpen)
        run.blur("blur_1", c.blur_1)
        run.resize("resize_1", c.resize_1)
        run.noise("noise_1", c.noise_1)
        run.jpeg("jpeg_1", c.jpeg_1)
        run.compress("compression_1", c.compression_1)
        run.blur("blur_2", c.blur_2)
        run.resize("resize_2", c.resize_2)
        run.noise("noise_2", c.noise_2)
        run.jpeg("jpeg_2", c.jpeg_2)
        run.in_random_order(
            lambda: run.compress("compression_2", c.compression_2),
            lambda: run.final_resize(c),
        )
        return np.stack([unit_to_uint8(frame) for frame in run.frames])


class ImageDegradation:
    """Makes low-quality images: Real-ESRGAN's order and numbers (`configs_degradation/image.yaml`).

    The interface is that of `VideoDegradation`; an image is a clip of one frame. All frames of a longer clip get the
    same parameters.
    """

    def __init__(self, config: ImageDegradationConfig | Mapping[str, Any]) -> None:
        if not isinstance(config, ImageDegradationConfig):
            config = ImageDegradationConfig.parse(config)
        self.config: ImageDegradationConfig = config

    def __call__(
        self, clip: np.ndarray, seed: int | np.random.Generator, trace: list[Step] | None = None
    ) -> np.ndarray:
        """Degrade [T, H, W, 3] to uint8 [T, H / scale, W / scale, 3]; arguments and errors as `VideoDegradation`."""
        c = self.config
        run = _Run(_checked(clip, c.scale), c.scale, np.random.default_rng(seed), trace)
        run.frames = apply_sharpen(run.frames, c.sharpen)
        run.record("sharpen", c.sharpen)
        run.blur("blur_1", c.blur_1)
        run.resize("resize_1", c.resize_1)
        run.noise("noise_1", c.noise_1, clip=True)
        run.jpeg("jpeg_1", c.jpeg_1)
        run.blur("blur_2", c.blur_2)
        run.resize("resize_2", c.resize_2)
        run.noise("noise_2", c.noise_2, clip=True)
        run.in_random_order(lambda: run.jpeg("jpeg_2", c.jpeg_2), lambda: run.final_resize(c))
        return np.stack([unit_to_uint8(frame) for frame in run.frames])


Degradation = VideoDegradation | ImageDegradation


def build_degradation(config: Mapping[str, Any]) -> Degradation:
    """The pipeline that `config["kind"]` names: `video` or `image`."""
    pipelines: dict[Any, type[Degradation]] = {"video": VideoDegradation, "image": ImageDegradation}
    if config.get("kind") not in pipelines:
        raise ValueError(f"a degradation has `kind: video` or `kind: image`, not {config.get('kind')!r}.")
    return pipelines[config["kind"]](config)


def _checked(clip: np.ndarray, scale: int) -> np.ndarray:
    if clip.ndim != 4 or clip.shape[-1] != 3 or not len(clip):
        raise ValueError(f"a clip is [frames, height, width, 3] with at least one frame, not {list(clip.shape)}.")
    if clip.dtype != np.uint8 and not np.issubdtype(clip.dtype, np.floating):
        raise ValueError(f"a clip is uint8 or float in [0, 1], not {clip.dtype}.")
    if clip.shape[1] % scale or clip.shape[2] % scale:
        raise ValueError(f"{clip.shape[1]}x{clip.shape[2]} is not divisible by {scale}; crop the clip first.")
    return clip
