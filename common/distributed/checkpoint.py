"""Checkpoints of a training run through torch.distributed.checkpoint: complete or absent, and for any number of ranks.

A run's folder has one folder a checkpoint, `step_00001000`. It is written under another name and renamed when every
rank is done, so a run that dies while writing leaves the last good one behind.
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
from torch import Tensor, nn
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
    """Write a checkpoint, then remove the oldest ones. Every rank calls it.

    Args:
        folder: of all checkpoints of this run.
        step: steps done.
        tensors: name -> tensor, plain (then rank 0's is written) or sharded.
        meta: what JSON can hold; read back by `read_meta`.
        keep: how many of the newest stay.
    """
    unfinished = begin_checkpoint(folder, step)
    with quiet():
        dcp.save(dict(tensors), storage_writer=FileSystemWriter(unfinished), no_dist=world_size() == 1)
    return complete_checkpoint(folder, step, meta, keep)


def begin_checkpoint(folder: str | Path, step: int) -> Path:
    """An empty folder under a name that no reader takes for a checkpoint. Every rank calls it."""
    unfinished = Path(folder) / f"step_{step:08d}.part"
    if rank() == 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    barrier()
    return unfinished


def complete_checkpoint(folder: str | Path, step: int, meta: Mapping[str, Any], keep: int) -> Path:
    """Give a checkpoint that all ranks have written its name, and remove the oldest ones. Every rank calls it."""
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
    """What was saved as `meta`, and `step`.

    Raises:
        DamagedCheckpoint: it is no JSON, or lacks the step.
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
    """Fill these tensors in place from a checkpoint that any number of ranks wrote. Every rank calls it.

    Raises:
        ValueError: the checkpoint lacks one of them, or has it in another shape.
        DamagedCheckpoint: it cannot be read; the tensors may be filled in part.
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
    """Suppress the library's warning about a single process, which is normal here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")
        yield


def saved_shapes(checkpoint: str | Path) -> dict[str, tuple[int, ...]]:
    """name -> shape of every tensor in a checkpoint."""
    return {name: tuple(entry.size) for name, entry in saved_tensors(checkpoint).items()}


def saved_tensors(checkpoint: str | Path) -> dict[str, TensorStorageMetadata]:
    """Metadata of every tensor in a checkpoint; the tensors are not read."""
    described = read_metadata(checkpoint).state_dict_metadata
    return {name: entry for name, entry in described.items() if isinstance(entry, TensorStorageMetadata)}


def averaged_state(checkpoint: str | Path, module: str | None = None, raw: bool = False) -> dict[str, Tensor]:
    """A network's whole state on the CPU, averaged weights where there are some.

    Tensors of a run are named `modules/NETWORK.NAME` and `ema/NETWORK.NAME`.

    Args:
        module: which network; None where only one is averaged.
        raw: the weights themselves.

    Raises:
        ValueError: no such network, or several and none chosen.
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
    """An optimiser's state as name -> tensor, not copied; parameters without a step have none."""
    return {
        f"{names[parameter]}/{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def allocate_optimizer_state(
    optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str], saved: Mapping[str, tuple[int, ...]]
) -> None:
    """Give an optimiser that has not stepped the state tensors that a checkpoint has for it, filled with zeros.

    Args:
        saved: name -> shape, the names as `optimizer_tensors` makes them.

    Raises:
        DamagedCheckpoint: a shape that no state of its parameter can have.
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
                    value = torch.zeros_like(parameter, requires_grad=False)  # sharded as the parameter is
                else:
                    value = torch.zeros(shape, device=parameter.device if group.get("fused") else "cpu")
                optimizer.state[parameter][key] = value
