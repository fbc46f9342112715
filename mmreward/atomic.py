"""Files and folders that are whole or absent: filled under another name, flushed to disk, and renamed.

A kill between any two operations leaves the previous state in place; what it leaves lying about is removed by the next
call.
"""

__all__ = ["save_atomic", "save_file_atomic"]

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def save_atomic(folder: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a temporary folder beside `folder`, flush it, and rename it to `folder`; an older `folder` goes
    only then.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (folder.with_name(f".{folder.name}.{word}") for word in ("partial", "old"))
    if old.exists() and not folder.exists():
        old.rename(folder)  # killed between the two renames below
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    write(partial)
    for file in partial.rglob("*"):
        if file.is_file():
            _sync(file)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def save_file_atomic(file: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` make a temporary file beside `file`, flush it, and rename it to `file`, which it replaces."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        write(partial)
        _sync(partial)
        os.replace(partial, file)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync(file.parent)
    return file


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
