"""NaDiT: the native-resolution diffusion transformer of SeedVR (arXiv 2501.01320) and SeedVR2 (arXiv 2506.05301).

Letters: B samples · L0 latent positions, L video tokens, M text tokens of all samples, packed · C width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.kernels.norm import modulate, rms_norm
from models.module_list import module_list
from models.nadit.block import Block
from models.nadit.config import NaDiTConfig
from models.nadit.exchange import SequenceGroup
from models.nadit.layout import ClipLayout, build_layout
from models.nadit.modulation import TailModulation, TimeEmbedding
from models.nadit.patch import PatchIn, PatchOut
from models.nadit.recompute import Recompute


class NaDiTOutput(NamedTuple):
    """The output of a NaDiT.

    vid_sample: [L0, vid_out_channels], the predicted velocity.
    features: video tokens [L, C] after each tapped block; if ranks share the clip, those of this rank.

    It is a tuple, because FSDP finds a network's outputs (to gather weights for the backward pass) in tuples, but in
    older releases of torch not in dataclasses.
    """

    vid_sample: Tensor
    features: tuple[Tensor, ...] = ()


class TailNorm(nn.Module):
    """The RMSNorm with weight after the last block of the 3B."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class NaDiT(nn.Module):
    """The transformer of both generations, which differ in their config only. `models.dit*` build it from a YAML."""

    def __init__(self, config: NaDiTConfig) -> None:
        super().__init__()
        self.config = config
        self.set_gradient_checkpointing(Recompute())
        self.vid_in = PatchIn(config.vid_in_channels, config.patch_size, config.dim)
        same_width = config.txt_in_dim == config.dim
        self.txt_in = nn.Identity() if same_width else nn.Linear(config.txt_in_dim, config.dim)
        self.emb_in = TimeEmbedding(config.dim)
        self.blocks = module_list([Block(config, layer) for layer in range(config.num_layers)])
        if config.tail:
            self.vid_out_norm = TailNorm(config.dim, config.norm_eps)
            self.vid_out_ada = TailModulation(config.dim)
        self.vid_out = PatchOut(config.vid_out_channels, config.patch_size, config.dim)

    def set_gradient_checkpointing(self, recompute: Recompute) -> None:
        """Choose which activations of the blocks training keeps for the backward pass; it recomputes the others."""
        self.recompute, self.recomputed = recompute, recompute.blocks(self.config.num_layers)

    def reset_buffers(self, device: torch.device | str | None = None) -> None:
        """Compute all buffers again, on `device`. Needed after building the network on the meta device."""
        for block in self.blocks:
            block.attn.rope.reset_buffers(device)

    def layout(
        self,
        video_shapes: Sequence[Sequence[int]],
        text_lengths: Sequence[int],
        device: torch.device | str = "cpu",
        sequence_group: SequenceGroup | None = None,
    ) -> ClipLayout:
        """Build the layout, which depends on shapes only. Build it once per clip and pass it to `forward` in each step.

        Args:
            video_shapes, text_lengths, device: see `build_layout`.
            sequence_group: the ranks that share the clip. Each passes the whole inputs to `forward`, and gets the whole
                output.
        """
        return build_layout(self.config, video_shapes, text_lengths, device, sequence_group)

    def forward(
        self,
        vid: Tensor,
        txt: Tensor,
        vid_shape: Tensor | Sequence[Sequence[int]],
        txt_shape: Tensor | Sequence[Sequence[int]],
        timestep: Tensor | float,
        *,
        layout: ClipLayout | None = None,
        taps: Sequence[int] = (),
    ) -> NaDiTOutput:
        """Predict the velocity of packed latents. The result of a sample does not depend on other samples.

        Args:
            vid: [L0, vid_in_channels], noisy latents, condition and mask; each sample is flattened (t h w).
            txt: [M, txt_in_dim], text embeddings.
            vid_shape: [B, 3], latent (t, h, w) of every sample.
            txt_shape: [B, 1], number of text tokens of every sample.
            timestep: scalar or [B], from 0 (clean) to 1000 (noise).
            layout: the layout of these shapes, from `self.layout`; None: it is built here.
            taps: numbers of blocks (from 0) whose video tokens are returned as features.
        """
        if layout is None:
            shapes, lengths = _as_lists(vid_shape), [row[0] for row in _as_lists(txt_shape)]
            layout = self.layout(shapes, lengths, vid.device)
        if not isinstance(timestep, Tensor):
            timestep = torch.full((1,), timestep, device=vid.device)  # filled on the device: no copy
        timestep = timestep.to(vid.device).reshape(-1)
        exchange, windows = layout.exchange, layout.blocks[0]
        video = self.vid_in(vid, layout.grids, lambda tokens: exchange.enter(tokens, windows.partition))  # L C
        text = self.txt_in(txt)  # M C
        embedding = self.emb_in(timestep.expand(len(layout.grids)) if len(timestep) == 1 else timestep)
        features = {}
        for number, (block, windows) in enumerate(zip(self.blocks, layout.blocks, strict=True)):
            video = exchange.move(video, layout.blocks[max(number - 1, 0)].partition, windows.partition)
            streams = video, text, embedding, windows, windows.sample_of_video, layout.sample_of_text
            if number in self.recomputed and torch.is_grad_enabled():
                video, text = self.recompute.run(block, *streams)
            else:
                video, text = block(*streams)
            if number in taps:
                features[number] = video
        if self.config.tail:
            shift, scale = self.vid_out_ada(embedding)
            video = modulate(self.vid_out_norm(video), scale, shift, windows.sample_of_video)
        velocity = self.vid_out(video, layout.grids, lambda tokens: exchange.leave(tokens, windows.partition))
        return NaDiTOutput(velocity, tuple(features[number] for number in taps))


def _as_lists(shape: Tensor | Sequence[Sequence[int]]) -> list[list[int]]:
    return shape.tolist() if isinstance(shape, Tensor) else [list(row) for row in shape]
