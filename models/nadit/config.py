"""What a NaDiT is made of; the doors (`models.dit`, `models.dit_v2`) translate the YAML of their generation into it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

WINDOW_METHODS = {"720pwin_by_size_bysize": False, "720pswin_by_size_bysize": True}  # name -> is it the shifted one?
NORMS = {"rms", "fusedrms"}

Size3 = tuple[int, int, int]


@dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding of one generation.

    kind:
        "text_and_video" (3B): frequencies theta^(-2k/r), integer positions inside the window, the video starts in time
            where the sample's text ends, text token j stands at (j, j, j).
        "video" (7B): frequencies linspace(1, 128, n) * pi, positions spread over [-1, 1] along each window axis.
    features: how many of the head's features are shared out to the three axes (`features // 3` each).
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
    """One transformer, both generations. The five switches that differ are marked."""

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
    windows: tuple[Size3, ...]  # one (nt, nh, nw) a block
    shifted: tuple[bool, ...]  # one a block
    separate_layers: int  # switch 1: this many blocks, from the first, have weights of their own for text
    mlp: Literal["normal", "swiglu"]  # switch 2
    rope: RopeConfig  # switch 3
    tail: bool  # switch 4: norm, shift and scale before patch-out
    last_block_video_only: bool  # switch 5

    def shared(self, layer: int) -> bool:
        """Does this block use one set of weights for video and text?"""
        return layer >= self.separate_layers

    def video_only(self, layer: int) -> bool:
        """Does the text stream end before this block's MLP?"""
        return self.last_block_video_only and layer == self.num_layers - 1


def per_layer(name: str, value: object, num_layers: int) -> list[Any]:
    """A YAML list with one entry a block; refuses any other length."""
    entries = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else None
    if entries is None or len(entries) != num_layers:
        raise ValueError(f"{name} must list one entry for each of the {num_layers} blocks, got {value!r}")
    return entries


def read_size(name: str, value: Sequence[int]) -> Size3:
    """Three whole numbers along (time, height, width) from a YAML; ValueError unless all are at least 1."""
    numbers = [int(n) for n in value]
    if len(numbers) != 3 or min(numbers) < 1:
        raise ValueError(f"{name} must be three numbers (time, height, width) of at least 1, got {value}")
    return numbers[0], numbers[1], numbers[2]


def read_windows(window: object, window_method: object, num_layers: int) -> tuple[tuple[Size3, ...], tuple[bool, ...]]:
    """The YAML keys `window` and `window_method` as counts and shift switches, one a block."""
    windows = tuple(read_size("window", counts) for counts in per_layer("window", window, num_layers))
    methods = per_layer("window_method", window_method, num_layers)
    for method in methods:
        if method not in WINDOW_METHODS:
            raise ValueError(f"window_method {method!r} is unknown; choose from {sorted(WINDOW_METHODS)}")
    return windows, tuple(WINDOW_METHODS[method] for method in methods)


def require(key: str, value: object, allowed: Sequence[object], why: str = "") -> None:
    """Refuse a YAML value that this implementation would otherwise silently ignore."""
    if value not in allowed:
        choices = " or ".join(repr(choice) for choice in allowed)
        raise ValueError(f"{key}={value!r} is not supported: use {choices}{'; ' + why if why else ''}")


def require_shared_keys(*, norm: str, qk_norm: str, ada: str, block_type: object, num_layers: int) -> None:
    """The keys that both generations have and that only the released values of make sense for."""
    require("norm", norm, sorted(NORMS))
    require("qk_norm", qk_norm, sorted(NORMS))
    require("ada", ada, ["single"])
    for kind in per_layer("block_type", block_type, num_layers):
        require("block_type", kind, ["mmdit_sr"])


def require_widths(*, vid_dim: int, txt_dim: int, emb_dim: int) -> None:
    """The widths of streams and time embedding, of which the YAML names three and the network has one."""
    require("txt_dim", txt_dim, [vid_dim], "text and video meet in one attention and must be equally wide")
    require("emb_dim", emb_dim, [6 * vid_dim], "the time embedding holds shift, scale and gate of two layers")
