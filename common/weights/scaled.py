"""Reads weights that are stored as 8-bit numbers with scales, and refuses unsupported layouts.

The scale of `NAME.weight` is `NAME.scale_weight` or `NAME.weight_scale`, with one number for the tensor or one per row.
The weight is the product of both. Newer files also name the format of each layer, in a tensor `NAME.comfy_quant` (JSON
as bytes), or of all layers in the header entry `_quantization_metadata`.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.weights.stored import StoredWeight

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
# Formats named in files whose weights are value times scale.
READ_FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise", "int8_rowwise", "int8")
HINTS = ("format", "full_precision_matrix_mult")  # keys of a layer's description that do not change its values
INPUT_SCALES = ("input_scale", "scale_input")  # scales of activations, for products computed in 8 bits
MARKERS = ("scaled_fp8",)  # an empty tensor that says: scales follow
FORMAT_TENSOR, FORMAT_HEADER = "comfy_quant", "_quantization_metadata"
INSTEAD = "use the 16-bit file of the same weights, or one with scaled 8-bit floats (one scale a tensor or row) or GGUF"

# Last parts of tensor names in unsupported quantised layouts.
OTHER_LAYOUTS = {
    "weight_scale_2": "4-bit floats with two levels of scales (nvfp4)",
    "weight_scale_inv": "8-bit floats with a scale for each square block",
    "weight_zero_point": "integers with zero points",
    "weight_packed": "packed integers (compressed-tensors)",
    "qweight": "4-bit integers (GPTQ or AWQ)",
    "qzeros": "4-bit integers (GPTQ or AWQ)",
    "absmax": "4-bit blocks (bitsandbytes)",
    "SCB": "8-bit integers of bitsandbytes",
    "_data": "tensors of optimum-quanto",
    "proj_down": "4-bit integers with a low-rank part (SVDQuant)",
    "smooth_factor": "4-bit integers with a low-rank part (SVDQuant)",
}


def join_scales(
    state: Mapping[str, Tensor | StoredWeight], header: Mapping[str, str], wanted: set[str], path: Path
) -> tuple[dict[str, Tensor | StoredWeight], str | None]:
    """Combine weights with their scales; the product is computed when a weight is read.

    Args:
        state: name -> tensor as in the file, without prefixes.
        header: the metadata in the file's header.
        wanted: names of the network's tensors, which are never scales.
    Returns:
        name -> tensor or stored weight; and the name of the layout, None if nothing is scaled.
    Raises:
        ValueError: the layout is not supported, or scales do not fit their weights.
    """
    check_formats(declared_formats(state, header, path), path)
    refuse_other_layouts(state, wanted, path)
    beside = {name for name in state if name not in wanted and name.rpartition(".")[2] in (*INPUT_SCALES, *MARKERS)}
    beside |= {name for name in state if name.rpartition(".")[2] == FORMAT_TENSOR}
    joined: dict[str, Tensor | StoredWeight] = {}
    used: set[str] = set()
    kinds: Counter[str] = Counter()
    for name, weight in state.items():
        scale = next((s for s in scale_names(name) if s in state and s not in wanted), None)
        if name in beside:
            continue
        if scale is not None:
            used.add(scale)
            joined[name], kind = scaled_weight(name, weight, state[scale], path)
            kinds[kind] += 1
        else:
            refuse_bare_integers(name, weight, path)
            joined[name] = weight
    joined = {name: weight for name, weight in joined.items() if name not in used}
    if lost := [name for name in joined if name not in wanted and name.endswith((".scale_weight", ".weight_scale"))]:
        raise ValueError(
            f"{path}: {lost[0]} is a scale, but the weight that it belongs to is not in the file; {INSTEAD}"
        )
    return joined, ", ".join(f"{count} weights as {kind}" for kind, count in kinds.items()) or None


def scale_names(name: str) -> tuple[str, ...]:
    """The possible names of a tensor's scale."""
    layer, _, leaf = name.rpartition(".")
    layer += "." if layer else ""
    return f"{layer}scale_{leaf}", f"{layer}{leaf}_scale", f"{name}.scale_weight", f"{name}.weight_scale"


