"""Loads weights: turns the settings of a run into networks that are ready to run."""

from collections.abc import Sequence
from functools import partial
from math import prod
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from common.checkpoint import load_into, reset_buffers
from common.distributed.parallel import Parallel
from common.distributed.sharded_inference import load_sharded
from common.logger import get_logger
from common.weights.read import read_weights
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from models.video_vae_v3.modules.fold import prepare_inference
from models.video_vae_v3.modules.schedule import F43
from projects.video_diffusion_sr.bare_network import network_of, network_without_weights
from projects.video_diffusion_sr.infer import Prompts, VideoDiffusionInfer
from projects.video_diffusion_sr.memory.plan import MemoryPlan, unplanned
from projects.video_diffusion_sr.memory.stages import Stages
from projects.video_diffusion_sr.presets import Preset
from projects.video_diffusion_sr.prompts import POSITIVE, load_prompts, read_prompt_pair
from projects.video_diffusion_sr.request import DTYPES, ROOT, Request
from projects.video_diffusion_sr.restorer import Restorer
from projects.video_diffusion_sr.settings import RunSettings, how_to_get, resolve

__all__ = ["DTYPES", "ROOT", "Request", "build", "build_network", "build_vae", "load", "seeded_prompts"]

logger = get_logger(__name__)

SEEDED_TEXT_TOKENS, RELEASED_TEXT_TOKENS = 4, POSITIVE.shape[0]


def build(preset: Preset, request: Request, parallel: Parallel, plans: Sequence[MemoryPlan] = ()) -> Restorer:
    """Resolve the settings of a run (`settings.resolve`), and load the networks (`load`)."""
    return load(resolve(preset, request, parallel.process.device), parallel, plans)


def load(settings: RunSettings, parallel: Parallel, plans: Sequence[MemoryPlan] = (), fold: bool = True) -> Restorer:
    """Load the weights of the networks of `settings`, and make everything else that the files of a run share.

    Args:
        plans: the plans of the files. If one of them offloads networks, weights are loaded to the host, else to the
            device. Empty: every file uses the plan of `memory.plan.unplanned`.
        fold: derive the weights of the VAE's inference path. False: use the reference path, which needs none.
    Raises:
        FileNotFoundError: prompt embeddings are missing; the message says how to get them.
        ValueError: a checkpoint does not fit.
    """
    request, config = settings.request, settings.config
    load_weights(settings, parallel, plans, fold)
    return Restorer(
        infer=VideoDiffusionInfer(
            vae=settings.vae,
            dit=settings.dit,
            prompts=on_device(build_prompts(settings), settings.device, settings.dtype),
            sampling=settings.sampling,
            scaling_factor=config.vae.scaling_factor,
            sequence_group=parallel.sequence_group,
            stages=Stages(settings.vae, settings.dit, settings.device, plans),
        ),
        parallel=parallel,
        geometry=settings.geometry,
        seed=request.seed,
        window=settings.window,
        default_plan=partial(unplanned, settings),
        use_sample=config.vae.use_sample,
        result_options=request.result_options,
        deinterlace=request.deinterlace,
        cuts=request.cuts,
        clip_range=request.clip_range,
        overlap=request.overlap,
    )


def load_weights(settings: RunSettings, parallel: Parallel, plans: Sequence[MemoryPlan], fold: bool) -> None:
    """Load the weights of both networks of `settings` to the device that the plans need; see `load`."""
    request, device = settings.request, settings.device
    if request.random_weights:
        logger.warning(
            "%s runs on SEEDED RANDOM WEIGHTS, as asked. The program does all its steps, but the result is not a "
            "restoration.",
            settings.preset.name,
        )
    dit_path, vae_path = settings.checkpoints
    home = torch.device("cpu") if any(plan.offload != "none" for plan in plans) else device
    load_network(settings.vae, vae_path, device, torch.float32)  # folded on the fast device in float32, then rounded
    if fold:
        prepare_inference(settings.vae, winograd=winograds_of(plans, device))
    settings.vae.to(home, settings.dtype)
    if request.shard_weights:
        load_in_parts(settings, parallel)
    else:
        load_network(settings.dit, dit_path, home, settings.dtype)
    if request.lora is not None:
        from projects.video_diffusion_sr.lora import load_lora

        load_lora(settings.dit, request.lora, request.lora_scale)


