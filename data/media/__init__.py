"""Clips and pictures in and out: `find_media`, `open_media`, `output_path`, `open_writer`."""

from data.media.find import find_media, is_probably_media
from data.media.info import Frame, MediaError, MediaInfo, MediaReader
from data.media.names import output_path
from data.media.reader import open_media
from data.media.whole import BusyError, MediaWriter
from data.media.writer import open_writer

__all__ = [
    "BusyError",
    "Frame",
    "MediaError",
    "MediaInfo",
    "MediaReader",
    "MediaWriter",
    "find_media",
    "is_probably_media",
    "open_media",
    "open_writer",
    "output_path",
]
