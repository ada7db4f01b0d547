"""Checkpoints of a training run, with torch.distributed.checkpoint: complete or absent, for any number of ranks.

Each checkpoint is a folder such as `step_00001000`. It is written under another name and renamed when every rank has
finished, so a run that is killed while writing keeps the previous checkpoint.
"""

import json
import math
import pickle
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from common.checkpoint import first_line
from common.distributed.fsdp import barrier, rank, world_size
from common.distributed.metadata import DamagedCheckpoint, SafeReader, read_metadata
from common.logger import get_logger

logger = get_logger(__name__)

FOLDER = re.compile(r"step_(\d{8,})")
META = "meta.json"


def save_checkpoint(
    folder: str | Path, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], keep: int
) -> Path:
    """Write a checkpoint, and then remove the oldest ones. Every rank must call it.

    Args:
        folder: the folder of all checkpoints of this run.
        step: number of steps done.
        tensors: name -> tensor. A tensor may be sharded; of plain ones, rank 0's are written.
        meta: values that JSON can hold, for `read_meta`.
        keep: number of newest checkpoints that are kept.
    """
    unfinished = begin_checkpoint(folder, step)
    with quiet():
        dcp.save(dict(tensors), storage_writer=FileSystemWriter(unfinished), no_dist=world_size() == 1)
    return complete_checkpoint(folder, step, meta, keep)


def begin_checkpoint(folder: str | Path, step: int) -> Path:
    """Make an empty folder under a name that is not that of a checkpoint. Every rank must call it."""
    unfinished = Path(folder) / f"step_{step:08d}.part"
    if rank() == 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    barrier()
    return unfinished


def complete_checkpoint(folder: str | Path, step: int, meta: Mapping[str, Any], keep: int) -> Path:
    """Rename a checkpoint that all ranks have written, and remove the oldest ones. Every rank must call it."""
    folder = Path(folder)
    final, unfinished = folder / f"step_{step:08d}", folder / f"step_{step:08d}.part"
    if rank() == 0:
        (unfinished / META).write_text(json.dumps({"step": step, **meta}, indent=1))
        shutil.rmtree(final, ignore_errors=True)
        unfinished.rename(final)
        for old in checkpoints(folder)[:-keep] if keep > 0 else []:
            shutil.rmtree(old, ignore_errors=True)
    barrier()
    return final


def checkpoints(folder: str | Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    folder = Path(folder)
    found = [path for path in folder.iterdir() if FOLDER.fullmatch(path.name)] if folder.is_dir() else []
    return sorted((path for path in found if (path / META).is_file()), key=lambda path: int(path.name.split("_")[1]))


def read_meta(checkpoint: str | Path) -> dict[str, Any]:
    """Read the values saved as `meta`, and `step`.

    Raises:
        DamagedCheckpoint: the file is not JSON, or lacks the step.
    """
    path = Path(checkpoint) / META
    try:
        meta = json.loads(path.read_text())
        if not isinstance(meta, dict) or not isinstance(meta.get("step"), int):
            raise ValueError("there is no step in it")
    except (ValueError, OSError, RecursionError) as error:
        raise DamagedCheckpoint(f"{path} is damaged ({error})") from error
    return meta


def load_checkpoint(checkpoint: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Load a checkpoint, written by any number of ranks, into these tensors. Every rank must call it.

    Raises:
        ValueError: the checkpoint lacks a tensor, or has it in another shape.
        DamagedCheckpoint: the checkpoint cannot be read; some tensors may have been loaded.
    """
    refuse_other_shapes(checkpoint, saved_shapes(checkpoint), tensors)
    try:
        with quiet():
            dcp.load(dict(tensors), storage_reader=SafeReader(checkpoint), no_dist=world_size() == 1)
    except (CheckpointException, OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise DamagedCheckpoint(f"{checkpoint} is damaged or incomplete ({first_line(error)})") from error


def refuse_other_shapes(
    checkpoint: str | Path, saved: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]
) -> None:
    """ValueError unless the checkpoint, which has tensors of the shapes `saved`, has all of these."""
    for name, tensor in tensors.items():
        if name not in saved:
            raise ValueError(f"{checkpoint} has no {name}; it was written by a run with another model or stage")
        if tuple(tensor.shape) != saved[name]:
            raise ValueError(
                f"{checkpoint}: {name} is {saved[name]}, this run needs {tuple(tensor.shape)}; "
                "resume with the model that it was written with, or choose another folder"
            )


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the library's warning about a single process, which is intended here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")
        yield


def saved_shapes(checkpoint: str | Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in a checkpoint, by name."""
    return {name: tuple(entry.size) for name, entry in saved_tensors(checkpoint).items()}


def saved_tensors(checkpoint: str | Path) -> dict[str, TensorStorageMetadata]:
    """The metadata of every tensor in a checkpoint, without reading the tensors."""
    described = read_metadata(checkpoint).state_dict_metadata
    return {name: entry for name, entry in described.items() if isinstance(entry, TensorStorageMetadata)}


def averaged_state(checkpoint: str | Path, module: str | None = None, raw: bool = False) -> dict[str, Tensor]:
    """Read the full state of a network on the CPU, with averaged weights if the checkpoint has them.

    Tensors of a run are named `modules/NETWORK.NAME` and `ema/NETWORK.NAME`.

    Args:
        module: the name of the network; None: the only one with averaged weights.
        raw: read the trained weights instead of their averages.

    Raises:
        ValueError: there is no such network, or there are several and `module` is None.
    """
    saved = saved_tensors(checkpoint)
    averaged = sorted({name[len("ema/") :].split(".", 1)[0] for name in saved if name.startswith("ema/")})
    known = sorted({name[len("modules/") :].split(".", 1)[0] for name in saved if name.startswith("modules/")})
    if module is None and len(averaged) == 1:
        module = averaged[0]
    if module not in known:
        raise ValueError(f"choose one of the networks in {checkpoint}: {', '.join(known)} (averaged: {averaged})")
    wanted = {}
    for name in saved:
        if name.startswith(f"modules/{module}."):
            key = name[len(f"modules/{module}.") :]
            average = f"ema/{module}.{key}"
            wanted[key] = average if average in saved and not raw else name
    tensors = {name: torch.empty(saved[name].size, dtype=saved[name].properties.dtype) for name in wanted.values()}
    load_checkpoint(checkpoint, tensors)
    return {key: tensors[name] for key, name in wanted.items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """The state of an optimiser as name -> tensor, without copies; parameters that were never updated have none."""
    return {
        f"{names[parameter]}/{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def allocate_optimizer_state(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], saved: Mapping[str, tuple[int, ...]]
) -> None:
    """Allocate the state tensors that a checkpoint has for a new optimiser, filled with zeros.

    Args:
        saved: name -> shape, with names as in `optimizer_tensors`.

    Raises:
        DamagedCheckpoint: the shape of a state does not fit its parameter.
    """
    keys_of: dict[str, list[str]] = {}
    for name in saved:
        parameter_name, _, key = name.rpartition("/")
        keys_of.setdefault(parameter_name, []).append(key)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[parameter]
            for key in keys_of.get(name, []):
                shape = saved[f"{name}/{key}"]
                if math.prod(shape) > parameter.numel():
                    raise DamagedCheckpoint(f"the checkpoint has {name}/{key} of shape {shape}, larger than its weight")
                if shape == tuple(parameter.shape) and key != "step":
                    value = torch.zeros_like(parameter, requires_grad=False)  # sharded like the parameter
                else:
                    value = torch.zeros(shape, device=parameter.device if group.get("fused") else "cpu")
                optimizer.state[parameter][key] = value
