"""Low-rank adaptation (LoRA, arXiv 2106.09685) of the transformer: adds factors, stores them, merges them into weights.

It adapts the linear layers of attention and feed-forward: W x becomes W x + (alpha / rank) B A x. Factors are stored
under the names of their layers, as in `blocks.0.attn.proj_qkv.vid.lora_A.weight`, with rank and alpha in the header.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from common.checkpoint import read_state_dict
from common.extras import need
from common.logger import get_logger
from common.weights.stored import StoredWeight

logger = get_logger(__name__)

ADAPTED = r"blocks\.\d+\.(attn\.(proj_qkv|proj_out)\.(vid|txt|all)|mlp\.(vid|txt|all)\.\w+)"
FACTORS = ("lora_A", "lora_B")
ADAPTER = "default"  # peft's name for the only adapter of a model
BASE = "base_layer"  # peft's name for the wrapped layer
HEADER = "lora"
ADVICE = "train one with projects/train.py ... --lora rank=16, or leave --lora out"


@dataclass(frozen=True)
class LoraSettings:
    """The settings of an adapter.

    rank: rank of the factors.
    alpha: their product is multiplied by alpha / rank; None: alpha = rank.

    Raises:
        ValueError: a value is not possible.
    """

    rank: int = 16
    alpha: float | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"a LoRA needs a rank of at least 1, got {self.rank}")

    @property
    def strength(self) -> float:
        """The multiplier of the product of the factors, alpha / rank."""
        return (self.rank if self.alpha is None else self.alpha) / self.rank

    @property
    def header(self) -> str:
        """The settings as text for the header of a file of factors."""
        return json.dumps({"rank": self.rank, "alpha": self.strength * self.rank})

    @staticmethod
    def parse(words: str) -> "LoraSettings":
        """Parse the text of a flag: `rank=16` or `rank=16,alpha=32`."""
        values = dict(word.partition("=")[::2] for word in words.split(","))
        if unknown := set(values) - {"rank", "alpha"}:
            raise ValueError(f"--lora {words}: {sorted(unknown)[0]!r} is unknown; write rank=16 or rank=16,alpha=32")
        try:
            alpha = float(values["alpha"]) if "alpha" in values else None
            return LoraSettings(int(values.get("rank", 16)), alpha)
        except ValueError as error:
            raise ValueError(f"--lora {words}: {error}; write rank=16 or rank=16,alpha=32") from error


def add_lora(dit: nn.Module, settings: LoraSettings) -> None:
    """Add trainable factors to a transformer, and freeze all other parameters. Outputs do not change, as B is zero.

    It also works on the meta device. State-dict names of adapted layers change, see `with_base_names`.
    """
    peft = need("peft", "train", "training a LoRA")
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.strength * settings.rank,
        lora_dropout=0.0,
        bias="none",
        target_modules=ADAPTED,
    )
    peft.inject_adapter_in_model(config, dit, adapter_name=ADAPTER)
    for name, parameter in dit.named_parameters():
        parameter.requires_grad_(is_factor(name))


def is_factor(name: str) -> bool:
    """Whether a parameter's name is that of a factor."""
    return any(f".{factor}." in name for factor in FACTORS)


def with_base_names(state: Mapping[str, Tensor | StoredWeight], dit: nn.Module) -> dict[str, Tensor | StoredWeight]:
    """Rename a checkpoint without factors for a model after `add_lora`, with new factors: A random, B zero."""
    renamed: dict[str, Tensor | StoredWeight] = {}
    for name, wanted in dit.state_dict().items():
        plain = name.replace(f".{BASE}.", ".")
        if not is_factor(name):
            renamed[name] = state[plain]
        elif ".lora_B." in name:
            renamed[name] = torch.zeros(wanted.shape)
        else:
            renamed[name] = nn.init.kaiming_uniform_(torch.empty(wanted.shape), a=5**0.5)
    return renamed


def factors_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The factors in the state dict of a model with LoRA, under their names in files."""
    return {name.replace(f".{ADAPTER}.", "."): tensor for name, tensor in state.items() if is_factor(name)}


def read_lora(path: str | Path) -> tuple[dict[str, Tensor], LoraSettings]:
    """Read factors and settings from a `.safetensors` file with the header of `LoraSettings.header`.

    Raises:
        FileNotFoundError, ValueError: the file is missing, damaged, or holds no LoRA.
    """
    factors = read_state_dict(path)
    with safe_open(path, framework="pt") as file:
        header = (file.metadata() or {}).get(HEADER)
    if header is None or not factors or not all(is_factor(name) for name in factors):
        raise ValueError(f"{path} is no LoRA of this project: {ADVICE}")
    settings = read_header(header, path)
    for name, tensor in factors.items():
        layer, _, rest = name.rpartition(".lora_")
        side = {"A.weight": 0, "B.weight": 1}.get(rest)
        if not layer or side is None:
            raise ValueError(f"{path}: {name} is not the name of a factor, LAYER.lora_A.weight; {ADVICE}")
        if tensor.ndim != 2 or not tensor.is_floating_point() or tensor.shape[side] != settings.rank:
            raise ValueError(
                f"{path}: {name} is {tensor.dtype} {list(tensor.shape)}, not floats of rank {settings.rank}; {ADVICE}"
            )
        if not bool(tensor.float().isfinite().all()):
            raise ValueError(f"{path}: {name} holds values that are not finite; {ADVICE}")
    return factors, settings


def read_header(text: str, path: str | Path) -> LoraSettings:
    """Parse the settings in the header of a file; ValueError if they are invalid."""
    try:
        said = json.loads(text)
        rank, alpha = said["rank"], said.get("alpha")
        whole = isinstance(rank, int) and not isinstance(rank, bool)
        if set(said) - {"rank", "alpha"} or not whole or not (alpha is None or math.isfinite(alpha)):
            raise ValueError("rank must be a whole number and alpha a finite one")
        return LoraSettings(rank, None if alpha is None else float(alpha))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{path}: its header says {text[:80]!r}, which is no rank and alpha ({error}); {ADVICE}"
        ) from error


@torch.no_grad()
def load_lora(model: nn.Module, path: str | Path, scale: float = 1.0) -> None:
    """Merge a stored LoRA into a model's weights: W + scale (alpha / rank) B A, computed in float32.

    Args:
        model: a transformer without adapters.
        scale: factor of the change; 1: as trained, 0: no change.

    Raises:
        FileNotFoundError, ValueError: see `read_lora`; also if the LoRA belongs to a model with other layers, or
            `scale` is not finite.
    """
    if not math.isfinite(scale):
        raise ValueError(f"--lora_scale {scale} must be a finite number; 1 is as it was trained")
    factors, settings = read_lora(path)
    layers = dict(model.named_modules())
    names = sorted({name.rsplit(".", 2)[0] for name in factors})
    for name in names:
        layer = layers.get(name)
        down, up = (factors.get(f"{name}.{factor}.weight") for factor in FACTORS)
        shape = None if down is None or up is None else (up.shape[0], down.shape[1])
        fits = isinstance(layer, nn.Linear) and shape == tuple(layer.weight.shape)
        if not isinstance(layer, nn.Linear) or down is None or up is None or not fits:
            raise ValueError(
                f"{path} adapts {name}, which this model has not, or in another size: it is of another model"
            )
        change = up.to(layer.weight.device).float() @ down.to(layer.weight.device).float()
        merged = layer.weight.float() + scale * settings.strength * change
        layer.weight.copy_(merged.to(layer.weight.dtype))
    logger.info("merged a LoRA of rank %d into %d layers, scale %g", settings.rank, len(names), scale)
