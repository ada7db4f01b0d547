"""The settings of a run, resolved from its preset, its YAML and its request, for the memory plan and for `build`."""

from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig

from common.typed_values import positive, switch, whole_number
from data.video.framing import latents_within
from models.nadit.model import NaDiT
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from projects.video_diffusion_sr.bare_network import network_of
from projects.video_diffusion_sr.geometry import Geometry
from projects.video_diffusion_sr.idle_keys import refuse_idle_memory_keys, refuse_idle_sampling_keys
from projects.video_diffusion_sr.presets import Preset
from projects.video_diffusion_sr.request import DTYPES, Request
from projects.video_diffusion_sr.sampling import Sampling, read_sampling
from projects.video_diffusion_sr.temporal_windows import check_window
from projects.video_diffusion_sr.user_config import read_user_config
from projects.video_diffusion_sr.weight_files import find_weights, with_named_weights


@dataclass(frozen=True)
class RunSettings:
    """All settings of a run that do not depend on a file.

    preset, request: the preset and the user's request.
    config: the YAML with the request's overrides.
    device, dtype: device and dtype of both networks.
    vae, dit: the networks, on the meta device until `build.load` loads their weights; built once per run.
    checkpoints: weight files of the transformer and of the VAE; both None: seeded random weights.
    geometry: computes the sizes of results from those of files.
    sampling: steps, guidance and condition noise.
    window: number of latent frames that the transformer takes at once; None: all.
    slice_frames: number of frames that the VAE takes at once, after the first frame, unless a plan overrides it.
    fixed_slices: whether the user set `slice_frames`, which plans without tiles then keep.
    most_bytes: limit for the input of a direct convolution, for runs without a memory plan; None: no limit.
    """

    preset: Preset
    request: Request
    config: DictConfig
    device: torch.device
    dtype: torch.dtype
    vae: VideoAutoencoderKL
    dit: NaDiT
    checkpoints: tuple[Path | None, Path | None]
    geometry: Geometry
    sampling: Sampling
    window: int | None
    slice_frames: int | None
    fixed_slices: bool
    most_bytes: int | None

    @property
    def texts(self) -> int:
        """The number of text embeddings per step: two with guidance, else one."""
        return 1 if self.sampling.guidance.scale == 1.0 else 2


def resolve(preset: Preset, request: Request, device: torch.device) -> RunSettings:
    """Resolve the settings of a run. No weights are read.

    Raises:
        FileNotFoundError: weights are missing; the message says how to get them.
        ValueError: settings are invalid or contradict each other.
    """
    refuse_contradictions(request)
    user = read_user_config(preset, request)
    named, config = with_named_weights(preset, user.config, request.checkpoint, request.vae_checkpoint)
    vae, dit = network_of(VideoAutoencoderKL, config.vae.model), network_of(NaDiT, config.dit.model)
    check_vae(config.vae)
    refuse_networks_apart(vae, dit)
    refuse_idle_memory_keys(config.vae, user.changed, device)
    vae.set_causal_slicing(config.vae.slicing.split_size, config.vae.slicing.memory_device)
    limit = memory_limit(config.vae)
    sampling = read_sampling(config.diffusion, preset, request, user.changed)
    refuse_idle_sampling_keys(sampling, user.changed, preset)
    return RunSettings(
        preset=preset,
        request=request,
        config=config,
        device=device,
        dtype=choose_dtype(request.dtype, device, config.vae.dtype, "vae.dtype" in user.changed),
        vae=vae,
        dit=dit,
        checkpoints=checkpoints_for(named, request, config),
        geometry=Geometry(request.res, vae.spatial_factor * dit.config.patch_size[-1], request.fit, request.size),
        sampling=sampling,
        window=latent_window(preset, request, vae.temporal_factor),
        slice_frames=config.vae.slicing.split_size,
        fixed_slices="vae.slicing.split_size" in user.changed,
        most_bytes=None if limit is None else int(limit * 2**30),
    )


def refuse_contradictions(request: Request) -> None:
    """Raise ValueError or FileNotFoundError for options that contradict each other or cannot be used."""
    if request.lora is not None and not request.lora.is_file():
        raise FileNotFoundError(f"--lora {request.lora}: there is no such file")
    if request.lora is not None and request.lora.suffix != ".safetensors":
        raise ValueError(f"--lora {request.lora}: a LoRA is a .safetensors file")
    if request.lora is not None and request.shard_weights:
        raise ValueError("--lora is merged into whole weights: leave --shard_weights out, or use a merged checkpoint")
    if request.random_weights and (request.checkpoint or request.vae_checkpoint):
        raise ValueError("--random_weights takes the place of --checkpoint and --vae_checkpoint: leave one of them out")
    if request.weights_8_bit and request.shard_weights:
        raise ValueError("--weights_8_bit and --shard_weights exclude each other: leave one of them out")


