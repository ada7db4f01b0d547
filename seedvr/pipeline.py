"""A restorer with the interface of a diffusers pipeline. This module does not import diffusers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from common.logger import get_logger
from seedvr import saving
from seedvr.engine import Engine
from seedvr.errors import InputError, WeightsError, errors_as
from seedvr.frames import Form, take
from seedvr.loading import from_pretrained, load
from seedvr.restorer import Restorer

logger = get_logger(__name__)

OUTPUTS = ("np", "pt", "pil")
CLIPS = 5  # number of dimensions of an array with several clips
MOST = 65535  # the largest 16-bit value


@dataclass(frozen=True)
class SeedVRPipelineOutput:
    """The result of a call."""

    # "np": float32 [B, T, h, w, 3]; "pt": float32 [B, T, 3, h, w], both in 0..1; "pil": a list of lists of pictures.
    # `frames[0]` is the first clip.
    frames: Any


class SeedVRPipeline:
    """Restores clips: `SeedVRPipeline.from_pretrained("seedvr2_3b")(video=frames, scale=2).frames[0]`.

    Args:
        restorer: the result of `seedvr.load`.
    """

    def __init__(self, restorer: Restorer) -> None:
        self.restorer = restorer

    @classmethod
    def from_pretrained(
        cls, source: str | PathLike[str], *, torch_dtype: torch.dtype | str | None = None, **settings: Any
    ) -> Self:
        """Make a pipeline from a folder of `save_pretrained`, or from any source of `seedvr.from_pretrained`.

        Args:
            torch_dtype: dtype of the networks; None: bfloat16 on a GPU, float32 on a CPU.
            settings: as for `seedvr.load`; the default of `device` is "auto".
        Raises:
            WeightsError, InputError: as `seedvr.from_pretrained`.
        """
        settings = {"dtype": torch_dtype, **settings}
        if (Path(source) / saving.INDEX).is_file():
            return cls(load(**{**saving.read(Path(source)), **settings}))
        return cls(from_pretrained(source, **settings))

    def save_pretrained(self, folder: str | PathLike[str]) -> None:
        """Write a folder that `from_pretrained` reads. A LoRA is merged into the weights.

        Raises:
            InputError: the path is a file.
            WeightsError: the files from which the pipeline was loaded are missing.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; name a folder")
        with errors_as(WeightsError, FileNotFoundError, ValueError):
            saving.save(folder, self._engine.settings)

    @property
    def device(self) -> torch.device:
        """The device on which the networks compute."""
        return self.restorer.device

    def to(self, device: str | torch.device) -> Self:
        """Move the networks to another device. Their weights are read from the files again."""
        if torch.device(device) != self.device and str(device) != self.device.type:
            moved = Engine(self._engine.preset, replace(self._engine.request, device=str(device)))
            moved.demands = self._engine.demands
            self.restorer = Restorer(moved)
        return self

    def enable_model_cpu_offload(self) -> None:
        """Keep only the network in use on the GPU."""
        self._demand("enable_model_cpu_offload", offload="models")

    def enable_sequential_cpu_offload(self) -> None:
        """Copy the transformer's blocks to the GPU one by one, which needs the least memory and is slower."""
        self._demand("enable_sequential_cpu_offload", offload="blocks")

    def enable_vae_tiling(self) -> None:
        """Make the VAE process pictures in tiles, which is not exact. By default, only if nothing else fits."""
        self._demand("enable_vae_tiling", tiles=True)

    def disable_vae_tiling(self) -> None:
        """Restore the default: the VAE uses tiles only if nothing else fits into memory."""
        self._demand("disable_vae_tiling", tiles=False)

    def __call__(
        self,
        video: Any = None,
        image: Any = None,
        *,
        height: int | None = None,
        width: int | None = None,
        scale: float | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        strength: float = 1.0,
        color_fix: str = "wavelet",
        output_type: str = "np",
        progress: Callable[[str, int, int | None], None] | None = None,
        return_dict: bool = True,
    ) -> SeedVRPipelineOutput | tuple[Any]:
        """Restore one clip, several clips of one size and length, or a picture.

        Args:
            video: frames in any form of `seedvr.Restorer`, a path, or clips [B, T, H, W, 3] or [B, T, 3, H, W].
            image: a picture, in place of `video`.
            height, width, scale: the exact size in pixels, or a factor of the input's. None: the preset's area.
            num_inference_steps, guidance_scale: None: the preset's. A guidance scale of 1 is no guidance.
            generator, seed: the generator from which a seed is drawn, or the seed; the default seed is 666.
            strength, color_fix, progress: as for `seedvr.Restorer`.
            output_type: "np", "pt" or "pil". return_dict: False: return the tuple (frames,).
        Raises:
            InputError, WeightsError, MemoryPlanError.
        """
        if output_type not in OUTPUTS:
            raise InputError(f"output_type {output_type!r} is not known; choose one of {', '.join(OUTPUTS)}")
        if (video is None) == (image is None):
            raise InputError("give a video or an image, one of them")
        if (height is None) != (width is None):
            raise InputError("height and width are given together; for one factor there is scale")
        settings: dict[str, Any] = {
            "size": None if height is None else (width, height),
            "scale": scale,
            "seed": seed_of(generator, seed),
            "strength": strength,
            "color_fix": color_fix,
            "steps": num_inference_steps,
            "guidance": guidance_scale,
            "progress": progress,
        }
        given = image if video is None else video
        frames = given_as([as_words(self.restorer(clip, **settings)) for clip in clips_of(given)], output_type)
        return SeedVRPipelineOutput(frames) if return_dict else (frames,)

    def maybe_free_model_hooks(self) -> None:
        """Free the networks' memory; the next call loads them again."""
        self.restorer.release()

    @property
    def _engine(self) -> Engine:
        return self.restorer._engine

    def _demand(self, call: str, **change: Any) -> None:
        if self._engine.budget is None:
            logger.warning("%s: memory is planned on CUDA devices; on the %s it has no effect", call, self.device.type)
        self._engine.demands = replace(self._engine.demands, **change)


def seed_of(generator: torch.Generator | None, seed: int | None) -> int:
    """The seed of a call. Drawing it advances a generator, so the next call with it differs, as in diffusers."""
    if generator is None:
        return 666 if seed is None else seed
    if seed is not None:
        raise InputError("give a generator or a seed, one of them")
    return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))


def clips_of(given: Any) -> list[Any]:
    """Split the input into clips, each in a form that a restorer accepts."""
    if isinstance(given, (np.ndarray, Tensor)) and given.ndim == CLIPS:
        return list(given)
    return [given]


def as_words(frames: Any) -> Tensor:
    """Convert a restorer's result to 16-bit words (int16) [T, 3, h, w]. Floats are multiples of 1/65535: no loss."""
    values = take(frames)[0]
    words = values * MOST if values.is_floating_point() else values.to(torch.int32) * (MOST // 255)
    return words.round().to(torch.int32).to(torch.int16)


def given_as(clips: list[Tensor], output_type: str) -> Any:
    """Convert clips of 16-bit words [T, 3, h, w] to the requested `output_type`."""
    if output_type == "pil":
        return [Form("pil").give(((clip.to(torch.int32) & MOST) / 257).round().to(torch.uint8)) for clip in clips]
    form = Form("torch", last=False, real=True, dtype=torch.float32)
    stacked = torch.stack([form.give(clip) for clip in clips])
    return stacked if output_type == "pt" else stacked.permute(0, 1, 3, 4, 2).contiguous().numpy()
