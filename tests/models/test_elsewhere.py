"""Asked for what stands elsewhere, a model and a lineage name the place in one sentence."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from interp.core.errors import InputError
from interp.models.elsewhere import ON_BRIDGE
from interp.models.language import LanguageModel, load_model
from interp.models.lineage import Lineage
from interp.prompts.text import Prompts
from tests.logits.pairs import perturbed

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture
def model(tiny):
    hf, tokenizer = tiny("llama")
    return load_model(hf, tokenizer=tokenizer, name="small", check=False)


@pytest.fixture
def lineage(model):
    others = {
        role: load_model(perturbed(model.hf, seed), tokenizer=model.tokenizer, name=role, check=False)
        for seed, role in enumerate(("teacher", "neutral_student"), start=1)
    }
    return Lineage("small", None, {"base": model, **others}, unrelated=tuple(others))


@pytest.mark.parametrize("name", ["run_with_cache", "to_tokens", "cfg"])
def test_what_the_bridge_has_is_said_to_be_there(model, name):
    with pytest.raises(AttributeError) as error:
        getattr(model, name)
    assert str(error.value) == (
        f"'LanguageModel' object has no attribute '{name}'; model.bridge.{name} is that of TransformerLens, over the "
        "same weights: give the bridge token ids, such as model.encode([text]).ids"
    )


def test_the_bridge_has_all_that_is_said_of_it_and_the_model_none(model):
    assert [name for name in ON_BRIDGE if not hasattr(model.bridge, name)] == []
    assert [name for name in ON_BRIDGE if hasattr(model, name)] == []


def test_other_names_are_plain_attribute_errors(model, lineage, monkeypatch):
    with pytest.raises(AttributeError, match=r"^'LanguageModel' object has no attribute 'nothing'$"):
        model.nothing  # noqa: B018
    assert getattr(model, "nothing", 3) == 3
    with pytest.raises(AttributeError, match=r"^'Lineage' object has no attribute '_nothing'$"):
        lineage._nothing  # noqa: B018
    monkeypatch.setattr(LanguageModel, "d_model", property(lambda own: own.backbone.nowhere))
    with pytest.raises(AttributeError, match="'Backbone' object has no attribute 'nowhere'"):
        model.d_model  # noqa: B018


def test_a_member_is_written_in_brackets(lineage):
    with pytest.raises(AttributeError) as error:
        lineage.neutral_student  # noqa: B018
    assert str(error.value) == (
        "'Lineage' object has no attribute 'neutral_student'; write lineage[\"neutral_student\"], the members being "
        "base, teacher, neutral_student"
    )
    with pytest.raises(
        AttributeError, match="; its members are base, teacher, neutral_student, written as lin"
    ):
        lineage.cross_student  # noqa: B018


def test_what_is_not_there_yet_is_no_endless_search():
    for kind, name in ((LanguageModel, "backbone"), (Lineage, "members")):
        with pytest.raises(AttributeError, match=f"^'{kind.__name__}' object has no attribute '{name}'$"):
            getattr(object.__new__(kind), name)


def test_logits_and_run_take_rows_as_the_verbs_do(model):
    rows = Prompts.from_pairs([("the owl is", "3 4"), ("owl", "")])
    inputs = model.encode(rows)
    assert torch.equal(model.logits(rows), model.logits(inputs))
    assert torch.equal(model.run(rows, hooks=[HOOK])[HOOK], model.run(inputs, hooks=[HOOK])[HOOK])
    assert torch.equal(model.logits(["owl"]), model.logits(model.encode(["owl"])))
    with model.hooks({HOOK: torch.zeros_like}):
        assert torch.equal(model.logits(rows), model.logits(inputs))
    with pytest.raises(
        InputError, match=r"'owl' and no file of that name is there; .* or \[text\] for one prompt"
    ):
        model.logits("owl")


def test_generate_says_how_text_becomes_ids(model):
    inputs, config = model.encode(["the owl is"]), GenerationConfig(max_new_tokens=2, pad_token_id=0)
    assert model.generate(inputs.ids, inputs.mask, config=config).shape == (1, 2)
    for call, came in (
        (lambda: model.generate("owl"), "the text 'owl' as ids"),
        (lambda: model.generate("owl", max_new_tokens=2), "the text 'owl' as ids"),
        (lambda: model.generate(inputs), "an Encoded as ids"),
        (lambda: model.generate(inputs.ids), "None as mask"),
        (lambda: model.generate(inputs.ids, inputs.mask), "no config"),
        (lambda: model.generate(inputs.ids, inputs.mask, config=config, top_k=3), "top_k=3"),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value) == (
            f"generate takes token ids, their mask and a config, and {came} came; encode text by inputs = "
            "model.encode([text]) and pass inputs.ids, inputs.mask and "
            "config=transformers.GenerationConfig(max_new_tokens=8), or have answers written by "
            "interp.training.write_answers"
        )
