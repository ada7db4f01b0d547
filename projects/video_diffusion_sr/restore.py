"""One file, from its name to the name of its result: read, prepare, encode, condition, sample, decode, finish, write.

Everything streams: a slice of frames is read, resized and encoded, a slice of latents is decoded, finished and written.
What is held is one window of latents. The colours of the input are needed again when the result is finished, for which
the file is read a second time: a clip of any length needs no more memory than a short one.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from common.distributed.parallel import Parallel
from common.logger import get_logger
from common.seed import frame_noise
from data.media import Frame, MediaError, MediaInfo, MediaReader, open_media, open_writer, output_path
from projects.video_diffusion_sr.color_fix import fix_colour
from projects.video_diffusion_sr.comparison import Comparison
from projects.video_diffusion_sr.geometry import Geometry, to_8_bit
from projects.video_diffusion_sr.infer import VideoDiffusionInfer
from projects.video_diffusion_sr.long_clips import SHARED_LATENTS, in_windows
from projects.video_diffusion_sr.memory_plan import MemoryPlan
from projects.video_diffusion_sr.memory_prediction import FINISH_FRAMES
from projects.video_diffusion_sr.output_size import say_size
from projects.video_diffusion_sr.progress import Progress
from projects.video_diffusion_sr.report import Report, peak, reset_peak

logger = get_logger(__name__)


@dataclass(frozen=True)
class Finish:
    """What a user may ask of the result.

    color_fix: one of `color_fix.KINDS`. strength: 1 is the restored clip, 0 the resized input.
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
    parallel: Parallel  # who else works on the clip
    use_sample: bool = True  # encode to a sample of the posterior, not its mean
    finish: Finish = field(default_factory=Finish)
    deinterlace: str = "auto"

    @property
    def device(self) -> torch.device:
        return self.infer.device


class InputError(MediaError):
    """The input cannot be read: all ranks that share it find the same, so the run can go on with the next file."""


def restore_clip(
    source: Path,
    output_dir: Path,
    restorer: Restorer,
    show_progress: bool = False,
    way: MemoryPlan | None = None,
    new_progress: Callable[[str, int | None, bool], Progress] = Progress,
) -> Report | None:
    """Restore one file.

    Args:
        way: how to run it; None: as the last one.
        new_progress: (name, frames, whether to show it) -> what is told of the progress.
    Returns:
        What was done; None on ranks that only help. The result appears under its name only when it is complete.
    Raises:
        InputError: the file cannot be opened or read to its end; nothing is left behind.
        MediaError: the result cannot be written; nothing is left behind.
    """
    started = time.perf_counter()
    reset_peak(restorer.device)
    stages = restorer.infer.stages
    if way is not None:
        stages.follow(way)
    leads = restorer.parallel.leads
    with ExitStack() as stack:
        reader, again = (stack.enter_context(_open(source, restorer)) for _ in range(2))
        info, output = reader.info, output_path(source, output_dir, reader.info)
        size = restorer.geometry.output_size(info.height, info.width)
        if leads:
            say_size(source, (info.height, info.width), size)
        frames_at_once = stages.way.slice_frames or restorer.parallel.slice_frames(
            restorer.split_size, restorer.infer.vae.temporal_factor, info.frame_count_hint
        )
        restorer = replace(restorer, split_size=frames_at_once)
        progress = stack.enter_context(new_progress(source.name, info.frame_count_hint, show_progress and leads))
        times: list[Fraction] = []
        frames = prepare(reader, restorer, times)  # [3, h', w'] each
        latents = encode(frames, restorer, progress)  # [t, h, w, c] pieces
        restored = sample(latents, restorer, progress)  # [t, h, w, c] pieces
        finished = decode_and_finish(restored, iter(again), size, restorer)  # u8 [T, 3, h, w] pairs
        written = 0
        if leads:
            written = write(finished, times, output, info, size, restorer.finish, progress)
        else:
            for _ in finished:
                pass
    if not leads:
        return None
    seconds = time.perf_counter() - started
    memory = peak(restorer.device, stages.way)
    return Report(source, output, written, size, seconds, damage=reader.damage, **memory)


def prepare(reader: MediaReader, restorer: Restorer, times: list[Fraction]) -> Iterator[Tensor]:
    """Resized, padded frames [3, h', w'] float32 in [-1, 1]; their times are appended to `times`."""
    try:
        for frame in reader:
            times.append(frame.time)
            pixels = restorer.geometry.to_network(restorer.geometry.to_output(frame.pixels, restorer.device))
            yield pixels.to(restorer.infer.stages.waiting_room)
    except MediaError as error:
        raise InputError(str(error)) from error


@dataclass(frozen=True)
class Slice:
    """Consecutive frames of a clip. clip: [3, T, h', w']. real: without the repeated ones. first: latent frame."""

    clip: Tensor
    real: int
    first: int


