"""Finds the files of a preset's weights: those that the user names, or files with a known name in the folder."""

import re
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from projects.video_diffusion_sr.presets import Preset

# Suffixes of the released name in converted files, the most exact weights first.
VARIANTS = (
    "fp32",
    "bf16",
    "fp16",
    "fp8_e4m3fn_scaled",
    "fp8_scaled",
    "fp8_e4m3fn",
    r"fp8_e4m3fn_mixed_\w+",
    "fp8_e5m2",
)
GGUF_VARIANTS = (
    "F32",
    "BF16",
    "F16",
    "Q8_0",
    "Q6_K",
    r"Q5_K(_\w)?",
    r"Q5_\d",
    r"Q4_K(_\w)?",
    r"Q4_\d",
    r"Q3_K(_\w)?",
    "Q2_K",
)


def find_weights(released: Path) -> Path:
    """Find the file of the weights that are released as `released`; returns that path if there is none.

    It tries the released name, then that name as `.safetensors`, then the names that converters give:
    `NAME_fp16.safetensors`, `NAME_fp8_e4m3fn.safetensors`, `NAME-Q8_0.gguf` and so on, the most exact weights first.
    """
    for path in (released, released.with_suffix(".safetensors")):
        if path.is_file():
            return path
    if not released.parent.is_dir():
        return released
    files = sorted(path for path in released.parent.iterdir() if path.is_file())
    for variants, suffix in ((VARIANTS, "safetensors"), (GGUF_VARIANTS, "gguf")):
        for variant in variants:
            name = re.compile(rf"{re.escape(released.stem)}[-_.]{variant}\.{suffix}", re.IGNORECASE)
            if fitting := [path for path in files if name.fullmatch(path.name)]:
                return fitting[0]
    return released


def with_named_weights(
    preset: Preset, config: DictConfig, checkpoint: Path | None, vae_checkpoint: Path | None
) -> tuple[Preset, DictConfig]:
    """Put the weight files that the user named into the preset and its config; None keeps the default file.

    Raises:
        FileNotFoundError: a named file does not exist. No other file is used in its place.
    """
    for flag, path in (("--checkpoint", checkpoint), ("--vae_checkpoint", vae_checkpoint)):
        if path is not None and not path.is_file():
            kind = "is a folder; name the file in it" if path.is_dir() else "there is no such file"
            raise FileNotFoundError(f"{flag} {path}: {kind}")
    if checkpoint is not None:
        preset = replace(preset, checkpoint=str(checkpoint.resolve()))
    if vae_checkpoint is not None:
        config = config.copy()
        config.vae.checkpoint = str(vae_checkpoint.resolve())
    return preset, config
