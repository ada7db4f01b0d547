"""From latents to restored latents, and the VAE on both sides of it. One clip at a time.

Letters: T, H, W frames and pixels · t, h, w latent frames and positions · c latent channels.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from common.diffusion import EulerSampler, LinearInterpolation, condition_timestep, uniform_trailing
from models.nadit.exchange import SequenceGroup
from models.nadit.layout import ClipLayout
from models.nadit.model import NaDiT
from models.video_vae_v3.modules.attn_video_vae import VideoAutoencoderKL
from models.video_vae_v3.modules.posterior import DiagonalGaussian
from models.video_vae_v3.modules.rows import RowExchange
from models.video_vae_v3.modules.temporal_memory import ClipMemory
from models.video_vae_v3.modules.tiling import TileMemories
from projects.video_diffusion_sr.finite_guard import FiniteGuard
from projects.video_diffusion_sr.memory.stages import SAMPLE, Stages
from projects.video_diffusion_sr.sampling import Sampling

RESTORE = 1.0  # the mask channel: this latent is given and to be restored


@dataclass(frozen=True)
class Prompts:
    """Text embeddings made offline: positive and negative, [tokens, width] each."""

    positive: Tensor
    negative: Tensor


Predictor = Callable[[Tensor, Tensor], Tensor]  # (x_t [t, h, w, c], t) -> the network's output [t, h, w, c]


class VideoDiffusionInfer:
    """Encode, condition, sample, decode: the networks with everything that a request does not change.

    Args:
        vae, dit: the networks, in evaluation mode, each in its dtype; on one device unless `stages` moves them.
        scaling_factor: the transformer sees latents times this.
        sequence_group: the ranks that share the transformer's work on a clip, see `NaDiT.layout`; None: one rank.
        stages: what brings the networks to the device; None: they are there.
    """

    def __init__(
        self,
        vae: VideoAutoencoderKL,
        dit: NaDiT,
        prompts: Prompts,
        sampling: Sampling,
        scaling_factor: float,
        sequence_group: SequenceGroup | None = None,
        stages: Stages | None = None,
    ) -> None:
        self.vae, self.dit, self.prompts, self.sampling = vae, dit, prompts, sampling
        self.scaling_factor, self.sequence_group = scaling_factor, sequence_group
        self.stages = stages or Stages(vae, dit, next(vae.parameters()).device)
        self.guard = FiniteGuard()
        self._expected: dict[tuple[tuple[int, int, int], int], Future[ClipLayout]] = {}
        self._layout_of_picture = lru_cache(maxsize=2)(self._new_layout)  # two: guidance asks with a second text
        self.schedule = LinearInterpolation(sampling.T)
        self.sampler = EulerSampler(
            self.schedule, uniform_trailing(sampling.steps, sampling.T, sampling.shift), sampling.prediction_type
        )

    @property
    def device(self) -> torch.device:
        """Where the networks compute, wherever their weights are at the moment."""
        return self.stages.device

    @property
    def noise_kinds(self) -> tuple[str, ...]:
        """What `sample` and `condition` need noise for, see `common.seed.KINDS`."""
        return ("start", "condition") if self.sampling.condition_noise > 0 else ("start",)

    def new_memory(self, rows: RowExchange | None = None) -> ClipMemory | TileMemories:
        """For one clip on its way through the encoder or the decoder, see `Stages.new_memory`."""
        return self.stages.new_memory(rows)

    @torch.inference_mode()
    def encode_slice(self, frames: Tensor, memory: ClipMemory | TileMemories, noise: Tensor | None) -> Tensor:
        """The next frames [3, T, H, W] in [-1, 1] of a clip -> latents [t, h, w, c] float32 on the device.

        Args:
            noise: [t, h, w, c] for a sample of the posterior; None for its mean.
        """
        posterior = DiagonalGaussian(self.stages.encode(frames[None], memory).float())
        latents = posterior.mode() if noise is None else posterior.sample(noise.permute(3, 0, 1, 2)[None])
        return self.guard.watch("the VAE's encoder", latents[0].permute(1, 2, 3, 0) * self.scaling_factor)

    @torch.inference_mode()
    def condition(self, latents: Tensor, noise: Tensor | None) -> Tensor:
        """Latents of the degraded clip [t, h, w, c] -> what the network sees of them, [t, h, w, c + 1].

        Noised by the forward process where the preset says so; the last channel is the mask.

        Args:
            noise: of the shape of the latents; None where `noise_kinds` has none for the condition.
        """
        settings = self.sampling
        if settings.condition_noise > 0:
            assert noise is not None, "this preset noises the condition"
            t = condition_timestep(
                settings.condition_noise,
                tuple(latents.shape),
                channels_read_as_width=settings.channels_read_as_width,
                T=settings.T,
                temporal_factor=self.vae.temporal_factor,
                spatial_factor=self.vae.spatial_factor,
                transform=settings.resolution_shift,
            )
            latents = self.schedule.forward(latents, noise.to(latents), t.to(latents.device))
        return torch.cat([latents, torch.full_like(latents[..., :1], RESTORE)], dim=-1)

    @torch.inference_mode()
    def sample(self, condition: Tensor, noise: Tensor) -> Tensor:
        """Restored latents [t, h, w, c] float32 from the condition [t, h, w, c + 1] and noise [t, h, w, c]."""
        self.stages.begin(SAMPLE)
        condition, noise = condition.to(self.device), noise.to(self.device, torch.float32)
        t, h, w, _ = noise.shape
        shape, guidance = (t, h, w), self.sampling.guidance
        positive = self._predictor(self.prompts.positive, shape, condition)
        # Without guidance nothing asks for the second.
        negative = positive if guidance.scale == 1.0 else self._predictor(self.prompts.negative, shape, condition)
        self.expect(None)  # a layout of another shape would stay in the device's memory

        def predict(x: Tensor, t: Tensor, step: int) -> Tensor:
            return guidance.predict(
                lambda: positive(x, t), lambda: negative(x, t), step, self.sampler.steps, sample_dim=None
            )

        with self.stages.times.measured(SAMPLE):
            restored = self.sampler.sample(noise, predict)
        return self.guard.watch("the transformer", restored)

    def expect(self, shape: tuple[int, int, int] | None) -> None:
        """Begin to build the layout of latents (t, h, w) in a thread, for the next `sample`; None: forget the last one.

        The host takes about 50 ms for it at 720p x 97. If the next latents have another shape, only this work is lost.
        """
        self._expected = {}
        if shape is None:
            return
        texts = [self.prompts.positive, *([self.prompts.negative] if self.sampling.guidance.scale != 1.0 else [])]
        pool = ThreadPoolExecutor(1, "layout", self._enter_thread)
        self._expected = {(shape, n): pool.submit(self._new_layout, shape, n) for n in {len(text) for text in texts}}
        pool.shutdown(wait=False)

    def _enter_thread(self) -> None:
        if self.device.type == "cuda":  # else pinned memory would belong to the first device
            torch.cuda.set_device(self.device)

    def _layout_of(self, shape: tuple[int, int, int], text_tokens: int) -> ClipLayout:
        """The layout of one clip; that of a picture is kept for the next one, as it takes longer than the network."""
        if shape[0] == 1:
            return self._layout_of_picture(shape, text_tokens)
        expected = self._expected.pop((shape, text_tokens), None)
        return self._new_layout(shape, text_tokens) if expected is None else expected.result()

    @torch.inference_mode()
    def _new_layout(self, shape: tuple[int, int, int], text_tokens: int) -> ClipLayout:
        return self.dit.layout([shape], [text_tokens], self.device, self.sequence_group)

    def _predictor(self, text: Tensor, shape: tuple[int, int, int], condition: Tensor) -> Predictor:
        """The network as a function of (x_t, t), with everything that stays the same over the steps done once."""
        dtype = next(self.dit.parameters()).dtype  # its device may be the host: blocks come when they are called
        text = text.to(self.device, dtype)
        layout = self._layout_of(shape, len(text))

        def velocity(tokens: Tensor, t: Tensor) -> Tensor:
            return self.dit(tokens, text, [shape], [[len(text)]], t, layout=layout).vid_sample

        def predict(x: Tensor, t: Tensor) -> Tensor:
            tokens = torch.cat([x, condition], dim=-1).flatten(0, 2).to(dtype)  # (t h w) 2c+1
            predicted = self.stages.repeated((SAMPLE, shape, text.data_ptr()), velocity, tokens, t)
            return predicted.unflatten(0, shape).float()  # t h w c

        return predict

    @torch.inference_mode()
    def decode_slice(self, latents: Tensor, memory: ClipMemory | TileMemories) -> Tensor:
        """The next restored latents [t, h, w, c] of a clip -> frames [3, T, H, W], about [-1, 1].

        In the VAE's dtype on the device; in tiles float32 on the host.
        """
        z = (latents / self.scaling_factor).permute(3, 0, 1, 2)[None]
        return self.guard.watch("the VAE's decoder", self.stages.decode(z, memory)[0])
