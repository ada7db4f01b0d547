"""Reads GGUF files with the package `gguf`, which unpacks every kind of block."""

from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.extras import need
from common.weights.stored import StoredWeight

PLAIN = ("F32", "F16", "F64")  # NumPy reads these as they are
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."  # before the tensor's name: converters flatten more than four dimensions


def read_gguf(path: Path) -> tuple[dict[str, Tensor | StoredWeight], str, str]:
    """Read a file. Returns name -> memory-mapped tensor or stored weight, the kinds of blocks, and the architecture.

    Raises:
        MissingExtra: the package is not installed.
        ValueError: the file is damaged, or has a kind of block that the package cannot unpack.
    """
    gguf = need("gguf", "gguf", f"{path}: reading GGUF")
    need("gguf.quants", "gguf", f"{path}: reading GGUF")
    try:
        reader = gguf.GGUFReader(path)
    except Exception as error:  # a damaged header fails in the package in whatever way its numbers lead to
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(f"{path} is damaged or no GGUF file ({reason}); fetch it again") from error
    state: dict[str, Tensor | StoredWeight] = {}
    kinds: Counter[str] = Counter()
    for tensor in reader.tensors:
        state[tensor.name] = read_tensor(gguf, reader, tensor, path)
        kinds[tensor.tensor_type.name] += 1
    architecture = reader.fields.get("general.architecture")
    words = "GGUF, " + ", ".join(f"{count} tensors {kind}" for kind, count in sorted(kinds.items()))
    return state, words, "" if architecture is None else str(architecture.contents())


def read_tensor(gguf: ModuleType, reader: Any, tensor: Any, path: Path) -> Tensor | StoredWeight:
    """One tensor of a reader, as torch counts dimensions: GGUF lists the last one first."""
    shape = tuple(int(n) for n in reversed(tensor.shape))
    if (field := reader.fields.get(ORIGINAL_SHAPE + tensor.name)) is not None:
        shape = tuple(int(n) for n in field.contents())
    kind, data = tensor.tensor_type, tensor.data
    if kind.name in PLAIN:
        # A copy would read the file now; torch has no read-only tensors, and nothing writes into a checkpoint's.
        return StoredWeight(shape, lambda device: torch.from_numpy(np.array(data)).to(device).float().reshape(shape))
    block = gguf.GGML_QUANT_SIZES[kind][1]
    try:
        gguf.quants.dequantize(np.array(data.reshape(-1)[:block]).reshape(1, -1), kind)
    except Exception as error:  # the package has no common error for kinds that it cannot unpack
        raise ValueError(
            f"{path}: {tensor.name} is stored as {kind.name}, which the package gguf cannot unpack; use Q8_0 or Q4_K_M"
        ) from error
    return StoredWeight(
        shape, lambda device: torch.from_numpy(gguf.quants.dequantize(data, kind)).to(device).reshape(shape)
    )
