"""The console command: seedvr restore | download | plan | evaluate | train, each with the flags of its program."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from seedvr import __version__

if TYPE_CHECKING:
    from projects.video_diffusion_sr.presets import Preset

USAGE = """seedvr COMMAND ...

commands:
  restore --model MODEL INPUT OUTPUT_DIR [flags]   restore videos and pictures
  download MODEL [flags]                           fetch released weights
  plan --model MODEL INPUT [flags]                 sizes, windows, memory and seconds of a run (restore --plan)
  evaluate [flags]                                 PSNR and SSIM of results against ground truth
  train STAGE [flags]                              train a VAE or a transformer
`seedvr COMMAND --help` explains a command's flags. `seedvr --version --verbose` also lists libraries and devices.
"""
DEFAULT_MODEL = "seedvr2_3b"
BAD_REQUEST = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Callable[[list[str]], int]] = {
        "restore": restore,
        "download": download,
        "plan": plan,
        "evaluate": evaluate,
        "train": train,
    }
    if arguments and arguments[0] in commands:
        from common import current_folder

        if current_folder.is_gone():
            return say(current_folder.GONE, BAD_REQUEST)
        try:
            return commands[arguments[0]](arguments[1:])
        except ImportError as error:
            if not isinstance(error, RuntimeError):  # common.extras.MissingExtra is both: a sentence for the user
                raise
            return say(str(error), BAD_REQUEST)
    parser = argparse.ArgumentParser(prog="seedvr", usage=USAGE, add_help=False)
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    known, rest = parser.parse_known_args(arguments)
    if rest:
        return say(f"seedvr: there is no command {rest[0]!r}\n\n{USAGE}", BAD_REQUEST)
    if known.version:
        return version(known.verbose)
    sys.stdout.write(USAGE)
    return 0 if known.help else BAD_REQUEST


def restore(arguments: list[str]) -> int:
    """Run `projects/inference_*.py`. Input and output are positional arguments, or --video_path and --output_dir."""
    from projects.video_diffusion_sr.start import start_preset

    preset, arguments = chosen_model("restore", arguments, ["--video_path", "--output_dir"])
    return start_preset(preset, arguments, "seedvr restore")


def plan(arguments: list[str]) -> int:
    """Run `restore --plan`, which prints the plan of `restore` with the same flags."""
    from projects.video_diffusion_sr.start import start_preset

    preset, arguments = chosen_model("plan", arguments, ["--video_path"])
    return start_preset(preset, [*arguments, "--plan"], "seedvr plan")


def download(arguments: list[str]) -> int:
    """Run `projects/download.py`, into the folder from which `restore` loads weights."""
    from projects.download import main as program
    from projects.program import run_program
    from seedvr.folders import weights_folder

    return run_program(program, with_default(arguments, "--dir", str(weights_folder())))


def evaluate(arguments: list[str]) -> int:
    """Run `projects/evaluate.py`."""
    from projects.evaluate import main as program
    from projects.program import run_program

    return run_program(program, arguments)


def train(arguments: list[str]) -> int:
    """Run `projects/train.py`."""
    from projects.program import run_program
    from projects.train import main as program

    return run_program(program, arguments)


def chosen_model(command: str, arguments: list[str], places: list[str]) -> tuple["Preset", list[str]]:
    """Return the preset that --model names, and the arguments with positional ones converted to flags."""
    from projects.video_diffusion_sr.presets import PRESETS
    from seedvr.folders import weights_folder

    parser = argparse.ArgumentParser(prog=f"seedvr {command}", add_help=False, allow_abbrev=False)
    parser.add_argument("--model", choices=list(PRESETS), default=DEFAULT_MODEL)
    known, rest = parser.parse_known_args(arguments)
    given = [flag for flag in places if any(word == flag or word.startswith(f"{flag}=") for word in rest)]
    named = []
    for flag in (flag for flag in places if flag not in given):
        if rest and not rest[0].startswith("-"):
            named += [flag, rest.pop(0)]
    preset = PRESETS[known.model]
    folder = str(weights_folder(bundled=preset.download is None))
    return preset, with_default([*named, *rest], "--ckpt_dir", folder)


def with_default(arguments: list[str], flag: str, value: str) -> list[str]:
    """Return the arguments, with the flag and its default value added if the flag is missing."""
    named = any(word == flag or word.startswith(f"{flag}=") for word in arguments)
    return arguments if named else [*arguments, flag, value]


def version(verbose: bool) -> int:
    """Print the package's version; if verbose, also all facts that a bug report needs, which imports PyTorch."""
    sys.stdout.write(f"seedvr {__version__}\n")
    if verbose:
        from seedvr.environment import describe

        sys.stdout.write("\n".join(describe()) + "\n")
    return 0


def say(message: str, code: int) -> int:
    """Print a message on standard error. Returns the exit code."""
    sys.stderr.write(message.rstrip("\n") + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
