"""Executes a memory plan: at the start of each stage, networks and carried frames are moved where the plan says."""

import weakref
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor, nn

from common.kernels.replay import ReplayedCalls
from common.residency import Residency
from models.nadit.mlp import set_token_chunk
from models.nadit.model import NaDiT
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from models.video_vae_v3.modules.rows import RowExchange
from models.video_vae_v3.modules.schedule import Schedule, direct_schedule
from models.video_vae_v3.modules.temporal_memory import ClipMemory
from models.video_vae_v3.modules.tiling import TileMemories, decode_tiled, encode_tiled
from projects.video_diffusion_sr.memory.plan import OFFLOADS, TILE_OVERLAP, MemoryPlan
from projects.video_diffusion_sr.memory.stage_times import StageTimes

ENCODE, SAMPLE, DECODE = "encode", "sample", "decode"


class Stages:
    """Where the networks of a run are. Nothing moves before it must: a stage that goes on where it was costs nothing.

    Args:
        vae, dit: in evaluation mode, on the device or, when plans move them, anywhere.
        device: where they compute.
        plans: of all clips to come. Empty: both networks are on the device and are left alone. What cannot be undone
            (travelling blocks, 8-bit storage) must be the same in all.

    Attributes:
        times: what the stages of the current clip took, an object of its own for every clip.
    """

    def __init__(
        self, vae: VideoAutoencoderKL, dit: NaDiT, device: torch.device, plans: Sequence[MemoryPlan] = ()
    ) -> None:
        self.vae, self.dit, self.device = vae, dit, device
        self.plan = MemoryPlan(direct_schedule(vae.split_size, len(vae.levels)))  # until `apply_plan`
        self.times = StageTimes(device)
        self._stage: str | None = None
        self._memory: weakref.ref[ClipMemory | TileMemories] | None = None
        self._residency: Residency | None = None
        self._replays = ReplayedCalls(device)
        if plans:
            self._irreversible = irreversible_parts(plans[0])
            assert all(irreversible_parts(plan) == self._irreversible for plan in plans), (
                "what cannot be undone differs between clips"
            )
            if device.type == "cuda" and device.index is not None:  # the hooks' streams are those of the current device
                torch.cuda.set_device(device)
            most = max(plans, key=lambda plan: OFFLOADS.index(plan.offload))
            self._residency = install(most, vae, dit, device)
            self.apply_plan(plans[0])

    @property
    def schedule(self) -> Schedule:
        """How the current clip goes through the VAE."""
        return self.plan.schedule

    @property
    def buffer_device(self) -> torch.device:
        """Where the pixels of a slice wait, before the VAE and after it."""
        return self.device if self.schedule.tile is None else torch.device("cpu")

    def apply_plan(self, plan: MemoryPlan) -> None:
        """Run by this plan from the next clip on."""
        if self._residency is None:
            if plan.offload != "none" or plan.storage_8_bit:
                raise ValueError("these networks were placed without a plan: build them with it")
        else:
            assert irreversible_parts(plan) == self._irreversible, (
                "what cannot be undone differs from the plans given at first"
            )
            assert plan.offload == "none" or self._residency.one_at_a_time, "no plan that moves networks was announced"
        if not plan.replay:
            self._replays.clear()
        self.plan, self._stage, self.times = plan, None, StageTimes(self.device)
        set_token_chunk(self.dit, plan.token_chunk)

    def new_memory(self, rows: RowExchange | None = None) -> ClipMemory | TileMemories:
        """For one clip through one half of the VAE.

        Args:
            rows: which rows of the clip's pictures are here; None: all. Tiles are of whole pictures.
        """
        if self.schedule.tile is None:
            return self.vae.new_memory(self.schedule, rows)
        return TileMemories(self.vae, self.schedule)

    def begin(self, stage: str, memory: ClipMemory | TileMemories | None = None) -> None:
        """A stage goes on or begins: `ENCODE`, `SAMPLE` or `DECODE`, with the memory of the clip in it."""
        if stage == self._stage and (self._memory is None or self._memory() is memory):
            return
        before = None if self._memory is None else self._memory()
        if self.plan.offload_carried and before is not None and before is not memory:
            before.offload()
        # Weakly: the frames of a clip that is through must not be held.
        self._memory = None if memory is None else weakref.ref(memory)
        self._stage = stage
        if self._residency is None:
            return
        name, other = ("dit", "vae") if stage == SAMPLE else ("vae", "dit")
        stays = self.plan.offload == "none" or (self.plan.prefetch and stage == ENCODE)
        here = self._residency.models
        self._residency.switch(name if name in here else None, [other] if stays and other in here else [])

    @property
    def _tile(self) -> int:
        assert self.schedule.tile is not None, "only a schedule with tiles has their memories"
        return self.schedule.tile

    def encode(self, x: Tensor, memory: ClipMemory | TileMemories) -> Tensor:
        """The next frames [1, 3, T, H, W] of a clip, anywhere -> their moments on the device."""
        self.begin(ENCODE, memory)
        with self.times.measured(ENCODE):
            if isinstance(memory, TileMemories):
                return encode_tiled(self.vae, x, self._tile, TILE_OVERLAP, memories=memory).to(self.device)
            return self._run(self.vae.encode_slice, x.to(self.device, self.vae_dtype), memory)

    def decode(self, z: Tensor, memory: ClipMemory | TileMemories) -> Tensor:
        """The next latents [1, c, t, h, w] of a clip -> their frames [1, 3, T, H, W]; on the host where tiled."""
        self.begin(DECODE, memory)
        with self.times.measured(DECODE):
            if isinstance(memory, TileMemories):
                return decode_tiled(self.vae, z, self._tile, TILE_OVERLAP, memories=memory)
            return self._run(self.vae.decode_slice, z.to(self.device, self.vae_dtype), memory)

    def _run(self, half: Callable[[Tensor, ClipMemory], Tensor], x: Tensor, memory: ClipMemory) -> Tensor:
        """Half of the VAE on a slice."""
        if not self.plan.replay:
            return half(x, memory)
        schedule = self.schedule  # nothing is carried from a picture, so a memory of its own is as good
        key, decoder = (half.__name__, schedule), half == self.vae.decode_slice
        return self.repeated(key, lambda x: half(x, self.vae.new_memory(schedule)), x, decoder=decoder)

    def repeated(
        self, key: Hashable, function: Callable[..., Tensor], *inputs: Tensor, decoder: bool = False
    ) -> Tensor:
        """`function(*inputs)`; where the plan replays, the same kernels all at once from the third call of a key on.

        Args:
            key: see `ReplayedCalls`.
        """
        if not self.plan.replay:
            return function(*inputs)
        # The decoder's tensors are the largest, so it is captured one picture before the others.
        return self._replays(key, function, *inputs, plain=1 if decoder else 2)

    @property
    def held_bytes(self) -> int:
        """Of the device, in use besides what PyTorch counts as allocated."""
        return self._replays.nbytes

    @property
    def vae_dtype(self) -> torch.dtype:
        """In which the VAE computes."""
        return next(self.vae.parameters()).dtype


