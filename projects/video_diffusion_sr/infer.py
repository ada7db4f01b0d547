"""Restores latents with the transformer, and encodes and decodes them with the VAE, one clip at a time.

Letters: T, H, W frames and pixels · t, h, w latent frames and positions · c latent channels.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from common.diffusion import EulerSampler, LinearInterpolation, condition_timestep, uniform_trailing
from common.kernels.current_device import enter_stream, stream_of
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

RESTORE = 1.0  # value of the mask channel: the latent of the degraded clip is given


@dataclass(frozen=True)
class Prompts:
    """Precomputed text embeddings.

    positive, negative: [tokens, width] each.
    """

    positive: Tensor
    negative: Tensor


Predictor = Callable[[Tensor, Tensor], Tensor]  # (x_t [t, h, w, c], t) -> the network's output [t, h, w, c]


class VideoDiffusionInfer:
    """Encodes, conditions, samples and decodes, with networks and settings that are fixed for a run.

    Args:
        vae, dit: the networks in evaluation mode, each in its dtype; on one device unless `stages` moves them.
        prompts: text embeddings.
        sampling: steps, guidance and condition noise.
        scaling_factor: factor of the VAE's latents for the transformer.
        sequence_group: the ranks that share the transformer's work on a clip, see `NaDiT.layout`; None: one rank.
        stages: moves the networks to the device; None: they are there.
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
        self._layout_of_picture = lru_cache(maxsize=2)(self._new_layout)  # two, because guidance has a second text
        self.schedule = LinearInterpolation(sampling.T)
        self.sampler = EulerSampler(
            self.schedule, uniform_trailing(sampling.steps, sampling.T, sampling.shift), sampling.prediction_type
        )

    @property
    def device(self) -> torch.device:
        """The device on which the networks compute; their weights may be elsewhere."""
        return self.stages.device

    @property
    def noise_kinds(self) -> tuple[str, ...]:
        """The kinds of noise that `sample` and `condition` need, see `common.seed.KINDS`."""
        return ("start", "condition") if self.sampling.condition_noise > 0 else ("start",)

    def new_memory(self, rows: RowExchange | None = None) -> ClipMemory | TileMemories:
        """A new memory for one clip in the encoder or the decoder, see `Stages.new_memory`."""
        return self.stages.new_memory(rows)

    @torch.inference_mode()
    def encode_slice(self, frames: Tensor, memory: ClipMemory | TileMemories, noise: Tensor | None) -> Tensor:
        """Encode the next frames of a clip: latents [t, h, w, c], float32 on the device.

        Args:
            frames: [3, T, H, W] in [-1, 1].
            memory: that of the clip in the encoder.
            noise: [t, h, w, c], for a sample of the posterior; None: use its mean.
        """
        posterior = DiagonalGaussian(self.stages.encode(frames[None], memory).float())
        latents = posterior.mode() if noise is None else posterior.sample(noise.permute(3, 0, 1, 2)[None])
        return self.guard.watch("the VAE's encoder", latents[0].permute(1, 2, 3, 0) * self.scaling_factor)

    @torch.inference_mode()
    def condition(self, latents: Tensor, noise: Tensor | None) -> Tensor:
        """The network's condition [t, h, w, c + 1] from the latents [t, h, w, c] of the degraded clip.

        The forward process adds noise to it if the preset has condition noise. The last channel is the mask.

        Args:
            noise: standard normal noise of the shape of the latents; None if `noise_kinds` has no "condition".
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
        """Sample restored latents, float32 [t, h, w, c], from the condition [t, h, w, c + 1] and noise [t, h, w, c]."""
        self.stages.begin(SAMPLE)
        condition, noise = condition.to(self.device), noise.to(self.device, torch.float32)
        t, h, w, _ = noise.shape
        shape, guidance = (t, h, w), self.sampling.guidance
        positive = self._predictor(self.prompts.positive, shape, condition)
        # Without guidance the negative prompt is not used.
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
        """Start to build the layout of latents (t, h, w) in a thread, for the next `sample`; None: drop the last one.

        It takes the host about 50 ms for 97 frames of 720p. If the next call has another shape, only this work is lost.
        """
        for forgotten in self._expected.values():
            forgotten.cancel()  # one that has begun ends by itself
        self._expected = {}
        if shape is None:
            return
        texts = [self.prompts.positive, *([self.prompts.negative] if self.sampling.guidance.scale != 1.0 else [])]
        pool = ThreadPoolExecutor(1, "layout", enter_stream, (stream_of(self.device),))
        self._expected = {(shape, n): pool.submit(self._new_layout, shape, n) for n in {len(text) for text in texts}}
        pool.shutdown(wait=False)

    def _layout_of(self, shape: tuple[int, int, int], text_tokens: int) -> ClipLayout:
        """The layout of one clip. Those of pictures are cached, because making one takes longer than the network."""
        if shape[0] == 1:
            return self._layout_of_picture(shape, text_tokens)
        expected = self._expected.pop((shape, text_tokens), None)
        return self._new_layout(shape, text_tokens) if expected is None else expected.result()

    @torch.inference_mode()
    def _new_layout(self, shape: tuple[int, int, int], text_tokens: int) -> ClipLayout:
        return self.dit.layout([shape], [text_tokens], self.device, self.sequence_group)

    def _predictor(self, text: Tensor, shape: tuple[int, int, int], condition: Tensor) -> Predictor:
        """The network as a function of (x_t, t); whatever does not change between steps is computed once."""
        dtype = next(self.dit.parameters()).dtype  # not its device, which is the host with block offloading
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
        """Decode the next restored latents [t, h, w, c] of a clip to frames [3, T, H, W] in about [-1, 1].

        They are in the VAE's dtype on the device or, with tiles, float32 on the host.
        """
        z = (latents / self.scaling_factor).permute(3, 0, 1, 2)[None]
        return self.guard.watch("the VAE's decoder", self.stages.decode(z, memory)[0])