def winograds_of(plans: Sequence[MemoryPlan], device: torch.device) -> set[int]:
    """The values of m of the Winograd weights that any plan of a run needs; without plans, those of `unplanned`."""
    if not plans:
        return {F43} if device.type == "cuda" else set()
    return {level.winograd for plan in plans for level in plan.schedule.levels} - {0}


def build_network(config: DictConfig, checkpoint: Path | None, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Build the network that a config's `__object__` names, and load its weights, see `load_network`."""
    network = network_without_weights(config)
    load_network(network, checkpoint, device, dtype)
    return network


def load_network(network: nn.Module, checkpoint: Path | None, device: torch.device, dtype: torch.dtype) -> None:
    """Load the weights of a network that is on the meta device; all names must match.

    Args:
        checkpoint: the file of weights; None: use seeded random weights.
    """
    if checkpoint is None:
        seed_weights(network, device, dtype)
    else:
        load_into(
            network, read_weights(checkpoint, network.state_dict()), dtype=dtype, device=device, source=checkpoint
        )
    network.requires_grad_(False)


@torch.no_grad()
def seed_weights(network: nn.Module, device: torch.device, dtype: torch.dtype, seed: int = 0) -> None:
    """Give a network on the meta device random weights that keep activations near one, the same in every dtype."""
    network.to_empty(device=device).to(dtype)
    reset_buffers(network, device)
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in network.named_parameters():
        parameter.copy_(drawn_weight(name, parameter.shape, generator))


def drawn_weight(name: str, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Random values of one parameter that keep activations near one: float32, on the generator's device."""
    drawn = torch.randn(shape, device=generator.device, generator=generator)
    if len(shape) >= 2:
        return drawn.mul_(prod(shape[1:]) ** -0.5)
    return drawn.mul_(0.1).add_(float(name.endswith("weight") or name.endswith("_scale")))


def load_in_parts(settings: RunSettings, parallel: Parallel) -> None:
    """Load the transformer of `settings` with its weights sharded over the ranks of a group."""
    path = settings.checkpoints[0]
    if path is None:
        state = build_network(settings.config.dit.model, None, settings.device, settings.dtype).state_dict()
    else:
        state = read_weights(path, settings.dit.state_dict())  # memory-mapped, so each rank reads only its part
    blocks = settings.dit.blocks
    load_sharded(settings.dit, blocks, state, parallel.group, dtype=settings.dtype, source=path or "seeded weights")


def build_vae(
    config: DictConfig, checkpoint: Path | None, device: torch.device, dtype: torch.dtype
) -> VideoAutoencoderKL:
    """The VAE for inference outside of a run: folded in float32, then cast to `dtype`; it uses the YAML's slices."""
    vae = network_of(VideoAutoencoderKL, config.model)
    load_network(vae, checkpoint, torch.device("cpu"), torch.float32)
    prepare_inference(vae, winograd=winograds_of((), device))
    vae = vae.to(device, dtype)
    vae.set_causal_slicing(config.slicing.split_size, config.slicing.memory_device)
    return vae


def on_device(prompts: Prompts, device: torch.device, dtype: torch.dtype) -> Prompts:
    """Prompts on the transformer's device in its dtype, so that windows need no copy of them."""
    return Prompts(*(text.to(device, dtype) for text in (prompts.positive, prompts.negative)))


def build_prompts(settings: RunSettings) -> Prompts:
    """The two text embeddings: from the released files or the tiny model's file; random ones with random weights.

    Raises:
        FileNotFoundError, ValueError: a file is missing, damaged, or made for another width.
    """
    preset, width, folder = settings.preset, settings.dit.config.txt_in_dim, settings.request.ckpt_dir
    if settings.request.random_weights:
        return Prompts(*seeded_prompts(width, SEEDED_TEXT_TOKENS if preset.download is None else RELEASED_TEXT_TOKENS))
    if preset.download is not None:
        return Prompts(*load_prompts(folder))
    path = folder / "tiny" / "prompts.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: {how_to_get(preset)}")
    return Prompts(*read_prompt_pair(path, width))


def seeded_prompts(width: int, tokens: int = SEEDED_TEXT_TOKENS) -> tuple[Tensor, Tensor]:
    """Two fixed random embeddings [tokens, width]; the tiny model is trained with them instead of text."""
    generator = torch.Generator().manual_seed(0)
    both = torch.randn(2, tokens, width, generator=generator)
    return both[0], both[1]
