"""The parameters of a degradation (`configs_degradation/*.yaml`), typed and frozen; unknown and missing keys fail."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Self

from common.strict_settings import settings_from


@dataclass(frozen=True)
class Walk:
    """A random walk over frames: the first value is U(range); each next adds U(-walk, walk), clipped to the range."""

    range: tuple[float, float]
    walk: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.range
        if low > high or self.walk < 0:
            raise ValueError(f"a range is [low, high] and a walk is not negative, not {self.range} and {self.walk}.")


@dataclass(frozen=True)
class SharpenConfig:
    """Unsharp mask of the ground truth. Differences below `threshold` (8-bit levels) are not sharpened."""

    kernel: int
    weight: float
    threshold: float


@dataclass(frozen=True)
class BlurConfig:
    """One random blur. Sigmas in pixels, angles in radians, cutoffs of the sinc filters in radians per pixel."""

    probability: float
    sizes: tuple[int, ...]
    kinds: Mapping[str, float]
    sigma: Walk
    angle: Walk
    beta_generalised: Walk
    beta_plateau: Walk
    cutoff_small: Walk
    cutoff_large: Walk


@dataclass(frozen=True)
class SincConfig:
    """The last filter: a sinc low pass, which rings as resizers and sharpening cameras do."""

    probability: float
    sizes: tuple[int, ...]
    cutoff: Walk


@dataclass(frozen=True)
class ResizeConfig:
    """One random resize. `relative_to`: `current` scales the frame's present size, `output` the low-quality size."""

    modes: Mapping[str, float]
    scale: Walk
    relative_to: str
    interpolations: Mapping[str, float]

    def __post_init__(self) -> None:
        if self.relative_to not in ("current", "output"):
            raise ValueError(f"relative_to is `current` or `output`, not `{self.relative_to}`.")


@dataclass(frozen=True)
class FinalResizeConfig:
    """The resize to the low-quality size."""

    interpolations: Mapping[str, float]


@dataclass(frozen=True)
class NoiseConfig:
    """One random noise. `sigma` is in 8-bit levels; `gray` is the probability that all channels get the same noise."""

    kinds: Mapping[str, float]
    gray: float
    sigma: Walk
    poisson_scale: Walk


@dataclass(frozen=True)
class JpegConfig:
    """One JPEG round trip; quality as libjpeg counts it, 1 to 100."""

    quality: Walk


@dataclass(frozen=True)
class CompressionConfig:
    """One video encoder round trip; `bits_per_frame` for a ground truth of 256x256, scaled with its area."""

    codecs: Mapping[str, float]
    bits_per_frame: tuple[float, float]
    preset: str = "medium"


@dataclass(frozen=True)
class ImageDegradationConfig:
    """Every parameter of the recipe for single images (`configs_degradation/image.yaml`)."""

    scale: int
    sharpen: SharpenConfig
    blur_1: BlurConfig
    resize_1: ResizeConfig
    noise_1: NoiseConfig
    jpeg_1: JpegConfig
    blur_2: BlurConfig
    resize_2: ResizeConfig
    noise_2: NoiseConfig
    jpeg_2: JpegConfig
    final_resize: FinalResizeConfig
    final_sinc: SincConfig
    kind: str = "image"

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """From the mapping that a YAML file holds.

        Raises:
            ValueError: a key is unknown, missing or of the wrong form; the sentence names it.
        """
        config = settings_from(cls, values, "degradation.")
        refuse_bad_weights(config, "degradation")
        if config.kind != cls.kind:
            raise ValueError(f"degradation.kind is `{config.kind}`, but this pipeline reads `kind: {cls.kind}`.")
        return config


@dataclass(frozen=True, kw_only=True)
class VideoDegradationConfig(ImageDegradationConfig):
    """Every parameter of the recipe for clips (`configs_degradation/video.yaml`)."""

    compression_1: CompressionConfig
    compression_2: CompressionConfig
    kind: str = "video"


def refuse_bad_weights(config: Any, where: str) -> None:
    """Raise ValueError if a mapping of names to weights, at any depth of a recipe, has nothing that can be drawn."""
    for field in fields(config):
        value, name = getattr(config, field.name), f"{where}.{field.name}"
        if is_dataclass(value):
            refuse_bad_weights(value, name)
        elif isinstance(value, Mapping) and (not value or min(value.values()) < 0 or sum(value.values()) <= 0):
            raise ValueError(f"{name} must give a probability to each name, not {dict(value)!r}.")
        elif isinstance(value, tuple) and not value:
            raise ValueError(f"{name} is empty; give at least one number.")
