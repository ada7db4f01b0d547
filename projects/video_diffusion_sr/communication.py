"""Predicts how many bytes the ranks of a group send each other for one clip.

It runs no network and needs no other rank. The transformer's bytes follow from the placement of tokens that a run uses,
and the VAE's bytes from the shapes of its convolutions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, prod

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from common.config import create_object
from data.video.framing import latent_frames, pixel_frames
from models.nadit.config import NaDiTConfig
from models.nadit.exchange import Exchange, SingleProcess
from models.nadit.layout import ClipLayout, build_layout
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from models.video_vae_v3.modules.causal_conv import CausalConv3d

NUMBER_BYTES, FLOAT_BYTES = 2, 4  # activations in 16 bits; sums of text and latents in float32
TEXT_TOKENS = 58


@dataclass(frozen=True)
class Volume:
    """The bytes that the busiest rank sends for one clip with one sampling step.

    tokens: bytes of the transformer's tokens that change rank between windows.
    tokens_moved: fraction of all tokens that do so.
    text: bytes of the sums for the text's means.
    result: bytes of the transformer's output, which goes to all ranks.
    encode, decode: bytes of rows, keys and values of the VAE; the norms' statistics are too small to count.
    sequence_to_heads: bytes that an all-to-all from tokens to heads and back would send in place of `tokens` and
        `text`, if the number of heads can be divided.
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
    latent_factors: tuple[int, int] = (4, 8),
) -> Volume:
    """The communication of one clip on `sp_size` ranks.

    Args:
        vae: the VAE on the meta device, for its shapes; None: leave it out.
        frames: number of frames of the clip, 4n + 1.
        size: height and width in pixels, multiples of 16.
        latent_factors: compression of the VAE in time and space; used if `vae` is None.
    """
    time, space = latent_factors if vae is None else (vae.temporal_factor, vae.spatial_factor)
    latents = latent_frames(frames, time), size[0] // space, size[1] // space
    counter = Counter(sp_size)
    layout = build_layout(config, [latents], [TEXT_TOKENS], sequence_group=counter)
    tokens, moved = moved_tokens(layout, counter.owners, sp_size)
    rounds = len(config.windows) - config.last_block_video_only
    held = max(int(torch.bincount(owner).max()) for owner in counter.owners) if sp_size > 1 else 0
    total = prod(layout.grids[0])
    features = config.vid_out_channels * config.patch_size[0] * config.patch_size[1] * config.patch_size[2]
    encode, decode = (0, 0) if vae is None else vae_bytes(vae, latents, sp_size)
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


def describe(config: DictConfig, frames: int, size: tuple[int, int], sp_sizes: Iterable[int]) -> str:
    """One line per number of ranks, for the networks that a preset's YAML names; see `communication_volume`."""
    with torch.device("meta"):
        dit, vae = create_object(config.dit.model), create_object(config.vae.model)
    lines = []
    for sp_size in sp_sizes:
        volume = communication_volume(dit.config, vae, frames, size, sp_size)
        lines.append(f"{sp_size} ranks: {volume.line()}")
    return "\n".join(lines)


class Counter:
    """A sequence group that only records which rank would hold each token."""

    def __init__(self, size: int) -> None:
        self.size, self.rank = size, 0
        self.owners: list[Tensor] = []

    def exchange(self, owners: Sequence[Tensor], device: torch.device | str) -> Exchange:
        self.owners = list(owners)
        return SingleProcess()


def moved_tokens(layout: ClipLayout, owners: Sequence[Tensor], size: int) -> tuple[int, float]:
    """(tokens that the busiest rank sends in a forward pass, fraction of tokens that change rank between windows)."""
    if size == 1:
        return 0, 0.0
    sent, shares = torch.zeros(size, dtype=torch.long), []
    for before, after in pairwise(block.partition for block in layout.blocks):
        if before != after:
            leaves = owners[before] != owners[after]
            sent += torch.bincount(owners[before][leaves], minlength=size)
            shares.append(float(leaves.float().mean()))
    return int(sent.max()), sum(shares) / max(len(shares), 1)


def vae_bytes(vae: VideoAutoencoderKL, latents: tuple[int, int, int], size: int) -> tuple[int, int]:
    """(encode, decode): the bytes that the busiest rank sends if each rank has one block of the picture's rows.

    A 3x3 convolution needs the rows above and below its input block (a strided one only the row below), and an
    upsampler those of its low-resolution input. The attention's keys and values go to all ranks.
    """
    if size == 1:
        return 0, 0
    t, h, w = latents
    frames, width, levels = pixel_frames(t, vae.temporal_factor), w * vae.spatial_factor, vae.levels
    last, channels = len(levels) - 1, vae.encoder.mid_block.attentions[0].to_q.in_features
    gathered = 2 * t * ceil(h / size) * w * channels * (size - 1)
    both = []
    for network, blocks, ends in (
        (vae.encoder, vae.encoder.down_blocks, (0, last)),
        (vae.decoder, reversed(vae.decoder.up_blocks), (last, 0)),
    ):
        convs = list(zip(ends, (network.conv_in, network.conv_out), strict=True))
        convs += [(level, conv) for level, block in enumerate(blocks) for conv in spatial_convolutions(block)]
        convs += [(last, conv) for conv in spatial_convolutions(network.mid_block)]
        rows = sum(
            (1 if conv.stride[1] == 2 or size == 2 else 2)  # with two ranks, each has one neighbour
            * latent_frames(frames, levels[level].time)
            * (width >> level)
            * conv.in_channels
            for level, conv in convs
        )
        both.append((rows + gathered) * NUMBER_BYTES)
    return both[0], both[1]


def spatial_convolutions(block: nn.Module) -> list[CausalConv3d]:
    """The convolutions of a block that read neighbouring pixels."""
    return [m for m in block.modules() if isinstance(m, CausalConv3d) and m.kernel_size[1] > 1]


def token_share(config: NaDiTConfig, latents: tuple[int, int, int], ranks: int) -> float:
    """The fraction of a clip's tokens that the busiest rank holds in the transformer."""
    if ranks == 1:
        return 1.0
    counter = Counter(ranks)
    build_layout(config, [latents], [TEXT_TOKENS], sequence_group=counter)
    return max(float(torch.bincount(owner, minlength=ranks).max()) / len(owner) for owner in counter.owners)
