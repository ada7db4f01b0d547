"""Finds the clips of a benchmark, and reads their frames as uint8 [H, W, 3]."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.logger import get_logger
from data.image.transforms.na_resize import bicubic_8_bit
from data.media import is_probably_media, open_media
from data.media.find import IMAGE_SUFFIXES
from data.pixel_range import model_to_uint8

logger = get_logger(__name__)


def find_clips(folder: Path) -> dict[str, Path]:
    """Find the clips of a folder, by their names without suffix.

    A video is a clip, and so is a subfolder of pictures. A subfolder of videos or of folders of pictures is a set; its
    clips are named SET/CLIP.

    Raises:
        ValueError: the folder is missing or empty, or two entries share a name.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder.")
    clips = _clips_of(folder)
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.name.startswith(".") and not frame_files(entry):
            clips |= {f"{entry.name}/{name}": path for name, path in _clips_of(entry).items()}
    if not clips:
        raise ValueError(f"{folder} holds no video, picture or folder of frames.")
    return clips


def _clips_of(folder: Path) -> dict[str, Path]:
    """Clips directly in a folder, by name."""
    clips: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or (entry.is_dir() and not frame_files(entry)):
            continue
        if entry.is_file() and not is_probably_media(entry):
            continue
        name = entry.name if entry.is_dir() else entry.stem
        if name in clips:
            raise ValueError(f"{folder} holds both {clips[name].name} and {entry.name}: one name stands for one clip.")
        clips[name] = entry
    return clips


def set_of(clip: str) -> str:
    """The name of a clip's set; empty if the clip is directly in the benchmark's folder."""
    return clip.rpartition("/")[0]


def frame_files(folder: Path) -> list[Path]:
    """The pictures of a folder, ordered by the numbers in their names."""
    files = [f for f in folder.iterdir() if f.is_file() and not f.name.startswith(".") and _is_picture(f)]
    return sorted(files, key=lambda f: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", f.name)])


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES


def read_frames(path: Path) -> Iterator[np.ndarray]:
    """Yield the frames of a clip: uint8 [H, W, 3]."""
    for file in frame_files(path) if path.is_dir() else [path]:
        with open_media(file) as reader:
            for frame in reader:
                yield frame.pixels.permute(1, 2, 0).numpy()
            if reader.damage:
                logger.warning("%s", reader.damage)


def enlarge(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a frame as the restorer resizes its input (bicubic): uint8 [h, w, 3] -> uint8 [height, width, 3]."""
    pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)
    return bicubic_8_bit(pixels, (height, width)).permute(1, 2, 0).numpy()


def stored_frames(clip: Tensor) -> np.ndarray:
    """Convert a clip [3, T, H, W] in about [-1, 1] to 8 bits: uint8 [T, H, W, 3]."""
    return model_to_uint8(clip).permute(1, 2, 3, 0).cpu().numpy()
