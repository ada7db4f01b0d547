"""Makes a restorer from the name of a preset, a folder of weights or a repository."""

from os import PathLike
from pathlib import Path
from typing import Any, Literal

from projects.download import VARIANTS, fetch_variant, parse
from projects.video_diffusion_sr.presets import PRESETS
from projects.video_diffusion_sr.request import Request
from projects.video_diffusion_sr.weight_files import find_weights
from seedvr.engine import Engine
from seedvr.errors import InputError, WeightsError
from seedvr.folders import weights_folder
from seedvr.restorer import Restorer


def presets() -> tuple[str, ...]:
    """The names for `load`. The weights of "seedvr2_tiny" are part of the package; those of others are downloaded."""
    return tuple(PRESETS)


def load(
    preset: str = "seedvr2_3b",
    *,
    device: str = "auto",
    dtype: str | None = None,
    vram: float | None = None,
    checkpoint: str | PathLike[str] | None = None,
    vae_checkpoint: str | PathLike[str] | None = None,
    ckpt_dir: str | PathLike[str] | None = None,
    lora: str | PathLike[str] | None = None,
    lora_scale: float = 1.0,
    window: int | None = None,
    weights_8_bit: bool = False,
    fit: Literal["pad", "crop"] = "pad",
    deinterlace: Literal["auto", "always", "never"] = "auto",
    config: str | PathLike[str] | None = None,
    overrides: tuple[str, ...] = (),
) -> Restorer:
    """Make a restorer with the weights of a preset.

    On a GPU the weights are loaded for the first clip, because the memory plan depends on its size.

    Args:
        preset: one of `presets()`.
        device: "auto", "cuda", "cuda:1", "cpu", "mps" or "xpu".
        dtype: "bfloat16", "float16" or "float32"; None: bfloat16 on a GPU, float32 on a CPU.
        vram: limit of GPU memory in GiB; None: the free memory.
        checkpoint, vae_checkpoint: weight files in any layout of docs/checkpoints.md, in place of those in `ckpt_dir`.
        ckpt_dir: folder of weights and prompt embeddings; None: the folder of `seedvr download`.
        lora, lora_scale: a file of LoRA weights to merge, and the factor of its change.
        window: number of frames that the transformer takes at once; 0: always the whole clip; None: the preset's.
        weights_8_bit: store the transformer's weights as 8-bit floats.
        fit, deinterlace: as the flags of the command line.
        config, overrides: another YAML, and changes `key=value` to it.
    Raises:
        InputError: the preset is unknown, or a setting is invalid.
        WeightsError: weights are missing, damaged or of another model; the message says what to do.
    """
    if preset not in PRESETS:
        raise InputError(f"there is no preset {preset!r}; choose one of {', '.join(PRESETS)}")
    if vram is not None and not vram > 0:
        raise InputError(f"vram {vram:g} must be a positive number of GiB")
    if window is not None and window < 0:
        raise InputError(f"window {window} must be a number of frames, or 0 for whole clips")
    if fit not in ("pad", "crop"):
        raise InputError(f"fit {fit!r} must be pad or crop")
    if deinterlace not in ("auto", "always", "never"):
        raise InputError(f"deinterlace {deinterlace!r} must be auto, always or never")
    chosen = PRESETS[preset]
    folder = weights_folder(bundled=chosen.download is None) if ckpt_dir is None else Path(ckpt_dir)
    request = Request(
        res=chosen.res,
        device=str(device),
        dtype=None if dtype is None else str(dtype).removeprefix("torch."),
        fit=fit,
        window_frames=window,
        ckpt_dir=folder,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        vae_checkpoint=None if vae_checkpoint is None else Path(vae_checkpoint),
        config=None if config is None else str(config),
        overrides=tuple(overrides),
        lora=None if lora is None else Path(lora),
        lora_scale=lora_scale,
        vram=vram,
        weights_8_bit=weights_8_bit,
        deinterlace=deinterlace,
    )
    return Restorer(Engine(chosen, request))


def from_pretrained(source: str | PathLike[str], *, endpoint: str | None = None, **settings: Any) -> Restorer:
    """Make a restorer from a folder of weights, or from a repository on the hub, whose missing files are downloaded.

    Args:
        source: a folder that holds a preset's weights under any name of docs/checkpoints.md; or a repository such as
            "ByteDance-Seed/SeedVR2-3B", or a preset's name, whose files are stored in the folder of `seedvr download`.
        endpoint: address of the hub; None: HF_ENDPOINT or the public hub.
        settings: as for `load`.
    Raises:
        WeightsError: the folder holds no known weights or those of several presets, or a download failed.
        InputError: the source is neither a folder, nor a known repository or preset.
    """
    if Path(source).is_dir():
        return load(preset_in(Path(source)), **{"ckpt_dir": source, **settings})
    name = str(source)
    repositories = {variant.repository: preset for preset, variant in reversed(VARIANTS.items())}  # the first counts
    preset = repositories.get(name, name)
    if preset not in PRESETS:
        known = ", ".join([*repositories, *PRESETS])
        raise InputError(f"{name} is no folder here, and no repository or preset that is known; known are {known}")
    if preset in VARIANTS:
        folder = Path(settings.setdefault("ckpt_dir", weights_folder()))
        arguments = [preset, "--dir", str(folder), *(["--endpoint", endpoint] if endpoint else [])]
        if missing := fetch_variant(parse(arguments)):
            raise WeightsError("; ".join(missing))
    return load(preset, **settings)


def preset_in(folder: Path) -> str:
    """The preset whose transformer weights a folder holds; WeightsError if there is none, or more than one."""
    found = [name for name, preset in PRESETS.items() if find_weights(folder / preset.checkpoint).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise WeightsError(f"{folder} holds the weights of {' and '.join(found)}; name one: load(..., ckpt_dir=...)")
    raise WeightsError(f"{folder} holds no weights under a known name; name the file: load(..., checkpoint=...)")
