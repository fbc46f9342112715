"""The page: its parts as plain functions, then the running server through gradio_client (no browser)."""

import html
import shutil
import socket
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.web.compare import MOST_EDITS, Picture, Shown, comparison
from app.web.images import difference_map, match
from app.web.page import Page, _short_names, examples_of
from app.web.pictures import Pictures
from app.web.rewards import PageRewards
from mmreward import Edit
from mmreward.score import Score, Spread


def _noise(seed=0, size=(40, 30)):
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


@dataclass
class Broken:
    name: str = "broken"
    dims: tuple[str, ...] = ()
    is_differentiable: bool = False

    def score(self, edits):
        raise RuntimeError("<b>out of memory</b>")


@pytest.fixture
def rewards():
    found = PageRewards(["pixels", "broken"])
    found._loaded["broken"] = Broken()
    return found


def test_the_difference_of_one_pixel_is_seen_where_it_is():
    a = Image.new("RGB", (8, 8), (100, 100, 100))
    b = a.copy()
    b.putpixel((3, 5), (100, 200, 100))
    painted, share = difference_map(a, b)
    values = np.asarray(painted)
    assert share == 1 / 64 and (values[5, 3] != 255).any()
    values = np.delete(values.reshape(64, 3), 5 * 8 + 3, axis=0)
    assert (values == 255).all()
    with pytest.raises(ValueError, match="one size"):
        difference_map(a, Image.new("RGB", (4, 4)))


def test_a_larger_difference_is_painted_darker():
    a = Image.new("RGB", (256, 1))
    b = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2))
    luma = np.asarray(difference_map(a, b)[0].convert("L")).astype(int)[0]
    assert (np.diff(luma) <= 0).all() and luma[0] == 255 and luma[-1] < 40


def test_sizes_that_differ_are_said():
    source = Image.new("RGB", (100, 50))
    same, note = match(source, Image.new("RGB", (200, 100)))
    assert same.size == (100, 50) and "resized" in note
    boxed, note = match(source, Image.new("RGB", (50, 50)))
    assert boxed.size == (100, 50) and "letterboxed" in note
    assert match(source, source) == (source, None)


def test_pictures_are_lossless_and_bounded():
    store, image = Pictures(most=3), _noise()
    path = store.address(image).removeprefix("gradio_api/file=")
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(image))
    for seed in range(3):
        store.address(_noise(seed))
    assert len(list(store.folder.iterdir())) == 3 and not (store.folder / path).exists()


def test_everything_that_comes_from_outside_is_escaped():
    evil = '<img src=x onerror="alert(1)">'
    picture = Picture("a.png", 4, 4)
    score = Score(0.5, {"quality": 0.5, evil: 0.1}, rationale=evil, spread=Spread("token", 0.1))
    text = comparison(
        evil,
        picture,
        [Shown(evil, picture, picture, 0.1, note=evil), Shown(evil, error=evil)],
        {evil: [score, Score.failed("io_error", evil)]},
    )
    assert evil not in text and html.escape(evil) in text


def test_scores_and_failures_are_told_apart():
    picture = Picture("a.png", 4, 4)
    scores = {"good": [Score(0.0)], "bad": [Score.failed("not_applicable", "a photo")], "slow": None}
    text = comparison("x", picture, [Shown("one", picture)], scores)
    assert "<b>0.00</b>" in text and "not_applicable" in text and "a photo" in text and "scoring" in text
    many = comparison("x", picture, [Shown(str(i), picture) for i in range(20)], {})
    assert many.count('type="radio"') == MOST_EDITS


def test_examples_are_groups_of_one_source_and_instruction():
    edits = [Edit("a", "1.png", "x.png"), Edit("a", "1.png", "y.png"), Edit("b", "1.png", "z.png")]
    assert [len(example.edits) for example in examples_of(edits)] == [2, 1]
    assert _short_names(["run-1/right", "run-1/blur", ""]) != ["", "", ""]
    assert _short_names(["recolour-right", "recolour-blur"]) == ["right", "blur"]
    assert _short_names(["a", "a"]) == ["edit 1", "edit 2"]


def test_a_reward_that_breaks_leaves_the_others(rewards, tmp_path):
    page = Page(examples_of([Edit("make it red", _noise(), _noise(1), id="one")]), rewards)
    (name,) = page.examples
    *_, last = page.score(name, "make it red", None, None, "", "")
    assert "out of memory" in last and "<b>out of memory" not in last and 'class="cv-status cv-ok"' in last


def test_what_is_missing_is_said(rewards, tmp_path):
    page = Page([], rewards)
    _noise().save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"not an image")
    a, b = str(tmp_path / "a.png"), str(tmp_path / "b.png")
    assert "Pick an example" in page.uploaded(None, "x", None, None, "", "")[-1]
    assert "edited images" in page.uploaded(None, "x", a, None, "", "")[-1]
    assert "source image" in page.uploaded(None, "x", None, [a], "", "")[-1]
    *_, last = page.score(None, "x", a, [a, b], "", "")
    assert "not an image that can be read" in last and "io_error" in last


