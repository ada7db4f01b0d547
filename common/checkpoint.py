"""Reads and writes weight files. Names and shapes are checked, and reading a file never runs code from it.

A checkpoint is a flat dictionary name -> tensor, in `.pth` (PyTorch) or `.safetensors`; both are memory-mapped, so a
file larger than the memory can be moved to a device tensor by tensor.
"""

import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from common.atomic import atomic_write
from common.upload import in_threads
from common.weights.stored import StoredWeight, dense

ADVICE = "`python projects/download.py VARIANT` fetches the released weights"
CHEAP_BYTES = 256 << 20  # weights on the host up to this size are checked for NaN; larger ones are not read for it
SHOWN = 5  # number of names in an error message, for each kind of error

MORE_THAN_TENSORS = re.compile(r"Unsupported (global|class)|unrecognized function")  # PyTorch's words for it
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
OLD_ATTENTION_NAME = re.compile(r"(.*\battentions\.\d+\.)(query|key|value|proj_attn)\.(weight|bias)")


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU, in the file's dtypes, memory-mapped.

    Raises:
        FileNotFoundError: the file does not exist; the message says how to get the released ones.
        ValueError: the file is of another kind, damaged, incomplete, or holds more than tensors.
    """
    path = Path(path)
    if path.is_dir():
        places = [f"{folder}*.{suffix}" for folder in ("", "export/", "*/export/") for suffix in ("safetensors", "pth")]
        found = [file for place in places for file in sorted(path.glob(place))]
        example = f", such as {found[0]}" if found else ""
        raise FileNotFoundError(f"{path} is a folder; name a file of weights{example}")
    if not path.is_file():
        raise FileNotFoundError(f"there are no weights at {path}; {ADVICE}")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix not in (".pth", ".pt"):
        raise ValueError(f"{path}: weights are read from .pth and .safetensors files only")
    return only_tensors(load_tensors_only(path), path)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """See `read_state_dict`."""
    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged or incomplete ({error}); fetch it again. {ADVICE}") from error


def load_tensors_only(path: Path) -> object:
    """Read a PyTorch file with PyTorch's restricted unpickler, which builds tensors and calls nothing else.

    Raises:
        ValueError: the file is damaged, incomplete, or holds more than tensors in plain containers.
    """
    try:
        # Files in the format before 2020 are not archives and cannot be memory-mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if MORE_THAN_TENSORS.search(str(error)):
            raise ValueError(
                f"{path} holds more than tensors, and opening it in full could run code from it; refused. "
                f"Use a checkpoint of plain tensors, or a .safetensors file. {ADVICE}"
            ) from error
        raise ValueError(f"{path} is damaged or incomplete; fetch it again. {ADVICE}") from error
    except Exception as error:  # damaged bytes can raise any error in the archive, the unpickler or a constructor
        raise ValueError(f"{path} is damaged or incomplete ({first_line(error)}); fetch it again. {ADVICE}") from error


def only_tensors(state: object, path: Path) -> dict[str, Tensor]:
    """Return the loaded object if it is a dictionary name -> tensor; otherwise raise ValueError."""
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a dictionary of tensors by name. {ADVICE}")
    others = [str(name) for name, value in state.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if others:
        raise ValueError(
            f"{path} is not a flat dictionary of tensors: {shown(others)} are something else. It may be a training "
            f"checkpoint; export its weights alone. {ADVICE}"
        )
    return {name: value.detach() for name, value in state.items()}


def is_rope_frequency(name: str) -> bool:
    """Whether a buffer holds rotary frequencies, which are computed and not loaded: half precision shifts angles."""
    return name.endswith("rope.freqs")


def load_into(
    module: nn.Module,
    state: Mapping[str, Tensor | StoredWeight],
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    source: str | Path = "the checkpoint",
    recomputed: Callable[[str], bool] = is_rope_frequency,
    advice: str = ADVICE,
) -> None:
    """Load the weights of a checkpoint into a module, which is usually built on the meta device. All names must fit.

    Args:
        state: name -> tensor of any float dtype (including float8), or stored weights; see `common.weights.read`. Older
            names of the VAE's attention are accepted. On the CPU, tensors that have the dtype stay memory-mapped.
        dtype, device: dtype and device of the module's weights afterwards.
        source: name of the checkpoint in messages.
        recomputed: buffers whose values are not loaded, only checked for name and shape. The module computes them
            (in `reset_buffers(device)`, if it has this method), and they keep the module's dtype.
        advice: advice at the end of a message about names or shapes that do not fit.

    Raises:
        ValueError: names are missing or unknown, or shapes differ (the message lists the first of each); or values are
            not finite, if checking all of them is cheap.
    """
    state = with_current_names(state)
    refuse_mismatch(module, state, source, advice)
    reset_buffers(module, device)
    expected = module.state_dict()
    from_file = {name for name in expected if not recomputed(name)}
    empty = [name for name, buffer in module.named_buffers() if buffer.is_meta and name not in from_file]
    assert not empty, f"{type(module).__name__} has buffers without values: {shown(empty)}; reset_buffers must set them"

    def weight(name: str, move: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        return converted(state[name], dtype, device, move) if name in from_file else expected[name].to(device)

    cuda = torch.device(device).type == "cuda"
    weights = in_threads(weight, expected, torch.device(device)) if cuda else {name: weight(name) for name in expected}
    if cuda or sum(tensor.nbytes for tensor in weights.values()) < CHEAP_BYTES:
        refuse_not_finite(weights, source, advice)
    module.load_state_dict(weights, strict=True, assign=True)


def reset_buffers(module: nn.Module, device: torch.device | str) -> None:
    """Make a module compute its own buffers on `device`, if it has any."""
    if callable(reset := getattr(module, "reset_buffers", None)):
        reset(device)


def converted(
    tensor: Tensor | StoredWeight,
    dtype: torch.dtype,
    device: torch.device | str,
    move: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Copy a tensor to the device, converting floats to `dtype`. `move` copies plain tensors; None: torch does."""
    move = move or (lambda x: x.to(device))
    if isinstance(tensor, StoredWeight):
        return tensor.dense(device).to(dtype)
    if not tensor.is_floating_point():
        return move(tensor)
    # Copied before conversion: the file's dtype is smaller, and a device converts faster.
    return move(tensor).to(dtype)


