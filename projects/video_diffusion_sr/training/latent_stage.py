"""The base of the three stages on latents: encodes batches, prepares condition and text, and calls the transformer."""

from abc import abstractmethod
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common.diffusion import EulerSampler, Guidance, LinearInterpolation, uniform_trailing
from common.distributed.parallel import Parallel
from data.pixel_range import model_to_unit
from models.nadit.discriminator import Discriminator
from models.nadit.model import NaDiT
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from projects.video_diffusion_sr.flops import transformer_flops
from projects.video_diffusion_sr.lora import HEADER, LoraSettings, factors_of
from projects.video_diffusion_sr.training.conditioning import Conditioner, Texts, TrainingPrompts, joined
from projects.video_diffusion_sr.training.latents import LatentEncoder, LatentPairs, pixels_of
from projects.video_diffusion_sr.training.packed import ShapeCache, Shapes, unpack
from projects.video_diffusion_sr.training.stage import Stage, Work, names_of, network_of

if TYPE_CHECKING:
    from projects.video_diffusion_sr.train import VideoDiffusionTrainer


@dataclass(frozen=True)
class PreparedLatents:
    """A batch as the transformer reads it.

    hq: [L0, c] float32, latents of the ground truth.
    lq: [L0, c] float32, latents of the degraded clip.
    given: [L0, c + 1], condition and mask.
    """

    hq: Tensor
    lq: Tensor
    given: Tensor
    shapes: Shapes
    texts: Texts

    @property
    def shape_key(self) -> Hashable:
        """See `graphed.Copied`."""
        return self.shapes.sizes, self.texts.lengths

    def clone(self) -> "PreparedLatents":
        texts = replace(self.texts, tokens=self.texts.tokens.clone())
        return replace(self, hq=self.hq.clone(), lq=self.lq.clone(), given=self.given.clone(), texts=texts)

    def copy_(self, other: "PreparedLatents") -> None:
        for target, value in (
            (self.hq, other.hq),
            (self.lq, other.lq),
            (self.given, other.given),
            (self.texts.tokens, other.texts.tokens),
        ):
            target.copy_(value)


