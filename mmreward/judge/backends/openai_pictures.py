"""Prompts as chat messages: text in which nothing of others is a control token, and images as PNG, each encoded once.

A server's chat template turns a message into tokens, and control tokens that stand in an instruction ("<|im_end|>")
would be taken for the template's own. So a zero-width space goes behind each bracket that could begin one; the words
stay the same for a reader.

An image travels as a data URL, or, where the server may read a folder that both machines see, as a file in it
(`file://`). With `uuids` each image also says what it is, a digest of its pixels: vLLM then finds it in its caches
without hashing it again.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
import tempfile
import threading
from collections import OrderedDict
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from PIL import Image

from mmreward.judge.prompt import Given, Piece

__all__ = ["GIVEN_TEXT", "Pictures", "broken", "messages"]

GIVEN_TEXT = "control tokens broken by zero-width spaces"
"""What `broken` does, as provenance says it."""

_KEPT_BYTES = 256 * 2**20
"""How much encoded PNG is kept for later requests: some hundred images of a megapixel."""

_OPENINGS = re.compile(r"<(?=[A-Za-z/|!_\uff5c])|\[(?=/?[A-Z_]+\])")


def broken(text: str) -> str:
    """Text of others, in which no control token of a chat template is left. Half a surrogate pair, which cannot be
    sent, is a question mark.

    >>> broken("<|im_end|> [INST] a < b").replace(chr(0x200B), "_")
    '<_|im_end|> [_INST] a < b'
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    return _OPENINGS.sub(lambda found: f"{found.group()}\u200b", text)


class Pictures:
    """Images as parts of a message. `pixels`: larger images are made smaller first, keeping their aspect ratio."""

    def __init__(self, *, pixels: int | None = None, folder: Path | None = None, uuids: bool = False) -> None:
        self.pixels, self.folder, self.uuids = pixels, folder, uuids
        self._kept: OrderedDict[str, bytes] = OrderedDict()  # the one that was not used for longest comes first
        self._kept_bytes = 0
        self._encoding: dict[str, Future[bytes]] = {}
        self._lock = threading.Lock()

    @property
    def describe(self) -> dict[str, Any]:
        return {
            "images": "PNG files" if self.folder else "PNG data URLs",
            "pixels": self.pixels or "as they are, the server resizes",
        }

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height at which an image of this size is sent."""
        if self.pixels is None or width * height <= self.pixels:
            return width, height
        scale = math.sqrt(self.pixels / (width * height))
        return max(1, int(width * scale)), max(1, int(height * scale))

    def parts(self, stack: ExitStack) -> _Parts:
        """For one group of requests; files that are written for it are removed when `stack` closes."""
        place = None
        if self.folder:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmreward-", dir=self.folder)))
            place.chmod(0o755)  # the server may run as another user
        return _Parts(self, place)

    def png(self, image: Image.Image) -> tuple[str, bytes]:
        """Digest and PNG of an image. Threads that ask for the same image wait for the first of them."""
        digest = hashlib.blake2b(f"{image.mode} {image.size} {self.pixels};".encode() + image.tobytes(), digest_size=16)
        key = digest.hexdigest()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return key, self._kept[key]
            is_first = key not in self._encoding
            future = self._encoding.setdefault(key, Future())
        if not is_first:
            return key, future.result()
        try:
            data = _encode(self._sized(image))
        except BaseException as error:
            with self._lock:
                del self._encoding[key]
            future.set_exception(error)
            raise
        with self._lock:
            del self._encoding[key]
            self._keep(key, data)
        future.set_result(data)
        return key, data

    def _sized(self, image: Image.Image) -> Image.Image:
        size = self.size(*image.size)
        return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)

    def _keep(self, key: str, data: bytes) -> None:
        """Adds what was encoded, and forgets what was not used for longest while it is too much."""
        self._kept[key] = data
        self._kept_bytes += len(data)
        while self._kept_bytes > _KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popitem(last=False)[1])


class _Parts:
    """Images of one group of requests as parts of messages. The same image object is looked at once."""

    def __init__(self, pictures: Pictures, place: Path | None) -> None:
        self._pictures, self._place = pictures, place
        self._made: dict[int, tuple[Image.Image, dict[str, Any]]] = {}

    def __call__(self, image: Image.Image) -> dict[str, Any]:
        if id(image) not in self._made:
            self._made[id(image)] = (image, self._part(image))  # holds the image, so that its id stays its own
        return self._made[id(image)][1]

    def _part(self, image: Image.Image) -> dict[str, Any]:
        key, data = self._pictures.png(image)
        if self._place:
            path = self._place / f"{key}.png"
            path.write_bytes(data)
            url = path.as_uri()
        else:
            url = "data:image/png;base64," + base64.b64encode(data).decode("ascii")
        part: dict[str, Any] = {"type": "image_url", "image_url": {"url": url}}
        return part | {"uuid": key} if self._pictures.uuids else part


def messages(
    path: tuple[Piece, ...], part: _Parts, beginning: str = "", system: str | None = None
) -> list[dict[str, Any]]:
    """A path of a prompt as the messages of a chat: one of the system where there is one, one of the user, in which
    neighbouring texts are one, and where the answer begins with a given text, that.
    """
    content: list[dict[str, Any]] = []
    for piece in path:
        if isinstance(piece, Image.Image):
            content.append(part(piece))
            continue
        text = broken(piece.text) if isinstance(piece, Given) else piece.text
        if content and content[-1]["type"] == "text":
            content[-1] = {"type": "text", "text": content[-1]["text"] + text}
        else:
            content.append({"type": "text", "text": text})
    asked: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
    asked.append({"role": "user", "content": content})
    return [*asked, {"role": "assistant", "content": beginning}] if beginning else asked


def _encode(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)  # five times as fast as the default, a tenth larger
    return stream.getvalue()
