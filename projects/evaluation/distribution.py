"""Measures that compare a set of results with a set of ground truths, without trained weights.

| name | definition | value if both sets are alike |
| --- | --- | --- |
| two_sample | area under the ROC curve of a newly trained CNN that classifies patches as result or truth | 0.5 |
| swd | sliced Wasserstein distance of 7x7 patches, mean over the levels of a Laplacian pyramid, x 1000 | 0 |
| spectrum | root mean square difference of the log power spectra, dB, over rings of equal frequency | 0 |
| finest | the same difference, signed, in the finest octave: below 0 for blur, above 0 for speckle | 0 |

The two-sample test is Lopez-Paz and Oquab's (arXiv 1610.06545); the pyramid of patches is Karras et al.'s (1710.10196).
PSNR and SSIM are best for the mean of all pictures that could have given the degraded one; these measures are not.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.pixel_range import uint8_to_model

NAMES = ("two_sample", "swd", "spectrum", "finest")
LEVELS, SIDE, PROJECTIONS, PATCHES = (
    3,
    7,
    256,
    128,
)  # of the pyramid; of a patch; directions; patches a picture and level
PATCH, BATCH, UPDATES, CHANNELS = 64, 64, 400, (32, 64, 128, 128)  # of the two-sample test
FOLDS = 2  # a picture is classified by a network that was trained on the other fold


def distribution_measures(
    results: Sequence[np.ndarray], truths: Sequence[np.ndarray], device: torch.device | str = "cpu", seed: int = 0
) -> dict[str, float]:
    """Compute all measures of this module, by name.

    Args:
        results, truths: pictures uint8 [H, W, 3] in the same order, at least 64 pixels high and wide.
        device: where the CNN is trained.
        seed: the seed for patches, directions and the CNN.

    Raises:
        ValueError: there are fewer than four pictures, or a picture is too small.
    """
    if len(results) < 2 * FOLDS or len(results) != len(truths):
        raise ValueError(f"measures of a set need {2 * FOLDS} results and their truths, got {len(results)}.")
    if min(min(x.shape[:2]) for x in (*results, *truths)) < PATCH:
        raise ValueError(f"measures of a set need pictures of {PATCH} pixels a side.")
    rms, finest = spectrum_difference(results, truths)
    return {
        "two_sample": two_sample(results, truths, device, seed),
        "swd": sliced_wasserstein(results, truths, seed),
        "spectrum": rms,
        "finest": finest,
    }


def two_sample(
    results: Sequence[np.ndarray], truths: Sequence[np.ndarray], device: torch.device | str, seed: int
) -> float:
    """The area under the ROC curve on held-out pictures, averaged over folds.

    A training batch never contains a result and its own ground truth, so the CNN cannot use the content. The pictures
    of a fold are classified by the network that was trained without them.
    """
    order = np.random.default_rng(seed).permutation(len(results))
    areas = []
    for fold in range(FOLDS):
        held_out, seen = order[fold::FOLDS], np.setdiff1d(order, order[fold::FOLDS])
        classifier = trained_classifier([results[i] for i in seen], [truths[i] for i in seen], device, seed + fold)
        scores = []
        with torch.no_grad():
            for pictures in ([results[i] for i in held_out], [truths[i] for i in held_out]):
                scores.append(torch.cat([classifier(tiles(x).to(device)).flatten() for x in pictures]).cpu().numpy())
        areas.append(area_under_curve(*scores))
    return float(np.mean(areas))


def trained_classifier(
    results: Sequence[np.ndarray], truths: Sequence[np.ndarray], device: torch.device | str, seed: int
) -> nn.Module:
    """Train a CNN from random weights to give high logits for ground truths and low logits for results."""
    generator = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for before, after in zip((3, *CHANNELS), CHANNELS, strict=False):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.SiLU()]
        classifier = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS[-1], 1)).to(
            device
        )
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, UPDATES)
    wanted = torch.arange(BATCH, device=device).lt(BATCH // 2).float()  # truths first
    for _ in range(UPDATES):
        places = generator.permutation(len(truths))
        half = max(1, len(places) // 2)
        sides = ((truths, places[:half]), (results, places[half:]))
        clips = [
            cropped(pictures[generator.choice(numbers)], generator)
            for pictures, numbers in sides
            for _ in range(BATCH // 2)
        ]
        logits = classifier(torch.stack(clips).to(device)).flatten()
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(logits, wanted).backward()
        optimizer.step()
        schedule.step()
    return classifier.eval()


def cropped(picture: np.ndarray, generator: np.random.Generator) -> Tensor:
    """A random patch, mirrored with probability one half: float32 [3, PATCH, PATCH] in [-1, 1]."""
    y, x = (int(generator.integers(side - PATCH + 1)) for side in picture.shape[:2])
    patch = picture[y : y + PATCH, x : x + PATCH][:, :: int(generator.choice((-1, 1)))]
    return uint8_to_model(torch.from_numpy(patch.copy()).permute(2, 0, 1))


def tiles(picture: np.ndarray) -> Tensor:
    """All adjacent patches that fit into the picture: float32 [n, 3, PATCH, PATCH] in [-1, 1]."""
    whole = uint8_to_model(torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1))
    return whole.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).permute(1, 2, 0, 3, 4).flatten(0, 1)


def area_under_curve(low: np.ndarray, high: np.ndarray) -> float:
    """The probability that a score of `high` exceeds a score of `low`; ties count one half."""
    ranks = np.searchsorted(np.sort(low), high, "left") + np.searchsorted(np.sort(low), high, "right")
    return float(ranks.mean() / (2 * len(low)))


def sliced_wasserstein(results: Sequence[np.ndarray], truths: Sequence[np.ndarray], seed: int = 0) -> float:
    """The measure `swd`. Patches are at the same positions in both sets, normalised by the truths' statistics."""
    generator = np.random.default_rng(seed)
    levels: list[tuple[list[np.ndarray], list[np.ndarray]]] = [([], []) for _ in range(LEVELS)]
    for result, truth in zip(results, truths, strict=True):
        for level, (a, b) in enumerate(zip(pyramid(result), pyramid(truth), strict=True)):
            y, x = (generator.integers(side - SIDE + 1, size=PATCHES) for side in b.shape[:2])
            for store, image in zip(levels[level], (a, b), strict=True):
                windows = np.lib.stride_tricks.sliding_window_view(image, (SIDE, SIDE), (0, 1))
                store.append(windows[y, x])  # n 3 7 7
    distances = []
    for both in levels:
        a, b = (np.concatenate(part) for part in both)
        mean, std = (f(b, axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
        a, b = (((x - mean) / (std + 1e-8)).reshape(len(x), -1) for x in (a, b))
        directions = generator.standard_normal((a.shape[1], PROJECTIONS))
        directions /= np.linalg.norm(directions, axis=0)
        distances.append(np.abs(np.sort(a @ directions, axis=0) - np.sort(b @ directions, axis=0)).mean())
    return float(1000 * np.mean(distances))


def pyramid(picture: np.ndarray) -> list[np.ndarray]:
    """The Laplacian pyramid from the finest level to the low-pass residual: float [H, W, 3] each."""
    image = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float()
    made = []
    for _ in range(LEVELS - 1):
        small = F.interpolate(image, scale_factor=0.5, mode="bilinear", antialias=True)
        made.append(image - F.interpolate(small, image.shape[-2:], mode="bilinear"))
        image = small
    return [x[0].permute(1, 2, 0).numpy() for x in (*made, image)]


def spectrum_difference(results: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> tuple[float, float]:
    """The measures `spectrum` and `finest`: root mean square over rings, and mean of the finest octave, in dB."""
    difference = 10 * np.log10(np.stack([mean_spectrum(results), mean_spectrum(truths)]) + 1e-6)
    difference = difference[0] - difference[1]
    return float(np.sqrt(np.square(difference).mean())), float(difference[len(difference) // 2 :].mean())


def mean_spectrum(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """The power spectrum of luma, averaged over windowed patches, in `PATCH` / 2 rings up to half the sampling rate."""
    window = np.hanning(PATCH + 1)[:-1]
    frequency = np.fft.fftfreq(PATCH)
    ring = np.minimum((np.hypot(frequency[:, None], frequency) * PATCH).round().astype(int), PATCH // 2)
    total, count = np.zeros((PATCH, PATCH)), 0
    for picture in pictures:
        gray = tiles(picture).numpy().mean(1) * 127.5
        gray = (gray - gray.mean((1, 2), keepdims=True)) * window[:, None] * window
        total += np.square(np.abs(np.fft.fft2(gray))).sum(0)
        count += len(gray)
    rings = np.bincount(ring.ravel(), (total / count).ravel()) / np.bincount(ring.ravel())
    return rings[1 : PATCH // 2]
