"""Computes the timecode of a later frame (SMPTE ST 12-1)."""

import re
from fractions import Fraction

CODE = re.compile(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d)", re.ASCII)
DAY_S = 24 * 3600


def timecode_after(code: str, frames: int, rate: Fraction) -> str:
    """The timecode that comes `frames` frames after another one; text that is no timecode is returned unchanged.

    Args:
        code: "01:02:03:04"; with ";" or "." before the frame number, it is a drop-frame timecode. To stay close to real
            time, this skips two frame numbers in each minute at 30000/1001 frames per second, and four at 60000/1001,
            except in every tenth minute.
        frames: how many frames later.
        rate: frames per second.
    """
    parts = CODE.fullmatch(code)
    if parts is None:
        return code
    hours, minutes, seconds, mark, frame = int(parts[1]), int(parts[2]), int(parts[3]), parts[4], int(parts[5])
    base = round(rate)
    drop = base // 15 if mark != ":" and base % 30 == 0 else 0
    total = (60 * hours + minutes) * 60 * base + seconds * base + frame
    total -= drop * (60 * hours + minutes - (60 * hours + minutes) // 10)
    ten_minutes = 600 * base - 9 * drop
    number = (total + frames) % (DAY_S // 600 * ten_minutes)
    tens, rest = divmod(number, ten_minutes)
    number += 9 * drop * tens
    if rest >= 60 * base:  # after the first of ten minutes, in which no number is dropped
        number += drop * (1 + (rest - 60 * base) // (60 * base - drop))
    clock, frame = divmod(number, base)
    return f"{clock // 3600:02d}:{clock // 60 % 60:02d}:{clock % 60:02d}{mark}{frame:02d}"
