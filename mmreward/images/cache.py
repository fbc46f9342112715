"""Decoded images, shared by all edits of a process and bounded in bytes: those used last are kept.

A photo of 12 megapixels takes 48 MB decoded, and a data set has thousands. Candidates of one source come one after the
other, and several rewards look at one edit, so that the last few images are nearly all that is ever asked for again.
"""

__all__ = ["CACHE", "ImageCache"]

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from PIL import Image

BUDGET = 256 << 20
_DIGESTS = 4096


class ImageCache:
    """Images by key, at most `budget` bytes of them; the last one is kept whatever its size. Safe to use from threads:
    two that ask for one image at the same time may both decode it, and get the same one.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self.budget = budget
        self.size = 0
        """Bytes of the images that are kept."""
        self._images: OrderedDict[Hashable, Image.Image] = OrderedDict()
        self._digests: OrderedDict[Hashable, str] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Image.Image | None:
        with self._lock:
            if key in self._images:
                self._images.move_to_end(key)
            return self._images.get(key)

    def put(self, key: Hashable, image: Image.Image) -> Image.Image:
        """Keep `image`; returns what is kept under `key`, which another thread may have put there before."""
        with self._lock:
            if key not in self._images:
                self._images[key] = image
                self.size += image_bytes(image)
            self._images.move_to_end(key)
            kept = self._images[key]
            while self.size > self.budget and len(self._images) > 1:
                _, oldest = self._images.popitem(last=False)
                self.size -= image_bytes(oldest)
            return kept

    def digest(self, key: Hashable, compute: Callable[[], str]) -> str:
        """What `compute` gave for the image of this key, computed again only after many others."""
        with self._lock:
            if key in self._digests:
                self._digests.move_to_end(key)
                return self._digests[key]
        digest = compute()
        with self._lock:
            self._digests[key] = digest
            if len(self._digests) > _DIGESTS:
                self._digests.popitem(last=False)
        return digest

    def clear(self) -> None:
        with self._lock:
            self._images.clear()
            self._digests.clear()
            self.size = 0


def image_bytes(image: Image.Image) -> int:
    """Memory of a decoded image: Pillow stores RGB in four bytes a pixel."""
    return image.width * image.height * (1 if image.mode == "L" else 4)


CACHE = ImageCache()
