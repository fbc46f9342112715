"""Where an editor computes: a device that is there, or an error that says so."""

__all__ = ["usable_device"]

import torch


def usable_device(device: str | torch.device | None = None) -> torch.device:
    """`device`; the best there is for None. Raises ValueError for one that this machine does not have."""
    there_is = ["cpu"]
    if torch.cuda.is_available():
        there_is += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        there_is.append("mps")
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise ValueError(f"unknown device {str(device)!r}; there is: {', '.join(there_is)}") from None
    place = f"cuda:{wanted.index or 0}" if wanted.type == "cuda" else wanted.type
    if wanted.type not in ("cuda", "mps") or place in there_is:
        return wanted
    raise ValueError(f"device {str(device)!r}: torch finds no such device here; there is: {', '.join(there_is)}")
