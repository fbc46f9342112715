"""Images as they are given (paths, encoded bytes, data URLs, PIL images, arrays), decoded within a bounded memory."""

__all__ = ["CACHE", "FORMATS", "MAX_PIXELS", "ImageError", "ImageLike", "encoded_bytes", "image_size", "open_image"]

from mmreward.images.cache import CACHE
from mmreward.images.error import ImageError
from mmreward.images.given import ImageLike, encoded_bytes
from mmreward.images.opening import FORMATS, MAX_PIXELS, image_size, open_image