def test_an_upload_does_not_keep_the_words_of_the_example(rewards, tmp_path):
    captions = {"source_caption": "a cross", "target_caption": "a star"}
    page = Page(examples_of([Edit("turn it", _noise(), _noise(1), **captions)]), rewards)
    (name,) = page.examples
    _noise().save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    example, *words, view = page.uploaded(name, "turn it", path, [path], "a cross", "my own words")
    assert example is None and words == ["", "", "my own words"] and "cv-slider" in view


def test_huge_uploads_are_refused_by_their_header(rewards, tmp_path):
    Image.new("1", (6000, 6000)).save(tmp_path / "huge.png")
    huge = str(tmp_path / "huge.png")
    assert "Too large" in Page([], rewards).uploaded(None, "x", huge, [huge], "", "")[-1]


def test_no_mean_where_nothing_reads_the_instruction():
    picture = Picture("a.png", 4, 4)
    shown = [Shown("one", picture), Shown("two", picture)]
    following = [Score(0.4, {"instruction_following": 0.4}), Score.failed("not_applicable", "a photo")]
    text = comparison("x", picture, shown, {"pixels": [Score(1.0, {"quality": 1.0})] * 2, "judge": following})
    assert "<b>0.70</b></label>" in text and "<b>–</b></label>" in text


@contextmanager
def _served(page):
    for tries_left in (2, 1, 0):  # Gradio gives its server 5 s to start and 3 s to answer: too little if all is busy
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        blocks = page.blocks()
        options = page.launch_options()
        try:
            _, address, _ = blocks.launch(
                server_name="127.0.0.1", server_port=port, quiet=True, prevent_thread_lock=True, **options
            )
            break
        except (OSError, ValueError):
            blocks.close()
            if not tries_left:
                raise
    try:
        yield address
    finally:
        blocks.close()


def test_the_server_scores_uploads(rewards, tmp_path):
    gradio_client = pytest.importorskip("gradio_client")
    _noise(0).save(tmp_path / "source.png")
    _noise(1).save(tmp_path / "edit.png")
    page = Page(examples_of([Edit("a", _noise(), _noise(1), id="one")]), rewards)
    with _served(page) as address:
        client = gradio_client.Client(address, verbose=False, httpx_kwargs={"timeout": 120})
        source, edit = (gradio_client.handle_file(str(tmp_path / name)) for name in ("source.png", "edit.png"))
        text = client.predict(None, "<make> it red", source, [edit], "", "", api_name="/score")
        assert "&lt;make&gt; it red" in text and 'class="cv-status cv-ok"' in text
        shown = text.split('class="cv-before" src="')[1].split('"')[0]
        import httpx

        answer = httpx.get(f"{address}{shown}", timeout=120)
        (tmp_path / "back.png").write_bytes(answer.content)
        assert np.array_equal(np.asarray(Image.open(tmp_path / "back.png")), np.asarray(_noise(0)))
        assert httpx.get(f"{address}gradio_api/file=/etc/hostname", timeout=120).status_code in (403, 404)


@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser here")
def test_a_browser_shows_scores_and_the_keyboard_reaches_all_of_it(rewards, tmp_path):
    sys.path.insert(0, str(Path(__file__).parent))
    from browser import Browser

    source = _noise()
    edits = [Edit("<i>make</i> it red", source, _noise(seed), id=f"no {seed}") for seed in (1, 2)]
    page = Page(examples_of(edits), rewards)
    with _served(page) as address, Browser(tmp_path) as browser:
        browser.open(address)
        browser.wait("document.querySelectorAll('.cv-io_error').length == 2")
        assert browser.value("document.querySelector('.cv-asked').textContent") == "<i>make</i> it red"
        browser.wait("[...document.querySelectorAll('.cv img')].every((i) => i.naturalWidth > 0)")
        shown = "[...document.querySelectorAll('.cv-panel')].map((p) => p.offsetParent !== null).join()"
        browser.wait(f"{shown} == 'true,false'")
        browser.value("document.querySelector('#cv-0').focus()")
        browser.press("ArrowRight", 39)
        browser.wait(f"{shown} == 'false,true'")
        browser.press("Tab", 9)
        browser.press("ArrowLeft", 37)
        browser.wait("document.activeElement.type == 'range' && document.activeElement.value == 49")
        line = "document.activeElement.closest('.cv-slider').style.getPropertyValue('--cv-at')"
        browser.wait(f"{line} == '49%'")
        browser.wait("document.documentElement.scrollWidth <= window.innerWidth")
