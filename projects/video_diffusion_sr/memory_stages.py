"""A plan at work: when a stage of a clip begins, networks and carried frames go where the plan wants them."""

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from models.video_vae_v3.modules.fold import release_filters
from models.video_vae_v3.modules.temporal_memory import TemporalMemory
from models.video_vae_v3.modules.tiling import TileMemories, decode_tiled, encode_tiled
from projects.video_diffusion_sr.memory_plan import TILE_OVERLAP, MemoryPlan, install, set_bounds
from projects.video_diffusion_sr.memory_ways import by_fours

ENCODE, SAMPLE, DECODE = "encode", "sample", "decode"
EVERYTHING_STAYS = MemoryPlan()


class Stages:
    """Where the networks of a run are. Nothing moves before it must: a stage that goes on where it was costs nothing.

    Args:
        vae, dit: in evaluation mode, on the device or, when plans move them, anywhere.
        device: where they compute.
        ways: the plans of all clips to come. Empty: both networks are on the device and are left alone. What cannot be
            undone (travelling blocks, 8-bit storage) must be the same in all.
    """

    def __init__(
        self, vae: VideoAutoencoderKL, dit: nn.Module, device: torch.device, ways: Sequence[MemoryPlan] = ()
    ) -> None:
        self.vae, self.dit, self.device = vae, dit, device
        self.way = EVERYTHING_STAYS
        self._asked_bound = vae.conv_bytes, vae.bound_always
        self._stage: str | None = None
        self._memory: weakref.ref | None = None
        self._residency = None
        if ways:
            self._lasting = lasting(ways[0])
            assert all(lasting(way) == self._lasting for way in ways), "what cannot be undone differs from clip to clip"
            if device.type == "cuda" and device.index is not None:  # the hooks' streams are those of the current device
                torch.cuda.set_device(device)
            most = max(ways, key=lambda way: ("none", "models", "blocks").index(way.offload))
            if not any(by_fours(way) for way in ways):
                release_filters(vae)
            self._residency = install(most, vae, dit, device)
            self.follow(ways[0])

    @property
    def waiting_room(self) -> torch.device:
        """Where the pixels of a slice wait, before the VAE and after it."""
        return self.device if self.way.tile is None else torch.device("cpu")

    def follow(self, way: MemoryPlan) -> None:
        """Run by this plan from the next clip on."""
        if self._residency is None:
            if way.offload != "none" or way.storage_8_bit:
                raise ValueError("these networks were placed without a plan: build them with it")
        else:
            assert lasting(way) == self._lasting, "what cannot be undone differs from the plans given at first"
            assert way.offload == "none" or self._residency.one_at_a_time, "no plan that moves networks was announced"
        self.way, self._stage = way, None
        set_bounds(way, self.vae, self.dit)
        if way.conv_max_mem is None:  # what the YAML asks for then
            self.vae.conv_bytes, self.vae.bound_always = self._asked_bound

    def new_memory(self) -> TemporalMemory | TileMemories:
        """For one clip through one half of the VAE."""
        return self.vae.new_memory() if self.way.tile is None else TileMemories(self.vae)

    def begin(self, stage: str, memory: TemporalMemory | TileMemories | None = None) -> None:
        """A stage goes on or begins: `ENCODE`, `SAMPLE` or `DECODE`, with the memory of the clip in it."""
        if stage == self._stage and (self._memory is None or self._memory() is memory):
            return
        before = None if self._memory is None else self._memory()
        if self.way.park and before is not memory:
            if before is not None:
                before.park()
            if memory is not None:
                memory.resume(self.device)
        # Weakly: the frames of a clip that is through must not be held.
        self._memory = None if memory is None else weakref.ref(memory)
        self._stage = stage
        if self._residency is None:
            return
        name, other = ("dit", "vae") if stage == SAMPLE else ("vae", "dit")
        stays = self.way.offload == "none" or (self.way.prefetch and stage == ENCODE)
        here = self._residency.models
        self._residency.switch(name if name in here else None, [other] if stays and other in here else [])

    def encode(self, x: Tensor, memory: TemporalMemory | TileMemories) -> Tensor:
        """The next frames [1, 3, T, H, W] of a clip, anywhere -> their moments on the device."""
        self.begin(ENCODE, memory)
        if isinstance(memory, TileMemories):
            return encode_tiled(self.vae, x, self.way.tile, TILE_OVERLAP, memories=memory).to(self.device)
        return self.vae.encode_slice(x.to(self.device, self._vae_dtype), memory)

    def decode(self, z: Tensor, memory: TemporalMemory | TileMemories) -> Tensor:
        """The next latents [1, c, t, h, w] of a clip -> their frames [1, 3, T, H, W]; on the host where tiled."""
        self.begin(DECODE, memory)
        if isinstance(memory, TileMemories):
            return decode_tiled(self.vae, z, self.way.tile, TILE_OVERLAP, memories=memory)
        return self.vae.decode_slice(z.to(self.device, self._vae_dtype), memory)

    @property
    def _vae_dtype(self) -> torch.dtype:
        return next(self.vae.parameters()).dtype


def lasting(way: MemoryPlan) -> tuple[bool, bool]:
    """What of a plan cannot be undone: blocks that travel, weights in 8 bits."""
    return way.offload == "blocks", way.storage_8_bit
