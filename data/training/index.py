"""The index of training files: lists files and their sizes, read from headers without decoding.

Files are in folders or in tar files (`data.training.tar_shards`).
"""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

import av
from PIL import Image

from common.logger import get_logger
from data.training.tar_shards import SUFFIX, Member, members, opened

logger = get_logger(__name__)

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})
VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".ts", ".mpg", ".mpeg"})
TRANSPOSING_ORIENTATIONS = frozenset({5, 6, 7, 8})
ORIENTATION = 0x0112


@dataclass(frozen=True)
class Source:
    """One file: an image (`frames` 1) or a video; sizes in pixels.

    path: the path of the file; for a member of a tar, the text that `tar_shards.opened` accepts.
    text: the file with its text embedding, `NAME.safetensors` beside `NAME.mp4`; None if there is none.
    """

    path: str
    is_video: bool
    frames: int
    height: int
    width: int
    text: str | None = None


@dataclass(frozen=True)
class Index:
    """The sources in a fixed order, and how many files could not be read.

    fingerprint: a hash of the names, sizes and modification times of all files that were probed.
    """

    sources: tuple[Source, ...]
    broken: int = 0
    fingerprint: str = ""

    def save(self, path: str | Path) -> None:
        """Write the index as JSON, atomically, so that a large folder is probed only once."""
        temporary = Path(f"{path}.part")
        values = {"broken": self.broken, "fingerprint": self.fingerprint, "sources": [asdict(s) for s in self.sources]}
        temporary.write_text(json.dumps(values))
        os.replace(temporary, path)

    @staticmethod
    def load(path: str | Path) -> "Index":
        """Read an index that `save` wrote."""
        values = json.loads(Path(path).read_text())
        return Index(tuple(Source(**s) for s in values["sources"]), values["broken"], values.get("fingerprint", ""))


def cached_index(paths: Iterable[str | Path], cache: str | Path, workers: int = 4) -> Index:
    """As `build_index`, but reads the index from the file `cache` if no file has changed since it was written."""
    paths, cache = list(paths), Path(cache)
    if cache.is_file():
        try:
            stored = Index.load(cache)
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s cannot be read (%s); the files are probed again", cache, error)
        else:
            if stored.fingerprint == fingerprint_of(found_files(paths)):
                logger.info("%d sources as stored in %s", len(stored.sources), cache)
                return stored
    index = build_index(paths, workers)
    cache.parent.mkdir(parents=True, exist_ok=True)
    index.save(cache)
    return index


def found_files(paths: Iterable[str | Path]) -> list[Path]:
    """Every image, video and tar at or below the given paths, sorted; FileNotFoundError for a path that is missing."""
    return sorted(file for path in paths for file in _files(Path(path)))


def fingerprint_of(files: Iterable[Path]) -> str:
    """A hash that changes if a file, or the text embedding beside it, is added, removed or modified."""
    digest = hashlib.sha256()
    for file in files:
        status, text = file.stat(), text_beside(file)
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0{text}\n".encode())
    return digest.hexdigest()


def text_beside(file: Path) -> str | None:
    """The path of a clip's text embedding; None if there is none."""
    text = file.with_suffix(".safetensors")
    return str(text) if text.is_file() else None


def build_index(paths: Iterable[str | Path], workers: int = 4) -> Index:
    """Probe every image and video below the given folders, and in tar files there. Paths may also be single files.

    Broken files are skipped, logged and counted. Sources are sorted by path, and within a tar by name.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: nothing usable was found.
    """
    paths = list(paths)
    files = found_files(paths)
    with ThreadPoolExecutor(workers) as pool:
        listed = list(pool.map(_jobs, files))
        jobs = [job for of_file in listed for job in of_file or ()]
        probed = list(pool.map(_probe_or_none, jobs))
    sources = tuple(source for source in probed if source is not None)
    broken = len(jobs) - len(sources) + listed.count(None)
    if not sources:
        where = ", ".join(str(path) for path in paths)
        if not broken:
            raise ValueError(f"{where}: no image, video or tar of them is there; name a folder that holds some")
        raise ValueError(f"{where}: no image or video can be read, {broken} broken; the lines above say why")
    videos = sum(source.is_video for source in sources)
    texts = sum(source.text is not None for source in sources)
    logger.info(
        "%d videos, %d images, %d broken files skipped, %d with a text embedding",
        videos,
        len(sources) - videos,
        broken,
        texts,
    )
    return Index(sources, broken, fingerprint_of(files))


Job = tuple[str, str | None]  # the path of a source to be probed, and that of its text embedding


def _jobs(path: Path) -> list[Job] | None:
    """The jobs of a file: one for the file itself, or one for each image and video of a tar; None for a broken tar."""
    if path.suffix.lower() != SUFFIX:
        return [(str(path), text_beside(path))]
    try:
        inside = {member.name: str(member) for member in members(path)}
    except (OSError, ValueError) as error:
        logger.warning("skipping %s", error)
        return None
    known = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    chosen = [name for name in inside if PurePosixPath(name).suffix.lower() in known]
    return [(inside[name], inside.get(str(PurePosixPath(name).with_suffix(".safetensors")))) for name in chosen]


def probe(path: str | Path, text: str | None = None) -> Source:
    """Read the size and the frame count of one file from its header. Without a count there, a video is demuxed.

    Args:
        path: the path of a file, or of a member of a tar.
        text: the path of its text embedding.

    Raises:
        ValueError: the file contains no frame.
        OSError: the file cannot be read (av's and PIL's errors are subclasses).
    """
    path = str(path)
    member = Member.parse(path)
    if PurePosixPath(path if member is None else member.name).suffix.lower() in IMAGE_SUFFIXES:
        with opened(path) as file, Image.open(file) as picture:
            width, height = picture.size
            if has_orientation(picture) and picture.getexif().get(ORIENTATION) in TRANSPOSING_ORIENTATIONS:
                width, height = height, width
        return Source(path, False, 1, height, width, text)
    with opened(path) as file, av.open(file, "r") as container:
        if not container.streams.video:
            raise ValueError(f"{path} has no video stream.")
        stream = container.streams.video[0]
        height, width = stream.codec_context.height, stream.codec_context.width
        frames = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
    if not (frames and height and width):
        raise ValueError(f"{path} has no frames.")
    return Source(path, True, frames, height, width, text)


def has_orientation(picture: Image.Image) -> bool:
    """Whether to read the EXIF orientation. A PNG may store it after the pixels, so all would have to be decoded."""
    return picture.format != "PNG"


def _probe_or_none(job: Job) -> Source | None:
    try:
        return probe(*job)
    except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: PIL's word for a broken PNG header
        logger.warning("skipping %s: %s", job[0], error)
        return None


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; name folders or files of images and videos")
    known = IMAGE_SUFFIXES | VIDEO_SUFFIXES | {SUFFIX}
    candidates = [path] if path.is_file() else path.rglob("*")
    return [file for file in candidates if file.suffix.lower() in known and file.is_file()]
