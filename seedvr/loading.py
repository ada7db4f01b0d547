"""From a preset's name to a restorer."""

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
    """Names for `load`. "seedvr2_tiny" is part of the package and runs on a CPU; the others' weights are fetched."""
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
    """A restorer with the weights of a preset.

    On a GPU the networks are placed at the first clip, because the memory plan depends on its size.

    Args:
        preset: one of `presets()`.
        device: "auto", "cuda", "cuda:1", "cpu", "mps", "xpu".
        dtype: "bfloat16", "float16", "float32"; None: bfloat16 on a GPU, float32 on a CPU.
        vram: GiB of GPU memory to stay within; None: what is free.
        checkpoint, vae_checkpoint: files of weights in any layout of docs/checkpoints.md, not those in
            `ckpt_dir`.
        ckpt_dir: folder of weights and prompt embeddings; None: where `seedvr download` puts them.
        lora, lora_scale: LoRA weights to merge, and how strongly.
        window: frames that go through the transformer at once; 0: always the whole clip; None: the preset's.
        weights_8_bit: keep the transformer's weights as 8-bit floats.
        fit, deinterlace: as the command line's flags. config, overrides: another YAML, and `key=value` for it.
    Raises:
        InputError: an unknown preset, or a setting that makes no sense.
        WeightsError: weights are missing, damaged or another model's; says what to do.
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
    """A restorer for a folder of weights, or for a repository of the hub, of which missing files are fetched.

    Args:
        source: a folder that holds a preset's weights under any name of docs/checkpoints.md; else a repository such as
            "ByteDance-Seed/SeedVR2-3B", or a preset's name. Files go where `seedvr download` puts them.
        endpoint: address of the hub; None: HF_ENDPOINT or the public one.
        settings: as for `load`.
    Raises:
        WeightsError: the folder holds no known weights, or those of several presets; files could not be fetched.
        InputError: neither a folder, nor a repository or preset that is known.
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
    """The only preset of which a folder holds the transformer's weights."""
    found = [name for name, preset in PRESETS.items() if find_weights(folder / preset.checkpoint).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise WeightsError(f"{folder} holds the weights of {' and '.join(found)}; name one: load(..., ckpt_dir=...)")
    raise WeightsError(f"{folder} holds no weights under a known name; name the file: load(..., checkpoint=...)")
