"""The address of a server and the model behind it, in a form in which equal ones are equal, whoever wrote them."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

__all__ = ["LOOPBACK", "ServedModel", "canonical_address", "served_model", "split_place"]

LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0")
"""Names of this machine's own address."""

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class ServedModel:
    """A model behind a server: the canonical address, and the model's name ("" for the server's only one)."""

    address: str
    model: str


def canonical_address(url: str) -> str:
    """`url` with scheme and host in lower case, the port always there, each name of this machine as 127.0.0.1, and no
    slash at the end. Raises ValueError for what is no address of a server.

    >>> canonical_address("HTTP://LocalHost:80/v1/"), canonical_address("https://api.openai.com//v1")
    ('http://127.0.0.1:80/v1', 'https://api.openai.com:443/v1')
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError(f"a server's address is written like http://127.0.0.1:8000/v1, got {url.rpartition('@')[2]!r}")
    host = parts.hostname.rstrip(".")
    host = "127.0.0.1" if host in LOOPBACK else f"[{host}]" if ":" in host else host
    path = "/".join(name for name in parts.path.split("/") if name)
    return f"{parts.scheme}://{host}:{parts.port or _PORTS[parts.scheme]}" + (f"/{path}" if path else "")


def split_place(place: str) -> tuple[str, str]:
    """Address and model of ADDRESS#MODEL; the model is "" where there is none."""
    address, _, model = place.partition("#")
    return address.strip(), model.strip()


def served_model(spec: str) -> ServedModel | None:
    """The server and the model that a spec of a reward asks (`openai:ADDRESS#MODEL`, `editscore:NAME?server=ADDRESS`),
    None where it asks none. A model that only the part before the question mark names is that of `?server=`. Raises
    ValueError for an address that is none.

    >>> served_model("openai:http://localhost:8000/v1/#Qwen/Qwen2.5-VL-7B-Instruct?way=rubric")
    ServedModel(address='http://127.0.0.1:8000/v1', model='Qwen/Qwen2.5-VL-7B-Instruct')
    """
    head, _, query = spec.partition("?")
    name, _, model = head.partition(":")
    place = model if name == "openai" else dict(parse_qsl(query)).get("server", "")
    if not place:
        return None
    address, served = split_place(place)
    return ServedModel(canonical_address(address), served or ("" if name == "openai" else model))
