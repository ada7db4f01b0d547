"""Which files of a folder, and which folders of numbered pictures in it, are restored?"""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from common.logger import printable
from data.media.errors import MediaError, reason
from data.media.find import why_not_media
from data.media.probe_process import probe_all
from data.media.sequence import is_pattern, numbered

# Suffixes of frames, which are usually stored without loss. Cameras also write numbered pictures of one size, but
# photographs have lossy formats.
FRAME_SUFFIXES = frozenset(".png .tif .tiff .bmp .dib .ppm .pgm .tga".split())

Found = tuple[list[Path], list[tuple[Path, str]]]


@dataclass(frozen=True)
class SearchOptions:
    """The options of `find_media`, where they are explained."""

    recursive: bool  # search folders to any depth
    frames_as_clip: bool  # take numbered pictures as one clip
    leave_out: Path | None  # a folder that is not searched


def find_media(
    path: str | PathLike[str],
    *,
    recursive: bool = False,
    frames_as_clip: bool = False,
    leave_out: str | PathLike[str] | None = None,
) -> Found:
    """Find the media of a folder. Hidden entries are never media.

    Media are files, and folders of numbered pictures that are one clip. A path that is a file or a printf pattern is
    media itself, whatever its name. Pictures in the folder itself are single pictures, and a folder in it is a clip if
    it holds only frames, see `why_no_clip`.

    Args:
        path: a file, a folder, or a pattern such as `walk/frame_%05d.png`.
        recursive: search the folders in it to any depth; pictures in them are single pictures. Links to folders are not
            followed.
        frames_as_clip: take the numbered pictures of a folder as one clip, in the folder itself and in every folder
            that is searched, even if numbers are missing, and in any format.
        leave_out: a folder that is not searched, because the results go there.

    Returns:
        (the media, sorted by name; pairs (entry, reason) of what is skipped).

    Raises:
        MediaError: the path does not exist or cannot be read, there are no media, or `frames_as_clip` finds no clip.
    """
    path, options = Path(path), SearchOptions(recursive, frames_as_clip, None if leave_out is None else Path(leave_out))
    if is_pattern(path):
        numbered(path)
        return [path], []
    if not path.exists():
        raise MediaError(f"{printable(str(path))}: there is no such file or folder")
    if path.is_file():
        if frames_as_clip:
            raise MediaError(f"{printable(str(path))}: is a file, not a folder of numbered pictures")
        return [path], []
    media, skipped = _search(path, options, is_top=True)
    if frames_as_clip and not any(entry.is_dir() for entry in media):
        raise MediaError(f"{printable(str(path))}: no numbered pictures that make a clip ({_why_not_numbered(path)})")
    if not media:
        held = "it is empty" if not skipped else f"{printable(skipped[0][0].name)}: {skipped[0][1]}"
        more = f", and {len(skipped) - 1} more" if len(skipped) > 1 else ""
        raise MediaError(f"{printable(str(path))}: no video or picture in this folder ({held}{more})")
    return media, skipped


def place_of(path: Path, root: Path, output_dir: Path) -> Path:
    """The folder for the result of media that `find_media(root)` found: the same folders below `output_dir`."""
    return output_dir / path.parent.relative_to(root) if root in path.parents else output_dir


def why_no_clip(folder: Path) -> str | None:
    """Why a folder is not taken as a clip by default; None if it is.

    A folder of independent pictures must never become a clip by accident. So a clip must be a folder that holds only
    pictures of one size in a format of `FRAME_SUFFIXES`, whose names differ in one number, without gaps.
    """
    if why := _why_not_numbered(folder):
        return why
    pictures = numbered(folder)
    if pictures.files[0].suffix.lower() not in FRAME_SUFFIXES:
        return f"its {len(pictures.files)} pictures are {pictures.files[0].suffix}, as photographs are"
    if pictures.missing:
        return pictures.missing
    beside = set(folder.iterdir()) - set(pictures.files)
    if other := sorted(entry for entry in beside if not entry.name.startswith(".")):
        return f"it holds {printable(other[0].name)} beside its pictures"
    sizes = set()
    for file, found in probe_all(pictures.files):
        if isinstance(found, MediaError):
            return str(found)
        sizes.add((found.kind, found.height, found.width))
        if len(sizes) > 1:
            return f"its pictures have several sizes, as {printable(file.name)}"
    return None


def _search(folder: Path, options: SearchOptions, is_top: bool = False) -> Found:
    """`find_media` for one folder and, with `recursive`, the folders in it."""
    media: list[Path] = []
    skipped: list[tuple[Path, str]] = []
    taken: frozenset[Path] = frozenset()
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        if is_top:
            raise MediaError(f"{printable(str(folder))}: the folder cannot be read ({reason(error)})") from error
        return [], [(folder, f"cannot be read ({reason(error)})")]
    if options.frames_as_clip and _why_not_numbered(folder) is None:
        named = folder if folder.name not in ("", "..") else folder.resolve()
        media, taken = [named], frozenset(numbered(folder).files)
    for entry in entries:
        if entry in taken:
            continue
        if _is_open_folder(entry):
            below, reasons = _folder(entry, options)
            media += below
            skipped += reasons
        elif why := _why_skipped(entry):
            skipped.append((entry, why))
        else:
            media.append(entry)
    return media, skipped


def _folder(entry: Path, options: SearchOptions) -> Found:
    """`find_media` for a folder inside the folder that is searched."""
    if options.leave_out is not None and entry.resolve() == options.leave_out.resolve():
        return [], [(entry, "the folder of the results")]
    if options.recursive:
        if entry.is_symlink():
            return [], [(entry, "a link to a folder, which is not followed")]
        found = _search(entry, options)
        return found if any(found) else ([], [(entry, "an empty folder")])
    why = _why_not_numbered(entry) if options.frames_as_clip else why_no_clip(entry)
    return ([entry], []) if why is None else ([], [(entry, f"a folder that is not searched, and no clip ({why})")])


def _why_not_numbered(folder: Path) -> str | None:
    """Why the pictures of a folder cannot be one clip even with `frames_as_clip`; None if they can."""
    try:
        numbered(folder)
    except MediaError as error:
        return str(error).removeprefix(f"{printable(folder.name)}: ")
    return None


def _is_open_folder(entry: Path) -> bool:
    try:
        return entry.is_dir() and not entry.name.startswith(".")
    except OSError:
        return False


def _why_skipped(entry: Path) -> str | None:
    """Why an entry that is not a searchable folder is not media; None if it is."""
    if entry.name.startswith("."):
        return "a hidden file"
    try:
        if not entry.is_file():
            return "not a regular file" if entry.exists() else "a link to a file that does not exist"
        return why_not_media(entry)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
