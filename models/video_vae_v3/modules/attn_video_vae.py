"""The causal video VAE (SeedVR, arXiv 2501.01320, section 3.2): encodes and decodes whole clips or slices of frames.

The released model maps [B, 3, T, H, W] in [-1, 1], with T = 4n + 1 and H, W multiples of 8, to latents
[B, 16, n + 1, H / 8, W / 8] and back. Smaller models may compress less.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from models.video_vae_v3.modules import inference_path
from models.video_vae_v3.modules.decoder import Decoder3D
from models.video_vae_v3.modules.encoder import Encoder3D
from models.video_vae_v3.modules.fold import is_prepared
from models.video_vae_v3.modules.posterior import DiagonalGaussian
from models.video_vae_v3.modules.rows import RowExchange, SharedClip
from models.video_vae_v3.modules.schedule import (
    DIRECT,
    F43,
    Schedule,
    default_schedule,
    direct_schedule,
    level_shapes,
)
from models.video_vae_v3.modules.temporal_memory import ClipMemory


@dataclass(frozen=True)
class EncoderOutput:
    """The result of `encode`.

    latent: [B, C, t, h, w], the posterior's mean, or a sample of it if noise was given.
    posterior: the distribution of latents.
    """

    latent: Tensor
    posterior: DiagonalGaussian


@dataclass(frozen=True)
class DecoderOutput:
    """sample: [B, 3, T, H, W], with five dimensions also for an image."""

    sample: Tensor


class VideoAutoencoderKL(nn.Module):
    """The encoder and the decoder, which process a clip in slices. The arguments are the keys of the VAE's YAML.

    ValueError for a value that this model does not support.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_channels: int = 3,
        latent_channels: int = 16,
        block_out_channels: Sequence[int] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        act_fn: str = "silu",
        down_block_types: Sequence[str] | None = None,
        up_block_types: Sequence[str] | None = None,
        temporal_scale_num: int = 2,
        spatial_downsample_factor: int | None = None,
        temporal_downsample_factor: int | None = None,
        slicing_sample_min_size: int = 4,
        inflation_mode: str = "pad",
        use_quant_conv: bool = False,
        use_post_quant_conv: bool = False,
    ) -> None:
        super().__init__()
        levels = len(block_out_channels)
        _require("act_fn", act_fn, "silu")
        _require("inflation_mode", inflation_mode, "pad")
        _require("use_quant_conv", use_quant_conv, False)
        _require("use_post_quant_conv", use_post_quant_conv, False)
        if not 0 <= temporal_scale_num < levels:
            raise ValueError(f"temporal_scale_num={temporal_scale_num} must lie in 0..{levels - 1} for {levels} levels")
        self.latent_channels = latent_channels
        self.spatial_factor, self.temporal_factor = 2 ** (levels - 1), 2**temporal_scale_num
        _require("spatial_downsample_factor", spatial_downsample_factor, self.spatial_factor, None)
        _require("temporal_downsample_factor", temporal_downsample_factor, self.temporal_factor, None)
        _require("down_block_types", down_block_types and list(down_block_types), ["DownEncoderBlock3D"] * levels, None)
        _require("up_block_types", up_block_types and list(up_block_types), ["UpDecoderBlock3D"] * levels, None)

        sizes = (block_out_channels, layers_per_block, norm_num_groups, temporal_scale_num)
        self.levels = level_shapes(block_out_channels, temporal_scale_num)
        self.encoder = Encoder3D(in_channels, latent_channels, *sizes)
        self.decoder = Decoder3D(out_channels, latent_channels, *sizes)
        self.set_causal_slicing(slicing_sample_min_size)
        self.set_memory_limit(None)

    def set_causal_slicing(self, split_size: int | None, memory_device: str | torch.device = "same") -> None:
        """Set how many frames pass through the networks at once; ValueError for an impossible `split_size`.

        Args:
            split_size: number of frames in a slice, without the clip's first frame; a positive multiple of the
                temporal compression. None: the whole clip at once.
            memory_device: device that stores carried frames between slices; "same": the device that computes them.
        """
        if split_size is not None and (split_size < 1 or split_size % self.temporal_factor):
            raise ValueError(f"split_size={split_size} must be a positive multiple of {self.temporal_factor} frames")
        self._split_size = split_size
        self._memory_device = None if memory_device == "same" else memory_device

    @property
    def split_size(self) -> int | None:
        """Number of frames in a slice, without the clip's first; None: the whole clip. See `set_causal_slicing`."""
        return self._split_size

    def set_memory_limit(self, conv_max_mem: float | None) -> None:
        """Bound the memory of a convolution's input in inference, by passing fewer frames through a level at once.

        The result is exact but slower to compute. At least one frame (two where time is halved) goes through at once,
        whatever the bound. It applies to `encode_parameters`, `decode_latents` and their callers; a memory with its
        own schedule is not bounded.

        Args:
            conv_max_mem: the bound in GiB, positive (else ValueError); None: no bound.
        """
        if conv_max_mem is not None and conv_max_mem <= 0:
            raise ValueError(f"conv_max_mem={conv_max_mem} GiB must be positive, or None for no bound")
        self._conv_bytes = None if conv_max_mem is None else int(conv_max_mem * 2**30)

    def new_memory(
        self, schedule: Schedule | None = None, rows: RowExchange | None = None, keep: bool = True
    ) -> ClipMemory:
        """A new memory for passing one clip through the encoder or the decoder.

        Args:
            schedule: the schedule of the clip; None: every level processes all frames of a slice at once.
            rows: the exchange with the ranks that hold other rows of the clip; None: this process holds all rows.
            keep: False if the clip is a single slice, so that no frames are stored for a next one.
        """
        schedule = schedule or direct_schedule(self.split_size, len(self.decoder.up_blocks))
        return ClipMemory(schedule, rows, self._memory_device, keep and not schedule.single_frame)

    def encode_slice(self, x: Tensor, memory: ClipMemory) -> Tensor:
        """Encode the next frames of a clip: posterior parameters [B, 2 * latent_channels, t, h, w], means first.

        Args:
            x: [B, 3, T, H, W] in [-1, 1]. With the temporal compression f, T is 1 + kf (k >= 0) at the start of a clip
                and kf (k >= 1) later.
            memory: that of this clip, with which all earlier slices were encoded.

        Raises:
            ValueError: T is none of these numbers, or H or W is not a multiple of the spatial compression.
        """
        frames, factor = x.shape[2], self.temporal_factor
        if (frames - 1 if memory.starts_clip else frames) % factor or frames < 1:
            wanted = f"1 + {factor}k" if memory.starts_clip else f"{factor}k"
            raise ValueError(f"a slice of {frames} frames cannot be encoded here; {wanted} frames can")
        if x.shape[3] % self.spatial_factor or x.shape[4] % self.spatial_factor:
            raise ValueError(
                f"a picture of {x.shape[3]}x{x.shape[4]} must be padded to multiples of {self.spatial_factor}"
            )
        return self._through(self.encoder, inference_path.encode, x, memory)

    def decode_slice(self, z: Tensor, memory: ClipMemory) -> Tensor:
        """Decode the next latents of a clip: z [B, latent_channels, t, h, w] -> frames [B, 3, T, H, W].

        `memory` is that of this clip, with which all earlier latents were decoded; t may be any number.
        """
        return self._through(self.decoder, inference_path.decode, z, memory)

    def _through(self, network: nn.Module, infer: Callable[..., Tensor], x: Tensor, memory: ClipMemory) -> Tensor:
        """Pass a slice through a network, on the inference path if it is prepared and gradients are disabled."""
        if not is_prepared(self) or torch.is_grad_enabled():
            y = network(x, memory)
            memory.advance()
            return y
        if memory.starts_clip and x.shape[2] > 1:  # the first frame has its own weights, so it is passed separately
            memory.keep = True
            first = self._through(network, infer, x[:, :, :1], memory)
            return torch.cat([first, self._through(network, infer, x[:, :, 1:], memory)], dim=2)
        y = infer(network, x, memory)
        memory.advance()
        return y

    def _schedule(self, x: Tensor, height: int | None = None) -> Schedule:
        """The default schedule of a clip x [B, C, T, H, W] of pixels or latents; `height`: of the whole picture."""
        scale = self.spatial_factor if x.shape[1] == self.latent_channels else 1
        size = (height or x.shape[3]) * scale, x.shape[4] * scale
        most = None if self._conv_bytes is None else self._conv_bytes // (x.shape[0] * x.element_size())
        winograd = F43 if x.is_cuda and most is None else DIRECT
        schedule = default_schedule(self.levels, *size, self.split_size, winograd, most_numbers=most)
        return replace(schedule, scores_bytes=self._conv_bytes)

    def encode_parameters(self, x: Tensor, rows: RowExchange | None = None, height: int | None = None) -> Tensor:
        """Encode a whole clip in slices: posterior parameters [B, 2 * latent_channels, t, h, w], means first.

        Args:
            x: [B, 3, T, H, W] in [-1, 1], T = 1 + kf with the temporal compression f (else ValueError).
            rows: the exchange with the ranks that hold other rows of the clip; None: x is the whole picture.
            height: height of the whole picture in pixels; needed with `rows`.
        """
        slices = split_after_first(x, self.split_size)
        memory = self.new_memory(self._schedule(x, height), rows, keep=len(slices) > 1)
        return self._in_slices(self.encode_slice, slices, memory, (x.shape[2] - 1) // self.temporal_factor + 1)

    def decode_latents(self, z: Tensor, rows: RowExchange | None = None, height: int | None = None) -> Tensor:
        """Decode a whole clip in slices: z [B, latent_channels, t, h, w] -> [B, 3, T, H, W].

        `rows` and `height` are as in `encode_parameters`, with the height in latents.
        """
        slices = split_after_first(z, self.split_size and self.split_size // self.temporal_factor)
        memory = self.new_memory(self._schedule(z, height), rows, keep=len(slices) > 1)
        return self._in_slices(self.decode_slice, slices, memory, (z.shape[2] - 1) * self.temporal_factor + 1)

    @staticmethod
    def _in_slices(
        run: Callable[[Tensor, ClipMemory], Tensor], slices: Sequence[Tensor], memory: ClipMemory, frames: int
    ) -> Tensor:
        """Pass the slices of a clip through `run` and join the results, which have `frames` frames in total."""
        if len(slices) == 1 or torch.is_grad_enabled():
            return torch.cat([run(part, memory) for part in slices], dim=2)
        first = run(slices[0], memory)
        # One output tensor for all slices, because concatenating a list of them would need twice the memory.
        clip = first.new_empty(*first.shape[:2], frames, *first.shape[3:])
        start = first.shape[2]
        clip[:, :, :start] = first
        del first
        for part in slices[1:]:
            y = run(part, memory)
            clip[:, :, start : start + y.shape[2]] = y
            start += y.shape[2]
        return clip


class VideoAutoencoderKLWrapper(VideoAutoencoderKL):
    """The VAE with the interface of research code: `encode` and `decode` return objects.

    Args:
        freeze_encoder: the encoder's parameters get no gradients, to fine-tune only the decoder.
        keys: the keys of the VAE's YAML, see `VideoAutoencoderKL`.
    """

    def __init__(self, *, freeze_encoder: bool = False, **keys: Any) -> None:
        super().__init__(**keys)
        self.freeze_encoder = freeze_encoder
        if freeze_encoder:
            self.encoder.requires_grad_(False)

    def encode(self, x: Tensor, noise: Tensor | None = None) -> EncoderOutput:
        """Encode a clip [B, 3, T, H, W] or an image [B, 3, H, W], in [-1, 1]; ValueError as `encode_slice`.

        Args:
            noise: standard normal noise [B, C, t, h, w], with which `.latent` is a sample of the posterior. None:
                `.latent` is the mean.
        """
        posterior = DiagonalGaussian(self.encode_parameters(x if x.ndim == 5 else x[:, :, None]))
        return EncoderOutput(posterior.mode() if noise is None else posterior.sample(noise), posterior)

    def decode(self, z: Tensor) -> DecoderOutput:
        """Decode latents [B, C, t, h, w], or [B, C, h, w] of an image, to [B, 3, T, H, W]."""
        return DecoderOutput(self.decode_latents(z if z.ndim == 5 else z[:, :, None]))

    def forward(
        self, x: Tensor, noise: Tensor | None = None, rows: SharedClip | None = None
    ) -> tuple[Tensor, DiagonalGaussian]:
        """The reconstruction [B, 3, T, H, W] and the posterior, for training.

        Args:
            x, noise: see `encode`; x has five dimensions if `rows` is given.
            rows: splits the rows of the clip between ranks. Every rank passes the same whole inputs and gets the whole
                outputs, and every rank must have rows. None: this process computes all rows.
        """
        if rows is None:
            encoded = self.encode(x, noise)
            return self.decode(encoded.latent).sample, encoded.posterior
        moments = self.encode_parameters(rows.shard(x, 3, self.spatial_factor), rows.exchange, x.shape[3])
        posterior = DiagonalGaussian(unshard_pixels(rows, moments))
        latent = posterior.mode() if noise is None else posterior.sample(noise)
        made = self.decode_latents(rows.shard(latent, 3), rows.exchange, latent.shape[3])
        return unshard_pixels(rows, made, self.spatial_factor), posterior


def unshard_pixels(rows: SharedClip, x: Tensor, scale: int = 1) -> Tensor:
    """Gather this rank's rows [B, C, T, local rows, W] to all rows; `scale`: number of rows of x per latent row."""
    return rows.unshard(x.movedim(3, 1), scale).movedim(1, 3)


def split_after_first(x: Tensor, size: int | None) -> list[Tensor]:
    """Cut [B, C, T, ...] in time into 1 + size, size, size, ... frames; the last part may be shorter."""
    if size is None or x.shape[2] <= 1 + size:
        return [x]
    return [x[:, :, : 1 + size], *x[:, :, 1 + size :].split(size, dim=2)]


def _require(key: str, value: object, *allowed: object) -> None:
    if value not in allowed:
        raise ValueError(f"{key}={value!r} is not supported: this model needs {allowed[0]!r}")
