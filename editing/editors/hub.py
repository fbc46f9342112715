"""Editors of the Hugging Face Hub: from the cache where they lie there, and a hub that does not answer is said at once.

Libraries ask the hub for news of every file, and repeat a question that is not answered for minutes.
"""

__all__ = ["offline_first"]

from collections.abc import Callable
from typing import TypeVar

Loaded = TypeVar("Loaded")
_TIMEOUT = 5.0
"""Seconds in which the hub has to answer."""


def offline_first(repository: str, load: Callable[[bool], Loaded]) -> Loaded:
    """`load(local_files_only)`: with what lies in the cache, and where that is not all, from the hub.

    Raises ValueError where the repository is neither in the cache nor to be had.
    """
    try:
        return load(True)
    except OSError:  # not in the cache, or not all of it
        pass
    _check_reachable(repository)
    try:
        return load(False)
    except OSError as error:
        raise ValueError(
            f"could not read the editor {repository!r} from the Hugging Face Hub ({type(error).__name__}: {error}); "
            "check the name, and whether the model wants you to accept its terms and log in (hf auth login)"
        ) from error


def _check_reachable(repository: str) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_TIMEOUT)
    except Exception as error:  # whatever the HTTP library in use raises
        reason = " ".join([f"{type(error).__name__}:", *str(error).split()])[:200]
        raise ValueError(
            f"the editor {repository!r} is not in the local cache, or not all of it, and the Hugging Face Hub cannot "
            f"be reached ({reason}); check the connection, or give a folder on disk"
        ) from None
