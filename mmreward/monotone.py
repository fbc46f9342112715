"""Monotone maps from a model's raw number (a cosine, a logit) to a score in [0, 1].

A map is piecewise linear between knots and constant beyond them. It is fitted by isotonic regression: the non-
decreasing function with the least squared error (Barlow et al., Statistical Inference under Order Restrictions, 1972),
thinned to a few knots. Being monotone it cannot turn an order around; it only makes the scale mean something.
"""

from __future__ import annotations

__all__ = ["MonotoneMap", "fit_monotone"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor


@dataclass(frozen=True)
class MonotoneMap:
    """Knots (x, y), all finite: x increasing, y not decreasing and in [0, 1].

    >>> MonotoneMap((0.0, 0.4), (0.0, 1.0))(0.1)
    0.25
    """

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y) or len(self.x) < 2:
            raise ValueError(f"a monotone map needs two knots or more, got {len(self.x)} x and {len(self.y)} y")
        if not all(map(math.isfinite, (*self.x, *self.y))):
            raise ValueError(f"the knots of a monotone map are finite numbers, got x {self.x} and y {self.y}")
        if any(b <= a for a, b in zip(self.x, self.x[1:], strict=False)):
            raise ValueError(f"the x of a monotone map must increase, got {self.x}")
        if any(b < a for a, b in zip(self.y, self.y[1:], strict=False)) or not (0 <= self.y[0] and self.y[-1] <= 1):
            raise ValueError(f"the y of a monotone map must not decrease and lie in [0, 1], got {self.y}")

    @classmethod
    def read(cls, value: Any, where: str) -> MonotoneMap:
        """A map from its JSON form `{"x": [...], "y": [...]}`; `where` names the place for the message."""
        try:
            return cls(tuple(float(v) for v in value["x"]), tuple(float(v) for v in value["y"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f'{where} should be {{"x": [...], "y": [...]}}: {error}') from None

    def to_json(self) -> Mapping[str, list[float]]:
        return {"x": list(self.x), "y": list(self.y)}

    def __call__(self, value: float) -> float:
        import numpy as np

        return float(np.interp(value, self.x, self.y))

    def tensor(self, value: Tensor) -> Tensor:
        """The same function of a tensor, differentiable between the knots (slope 0 beyond them)."""
        import torch

        x = torch.tensor(self.x, dtype=value.dtype, device=value.device)
        y = torch.tensor(self.y, dtype=value.dtype, device=value.device)
        value = value.clamp(self.x[0], self.x[-1])
        right = torch.searchsorted(x, value.detach().contiguous(), right=True).clamp(1, len(self.x) - 1)
        low_x, low_y = x[right - 1], y[right - 1]
        return low_y + (value - low_x) * (y[right] - low_y) / (x[right] - low_x)


def fit_monotone(x: ArrayLike, y: ArrayLike, knots: int = 12) -> MonotoneMap:
    """The map that predicts `y` in [0, 1] from `x`; pairs with a number that is not finite are left out.

    Needs at least two different x. The knots stand at quantiles of x; their y are means of the isotonic fit around
    them, so that single points at the ends weigh little.
    """
    import numpy as np
    from scipy.optimize import isotonic_regression

    given_x, given_y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    known = np.isfinite(given_x) & np.isfinite(given_y)
    order = np.argsort(given_x[known], kind="stable")
    sorted_x, sorted_y = given_x[known][order], given_y[known][order]
    if len(sorted_x) < 2 or sorted_x[0] == sorted_x[-1]:
        raise ValueError(f"fit_monotone needs two different x or more, got {len(sorted_x)} usable points")
    # Points with the same x are one point: the best constant there is their mean.
    unique, first, counts = np.unique(sorted_x, return_index=True, return_counts=True)
    means = np.add.reduceat(sorted_y, first) / counts
    fitted = isotonic_regression(means, weights=counts.astype(np.float64)).x
    positions = np.unique(np.linspace(0, len(unique) - 1, min(knots, len(unique))).round().astype(int))
    edges = np.concatenate([[0], (positions[:-1] + positions[1:] + 1) // 2, [len(unique)]])
    heights = [float(np.average(fitted[a:b], weights=counts[a:b])) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    return MonotoneMap(_decimals(unique[positions]), tuple(min(max(round(h, 5), 0.0), 1.0) for h in heights))


def _decimals(values: Sequence[float]) -> tuple[float, ...]:
    """Six digits, unless that would make two knots one."""
    rounded = [round(float(value), 6) for value in values]
    return tuple(rounded if len(set(rounded)) == len(rounded) else map(float, values))