def refuse_networks_apart(vae: VideoAutoencoderKL, dit: NaDiT) -> None:
    """Raise ValueError, with the key, if the channels of the two networks do not fit together."""
    latents = vae.latent_channels
    ours = f"vae.model.latent_channels={latents}"
    for key, given, fitting, what in (
        ("vae.model.in_channels", vae.encoder.conv_in.in_channels, 3, "frames, which are RGB"),
        ("vae.model.out_channels", vae.decoder.conv_out.out_channels, 3, "frames, which are RGB"),
        ("dit.model.vid_in_channels", dit.config.vid_in_channels, 2 * latents + 1, f"{ours} twice and the mask"),
        ("dit.model.vid_out_channels", dit.config.vid_out_channels, latents, ours),
    ):
        if given != fitting:
            raise ValueError(f"config key {key}: {given} channels do not fit {what}; it must be {fitting}")


def check_vae(config: DictConfig) -> None:
    """Raise ValueError, with the key, if a value in the section `vae` has a wrong type or size."""
    positive(config.scaling_factor, "vae.scaling_factor")
    switch(config.use_sample, "vae.use_sample")
    if not isinstance(config.checkpoint, str):
        raise ValueError(f"config key vae.checkpoint must be a path, not {config.checkpoint!r}")
    if config.slicing.split_size is not None:
        whole_number(config.slicing.split_size, "vae.slicing.split_size")
    for name, gib in config.memory_limit.items():
        if gib is not None:
            positive(gib, f"vae.memory_limit.{name}")


def memory_limit(config: DictConfig) -> float | None:
    """The limit in GiB for the input of a convolution, from the section `vae`; None: no limit.

    A norm writes into the input of the next convolution, so the smaller of both limits applies.
    """
    limits = config.memory_limit
    return min((gib for gib in (limits.conv_max_mem, limits.norm_max_mem) if gib is not None), default=None)


def choose_dtype(name: str | None, device: torch.device, configured: str, asked: bool = False) -> torch.dtype:
    """The requested dtype; otherwise the config's on CUDA, and float32 on a CPU, where half precision is slower.

    Args:
        asked: whether the user set `configured` in the config; it then applies to a CPU as well.
    """
    if name is None:
        name = "float32" if device.type == "cpu" and not asked else configured
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r} is unknown; choose from {', '.join(DTYPES)}")
    return DTYPES[name]


def checkpoints_for(preset: Preset, request: Request, config: DictConfig) -> tuple[Path | None, Path | None]:
    """The result of `checkpoint_paths`; None for both if the request asks for random weights."""
    return (None, None) if request.random_weights else checkpoint_paths(preset, request.ckpt_dir, config)


def checkpoint_paths(preset: Preset, ckpt_dir: Path, config: DictConfig) -> tuple[Path, Path]:
    """The paths of the transformer's and the VAE's weights.

    Raises:
        FileNotFoundError: a file is missing; the message names it and says how to get it.
    """
    vae = Path(config.vae.checkpoint)
    if vae.parts[:1] == ("ckpts",):  # the released YAML's folder, which --ckpt_dir replaces
        vae = ckpt_dir / Path(*vae.parts[1:])
    paths = find_weights(ckpt_dir / preset.checkpoint), find_weights(vae)
    missing = [path for path in paths if not path.is_file()]
    if not missing:
        return paths
    raise FileNotFoundError(f"{' and '.join(map(str, missing))} not found: {how_to_get(preset)}")


def how_to_get(preset: Preset) -> str:
    """Advice for missing weights."""
    if preset.download is None:
        return "they are part of the repository, in ckpts/; point --ckpt_dir there, or ask for --random_weights"
    return (
        f"run `python projects/download.py {preset.download}`, or point --ckpt_dir at the folder that has the weights"
    )


def latent_window(preset: Preset, request: Request, temporal_factor: int) -> int | None:
    """The window for long clips, in latent frames; None: whole clips."""
    frames = preset.window_frames if request.window_frames is None else request.window_frames
    window = latents_within(frames, temporal_factor) if frames else None
    check_window(window)
    return window
