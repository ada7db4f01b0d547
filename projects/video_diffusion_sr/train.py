"""The class that the models' YAML names: the training settings of a model, and the networks built from them.

The settings of a run (steps, learning rates, data, loss weights) are in `configs_train/*.yaml`.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from common.checkpoint import load_into, refuse_mismatch, with_current_names
from common.config import create_object
from common.diffusion import read_diffusion_settings
from common.distributed.process import Process
from common.strict_settings import settings_from
from common.weights.read import read_weights
from common.weights.stored import StoredWeight
from models.nadit.discriminator import Discriminator
from models.nadit.model import NaDiT
from models.nadit.recompute import Recompute
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from projects.video_diffusion_sr.build import DTYPES, build_vae
from projects.video_diffusion_sr.lora import LoraSettings, add_lora, with_base_names
from projects.video_diffusion_sr.training.conditioning import Conditioner, ConditionSettings
from projects.video_diffusion_sr.training.latent_statistics import stated_scale
from projects.video_diffusion_sr.training.latents import LatentEncoder
from projects.video_diffusion_sr.training.run import RunOptions, run_stage

ROOT = Path(__file__).resolve().parents[2]
ADVICE = "`--init_from` must name weights of the model in --config, overrides included"

Weights = str | Path | None
State = Mapping[str, Tensor | StoredWeight]


class VideoDiffusionTrainer:
    """The training settings of one model.

    Args:
        config: a `main.yaml` as `common.config.load_config` reads it, without its `__object__`.

    Attributes:
        diffusion: schedule, training times and loss (`diffusion`).
        condition: probabilities of the tasks, and noise on the condition (`condition`).
        ema_decay: the decay of the averaged weights (`ema.decay`).
        strategy: `dit.fsdp.sharding_strategy`, see `common.distributed.fsdp`.
        compile, compile_vae: compile a network when it is trained (`dit.compile`, `vae.compile`).

    Raises:
        ValueError: a key is unknown or missing in a section that this class reads.
    """

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self.diffusion = read_diffusion_settings(config.diffusion)
        self.condition = settings_from(ConditionSettings, config.condition, "condition.")
        self.ema_decay = float(config.ema.decay)
        self.strategy = str(config.dit.fsdp.sharding_strategy)
        has_kept = "gradient_checkpoint_keeps" in config.dit  # released configs lack this key
        keeps = str(config.dit.gradient_checkpoint_keeps) if has_kept else Recompute().keeps
        self.recompute = Recompute(float(config.dit.gradient_checkpoint), keeps)
        self.compile = bool(config.dit.compile)
        self.compile_vae = bool(config.vae.compile)
        with torch.device("meta"):
            vae = create_object(config.vae.model)
        self.temporal_factor, self.spatial_factor = vae.temporal_factor, vae.spatial_factor

    def train(self, run: Mapping[str, Any], options: RunOptions, process: Process) -> bool:
        """Train one stage until its end or until a stop signal. Returns whether the stage is complete.

        Args:
            run: a training YAML as a plain mapping.
            options: the stage, data, folder and weights of this run.
            process: from `common.distributed.process.process_group`.
        """
        return run_stage(self, run, options, process)

    def build_dit(self, weights: Weights = None, lora: LoraSettings | None = None) -> tuple[NaDiT, State | None]:
        """Build the transformer (float32), and read its weights.

        Args:
            weights: a checkpoint in any layout that inference reads. The network is then on the meta device, and the
                returned state is memory-mapped, for `Stage.weights`. None: random weights from PyTorch's global
                generator, and no state.
            lora: freeze the weights, and train low-rank factors.

        Raises:
            FileNotFoundError, ValueError: the checkpoint does not exist, or does not fit the config.
        """
        with nullcontext() if weights is None else torch.device("meta"):
            dit = create_object(self.config.dit.model)
        state = None if weights is None else fitting_weights(dit, weights)
        dit.set_gradient_checkpointing(self.recompute)
        if lora is not None:
            if state is None:
                raise ValueError("a LoRA adapts trained weights: give --init_from a checkpoint")
            add_lora(dit, lora)
            state = with_base_names(state, dit)
        return dit, state

    def build_discriminator(
        self, weights: Weights = None, taps: Sequence[int] | None = None
    ) -> tuple[Discriminator, State | None]:
        """Build the discriminator, with the backbone from `weights` and new heads; see `build_dit`."""
        backbone, state = self.build_dit(weights)
        discriminator = Discriminator(backbone, taps)
        if state is None:
            return discriminator, None
        heads = {k: v.clone() for k, v in discriminator.state_dict().items() if not k.startswith("backbone.")}
        return discriminator.to("meta"), {f"backbone.{k}": v for k, v in state.items()} | heads

    def build_trained_vae(self) -> VideoAutoencoderKL:
        """Load the trained VAE, frozen, on the CPU, in `vae.dtype` (float32 if there is no CUDA device).

        Raises:
            FileNotFoundError: `vae.checkpoint` exists neither in the working directory nor in the repository.
            ValueError: the file states another `vae.scaling_factor` than the YAML.
        """
        vae = self.config.vae
        path = Path(vae.checkpoint)
        path = path if path.is_file() else ROOT / path
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no trained VAE at {vae.checkpoint}: `python projects/download.py seedvr2_3b` fetches the "
                "released one; for your own, give vae.checkpoint=runs/NAME/export/vae.safetensors behind the stage"
            )
        refuse_other_scale(path, float(vae.scaling_factor))
        dtype = DTYPES[vae.dtype] if torch.cuda.is_available() else torch.float32
        return build_vae(vae, path, torch.device("cpu"), dtype)

    def build_untrained_vae(self, weights: Weights = None) -> VideoAutoencoderKL:
        """Build the VAE to be trained, float32 on the CPU, from a checkpoint or with random weights."""
        if weights is None:
            return create_object(self.config.vae.model)
        with torch.device("meta"):
            vae = create_object(self.config.vae.model)
        state = read_weights(weights, vae.state_dict())
        load_into(vae, state, dtype=torch.float32, device="cpu", source=weights, advice=ADVICE)
        return vae

    def encoder(self, vae: VideoAutoencoderKL | None) -> LatentEncoder:
        """The encoder of batches, with `vae.scaling_factor`, `vae.use_sample` and `vae.grouping`."""
        config = self.config.vae
        return LatentEncoder(vae, float(config.scaling_factor), bool(config.use_sample), bool(config.grouping))

    def conditioner(self, noise_scale: float | None = None) -> Conditioner:
        """The generator of conditions. `noise_scale` replaces the YAML's; None keeps it."""
        settings = self.condition if noise_scale is None else replace(self.condition, noise_scale=noise_scale)
        factors = (self.temporal_factor, self.spatial_factor)
        return Conditioner(settings, self.diffusion.schedule, *factors, self.diffusion.transform)


def fitting_weights(network: nn.Module, path: str | Path) -> State:
    """Read a file in any layout of docs/checkpoints.md, and return its weights under the network's names.

    Raises:
        FileNotFoundError, ValueError: the checkpoint does not exist, or does not fit the network.
    """
    state = with_current_names(read_weights(path, network.state_dict()))
    refuse_mismatch(network, state, str(path), ADVICE)
    return state


def refuse_other_scale(path: Path, configured: float) -> None:
    """Raise ValueError if a VAE's file states a scale of its latents (`latent_statistics`) other than the YAML's."""
    stated = stated_scale(path)
    if stated is not None and abs(configured / stated - 1) > 0.01:
        raise ValueError(
            f"{path}: the latents of this VAE are scaled by {stated:g}, the model's YAML says {configured:g}; "
            f"add vae.scaling_factor={stated:g} behind the stage"
        )