def refuse_not_finite(weights: Mapping[str, Tensor], source: str | Path, advice: str) -> None:
    """Raise ValueError if a weight is NaN or infinite, with one pass and one synchronisation."""
    floats = {name: tensor for name, tensor in weights.items() if tensor.is_floating_point() and not tensor.is_meta}
    sums = [tensor.sum(dtype=torch.float32) for tensor in floats.values()]
    if not sums or bool(torch.stack(sums).isfinite().all()):
        return
    bad = [name for name, total in zip(floats, sums, strict=True) if not total.isfinite()]
    raise ValueError(f"{source} holds values that are not finite in {shown(bad)}; the weights are damaged. {advice}")


def refuse_mismatch(
    module: nn.Module, state: Mapping[str, Tensor | StoredWeight], source: str | Path, advice: str
) -> None:
    """Raise ValueError unless the state has exactly the names, shapes and kinds of numbers of the module."""
    expected = module.state_dict()
    problems = []
    if missing := [name for name in expected if name not in state]:
        problems.append(f"{len(missing)} names are missing: {shown(missing)}")
    if unexpected := [name for name in state if name not in expected]:
        problems.append(f"{len(unexpected)} names are unknown: {shown(unexpected)}")
    if wrong := [
        f"{name} {list(state[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]:
        problems.append(f"{len(wrong)} have another shape: {shown(wrong)}")
    if other_kinds := [
        f"{name} {state[name].dtype}"
        for name, tensor in expected.items()
        if name in state and state[name].is_floating_point() != tensor.is_floating_point()
    ]:
        problems.append(f"{len(other_kinds)} hold another kind of numbers: {shown(other_kinds)}")
    if problems:
        raise ValueError(f"{source} does not fit {type(module).__name__}: {'; '.join(problems)}. {advice}")


def with_current_names(state: Mapping[str, Tensor | StoredWeight]) -> dict[str, Tensor | StoredWeight]:
    """Convert the names that older VAE files use for the mid-block attention to the present ones.

    query, key, value, proj_attn become to_q, to_k, to_v, to_out.0. Weights stored as 1x1 convolutions become matrices.
    """
    current = {}
    for name, tensor in state.items():
        if match := OLD_ATTENTION_NAME.fullmatch(name):
            prefix, old, kind = match.groups()
            name = f"{prefix}{OLD_ATTENTION[old]}.{kind}"
            if tensor.ndim > 2 and set(tensor.shape[2:]) == {1}:
                tensor = dense(tensor).flatten(1)
        current[name] = tensor
    return current


def save_safetensors(state: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write name -> tensor as `.safetensors`, atomically.

    Args:
        state: tensors on any device; tensors that share memory are written separately.
        metadata: text entries for the file's header.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: weights are written as .safetensors")
    with atomic_write(path) as temporary:
        save_file(unshared(state), temporary, metadata=dict(metadata or {}))


def unshared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors that share no storage, as the format requires."""
    seen: set[int] = set()
    result = {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        result[name] = tensor
    return result


def shown(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def first_line(error: BaseException) -> str:
    """The start of an error's message."""
    return str(error).strip().split("\n")[0][:200] or type(error).__name__
