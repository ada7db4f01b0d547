"""Training of the causal VAE (SeedVR, arXiv 2501.01320, section 3.2): L1, perceptual, adversarial and KL losses.

Clips, including images, are [B, 3, T, H, W] with T = 1 + kf, where f is the VAE's compression in time.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from common.checkpoint import read_state_dict
from common.distributed.parallel import Parallel
from common.logger import get_logger
from common.strict_settings import settings_from
from data.pixel_range import model_to_unit, uint8_to_model
from data.video.framing import latent_frames
from models.perceptual import PerceptualDistance
from models.vae_discriminator import VideoPatchDiscriminator
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from models.video_vae_v3.modules.posterior import DiagonalGaussian
from models.video_vae_v3.modules.rows import SharedClip
from projects.evaluation.psnr import decibels
from projects.video_diffusion_sr.flops import vae_flops
from projects.video_diffusion_sr.training.settings import OptimizerSettings, one_of
from projects.video_diffusion_sr.training.stage import Batch, Player, Stage, Work, network_of

logger = get_logger(__name__)

TRAINING_OPERATIONS = 3  # work in forward passes: one forward pass, and a backward pass that counts as two
MAX_LOGGED_WIDTH = 512  # width in pixels of a picture for TensorBoard


@dataclass(frozen=True)
class VaeWeights:
    """Loss weights. Losses are means over pixels (l1), pictures (perceptual), latents (kl), and patches (gan)."""

    l1: float = 1.0
    perceptual: float = 1.0
    kl: float = 1e-6
    gan: float = 0.05


@dataclass(frozen=True)
class VaeGan:
    """The adversarial loss of the VAE.

    kind: "hinge" or "rpgan" (relativistic: compares a reconstructed clip with the real one).
    start: the first step in which the discriminator is updated and the adversarial loss is used.
    channels: the widths of the discriminator's layers.
    """

    kind: str = "hinge"
    start: int = 20000
    channels: tuple[int, ...] = (64, 128, 256)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)

    def __post_init__(self) -> None:
        one_of("vae.gan.kind", self.kind, ("hinge", "rpgan"))


@dataclass(frozen=True)
class VaeSettings:
    """The section `vae` of a training YAML.

    perceptual_weights: a safetensors file with VGG-16 and LPIPS weights, under the names in `models.perceptual`;
        null: no perceptual loss.
    """

    weights: VaeWeights = field(default_factory=VaeWeights)
    gan: VaeGan = field(default_factory=VaeGan)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    perceptual_weights: str | None = None


@dataclass(frozen=True)
class ClipBatch:
    """A batch of clips for the VAE.

    names: the identity of each clip.
    step: the step of the run to which the batch belongs.
    clips: groups of clips of one shape, each [B, 3, T, H, W], uint8, or float in [-1, 1].
    """

    names: Sequence[str]
    step: int
    clips: tuple[Tensor, ...]


def clips_of(batch: Batch) -> tuple[Tensor, ...]:
    """The clips of a batch of the VAE's stage, see `ClipBatch`."""
    assert isinstance(batch, ClipBatch)
    return batch.clips


@dataclass
class PreparedClips:
    """Clips on the device in [-1, 1], and their reconstructions, which the discriminator's update reads."""

    step: int
    clips: list[Tensor]
    made: list[Tensor] = field(default_factory=list)


