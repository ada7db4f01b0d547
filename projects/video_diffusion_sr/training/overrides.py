"""Loads the two YAML files of a training program with the changes `KEY=VALUE` and `train.KEY=VALUE` of its flags."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from common.config import load_config

TRAIN = "train."


def load_run(config: str | Path, train: str | Path, overrides: Sequence[str]) -> tuple[DictConfig, DictConfig]:
    """Load the model's configuration and the run's, see `common.config.load_config`.

    Raises:
        ValueError: a key is unknown (the message suggests the nearest known key), or a key of the run lacks `train.`.
    """
    of_run = [override.removeprefix(TRAIN) for override in overrides if override.startswith(TRAIN)]
    try:
        run = load_config(train, of_run)
    except ValueError as error:
        raise ValueError(str(error).replace("config key ", f"config key {TRAIN}")) from error
    others = [override for override in overrides if not override.startswith(TRAIN)]
    try:
        return load_config(config, others), run
    except ValueError as error:
        for override in others:
            key = override.partition("=")[0]
            if key.split(".")[0] in run and f"key {key}" in str(error):
                raise ValueError(f"{key} is a key of the run, not of the model; write {TRAIN}{override}") from error
        raise
