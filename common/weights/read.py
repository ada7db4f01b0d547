"""Reads a checkpoint in any supported layout as name -> weight, with the names of the release."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from common.checkpoint import ADVICE, is_rope_frequency, read_state_dict, shown
from common.logger import get_logger
from common.weights.gguf_file import read_gguf
from common.weights.names import other_contents, without_embeddings, without_prefix
from common.weights.scaled import FLOAT8, join_scales
from common.weights.stored import StoredWeight

logger = get_logger(__name__)

SUFFIXES = (".pth", ".pt", ".safetensors", ".gguf")


def read_weights(path: str | Path, wanted: Mapping[str, Tensor]) -> dict[str, Tensor | StoredWeight]:
    """Read the weights of a file, for `common.checkpoint.load_into`, which checks them strictly.

    Supported are `.pth` and `.safetensors` in any float dtype, plain 8-bit floats, 8-bit floats and integers with a
    scale per tensor or row, GGUF, and names with the prefixes of other programs. The file stays memory-mapped, and
    quantised weights are expanded one at a time when they are loaded. The debug log names the layout.

    Args:
        path: the weight file.
        wanted: the network's state dict on any device, including meta; only names and shapes are read.
    Raises:
        FileNotFoundError: the file does not exist.
        MissingExtra: the file is GGUF, and the package that reads it is not installed.
        ValueError: the file is damaged, has the weights of another model, or an unsupported layout.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: weights are read from {', '.join(SUFFIXES[:-1])} and {SUFFIXES[-1]} files only")
    if path.suffix.lower() == ".gguf" and path.is_file():
        raw, words, architecture = read_gguf(path)
        header: dict[str, str] = {}
    else:
        raw, words, architecture = {**read_state_dict(path)}, "", ""
        header = read_header(path)
    state, prefix = without_prefix(raw, wanted)
    state = without_embeddings(state)
    if kind := other_contents(state, wanted):
        named = f" (it calls itself {architecture!r})" if architecture else ""
        raise ValueError(f"{path} holds {kind}{named}. {ADVICE}")
    state, scaled = join_scales(state, header, set(wanted), path)
    refuse_unknown_floats(state, path)
    foreign = bool(prefix or scaled or words)
    if foreign:  # converters leave out what the program computes anyway
        absent = {name: tensor for name, tensor in wanted.items() if is_rope_frequency(name) and name not in state}
        state.update({name: torch.empty(tensor.shape, device="meta") for name, tensor in absent.items()})
    logger.debug("%s: %s", path, layout(state, words, scaled, prefix))
    return state


def read_header(path: Path) -> dict[str, str]:
    """The metadata in the header of a `.safetensors` file."""
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def refuse_unknown_floats(state: Mapping[str, Tensor | StoredWeight], path: Path) -> None:
    """Raise ValueError for floats of less than 8 bits or of exponents only, which belong to unsupported layouts."""
    known = (torch.float64, torch.float32, torch.float16, torch.bfloat16, *FLOAT8)
    odd = [name for name, w in state.items() if w.dtype.is_floating_point and w.dtype not in known]
    if odd:
        kind = str(state[odd[0]].dtype).removeprefix("torch.")
        raise ValueError(
            f"{path} holds {shown(odd)} as {kind}, which is not read; use the 16-bit file of the same weights"
        )


def layout(state: Mapping[str, Tensor | StoredWeight], words: str, scaled: str | None, prefix: str) -> str:
    """Describe the layout of a file in one line."""
    counts: dict[str, int] = {}
    for weight in state.values():
        if isinstance(weight, Tensor) and not weight.is_meta:
            kind = str(weight.dtype).removeprefix("torch.")
            counts[kind] = counts.get(kind, 0) + 1
    plain = ", ".join(f"{count} tensors {kind}" for kind, count in sorted(counts.items()))
    parts = [part for part in (words, scaled, plain) if part]
    where = f", names below {prefix!r}" if prefix else ""
    small = any(isinstance(weight, StoredWeight) for weight in state.values())
    return "; ".join(parts) + where + (", dequantised at loading" if small else "")
