"""Reads and writes clips and pictures: `find_media`, `probe_all`, `open_media`, `rgb_of`, `output_path`, `open_writer`.

A name is imported when it is first used, because the process that probes files (`data.media.probe_worker`) must start
without torch, which takes seconds to load.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data.media.clip_range import ClipRange
    from data.media.codecs import OutputOptions
    from data.media.errors import MediaError
    from data.media.find import is_probably_media
    from data.media.frame import Frame, alpha_of, rgb_of
    from data.media.info import MediaInfo, MediaReader
    from data.media.media_writer import BusyError, MediaWriter
    from data.media.names import output_path
    from data.media.probe import Probe
    from data.media.probe_process import probe_all
    from data.media.reader import open_media
    from data.media.search import find_media, place_of
    from data.media.writer import open_writer

_HOME = {
    "BusyError": "media_writer",
    "Frame": "frame",
    "MediaError": "errors",
    "MediaInfo": "info",
    "MediaReader": "info",
    "MediaWriter": "media_writer",
    "OutputOptions": "codecs",
    "Probe": "probe",
    "ClipRange": "clip_range",
    "alpha_of": "frame",
    "find_media": "search",
    "is_probably_media": "find",
    "open_media": "reader",
    "open_writer": "writer",
    "output_path": "names",
    "place_of": "search",
    "probe_all": "probe_process",
    "rgb_of": "frame",
}

__all__ = [
    "BusyError",
    "ClipRange",
    "Frame",
    "MediaError",
    "MediaInfo",
    "MediaReader",
    "MediaWriter",
    "OutputOptions",
    "Probe",
    "alpha_of",
    "find_media",
    "is_probably_media",
    "open_media",
    "open_writer",
    "output_path",
    "place_of",
    "probe_all",
    "rgb_of",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
