"""A folder for each id, whatever it is: readable where that is safe, and never shared by two."""

__all__ = ["folder_name"]

import hashlib
import re

_PLAIN = re.compile(r"[a-z0-9_][a-z0-9._-]{0,79}")
_LENGTH = 80
_SUFFIX = re.compile(r"(^|-)[0-9a-f]{16}$")
"""How the name of an id that is not plain ends; an id that looks so is not plain either."""


def folder_name(name: str) -> str:
    """The name of the folder that belongs to the id `name`. Where it is not the id itself, it ends in 16 digits of the
    id's SHA-256. Differs for all ids in upper and lower case too, which some file systems do not tell apart.

    >>> folder_name("validation-0-5"), folder_name("x/y")
    ('validation-0-5', 'x_y-bd3c9047d6816c31')
    """
    if _PLAIN.fullmatch(name) and not name.endswith(".") and not _SUFFIX.search(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    readable = re.sub(r"[^a-z0-9_-]+", "_", name[: 4 * _LENGTH].lower())[:_LENGTH].strip("_-")
    return f"{readable}-{digest}" if readable else digest
