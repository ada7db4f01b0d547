"""Measures that compare a result with its ground truth frame by frame, with their conventions.

| name | computed on | convention |
| --- | --- | --- |
| psnr, ssim | RGB | all channels at once; SSIM: Gaussian window of sigma 1.5, population covariances, channel mean |
| psnr_y, ssim_y | luma | the same on Y of BT.601, 16 to 235, as BasicSR and pyiqa's SSIM take it |
| lpips | RGB | VGG-16, version 0.1; 0 is equal |
| dists | RGB | VGG-16, at the clip's own size; 0 is equal |
| vmaf | luma | v0.6.1 at the clip's own size, Y of BT.709, 16 to 235 |
| flicker | RGB | mean over frames of |(r_t - r_t-1) - (g_t - g_t-1)|, grey levels of 255; 0 for a single frame |
| laplacian | luma | mean square of the 3x3 Laplacian over the ground truth's; 1: as much fine detail, right or wrong |
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from common.checkpoint import read_state_dict
from common.extras import need
from data.pixel_range import uint8_to_model
from models.dists import StructureTextureDistance
from models.perceptual import PerceptualDistance
from projects.evaluation.psnr import decibels
from projects.evaluation.vmaf import vmaf

IDENTICAL_DB = 100.0
SSIM_WINDOW = 11  # pixels, of the Gaussian that scikit-image cuts at 3.5 sigma
ALWAYS = ("psnr", "ssim")
WITHOUT_WEIGHTS = (*ALWAYS, "psnr_y", "ssim_y", "flicker", "laplacian", "vmaf")
BETTER_WHEN_LOWER = frozenset({"lpips", "dists", "flicker"})
BT601 = (65.481 / 255, 128.553 / 255, 24.966 / 255)
BT709 = (0.2126 * 219 / 255, 0.7152 * 219 / 255, 0.0722 * 219 / 255)

FrameMeasure = Callable[[np.ndarray, np.ndarray], float]


def luma(frame: np.ndarray, weights: Sequence[float] = BT601) -> np.ndarray:
    """Y in [16, 235] of uint8 [..., 3], float64, not rounded."""
    return frame.astype(np.float64) @ np.asarray(weights) + 16


def scikit_image() -> ModuleType:
    """The module `skimage.metrics`. It is optional; `common.extras.MissingExtra` is raised if it is not installed."""
    return need("skimage.metrics", "eval", "evaluation")


def psnr(result: np.ndarray, truth: np.ndarray) -> float:
    """PSNR in dB of two frames: uint8 [H, W, 3], or luma [H, W]."""
    if np.array_equal(result, truth):
        return IDENTICAL_DB
    error = np.square(truth.astype(np.float64) - result).mean()
    return float(decibels(torch.tensor(error), 255))


def ssim(result: np.ndarray, truth: np.ndarray) -> float:
    """SSIM of two frames, at most 1: uint8 [H, W, 3], or luma [H, W]."""
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    channels = -1 if truth.ndim == 3 else None
    return float(scikit_image().structural_similarity(truth, result, channel_axis=channels, **options))


def frame_scores(result: np.ndarray, truth: np.ndarray, crop: int) -> tuple[float, float]:
    """(PSNR in dB, SSIM) of one frame, uint8 [H, W, 3] each, after removing `crop` pixels at every border."""
    result, truth = cropped(result, crop), cropped(truth, crop)
    return psnr(result, truth), ssim(result, truth)


def cropped(frame: np.ndarray, crop: int) -> np.ndarray:
    """The frame without `crop` pixels at every border; ValueError if the rest is smaller than SSIM's window."""
    height, width = frame.shape[0] - 2 * crop, frame.shape[1] - 2 * crop
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(f"frames need {SSIM_WINDOW} pixels a side after the crop, not {width}x{height}.")
    return frame[crop : crop + height, crop : crop + width]


def laplacian_energy(frame: np.ndarray) -> float:
    """Mean square of the 3x3 Laplacian of luma."""
    return float(np.square(cv2.Laplacian(luma(frame), cv2.CV_64F)).mean())


