"""Waiting for the disk, so that what has a name also has its content after power is lost."""

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Wait until the disk has a file's content, or a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
