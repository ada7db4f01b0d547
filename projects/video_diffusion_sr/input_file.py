"""Reading the input of one file: whatever goes wrong with it is an `InputError`, at the same frame on every rank."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

from data.media import ClipRange, Frame, MediaReader, open_media
from data.media.video_reader import Alpha, Deinterlace
from projects.video_diffusion_sr.file_errors import InputError, sentence
from projects.video_diffusion_sr.scene_cuts import SceneCuts


def open_input(source: Path, deinterlace: Deinterlace, clip_range: ClipRange, alpha: Alpha = "white") -> MediaReader:
    """The reader of a file, or of a part of it; InputError, whatever a decoder makes of it; see `open_media`."""
    try:
        return open_media(source, deinterlace=deinterlace, alpha=alpha, clip_range=clip_range)
    except Exception as error:
        raise InputError(sentence(error, source, "read")) from error


def frames_of(
    reader: MediaReader, cuts: SceneCuts, first: int = 0, found: list[tuple[int, Fraction]] | None = None
) -> Iterator[Frame]:
    """The frames from number `first` on, those that begin a shot marked; InputError where the rest cannot be read.

    Args:
        found: takes the cuts of the whole file, see `SceneCuts.mark`.
    """
    try:
        marked = cuts.mark(iter(reader), reader.info.path, [] if found is None else found)
        yield from islice(marked, first, None)
    except Exception as error:
        raise InputError(sentence(error, reader.info.path, "read")) from error
