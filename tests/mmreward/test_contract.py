"""What every reward and every combination promises, whatever it measures and however it computes.

`score` never raises for a row: each row has a score or a status, in order. A bad row changes nothing for the others,
nor does the way in which rows are put into calls, as long as a group stays whole. Provenance is JSON. Where a reward
says that it does not apply to a task, no candidate has a say in it.
"""

import copy
import importlib.util
import json
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import save_file

from mmreward import Edit, load_reward
from mmreward.judge.checkpoints import editscore, firm
from mmreward.reward import LOADERS
from mmreward.rewards.base import Pointwise
from mmreward.shapes import World

ONE_IMAGE = {"edited"}
TWO_IMAGES = {"source", "edited"}
ALL_IMAGES = {"source", "edited", "mask", "target"}
GATED = {"method": "base_and_bonus", "base": "oracle", "bonus": {"preservation": 0.4}}
OPTIONAL = {"clip": {"reward": "clip:tiny", "optional": True}, "pixels": "pixels", "oracle": "oracle"}
HEAD_WORDS = {"prompt_with_special_token": "\nthe rating: <|Reward|>\n"}


def combined(overall, members=None):
    return {"members": members or {"pixels": "pixels", "oracle": "oracle"}, "overall": overall}


SPECS = {
    "pixels": ("pixels", ALL_IMAGES),
    "oracle": ("oracle", TWO_IMAGES),
    "target": ("target", TWO_IMAGES | {"target"}),
    "clip": ("clip:tiny", TWO_IMAGES),
    "clip, any domain": ("clip:tiny?domain=any", TWO_IMAGES),
    "vlm": ("vlm:tiny", TWO_IMAGES),
    "vlm, any domain": ("vlm:tiny?domain=any", TWO_IMAGES),
    "vlm, checklist": ("vlm:tiny?way=checklist", TWO_IMAGES),
    "vlm, checklist, any domain": ("vlm:tiny?way=checklist&domain=any", TWO_IMAGES),
    "vlm, pairwise": ("vlm:tiny?way=pairwise", TWO_IMAGES),
    "vlm, pairwise, any domain": ("vlm:tiny?way=pairwise&domain=any", TWO_IMAGES),
    "recommended": ("recommended", ALL_IMAGES),
    "weighted": (combined({"method": "weighted", "weights": {"pixels": 1, "oracle": 3}}), ALL_IMAGES),
    "geometric": (combined({"method": "geometric", "weights": {"pixels": 1, "oracle": 3}}), ALL_IMAGES),
    "minimum": (combined({"method": "minimum", "of": ["quality", "oracle"]}), ALL_IMAGES),
    "base and bonus": (combined(GATED), ALL_IMAGES),
    "optional member": (combined({"method": "weighted", "weights": {"clip": 1, "pixels": 1}}, OPTIONAL), ALL_IMAGES),
    "dimensions only": (combined(None), ALL_IMAGES),
    "openai": ("openai:{server}?retries=0", TWO_IMAGES),
    "openai, rubric": ("openai:{server}?way=rubric&retries=0", TWO_IMAGES),
    "pickscore": ("pickscore:{pickscore}", ONE_IMAGE),
    "hpsv3": ("hpsv3:{hpsv3}/model.safetensors?base={qwen2_vl}&prompt={hpsv3}/words.yaml", ONE_IMAGE),
    "editreward": ("editreward:{editreward}?base={qwen2_5_vl}&prompt={editreward}/words.yaml", TWO_IMAGES),
    "editscore": (
        "editscore:{adapter}?base={qwen3_vl}&prompt={adapter}/words.yaml&max_new_tokens=2&temperature=0",
        TWO_IMAGES,
    ),
    "editscore, server": (
        "editscore:X?base=Qwen3-VL-8B&server={server}&prompt={adapter}/words.yaml&retries=0",
        TWO_IMAGES,
    ),
    "published": ("published:{qwen3_vl}?judge=firm&prompt={firm}/words.yaml&max_new_tokens=2", TWO_IMAGES),
    "published, server": ("published:X?judge=firm&server={server}&prompt={firm}/words.yaml&retries=0", TWO_IMAGES),
}
"""Name -> spec, and the images that the reward looks at."""
EVERY = pytest.mark.parametrize("name", SPECS)
READS_NO_TEXT = ("target",)


# ---------------------------------------------------------------------------------------------------------- rewards


def module(path):
    """A conftest of another folder, whose small random models are used here as well."""
    spec = importlib.util.spec_from_file_location(f"contract_{path.parent.name}", path)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """What stands in braces in the specs, made when it is asked for."""
    return Places(tmp_path_factory)


