"""Samples of scores: pairing by prompt, and what cannot be compared."""

from __future__ import annotations

import math

import pytest
import torch

from interp.core.runs import InputError
from interp.gradients.nulls.samples import Sample
from interp.prompts.text import Prompts
from tests.gradients.standins import sample


def test_rows_of_one_prompt_are_one_unit():
    found = sample([1.0, 5.0, 3.0, 7.0], prompts="abab").by_prompt()
    assert found.prompts == ("a", "b")
    assert found.column("own").tolist() == [2.0, 6.0]


def test_pairs_are_matched_by_prompt_whatever_the_order():
    ours = sample([1.0, 2.0, 3.0, 9.0], prompts="abcc")
    theirs = sample([20.0, 30.0, 10.0, 40.0], prompts="xcab")
    left, right = ours.paired(theirs)
    assert left.prompts == right.prompts == ("a", "b", "c")
    assert right.column("own").tolist() == [10.0, 40.0, 30.0]
    assert ours.minus(theirs).column("own").tolist() == [1 - 10, 2 - 40, 6 - 30]


def test_a_prompt_is_all_that_stands_before_the_answer():
    rows = Prompts.from_pairs([("one", "1"), ("one", "2"), ("two", "1")])
    found = Sample.of(torch.tensor([[1.0], [2.0], [4.0]]), ["v"], rows)
    assert len(set(found.prompts)) == 2
    assert Sample.of(torch.ones(3), ["v"], rows.with_system("be brief")).prompts[0] != found.prompts[0]


def test_tokens_name_the_same_prompts_as_text(tiny):
    from interp.models.language import load_model

    hf, tokenizer = tiny("llama")
    model = load_model(hf, tokenizer=tokenizer, check=False)
    rows = Prompts.from_pairs([("one number", "1"), ("one number", "2, 3"), ("list", "1")])
    keys = Sample.of(torch.ones(3), ["v"], model.encode(rows)).prompts
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sample([1.0, math.nan]), "1 of 2 scores are not finite; score those rows again"),
        (lambda: sample([1.0], labels=("a", "b")), "pass one prompt per row and one label per direction"),
        (lambda: sample([[1.0, 2.0]], labels=("a", "a")), "share a label; give each its own"),
        (lambda: sample([1.0]).column("cat"), "direction 'cat' was not scored; pass one of own"),
        (
            lambda: sample([1.0]).minus(sample([1.0], prompts="x")),
            "let both teachers answer the same prompts",
        ),
        (lambda: sample([1.0]).minus(sample([1.0], labels=("cat",))), "score both along the same ones"),
    ],
)
def test_what_cannot_be_compared_is_refused(make, message):
    with pytest.raises(InputError, match=message.replace("(", "\\(")):
        make()
