"""`Restorer`, the object that restores frames, files and streams."""

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.media import Frame
from data.media.sequence import is_sequence
from projects.video_diffusion_sr.output_size import OutputSize
from seedvr.clip_options import ClipOptions, Part, clip_range_of
from seedvr.engine import Engine, facts, open_clip
from seedvr.errors import InputError
from seedvr.frames import Form, take
from seedvr.live import Live
from seedvr.progress import Callback, Flag, Report
from seedvr.results import place, workplace


class Restorer:
    """Restores clips with the networks of one preset, one clip at a time. Made by `seedvr.load`.

    All calls take the same optional settings:
        height, width: the area of the result, height x width in pixels; the aspect ratio stays the input's. Default:
            the preset's area.
        scale, short_side, size: in place of height and width: a factor of the input's size, the shorter side in pixels,
            or the exact (width, height).
        seed: the same seed and the same frames give the same result.
        strength: 1 is the restored clip, 0 the resized input.
        color_fix: "wavelet", "lab", "adain" or "none".
        steps, guidance: number of sampling steps, and guidance scale (1: no guidance). Default: the preset's.
        codec, bit_depth, pixel_format, container, encoder, hdr, crf: only for `restore_file`, as on the command line.
        progress: a function, called with (stage, frames done, all frames or None). An exception in it ends the call.
        cancel: an object such as a threading.Event; once `cancel.is_set()`, the call raises `seedvr.Cancelled`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._busy = threading.Lock()

    @property
    def device(self) -> torch.device:
        """The device on which the networks compute."""
        return self._engine.device

    @property
    def preset(self) -> str:
        """The name of the preset."""
        return self._engine.preset.name

    def release(self) -> None:
        """Free the networks' memory. The next clip loads them again. InputError if a clip is in progress."""
        with self._alone():
            self._engine.release()

    def __call__(
        self, frames: Any, *, progress: Callback | None = None, cancel: Flag | None = None, **settings: Any
    ) -> Any:
        """Restore a clip that fits into memory.

        Args:
            frames: an array or tensor [T, H, W, 3] or [T, 3, H, W], u8 in 0..255 or floats in 0..1; one frame [H, W, 3]
                or [3, H, W]; a PIL picture or a list of them; or the path of a video or picture.
            settings: see the class.
        Returns:
            as many frames, in the form of the input; for a path, a u8 array [T, H, W, 3] (HDR becomes SDR). Float
            inputs are not rounded; float results are multiples of 1/65535.
        Raises:
            InputError, WeightsError, MemoryPlanError, NotFiniteError, Cancelled: see `seedvr.errors`.
        """
        options = self._options(settings)
        if isinstance(frames, str | PathLike):
            return self._from_file(Path(frames), options, Report(progress, cancel))
        pixels, form = take(frames)
        report = Report(progress, cancel, len(pixels))
        with self._alone():
            info = facts(pixels, len(pixels))
            slices = self._engine.frames(timed(pixels), timed(pixels), info, options, report, form.bits)
            return form.give(torch.cat(list(slices)))

    def restore_file(
        self,
        source: str | PathLike[str],
        target: str | PathLike[str],
        *,
        start: float | str | None = None,
        end: float | str | None = None,
        frames: int | tuple[int, int] | None = None,
        record: bool = False,
        resume: bool = False,
        progress: Callback | None = None,
        cancel: Flag | None = None,
        **settings: Any,
    ) -> Path:
        """Restore a file of any length into a file. As on the command line, sound, times and rotation are kept.

        Args:
            source: a video or picture, a folder of numbered pictures, or a pattern such as `walk/frame_%05d.png`.
            target: the path of the result, which is replaced if it exists; or a folder (an existing one, or a path that
                ends with a slash), in which the result gets the same name as on the command line.
            start, end: restore the frames that are first shown at `start` or later and before `end`, in seconds or as
                "hh:mm:ss.ms". Sound, subtitles and chapters are cut at the same times.
            frames: restore this number of frames, or the frames from the first number (from 0) to before the second.
            record: also write the command line's JSON of settings, versions, weights and times, as TARGET.json.
            resume: keep finished segments of a long clip in a hidden folder beside the target if the call ends early
                (by a kill, an error or `cancel`). The same call then continues after them and gives the same bytes.
        Returns:
            the path of the result. It appears when it is complete, or not at all.
        Raises:
            InputError: the input cannot be read, or the target's suffix is not that of the result.
            WeightsError, MemoryPlanError, NotFiniteError, OutputError, Cancelled: see `seedvr.errors`.
        """
        options, source = self._options(settings), Path(source)
        part = Part(clip_range_of(start, end, frames), record, resume)
        into_folder = os.fspath(target).endswith(("/", os.sep)) or Path(target).is_dir()
        folder = Path(target) if into_folder else Path(target).parent
        if not source.is_file() and not is_sequence(source):
            raise InputError(f"{source}: there is no such file")
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / source.name if into_folder else Path(target)
        with self._alone(), workplace(beside, resume) as unfinished:
            made = self._engine.file(source, unfinished, options, Report(progress, cancel), part)
            return place(made, folder / made.name if into_folder else Path(target), source, record)

    def stream(
        self, frames: Iterable[Any], *, progress: Callback | None = None, cancel: Flag | None = None, **settings: Any
    ) -> Iterator[Any]:
        """Restore a clip of any length in bounded memory, and yield its frames one by one.

        At most a window of frames is held (see `load`). The first results come when a window is full or the clip ends.
        Closing the iterator ends the run.

        Args:
            frames: an iterable of single frames, or of arrays of several frames, in any form that a call accepts.
        Yields:
            one frame after another, in the form of the first one: [H, W, 3], [3, H, W] or a PIL picture.
        """
        if not self._engine.windowed:
            raise InputError("a stream needs a window, and this restorer takes whole clips: load it with window=121")
        return self._stream(iter(frames), self._options(settings), Report(progress, cancel))

    def live(self, **settings: Any) -> Live:
        """Start a stream for frames that arrive one by one: `push` returns restored frames, and `flush` the rest."""
        return Live(self._engine.in_this_stream(lambda frames: self.stream(frames, **settings)))

    def _stream(self, frames: Iterator[Any], options: ClipOptions, report: Report) -> Iterator[Any]:
        feed = Feed(frames, report)
        try:
            first = feed.start()
        except StopIteration:
            return
        info = facts(first, None)
        with (
            self._alone(),
            closing(self._engine.frames(feed, feed.held(), info, options, report, feed.form.bits)) as slices,
        ):
            for frames_of_slice in slices:
                yield from (feed.form.give(frame[None]) for frame in frames_of_slice)

    def _from_file(self, path: Path, options: ClipOptions, report: Report) -> Any:
        deinterlace = self._engine.request.deinterlace
        with self._alone(), open_clip(path, deinterlace) as reader, reader.reopened() as again:
            report.total = reader.info.frame_count_hint
            slices = list(self._engine.frames(reader, again, reader.info, options, report))
        return Form("numpy").give(torch.cat(slices))

    def _options(self, settings: dict[str, Any]) -> ClipOptions:
        """Check the settings of a call; InputError for an unknown or invalid one."""
        settings = dict(settings)
        sizes = {name: settings.pop(name, None) for name in ("height", "width", "scale", "short_side", "size")}
        if (sizes["height"] is None) != (sizes["width"] is None):
            raise InputError("height and width are given together: they are an area; for one side there is short_side")
        area = None if sizes["height"] is None else (sizes["height"], sizes["width"])
        exact = None if sizes["size"] is None else (sizes["size"][1], sizes["size"][0])
        asked = {"area": area, "scale": sizes["scale"], "short_side": sizes["short_side"], "exact": exact}
        if all(value is None for value in asked.values()):
            asked["area"] = self._engine.preset.res
        known = set(ClipOptions.__dataclass_fields__) - {"size"}
        if unknown := [name for name in settings if name not in known]:
            raise InputError(f"there is no setting {unknown[0]!r}; known are {', '.join(sorted({*known, *sizes}))}")
        try:
            return ClipOptions(OutputSize(**asked), **settings)
        except (ValueError, TypeError) as error:
            raise InputError(str(error)) from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise InputError("this restorer is in the middle of another clip: finish or close that stream first")
        try:
            yield
        finally:
            self._busy.release()


