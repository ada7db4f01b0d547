"""One file, from its name to the name of its result: read, prepare, encode, condition, sample, decode, finish, write.

Everything streams: a slice of frames is read, resized and encoded, a slice of latents is decoded, finished and written.
What is held is one window of latents. The colours of the input are needed again when the result is finished, for which
the file is read a second time: a clip of any length needs no more memory than a short one.
"""

import resource
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from common.logger import get_logger
from common.seed import frame_noise
from data.media import Frame, MediaError, MediaInfo, MediaReader, open_media, open_writer, output_path
from projects.video_diffusion_sr.color_fix import fix_colour
from projects.video_diffusion_sr.comparison import Comparison
from projects.video_diffusion_sr.geometry import Geometry, to_8_bit
from projects.video_diffusion_sr.infer import VideoDiffusionInfer
from projects.video_diffusion_sr.long_clips import SHARED_LATENTS, in_windows
from projects.video_diffusion_sr.progress import Progress

logger = get_logger(__name__)


@dataclass(frozen=True)
class Finish:
    """What a user may ask of the result.

    color_fix: "wavelet", "adain" or "none". strength: 1 is the restored clip, 0 the resized input.
    frame_rate: play the same frames at this rate; None keeps the file's own times. crf: H.264 quality, lower is better.
    compare: also write a side-by-side clip and a contact sheet.
    """

    color_fix: str = "wavelet"
    strength: float = 1.0
    frame_rate: Fraction | None = None
    crf: float | None = None
    compare: bool = False


@dataclass(frozen=True)
class Restorer:
    """The networks and everything about a run that does not depend on the file."""

    infer: VideoDiffusionInfer
    geometry: Geometry
    seed: int
    split_size: int  # frames that go through the VAE at once, after the first
    window: int | None  # latent frames that go through the transformer at once; None: all
    use_sample: bool = True  # encode to a sample of the posterior, not its mean
    finish: Finish = field(default_factory=Finish)
    deinterlace: str = "auto"

    @property
    def device(self) -> torch.device:
        return next(self.infer.vae.parameters()).device


@dataclass(frozen=True)
class Report:
    """What was done with one file."""

    source: Path
    output: Path
    frames: int
    size: tuple[int, int]  # height, width
    seconds: float
    peak_memory: int  # bytes: of this file on a CUDA device, of the whole process so far on a CPU
    damage: str | None = None  # frames of the input that were lost before we saw them

    def line(self) -> str:
        speed = self.frames / max(self.seconds, 1e-9)
        height, width = self.size
        return (
            f"{self.source.name} -> {self.output}: {self.frames} frame{'s' * (self.frames != 1)} of {width}x{height} "
            f"in {self.seconds:.1f} s ({speed:.2f} fps, peak {self.peak_memory / 2**30:.2f} GiB)"
        )


def restore_clip(source: Path, output_dir: Path, restorer: Restorer, show_progress: bool = False) -> Report:
    """Restore one file.

    Returns:
        What was done. The result appears under its name only when it is complete.
    Raises:
        MediaError: the file cannot be read to its end, or the result cannot be written; nothing is left behind.
    """
    started = time.perf_counter()
    _reset_peak(restorer.device)
    with ExitStack() as stack:
        reader = stack.enter_context(open_media(source, deinterlace=restorer.deinterlace))
        info, output = reader.info, output_path(source, output_dir, reader.info)
        size = restorer.geometry.output_size(info.height, info.width)
        progress = stack.enter_context(Progress(source.name, info.frame_count_hint, show_progress))
        again = stack.enter_context(open_media(source, deinterlace=restorer.deinterlace))
        writer = stack.enter_context(_open_writer(output, info, size, restorer.finish))
        comparison = stack.enter_context(
            Comparison(output, info, size, restorer.finish.compare, restorer.finish.frame_rate)
        )

        times: list[Fraction] = []
        frames = prepare(reader, restorer, times)  # [3, h', w'] each
        latents = encode(frames, restorer, progress)  # [t, h, w, c] pieces
        restored = sample(latents, restorer, progress)  # [t, h, w, c] pieces
        decoded = decode(restored, restorer)  # [3, T, h', w'] pieces, padded in time
        written = 0
        for inputs, outputs in finish(decoded, iter(again), size, restorer):  # u8 [T, 3, h, w] each
            shown = times[written : written + len(outputs)]
            writer.write(outputs, shown)
            comparison.write(inputs, outputs, shown)
            written += len(outputs)
            progress.advance("decode", len(outputs))
        if written != len(times):
            raise MediaError(f"{source}: {len(times)} frames were read, but only {written} when reading it once more")
    seconds = time.perf_counter() - started
    return Report(source, output, written, size, seconds, _peak(restorer.device), reader.damage)