def scaled_weight(
    name: str, weight: Tensor | StoredWeight, scale: Tensor | StoredWeight, path: Path
) -> tuple[StoredWeight, str]:
    """Return weight times scale, and the name of the layout; ValueError if the scale is not per tensor or per row."""
    if (
        isinstance(weight, StoredWeight)
        or isinstance(scale, StoredWeight)
        or not (weight.is_floating_point() or weight.dtype == torch.int8)
    ):
        raise ValueError(
            f"{path}: {name} is stored as packed {weight.dtype} with a scale, which is not read; {INSTEAD}"
        )
    rows = weight.shape[0] if weight.ndim else 1
    if scale.dtype not in (torch.float32, torch.float16, torch.bfloat16) or scale.numel() not in (1, rows):
        kind = "mxfp8" if weight.dtype in FLOAT8 else "block-wise integers"
        raise ValueError(
            f"{path}: {name} {list(weight.shape)} has scales {list(scale.shape)} of {_plain(scale.dtype)}, blocks "
            f"inside a row ({kind}), which is not read; {INSTEAD}"
        )
    if scale.numel() > 1 and (scale.shape[0] != rows):
        raise ValueError(
            f"{path}: {name} {list(weight.shape)} has a scale for each column, which is not read; {INSTEAD}"
        )
    each = "tensor" if scale.numel() == 1 else "row"
    return StoredWeight(tuple(weight.shape), multiplied(weight, scale)), f"{_plain(weight.dtype)} with a scale a {each}"


def multiplied(weight: Tensor, scale: Tensor) -> Callable[[torch.device | str], Tensor]:
    """Reads weight * scale in float32, the scale broadcast over rows."""

    def read(device: torch.device | str) -> Tensor:
        factor = scale.to(device).float().reshape(-1, *[1] * (weight.ndim - 1)) if weight.ndim else scale.float()
        return weight.to(device).float() * factor

    return read


def refuse_bare_integers(name: str, weight: Tensor | StoredWeight, path: Path) -> None:
    """Raise ValueError for integer weights without a scale."""
    if name.endswith("weight") and weight.dtype in (torch.int8, torch.uint8):
        raise ValueError(
            f"{path}: {name} is stored as {_plain(weight.dtype)} without a scale, which is not read; {INSTEAD}"
        )


def refuse_other_layouts(state: Mapping[str, Any], wanted: set[str], path: Path) -> None:
    """Raise ValueError if names belong to an unsupported quantised layout."""
    for name in state:
        if (kind := OTHER_LAYOUTS.get(name.rpartition(".")[2])) and name not in wanted:
            raise ValueError(f"{path} holds {kind} (it has {name}), which are not read; {INSTEAD}")


def declared_formats(
    state: Mapping[str, Tensor | StoredWeight], header: Mapping[str, str], path: Path
) -> dict[str, dict[str, Any]]:
    """The description of each layer, from tensors and header."""
    described = {}
    if FORMAT_HEADER in header:
        layers = _json(header[FORMAT_HEADER], FORMAT_HEADER, path).get("layers", {})
        described.update(layers if isinstance(layers, dict) else {})
    for name, tensor in state.items():
        layer, _, leaf = name.rpartition(".")
        if leaf == FORMAT_TENSOR and isinstance(tensor, Tensor):
            described[layer] = _json(bytes(tensor.to(torch.uint8).flatten().tolist()), name, path)
    return described


def check_formats(described: Mapping[str, Any], path: Path) -> None:
    """Raise ValueError for a declared format in which weights are not value times scale."""
    for layer, words in described.items():
        words = words if isinstance(words, dict) else {"format": words}
        name = str(words.get("format"))
        more = [key for key, value in words.items() if key not in HINTS and value not in (None, False)]
        if name not in READ_FORMATS or more:
            extra = f" with {', '.join(map(str, more))}" if more else ""
            raise ValueError(f"{path}: the layer {layer} is stored as {name}{extra}, which is not read; {INSTEAD}")


def _json(text: str | bytes, name: str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: {name} should be JSON and is not ({error}); fetch the file again") from error
    return value if isinstance(value, dict) else {}


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
