"""Recognises the weights in a file by their names: removes prefixes of other programs, and identifies other models."""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from torch import Tensor

from common.weights.stored import StoredWeight

Weight = TypeVar("Weight")

# Longest first: the prefix of a file is the first one under which it has names of the network.
PREFIXES = (
    "model.diffusion_model.",
    "first_stage_model.",
    "diffusion_model.",
    "_orig_mod.",
    "module.",
    "model.",
    "dit.",
    "vae.",
)
# Other parts of one file for several networks: what lies under these is not this network's.
OTHER_PARTS = (
    "first_stage_model.",
    "vae.",
    "model.diffusion_model.",
    "cond_stage_model.",
    "conditioner.",
    "text_encoders.",
)
# Text embeddings that some files carry along; the program reads its own.
EMBEDDINGS = ("positive_conditioning", "negative_conditioning")

TRANSFORMER_WIDTHS = {2560: "3B", 3072: "7B"}
INPUT_LAYER, VAE_LAYER = "vid_in.proj.weight", "encoder.conv_in.weight"

# The first that fits any name of a file says what it is.
OTHER_MODELS = (
    (r"\.lora_(A|B|up|down)\.|^lora_(unet|te)", "a LoRA; give it with --lora, beside the weights that it changes"),
    (r"(^|\.)input_blocks\.\d+\.", "a U-Net of Stable Diffusion"),
    (r"(^|\.)down_blocks\.\d+\.attentions\.\d+\.transformer_blocks\.", "a U-Net of Stable Diffusion"),
    (r"(^|\.)joint_blocks\.\d+\.", "a transformer of Stable Diffusion 3"),
    (r"individual_token_refiner", "a transformer of HunyuanVideo"),
    (r"(^|\.)double_blocks\.\d+\.", "a transformer of the FLUX family"),
    (r"(^|\.)blocks\.\d+\.cross_attn\.(q|k|v|o)\.", "a transformer of Wan"),
    (r"(^|\.)transformer_blocks\.\d+\.img_mlp\.", "a transformer of Qwen-Image"),
    (r"(^|\.)patchify_proj\.", "a transformer of LTX-Video"),
    (r"(^|\.)(noise_refiner|context_refiner)\.\d+\.", "a transformer of the Lumina family"),
    (r"(^|\.)transformer_blocks\.\d+\.", "a transformer of another model, in the layout of diffusers"),
    (r"(encoder\.downsamples|decoder\.upsamples)\.\d+\.", "a VAE of Wan"),
    (r"(encoder\.down|decoder\.up)\.\d+\.block\.\d+\.", "a VAE of Stable Diffusion"),
    (r"(^|\.)body\.\d+\.rdb\d\.|RRDB_trunk", "an ESRGAN upscaler"),
    (r"text_model\.encoder\.layers|encoder\.block\.\d+\.layer\.\d+", "a text encoder"),
    (r"^token_embd\.|(^|\.)layers\.\d+\.(self_attn|mlp)\.", "a language model"),
)  # fmt: skip


def without_prefix(state: Mapping[str, Weight], wanted: Iterable[str]) -> tuple[dict[str, Weight], str]:
    """Return the network's part of a file under the network's names, and the prefix in the file ("" if it has none).

    A prefix is used if more names fit with it than without it. Names of other networks in the same file are left out.
    All other names are kept, and the strict loader refuses them.
    """
    wanted = set(wanted)
    fitting = {prefix: sum(prefix + name in state for name in wanted) for prefix in ("", *PREFIXES)}
    best = max(fitting, key=fitting.__getitem__)  # the first of the best
    if not fitting[best]:  # scaled layouts keep the weights' names, so nothing of this network is here
        return dict(state), ""
    others = tuple(part for part in OTHER_PARTS if not best.startswith(part))
    unprefixed = {}
    for name, weight in state.items():
        if best and name.startswith(best):
            unprefixed[name.removeprefix(best)] = weight
        elif name in wanted or not (best and name.startswith(others)):
            unprefixed[name] = weight
    return unprefixed, best


def without_embeddings(state: Mapping[str, Weight]) -> dict[str, Weight]:
    """The state without the text embeddings that some files carry."""
    return {name: weight for name, weight in state.items() if name not in EMBEDDINGS}


def other_contents(state: Mapping[str, Tensor | StoredWeight], wanted: Mapping[str, Tensor]) -> str | None:
    """Describe what a file holds instead of this network's weights, as the end of a sentence; None if unknown.

    Args:
        state, wanted: the state of the file, and that of the network; only names and shapes are read.
    """
    if INPUT_LAYER in state and VAE_LAYER in wanted:
        return "the transformer's weights; give them with --checkpoint, and a VAE's here"
    if INPUT_LAYER in wanted and VAE_LAYER in state and INPUT_LAYER not in state:
        return "a VAE's weights; give them with --vae_checkpoint, and a transformer's here"
    if INPUT_LAYER in wanted and INPUT_LAYER in state:
        has, needs = (int(s[INPUT_LAYER].shape[0]) for s in (state, wanted))
        if has != needs:
            return (
                f"a transformer of width {_width(has)}, and this preset's has {_width(needs)}; choose the other preset"
            )
        return None
    if VAE_LAYER in wanted and VAE_LAYER in state and len(state[VAE_LAYER].shape) == 4:
        return "a VAE of pictures (its convolutions have no time), not of video"
    if sum(name in state for name in wanted) > len(wanted) // 2:
        return None  # this network's, with something missing: the strict loader names it
    for pattern, kind in OTHER_MODELS:
        if any(re.search(pattern, name) for name in state):
            return kind
    return None


def _width(width: int) -> str:
    return f"{width} (the {TRANSFORMER_WIDTHS[width]})" if width in TRANSFORMER_WIDTHS else str(width)