class LatentStage(Stage):
    """A stage that trains transformers on latents.

    Args:
        recipe: the settings from the model's YAML.
        prompts: the fixed text embeddings, on the CPU.
        noise_scale: noise level of the condition; None takes the YAML's.
        prompt_dropout: the fraction of samples whose text is replaced by the null text.
        with_vae: load the VAE, which encodes pixels and decodes pictures for the log.

    Attributes:
        other_text: the text of the unconditional prediction in guidance, "negative" or "null_text".
        forward_passes: for each transformer, its work in a step, in forward passes; a backward pass counts as two.
    """

    def __init__(
        self,
        recipe: "VideoDiffusionTrainer",
        prompts: TrainingPrompts,
        noise_scale: float | None = None,
        prompt_dropout: float = 0.0,
        with_vae: bool = True,
    ) -> None:
        super().__init__()
        self.recipe, self.prompts, self.prompt_dropout = recipe, prompts, prompt_dropout
        self.other_text = "null_text" if prompt_dropout > 0 else "negative"
        self.forward_passes: dict[str, float] = {"dit": 3.0}
        self.schedule: LinearInterpolation = recipe.diffusion.schedule
        self.conditioner: Conditioner = recipe.conditioner(noise_scale)
        vae = recipe.build_trained_vae() if with_vae else None
        if vae is not None:
            self.frozen["vae"] = vae
        self.encoder: LatentEncoder = recipe.encoder(vae)
        self.parallel: Parallel | None = None
        self.cache = ShapeCache("cpu")

    def share_clips(self, parallel: Parallel) -> None:
        self.parallel = self.encoder.parallel = parallel

    def set_device(self, device: torch.device) -> None:
        super().set_device(device)
        self.cache = ShapeCache(device, sequence_group=None if self.parallel is None else self.parallel.sequence_group)
        self.prompts = self.prompts.to(device)

    def entry_points(self, name: str) -> tuple[str, ...]:
        return ("encode_parameters", "decode_latents") if name == "vae" else ()

    def prepare(self, batch: Any, generator: torch.Generator) -> PreparedLatents:
        pairs: LatentPairs = self.encoder(batch, self.cache, generator)
        for name, text in zip(names_of(batch), pairs.texts, strict=True):
            if text is not None and text.shape[1] != self.prompts.width:
                raise ValueError(
                    f"{name}: its text embedding is {text.shape[1]} wide, the model reads {self.prompts.width}; "
                    "make it with the text encoder of this model, or remove it"
                )
        given = self.conditioner(pairs.hq, pairs.lq, pairs.shapes, generator)
        texts = self.prompts.drawn(pairs.texts, self.prompt_dropout, generator)
        return PreparedLatents(pairs.hq, pairs.lq, given, pairs.shapes, texts)

    def predict(self, dit: NaDiT, x: Tensor, at: PreparedLatents, t: Tensor, texts: Texts | None = None) -> Tensor:
        """Run a transformer on x [L0, c] at times t ([B] or scalar): [L0, c] float32."""
        texts = at.texts if texts is None else texts
        layout = self.cache.layout(dit, at.shapes.sizes, texts.lengths)
        lengths = [[n] for n in texts.lengths]
        packed = torch.cat([x, at.given], dim=1)
        return dit(packed, texts.tokens, at.shapes.sizes, lengths, t, layout=layout).vid_sample.float()

    def normal(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Standard normal noise with the shape of `like`."""
        return torch.randn(like.shape, generator=generator, device=like.device)

    def unguided(self, samples: int) -> Texts:
        """The text of the unconditional prediction in guidance, repeated for every sample."""
        return self.prompts.unconditional(self.other_text, samples)

    @abstractmethod
    def restore(self, prepared: PreparedLatents, generator: torch.Generator) -> Tensor:
        """Restore latents [L0, c] with the trained transformer, as in inference."""

    @torch.no_grad()
    def sample(
        self, dit: NaDiT, at: PreparedLatents, steps: int, guidance: Guidance, generator: torch.Generator
    ) -> Tensor:
        """Restore latents [L0, c] with `steps` Euler steps."""
        diffusion = self.recipe.diffusion
        sampler = EulerSampler(
            self.schedule, uniform_trailing(steps, self.schedule.T, diffusion.shift), diffusion.prediction_type
        )
        negative = self.unguided(len(at.shapes.sizes))

        def predict(x: Tensor, t: Tensor, i: int) -> Tensor:
            return guidance.predict(
                lambda: self.predict(dit, x, at, t), lambda: self.predict(dit, x, at, t, negative), i, steps, None
            )

        return sampler.sample(self.normal(at.hq, generator), predict)

    def images(self, prepared: PreparedLatents, generator: torch.Generator) -> dict[str, Tensor]:
        if "vae" not in self.frozen:
            return {}
        at = self.first(prepared)
        return self.triptych(at, self.restore(at, generator))

    @torch.no_grad()
    def decoded(self, rows: Tensor, shapes: Shapes) -> list[Tensor]:
        """Decode packed latents [L0, c] to clips [3, T, H, W], float32 in about [-1, 1]; ValueError without a VAE."""
        if "vae" not in self.frozen:
            raise ValueError("validation decodes clips and there is no VAE; give vae.checkpoint behind the stage")
        vae = network_of(self.frozen, "vae", VideoAutoencoderKL)
        with torch.autocast(self.device.type, enabled=False):
            latents = [latent / self.encoder.scaling_factor for latent in unpack(rows, shapes.sizes)]
            return [vae.decode_latents(z[None].to(next(vae.parameters())))[0].float() for z in latents]

    def validate(self, batch: Any, generator: torch.Generator, decode: bool = True) -> list[tuple[Tensor, Tensor]]:
        prepared = self.prepare(batch, generator)
        restored = self.restore(prepared, generator)
        if not decode:
            return []
        outputs = self.decoded(restored, prepared.shapes)
        truths = [pixels_of(sample, self.device)[0] for sample in batch]
        return list(zip(outputs, truths, strict=True))

    def triptych(self, at: PreparedLatents, output: Tensor) -> dict[str, Tensor]:
        """The middle frame of the first sample, decoded by the VAE: low quality | output | ground truth."""
        clips = [self.decoded(rows, at.shapes)[0] for rows in (at.lq, output, at.hq)]
        middle = [clip[:, clip.shape[1] // 2] for clip in clips]  # 3 H W each
        return {"lq_output_gt": model_to_unit(torch.cat(middle, dim=2))}

    def first(self, at: PreparedLatents) -> PreparedLatents:
        """A batch of the first sample only, for pictures."""
        rows = at.shapes.counts[0]
        shapes, text = self.cache.shapes(at.shapes.sizes[:1]), joined([at.texts.tokens[: at.texts.lengths[0]]])
        return PreparedLatents(at.hq[:rows], at.lq[:rows], at.given[:rows], shapes, text)

    def work(self, prepared: PreparedLatents) -> Work:
        sizes, lengths = prepared.shapes.sizes, prepared.texts.lengths
        networks = {**self.modules, **self.frozen}
        flops = 0.0
        for name, passes in self.forward_passes.items():
            network = networks[name]
            dit = network.backbone if isinstance(network, Discriminator) else network_of(networks, name, NaDiT)
            flops += passes * transformer_flops(dit.config, sizes, lengths)
        return Work(len(sizes), flops)

    @property
    def dit(self) -> NaDiT:
        """The trained transformer."""
        return network_of(self.modules, "dit", NaDiT)

    def use_lora(self, settings: LoraSettings) -> None:
        """Freeze the transformer, and train, save and export only its low-rank factors."""
        self.save_frozen = False
        self.export_header = {HEADER: settings.header}

    def export(self, weights: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        if self.export_header:
            return {"lora.safetensors": factors_of(weights["dit"])}
        return {"dit.safetensors": dict(weights["dit"])}


def refuse_other_latents(trained: "VideoDiffusionTrainer", other: "VideoDiffusionTrainer", role: str) -> None:
    """Raise ValueError unless another model has the same latents, text width and diffusion times as the trained one."""
    for key in ("vid_in_channels", "vid_out_channels", "txt_in_dim"):
        ours, theirs = trained.config.dit.model[key], other.config.dit.model[key]
        if ours != theirs:
            raise ValueError(f"the {role}'s dit.model.{key} is {theirs}, the trained model's {ours}; they must agree")
    for what in ("schedule", "prediction_type"):
        ours, theirs = getattr(trained.diffusion, what), getattr(other.diffusion, what)
        if ours != theirs:
            raise ValueError(f"the {role}'s diffusion {what} is {theirs}, the trained model's {ours}; they must agree")
