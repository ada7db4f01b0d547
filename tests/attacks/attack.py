"""One folder of clips whose runs are ended again and again, and what must be true afterwards."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen

from common.distributed.launcher import free_port
from tests.attacks.harness import Folder, descendants_of, kill, make_folder, seconds_until_gone
from tests.attacks.test_runs import LIMIT_S, SEED

FLAGS = ("--window", "13", "--skip_existing")  # a segment of a hundred frames, whose beginning is not computed again
LONG, SHORT = (330, 420), (110, 150)  # frames: of one clip, and of three, which have a segment to keep too
POLL_S = 0.002
GRACE_S = 10.0  # in which what is left of a run that was hit must be gone
VICTIMS = ("all", "the first", "a child")
BY_TORCHRUN = 'Traceback (most recent call last):\n  File "<frozen runpy>"'

BY_ITSELF: dict = {}
SETTINGS = {  # clips, how the program is started, its flags
    "a clip on one rank": (1, BY_ITSELF, ()),
    "a clip on two ranks": (1, {"ranks": 2}, ("--sp_size", "2")),
    "a folder on one rank": (3, BY_ITSELF, ()),
    "a folder on two ranks": (3, BY_ITSELF, ("--gpus", "2", "--sp_size", "1")),
}


@dataclass
class Attack:
    """One folder, how it is run, and what happened so far. draws: of moments and victims."""

    folder: Folder
    flags: tuple[str, ...]
    how: dict
    draws: random.Random
    whole: dict[str, bytes] = field(default_factory=dict)
    seconds: float = 0.0
    seen: Counter = field(default_factory=Counter)

    def start(self) -> Popen:
        self.seen["found segments"] += bool(self.kept())
        return self.folder.start(*self.flags, port=free_port(), **self.how)

    def undisturbed(self) -> None:
        """The bytes that every other run must give."""
        begun = time.monotonic()
        self.run_through()
        self.seconds = time.monotonic() - begun
        self.whole = bytes_of(self.folder)
        self.clear()

    def run_through(self) -> None:
        run = self.start()
        said = run.communicate(timeout=LIMIT_S)[1]
        assert run.returncode == 0, said
        assert self.folder.damaged() == [] and self.folder.missing() == [], said
        self.nothing_left()
        assert not self.whole or bytes_of(self.folder) == self.whole, said

    def nothing_left(self) -> None:
        """Results, their records, and nothing else."""
        names = {name for clip in self.folder.frames for name in (clip, f"{clip}.json")}
        assert {entry.name for entry in self.folder.output.iterdir()} == names

    def clear(self) -> None:
        """Everything once more."""
        for entry in self.folder.output.iterdir():
            entry.unlink()

    def kept(self) -> list[Path]:
        return list(self.folder.output.glob(".*.kept/*.mp4"))

    def moment(self) -> Callable[[], bool]:
        """Is it time? At some moment of an undisturbed run, or when parts of a clip are being put together."""
        if self.draws.random() < 0.25:
            return lambda: any(self.folder.output.glob(".seedvr-*.s.mp4"))
        until = time.monotonic() + self.draws.uniform(0, 1.1 * self.seconds)
        return lambda: time.monotonic() > until

    def unfinished(self) -> list[Path]:
        """What a run that was asked to end must not leave."""
        return [path for path in self.folder.output.glob(".*") if path.suffix != ".kept"]

    def hit(self, number: int = signal.SIGKILL) -> str | None:
        """Start a run and send a signal to somebody at some moment.

        Returns:
            What it said in the end; None where it was through before.
        """
        run, is_time = self.start(), self.moment()
        while run.poll() is None and not is_time():
            time.sleep(POLL_S)
        if run.poll() is not None:
            said = run.communicate()[1]
            assert run.returncode == 0, said
            self.folder_is_whole_again(said)
            return None
        children = descendants_of(run.pid)
        victims = self.draws.choice([[run.pid, *children], [run.pid], [self.draws.choice(children or [run.pid])]])
        self.seen["all" if victims[1:] else "the first" if victims == [run.pid] else "a child"] += 1
        self.seen["while put together"] += any(self.folder.output.glob(".seedvr-*.s.mp4"))
        for process in victims:
            kill(process, number)
        said = run.communicate(timeout=LIMIT_S)[1]
        if run.returncode == 0 and not self.folder.missing():  # the probing process, after its work
            self.folder_is_whole_again(said)
        assert seconds_until_gone(children) < GRACE_S, said
        assert self.folder.damaged() == [], said
        return said

    def folder_is_whole_again(self, said: str) -> None:
        assert bytes_of(self.folder) == self.whole, said
        self.nothing_left()
        self.seen["runs to the end"] += 1
        self.clear()


def has_traceback(said: str) -> bool:
    """Whether the program said one. torchrun says its own when a worker ends with an exit code."""
    return "Traceback" in said.split(BY_TORCHRUN)[0]


def bytes_of(folder: Folder) -> dict[str, bytes]:
    return {name: (folder.output / name).read_bytes() for name in folder.frames}


def new_attack(root: Path, setting: str) -> Attack:
    """With its undisturbed run behind it."""
    clips, how, flags = SETTINGS[setting]
    draws = random.Random(f"{SEED} {setting}")
    folder = make_folder(root, draws.randrange(1000), clips, frames=LONG if clips == 1 else SHORT, sound=True)
    made = Attack(folder, (*FLAGS, *flags), how, draws)
    made.undisturbed()
    return made
