"""Two ComfyUI nodes: one loads a restorer, one restores a batch of images. The package `seedvr` does the work."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

import seedvr

from .host import Progress, make_room

CATEGORY = "SeedVR"
MODEL = "SEEDVR_MODEL"
PRESETS_OWN = "as the model has it"
SCALE, SHORT_SIDE, AREA, EXACT = "scale", "short side", "area", "exact size"


class LoadSeedVR:
    """The node that loads a restorer. On a GPU it is quick, since weights are loaded only when they are needed."""

    CATEGORY = CATEGORY
    FUNCTION = "load"
    RETURN_TYPES = (MODEL,)
    RETURN_NAMES = ("model",)
    DESCRIPTION = "A SeedVR model: a preset's weights, where they compute, and how much memory they may take."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, tuple]]:
        """The inputs of the node, in the form that ComfyUI reads when it draws the node."""
        path = {"default": "", "tooltip": "A file in any layout that is read; empty: what `seedvr download` fetched."}
        return {
            "required": {"preset": (list(seedvr.presets()), {"default": "seedvr2_3b"})},
            "optional": {
                "device": (["auto", "cuda", "cpu", "mps", "xpu"], {"default": "auto"}),
                "dtype": ([PRESETS_OWN, "bfloat16", "float16", "float32"], {"default": PRESETS_OWN}),
                "vram": (
                    "FLOAT",
                    {"default": 0.0, "min": 0.0, "max": 1024.0, "step": 0.5,
                     "tooltip": "GiB of GPU memory to stay within; 0: what is free once ComfyUI's models are away."},
                ),
                "window": (
                    "INT",
                    {"default": -1, "min": -1, "max": 4097,
                     "tooltip": "Frames that go through the transformer at once; 0: the whole clip; -1: the preset's."},
                ),
                "weights_8_bit": ("BOOLEAN", {"default": False, "tooltip": "Less memory, not quite exact."}),
                "checkpoint": ("STRING", path),
                "vae_checkpoint": ("STRING", path),
                "ckpt_dir": ("STRING", {"default": "", "tooltip": "Folder of weights and prompt embeddings."}),
            },
        }  # fmt: skip

    def load(
        self,
        preset: str,
        device: str = "auto",
        dtype: str = PRESETS_OWN,
        vram: float = 0.0,
        window: int = -1,
        weights_8_bit: bool = False,
        checkpoint: str = "",
        vae_checkpoint: str = "",
        ckpt_dir: str = "",
    ) -> tuple[seedvr.Restorer]:
        """Load a restorer, see `INPUT_TYPES` for the arguments. Returns (the restorer,).

        Raises:
            seedvr.SeedVRError: weights are missing or do not fit.
        """
        make_room(device)
        with outside_of_inference_mode():
            restorer = seedvr.load(
                preset,
                device=device,
                dtype=None if dtype == PRESETS_OWN else dtype,
                vram=vram or None,
                window=None if window < 0 else window,
                weights_8_bit=weights_8_bit,
                checkpoint=checkpoint.strip() or None,
                vae_checkpoint=vae_checkpoint.strip() or None,
                ckpt_dir=ckpt_dir.strip() or None,
            )
        return (restorer,)


class RestoreSeedVR:
    """The node that restores an IMAGE: it outputs as many frames, in the size that is asked for."""

    CATEGORY = CATEGORY
    FUNCTION = "restore"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)
    DESCRIPTION = "Restores a clip, or each picture of a batch. The same seed gives the same result."

    # For each choice of `size`, the inputs that it uses.
    SIZES: ClassVar[dict[str, tuple[str, ...]]] = {
        SCALE: ("scale",),
        SHORT_SIDE: ("short_side",),
        AREA: ("height", "width"),
        EXACT: ("height", "width"),
    }

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, tuple]]:
        """The inputs of the node, in the form that ComfyUI reads when it draws the node."""
        pixels = {"min": 16, "max": 16384}
        return {
            "required": {
                "model": (MODEL,),
                "images": ("IMAGE",),
                "seed": ("INT", {"default": 666, "min": 0, "max": 2**64 - 1, "control_after_generate": True}),
                "size": (
                    list(cls.SIZES),
                    {"default": SCALE, "tooltip": "Which of the inputs below count. An area keeps the aspect ratio."},
                ),
                "scale": ("FLOAT", {"default": 2.0, "min": 0.1, "max": 16.0, "step": 0.1}),
                "short_side": ("INT", {"default": 1080, **pixels}),
                "height": ("INT", {"default": 720, **pixels}),
                "width": ("INT", {"default": 1280, **pixels}),
                "color_fix": (["wavelet", "lab", "adain", "none"], {"default": "wavelet"}),
                "strength": (
                    "FLOAT",
                    {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.05,
                     "tooltip": "Less than 1 mixes in the input, against over-sharpening."},
                ),
            },
            "optional": {
                "one_clip": (
                    "BOOLEAN",
                    {"default": True, "tooltip": "The batch is the frames of one clip; else each picture by itself."},
                ),
                "steps": ("INT", {"default": 0, "min": 0, "max": 1000, "tooltip": "0: how the model was made."}),
                "guidance": (
                    "FLOAT",
                    {"default": 0.0, "min": 0.0, "max": 30.0, "step": 0.1, "tooltip": "0: how the model was made."},
                ),
                "keep_loaded": (
                    "BOOLEAN",
                    {"default": True, "tooltip": "Else the networks leave the memory when the restoration ends."},
                ),
            },
        }  # fmt: skip

    def restore(
        self,
        model: seedvr.Restorer,
        images: Tensor,
        seed: int,
        size: str,
        scale: float,
        short_side: int,
        height: int,
        width: int,
        color_fix: str,
        strength: float,
        one_clip: bool = True,
        steps: int = 0,
        guidance: float = 0.0,
        keep_loaded: bool = True,
    ) -> tuple[Tensor]:
        """Restore images: [B, H, W, C] in [0, 1], C = 1, 3 or 4 -> (float32 [B, h, w, 3] in [0, 1],).

        Transparency is dropped; grey becomes RGB. ComfyUI's stop button ends the call. See `INPUT_TYPES` for the other
        arguments; 0 `steps` or `guidance` means the preset's value.

        Raises:
            seedvr.SeedVRError: the images or the settings cannot be used.
        """
        sizes = {"scale": scale, "short_side": short_side, "height": height, "width": width}
        asked = {name: sizes[name] for name in self.SIZES[size]}
        if size == EXACT:
            asked = {"size": (width, height)}
        settings = {**asked, "seed": seed, "color_fix": color_fix, "strength": strength}
        settings |= {"steps": steps or None, "guidance": guidance or None}
        frames = rgb(images)
        make_room(model.device.type)
        try:
            with outside_of_inference_mode():
                return (restored(model, frames, one_clip, settings),)
        finally:
            if not keep_loaded:
                model.release()


def restored(model: seedvr.Restorer, frames: Tensor, one_clip: bool, settings: dict[str, Any]) -> Tensor:
    """Restore frames [B, H, W, 3] as one clip, or picture by picture: float32 [B, h, w, 3] in [0, 1].

    Args:
        settings: keyword arguments of the restorer.
    """
    progress = Progress(len(frames))
    if one_clip:
        return model(frames, progress=progress, **settings).float()
    results = []
    for number, frame in enumerate(frames):
        progress.start_at(number)
        results.append(model(frame, progress=progress, **settings))
    return torch.stack(results).float()


def rgb(images: Tensor) -> Tensor:
    """Convert [B, H, W, 1, 3 or 4] to [B, H, W, 3]; InputError for other shapes. No copy is made."""
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        raise seedvr.InputError(f"images of shape {tuple(images.shape)} are no IMAGE: that is [B, H, W, 1, 3 or 4]")
    return images.expand(-1, -1, -1, 3) if images.shape[-1] == 1 else images[..., :3]


@contextmanager
def outside_of_inference_mode() -> Iterator[None]:
    """Leave inference mode, in which ComfyUI runs nodes: weights made in it could not be used outside of it later."""
    with torch.inference_mode(False), torch.no_grad():
        yield