class VaeStage(Stage):
    """Trains the VAE to reconstruct pixels, and from step `gan.start` on also against a discriminator.

    Args:
        vae: the VAE, float32, on the CPU. It processes whole clips, without slices.
        settings: losses and optimisers.
        ema_decay: the decay of the exported average.
    """

    name = "vae"

    def __init__(self, vae: VideoAutoencoderKL, settings: VaeSettings, ema_decay: float) -> None:
        super().__init__()
        self.settings = settings
        vae.set_causal_slicing(None)
        self.modules = {"vae": vae}
        self.ema_of, self.ema_decay = ("vae",), ema_decay
        self.players = (Player("vae", ("vae",), settings.optimizer),)
        if settings.weights.gan > 0:
            gan = settings.gan
            self.modules["discriminator"] = VideoPatchDiscriminator(gan.channels)
            self.players += (Player("discriminator", ("discriminator",), gan.optimizer, start=gan.start),)
        if settings.weights.perceptual > 0 and settings.perceptual_weights:
            path = Path(settings.perceptual_weights)
            self.frozen["perceptual"] = PerceptualDistance.from_state(read_state_dict(path))
        elif settings.weights.perceptual > 0:
            logger.warning(
                "no perceptual loss, which the paper has: vae.perceptual_weights names no file; "
                "projects/perceptual_weights.py makes one"
            )
        self.parallel: Parallel | None = None
        self._shapes_only = copy.deepcopy(vae).to("meta")  # for counting operations; copied before compilation
        self._flops: dict[tuple[int, ...], float] = {}

    def share_clips(self, parallel: Parallel) -> None:
        self.parallel = parallel

    def units(self, name: str) -> Sequence[torch.nn.Module]:
        module = self.modules.get(name)
        return [module.encoder, module.decoder] if isinstance(module, VideoAutoencoderKL) else []

    def prepare(self, batch: Batch, generator: torch.Generator) -> PreparedClips:
        assert isinstance(batch, ClipBatch)
        return PreparedClips(batch.step, [in_model_range(c.to(self.device, non_blocking=True)) for c in batch.clips])

    def losses(self, player: str, prepared: PreparedClips, generator: torch.Generator) -> dict[str, Tensor]:
        if player == "discriminator":
            return self._discriminator_losses(prepared, generator)
        values_of_clips: dict[str, list[Tensor]] = {}
        prepared.made.clear()
        for clip in prepared.clips:
            made, posterior = self._reconstruct(clip, generator)
            prepared.made.append(made.detach())
            for name, value in self._vae_losses(clip, made, posterior, prepared.step).items():
                values_of_clips.setdefault(name, []).append(value)
        shares = shares_of_pixels(prepared.clips)
        losses = {name: (torch.stack(values) * shares).sum() for name, values in values_of_clips.items()}
        psnr = decibels(losses.pop("mse"), data_range=2)
        weights = self.settings.weights
        total = sum(getattr(weights, name) * value for name, value in losses.items())
        return losses | {"total": total, "psnr": psnr}

    def _reconstruct(self, clip: Tensor, generator: torch.Generator) -> tuple[Tensor, DiagonalGaussian]:
        vae = network_of(self.modules, "vae", VideoAutoencoderKL)
        batch, _, frames, height, width = clip.shape
        space, time = vae.spatial_factor, vae.temporal_factor
        shape = (batch, vae.latent_channels, latent_frames(frames, time), height // space, width // space)
        noise = torch.randn(shape, generator=generator, device=self.device)
        return vae(clip, noise, self._rows(height // space))

    def _rows(self, latent_rows: int) -> SharedClip | None:
        """How the ranks of a group share pictures; None where a rank would have no row: each computes such pictures
        whole then, and the mean of their equal gradients is the gradient."""
        if self.parallel is None or latent_rows < self.parallel.size:
            return None
        return self.parallel.rows(latent_rows)

    def _vae_losses(self, clip: Tensor, made: Tensor, posterior: DiagonalGaussian, step: int) -> dict[str, Tensor]:
        error = made.float() - clip
        losses = {"l1": error.abs().mean(), "kl": kl_divergence(posterior)}
        losses["mse"] = error.detach().square().mean()
        if "perceptual" in self.frozen:
            frames = [x.transpose(1, 2).flatten(0, 1) for x in (made, clip)]  # (B T) 3 H W
            losses["perceptual"] = self.frozen["perceptual"](*frames).mean()
        if "discriminator" in self.modules and step >= self.settings.gan.start:
            discriminator = self.modules["discriminator"]
            real = discriminator(clip) if self.settings.gan.kind == "rpgan" else None
            losses["gan"] = generator_loss(self.settings.gan.kind, discriminator(made), real)
        return losses

    def _discriminator_losses(self, prepared: PreparedClips, generator: torch.Generator) -> dict[str, Tensor]:
        if not prepared.made:  # the VAE was not updated in this step
            with torch.no_grad():
                prepared.made.extend(self._reconstruct(clip, generator)[0] for clip in prepared.clips)
        discriminator, losses = self.modules["discriminator"], []
        for clip, made in zip(prepared.clips, prepared.made, strict=True):
            losses.append(discriminator_loss(self.settings.gan.kind, discriminator(clip), discriminator(made)))
        return {"total": (torch.stack(losses) * shares_of_pixels(prepared.clips)).sum()}

    def images(self, prepared: PreparedClips, generator: torch.Generator) -> dict[str, Tensor]:
        clip = prepared.clips[0][:1]
        made, _ = self._reconstruct(clip, generator)
        pair = torch.cat([clip[0, :, -1], made[0, :, -1].float()], dim=-1)  # 3 H 2W
        return {"input and reconstruction": model_to_unit(pair)[..., :MAX_LOGGED_WIDTH]}

    def validate(self, batch: Batch, generator: torch.Generator, decode: bool = True) -> list[tuple[Tensor, Tensor]]:
        clips = self.prepare(batch, generator).clips
        made = [self._reconstruct(clip, generator)[0].float() for clip in clips]
        if not decode:
            return []
        return [(a, b) for group, truth in zip(made, clips, strict=True) for a, b in zip(group, truth, strict=True)]

    def work(self, prepared: PreparedClips) -> Work:
        shapes = [tuple(clip.shape) for clip in prepared.clips]
        return Work(sum(s[0] for s in shapes), sum(TRAINING_OPERATIONS * s[0] * self._forward_flops(s) for s in shapes))

    def _forward_flops(self, shape: tuple[int, ...]) -> float:
        """Operations of encoder and decoder for one clip, counted once per shape on the meta device."""
        if shape[2:] not in self._flops:
            self._flops[shape[2:]] = vae_flops(self._shapes_only, shape[2:])
        return self._flops[shape[2:]]


def in_model_range(clip: Tensor) -> Tensor:
    """Convert a clip of any shape, uint8 or float in [-1, 1], to float32 in [-1, 1]."""
    return uint8_to_model(clip) if clip.dtype == torch.uint8 else clip.float()


def kl_divergence(posterior: DiagonalGaussian) -> Tensor:
    """The KL divergence from a standard normal, averaged over latents; float32, since exp of bfloat16 is coarse."""
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


def generator_loss(kind: str, fake: Tensor, real: Tensor | None) -> Tensor:
    """The adversarial loss of the VAE. Both logits have the same shape; only "rpgan" uses `real`."""
    if kind == "hinge":
        return -fake.float().mean()
    assert real is not None
    return F.softplus(real.float() - fake.float()).mean()


def discriminator_loss(kind: str, real: Tensor, fake: Tensor) -> Tensor:
    """The loss of the discriminator. Both logits have the same shape."""
    real, fake = real.float(), fake.float()
    if kind == "hinge":
        return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
    return F.softplus(fake - real).mean()


def shares_of_pixels(clips: Sequence[Tensor]) -> Tensor:
    """The fraction of all pixels that each group has, [groups]; as weights, they make all pixels count equally."""
    sizes = torch.tensor([clip.numel() for clip in clips], dtype=torch.float64)
    return (sizes / sizes.sum()).float().to(clips[0].device)


def build_vae_stage(vae: VideoAutoencoderKL, section: Mapping[str, Any] | None, ema_decay: float) -> VaeStage:
    """Build the stage with the settings in the section `vae` of a training YAML."""
    return VaeStage(vae, settings_from(VaeSettings, section, "train.vae."), ema_decay)
