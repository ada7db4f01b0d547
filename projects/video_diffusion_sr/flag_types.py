"""Converts the text of flags to values, or raises argparse's error with what is wrong."""

import argparse
from fractions import Fraction
from pathlib import Path

from data.media.clip_range import frames_of, seconds_of


def to_path(text: str) -> Path:
    """A path. An empty one, as from a shell variable that is not set, is refused: `Path("")` is the current folder."""
    return Path(to_name(text))


def to_name(text: str) -> str:
    """The name of a file, folder or repository as it was typed, if it is not empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty; . is the current folder")
    return text


def exact_size(text: str) -> tuple[int, int]:
    """(height, width) from WIDTHxHEIGHT."""
    width, cross, height = text.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 1920x1080")
    return int(height), int(width)


def clip_shape(text: str) -> tuple[int, int, int]:
    """(frames, height, width) from FRAMESxHEIGHTxWIDTH."""
    sides = text.lower().split("x")
    if len(sides) != 3 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is not frames x height x width such as 21x720x1280")
    return int(sides[0]), int(sides[1]), int(sides[2])


def count(text: str) -> int:
    """A number of processes, from text."""
    if not (text.isdecimal() and text.isascii() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def time_of_clip(text: str) -> Fraction:
    """A time in seconds, from seconds or hh:mm:ss.ms."""
    try:
        return seconds_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def frame_span(text: str) -> tuple[int, int | None]:
    """(first frame, number of frames or None), see `clip_range.frames_of`."""
    try:
        return frames_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def frame_rate(text: str) -> Fraction:
    """Frames per second, above 0 and at most 1000."""
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a frame rate such as 25 or 30000/1001") from error
    if not 0 < rate <= 1000:
        raise argparse.ArgumentTypeError(f"a frame rate of {text} is not possible")
    return rate
