"""Downloads files from a Hugging Face hub or a web address: resumes after interruptions, and checks before renaming.

The hub's library can resume only within one call, which is not enough for files of 16 GB. Here the unfinished file
stays beside the target as `NAME.VERSION.part`, and the next call continues it.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from common.logger import get_logger
from common.sha256 import sha256_of

logger = get_logger(__name__)

BLOCK = 4 << 20  # bytes hashed at a time


class DownloadError(Exception):
    """A file could not be downloaded. The message says which, why, and what to do."""


@dataclass(frozen=True)
class RemoteFile:
    """One file in a repository of a hub.

    Attributes:
        repository: OWNER/NAME.
        name: path in the repository, which is also the local name.
        kind: "model", "dataset" or "space".
        sha256: the expected hash of the content; None: unknown. The hub's own hash is checked as well.
    """

    repository: str
    name: str
    kind: str = "model"
    sha256: str | None = None


def fetch_from_hub(file: RemoteFile, folder: Path, endpoint: str | None = None) -> Path:
    """Download a file into `folder`, unless it is there with the hub's size and hash.

    Args:
        endpoint: address of the hub; None: as huggingface_hub chooses it (HF_ENDPOINT, or the public hub).

    Raises:
        DownloadError: the file is not found, access is denied, the connection fails, or the hash is wrong.
    """
    url = hf_hub_url(file.repository, file.name, repo_type=file.kind, endpoint=endpoint)
    try:
        about = get_hf_file_metadata(url, endpoint=endpoint)
    except GatedRepoError:
        raise DownloadError(
            f"{file.repository} asks for an account: accept its terms and run `hf auth login`"
        ) from None
    except (RepositoryNotFoundError, EntryNotFoundError):
        raise DownloadError(f"the hub has no {file.name} in {file.kind} {file.repository}") from None
    except Exception as error:  # the HTTP client's own errors differ between versions of the hub's library
        raise DownloadError(f"{file.repository}/{file.name}: the hub does not answer: {error}") from error
    hashes = [digest for digest in (file.sha256, about.etag) if digest]
    if about.commit_hash:  # one revision for all parts of a file, even if the branch changes meanwhile
        url = hf_hub_url(file.repository, file.name, repo_type=file.kind, revision=about.commit_hash, endpoint=endpoint)
    return fetch(url, folder / file.name, size=about.size, hashes=hashes, headers=build_hf_headers())


def fetch(
    url: str, target: Path, *, size: int | None, hashes: list[str], headers: dict[str, str] | None = None
) -> Path:
    """Download the content of a web address into the file `target`.

    Args:
        size: size in bytes, if known.
        hashes: SHA-256 or git blob hashes in hexadecimal, all of which are checked; other texts are ignored.
    """
    if target.is_file():
        if size in (None, target.stat().st_size) and not wrong_hashes(target, hashes):
            logger.info("%s is already here", target)
            return target
        logger.warning("%s is not what is at %s; fetching it again", target, url)
    target.parent.mkdir(parents=True, exist_ok=True)
    version = hashlib.sha256("".join([url, *hashes]).encode()).hexdigest()[:12]
    partial = target.with_name(f"{target.name}.{version}.part")
    have = partial.stat().st_size if partial.exists() else 0
    if size is None or have > size:  # with an unknown size an interruption looks like the end, so start again
        partial.unlink(missing_ok=True)
        have = 0
    if have:
        logger.info("%s: going on after %.1f MiB", target.name, have / 2**20)
    try:
        with partial.open("ab") as handle:
            http_get(url, handle, resume_size=have, headers=headers, expected_size=size, displayed_filename=target.name)
    except Exception as error:  # as above
        if partial.stat().st_size == 0:
            partial.unlink()
        reason = str(error).strip().split("\n")[0]
        raise DownloadError(f"{target.name} from {url}: {reason}; run the same command again to go on") from error
    if wrong := wrong_hashes(partial, hashes):
        partial.unlink()
        raise DownloadError(f"{target.name} from {url} does not have the hash {wrong[0]}; it was removed, run again")
    os.replace(partial, target)
    logger.info("%s: %.1f MiB, complete%s", target, target.stat().st_size / 2**20, ", hash right" if hashes else "")
    return target


def wrong_hashes(path: Path, hashes: list[str]) -> list[str]:
    """The hashes that do not match the file; 64 digits are SHA-256, 40 digits are git's hash of a blob."""
    known = {64: lambda: sha256_of(path), 40: lambda: git_blob_hash(path)}
    return [wanted for wanted in dict.fromkeys(hashes) if len(wanted) in known and known[len(wanted)]() != wanted]


def git_blob_hash(path: Path) -> str:
    """git's hash of a file's content, in hexadecimal."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