def encode(frames: Iterator[Tensor], restorer: Restorer, progress: Progress) -> Iterator[Tensor]:
    """Latents [t, h, w, c], slice by slice; the last frame is repeated to fill the last slice's latents."""
    infer, parallel, seen = restorer.infer, restorer.parallel, 0
    memory = parallel.memory(infer)

    def work(piece: Slice) -> Tensor:
        shape, noise = _latent_shape(piece, infer), None
        if restorer.use_sample:
            noise = frame_noise(restorer.seed, "posterior", piece.first, *shape).to(restorer.device)
        return infer.encode_slice(piece.clip, memory, noise)

    def counted(pieces: Iterator[Slice]) -> Iterator[Slice]:
        nonlocal seen
        for piece in pieces:
            yield piece
            seen += piece.real
            progress.advance("encode", piece.real)

    pieces = counted(slices(frames, restorer.split_size, infer.vae.temporal_factor))
    yield from parallel.in_turns(pieces, work, memory=memory, length=lambda piece: piece.clip.shape[1])
    progress.expect(seen)


def slices(frames: Iterator[Tensor], size: int, factor: int) -> Iterator[Slice]:
    """Clips of 1 + size, size, size, ... frames [3, h', w']; the last is as short as it can be."""
    waiting, wanted, first = [], 1 + size, 0
    for frame in frames:
        waiting.append(frame)
        if len(waiting) == wanted:
            yield Slice(torch.stack(waiting, dim=1), wanted, first)
            waiting, wanted, first = [], size, first + size // factor + (first == 0)
    if waiting:
        missing = -(len(waiting) - (first == 0)) % factor
        yield Slice(torch.stack(waiting + waiting[-1:] * missing, dim=1), len(waiting), first)


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


def decode_and_finish(
    restored: Iterator[Tensor], inputs: Iterator[Frame], size: tuple[int, int], restorer: Restorer
) -> Iterator[tuple[Tensor, Tensor]]:
    """(resized input, result), u8 [T, 3, h, w] on the CPU, slice by slice; on the leader of a group only.

    What lies beyond the end of the input was only repeated to fill the last latent frame, and is dropped.
    """
    infer, parallel = restorer.infer, restorer.parallel
    factor, step = infer.vae.temporal_factor, restorer.split_size // infer.vae.temporal_factor
    memory, starts = parallel.memory(infer), True

    def frames_of(piece: Tensor) -> int:
        nonlocal starts
        first, starts = starts, False
        return factor * len(piece) - first * (factor - 1)  # a clip's first latent is one frame

    def work(piece: Tensor) -> tuple[Tensor, Tensor]:
        clip = infer.decode_slice(piece, memory)  # [3, T, h', w'] about [-1, 1]
        frames_of(piece)
        pairs = [(torch.empty(0, 3, *size, dtype=torch.uint8),) * 2]
        for part in clip.split(FINISH_FRAMES, dim=1):
            degraded = [restorer.geometry.to_output(f.pixels, restorer.device) for f in islice(inputs, part.shape[1])]
            if degraded:
                pairs.append(finish(part.to(restorer.device), torch.stack(degraded), restorer.finish))
        return tuple(torch.cat(column) for column in zip(*pairs, strict=True))

    def skip(piece: Tensor) -> None:
        for _ in islice(inputs, frames_of(piece)):
            pass

    pieces = (piece for window in restored for piece in window.split(step))
    yield from parallel.in_turns(pieces, work, memory=memory, skip=skip, everyone=False)


def finish(clip: Tensor, degraded: Tensor, wishes: Finish) -> tuple[Tensor, Tensor]:
    """The padding cut off, the colours of the input given back, rounded.

    Args:
        clip: [3, T', h', w'] decoded. degraded: [T, 3, h, w] the resized input, T <= T'.
    Returns:
        (resized input, result), u8 [T, 3, h, w] on the CPU.
    """
    frames, _, height, width = degraded.shape
    content = clip[:, :frames, :height, :width].transpose(0, 1).float()
    result = fix_colour(wishes.color_fix, content, degraded)
    if wishes.strength != 1.0:
        result = torch.lerp(degraded, result, wishes.strength)
    return to_8_bit(degraded).cpu(), to_8_bit(result).cpu()


def write(
    finished: Iterator[tuple[Tensor, Tensor]],
    times: list[Fraction],
    output: Path,
    info: MediaInfo,
    size: tuple[int, int],
    wishes: Finish,
    progress: Progress,
) -> int:
    """Write the result, and the comparison where it is wished; returns the number of frames."""
    quality = {} if wishes.crf is None else {"crf": wishes.crf}
    written = 0
    with (
        open_writer(output, info, size, frame_rate=wishes.frame_rate, **quality) as writer,
        Comparison(output, info, size, wishes.compare, wishes.frame_rate) as comparison,
    ):
        for inputs, outputs in finished:
            shown = times[written : written + len(outputs)]
            writer.write(outputs, shown)
            comparison.write(inputs, outputs, shown)
            written += len(outputs)
            progress.advance("decode", len(outputs))
        if written != len(times):
            raise MediaError(f"{info.path}: {len(times)} frames were read, but {written} when reading it once more")
    return written


def _open(source: Path, restorer: Restorer) -> MediaReader:
    try:
        return open_media(source, deinterlace=restorer.deinterlace)
    except MediaError as error:
        raise InputError(str(error)) from error


def _latent_shape(piece: Slice, infer: VideoDiffusionInfer) -> tuple[int, int, int, int]:
    """(t, h, w, c) of the latents that a slice becomes."""
    vae, (_, frames, height, width) = infer.vae, piece.clip.shape
    t = 1 + (frames - 1) // vae.temporal_factor if piece.first == 0 else frames // vae.temporal_factor
    return t, height // vae.spatial_factor, width // vae.spatial_factor, vae.latent_channels
