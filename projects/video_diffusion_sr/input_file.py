"""Reads the frames of one file. Every error of reading becomes an `InputError`, at the same frame on every rank."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

from data.media import ClipRange, Frame, MediaReader, open_media
from data.media.video_reader import Alpha, Deinterlace
from projects.video_diffusion_sr.file_errors import InputError, sentence
from projects.video_diffusion_sr.scene_cuts import SceneCuts


def open_input(source: Path, deinterlace: Deinterlace, clip_range: ClipRange, alpha: Alpha = "white") -> MediaReader:
    """Open a file, or a part of it, for reading, see `open_media`; InputError for any error of the decoder."""
    try:
        return open_media(source, deinterlace=deinterlace, alpha=alpha, clip_range=clip_range)
    except Exception as error:
        raise InputError(sentence(error, source, "read")) from error


def frames_of(
    reader: MediaReader, cuts: SceneCuts, first: int = 0, found: list[tuple[int, Fraction]] | None = None
) -> Iterator[Frame]:
    """Yield the frames from number `first` on, with marks on those that begin a shot.

    Args:
        found: a list to which the cuts of the whole file are appended, see `SceneCuts.mark`.
    Raises:
        InputError: a frame cannot be read, or the list of cuts cannot be used.
    """
    try:
        marked = cuts.mark(iter(reader), reader.info.path, [] if found is None else found)
        yield from islice(marked, first, None)
    except Exception as error:
        raise InputError(sentence(error, reader.info.path, "read")) from error
