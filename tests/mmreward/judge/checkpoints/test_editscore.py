"""EditScore: our loader beside the published package, on the same small folders."""

import copy
import importlib.util
import json

import numpy as np
import pytest
import torch

from mmreward import load_reward
from mmreward.edit import Edit
from mmreward.judge.backends.backend import Text
from mmreward.judge.backends.tree import images_of
from mmreward.judge.way import Group

NEEDED = ("editscore", "qwen_vl_utils", "json_repair", "regex", "peft")
ABSENT = [name for name in NEEDED if not importlib.util.find_spec(name)]
pytestmark = pytest.mark.skipif(bool(ABSENT), reason=f"packages that this test runs are absent: {', '.join(ABSENT)}")

BACKBONES = {"qwen2_5_vl": "qwen25vl", "qwen3_vl": "qwen3vl"}
LABELS = [chr(code) for code in (*range(48, 58), *range(65, 91), *range(97, 123))]


@pytest.fixture(scope="module", params=BACKBONES)
def pair(request, base, tmp_path_factory):
    """(published scorer, our reward) on one small base model and one adapter, both in bfloat16 and then in float32."""
    from peft import LoraConfig, get_peft_model

    model, _, folder = base(request.param)
    torch.manual_seed(7)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj", "up_proj"], init_lora_weights=False)
    adapter = tmp_path_factory.mktemp("adapter")
    get_peft_model(copy.deepcopy(model), config).save_pretrained(adapter)
    with pytest.MonkeyPatch.context() as patch:
        _on_this_machine(patch)
        from editscore import EditScore

        theirs = EditScore(BACKBONES[request.param], model_name_or_path=str(folder), lora_path=str(adapter), num_pass=2)
        ours = load_reward(f"editscore:{adapter}?base={folder}&passes=2&dtype=bfloat16&device=cpu")
        same_weights(theirs.model.model, ours.backend.model)
        theirs.model.model.float()
        ours.backend.model.float()
        yield theirs, ours


def _on_this_machine(patch):
    """The package moves its inputs to "cuda" by name."""
    from transformers import BatchFeature

    patch.setattr(BatchFeature, "to", lambda self, *place, **options: self)


def same_weights(theirs, ours):
    other = dict(ours.named_parameters())
    assert len(other) == len(list(theirs.named_parameters()))
    for name, parameter in theirs.named_parameters():
        assert torch.equal(parameter.cpu(), other[name]), name


def group_of(edit):
    return Group(edit.instruction, edit.image("source"), (edit.image("edited"),))


def test_token_ids_pixels_and_logits_are_those_of_the_package(pair, edits):
    theirs, ours = pair
    edit = edits[1]
    source, edited = edit.image("source"), edit.image("edited")
    asked = (
        theirs.model.prepare_input([source, edited], theirs.SC_prompt.replace("<instruction>", edit.instruction)),
        theirs.model.prepare_input(edited, theirs.PQ_prompt),
    )
    shared = ours.backend.shared
    for inputs, prompt in zip(asked, ours.way.questions.prompts(group_of(edit)), strict=True):
        images = list(images_of(prompt))
        root = shared.reader.read(prompt, shared.vision.look(images))
        ids = np.concatenate([root.ids, root.children[0].ids])
        assert ids.tolist() == inputs["input_ids"][0].tolist()

        pixels = torch.cat([one.tensors["pixel_values"] for one in shared.vision.family.prepare(images)])
        assert torch.equal(pixels, inputs["pixel_values"])

        with torch.no_grad():
            whole = theirs.model.model(**inputs).logits[0, -1].float().log_softmax(-1)
        labels = ours.backend.label_ids(LABELS).ids
        expected = torch.stack([whole[list(one)].logsumexp(0) for one in labels])
        ((answer,),) = ours.backend.probabilities([prompt], LABELS)
        assert torch.tensor(answer.probabilities).log() == pytest.approx(expected, abs=1e-4)


class Scripted:
    """Stands in for both models: answers by question and pass."""

    describe = {"backend": "scripted"}

    def __init__(self, answers):
        self.answers = answers

    def generate(self, prompts, sampling):
        return [[[Text(text) for text in self.answers[i % 2]] for _ in range(p.leaves)] for i, p in enumerate(prompts)]

    def prepare_input(self, images, text):
        return int(not isinstance(images, list))

    def inference(self, question, seed):
        return self.answers[question][seed - 42]


