"""Pictures that a page shows: lossless PNG files in one folder of their own, served by their random names.

Gradio sends arrays and PIL images as lossy WebP; a page about pixels must not. So every image is written once as PNG
and named by its address; the folder is the only one that the server may read, and goes with the process.
"""

from __future__ import annotations

import secrets
import tempfile
from collections import deque
from pathlib import Path

from PIL import Image

__all__ = ["Pictures"]


class Pictures:
    """A bounded store: when there are more than `most` files, the oldest go."""

    def __init__(self, most: int = 500, longest: int = 1600) -> None:
        self._holder = tempfile.TemporaryDirectory(prefix="mmreward-pictures-")
        self._files: deque[Path] = deque()
        self._most, self._longest = most, longest

    @property
    def folder(self) -> Path:
        return Path(self._holder.name)

    def address(self, image: Image.Image) -> str:
        """Where a browser finds the image; larger ones are shown scaled down to `longest` pixels."""
        if max(image.size) > self._longest:
            image = image.copy()
            image.thumbnail((self._longest, self._longest), Image.Resampling.LANCZOS)
        path = self.folder / f"{secrets.token_hex(12)}.png"
        image.convert("RGB").save(path, compress_level=3)
        self._files.append(path)
        while len(self._files) > self._most:
            self._files.popleft().unlink(missing_ok=True)
        return f"gradio_api/file={path}"
