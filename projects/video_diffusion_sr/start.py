"""Handles flags, signals and the launcher before PyTorch is imported, then runs the program.

Importing PyTorch takes seconds. `--help` and wrong flags must not wait for it, and during the import Ctrl-C must not
cause a traceback, and a process must end if its launcher dies.
"""

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from common import current_folder
from common.crashes import History, survive_crashes
from common.distributed.job import has_ended, is_speaker
from common.distributed.launcher import launch
from common.parent import end_with_parent, has_launcher
from common.signals import exit_code, interrupted_by_signals
from projects.video_diffusion_sr.cli_parser import parse_flags
from projects.video_diffusion_sr.presets import PRESETS, Preset

FEW = 8  # so many processes are started on any machine; more need a CPU core each
ROOT = Path(__file__).resolve().parents[__name__.count(".")]  # the folder of the outermost package


def start(name: str, arguments: Sequence[str] | None = None) -> int:
    """Run the program with the preset of this name in `presets.PRESETS`. Returns the exit code, see `cli.main`."""
    return start_preset(PRESETS[name], arguments)


def start_preset(preset: Preset, arguments: Sequence[str] | None = None, command: str | None = None) -> int:
    """As `start`, with a preset; `command`: the command that the user typed; None: the preset's script."""
    open_standard_streams()
    if has_launcher():
        end_with_parent()
    args = parse_flags(preset, arguments, command)
    if current_folder.is_gone():
        print(current_folder.GONE, file=sys.stderr)
        return 2
    if args.gpus > 1 and not args.plan:
        return start_job(preset, sys.argv[1:] if arguments is None else arguments, command, args.gpus)
    if has_ended(args.output_dir):  # this job has ended with failures, so a restart would not help
        return 1
    run = partial(run_here, preset, arguments, command)
    alone = "RANK" not in os.environ and not args.plan  # a launcher restarts crashed processes itself
    return survive_crashes(run) if alone else run(History())


def run_here(preset: Preset, arguments: Sequence[str] | None, command: str | None, history: History) -> int:
    """Run the program in this process; see `start_preset`."""
    try:
        with interrupted_by_signals():
            from projects.video_diffusion_sr.cli import main

            return main(preset, arguments, command, history)
    except KeyboardInterrupt as error:
        if is_speaker():
            print(f"{str(error) or 'interrupted'} before anything was begun", file=sys.stderr)
        return exit_code(error)


def start_job(preset: Preset, arguments: Sequence[str], command: str | None, gpus: int) -> int:
    """Run the program in `gpus` processes that form one job. Returns its exit code, see `launcher.launch`."""
    if "RANK" in os.environ:
        if is_speaker():
            print("--gpus starts the processes itself: leave it out under torchrun", file=sys.stderr)
        return 2
    most = max(os.cpu_count() or 1, FEW)
    if gpus > most:
        print(
            f"--gpus {gpus}: this machine has {os.cpu_count()} CPU cores and can run at most {most} processes; "
            "give the number of its GPUs",
            file=sys.stderr,
        )
        return 2
    name = next(name for name, known in PRESETS.items() if known == preset)
    code = (
        f"import sys; sys.path.insert(0, sys.argv[1]); from {__package__}.start import PRESETS, start_preset; "
        "sys.exit(start_preset(PRESETS[sys.argv[2]], sys.argv[4:] + ['--gpus', '1'], sys.argv[3] or None))"
    )
    return launch([sys.executable, "-P", "-c", code, str(ROOT), name, command or "", *arguments], gpus)


def open_standard_streams() -> None:
    """Open the null device for closed standard streams (`2>&-`), so that no result gets their file descriptors."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "w", errors="backslashreplace", closefd=False))
