"""Monotone maps: laws of isotonic regression, and the tensor form against numpy."""

import math

import numpy as np
import pytest

from mmreward.monotone import MonotoneMap, fit_monotone


def test_between_and_beyond_the_knots():
    found = MonotoneMap((0.0, 1.0, 3.0), (0.2, 0.4, 0.8))
    assert [found(v) for v in (-5, 0, 0.5, 2, 9)] == pytest.approx([0.2, 0.2, 0.3, 0.6, 0.8])


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ((0.0,), (0.0,), "two knots"),
        ((0.0, 0.0), (0.0, 1.0), "must increase"),
        ((0.0, 1.0), (1.0, 0.0), "must not decrease"),
        ((0.0, 1.0), (0.0, 1.5), "lie in"),
    ],
)
def test_what_is_no_map_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        MonotoneMap(x, y)


def test_a_fit_never_turns_an_order_around_and_is_calibrated():
    rng = np.random.default_rng(0)
    x = rng.normal(size=4000)
    y = (rng.random(4000) < 1 / (1 + np.exp(-2 * x))).astype(float)
    found = fit_monotone(x, y)
    values = np.asarray([found(v) for v in np.sort(x)])
    assert (np.diff(values) >= 0).all() and len(found.x) <= 12
    assert found(0.0) == pytest.approx(0.5, abs=0.06) and values.mean() == pytest.approx(y.mean(), abs=0.02)


def test_a_falling_relation_becomes_flat():
    found = fit_monotone([0.0, 1.0, 2.0], [1.0, 0.5, 0.0])
    assert found(0.0) == found(2.0) == pytest.approx(0.5)


def test_missing_numbers_are_left_out_and_too_few_are_refused():
    assert fit_monotone([0, 1, np.nan, 2], [0, 1, 1, np.nan])(1.0) == 1.0
    with pytest.raises(ValueError, match="two different x"):
        fit_monotone([1, 1, 1], [0, 1, 0])


def test_json_and_back():
    found = MonotoneMap((0.0, 0.5), (0.25, 0.75))
    assert MonotoneMap.read(found.to_json(), "here") == found
    with pytest.raises(ValueError, match="here should be"):
        MonotoneMap.read([1, 2], "here")


def test_tensor_agrees_and_has_the_slope_between_the_knots():
    torch = pytest.importorskip("torch")
    found = MonotoneMap((-1.0, 0.0, 2.0), (0.0, 0.5, 1.0))
    x = torch.tensor([-3.0, -0.25, 0.0, 1.0, 5.0], requires_grad=True)
    y = found.tensor(x)
    assert y.tolist() == pytest.approx([found(float(v)) for v in x])
    y.sum().backward()
    assert x.grad[1] == pytest.approx(0.5) and x.grad[3] == pytest.approx(0.25)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_knots_that_are_no_numbers_are_refused(wrong):
    for x, y in (((0, wrong, 1), (0, 0.5, 1)), ((0, 0.5, 1), (0, wrong, 1)), ((0, 1), (wrong, 1))):
        with pytest.raises(ValueError, match="finite numbers"):
            MonotoneMap(x, y)
    with pytest.raises(ValueError, match="map 'gain' should be"):
        MonotoneMap.read({"x": [0, "nan"], "y": [0, 1]}, "map 'gain'")
