"""Executes a memory plan: at the start of each stage, moves networks and carried frames to the devices of the plan."""

import weakref
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor, nn

from common.kernels.current_device import enter_stream, stream_of
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
    """Runs the stages of clips and moves the networks between devices, only when a stage needs it.

    Args:
        vae, dit: the networks in evaluation mode, on the device, or anywhere if plans move them.
        device: the device on which they compute.
        plans: the plans of all clips. Empty: both networks are on the device and are not moved. Block offloading and
            8-bit storage cannot be undone, so all plans must agree on them.

    Attributes:
        times: the times of the current clip's stages; every clip gets a new object.
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
            enter_stream(stream_of(device))  # offloading hooks use the current device
            most = max(plans, key=lambda plan: OFFLOADS.index(plan.offload))
            self._residency = install(most, vae, dit, device)
            self.apply_plan(plans[0])

    @property
    def schedule(self) -> Schedule:
        """The schedule of the current clip in the VAE."""
        return self.plan.schedule

    @property
    def buffer_device(self) -> torch.device:
        """The device that holds the pixels of a slice before and after the VAE."""
        return self.device if self.schedule.tile is None else torch.device("cpu")

    def apply_plan(self, plan: MemoryPlan) -> None:
        """Use this plan from the next clip on."""
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
        """Make the memory of one clip in the VAE's encoder or decoder.

        Args:
            rows: the rows of pictures on this rank; None: all. Tiles are taken from whole pictures.
        """
        if self.schedule.tile is None:
            return self.vae.new_memory(self.schedule, rows)
        return TileMemories(self.vae, self.schedule)

    def begin(self, stage: str, memory: ClipMemory | TileMemories | None = None) -> None:
        """Begin or continue a stage, `ENCODE`, `SAMPLE` or `DECODE`, with the clip's memory for this stage."""
        if stage == self._stage and (self._memory is None or self._memory() is memory):
            return
        before = None if self._memory is None else self._memory()
        if self.plan.offload_carried and before is not None and before is not memory:
            before.offload()
        # Weak references, so that the frames of a finished clip are freed.
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
        """Encode the next frames [1, 3, T, H, W] of a clip, on any device, to posterior parameters on the device."""
        self.begin(ENCODE, memory)
        with self.times.measured(ENCODE):
            if isinstance(memory, TileMemories):
                return encode_tiled(self.vae, x, self._tile, TILE_OVERLAP, memories=memory).to(self.device)
            return self._run(self.vae.encode_slice, x.to(self.device, self.vae_dtype), memory)

    def decode(self, z: Tensor, memory: ClipMemory | TileMemories) -> Tensor:
        """Decode the next latents [1, c, t, h, w] of a clip to frames [1, 3, T, H, W]; with tiles, on the host."""
        self.begin(DECODE, memory)
        with self.times.measured(DECODE):
            if isinstance(memory, TileMemories):
                return decode_tiled(self.vae, z, self._tile, TILE_OVERLAP, memories=memory)
            return self._run(self.vae.decode_slice, z.to(self.device, self.vae_dtype), memory)

    def _run(self, half: Callable[[Tensor, ClipMemory], Tensor], x: Tensor, memory: ClipMemory) -> Tensor:
        """Run the encoder or the decoder on a slice."""
        if not self.plan.replay:
            return half(x, memory)
        schedule = self.schedule  # a picture carries nothing, so a new memory gives the same
        key, decoder = (half.__name__, schedule), half == self.vae.decode_slice
        return self.repeated(key, lambda x: half(x, self.vae.new_memory(schedule)), x, decoder=decoder)

    def repeated(
        self, key: Hashable, function: Callable[..., Tensor], *inputs: Tensor, decoder: bool = False
    ) -> Tensor:
        """Call `function(*inputs)`. If the plan replays graphs, the third and later calls with a key replay one.

        Args:
            key: see `ReplayedCalls`.
        """
        if not self.plan.replay:
            return function(*inputs)
        # The decoder's tensors are the largest, so it is captured one picture before the others.
        return self._replays(key, function, *inputs, plain=1 if decoder else 2)

    @property
    def held_bytes(self) -> int:
        """Bytes of the device in use that PyTorch does not count as allocated."""
        return self._replays.nbytes

    @property
    def vae_dtype(self) -> torch.dtype:
        """The dtype in which the VAE computes."""
        return next(self.vae.parameters()).dtype


def irreversible_parts(plan: MemoryPlan) -> tuple[bool, bool]:
    """The parts of a plan that cannot be undone once it is installed: (block offloading, 8-bit weights)."""
    return plan.offload == "blocks", plan.storage_8_bit


@torch.inference_mode(False)  # weights moved in inference mode could not be used outside
def install(plan: MemoryPlan, vae: VideoAutoencoderKL, dit: NaDiT, device: torch.device) -> Residency:
    """Move the networks' weights to the devices of the plan.

    Returns:
        the object that moves "vae" and "dit" later. With `offload="blocks"`, diffusers' hooks move the transformer.
    """
    if plan.storage_8_bit:
        store_in_8_bits(dit)
    if plan.offload == "blocks":
        offload_blocks(dit, device)
        return Residency({"vae": vae}, device, one_at_a_time=True)
    return Residency({"vae": vae, "dit": dit}, device, one_at_a_time=plan.offload == "models")


def store_in_8_bits(dit: NaDiT) -> None:
    """Store the weights of linear layers as 8-bit floats, and cast each layer when it computes (diffusers' casting).

    The last block keeps its dtype, because with 8 bits it leaves a pattern in the pictures of the 7B.
    """
    from diffusers.hooks import apply_layerwise_casting

    weight = next(dit.parameters())
    keep = ("norm", "ada", "rope", "emb_in", "txt_in", "vid_in", "vid_out", rf"blocks\.{len(dit.blocks) - 1}\.")
    apply_layerwise_casting(dit, torch.float8_e4m3fn, weight.dtype, skip_modules_pattern=keep)


def offload_blocks(dit: nn.Module, device: torch.device) -> None:
    """Copy blocks to the device one by one, each while the one before computes (diffusers' group offloading)."""
    from diffusers.hooks import apply_group_offloading

    cuda = device.type == "cuda"
    dit.to("cpu")
    apply_group_offloading(
        dit, device, torch.device("cpu"), "block_level", num_blocks_per_group=1, use_stream=cuda, non_blocking=cuda
    )
