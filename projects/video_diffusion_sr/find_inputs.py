"""Finds the files that `--video_path` names, and logs which folders count as clips."""

import argparse
from pathlib import Path

from common.logger import get_logger
from data.media import MediaError, find_media
from data.media.sequence import SEQUENCE_RATE, is_sequence, numbered

logger = get_logger(__name__)


def find_inputs(args: argparse.Namespace) -> list[Path]:
    """Find files, and folders or patterns of numbered pictures, in the order of a run. Skipped files are logged.

    Raises:
        MediaError: there is nothing to restore.
    """
    files, skipped = find_media(
        args.video_path, recursive=args.recursive, frames_as_clip=args.frames_as_clip, leave_out=args.output_dir
    )
    for path, reason in skipped:
        logger.info("%s: skipped, %s", path, reason)
    if any(path.is_dir() for path, _ in skipped) and not args.recursive:
        logger.info("--recursive searches folders; --frames_as_clip takes any numbered pictures as one clip")
    for path in filter(is_sequence, files):
        _say_clip(path, args)
    if not args.frames_as_clip and args.video_path.is_dir() and args.video_path not in files:
        _say_pictures(args.video_path)
    return files


def _say_clip(path: Path, args: argparse.Namespace) -> None:
    rate, count = args.out_fps or SEQUENCE_RATE, len(numbered(path).files)
    how = "" if args.out_fps else ", which --out_fps changes"
    logger.info("%s: %d numbered pictures, one clip of %s frames per second%s", path, count, rate, how)


def _say_pictures(folder: Path) -> None:
    """Log that numbered pictures, which could be meant as a clip, are restored one by one."""
    try:
        count = len(numbered(folder).files)
    except MediaError:
        return
    logger.info("%s: %d numbered pictures, restored one by one; --frames_as_clip makes one clip of them", folder, count)
