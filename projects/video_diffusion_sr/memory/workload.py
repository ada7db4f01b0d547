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
    """A clip and the networks that it goes through.

    vae: asked for shapes only. dit: of the transformer.
    dit_bytes: of its weights in the dtype they compute in. vae_bytes: of the VAE's with what inference derives from
        them; winograd_bytes: what each Winograd transform adds.
    carried_channels: by stage and level, of all inputs of which a slice carries frames to the next one.
    frames, height, width: padded, pixels; of a long clip the longest window.
    still: a picture: nothing follows its one frame. repeated: see `budget.Clip`.
    itemsize: bytes of a number.
    slice_frames: frames of a slice after the first, as the YAML says; None: the whole clip.
    fixed_slices: keep to them where frames of a longer slice would be faster.
    long: more windows follow the first, so what both halves of the VAE carry is kept meanwhile.
    source: pixels of a frame before it is resized. result_bytes: of a sample of a finished frame.
    texts: embeddings with a layout each; two with guidance.
    ranks: that share the clip. token_share: of all tokens, that the busiest of them holds in the transformer.
    sharded: each has a part of the transformer's weights.
    storage_8_bit: the user asks for the transformer's weights as 8-bit floats.
    derived: Winograd transforms that the run's other files need.
    """

    vae: VideoAutoencoderKL
    dit: NaDiTConfig
    dit_bytes: int
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
    sharded: bool = False
    storage_8_bit: bool = False
    derived: frozenset[int] = frozenset()

    @property
    def pixels(self) -> int:
        """Of a whole frame of the networks."""
        return self.height * self.width

    @property
    def alone(self) -> "Workload":
        """The same clip on one rank, whose weights stay where they are."""
        return replace(self, ranks=1, token_share=1.0)

    @property
    def rows(self) -> int:
        """Rows of pixels that the rank with most of them has: blocks of latent rows of nearly equal height."""
        scale = self.vae.spatial_factor
        return ceil(self.height // scale / self.ranks) * scale


def workload_of(vae: VideoAutoencoderKL, dit: NaDiT, dtype: torch.dtype, **clip: Any) -> Workload:
    """A workload for networks on the meta device that will compute in `dtype`; `clip`: its other fields."""
    copy = deepcopy(vae)  # which takes no memory, like all of this
    prepare_inference(copy, winograd=(F43, F23))
    copy.to(dtype)
    added = {F43: 0, F23: 0}
    for module in copy.modules():
        if isinstance(module, WinogradWeights):
            added[module.products.shape[0] - 2] += module.products.nbytes
    itemsize = torch.empty((), dtype=dtype).element_size()
    dit_bytes = sum(tensor.numel() for tensor in (*dit.parameters(), *dit.buffers())) * itemsize
    vae_bytes = weight_bytes(copy) - sum(added.values())
    carried = {stage: carried_channels(vae, stage) for stage in ("encode", "decode")}
    return Workload(vae, dit.config, dit_bytes, vae_bytes, added, carried, itemsize=itemsize, **clip)


VaeBlock = DownEncoderBlock3D | UpDecoderBlock3D


def blocks_of(vae: VideoAutoencoderKL, stage: str) -> list[VaeBlock]:
    """The encoder's or the decoder's levels, from the largest picture to the smallest."""
    return list(vae.encoder.down_blocks if stage == "encode" else reversed(vae.decoder.up_blocks))


def carried_channels(vae: VideoAutoencoderKL, stage: str) -> tuple[int, ...]:
    """Channels of the inputs of all convolutions in time, by level; the middle block's count to the smallest one."""
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
    """Bytes of all parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