def irreversible_parts(plan: MemoryPlan) -> tuple[bool, bool]:
    """What of a plan cannot be undone once it is installed: (block offloading, 8-bit weights)."""
    return plan.offload == "blocks", plan.storage_8_bit


@torch.inference_mode(False)  # weights that were moved inside of it could not be used outside
def install(plan: MemoryPlan, vae: VideoAutoencoderKL, dit: NaDiT, device: torch.device) -> Residency:
    """Put the networks' weights where the plan has them.

    Returns:
        What moves "vae" and "dit". With `offload="blocks"` the transformer moves by itself, through diffusers' hooks.
    """
    if plan.storage_8_bit:
        store_in_8_bits(dit)
    if plan.offload == "blocks":
        offload_blocks(dit, device)
        return Residency({"vae": vae}, device, one_at_a_time=True)
    return Residency({"vae": vae, "dit": dit}, device, one_at_a_time=plan.offload == "models")


def store_in_8_bits(dit: NaDiT) -> None:
    """Keep the weights of linear layers as 8-bit floats and cast each layer when it computes (diffusers' casting).

    The last block stays as it is: in 8 bits it leaves a pattern in the 7B's pictures.
    """
    from diffusers.hooks import apply_layerwise_casting

    weight = next(dit.parameters())
    keep = ("norm", "ada", "rope", "emb_in", "txt_in", "vid_in", "vid_out", rf"blocks\.{len(dit.blocks) - 1}\.")
    apply_layerwise_casting(dit, torch.float8_e4m3fn, weight.dtype, skip_modules_pattern=keep)


def offload_blocks(dit: nn.Module, device: torch.device) -> None:
    """Blocks come to the device one by one, the next one while the last computes (diffusers' group offloading)."""
    from diffusers.hooks import apply_group_offloading

    cuda = device.type == "cuda"
    dit.to("cpu")
    apply_group_offloading(
        dit, device, torch.device("cpu"), "block_level", num_blocks_per_group=1, use_stream=cuda, non_blocking=cuda
    )