def written(*scores):
    return json.dumps({"reasoning": "said so", "score": list(scores)})


def test_scores_are_a_tenth_of_the_published_ones(pair, edits):
    theirs, ours = pair
    fake = Scripted([[written(20, 12), written(25, 3)], [written(17, 22), written(5, 25)]])
    theirs = copy.copy(theirs)
    theirs.model = fake
    told = theirs.evaluate([edits[0].image("source"), edits[0].image("edited")], edits[0].instruction)
    ((score,),) = ours.way.score([group_of(edits[0])], fake)
    assert score.overall == pytest.approx(told["overall"] / 10)
    assert score.dims["instruction_following"] == pytest.approx(told["prompt_following"] / 10)
    assert score.dims["preservation"] == pytest.approx(told["consistency"] / 10)
    assert score.dims["quality"] == pytest.approx(told["perceptual_quality"] / 10)
    assert score.spread.kind == "passes"


def test_what_the_package_makes_up_is_a_failure_here(pair, edits):
    fake = Scripted([["I'm sorry, but I can't assist with that request."] * 2, [written(17, 22)] * 2])
    ((score,),) = pair[1].way.score([group_of(edits[0])], fake)
    assert score.status == "refused"
    fake = Scripted([[written(26, 3), written(20, 20)], [written(25, 25)] * 2])
    ((score,),) = pair[1].way.score([group_of(edits[0])], fake)
    assert score.ok and score.raw["passes_failed"] == 1 and score.overall == pytest.approx((20 / 25) ** 0.5)


def test_rows_run_and_provenance_says_what_ran(pair, edits):
    ours = load_reward_short(pair[1])
    bad = Edit("", edits[0].source, edits[0].edited)
    narrow = Edit("x", edits[0].source, edits[0].image("edited").resize((1, 900)))
    scores = ours.score([bad, *edits, narrow])
    assert scores[0].status == "not_applicable" and scores[-1].status == "not_applicable"
    for score in scores[1:-1]:  # a random model writes nonsense, which is never a number
        assert score.status == "parse_error"
        assert score.provenance["reward"].startswith("editscore:") and score.provenance["top_k"] == 20
        assert score.provenance["question"].startswith("as published, from editscore")
        assert score.provenance["temperature"] == 0.7 and score.provenance["seed"] == 42
        assert score.provenance["adapter"].startswith("sha256:")


def load_reward_short(reward):
    """The same reward, writing four tokens."""
    from dataclasses import replace

    reward = copy.copy(reward)
    reward.way = copy.copy(reward.way)
    reward.way.sampling = replace(reward.way.sampling, max_new_tokens=4)
    return reward


def test_other_words_lose_the_name(base, pair, edits, tmp_path):
    import yaml

    folder = base("qwen2_5_vl")[2]
    adapter = tmp_path / "adapter"
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        copy.deepcopy(base("qwen2_5_vl")[0]), LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    )
    model.save_pretrained(adapter)
    words = {
        "_context_no_delimit_reasoning_first": "", "_prompts_0shot_two_image_edit_rule": "",
        "_prompts_0shot_tie_rule_SC": "0 to 10: <instruction>", "_prompts_0shot_rule_PQ": "0 to 10",
    }  # fmt: skip
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(words))
    reward = load_reward(f"editscore:{adapter}?base={folder}&prompt={tmp_path / 'own.yaml'}")
    assert reward.name == f"own prompt on the weights of editscore:{adapter}"
    assert "0 to 25" in reward.way.questions.together
    reward = load_reward(f"editscore:{adapter}?base={folder}&way=expected&floor=0")
    assert reward.name == f"own question on the weights of editscore:{adapter}"
    assert reward.score(edits[:1])[0].ok
    with pytest.raises(ValueError, match="unknown option of 'editscore'"):
        load_reward(f"editscore:{adapter}?base={folder}&way=expected&passes=2")
    with pytest.raises(ValueError, match="adapter"):
        load_reward(f"editscore:{folder}")
