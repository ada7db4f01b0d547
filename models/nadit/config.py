"""The config of a NaDiT. `models.dit` and `models.dit_v2` translate the YAML of their generation into it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

WINDOW_METHODS = {"720pwin_by_size_bysize": False, "720pswin_by_size_bysize": True}  # name -> are windows shifted?
NORMS = {"rms", "fusedrms"}

Size3 = tuple[int, int, int]


@dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding of one generation.

    kind:
        "text_and_video" (3B): frequencies theta^(-2k/r) and integer positions in the window. Text token j has position
            (j, j, j), and the video's times begin after the last text token.
        "video" (7B): frequencies linspace(1, 128, n) * pi, and positions from -1 to 1 along each axis of the window.
    features: number of a head's features that are rotated, `features // 3` for each of the three axes.
    """

    kind: Literal["text_and_video", "video"]
    features: int

    @property
    def axis_features(self) -> int:
        return self.features // 3

    @property
    def axis_frequencies(self) -> int:
        return self.axis_features // 2


@dataclass(frozen=True)
class NaDiTConfig:
    """The config of both generations of the transformer. The five switches in which they differ are marked."""

    vid_in_channels: int
    vid_out_channels: int
    dim: int
    txt_in_dim: int
    heads: int
    head_dim: int
    expand_ratio: int
    norm_eps: float
    qkv_bias: bool
    patch_size: Size3
    num_layers: int
    windows: tuple[Size3, ...]  # window counts (nt, nh, nw) of each block
    shifted: tuple[bool, ...]  # whether the windows of each block are shifted
    separate_layers: int  # switch 1: number of first blocks with separate weights for text
    mlp: Literal["normal", "swiglu"]  # switch 2
    rope: RopeConfig  # switch 3
    tail: bool  # switch 4: norm, shift and scale before patch-out
    last_block_video_only: bool  # switch 5

    def shared(self, layer: int) -> bool:
        """Whether this block uses the same weights for video and text."""
        return layer >= self.separate_layers

    def video_only(self, layer: int) -> bool:
        """Whether the text stream ends before this block's MLP."""
        return self.last_block_video_only and layer == self.num_layers - 1


def per_layer(name: str, value: object, num_layers: int) -> list[Any]:
    """Check that a YAML list has one entry per block, and return it."""
    entries = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else None
    if entries is None or len(entries) != num_layers:
        raise ValueError(f"{name} must list one entry for each of the {num_layers} blocks, got {value!r}")
    return entries


def read_size(name: str, value: Sequence[int]) -> Size3:
    """Read three whole numbers (time, height, width) from a YAML; ValueError unless all are at least 1."""
    numbers = [int(n) for n in value]
    if len(numbers) != 3 or min(numbers) < 1:
        raise ValueError(f"{name} must be three numbers (time, height, width) of at least 1, got {value}")
    return numbers[0], numbers[1], numbers[2]


def read_windows(window: object, window_method: object, num_layers: int) -> tuple[tuple[Size3, ...], tuple[bool, ...]]:
    """Convert the YAML keys `window` and `window_method` to window counts and shift switches of each block."""
    windows = tuple(read_size("window", counts) for counts in per_layer("window", window, num_layers))
    methods = per_layer("window_method", window_method, num_layers)
    for method in methods:
        if method not in WINDOW_METHODS:
            raise ValueError(f"window_method {method!r} is unknown; choose from {sorted(WINDOW_METHODS)}")
    return windows, tuple(WINDOW_METHODS[method] for method in methods)


def require(key: str, value: object, allowed: Sequence[object], why: str = "") -> None:
    """Raise ValueError for a YAML value that this implementation would ignore."""
    if value not in allowed:
        choices = " or ".join(repr(choice) for choice in allowed)
        raise ValueError(f"{key}={value!r} is not supported: use {choices}{'; ' + why if why else ''}")


def require_shared_keys(*, norm: str, qk_norm: str, ada: str, block_type: object, num_layers: int) -> None:
    """Check the keys of both generations for which only the released values are supported."""
    require("norm", norm, sorted(NORMS))
    require("qk_norm", qk_norm, sorted(NORMS))
    require("ada", ada, ["single"])
    for kind in per_layer("block_type", block_type, num_layers):
        require("block_type", kind, ["mmdit_sr"])


def require_widths(*, vid_dim: int, txt_dim: int, emb_dim: int) -> None:
    """Check that the three widths in the YAML (video, text, time embedding) agree, since the network has one."""
    require("txt_dim", txt_dim, [vid_dim], "text and video meet in one attention and must be equally wide")
    require("emb_dim", emb_dim, [6 * vid_dim], "the time embedding holds shift, scale and gate of two layers")
