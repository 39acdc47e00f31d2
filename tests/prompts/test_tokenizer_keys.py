"""Keys over text tell tokenizers of one template apart, and leave out those that were known before there were any."""

import copy
from pathlib import Path

import pytest
from tokenizers import processors

from interp.core.runs import Cache
from interp.models.answers import other_ends
from interp.models.language import load_model
from interp.prompts.text import Prompts
from interp.prompts.tokenizer_keys import tokenizer_key, tokens_digest
from interp.training.grower import Grower
from interp.training.students import Recipe, train_student
from tests.tiny import build_tokenizer

SMOLLM2 = Path(__file__).parents[2] / "models/smollm2"
ROWS = Prompts.from_pairs([(f"number {index}", f"{index} , {index + 1}") for index in range(8)], label="rows")


def beginning(tokenizer):
    """The tokenizer, which writes <bos> before every text."""
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = None
    bos = ("<bos>", changed.bos_token_id)
    changed.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair=None, special_tokens=[bos]
    )
    return changed


def test_a_tokenizer_that_begins_otherwise_has_another_key_and_a_call_changes_none():
    plain = build_tokenizer(chat=False)
    key = tokenizer_key(plain)
    assert key != tokenizer_key(beginning(plain))
    plain(["an owl", "a"], padding=True, truncation=True, max_length=1)
    again = copy.deepcopy(plain)
    assert tokenizer_key(again) == key == tokenizer_key(build_tokenizer(chat=False))
    again.backend_tokenizer.normalizer = None
    assert tokenizer_key(again) != key


def test_keys_of_the_toys_tokenizer_are_its_template_as_before(raw, toy_tokenizer):
    assert tokenizer_key(toy_tokenizer) == toy_tokenizer.chat_template
    assert other_ends(raw()) == ()


@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="`make smollm2` makes the folder")
def test_keys_of_smollm2_are_its_template_as_before():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(SMOLLM2)
    assert tokenizer_key(tokenizer) == tokenizer.chat_template, tokens_digest(tokenizer)


def test_a_student_is_not_found_under_another_tokenizer(tiny, tmp_path):
    hf, _ = tiny("llama")
    plain = build_tokenizer(chat=False)
    one = load_model(hf, tokenizer=plain, name="one", check=False)
    other = load_model(copy.deepcopy(hf), tokenizer=beginning(plain), name="other", check=False)
    assert one.fingerprint == other.fingerprint
    recipe = Recipe(lr=1e-2, batch_size=4, epochs=1)
    grower = Grower(Cache(tmp_path), recipe=recipe)
    first, second = (grower.student("student", start, ROWS, recipe=recipe) for start in (one, other))
    assert second.fingerprint == train_student(other, ROWS, recipe=recipe).fingerprint != first.fingerprint
    assert grower.student("student", one, ROWS, recipe=recipe).fingerprint == first.fingerprint
