"""The two fixed text embeddings: positive (what the result should look like) and negative (what it should not)."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from common.checkpoint import load_tensors_only, read_state_dict
from common.logger import get_logger
from common.sha256 import sha256_of

logger = get_logger(__name__)


@dataclass(frozen=True)
class Prompt:
    """A released file with one embedding in bfloat16.

    file: its name.
    shape: (tokens, width).
    sha256: its hash.
    """

    file: str
    shape: tuple[int, int]
    sha256: str


POSITIVE = Prompt("pos_emb.pt", (58, 5120), "fa07a14844314772266b66c3b95deb0027696d8fe7065721263db5176f45d799")
NEGATIVE = Prompt("neg_emb.pt", (64, 5120), "6a43e5800ef2354f1c156d27535834da055cbec8248298b8923492bba2076581")


def load_prompts(directory: str | Path) -> tuple[Tensor, Tensor]:
    """Load (positive [58, 5120], negative [64, 5120]) on the CPU, in the files' dtype (bfloat16 in the release).

    If a file's hash is not that of the release, this only logs a warning, because the user may have made it again.

    Raises:
        FileNotFoundError: a file is missing; the message says how to get it.
        ValueError: a file is not an embedding of the right shape.
    """
    return load_prompt(Path(directory), POSITIVE), load_prompt(Path(directory), NEGATIVE)


def load_prompt(directory: Path, prompt: Prompt) -> Tensor:
    """Load one embedding, see `load_prompts`."""
    path = directory / prompt.file
    if not path.is_file():
        raise FileNotFoundError(
            f"the text embedding {path} is missing; `python projects/download.py VARIANT` fetches it, or copy "
            f"{prompt.file} of the released code there"
        )
    tensor = load_tensors_only(path)
    if not isinstance(tensor, Tensor) or tuple(tensor.shape) != prompt.shape or not tensor.is_floating_point():
        found = f"{tuple(tensor.shape)} {tensor.dtype}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"{path} holds {found}, not an embedding of shape {prompt.shape}; fetch it again")
    if sha256_of(path) != prompt.sha256:
        logger.warning("%s is not the released embedding (its SHA-256 differs); results will differ, too", path)
    return tensor.detach()


def read_prompt_pair(path: Path, width: int) -> tuple[Tensor, Tensor]:
    """Read (positive, negative), [tokens, width] each, from one `.safetensors` file with `pos` and `neg`.

    Raises:
        ValueError: the file is damaged, or `pos` or `neg` is missing or has another shape.
    """
    stored = read_state_dict(path)
    for name in ("pos", "neg"):
        tensor = stored.get(name)
        if tensor is None or tensor.ndim != 2 or tensor.shape[1] != width or not tensor.is_floating_point():
            found = "nothing" if tensor is None else f"{list(tensor.shape)} {tensor.dtype}"
            raise ValueError(f"{path}: `{name}` must be an embedding of [tokens, {width}] floats, found {found}")
        if not bool(tensor.float().isfinite().all()):
            raise ValueError(f"{path}: `{name}` holds values that are not finite; get the file again")
    return stored["pos"], stored["neg"]
