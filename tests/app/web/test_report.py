"""The report: one file without anything outside it, everything escaped, numbers as they are."""

import math
import re

import pytest
from PIL import Image

from app.web.curves import Curve, Figure, draw
from app.web.picture import draw_picture
from app.web.report import Example, Number, Report, Shown, Table, write_report

EVIL = "<script>alert('x')</script>"


def _report():
    image = Image.new("RGB", (64, 64), (200, 30, 30))
    return Report(
        EVIL,
        numbers=[Number("success", 0.25, 0.375, "share", "final"), Number("overall", None, math.nan)],
        examples=[Example(EVIL, image, [Shown(image, 0.25)], [Shown(image, None, "parse_error")])],
        figures=[Figure("curves", [Curve(EVIL, [0, 1, 2], [0.1, None, 0.3], [0.01, 0.01, 0.01])])],
        tables=[Table("rows", ["a", "b"], [[EVIL, 0.5], [3, None]])],
        commands=[("go on", "mmreward train")],
        notes=[EVIL],
        facts=[("seed", "0")],
    )


def test_the_page_is_whole_in_itself(tmp_path):
    text = write_report(tmp_path / "new", _report()).read_text()
    assert EVIL not in text and "&lt;script&gt;" in text
    assert all(link.startswith("data:") for link in re.findall(r'(?:src|href)="([^"]*)"', text))
    assert "25.0 %" in text and "37.5 %" in text and "+12.5 points" in text and "parse_error" in text
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"]


def test_an_empty_report_has_no_empty_sections(tmp_path):
    text = write_report(tmp_path, Report("nothing yet")).read_text()
    assert "<section" not in text


def test_curves_break_at_gaps_and_stay_inside():
    text = draw(Figure("f", [Curve("a", [0, 1, 2, 3, 4], [1, 2, None, 3, math.nan])]), 500, 300)
    assert text.count("<polyline") == 2
    points = [float(v) for pair in re.findall(r'points="([^"]*)"', text) for v in re.split("[ ,]", pair)]
    assert min(points) >= 0 and max(points) <= 500


@pytest.mark.parametrize("y", [[0.5], [0.5, 0.5], [0.5, 0.5000000000000001], [0, 0], [1e-9, 2e-9], [1e6, 3e6]])
def test_any_range_can_be_drawn(y):
    assert "<polyline" in draw(Figure("f", [Curve("a", list(range(len(y))), y)]))


def test_no_points_is_said():
    assert "no points" in draw(Figure("f", [Curve("a", [], [])]))


def test_the_picture_has_a_row_for_each_example():
    example = _report().examples[0]
    one, two = draw_picture([example]), draw_picture([example, example])
    assert one.width == two.width and two.height - one.height == 128 + 46
    assert one.getpixel((32 + 64, 32 + 52 + 64)) == (200, 30, 30)
    with pytest.raises(ValueError, match="one example"):
        draw_picture([])


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError):
        write_report(tmp_path / "file", Report("x"))
