"""What the attacks share: small clips, runs of the real program, and whether what they left is whole."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import av

from tests.conftest import ROOT
from tests.projects.test_restore import write_clip

SCRIPT = ROOT / "projects" / "inference_seedvr2_tiny.py"
SMALL = ["--device", "cpu", "--res_h", "32", "--res_w", "48", "--random_weights"]
SMALL += ["--set", "dit.model.num_layers=2", "vae.model.block_out_channels=[8,8,16]"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


KEPT = ".without_sound.mp4"  # what is left of a clip whose last step fails, see docs/reliability.md


@dataclass
class Folder:
    """A folder of clips to restore. frames: name -> how many frames its result must have."""

    root: Path
    frames: dict[str, int]

    @property
    def source(self) -> Path:
        return self.root / "in"

    @property
    def output(self) -> Path:
        return self.root / "out"

    def command(
        self, *flags: str, ranks: int = 0, port: int | None = None, launcher: tuple[str, ...] = ()
    ) -> list[str]:
        """The program on this folder, plain or on so many ranks."""
        words = [sys.executable]
        if ranks:
            words += ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", f"--master-port={port}", *launcher]
        return [*words, str(SCRIPT), "--video_path", str(self.source), "--output_dir", str(self.output), *SMALL, *flags]

    def start(self, *flags: str, **how) -> subprocess.Popen:
        """The program, running in a session of its own."""
        return subprocess.Popen(
            self.command(*flags, **how), stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, start_new_session=True
        )

    def damaged(self) -> list[str]:
        """Results under final names, and pictures kept without their sound, that are not whole."""
        return [
            path.name for path in self.output.glob("*.mp4")
            if not path.name.startswith(".") and decoded(path) != self.frames[path.name.replace(KEPT, ".mp4")]
        ]  # fmt: skip

    def missing(self) -> list[str]:
        return [name for name in self.frames if not (self.output / name).exists()]

    def hidden(self) -> list[str]:
        """What should not be there when all runs are over."""
        return [str(path.relative_to(self.output)) for path in self.output.rglob(".*")]


def make_folder(root: Path, seed: int, clips: int = 3, frames: tuple[int, int] = (9, 33)) -> Folder:
    """Clips of random lengths."""
    draws = random.Random(seed)
    (root / "in").mkdir(parents=True)
    lengths = {f"clip{i}.mp4": draws.randint(*frames) for i in range(clips)}
    for i, (name, length) in enumerate(lengths.items()):
        write_clip(root / "in" / name, length, start=7 * i)
    return Folder(root, lengths)


def decoded(path: Path) -> int:
    """How many frames a clip really has; -1 when it cannot be read to its end."""
    try:
        with av.open(str(path)) as container:
            return sum(1 for _ in container.decode(video=0))
    except (av.FFmpegError, IndexError):
        return -1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def workers_of(agent: int) -> list[int]:
    """Process numbers of an agent's children."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        if int(text[text.rindex(")") + 2 :].split()[1]) == agent:
            found.append(int(stat.parent.name))
    return found


def seconds_until_gone(processes: list[int], limit_s: float = 30.0) -> float:
    """How long these processes still live."""
    started = time.monotonic()
    while time.monotonic() - started < limit_s:
        if not any(lives(number) for number in processes):
            break
        time.sleep(0.05)
    return time.monotonic() - started


def lives(number: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        text = Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return False
    return text[text.rindex(")") + 2] not in "ZX"


def kill(number: int) -> None:
    """SIGKILL; nothing where it is gone."""
    try:
        os.kill(number, signal.SIGKILL)
    except ProcessLookupError:
        pass
