"""Describes a machine for a bug report: versions, devices, and the chosen kernels."""

import os
import platform
from importlib import metadata

import torch

from common.kernels.triton_support import triton_available
from seedvr.folders import weights_folder

LIBRARIES = (
    "numpy", "diffusers", "huggingface_hub", "safetensors", "omegaconf", "av", "pillow", "opencv-python-headless",
    "triton", "flash-attn", "gguf", "pillow-heif", "peft",
)  # fmt: skip
VARIABLES = ("SEEDVR_CKPT_DIR", "SEEDVR_KERNELS", "CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF", "OMP_NUM_THREADS")


def describe() -> list[str]:
    """The facts, one per line. They contain no names of users or machines, and no path except the weights folder."""
    lines = [f"python {platform.python_version()} on {platform.platform()}", f"{os.cpu_count()} processors"]
    lines.append(f"torch {torch.__version__}, CUDA {torch.version.cuda}, HIP {torch.version.hip}")
    lines += [f"{library} {installed(library)}" for library in LIBRARIES]
    lines += codecs()
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        lines.append(f"cuda:{number} {about.name}, {about.total_memory / 2**30:.1f} GiB, sm_{about.major}{about.minor}")
    lines += [] if torch.cuda.is_available() else ["no CUDA device"]
    lines.append(f"own kernels: {'Triton' if triton_available() else 'not available, plain PyTorch'}")
    lines += [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    lines.append(f"weights in {weights_folder()}")
    return lines


def installed(library: str) -> str:
    """The version of an installed library, or a note that it is not installed."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"


def codecs() -> list[str]:
    """The versions of FFmpeg's libraries in PyAV."""
    import av

    return [f"{name} {'.'.join(map(str, version))}" for name, version in av.library_versions.items()]
