"""What the attacks share: small clips, runs of the real program, and whether what they left is whole."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

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


def make_folder(
    root: Path, seed: int, clips: int = 3, frames: tuple[int, int] = (9, 33), sound: bool = False
) -> Folder:
    """Clips of random lengths. sound: with a tone beside the picture."""
    draws = random.Random(seed)
    (root / "in").mkdir(parents=True)
    lengths = {f"clip{i}.mp4": draws.randint(*frames) for i in range(clips)}
    for i, (name, length) in enumerate(lengths.items()):
        write_clip(root / "in" / name, length, start=7 * i)
        if sound:
            add_tone(root / "in" / name)
    return Folder(root, lengths)


def add_tone(path: Path, rate: int = 48000) -> None:
    """Put a tone as long as the picture beside it."""
    silent = path.with_name(f"silent_{path.name}")
    path.rename(silent)
    with av.open(str(silent)) as source, av.open(str(path), "w") as target:
        picture = target.add_stream_from_template(source.streams.video[0])
        tone = target.add_stream("aac", rate=rate, layout="mono")
        samples = int(rate * source.duration / av.time_base)
        wave = np.sin(np.arange(samples, dtype=np.float32) * (2 * np.pi * 440 / rate))[None]
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = picture
                target.mux(packet)
        for start in range(0, samples, 1024):
            frame = av.AudioFrame.from_ndarray(wave[:, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, start
            target.mux(tone.encode(frame))
        target.mux(tone.encode(None))
    silent.unlink()


def decoded(path: Path) -> int:
    """How many frames a clip really has; -1 when it cannot be read to its end."""
    try:
        with av.open(str(path)) as container:
            return sum(1 for _ in container.decode(video=0))
    except (av.FFmpegError, IndexError):
        return -1


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


def descendants_of(process: int) -> list[int]:
    """Process numbers of a process's children, of theirs, and so on."""
    children = workers_of(process)
    return children + [number for child in children for number in descendants_of(child)]


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


def kill(process: int, number: int = signal.SIGKILL) -> None:
    """Send a signal; nothing where the process is gone."""
    try:
        os.kill(process, number)
    except ProcessLookupError:
        pass
