"""Files from a Hugging Face hub or a web address: resumed after interruptions, checked before they get their name.

The hub's library resumes within one call and drops what it has when the process ends; for files of 16 GB that is not
enough, so the unfinished file stays beside the target as `NAME.VERSION.part` and the next call goes on from there.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers

from common.file_hash import sha256_of
from common.logger import get_logger

logger = get_logger(__name__)

BLOCK = 4 << 20  # bytes hashed at a time


class DownloadError(Exception):
    """A file could not be fetched; the message says which, why, and what to do."""


@dataclass(frozen=True)
class RemoteFile:
    """One file in a repository of a hub.

    Attributes:
        repository: OWNER/NAME.
        name: path in the repository, also the name it gets here.
        kind: "model", "dataset" or "space".
        sha256: of the content, None if the project has none; the hub's own is checked as well.
    """

    repository: str
    name: str
    kind: str = "model"
    sha256: str | None = None


def fetch_from_hub(file: RemoteFile, folder: Path, endpoint: str | None = None) -> Path:
    """The file, in `folder`, complete and with the hub's size and hash; nothing is fetched when it is already there.

    Args:
        endpoint: address of the hub; None is what huggingface_hub uses (HF_ENDPOINT, or the public one).

    Raises:
        DownloadError: not found, no access, no connection, or content that does not have its hash.
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
    if about.commit_hash:  # the same revision for every part of a file, also when the branch moves in between
        url = hf_hub_url(file.repository, file.name, repo_type=file.kind, revision=about.commit_hash, endpoint=endpoint)
    return fetch(url, folder / file.name, size=about.size, hashes=hashes, headers=build_hf_headers())


def fetch(
    url: str, target: Path, *, size: int | None, hashes: list[str], headers: dict[str, str] | None = None
) -> Path:
    """The content of a web address as the file `target`.

    Args:
        size: in bytes, if known.
        hashes: SHA-256 or git blob hashes in hexadecimal, each checked; anything else in it is ignored.
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
    if size is None or have > size:  # without a known size an end cannot be told from an interruption: begin anew
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
    """Those of the hashes that the file does not have; 64 digits are SHA-256, 40 digits git's hash of a blob."""
    known = {64: lambda: sha256_of(path), 40: lambda: git_blob_hash(path)}
    return [wanted for wanted in dict.fromkeys(hashes) if len(wanted) in known and known[len(wanted)]() != wanted]


def git_blob_hash(path: Path) -> str:
    """The name that git gives to a file's content, in hexadecimal."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
