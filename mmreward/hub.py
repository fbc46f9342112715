"""Models of the Hugging Face hub, by one function: a folder in the hub's cache, or one sentence that says why not.

The libraries that load models ask the hub for one file after the other, and repeat each request for half a minute: in
a network without the hub it took minutes to hear so. Here the hub is asked once, with a time limit; where it cannot be
reached, what is in the cache will do.
"""

__all__ = ["hub_folder"]

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_SECONDS = 10
"""To wait for the hub's first answer."""

_log = logging.getLogger(__name__)


def hub_folder(name: str, revision: str | None = None, patterns: Sequence[str] = ("*",)) -> Path:
    """The folder in the hub's cache with the files of a repository that match `patterns`, downloaded where they are
    missing; its name is the commit. Files in subfolders are left out.

    Raises ValueError, within seconds, where the repository is neither at the hub nor in the cache.
    """
    import huggingface_hub

    wanted: dict[str, Any] = {"allow_patterns": list(patterns), "ignore_patterns": ["*/*", "consolidated*"]}
    try:
        info = huggingface_hub.HfApi().model_info(name, revision=revision, timeout=_SECONDS, files_metadata=True)
    except Exception as error:  # the hub client raises many kinds: absent, offline, gated, no network
        try:
            return Path(huggingface_hub.snapshot_download(name, revision=revision, local_files_only=True, **wanted))
        except Exception:  # not in the cache either
            raise ValueError(_why(name, revision, error)) from None
    files = list(
        huggingface_hub.utils.filter_repo_objects(info.siblings or [], key=lambda file: file.rfilename, **wanted)
    )
    missing = [file for file in files if not _is_cached(name, file.rfilename, info.sha)]
    if missing:
        size = sum(file.size or 0 for file in missing) / 1e9
        _log.warning("downloading %s from the hub: %d files, %.1f GB", name, len(missing), size)
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=info.sha, local_files_only=not missing, **wanted))
    except Exception as error:
        raise ValueError(_why(name, revision, error)) from None


def _is_cached(name: str, file: str, commit: str | None) -> bool:
    import huggingface_hub

    return isinstance(huggingface_hub.try_to_load_from_cache(name, file, revision=commit), str)


def _why(name: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub import errors

    what = f"the hub repository {name!r}" + (f" at revision {revision!r}" if revision else "")
    if isinstance(error, errors.GatedRepoError):
        return f"{what} is gated: accept its conditions at its page, and log in with `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError | errors.RepositoryNotFoundError):
        return f"{what} does not exist, or needs a login (`hf auth login`); is the name right?"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{what} is not in the cache, and HF_HUB_OFFLINE forbids to download it"
    first = (str(error).strip().splitlines() or [""])[0]
    return (
        f"{what} is not in the cache and could not be downloaded ({type(error).__name__}: {first}); check the network, "
        "or give a folder"
    )