def timed(pixels: Tensor) -> Iterator[Frame]:
    """Yield the frames of [T, 3, H, W], with their numbers as times, since the pipeline requires times."""
    return (Frame.of_rgb(frame, Fraction(number)) for number, frame in enumerate(pixels))


class Feed:
    """Passes the frames of a stream to the pipeline, and holds them until their results are finished.

    form: the form of a single frame, taken from the first one.
    """

    def __init__(self, frames: Iterator[Any], report: Report) -> None:
        self._source, self._report = self._singles(frames), report
        self._held: deque[Frame] = deque()
        self._first: Frame | None = None
        self.form = Form("numpy")

    def start(self) -> Tensor:
        """The first frame [3, H, W]; StopIteration if there is none."""
        self._first = next(self._source)
        return self._first.planes[0][0]

    def _singles(self, frames: Iterator[Any]) -> Iterator[Frame]:
        shape, number = None, 0
        for given in frames:
            pixels, form = take(given)
            if shape is None:
                shape = pixels.shape[1:]
                self.form = Form(form.kind, form.last, form.real, True, form.dtype, form.device)
            if pixels.shape[1:] != shape:
                now, was = (f"{s[2]}x{s[1]}" for s in (pixels.shape[1:], shape))
                raise InputError(f"frame {number} of the stream has {now} pixels, and those before have {was}")
            for frame in pixels:
                yield Frame.of_rgb(frame, Fraction(number))
                number += 1

    def __iter__(self) -> Iterator[Frame]:
        """Yield every frame once, and hold it for `held`."""
        first, self._first = self._first, None
        for frame in [first] if first is not None else []:
            self._held.append(frame)
            yield frame
        for frame in self._source:
            self._report.check()
            self._held.append(frame)
            yield frame

    def held(self) -> Iterator[Frame]:
        """An iterator that removes held frames in their order; after it was empty, it can continue."""
        return _HeldFrames(self._held)


class _HeldFrames:
    """An iterator over a queue that is filled while it is read."""

    def __init__(self, held: deque[Frame]) -> None:
        self._held = held

    def __iter__(self) -> "_HeldFrames":
        return self

    def __next__(self) -> Frame:
        if not self._held:
            raise StopIteration
        return self._held.popleft()