def prepare(reader: MediaReader, restorer: Restorer, times: list[Fraction]) -> Iterator[Tensor]:
    """Resized, padded frames [3, h', w'] float32 in [-1, 1]; their times are appended to `times`."""
    for frame in reader:
        times.append(frame.time)
        yield restorer.geometry.to_network(restorer.geometry.to_output(frame.pixels, restorer.device))


def encode(frames: Iterator[Tensor], restorer: Restorer, progress: Progress) -> Iterator[Tensor]:
    """Latents [t, h, w, c], slice by slice; the last frame is repeated to fill the last slice's latents."""
    infer, first, seen = restorer.infer, 0, 0
    memory = infer.vae.new_memory()
    for clip, real in slices(frames, restorer.split_size, infer.vae.temporal_factor):
        shape = _latent_shape(clip, infer, starts=first == 0)
        noise = None
        if restorer.use_sample:
            noise = frame_noise(restorer.seed, "posterior", first, *shape).to(restorer.device)
        latents = infer.encode_slice(clip, memory, noise)
        first, seen = first + len(latents), seen + real
        progress.advance("encode", real)
        yield latents
    progress.expect(seen)


def slices(frames: Iterator[Tensor], size: int, factor: int) -> Iterator[tuple[Tensor, int]]:
    """([3, 1 + size or size, h', w'] clips, how many of their frames are real); the last is as short as it can be."""
    waiting, wanted, starts = [], 1 + size, True
    for frame in frames:
        waiting.append(frame)
        if len(waiting) == wanted:
            yield torch.stack(waiting, dim=1), wanted
            waiting, wanted, starts = [], size, False
    if waiting:
        real = len(waiting)
        missing = -(real - 1 if starts else real) % factor
        yield torch.stack(waiting + waiting[-1:] * missing, dim=1), real


def sample(latents: Iterator[Tensor], restorer: Restorer, progress: Progress) -> Iterator[Tensor]:
    """Restored latents [t, h, w, c], one window after the other."""
    infer, factor = restorer.infer, restorer.infer.vae.temporal_factor

    def restore_window(window: Tensor, first: int) -> Tensor:
        noises = {
            kind: frame_noise(restorer.seed, kind, first, *window.shape).to(window.device)
            for kind in ("start", "condition")
        }
        condition = infer.condition(window, noises["condition"])  # t h w c+1
        restored = infer.sample(condition, noises["start"])
        progress.advance("sample", (len(window) - (SHARED_LATENTS if first else 0)) * factor)
        return restored.to(window.device)

    return in_windows(latents, restore_window, restorer.window)


def decode(restored: Iterator[Tensor], restorer: Restorer) -> Iterator[Tensor]:
    """Frames [3, T, h', w'] about [-1, 1], slice by slice."""
    infer = restorer.infer
    memory, step = infer.vae.new_memory(), restorer.split_size // infer.vae.temporal_factor
    for window in restored:
        for piece in window.split(step):
            yield infer.decode_slice(piece, memory)


def finish(
    decoded: Iterator[Tensor], inputs: Iterator[Frame], size: tuple[int, int], restorer: Restorer
) -> Iterator[tuple[Tensor, Tensor]]:
    """(resized input, result), u8 [T, 3, h, w] on the CPU: the padding cut off, the colours of the input given back.

    Stops where the input ends: what lies beyond was only repeated to fill the last latent frame.
    """
    for clip in decoded:
        shown = islice(inputs, clip.shape[1])
        degraded = [restorer.geometry.to_output(frame.pixels, restorer.device) for frame in shown]
        if not degraded:
            return
        style = torch.stack(degraded)  # T 3 h w
        content = clip[:, : len(style), : size[0], : size[1]].transpose(0, 1).float()
        result = fix_colour(restorer.finish.color_fix, content, style)
        if restorer.finish.strength != 1.0:
            result = torch.lerp(style, result, restorer.finish.strength)
        yield to_8_bit(style).cpu(), to_8_bit(result).cpu()


def _latent_shape(clip: Tensor, infer: VideoDiffusionInfer, starts: bool) -> tuple[int, int, int, int]:
    """(t, h, w, c) of the latents that a slice [3, T, h', w'] becomes."""
    vae, (_, frames, height, width) = infer.vae, clip.shape
    t = 1 + (frames - 1) // vae.temporal_factor if starts else frames // vae.temporal_factor
    return t, height // vae.spatial_factor, width // vae.spatial_factor, vae.latent_channels


def _open_writer(output: Path, info: MediaInfo, size: tuple[int, int], finish: Finish):
    quality = {} if finish.crf is None else {"crf": finish.crf}
    return open_writer(output, info, size, frame_rate=finish.frame_rate, **quality)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
