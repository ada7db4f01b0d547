"""Reading the input of one file: whatever goes wrong with it is an `InputError`, at the same frame on every rank."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from data.media import Frame, MediaReader, open_media
from projects.video_diffusion_sr.file_errors import InputError, sentence


def open_input(source: Path, deinterlace: str) -> MediaReader:
    """The reader of a file; InputError, whatever a decoder makes of it."""
    try:
        return open_media(source, deinterlace=deinterlace)
    except Exception as error:
        raise InputError(sentence(error, source, "read")) from error


def frames_of(reader: MediaReader, first: int = 0) -> Iterator[Frame]:
    """The frames from number `first` on; InputError where the rest cannot be read."""
    try:
        yield from islice(reader, first, None)
    except Exception as error:
        raise InputError(sentence(error, reader.info.path, "read")) from error
