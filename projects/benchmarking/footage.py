"""Makes files that compress about as real footage: a camera moves over a picture of shapes and texture, with grain."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from data.media import MediaInfo, OutputOptions, open_writer
from data.media.info import Kind
from data.training.motion import MotionConfig, animate

RATE = Fraction(25)
CAMERA = MotionConfig(pan=2.0, turn=0.1, zoom=0.002, scale=(1.0, 1.0), shake=0.8, still=0.0)
MARGIN = 1.25  # size of the picture relative to the clip's frames, as room for the camera's motion
SHAPES = 40
GRAIN = 1.5  # standard deviation in levels of 8 bits
CRF = 18  # quality of the encoded clips: that of a good original


def write_inputs(folder: Path, files: int, frames: int, size: tuple[int, int]) -> list[Path]:
    """Write `files` clips of `frames` frames (pictures if that is 1) of size (height, width), each of a new scene."""
    suffix = ".png" if frames == 1 else ".mp4"
    kind: Kind = "image" if frames == 1 else "video"
    paths = [folder / f"{number:03d}{suffix}" for number in range(files)]
    for number, path in enumerate(paths):
        info = MediaInfo(Path("a scene"), kind, size[1], size[0], frame_rate=RATE)
        clip = torch.from_numpy(film(frames, size, seed=number)).permute(0, 3, 1, 2)
        with open_writer(path, info, size, options=OutputOptions(crf=CRF)) as writer:
            writer.write(clip, [n / RATE for n in range(frames)])
    return paths


def film(frames: int, size: tuple[int, int], seed: int) -> np.ndarray:
    """Render a clip of size (height, width): uint8 [frames, height, width, 3]."""
    generator = np.random.default_rng(seed)
    scene = draw_scene((round(size[0] * MARGIN), round(size[1] * MARGIN)), generator)
    clip = animate(scene, frames, *size, generator, CAMERA)
    for frame in clip:
        noisy = frame + generator.normal(0, GRAIN, frame.shape).astype(np.float32)
        frame[:] = noisy.round().clip(0, 255).astype(np.uint8)
    return clip


def draw_scene(size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """Draw a picture, uint8 [height, width, 3]: shapes on a texture whose power spectrum is that of photographs."""
    height, width = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1 / max(size)
    scene = np.empty((height, width, 3), np.float32)
    for channel in range(3):
        spectrum = np.fft.rfft2(generator.standard_normal(size)) / frequency
        texture = np.fft.irfft2(spectrum, size)
        scene[..., channel] = 128 + 40 * texture / texture.std()
    y, x = np.ogrid[:height, :width]
    for _ in range(SHAPES):
        top, left = generator.uniform(0, height), generator.uniform(0, width)
        radius = min(size) * generator.uniform(0.02, 0.15)
        inside = ((y - top) / generator.uniform(0.5, 2)) ** 2 + (x - left) ** 2 < radius**2
        scene[inside] = 0.5 * scene[inside] + 0.5 * generator.uniform(0, 255, 3).astype(np.float32)
    return scene.round().clip(0, 255).astype(np.uint8)
