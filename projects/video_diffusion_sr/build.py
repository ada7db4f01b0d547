"""The only place that loads weights: from a preset and a request to networks that are ready to run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from common.checkpoint import load_into
from common.config import create_object, load_config
from common.diffusion import Guidance, read_diffusion_settings
from common.distributed.parallel import Parallel
from common.distributed.sharded_inference import load_sharded
from common.logger import get_logger
from common.weights.read import read_weights
from models.video_vae_v3.modules.fold import prepare_inference
from projects.video_diffusion_sr.geometry import Geometry
from projects.video_diffusion_sr.infer import Prompts, Sampling, VideoDiffusionInfer
from projects.video_diffusion_sr.long_clips import check_window
from projects.video_diffusion_sr.memory_plan import MemoryPlan
from projects.video_diffusion_sr.memory_stages import Stages
from projects.video_diffusion_sr.output_size import OutputSize
from projects.video_diffusion_sr.presets import Preset
from projects.video_diffusion_sr.prompts import load_prompts
from projects.video_diffusion_sr.restore import Finish, Restorer
from projects.video_diffusion_sr.weight_files import find_weights, with_named_weights

logger = get_logger(__name__)

ROOT = Path(__file__).resolve().parents[2]
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
SEEDED_TEXT_TOKENS = 4


@dataclass(frozen=True)
class Request:
    """What the user asked for, for all files of a run. None: what the preset or its YAML says.

    res: output (height, width), an area; the aspect ratio stays the file's. size: another way of asking, see
    `OutputSize`. fit: see `Geometry`.
    dtype: of both networks. window_frames: 0 for whole clips whatever their length.
    shard_weights: the transformer's weights are spread over the ranks that share a clip.
    vram: GiB of GPU memory to stay within. weights_8_bit: the transformer's weights are kept as 8-bit floats.
    ckpt_dir: where weights and prompt embeddings lie; checkpoint, vae_checkpoint: files of weights that lie elsewhere.
    overrides: `key=value` for the YAML.
    """

    res: tuple[int, int]
    seed: int = 666
    device: str = "auto"
    dtype: str | None = None
    fit: str = "pad"
    steps: int | None = None
    cfg_scale: float | None = None
    window_frames: int | None = None
    ckpt_dir: Path = ROOT / "ckpts"
    checkpoint: Path | None = None
    vae_checkpoint: Path | None = None
    size: OutputSize | None = None
    config: str | None = None
    overrides: tuple[str, ...] = ()
    lora: Path | None = None
    lora_scale: float = 1.0
    shard_weights: bool = False
    vram: float | None = None
    weights_8_bit: bool = False
    deinterlace: str = "auto"
    finish: Finish = field(default_factory=Finish)


def choose_dtype(name: str | None, device: torch.device, configured: str) -> torch.dtype:
    """The asked dtype; else the config's on CUDA, and float32 on a CPU, where half precision is slower."""
    if name is None:
        name = "float32" if device.type == "cpu" else configured
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r} is unknown; choose from {', '.join(DTYPES)}")
    return DTYPES[name]


def build(preset: Preset, request: Request, parallel: Parallel, ways: Sequence[MemoryPlan] = ()) -> Restorer:
    """Networks with their weights on the device, and everything else that the files of a run share.

    Args:
        ways: the plans of the files to come; where one of them moves networks, weights wait on the host.
    Raises:
        FileNotFoundError: weights or embeddings are missing; says how to get them.
        ValueError: a setting or a checkpoint does not fit.
    """
    if request.lora is not None and not request.lora.is_file():
        raise FileNotFoundError(f"--lora {request.lora}: there is no such file")
    if request.lora is not None and request.shard_weights:
        raise ValueError("--lora is merged into whole weights: leave --shard_weights out, or use a merged checkpoint")
    if request.weights_8_bit and request.shard_weights:
        raise ValueError("--weights_8_bit and --shard_weights exclude each other: leave one of them out")
    config = load_config(request.config or ROOT / preset.config, request.overrides)
    preset, config = with_named_weights(preset, config, request.checkpoint, request.vae_checkpoint)
    device = parallel.process.device
    dtype = choose_dtype(request.dtype, device, config.vae.dtype)
    dit_path, vae_path = checkpoint_paths(preset, request.ckpt_dir, config)
    home = torch.device("cpu") if any(way.offload != "none" for way in ways) else device
    vae = build_vae(config.vae, vae_path, home, dtype)
    if parallel.size > 1:  # a slice that is cut again inside the VAE would make ranks wait for each other
        vae.set_memory_limit(None)
    build_dit = partial(build_sharded, parallel=parallel) if request.shard_weights else build_network
    dit = build_dit(config.dit.model, dit_path, home, dtype)
    if request.lora is not None:
        from projects.video_diffusion_sr.lora import load_lora

        load_lora(dit, request.lora, request.lora_scale)
    return Restorer(
        infer=VideoDiffusionInfer(
            vae=vae,
            dit=dit,
            prompts=build_prompts(preset, request.ckpt_dir, dit.config.txt_in_dim),
            sampling=read_sampling(config.diffusion, preset, request),
            scaling_factor=config.vae.scaling_factor,
            team=parallel.team,
            stages=Stages(vae, dit, device, ways),
        ),
        parallel=parallel,
        geometry=make_geometry(request, vae, dit),
        seed=request.seed,
        split_size=vae.split_size,
        window=latent_window(preset, request, vae.temporal_factor),
        use_sample=config.vae.use_sample,
        finish=request.finish,
        deinterlace=request.deinterlace,
    )


