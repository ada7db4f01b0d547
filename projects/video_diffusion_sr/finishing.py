"""Converts input frames to the pixels for the networks, and decoded frames to the pixels of the result."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.colour.path import PixelPath
from data.media import Frame, alpha_of, rgb_of
from data.media.image_pixels import fill_hidden
from data.pixel_range import model_to_uint8, unit_to_model
from projects.video_diffusion_sr.color_fix import fix_colour
from projects.video_diffusion_sr.memory.predict import FINISH_FRAMES
from projects.video_diffusion_sr.request import ResultOptions
from projects.video_diffusion_sr.restorer import Restorer
from projects.video_diffusion_sr.strength import mixed


def pixels_of(frames: Sequence[Frame], restorer: Restorer, path: PixelPath) -> tuple[Tensor, Tensor | None]:
    """Convert frames on the device: (pixels [T, 3, H, W] for the networks, alpha [T, 1, H, W] in [0, 1] or None)."""
    rgb, alpha = rgb_of(frames, restorer.device, path.dtype_in), alpha_of(frames, restorer.device)
    if path.curve != "none":
        for picture in rgb:  # one by one, because a curve takes memory for several copies
            picture.copy_(path.into(picture))
    if alpha is not None:  # otherwise the networks would mix colours of transparent pixels into visible ones
        rgb = torch.stack([fill_hidden(picture, seen) for picture, seen in zip(rgb, alpha, strict=True)])
    return rgb, alpha


def as_rgb(frames: Tensor) -> tuple[Tensor, ...]:
    """Store frames unchanged."""
    return (frames,)


@dataclass(frozen=True)
class PixelForm:
    """How the pixels of one clip are converted before and after the networks.

    path: the conversion from the file to the networks, and from results to what `stored` takes.
    stored: converts results, on their device, to what a file stores, see `MediaWriter.planes_for`.
    """

    path: PixelPath = PixelPath()  # noqa: RUF009 (frozen)
    stored: Callable[[Tensor], tuple[Tensor, ...]] = as_rgb


@dataclass(frozen=True)
class Finisher:
    """Finishes decoded frames of one clip: crop, colour fix, strength, conversion.

    size: (height, width) of results.
    restorer: the settings of the run.
    form: conversion of pixels before and after the networks.
    transparent: whether results have alpha.
    """

    size: tuple[int, int]
    restorer: Restorer
    form: PixelForm = PixelForm()
    transparent: bool = False

    def new_outputs(self, frames: int) -> list[Tensor]:
        """Zeros for this many frames; the last tensor is for the result as it is stored.

        If a comparison is shown (`ResultOptions.pairs`), uint8 tensors of the input and, unless the stored result has 8
        bits and no alpha, of the result come before it.
        """
        compared, shown_apart = self.restorer.result_options.pairs, self.form.path.bits == 16 or self.transparent
        kinds = [(3, torch.uint8)] * (compared * (1 + shown_apart)) + [(3 + self.transparent, self.form.path.dtype_out)]
        return [torch.zeros(frames, c, *self.size, dtype=t, device=self.restorer.device) for c, t in kinds]

    def finish(self, clip: Tensor, degraded: list[Frame]) -> tuple[Tensor, ...]:
        """The tensors of `new_outputs`, filled from decoded frames [3, T, h', w'] and input frames, a few at a time.

        Frames after the end of the input stay zero.
        """
        outputs, restorer = self.new_outputs(clip.shape[1]), self.restorer
        for start in range(0, len(degraded), FINISH_FRAMES):
            given = degraded[start : start + FINISH_FRAMES]
            rgb, alpha = pixels_of(given, restorer, self.form.path)
            resized = torch.stack([restorer.geometry.to_output(frame, restorer.device) for frame in rgb])
            clip_of_chunk = clip[:, start : start + len(given)].to(restorer.device)
            finished = finish(clip_of_chunk, resized, restorer.result_options)
            shown = [model_to_uint8(resized), model_to_uint8(finished)][: len(outputs) - 1]
            result = self.form.path.back(finished)
            if self.transparent:
                result = torch.cat([result, self._alpha(alpha, result)], dim=1)
            for target, made in zip(outputs, [*shown, result], strict=True):
                target[start : start + len(given)] = made
        return tuple(outputs)

    def _alpha(self, alpha: Tensor | None, result: Tensor) -> Tensor:
        """The alpha of results, resized from that of the input; opaque if the input has none."""
        if alpha is None:
            return torch.full_like(result[:, :1], 255 if self.form.path.bits == 8 else -1)
        unit = self.restorer.geometry.alpha_to_output(alpha)
        return PixelPath(bits=self.form.path.bits).back(unit_to_model(unit))


def finish(clip: Tensor, degraded: Tensor, options: ResultOptions) -> Tensor:
    """Crop the padding, then apply the colour fix and the strength: [T, 3, h, w] float32 about [-1, 1].

    Args:
        clip: decoded frames [3, T', h', w'].
        degraded: the resized input [T, 3, h, w], T <= T'.
    """
    frames, _, height, width = degraded.shape
    content = clip[:, :frames, :height, :width].transpose(0, 1).float()
    result = fix_colour(options.color_fix, content, degraded)
    return result if options.strength == 1.0 else mixed(degraded, result, options.strength)
