"""How many bytes the ranks of a group send each other for one clip, counted from the plans that a run follows.

Nothing is computed and no other rank is needed: the transformer's part comes from the placement of tokens, the VAE's
from running its networks on tensors without values.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from common.config import create_object
from common.distributed.turns import slice_frames
from models.nadit.config import NaDiTConfig
from models.nadit.exchange import Alone, Exchange
from models.nadit.layout import ClipLayout, build_layout
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from models.video_vae_v3.modules.blocks import Upsample

NUMBER_BYTES, FLOAT_BYTES = 2, 4  # activations in 16 bits; sums of text and latents in float32
TEXT_TOKENS = 58


@dataclass(frozen=True)
class Volume:
    """Bytes sent by the busiest rank, for one clip and one step of sampling.

    tokens: of the transformer, where the windows change. tokens_moved: the share of all tokens that change owner there.
    text, result: sums of text means; the transformer's output for everybody.
    encode, decode: the VAE's carried frames. sequence_to_heads: what an all-to-all from tokens to heads and back would
    send in place of `tokens` and `text`, where the heads can be divided.
    """

    tokens: int
    tokens_moved: float
    text: int
    result: int
    encode: int
    decode: int
    sequence_to_heads: int

    @property
    def total(self) -> int:
        return self.tokens + self.text + self.result + self.encode + self.decode

    def line(self) -> str:
        gb = {name: getattr(self, name) / 1e9 for name in ("tokens", "text", "result", "encode", "decode", "total")}
        parts = ", ".join(f"{name} {value:.3f}" for name, value in gb.items())
        return (
            f"GB sent by the busiest rank: {parts}; {self.tokens_moved:.0%} of tokens change owner between blocks; "
            f"tokens to heads and back would send {self.sequence_to_heads / 1e9:.1f}"
        )


def communication_volume(
    config: NaDiTConfig,
    vae: VideoAutoencoderKL | None,
    frames: int,
    size: tuple[int, int],
    sp_size: int,
    *,
    split_size: int = 8,
    latent_factors: tuple[int, int] = (4, 8),
) -> Volume:
    """What one clip costs on `sp_size` ranks.

    Args:
        vae: on the meta device (it is only asked for shapes); None leaves the VAE out.
        frames: 4n + 1. size: height and width in pixels, multiples of 16.
        split_size: frames of a slice in the VAE.
        latent_factors: compression of the VAE in time and space, where there is no `vae`.
    """
    time, space = latent_factors if vae is None else (vae.temporal_factor, vae.spatial_factor)
    latents = (frames - 1) // time + 1, size[0] // space, size[1] // space
    counter = Counter(sp_size)
    layout = build_layout(config, [latents], [TEXT_TOKENS], team=counter)
    tokens, moved = moved_tokens(layout, counter.owners, sp_size)
    rounds = len(config.windows) - config.last_block_video_only
    held = max(int(torch.bincount(owner).max()) for owner in counter.owners) if sp_size > 1 else 0
    total = layout.token_counts[0]
    features = config.vid_out_channels * config.patch_size[0] * config.patch_size[1] * config.patch_size[2]
    encode, decode = vae_bytes(vae, latents, sp_size, split_size) if vae is not None and sp_size > 1 else (0, 0)
    return Volume(
        tokens=tokens * config.dim * NUMBER_BYTES,
        tokens_moved=moved,
        text=2 * TEXT_TOKENS * config.heads * config.head_dim * FLOAT_BYTES * (sp_size - 1) // sp_size * rounds,
        result=held * features * NUMBER_BYTES * (sp_size - 1),
        encode=encode,
        decode=decode,
        sequence_to_heads=4 * len(config.windows) * ceil(total / sp_size) * config.dim * NUMBER_BYTES
        * (sp_size - 1) // sp_size,
    )  # fmt: skip


def describe(config: Mapping[str, Any], frames: int, size: tuple[int, int], sp_sizes: Iterable[int]) -> str:
    """A line for each number of ranks, for the networks that a preset's YAML names; see `communication_volume`."""
    with torch.device("meta"):
        dit, vae = create_object(config.dit.model), create_object(config.vae.model)
    lines = []
    for sp_size in sp_sizes:
        split_size = slice_frames(sp_size, config.vae.slicing.split_size, vae.temporal_factor, frames)
        volume = communication_volume(dit.config, vae, frames, size, sp_size, split_size=split_size)
        lines.append(f"{sp_size} ranks, slices of {split_size} frames: {volume.line()}")
    return "\n".join(lines)


class Counter:
    """A team that only notes who would hold which token."""

    def __init__(self, size: int) -> None:
        self.size, self.own, self.owners = size, 0, []

    def exchange(self, owners: Sequence[Tensor], device: torch.device | str) -> Exchange:
        self.owners = list(owners)
        return Alone()


def moved_tokens(layout: ClipLayout, owners: Sequence[Tensor], size: int) -> tuple[int, float]:
    """Tokens that the busiest rank sends in a forward pass; the share of all that change owner where windows change."""
    if size == 1:
        return 0, 0.0
    sent, shares = torch.zeros(size, dtype=torch.long), []
    for before, after in pairwise(block.cut for block in layout.blocks):
        if before != after:
            leaves = owners[before] != owners[after]
            sent += torch.bincount(owners[before][leaves], minlength=size)
            shares.append(float(leaves.float().mean()))
    return int(sent.max()), sum(shares) / max(len(shares), 1)


def vae_bytes(vae: VideoAutoencoderKL, latents: tuple[int, int, int], size: int, split_size: int) -> tuple[int, int]:
    """(encode, decode): carried frames that a rank hands on, times its slices; upsamplers folded as in inference."""
    t, h, w = latents
    step = max(split_size // vae.temporal_factor, 1)
    slices = 1 + ceil(max(t - 1 - step, 0) / step)
    if slices == 1:
        return 0, 0
    own, both = ceil(slices / size), []
    pixels = 3, split_size, h * vae.spatial_factor, w * vae.spatial_factor
    for run, shape in ((vae.encode_slice, pixels), (vae.decode_slice, (vae.latent_channels, step, h, w))):
        memory = CarriedBytes(vae)
        with torch.no_grad():
            run(torch.empty(1, *shape, device="meta"), memory)
        both.append(own * memory.bytes)
    return both[0], both[1]


class CarriedBytes:
    """A temporal memory that only counts what it would have to carry, for a slice in the middle of a clip."""

    def __init__(self, vae: nn.Module) -> None:
        self.bytes, self.starts_clip = 0, False
        self._folded = {up.conv: up.time_factor for up in vae.modules() if isinstance(up, Upsample)}

    def advance(self) -> None:
        pass

    def extend(self, owner: nn.Module, x: Tensor, kernel: int, stride: int) -> Tensor:
        if kernel == 1:
            return x
        frames, numbers = kernel - stride, x[:, :, :1].numel()
        if owner in self._folded:  # carries what comes before the enlargement
            frames, numbers = kernel - self._folded[owner], numbers // 4
        self.bytes += frames * numbers * NUMBER_BYTES
        return torch.cat([x[:, :, :1].expand(-1, -1, kernel - 1, -1, -1), x], dim=2)
