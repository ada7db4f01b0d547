"""The identity of a run: everything that must be unchanged to resume a clip, by the names of the flags.

The number of ranks and the memory plan are not part of it, because they change results at most by rounding.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import av
import torch
from omegaconf import OmegaConf

from data.media import MediaInfo
from data.media.sequence import folder_of, is_sequence
from projects.video_diffusion_sr.request import ROOT
from projects.video_diffusion_sr.restorer import Restorer
from projects.video_diffusion_sr.scene_cuts import AUTO, OFF, read_list
from projects.video_diffusion_sr.settings import RunSettings

NO_MATTER = {  # fields of a request that the identity does not contain directly, since it has what follows from them
    "device", "dtype", "res", "size", "vram", "shard_weights", "overlap", "ckpt_dir", "checkpoint", "vae_checkpoint",
    "lora", "config", "overrides", "result_options", "resume", "window_frames", "cuts", "clip_range",
}  # fmt: skip
SHOWN_BESIDE = {"compare", "page_bytes"}  # fields of `ResultOptions` that do not change the result
PARTS = ("common", "data", "models", "projects/video_diffusion_sr")  # folders of the program that affect results
SAMPLES, SAMPLE_BYTES = 64, 64 * 1024  # number and size of samples of a large file, which is not read whole


def run_identity(settings: RunSettings, prompts: Iterable[Path] = ()) -> dict[str, str]:
    """The part of the identity that all files of a run share."""
    import cv2  # imported here, because it slows down the start of the program

    request = settings.request
    asked = {name: value for name, value in vars(request).items() if name not in NO_MATTER}
    weights = [path for path in (*settings.checkpoints, request.lora, *prompts) if path is not None]
    device = torch.cuda.get_device_name(settings.device) if settings.device.type == "cuda" else settings.device.type
    named = {
        "the model": settings.preset.name,
        "the device": device,
        "the dtype": settings.dtype,
        "the window": settings.window,
        "the configuration": _digest(json.dumps(OmegaConf.to_container(settings.config), sort_keys=True).encode()),
        "the sampling": settings.sampling,
        "the weights": " ".join(fingerprint(path) for path in weights),
        "the program": program_digest(),
        "the libraries": f"torch {torch.__version__}, av {av.__version__}, opencv {cv2.__version__}",
    }
    shown = {*SHOWN_BESIDE, "output"}
    options = {name: value for name, value in vars(request.result_options).items() if name not in shown}
    form = {name: value for name, value in vars(request.result_options.stored).items() if value is not None}
    return {name: str(value) for name, value in {**named, **asked, **options, **form}.items()}


def identity_of(restorer: Restorer, info: MediaInfo, size: tuple[int, int]) -> dict[str, str] | None:
    """The identity for one file with a result of `size` (height, width); None if no segments are kept."""
    if restorer.identity is None or info.kind == "image":
        return None
    cuts = restorer.cuts.source
    if cuts not in (AUTO, OFF):
        cuts = str(sorted(set(read_list(restorer.cuts.list_of(info.path)))))
    part = ", ".join(f"{name} {value}" for name, value in vars(restorer.clip_range).items() if value) or "all of it"
    return {
        **restorer.identity,
        "the input": input_fingerprint(info.path),
        "the part": part,
        "the size": f"{size[1]}x{size[0]}",
        "the scene cuts": cuts,
    }


def input_fingerprint(path: Path) -> str:
    """A fingerprint of an input, which changes if the file, or a picture of a sequence, is replaced."""
    if not is_sequence(path):
        return f"{fingerprint(path)} of {path.stat().st_mtime_ns}"
    files = sorted(entry for entry in folder_of(path).iterdir() if entry.is_file())
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return _digest(json.dumps(facts).encode())


def fingerprint(path: Path) -> str:
    """A digest of a file's size and of samples from all parts of it."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(SAMPLES):
            file.seek(max(size - SAMPLE_BYTES, 0) * number // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def program_digest() -> str:
    """A digest of the source code that affects results."""
    sources = sorted(path for part in PARTS for path in (ROOT / part).rglob("*.py"))
    return _digest(b"\0".join(path.read_bytes() for path in sources))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
