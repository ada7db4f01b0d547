"""Reads the metadata of a training checkpoint without executing code from it.

torch.distributed.checkpoint stores it as a pickle and opens it with an unpickler that calls any function that the file
names. The reader in this module accepts only the names that such metadata needs.
"""

import io
import math
import pickle
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader, filesystem, metadata
from torch.distributed.checkpoint.metadata import Metadata

FILE = ".metadata"
MOST_BYTES = 1 << 30
CLASSES = {
    ("torch.distributed.checkpoint.metadata", name): getattr(metadata, name)
    for name in (
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    )
    if hasattr(metadata, name)
}  # fmt: skip
CLASSES |= {
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): filesystem._StorageInfo,
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
    ("collections", "OrderedDict"): dict,
    # The path at which the checkpoint was written. It is not used, and a path of another system cannot be built here.
    **{("pathlib", name): PurePosixPath for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")},
    **{("pathlib._local", name): PurePosixPath for name in ("PosixPath", "WindowsPath")},
}


class DamagedCheckpoint(ValueError):
    """A checkpoint cannot be read, because it is incomplete, changed or malicious. An older one may be readable."""


class SafeReader(FileSystemReader):
    """PyTorch's reader of checkpoints, with `read_metadata` instead of its unpickler."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        found = read_metadata(Path(self.path))
        if getattr(found, "storage_meta", None) is None:
            found.storage_meta = metadata.StorageMeta()
        assert found.storage_meta is not None
        found.storage_meta.load_id = self.load_id
        return found


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in CLASSES:
            return CLASSES[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no metadata needs")


def read_metadata(checkpoint: str | Path) -> Metadata:
    """Read the metadata of a checkpoint: its tensors by name, and their files.

    Raises:
        DamagedCheckpoint: the file is not the metadata of a checkpoint, or names anything but its tensors and files.
    """
    path = Path(checkpoint) / FILE
    try:
        if path.stat().st_size > MOST_BYTES:
            raise pickle.UnpicklingError(f"it has {path.stat().st_size} bytes")
        found = _Unpickler(io.BytesIO(path.read_bytes())).load()
        refuse_odd_metadata(found)
        refuse_more_than_there_is(found, Path(checkpoint))
    except Exception as error:  # constructors raise anything for damaged bytes
        raise DamagedCheckpoint(f"{checkpoint}: its metadata is damaged or not a checkpoint's: {error}") from error
    return found


def refuse_odd_metadata(found: object) -> None:
    """Raise ValueError unless this is metadata, and all its files are in the checkpoint's folder."""
    if not isinstance(found, Metadata) or not isinstance(found.state_dict_metadata, dict):
        raise ValueError(f"it holds a {type(found).__name__}")
    for index, info in (found.storage_data or {}).items():
        if not isinstance(index, metadata.MetadataIndex) or not isinstance(info, filesystem._StorageInfo):
            raise ValueError(f"it describes a {type(info).__name__}")
        if Path(info.relative_path).name != info.relative_path:
            raise ValueError(f"it refers to a file outside of the checkpoint, {info.relative_path}")


def refuse_more_than_there_is(found: Metadata, checkpoint: Path) -> None:
    """Raise ValueError if the tensors are larger than all files together, since their memory is allocated first."""
    there = sum(file.stat().st_size for file in checkpoint.iterdir() if file.is_file())
    said = 0
    for name, entry in found.state_dict_metadata.items():
        if isinstance(entry, metadata.TensorStorageMetadata):
            if not isinstance(entry.size, torch.Size) or not isinstance(entry.properties.dtype, torch.dtype):
                raise ValueError(f"{name} has no shape or no dtype")
            said += math.prod(entry.size) * entry.properties.dtype.itemsize
    if said > there:
        raise ValueError(f"it describes {said} bytes of tensors, and there are {there}")
