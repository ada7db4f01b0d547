"""A restorer with the interface of a diffusers pipeline. It does not import diffusers."""

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
CLIPS = 5  # dimensions of several clips in one array
MOST = 65535  # of a 16-bit word


@dataclass(frozen=True)
class SeedVRPipelineOutput:
    """The result of a call."""

    # "np": float32 [B, T, h, w, 3]; "pt": float32 [B, T, 3, h, w], both in 0..1; "pil": a list of lists of pictures.
    # `frames[0]` is the first clip.
    frames: Any


class SeedVRPipeline:
    """Restores clips: `SeedVRPipeline.from_pretrained("seedvr2_3b")(video=frames, scale=2).frames[0]`.

    Args:
        restorer: of `seedvr.load`.
    """

    def __init__(self, restorer: Restorer) -> None:
        self.restorer = restorer

    @classmethod
    def from_pretrained(
        cls, source: str | PathLike[str], *, torch_dtype: torch.dtype | str | None = None, **settings: Any
    ) -> Self:
        """A pipeline from a folder of `save_pretrained`, or from anything that `seedvr.from_pretrained` takes.

        Args:
            torch_dtype: of the networks; None: bfloat16 on a GPU, float32 on a CPU.
            settings: as for `seedvr.load`; `device` is "auto" where it is not named.
        Raises:
            WeightsError, InputError: as `seedvr.from_pretrained`.
        """
        settings = {"dtype": torch_dtype, **settings}
        if (Path(source) / saving.INDEX).is_file():
            return cls(load(**{**saving.read(Path(source)), **settings}))
        return cls(from_pretrained(source, **settings))

    def save_pretrained(self, folder: str | PathLike[str]) -> None:
        """Write a folder that `from_pretrained` reads, LoRA merged.

        Raises:
            InputError: the path is a file. WeightsError: the files from which this was loaded are missing.
        """
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; name a folder")
        with errors_as(WeightsError, FileNotFoundError, ValueError):
            saving.save(folder, self._engine.settings)

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""
        return self.restorer.device

    def to(self, device: str | torch.device) -> Self:
        """Compute there from now on; the weights are read from their files again."""
        if torch.device(device) != self.device and str(device) != self.device.type:
            moved = Engine(self._engine.preset, replace(self._engine.request, device=str(device)))
            moved.demands = self._engine.demands
            self.restorer = Restorer(moved)
        return self

    def enable_model_cpu_offload(self) -> None:
        """Only the network that computes is on the GPU."""
        self._demand("enable_model_cpu_offload", offload="models")

    def enable_sequential_cpu_offload(self) -> None:
        """The transformer's blocks come to the GPU one by one: the least memory, and slower."""
        self._demand("enable_sequential_cpu_offload", offload="blocks")

    def enable_vae_tiling(self) -> None:
        """The VAE takes the picture in tiles. Not exact; without it tiles are taken only where nothing else fits."""
        self._demand("enable_vae_tiling", tiles=True)

    def disable_vae_tiling(self) -> None:
        """Tiles only where nothing else fits, as at first."""
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
            image: a picture in its place, a clip of one frame.
            height, width: exactly these pixels; or scale: times the input's size. None: the preset's area.
            num_inference_steps, guidance_scale: None: how the model was made to be sampled. 1 is no guidance.
            generator: a seed is drawn from it; or seed: same seed, same result. Neither: 666.
            output_type: "np", "pt" or "pil". return_dict: False gives the tuple (frames,).
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
    """The seed of a call. A generator moves on, so a second call with it gives another result, as in diffusers."""
    if generator is None:
        return 666 if seed is None else seed
    if seed is not None:
        raise InputError("give a generator or a seed, one of them")
    return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))


def clips_of(given: Any) -> list[Any]:
    """One clip or several, each in a form that a restorer takes."""
    if isinstance(given, (np.ndarray, Tensor)) and given.ndim == CLIPS:
        return list(given)
    return [given]


def as_words(frames: Any) -> Tensor:
    """A restorer's result -> 16-bit words (int16) [T, 3, h, w]. Floats come in steps of 1/65535: nothing is lost."""
    values = take(frames)[0]
    words = values * MOST if values.is_floating_point() else values.to(torch.int32) * (MOST // 255)
    return words.round().to(torch.int32).to(torch.int16)


def given_as(clips: list[Tensor], output_type: str) -> Any:
    """16-bit words [T, 3, h, w] each -> clips in the requested `output_type`."""
    if output_type == "pil":
        return [Form("pil").give(((clip.to(torch.int32) & MOST) / 257).round().to(torch.uint8)) for clip in clips]
    form = Form("torch", last=False, real=True, dtype=torch.float32)
    stacked = torch.stack([form.give(clip) for clip in clips])
    return stacked if output_type == "pt" else stacked.permute(0, 1, 3, 4, 2).contiguous().numpy()
