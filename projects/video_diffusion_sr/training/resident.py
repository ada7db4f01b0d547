"""Keeps a small data set of photographs and videos on the GPU as uint8, and crops, animates and mirrors it there.

The VAE of the tiny model needs this, because its step is much faster than decoding clips. Batch n depends only on
(seed, n).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.logger import get_logger
from data.image.transforms.na_resize import bicubic
from data.pixel_range import uint8_to_model
from data.training.decode import decode
from data.training.index import Index
from data.training.motion import MotionConfig, camera_path
from data.training.sampling import ClipShape, slot_generator
from projects.video_diffusion_sr.training.stage import BatchSource
from projects.video_diffusion_sr.training.vae import ClipBatch

logger = get_logger(__name__)


@dataclass(frozen=True)
class ResidentConfig:
    """The composition of a batch.

    Attributes:
        shape: frames, height, width of every clip.
        clips: number of clips in a batch.
        image_share: the fraction of clips that are made from photographs with a virtual camera.
        blur_share: the fraction of clips that are blurred and made noisy, since in inference the VAE also encodes
            enlarged low-quality pictures.
        scale: the factor by which these clips are reduced and enlarged again.
        noise: the largest standard deviation of their noise, in 8-bit levels.
        motion: the camera's motion over photographs.
    """

    shape: ClipShape
    clips: int = 32
    image_share: float = 0.65
    blur_share: float = 0.25
    scale: int = 4
    noise: float = 15.0
    motion: MotionConfig = field(default_factory=MotionConfig)


class ResidentClips(BatchSource):
    """A source of clips for `VaeStage`, which makes them on the device that holds the pictures.

    Args:
        index: photographs and videos; those smaller or shorter than the shape are ignored.
        config: the composition of a batch.
        seed: the seed of all random numbers.
        device: the device that holds all pictures, uncompressed.
    """

    def __init__(self, index: Index, config: ResidentConfig, seed: int, device: torch.device | str) -> None:
        shape = config.shape
        self.config, self.seed, self.device = config, seed, torch.device(device)
        large = [s for s in index.sources if s.height >= shape.height and s.width >= shape.width]
        fitting = [s for s in large if not s.is_video or s.frames >= shape.frames]
        self.names = {kind: [s.path for s in fitting if s.is_video == kind] for kind in (False, True)}
        # T H W 3 uint8 each, T = 1 for photographs
        self.pixels = {
            kind: [
                torch.from_numpy(decode(s, 0, s.frames).copy()).to(self.device) for s in fitting if s.is_video == kind
            ]
            for kind in (False, True)
        }
        if not fitting:
            raise ValueError(f"no photograph or video is as large as {shape.height}x{shape.width}; use a smaller shape")
        resident = sum(x.numel() for group in self.pixels.values() for x in group) / 2**20
        logger.info("%d photographs, %d videos, %.0f MiB", len(self.pixels[False]), len(self.pixels[True]), resident)

    def batches(self, start: int) -> Iterator[ClipBatch]:
        number = start
        while True:
            yield self.batch(number)
            number += 1

    def batch(self, number: int) -> ClipBatch:
        """Batch `number`: one group of clips, float32 in [-1, 1] on the device."""
        config = self.config
        made = [self._clip(slot_generator(self.seed, number % 2**32, slot)) for slot in range(config.clips)]
        clips = torch.stack([clip for clip, _ in made])  # B 3 T H W, 0..255
        blurred = round(config.clips * config.blur_share)
        if blurred:
            generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + number % 2**32)
            clips = torch.cat([synthetic_blur(clips[:blurred], config.scale, config.noise, generator), clips[blurred:]])
        names = [f"{name} batch={number} slot={slot}" for slot, (_, name) in enumerate(made)]
        return ClipBatch(names, number, (uint8_to_model(clips.round().clamp(0, 255)),))

    def _clip(self, generator: np.random.Generator) -> tuple[Tensor, str]:
        shape = self.config.shape
        video = generator.random() >= self.config.image_share
        video = video if self.pixels[video] else not video
        source = int(generator.integers(len(self.pixels[video])))
        pixels = self.pixels[video][source]
        clip = cut(pixels, shape, generator) if video else film(pixels[0], shape, generator, self.config.motion)
        return clip.flip(-1) if generator.random() < 0.5 else clip, self.names[video][source]


def cut(video: Tensor, shape: ClipShape, generator: np.random.Generator) -> Tensor:
    """Crop a video at random in time and space: uint8 [T, H, W, 3] -> float32 [3, t, h, w] in 0..255."""
    sizes = (shape.frames, shape.height, shape.width)
    t, y, x = (
        int(generator.integers(available - length + 1))
        for available, length in zip(video.shape[:3], sizes, strict=True)
    )
    crop = video[t : t + shape.frames, y : y + shape.height, x : x + shape.width]
    return crop.permute(3, 0, 1, 2).float()


def film(picture: Tensor, shape: ClipShape, generator: np.random.Generator, motion: MotionConfig) -> Tensor:
    """Move a virtual camera over a picture (bicubic): uint8 [H, W, 3] -> float32 [3, t, h, w] in 0..255."""
    height, width = picture.shape[:2]
    path = camera_path(
        height, width, shape.frames, shape.height, shape.width, generator, motion
    )  # t 2 3, pixels to pixels
    if generator.random() < 0.5:  # round to whole pixels, since interpolation blurs the finest detail
        path[:, :, :2], path[:, :, 2] = np.eye(2), path[:, :, 2].round()
    maps = torch.from_numpy(path).float().to(picture.device)
    rows = torch.arange(shape.height, device=picture.device, dtype=torch.float32)
    columns = torch.arange(shape.width, device=picture.device, dtype=torch.float32)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    where = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ maps.transpose(1, 2)[:, None]  # t h w 2
    size = torch.tensor([width, height], device=picture.device)
    grid = ((2 * where + 1) / size - 1).flatten(0, 1)[None]  # 1 (t h) w 2
    source = picture.permute(2, 0, 1).float()[None]
    clip = F.grid_sample(source, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return clip[0].unflatten(1, (shape.frames, shape.height))


def synthetic_blur(clips: Tensor, scale: int, noise: float, generator: torch.Generator) -> Tensor:
    """Reduce clips [B, 3, T, H, W] in 0..255 by `scale`, add noise, and enlarge them again."""
    frames = clips.transpose(1, 2).flatten(0, 1)  # (B T) 3 H W
    small = bicubic(frames, (frames.shape[-2] // scale, frames.shape[-1] // scale))
    sigma = noise * torch.rand(len(clips), generator=generator, device=clips.device)
    sigma = sigma.repeat_interleave(clips.shape[2])[:, None, None, None]
    small = (small + sigma * torch.randn(small.shape, generator=generator, device=clips.device)).clamp(0, 255)
    large = bicubic(small, (clips.shape[-2], clips.shape[-1]))
    return large.unflatten(0, (len(clips), -1)).transpose(1, 2)
