"""What the three stages on latents share: encoding, condition, text, a call of the transformer, pictures, work."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common.diffusion import EulerSampler, Guidance, LinearInterpolation, uniform_trailing
from models.nadit.model import NaDiT
from projects.video_diffusion_sr.lora import HEADER, LoraSettings, factors_of
from projects.video_diffusion_sr.training.conditioning import Conditioner, Prompts, Texts
from projects.video_diffusion_sr.training.flops import forward_flops
from projects.video_diffusion_sr.training.latents import LatentEncoder, Pairs
from projects.video_diffusion_sr.training.packed import ShapeCache, Shapes, unpack
from projects.video_diffusion_sr.training.stage import Stage, Work

if TYPE_CHECKING:
    from projects.video_diffusion_sr.train import VideoDiffusionTrainer


@dataclass(frozen=True)
class Prepared:
    """A batch that is ready for the transformer.

    hq: [L0, c] float32 ground truth. lq: the same of the degraded clip. given: [L0, c + 1] condition and mask.
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

    def clone(self) -> "Prepared":
        texts = replace(self.texts, tokens=self.texts.tokens.clone())
        return replace(self, hq=self.hq.clone(), lq=self.lq.clone(), given=self.given.clone(), texts=texts)

    def copy_(self, other: "Prepared") -> None:
        for own, value in (
            (self.hq, other.hq),
            (self.lq, other.lq),
            (self.given, other.given),
            (self.texts.tokens, other.texts.tokens),
        ):
            own.copy_(value)


class LatentStage(Stage):
    """A stage that trains transformers on latents.

    Args:
        recipe: of the model's YAML.
        prompts: the fixed text embeddings, on the CPU.
        noise_scale: of the condition; None takes the YAML's.
        prompt_dropout: how often the negative embedding stands in for the positive one.
        with_vae: load the VAE, to encode pixels and to show pictures.
    """

    passes = 3.0  # work of a step in forward passes of the transformer; a backward pass is two

    def __init__(
        self,
        recipe: "VideoDiffusionTrainer",
        prompts: Prompts,
        noise_scale: float | None = None,
        prompt_dropout: float = 0.0,
        with_vae: bool = True,
    ) -> None:
        super().__init__()
        self.recipe, self.prompts, self.prompt_dropout = recipe, prompts, prompt_dropout
        self.schedule: LinearInterpolation = recipe.diffusion.schedule
        self.conditioner: Conditioner = recipe.conditioner(noise_scale)
        if with_vae:
            self.frozen["vae"] = recipe.build_vae()
        self.encoder: LatentEncoder = recipe.encoder(self.frozen.get("vae"))
        self.cache = ShapeCache("cpu")

    def set_device(self, device: torch.device) -> None:
        super().set_device(device)
        self.cache = ShapeCache(device)
        self.prompts = Prompts(self.prompts.positive.to(device), self.prompts.negative.to(device))

    def entry_points(self, name: str) -> tuple[str, ...]:
        return ("encode_moments", "decode_latents") if name == "vae" else ()

    def prepare(self, batch: Any, draws: torch.Generator) -> Prepared:
        pairs: Pairs = self.encoder(batch, self.cache, draws)
        given = self.conditioner(pairs.hq, pairs.lq, pairs.shapes, draws)
        texts = self.prompts.drawn(len(pairs.shapes.sizes), self.prompt_dropout, draws)
        return Prepared(pairs.hq, pairs.lq, given, pairs.shapes, texts)

    def predict(self, dit: NaDiT, x: Tensor, at: Prepared, t: Tensor, texts: Texts | None = None) -> Tensor:
        """What a transformer says about x [L0, c] at times t ([B] or scalar): [L0, c] float32."""
        texts = at.texts if texts is None else texts
        layout = self.cache.layout(dit, at.shapes.sizes, texts.lengths)
        lengths = [[n] for n in texts.lengths]
        packed = torch.cat([x, at.given], dim=1)
        return dit(packed, texts.tokens, at.shapes.sizes, lengths, t, layout=layout).vid_sample.float()

    def normal(self, like: Tensor, draws: torch.Generator) -> Tensor:
        """Standard normal noise of a tensor's shape."""
        return torch.randn(like.shape, generator=draws, device=like.device)

    def unguided(self, samples: int) -> Texts:
        """The negative text for every sample."""
        return self.prompts.of([True] * samples)

    @torch.no_grad()
    def sample(self, dit: NaDiT, at: Prepared, steps: int, guidance: Guidance, draws: torch.Generator) -> Tensor:
        """Restored latents [L0, c] in so many Euler steps."""
        diffusion = self.recipe.diffusion
        sampler = EulerSampler(
            self.schedule, uniform_trailing(steps, self.schedule.T, diffusion.shift), diffusion.prediction_type
        )
        negative = self.unguided(len(at.shapes.sizes))

        def predict(x: Tensor, t: Tensor, i: int) -> Tensor:
            return guidance.predict(
                lambda: self.predict(dit, x, at, t), lambda: self.predict(dit, x, at, t, negative), i, steps, None
            )

        return sampler.sample(self.normal(at.hq, draws), predict)

    def triptych(self, at: Prepared, output: Tensor) -> dict[str, Tensor]:
        """Low quality | output | ground truth: the middle frame of the first sample, all decoded by the VAE."""
        vae = self.frozen["vae"]
        decoded = []
        for rows in (at.lq, output, at.hq):
            latent = unpack(rows, at.shapes.sizes)[0] / self.encoder.scaling_factor
            with torch.autocast(self.device.type, enabled=False):
                clip = vae.decode_latents(latent[None].to(next(vae.parameters())))[0].float()  # 3 T H W
            decoded.append(clip[:, clip.shape[1] // 2])
        return {"lq_output_gt": (torch.cat(decoded, dim=2) + 1) / 2}

    def first(self, at: Prepared) -> Prepared:
        """The first sample alone, for pictures."""
        rows = at.shapes.counts[0]
        shapes = self.cache.shapes(at.shapes.sizes[:1])
        return Prepared(at.hq[:rows], at.lq[:rows], at.given[:rows], shapes, self.prompts.of([False]))

    def work(self, prepared: Prepared) -> Work:
        dit = self.modules["dit"]
        flops = forward_flops(dit.config, prepared.shapes.sizes, prepared.texts.lengths)
        return Work(len(prepared.shapes.sizes), self.passes * flops)

    def use_lora(self, settings: LoraSettings) -> None:
        """From now on this stage trains, saves and exports low-rank factors of its transformer; the rest is frozen."""
        self.save_frozen = False
        self.export_header = {HEADER: settings.header}

    def export(self, weights: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        if self.export_header:
            return {"lora.safetensors": factors_of(weights["dit"])}
        return {"dit.safetensors": dict(weights["dit"])}


def share_state(state: Mapping[str, Tensor] | None, names: Sequence[str]) -> dict[str, Mapping[str, Tensor]]:
    """One state for several modules that were built on the meta device."""
    return {} if state is None else {name: state for name in names}
