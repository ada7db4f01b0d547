"""Fetch released weights and text embeddings: python projects/download.py seedvr2_3b

Everything lands in `ckpts/` of the repository unless --dir says otherwise. An interrupted download goes on where it
stopped; sizes and hashes are checked; what is already there and right is left alone.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.hub import DownloadError, RemoteFile, fetch, fetch_from_hub
from common.logger import get_logger, set_up_logging
from common.sha256 import sha256_of
from projects.program import new_parser, run_program
from projects.video_diffusion_sr.flag_types import to_path
from projects.video_diffusion_sr.prompts import NEGATIVE, POSITIVE, Prompt

logger = get_logger(__name__)

VAE_FILE = "ema_vae.pth"  # the same for all variants

# The embeddings are published with the released code, not with the weights. Each place is tried in turn, and a file is
# only used if its SHA-256 is right, so a place that has lost or changed the file does no harm.
PROMPT_URLS = ("https://raw.githubusercontent.com/ByteDance-Seed/SeedVR/main",)
PROMPT_SPACES = ("ByteDance-Seed/SeedVR2-3B",)


@dataclass(frozen=True)
class Variant:
    """A released model.

    repository: its repository on the hub.
    transformer: name of the transformer's file in it.
    """

    repository: str
    transformer: str


VARIANTS = {
    "seedvr2_3b": Variant("ByteDance-Seed/SeedVR2-3B", "seedvr2_ema_3b.pth"),
    "seedvr2_7b": Variant("ByteDance-Seed/SeedVR2-7B", "seedvr2_ema_7b.pth"),
    "seedvr2_7b_sharp": Variant("ByteDance-Seed/SeedVR2-7B", "seedvr2_ema_7b_sharp.pth"),
    "seedvr_3b": Variant("ByteDance-Seed/SeedVR-3B", "seedvr_ema_3b.pth"),
    "seedvr_7b": Variant("ByteDance-Seed/SeedVR-7B", "seedvr_ema_7b.pth"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch all files of one variant. Returns 0 if all files are there, and 1 if some are missing."""
    args = parse(argv)
    set_up_logging()
    missing = fetch_variant(args)
    logger.info("something is missing, see above" if missing else f"{args.variant}: everything is in {args.dir}")
    return int(bool(missing))


def fetch_variant(args: argparse.Namespace) -> list[str]:
    """Fetch every file of a variant. Returns, and logs, a message for each file that could not be fetched.

    Args:
        args: the result of `parse`.
    """
    variant = VARIANTS[args.variant]
    names = (variant.transformer, VAE_FILE)
    jobs = [partial(fetch_from_hub, RemoteFile(variant.repository, name), args.dir, args.endpoint) for name in names]
    jobs += [partial(fetch_prompt, prompt, variant, args) for prompt in (POSITIVE, NEGATIVE)]
    missing = []
    for job in jobs:
        try:
            job()
        except DownloadError as error:
            logger.error("%s", error)
            missing.append(str(error))
    return missing


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    parser.add_argument("variant", choices=VARIANTS, help="which released model")
    parser.add_argument("--dir", type=to_path, default=ROOT / "ckpts", help="where the files go (default: %(default)s)")
    parser.add_argument("--endpoint", help="address of the hub, for mirrors (default: HF_ENDPOINT or the public hub)")
    parser.add_argument("--prompt_dir", type=to_path, help="a folder that already has pos_emb.pt and neg_emb.pt")
    parser.add_argument("--prompt_url", help="a web address under which pos_emb.pt and neg_emb.pt are, tried alone")
    return parser.parse_args(argv)


def fetch_prompt(prompt: Prompt, variant: Variant, args: argparse.Namespace) -> Path:
    """Fetch a text embedding from the first place that has it."""
    target = args.dir / prompt.file
    if target.is_file() and sha256_of(target) == prompt.sha256:
        logger.info("%s is already here", target)
        return target
    reasons = []
    for place in prompt_places(prompt, variant, args):
        try:
            return place()
        except DownloadError as error:
            reasons.append(str(error))
    raise DownloadError(
        f"{prompt.file} was found nowhere ({'; '.join(reasons)}). It lies at the root of the released code's "
        f"repository (SeedVR by ByteDance-Seed); copy it to {target}, or name its folder with "
        f"--prompt_dir or an address with --prompt_url. Its SHA-256 must be {prompt.sha256}"
    )


def prompt_places(prompt: Prompt, variant: Variant, args: argparse.Namespace) -> Iterator[Callable[[], Path]]:
    """Yield functions that fetch an embedding, in the order to try; only the user's place if one is given."""
    target = args.dir / prompt.file
    if args.prompt_dir is not None:
        yield lambda: copy_verified(args.prompt_dir / prompt.file, target, prompt.sha256)
        return
    if args.prompt_url is None:
        yield lambda: fetch_from_hub(
            RemoteFile(variant.repository, prompt.file, sha256=prompt.sha256), args.dir, args.endpoint
        )
        for space in PROMPT_SPACES:
            file = RemoteFile(space, prompt.file, kind="space", sha256=prompt.sha256)
            yield partial(fetch_from_hub, file, args.dir, args.endpoint)
    for url in PROMPT_URLS if args.prompt_url is None else (args.prompt_url,):
        address = f"{url.rstrip('/')}/{prompt.file}"
        yield partial(fetch, address, target, size=None, hashes=[prompt.sha256])


def copy_verified(source: Path, target: Path, sha256: str) -> Path:
    """Copy a local file, which must have this hash."""
    if not source.is_file():
        raise DownloadError(f"there is no {source}")
    if sha256_of(source) != sha256:
        raise DownloadError(f"{source} is not the released embedding: its SHA-256 is not {sha256}")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(target.name + ".part")
    unfinished.write_bytes(source.read_bytes())
    unfinished.replace(target)
    logger.info("%s: copied from %s", target, source)
    return target


if __name__ == "__main__":
    sys.exit(run_program(main))