class Places(dict):
    def __init__(self, factory):
        self.factory = factory
        self.models = module(Path(__file__).parent / "judge" / "checkpoints" / "conftest.py")
        self.bases = {}

    def __missing__(self, name):
        self[name] = getattr(self, name, lambda: self.base(name))()
        return self[name]

    def base(self, family):
        folder = self.factory.mktemp(family)
        for part in self.bases.setdefault(family, self.models.new_base(family)):
            part.save_pretrained(folder)
        return folder

    def _words(self, folder, texts):
        (folder / "words.yaml").write_text(yaml.safe_dump(texts))
        return folder

    def _with_heads(self, family, heads, words):
        self[family]
        model, processor = copy.deepcopy(self.bases[family])
        self.models.extended(model, processor)
        tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        for head in heads:
            tensors |= {f"{head}.{name}": t.clone() for name, t in self.models.new_head().state_dict().items()}
        folder = self.factory.mktemp(family)
        save_file(tensors, folder / "model.safetensors")
        return self._words(folder, HEAD_WORDS | {name: f"{name}: {{text_prompt}}\n" for name in words})

    def hpsv3(self):
        return self._with_heads("qwen2_vl", ["rm_head"], ["INSTRUCTION"])

    def editreward(self):
        words = ["INSTRUCTION_EDIT_FOLLOWING", "INSTRUCTION_EDIT_QUALITY"]
        return self._with_heads("qwen2_5_vl", ["rm_heads.head_0", "rm_heads.head_1"], words)

    def adapter(self):
        from peft import LoraConfig, get_peft_model

        self["qwen3_vl"]
        folder = self.factory.mktemp("adapter")
        config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        get_peft_model(copy.deepcopy(self.bases["qwen3_vl"][0]), config).save_pretrained(folder)
        return self._words(folder, dict(zip(editscore.PLACES, ("context", "both", "0 to 10: <instruction>", "alone"))))

    def firm(self):
        texts = dict(zip(firm.FIRM.places, ("Executed? {prompt}", "Consistent? {prompt}")))
        return self._words(self.factory.mktemp("firm"), texts)

    def pickscore(self):
        import string

        import torch
        from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

        letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
        tokens = [*letters, "<|startoftext|>", "<|endoftext|>"]
        tokenizer = CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=12)
        text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        vision = text | {"image_size": 28, "patch_size": 14}
        text |= {"vocab_size": len(tokenizer), "max_position_embeddings": 12, "eos_token_id": tokenizer.eos_token_id}
        torch.manual_seed(0)
        folder = self.factory.mktemp("pickscore")
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
        CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder


@pytest.fixture(scope="module")
def address():
    """A server of the OpenAI protocol that judges by the brightness of the last image."""
    import threading

    tools = module(Path(__file__).parent / "conftest.py")

    def answer(body):
        share = float(np.asarray(tools.images_of({"messages": body["messages"][-1:]})[-1]).mean()) / 255
        if body.get("logprobs"):
            return tools.completion("4", {"4": 0.05 + 0.9 * share, "2": 0.95 - 0.9 * share})
        grades = [round(5 * share)] if "ted?" in json.dumps(body) else [round(10 * share), 5]
        return tools.completion(json.dumps({"reasoning": "", "score": grades}))

    running = tools.Server()
    running.answer = answer
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield running.url
    running.shutdown()
    running.server_close()


@pytest.fixture(scope="module")
def reward_of(places, address):
    """name -> reward, loaded once."""
    loaded = {}
    places["server"] = address

    def get(name):
        if name not in loaded:
            spec = SPECS[name][0]
            loaded[name] = load_reward(spec.format_map(places) if isinstance(spec, str) else spec)
        return loaded[name]

    return get


# ------------------------------------------------------------------------------------------------------------- rows


