"""The workload of a memory plan: a clip, and the networks that it passes."""

from copy import deepcopy
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import torch
from torch import nn

from models.nadit.config import NaDiTConfig
from models.nadit.model import NaDiT
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from models.video_vae_v3.modules.causal_conv import CausalConv3d
from models.video_vae_v3.modules.decoder import UpDecoderBlock3D
from models.video_vae_v3.modules.encoder import DownEncoderBlock3D
from models.video_vae_v3.modules.fold import prepare_inference
from models.video_vae_v3.modules.schedule import F23, F43
from models.video_vae_v3.modules.winograd import WinogradWeights

GIB = 2**30


@dataclass(frozen=True)
class Workload:
    """A clip, and the networks that process it.

    vae: the VAE on the meta device, for its shapes.
    dit: the config of the transformer.
    dit_bytes: bytes of the transformer's weights in its compute dtype.
    block_bytes: bytes of those of its largest block, and of all blocks.
    vae_bytes: bytes of the VAE's weights, including weights that are derived for inference.
    winograd_bytes: bytes that each Winograd transform adds to them.
    carried_channels: by stage and level, number of channels of all inputs whose last frames are carried between slices.
    frames, height, width: padded size of the clip in frames and pixels; of a long clip, its longest window.
    still: the clip is a single picture.
    repeated: see `budget.Clip`.
    itemsize: bytes per number.
    slice_frames: frames of a slice after the first, from the YAML; None: the whole clip.
    fixed_slices: use this length even if longer slices would be faster.
    long: the clip has several windows, so encoder and decoder keep their carried frames during all of them.
    source: number of pixels of a frame before resizing.
    result_bytes: bytes per sample of a finished frame.
    texts: number of text embeddings, each with its own layout; two with guidance.
    ranks: number of ranks that share the clip.
    token_share: fraction of all tokens that the busiest rank holds in the transformer.
    sharing: number of ranks that together hold one copy of the transformer's weights.
    storage_8_bit: the user asked for 8-bit storage of the transformer's weights.
    derived: Winograd transforms whose weights other files of the run need.
    """

    vae: VideoAutoencoderKL
    dit: NaDiTConfig
    dit_bytes: int
    block_bytes: tuple[int, int]
    vae_bytes: int
    winograd_bytes: dict[int, int]
    carried_channels: dict[str, tuple[int, ...]]
    frames: int = 1
    height: int = 0
    width: int = 0
    still: bool = False
    repeated: int = 0
    itemsize: int = 2
    slice_frames: int | None = None
    fixed_slices: bool = False
    long: bool = False
    source: int = 0
    result_bytes: int = 1
    texts: int = 1
    ranks: int = 1
    token_share: float = 1.0
    sharing: int = 1
    storage_8_bit: bool = False
    derived: frozenset[int] = frozenset()

    @property
    def sharded(self) -> bool:
        """Whether each rank holds a part of the transformer's weights."""
        return self.sharing > 1

    @property
    def pixels(self) -> int:
        """Number of pixels of a whole frame in the networks."""
        return self.height * self.width

    @property
    def alone(self) -> "Workload":
        """The same clip on a single rank, without sharding."""
        return replace(self, ranks=1, token_share=1.0)

    @property
    def rows(self) -> int:
        """The largest number of pixel rows on a rank. Blocks of latent rows have nearly equal heights."""
        scale = self.vae.spatial_factor
        return ceil(self.height // scale / self.ranks) * scale


def workload_of(vae: VideoAutoencoderKL, dit: NaDiT, dtype: torch.dtype, **clip: Any) -> Workload:
    """Make the workload of networks on the meta device that will compute in `dtype`; `clip` gives its other fields."""
    copy = deepcopy(vae)  # on the meta device this takes no memory
    prepare_inference(copy, winograd=(F43, F23))
    copy.to(dtype)
    added = {F43: 0, F23: 0}
    for module in copy.modules():
        if isinstance(module, WinogradWeights):
            added[module.products.shape[0] - 2] += module.products.nbytes
    itemsize = torch.empty((), dtype=dtype).element_size()
    dit_bytes = sum(tensor.numel() for tensor in (*dit.parameters(), *dit.buffers())) * itemsize
    of_blocks = [sum(tensor.numel() for tensor in block.parameters()) * itemsize for block in dit.blocks]
    vae_bytes = weight_bytes(copy) - sum(added.values())
    carried = {stage: carried_channels(vae, stage) for stage in ("encode", "decode")}
    blocks = max(of_blocks), sum(of_blocks)
    return Workload(vae, dit.config, dit_bytes, blocks, vae_bytes, added, carried, itemsize=itemsize, **clip)


VaeBlock = DownEncoderBlock3D | UpDecoderBlock3D


def blocks_of(vae: VideoAutoencoderKL, stage: str) -> list[VaeBlock]:
    """The levels of the encoder or the decoder, from the largest picture to the smallest."""
    return list(vae.encoder.down_blocks if stage == "encode" else reversed(vae.decoder.up_blocks))


def carried_channels(vae: VideoAutoencoderKL, stage: str) -> tuple[int, ...]:
    """For each level, the channels of the inputs of all convolutions in time; the mid block belongs to the smallest."""
    blocks: list[list[nn.Module]] = [[block] for block in blocks_of(vae, stage)]
    blocks[-1].append((vae.encoder if stage == "encode" else vae.decoder).mid_block)
    return tuple(
        sum(
            module.in_channels
            for block in level
            for module in block.modules()
            if isinstance(module, CausalConv3d) and module.kernel_size[0] == 3
        )
        for level in blocks
    )


def weight_bytes(network: nn.Module) -> int:
    """The bytes of all parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
