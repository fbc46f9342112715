"""What sharing rests on is tried when a model is loaded: a model that swallows a cache or a mask is refused."""

import warnings

import pytest

from mmreward.judge.backends.backend import Sampling
from mmreward.judge.backends.language import Language
from mmreward.judge.backends.transformers import TransformersBackend


class Wrapped:
    """A decoder whose forward takes other names: `rename` gives for each name of ours the decoder's, or None."""

    def __init__(self, decoder, forward):
        self.decoder, self.forward = decoder, forward

    def __call__(self, **inputs):
        return self.forward(**inputs)


@pytest.fixture
def wrapped(small, monkeypatch):
    """Makes the small model's decoder one with another forward; `make(decoder)` gives it."""
    model, processor = small
    decoder = model.get_decoder()

    def wrap(make):
        monkeypatch.setattr(model, "get_decoder", lambda: Wrapped(decoder, make(decoder)))
        return model, processor

    return wrap


def swallows(name):
    def make(decoder):
        def forward(cache=None, attention_mask=None, position_ids=None, **others):
            given = {"cache": cache, "attention_mask": attention_mask, "position_ids": position_ids, **others}
            if name != "attention_mask" or getattr(attention_mask, "ndim", 0) == 4:
                given[name] = None
            return decoder(**{key: value for key, value in given.items() if value is not None})

        return forward

    return make


@pytest.mark.parametrize(
    ("name", "layout"), [("cache", "cached"), ("attention_mask", "packed"), ("position_ids", "packed")]
)
def test_a_model_that_swallows_what_it_is_given_is_refused(wrapped, caplog, name, layout):
    model, processor = wrapped(swallows(name))
    with pytest.raises(ValueError, match="does not use the cache" if name == "cache" else "does not use the mask"):
        TransformersBackend(model, processor, layout=layout)
    assert TransformersBackend(model, processor).describe["layout"] == "plain"
    assert "does not use" in caplog.text


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_the_cache_goes_by_the_name_in_the_signature(wrapped, prompts, name):
    """Transformers called it past_key_values before 5.2x, and drops that name in 5.40."""
    given = []

    def make(decoder):
        def old(past_key_values=None, **others):
            given.append(past_key_values is not None)
            return decoder(cache=past_key_values, **others)

        def new(cache=None, **others):
            given.append(cache is not None)
            return decoder(cache=cache, **others)

        return old if name == "past_key_values" else new

    backend = TransformersBackend(*wrapped(make), layout="cached")
    assert any(given)
    assert all(answer.status == "ok" for row in backend.probabilities(prompts, ("0", "1", "2")) for answer in row)


@pytest.mark.parametrize("layout", ["packed", "cached", "plain"])
def test_no_warning_of_a_library_comes_from_our_own_calls(small, prompts, layout):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backend = TransformersBackend(*small, layout=layout)
        backend.probabilities(prompts, ("0", "1"))
        backend.generate(prompts[:1], Sampling(max_new_tokens=3))


def test_the_trial_costs_four_short_forwards(small, monkeypatch):
    lengths = []
    hidden = Language.hidden
    monkeypatch.setattr(
        Language, "hidden", lambda self, ids, *rest: lengths.append(ids.numel()) or hidden(self, ids, *rest)
    )
    TransformersBackend(*small)
    assert len(lengths) <= 7 and sum(lengths) < 400