FRAME_MEASURES: dict[str, FrameMeasure] = {
    "psnr": psnr,
    "ssim": ssim,
    "psnr_y": lambda a, b: psnr(luma(a), luma(b)),
    "ssim_y": lambda a, b: ssim(luma(a), luma(b)),
}


@dataclass(frozen=True)
class Measures:
    """The measures that are computed for every clip.

    names: the names of the measures, in the order of the table's columns.
    networks: LPIPS and DISTS, if they were chosen.
    """

    names: tuple[str, ...]
    networks: dict[str, nn.Module]

    @staticmethod
    def chosen(
        lpips: str | Path | None = None, dists: str | Path | None = None, more: Sequence[str] = ()
    ) -> "Measures":
        """Choose PSNR and SSIM, LPIPS and DISTS if their weight files are given, and `more` measures by name.

        Raises:
            ValueError: a name is unknown, or a file lacks weights.
            MissingExtra: see `scikit_image`.
        """
        scikit_image()  # before processes are started for it
        for name in more:
            if name not in WITHOUT_WEIGHTS:
                raise ValueError(f"there is no measure {name}; choose from {', '.join(WITHOUT_WEIGHTS)}")
        networks: dict[str, nn.Module] = {}
        for name, path, kind in (("lpips", lpips, PerceptualDistance), ("dists", dists, StructureTextureDistance)):
            if path is not None:
                networks[name] = kind.from_state(read_state_dict(path))
        others = [name for name in WITHOUT_WEIGHTS if name in more and name not in ALWAYS]
        return Measures((*ALWAYS, *networks, *others), networks)

    def of_clip(
        self, pairs: Iterable[tuple[np.ndarray, np.ndarray]], device: torch.device | str = "cpu"
    ) -> tuple[int, dict[str, float]]:
        """Return the number of frames, and the mean of each measure over them. Only VMAF holds all frames in memory.

        Args:
            pairs: a result's frame and its ground truth, uint8 [H, W, 3], one after another.
            device: where LPIPS, DISTS and VMAF are computed.
        """
        sums = dict.fromkeys(self.names, 0.0)
        energies, before, frames = np.zeros(2), None, 0
        kept: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for a, b in pairs:
            for name in self.names:
                if name in FRAME_MEASURES:
                    sums[name] += FRAME_MEASURES[name](a, b)
                elif name in self.networks:
                    sums[name] += self._distance(name, a, b, device)
            if "laplacian" in sums:
                energies += laplacian_energy(a), laplacian_energy(b)
            error = a.astype(np.int16) - b
            if before is not None and "flicker" in sums:
                sums["flicker"] += float(np.abs(error - before).mean())
            before = error
            if "vmaf" in sums:
                for frames_kept, frame in zip(kept, (a, b), strict=True):
                    frames_kept.append(luma(frame, BT709))
            frames += 1
        means = {name: value / frames for name, value in sums.items()}
        if "flicker" in means:
            means["flicker"] = sums["flicker"] / max(1, frames - 1)
        if "laplacian" in means:
            means["laplacian"] = energies[0] / energies[1] if energies[1] > 0 else math.nan
        if "vmaf" in means:
            means["vmaf"] = vmaf(np.stack(kept[0]), np.stack(kept[1]), device)
        return frames, means

    def _distance(self, name: str, a: np.ndarray, b: np.ndarray, device: torch.device | str) -> float:
        network = self.networks[name].to(device)
        with torch.no_grad(), torch.autocast(torch.device(device).type, enabled=False):
            return float(network(pixels(a, device), pixels(b, device)))


def pixels(frame: np.ndarray, device: torch.device | str) -> Tensor:
    """uint8 [H, W, 3] to float32 [1, 3, H, W] in [-1, 1]."""
    return uint8_to_model(torch.from_numpy(np.ascontiguousarray(frame)).to(device).permute(2, 0, 1)[None])