def huge():
    """A PNG whose header says 30,000 x 30,000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


UNREADABLE = {
    "missing": "nowhere/image.png",
    "broken": b"no image",
    "huge": huge(),
    "empty": b"",
    "floats": Image.new("F", (64, 64), 1e9),
}
ODD = {"tiny": Image.new("RGB", (1, 1)), "flat": Image.new("RGB", (2000, 1)), "wide": Image.new("RGB", (96, 64))}
TEXTS = {"empty": " \n", "long": "make it blue " * 770, "half a character": "make it \ud83d blue"}
SOME_RESULT = {"ok", "not_applicable", "parse_error"}


@dataclass(frozen=True)
class Bad:
    what: str
    edit: Edit
    image: str | None = None
    """The image that cannot be read."""


def task_edits(number, candidates=2):
    world = World("validation", seed=3)
    task = world.task(number)
    source, target = Image.fromarray(task.source_image), Image.fromarray(task.target_image)
    mask = Image.new("L", source.size)
    mask.paste(255, (0, 0, 32, 64))
    return [
        Edit(task.instruction, source, Image.fromarray(candidate.image), mask=mask, target=target)
        for candidate in world.candidates(task, candidates)
    ]


GOOD = [*task_edits(0), *task_edits(1)]
THIRD = task_edits(2, 1)[0]


def bad_rows(seen):
    """Rows that no reward that looks at their image can score, then rows that it may score or not; of an image that it
    does not look at, one that is broken.
    """
    for image in sorted(ALL_IMAGES):
        # A candidate that cannot be read belongs to a group of good ones.
        whole = GOOD[0] if image == "edited" else THIRD
        for what, value in UNREADABLE.items():
            if image in seen or what == "broken":
                yield Bad(f"{what} {image}", replace(whole, **{image: value}), image)
        for what, value in ODD.items() if image in seen else ():
            yield Bad(f"{what} {image}", replace(THIRD, **{image: value}))
    for what, text in TEXTS.items():
        yield Bad(f"{what} instruction", replace(THIRD, instruction=text))


def mixed(bad_rows):
    """The good rows among the bad ones: (edits, places of the good ones)."""
    edits, places = [], []
    for number, bad in enumerate(bad_rows):
        if number % 4 == 0 and len(places) < len(GOOD):
            places.append(len(edits))
            edits.append(GOOD[len(places) - 1])
        edits.append(bad.edit)
    assert len(places) == len(GOOD)
    return edits, places


def assert_same(scores, expected, tolerance=1e-4):
    assert [score.status for score in scores] == [score.status for score in expected], [s.error for s in scores]
    for score, other in zip(scores, expected, strict=True):
        assert score.overall == pytest.approx(other.overall, abs=tolerance, nan_ok=True)
        assert dict(score.dims) == pytest.approx(dict(other.dims), abs=tolerance)


# ------------------------------------------------------------------------------------------------------------ tests


def test_every_loader_is_here():
    named = {spec.partition(":")[0] for spec, _ in SPECS.values() if isinstance(spec, str)}
    assert set(LOADERS) <= named


@EVERY
def test_a_bad_row_has_a_status_and_changes_nothing_for_the_others(name, reward_of):
    reward, seen = reward_of(name), SPECS[name][1]
    bad_ones = list(bad_rows(seen))
    edits, places = mixed(bad_ones)
    scores = reward.score(edits)
    assert len(scores) == len(edits)
    assert_same([scores[place] for place in places], reward.score(GOOD))
    bad_scores = [score for place, score in enumerate(scores) if place not in places]
    for bad, score in zip(bad_ones, bad_scores, strict=True):
        if bad.image in seen:
            assert score.status == "io_error" and score.error, f"{bad.what}: {score.status} {score.error}"
        elif bad.image is None:
            assert score.status in SOME_RESULT, f"{bad.what}: {score.status} {score.error}"
        if bad.what == "empty instruction":
            assert score.status == ("ok" if name in READS_NO_TEXT else "not_applicable"), score.error
    for score in scores:
        json.dumps(dict(score.provenance), allow_nan=False)


@EVERY
def test_order_and_calls_change_no_score(name, reward_of):
    reward = reward_of(name)
    expected = reward.score(GOOD)
    assert reward.score([]) == []
    assert_same([score for start in (0, 2) for score in reward.score(GOOD[start : start + 2])], expected)
    assert_same(reward.score([GOOD[place] for place in (3, 2, 1, 0)])[::-1], expected)
    if not reward.needs_group:
        assert_same([score for edit in GOOD for score in reward.score([edit])], expected)
    if isinstance(reward, Pointwise):
        smaller = copy.copy(reward)
        smaller.batch = 3
        assert_same(smaller.score(GOOD), expected)


@EVERY
def test_images_with_the_same_pixels_have_the_same_score(name, reward_of):
    reward = reward_of(name)
    if reward.needs_group:
        pytest.skip("its scores are about the company")
    opaque = replace(THIRD, source=THIRD.source.convert("RGBA"), edited=THIRD.edited.convert("RGBA"))
    opaque = replace(opaque, mask=THIRD.mask.convert("RGB"), target=THIRD.target.convert("RGBA"))
    assert_same(reward.score([opaque]), reward.score([THIRD]))


@EVERY
def test_no_candidate_has_a_say_in_whether_a_reward_applies(name, reward_of):
    reward = reward_of(name)
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    for edit in (THIRD, replace(THIRD, instruction=""), replace(THIRD, source=noise), replace(THIRD, target=None)):
        reasons = {reward.applies(replace(edit, edited=candidate)) for candidate in (edit.edited, b"", noise)}
        assert len(reasons) == 1
        (reason,) = reasons
        if reason:
            (score,) = reward.score([edit])
            assert reason.status == score.status == "not_applicable" and score.error
