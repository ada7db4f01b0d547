"""What a degradation may draw: `configs_degradation/*.yaml`, typed and frozen, unknown and missing keys refused."""

import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Self


@dataclass(frozen=True)
class Walk:
    """A magnitude: the first frame draws U(range), each next one adds U(-walk, walk) and stays inside the range."""

    range: tuple[float, float]
    walk: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.range
        if low > high or self.walk < 0:
            raise ValueError(f"a range is [low, high] and a walk is not negative, not {self.range} and {self.walk}.")


@dataclass(frozen=True)
class SharpenConfig:
    """Unsharp mask of the ground truth. `threshold` in 8-bit levels: smaller differences are left alone."""

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
    """The last filter: a low pass whose ringing looks like that of a resizer or a sharpening camera."""

    probability: float
    sizes: tuple[int, ...]
    cutoff: Walk


@dataclass(frozen=True)
class ResizeConfig:
    """One random resize. `relative_to`: `current` scales the frame's size now, `output` the low-quality size."""

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
    """One random noise. `sigma` in 8-bit levels; `gray` is the probability that the channels share one noise."""

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
        config = _parse(cls, values, where="degradation")
        if config.kind != cls.kind:
            raise ValueError(f"degradation.kind is `{config.kind}`, but this pipeline reads `kind: {cls.kind}`.")
        return config


@dataclass(frozen=True, kw_only=True)
class VideoDegradationConfig(ImageDegradationConfig):
    """Every parameter of the recipe for clips (`configs_degradation/video.yaml`)."""

    compression_1: CompressionConfig
    compression_2: CompressionConfig
    kind: str = "video"


def _parse(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must be a mapping of keys, not {values!r}.")
    known = {field.name: field for field in fields(cls)}
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"{where} has unknown keys {unknown}; known are {sorted(known)}.")
    if missing := sorted(n for n, f in known.items() if n not in values and f.default is MISSING):
        raise ValueError(f"{where} lacks the keys {missing}.")
    hints = typing.get_type_hints(cls)
    return cls(**{name: _value(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    if is_dataclass(hint):
        return _parse(hint, value, where)
    origin = typing.get_origin(hint)
    if origin is tuple:
        length = None if Ellipsis in typing.get_args(hint) else len(typing.get_args(hint))
        if isinstance(value, (str, Mapping)) or (length is not None and len(value) != length) or not len(value):
            raise ValueError(f"{where} must be a list of {length or 'one or more'} numbers, not {value!r}.")
        return tuple(value)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping) or not value or min(value.values()) < 0 or sum(value.values()) <= 0:
            raise ValueError(f"{where} must give a probability to each name, not {value!r}.")
        return dict(value)
    return hint(value)
