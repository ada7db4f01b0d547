"""What stays of a clip in the making that is killed before each step that changes the folder of results?

A program, as it must fork before anything has threads: `python -m tests.attacks.every_step FOLDER CODEC STRIDE`. It
prints the steps of an undisturbed run, then one line for each kill that was not made good.
"""

import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from common.claim import remove_leftovers
from data.media import OutputOptions, open_media, open_writer, segmented
from tests.attacks.harness import add_tone
from tests.projects.test_restore import write_clip

FRAMES, SEGMENT = 20, 8
CHANGES = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.utime", "shutil.rmtree"}
IDENTITY = {"the seed": "666"}
NAMES = {"h264": "clip.mp4", "ffv1": "clip.mkv", "png": "clip"}  # of results; a folder of frames


def die_before(step: int, folder: Path, log: Path | None = None) -> None:
    """SIGKILL for this process before it changes something in a folder for the `step`-th time."""
    steps = 0

    def count(event: str, arguments: tuple) -> None:
        nonlocal steps
        if event not in CHANGES:
            return
        # Removals of a tree name their file relative to an open folder, so all of them count.
        if event != "os.remove" and not any(str(folder) in os.fsdecode(a) for a in arguments[:2] if is_path(a)):
            return
        steps += 1
        if log is not None:
            with open(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "w") as file:
                file.write(f"{event} {arguments[:2]}\n")
        if steps == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def is_path(argument: object) -> bool:
    return isinstance(argument, str | bytes | os.PathLike)


def in_a_fork(work: Callable[[], None]) -> int:
    """The status of a child process that does the work."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


class Clip:
    """One clip, and how its result is made. output: the result."""

    def __init__(self, root: Path, codec: str) -> None:
        source = write_clip(root / "in.mp4", FRAMES)
        add_tone(source)
        with open_media(source) as reader:
            self.info, self.frames = reader.info, [(frame.pixels, frame.time) for frame in reader]
        self.output, self.options = root / "out" / NAMES[codec], OutputOptions(codec=codec)
        self.frames_out = "png" if codec == "png" else None

    def make(self) -> None:
        """The result, behind what is kept of it."""
        how = {"options": self.options, "identity": IDENTITY, "frames_out": self.frames_out}
        with open_writer(self.output, self.info, (24, 32), **how) as writer:
            for number in range(writer.frames, FRAMES):
                pixels, time = self.frames[number]
                writer.write_planes(writer.planes_for(pixels[None]), [time], {0: 0} if number % SEGMENT == 1 else {})

    def bytes(self) -> list[bytes]:
        """Of the result."""
        files = sorted(self.output.iterdir()) if self.output.is_dir() else [self.output]
        return [file.read_bytes() for file in files]

    def start_again(self) -> None:
        """As the program does with --skip_existing."""
        remove_leftovers(self.output.parent)
        if not self.output.exists():
            self.make()


def attack(root: Path, codec: str, stride: int) -> None:
    """stride: 1 for every step, 4 for every fourth."""
    os.fsync = lambda descriptor: None  # a kill loses nothing that was written, and a busy disk takes minutes for it
    segmented.LEAST_KEPT = SEGMENT
    clip, log = Clip(root, codec), root / "steps"
    folder = clip.output.parent

    def killed(step: int, where: Path | None = None) -> int:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

        def work() -> None:
            die_before(step, folder, where)
            clip.make()

        return in_a_fork(work)

    assert killed(0, log) == 0
    whole, steps = clip.bytes(), log.read_text().splitlines()
    print(len(steps))
    for number, step in list(enumerate(steps, start=1))[::stride]:
        ended = killed(number)
        again = in_a_fork(clip.start_again)
        left = sorted(entry.name for entry in folder.iterdir())
        if ended != signal.SIGKILL or again != 0 or left != [clip.output.name] or clip.bytes() != whole:
            print(f"before {number}, {step}: ended with {ended}, then {again}, and left {left}")


if __name__ == "__main__":
    attack(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
