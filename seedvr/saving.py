"""Writes and reads the folder of a pipeline: weights under the names of diffusers, configuration, text embeddings."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from common.atomic import atomic_write
from common.checkpoint import save_safetensors
from projects.video_diffusion_sr.bare_network import network_without_weights
from projects.video_diffusion_sr.build import load_network
from projects.video_diffusion_sr.presets import PRESETS, Preset
from projects.video_diffusion_sr.prompts import NEGATIVE, POSITIVE
from projects.video_diffusion_sr.settings import RunSettings
from seedvr import __version__
from seedvr.errors import WeightsError

INDEX = "model_index.json"
CONFIG = "config.yaml"
WEIGHTS = "diffusion_pytorch_model.safetensors"
TRANSFORMER, VAE, PROMPTS = "transformer", "vae", "text_embeddings"
CLASS = "SeedVRPipeline"


def save(folder: Path, settings: RunSettings) -> None:
    """Write a folder that `read` can load. The index is written last, so a folder without an index is incomplete.

    The transformer is written in its compute dtype, with a LoRA merged. The VAE is written in float32, from which the
    weights of its inference path are derived. Both are read again from their files, one after the other.

    Raises:
        FileNotFoundError, ValueError: a weight file that was loaded is missing or has changed.
    """
    request, config = settings.request, settings.config
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)
    models = {TRANSFORMER: (config["dit"]["model"], settings.dtype), VAE: (config["vae"]["model"], torch.float32)}
    for (name, (model, dtype)), file in zip(models.items(), settings.checkpoints, strict=True):
        network = network_without_weights(model)
        load_network(network, file, torch.device("cpu"), dtype)
        if name == TRANSFORMER and request.lora is not None:
            from projects.video_diffusion_sr.lora import load_lora

            load_lora(network, request.lora, request.lora_scale)
        (folder / name).mkdir(exist_ok=True)
        save_safetensors(network.state_dict(), folder / name / WEIGHTS, {"format": "pt"})
    for prompts in prompt_files(settings.preset):
        target = folder / PROMPTS / prompts
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (target.exists() and target.samefile(request.ckpt_dir / prompts)):
            shutil.copyfile(request.ckpt_dir / prompts, target)
    (folder / CONFIG).write_text(OmegaConf.to_yaml(portable(config)), encoding="utf-8")
    index = {
        "_class_name": CLASS,
        "_seedvr_version": __version__,
        "preset": next(name for name, preset in PRESETS.items() if preset.name == settings.preset.name),
        "dtype": str(settings.dtype).removeprefix("torch."),
        TRANSFORMER: ["seedvr", "NaDiT"],
        VAE: ["seedvr", "VideoAutoencoderKL"],
    }
    with atomic_write(folder / INDEX) as temporary:
        Path(temporary).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> dict[str, Any]:
    """Return the arguments with which `seedvr.load` loads a folder that `save` wrote.

    Raises:
        WeightsError: the folder belongs to another pipeline, or its index cannot be read.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        made_by, preset = index["_class_name"], index.get("preset")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{folder / INDEX} is no index of a pipeline ({error}); save the pipeline again") from error
    if made_by != CLASS or preset not in PRESETS:
        raise WeightsError(f"{folder} holds a {made_by} (preset {preset}), and this reads a {CLASS} of a known preset")
    return {
        "preset": preset,
        "config": folder / CONFIG,
        "checkpoint": folder / TRANSFORMER / WEIGHTS,
        "vae_checkpoint": folder / VAE / WEIGHTS,
        "ckpt_dir": folder / PROMPTS,
    }


def prompt_files(preset: Preset) -> tuple[str, ...]:
    """The names of the files of text embeddings in a weights folder."""
    return ("tiny/prompts.safetensors",) if preset.download is None else (POSITIVE.file, NEGATIVE.file)


def portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run in plain types, without the paths of weights on this machine."""
    plain: dict[str, Any] = json.loads(json.dumps(OmegaConf.to_container(config, resolve=True)))
    plain["vae"]["checkpoint"] = f"{VAE}/{WEIGHTS}"
    return plain
