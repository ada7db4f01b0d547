"""Decodes a few consecutive frames for training: uint8 [T, H, W, 3] RGB."""

from collections import OrderedDict

import av
import numpy as np
from PIL import Image, ImageOps

from data.pixel_formats import to_rgb24
from data.training.index import Source, has_orientation
from data.training.tar_shards import opened


class DecodeError(Exception):
    """A file does not contain the frames that its header states."""


class FrameReader:
    """Reads frames of sources, with an LRU cache of whole small clips, up to `cache_bytes` in all.

    Every worker process has its own reader and cache.
    """

    def __init__(self, cache_bytes: int = 0) -> None:
        self.cache_bytes = cache_bytes
        self._cache: OrderedDict[str, np.ndarray] = OrderedDict()
        self._cached_bytes = 0

    def read(self, source: Source, start: int, count: int) -> np.ndarray:
        """Frames start .. start + count - 1 of a source.

        Returns:
            uint8 [count, height, width, 3]. Do not write into it, because it may be a view of the cache.

        Raises:
            DecodeError: the file is broken or shorter than its header says.
        """
        if source.path in self._cache:
            self._cache.move_to_end(source.path)
            clip = self._cache[source.path]
        elif source.frames * source.height * source.width * 3 <= self.cache_bytes // 4:
            clip = self._keep(source.path, decode(source, 0, source.frames))
        else:
            return decode(source, start, count)
        return clip[start : start + count]

    def _keep(self, path: str, clip: np.ndarray) -> np.ndarray:
        self._cache[path] = clip
        self._cached_bytes += clip.nbytes
        while self._cached_bytes > self.cache_bytes:
            _, old = self._cache.popitem(last=False)
            self._cached_bytes -= old.nbytes
        return clip


def decode(source: Source, start: int, count: int) -> np.ndarray:
    """As `FrameReader.read`, without a cache.

    In a long video, decoding starts at the key frame before `start`. If the frame rate varies, the first frame is the
    one shown at the time start / average rate, which may be another frame than `start`. Frames are always consecutive.
    """
    try:
        if not source.is_video:
            frames = [_image(source.path)]
        else:
            frames = (_seek_and_decode(source, start, count) if start else []) or _decode_from_start(
                source, start, count
            )
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DecodeError(f"{source.path}: {error}") from error
    if len(frames) != count:
        raise DecodeError(
            f"{source.path}: asked for frames {start} to {start + count}, found {len(frames)} of {count}."
        )
    clip = np.stack(frames)
    if clip.shape[1:3] != (source.height, source.width):
        raise DecodeError(
            f"{source.path}: {clip.shape[1:3]} instead of the {source.height}x{source.width} of its header."
        )
    return clip


def _image(path: str) -> np.ndarray:
    with opened(path) as file, Image.open(file) as picture:
        upright = ImageOps.exif_transpose(picture) if has_orientation(picture) else picture
        return np.asarray(upright.convert("RGB"))


def _decode_from_start(source: Source, start: int, count: int) -> list[np.ndarray]:
    frames = []
    with opened(source.path) as file, av.open(file, "r") as container:
        stream = _single_threaded(container)
        for i, frame in enumerate(container.decode(stream)):
            if i >= start:
                frames.append(_rgb(frame))
            if len(frames) == count:
                break
    return frames


def _seek_and_decode(source: Source, start: int, count: int) -> list[np.ndarray]:
    """The frames, or an empty list if the timestamps in the file do not locate them."""
    frames = []
    with opened(source.path) as file, av.open(file, "r") as container:
        stream = _single_threaded(container)
        if not (stream.average_rate and stream.time_base):
            return []
        target = (stream.start_time or 0) + round(start / stream.average_rate / stream.time_base)
        container.seek(target, stream=stream, backward=True)
        half_a_frame = round(1 / stream.average_rate / stream.time_base / 2)
        for frame in container.decode(stream):
            if frame.pts is None:
                return []
            if frame.pts >= target - half_a_frame:
                frames.append(_rgb(frame))
            if len(frames) == count:
                return frames
    return []


def _rgb(frame: av.VideoFrame) -> np.ndarray:
    """The frame as uint8 [H, W, 3] RGB, converted as in inference."""
    return to_rgb24(frame, frame.width, frame.height).to_ndarray()


def _single_threaded(container: av.container.InputContainer) -> av.video.stream.VideoStream:
    stream = container.streams.video[0]
    stream.codec_context.thread_count = 1  # worker processes run in parallel instead
    return stream
