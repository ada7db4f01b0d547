"""Finds out, before PyTorch is imported, that the current folder has been deleted: PyTorch's libraries abort then."""

import os

GONE = "the current folder has been deleted: change to a folder that exists, and start again"


def is_gone() -> bool:
    """Whether the current folder has been deleted."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False
