"""The error of an image that cannot be opened."""

__all__ = ["ImageError"]

from mmreward.score import Status


class ImageError(Exception):
    """An image is missing, unreadable or too large. `status` is the status of the score that follows from it."""

    def __init__(self, message: str, status: Status = "io_error") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
