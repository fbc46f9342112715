"""The cache of decoded images: bounded, shared, safe from threads; and edits that stay what they are."""

import gc
import io
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import mmreward.edit as module
from mmreward import Edit, ImageError
from mmreward.images.cache import ImageCache, image_bytes


def picture(seed, size=(64, 48)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def encoded(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


class Opened:
    """Counts what is decoded, and how many bytes of it are alive."""

    def __init__(self):
        self.count, self.alive, self.peak, self.lock = 0, weakref.WeakSet(), 0, threading.Lock()

    def __call__(self, value, name):
        image = watched(self.real(value, name))
        with self.lock:
            self.count += 1
            self.alive.add(image)
            self.peak = max(self.peak, sum(map(image_bytes, self.alive)))
        return image


def watched(image):
    """`image` as an object that sets can hold."""
    copy = type("Watched", (Image.Image,), {"__hash__": object.__hash__, "__eq__": object.__eq__})()
    copy.im, copy._mode, copy._size = image.im, image.mode, image.size
    return copy


@pytest.fixture
def opened(monkeypatch):
    """An empty cache of ten of the small pictures, and a count of what is decoded."""
    counter = Opened()
    counter.real = module.open_image
    monkeypatch.setattr(module, "open_image", counter)
    monkeypatch.setattr(module, "CACHE", ImageCache(10 * 64 * 48 * 4))
    return counter


def test_decoded_images_stay_within_the_budget(opened, tmp_path):
    edits = []
    for number in range(40):
        picture(number).save(tmp_path / f"{number}.png")
        edits.append(Edit("x", tmp_path / f"{number}.png", encoded(picture(number + 100)), id=str(number)))
    for edit in edits:
        edit.image("source"), edit.image("edited"), edit.group, edit.key
        assert module.CACHE.size <= module.CACHE.budget
    gc.collect()
    assert opened.count == 80
    assert opened.peak <= module.CACHE.budget + 2 * 64 * 48 * 4  # and the one that is being opened
    keys = [edit.key for edit in edits]
    assert opened.count == 80 and len(set(keys)) == 40  # digests stay
    assert edits[0].image("source").tobytes() == picture(0).tobytes()  # let go, and opened again


def test_candidates_share_the_source_whatever_it_is_given_as(opened, tmp_path):
    picture(0).save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes()):
        before = opened.count
        edits = [Edit("x", source, picture(1)) for _ in range(8)]
        assert len({id(edit.image("source")) for edit in edits}) == 1 and len({edit.group for edit in edits}) == 1
        assert opened.count - before <= 1 + 8  # a PIL image is looked at, and not kept
    mask = Edit("x", tmp_path / "a.png", picture(1), mask=tmp_path / "a.png")
    assert (mask.image("mask").mode, mask.image("source").mode) == ("L", "RGB")


def test_an_image_of_the_caller_is_neither_copied_nor_kept():
    image = picture(0)
    edit = Edit("x", image, picture(1).convert("RGBA"))
    size = module.CACHE.size
    assert edit.image("source") is image and module.CACHE.size == size
    assert edit.image("edited") is edit.image("edited")  # converted once


def test_objects_at_the_address_of_an_old_one_are_not_mistaken_for_it():
    seen = set()
    for number in range(50):
        edit = Edit("x", np.full((4, 4, 3), number, np.uint8), np.zeros((4, 4, 3), np.uint8))
        seen.add(edit.image("source").getpixel((0, 0)))
    assert len(seen) == 50


def test_a_file_that_changes_is_not_read_as_the_same_edit(opened, tmp_path):
    picture(0).save(tmp_path / "a.png")
    edit = Edit("x", tmp_path / "a.png", picture(1))
    before = edit.image("source").tobytes()
    picture(2, (32, 32)).save(tmp_path / "a.png")
    assert edit.image("source").tobytes() == before
    module.CACHE.clear()
    with pytest.raises(ImageError, match="source image .*a.png' has changed since it was first opened"):
        edit.image("source")
    assert Edit("x", tmp_path / "a.png", picture(1)).image("source").size == (32, 32)


def test_threads_get_the_same_pictures(opened, tmp_path):
    for number in range(30):
        picture(number).save(tmp_path / f"{number}.png")
    edits = [Edit("x", tmp_path / f"{number}.png", Image.open(tmp_path / "0.png")) for number in range(30)]
    alone = [(Edit("x", tmp_path / f"{number}.png", picture(0)).key) for number in range(30)]
    with ThreadPoolExecutor(8) as pool:
        for keys in pool.map(lambda _: [edit.key for edit in edits], range(8)):
            assert keys == alone
        list(pool.map(lambda n: [edit.image("source") for edit in edits[n % 7 :]], range(40)))
    images = list(module.CACHE._images.values())
    assert module.CACHE.size == sum(map(image_bytes, images)) <= module.CACHE.budget


def test_one_image_beyond_the_budget_is_kept_until_the_next():
    cache = ImageCache(100)
    large, small = picture(0), picture(1, (4, 4))
    assert cache.put("a", large) is large and cache.get("a") is large
    cache.put("b", small)
    assert cache.get("a") is None and cache.get("b") is small and cache.size == 64


def test_an_edit_can_be_pickled(tmp_path):
    picture(0).save(tmp_path / "a.png")
    edit = Edit("x", tmp_path / "a.png", picture(1), mask=picture(2).convert("RGBA"), id="7", meta={"a": 1})
    key = edit.key
    again = pickle.loads(pickle.dumps(edit))
    assert (again.id, again.meta, again.instruction, again.key) == ("7", {"a": 1}, "x", key)
    assert again.image("mask").tobytes() == edit.image("mask").tobytes()


def test_a_single_edit_in_place_of_a_list():
    from mmreward import load_reward

    edit = Edit("x", picture(0), picture(1))
    for use in (len, list, load_reward("pixels").score, load_reward("oracle").score):
        with pytest.raises(
            TypeError, match=r"a list of edits is wanted, and this is a single Edit: write score\(\[edit\]\)"
        ):
            use(edit)
    assert edit and Edit("x", picture(0), picture(1)) is not edit