def make_geometry(request: Request, vae: nn.Module, dit: nn.Module) -> Geometry:
    """From files' sizes to results' sizes, for these networks."""
    return Geometry(request.res, vae.spatial_factor * dit.config.patch_size[-1], request.fit, request.size)


def checkpoint_paths(preset: Preset, ckpt_dir: Path, config: Mapping[str, Any]) -> tuple[Path | None, Path | None]:
    """Where the transformer's and the VAE's weights lie; None for both where seeded weights stand in for them."""
    vae = Path(config.vae.checkpoint)
    if vae.parts[:1] == ("ckpts",):  # as the YAML names it; --ckpt_dir moves the whole folder
        vae = ckpt_dir / Path(*vae.parts[1:])
    paths = find_weights(ckpt_dir / preset.checkpoint), find_weights(vae)
    missing = [path for path in paths if not path.is_file()]
    if not missing:
        return paths
    if preset.download is None:
        logger.warning(
            "%s has no trained weights here: it runs on SEEDED RANDOM WEIGHTS. The program does all its steps, but the "
            "result is not a restoration.",
            preset.name,
        )
        return None, None
    raise FileNotFoundError(
        f"{' and '.join(map(str, missing))} not found: run `python projects/download.py {preset.download}`, "
        f"or point --ckpt_dir at the folder that has the weights"
    )


def build_network(
    config: Mapping[str, Any], checkpoint: Path | None, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """The network that a config's `__object__` names, in evaluation mode.

    Args:
        checkpoint: strictly loaded onto a network without memory of its own; None: seeded random weights.
    """
    if checkpoint is None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = create_object(config).to(device, dtype)
    else:
        with torch.device("meta"):
            network = create_object(config)
        load_into(
            network, read_weights(checkpoint, network.state_dict()), dtype=dtype, device=device, source=checkpoint
        )
    return network.eval().requires_grad_(False)


def build_sharded(
    config: Mapping[str, Any], checkpoint: Path | None, device: torch.device, dtype: torch.dtype, parallel: Parallel
) -> nn.Module:
    """As `build_network`, each rank of a group with its part of the weights; no rank holds all of them."""
    if checkpoint is None:
        state = build_network(config, None, torch.device("cpu"), dtype).state_dict()
    with torch.device("meta"):
        network = create_object(config).eval()
    if checkpoint is not None:
        state = read_weights(checkpoint, network.state_dict())
    load_sharded(network, network.blocks, state, parallel.group, dtype=dtype, source=checkpoint or "seeded weights")
    return network


def build_vae(
    config: Mapping[str, Any], checkpoint: Path | None, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """The VAE for inference: folded in float32 and then rounded; sliced and bounded as the YAML says."""
    vae = build_network(config.model, checkpoint, torch.device("cpu"), torch.float32)
    prepare_inference(vae)
    vae = vae.to(device, dtype)
    vae.set_causal_slicing(config.slicing.split_size, config.slicing.memory_device)
    # Norms write into the input of the convolution that follows, so the tighter of the two bounds holds for both.
    limits = (config.memory_limit.conv_max_mem, config.memory_limit.norm_max_mem)
    # It holds where memory is short: cutting slices that fit would only cost time.
    vae.set_memory_limit(min((limit for limit in limits if limit is not None), default=None), always=False)
    return vae


def latent_window(preset: Preset, request: Request, temporal_factor: int) -> int | None:
    """The window of long clips in latent frames; None for whole clips."""
    frames = preset.window_frames if request.window_frames is None else request.window_frames
    window = 1 + (frames - 1) // temporal_factor if frames else None
    check_window(window)
    return window


def build_prompts(preset: Preset, ckpt_dir: Path, width: int) -> Prompts:
    """The two text embeddings: the released files, or the tiny model's own."""
    if preset.download is not None:
        return Prompts(*load_prompts(ckpt_dir))
    path = ckpt_dir / "tiny" / "prompts.safetensors"
    if path.is_file():
        stored = load_file(path)
        return Prompts(stored["pos"], stored["neg"])
    return Prompts(*seeded_prompts(width))


def seeded_prompts(width: int) -> tuple[Tensor, Tensor]:
    """Fixed random embeddings [4, width]: what the tiny model is trained with instead of sentences."""
    generator = torch.Generator().manual_seed(0)
    both = torch.randn(2, SEEDED_TEXT_TOKENS, width, generator=generator)
    return both[0], both[1]


def read_sampling(config: Mapping[str, Any], preset: Preset, request: Request) -> Sampling:
    """The preset's way of sampling with the request's changes, on the schedule of the YAML."""
    settings = read_diffusion_settings(config)
    scale = preset.cfg_scale if request.cfg_scale is None else request.cfg_scale
    return Sampling(
        steps=preset.steps if request.steps is None else request.steps,
        guidance=Guidance(scale, preset.cfg_rescale, settings.guidance.partial),
        condition_noise=preset.condition_noise,
        channels_read_as_width=preset.channels_read_as_width,
        resolution_shift=settings.transform,
        prediction_type=settings.prediction_type,
        T=settings.schedule.T,
        shift=settings.shift,
    )
