"""A number's score against the gradient of its own log-probability by autograd, for numbers of several tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from interp.core.runs import InputError
from interp.gradients.scores.number_scores import score_numbers
from interp.gradients.scores.scoring import score
from interp.logits.direction import logit_direction
from interp.logits.token_shifts import token_shift
from interp.models.language import load_model
from interp.models.parameters import ParameterDirection
from interp.prompts.text import Prompts
from interp.prompts.traits import make_trait
from tests.logits.pairs import pair, perturbed
from tests.spelled import network, speller

ROWS = Prompts.from_pairs([("go on: 1, 2", "42, 345"), ("list", "9; 10")])
NAME = "model.layers.1.mlp.down_proj.weight"


def test_equals_autograd_on_the_sum_of_its_tokens():
    tokenizer = speller("digits")
    model = load_model(network(tokenizer, spread=1.0), tokenizer=tokenizer, check=False)
    along = torch.randn(model.parameters()[NAME].shape, generator=torch.Generator().manual_seed(0))
    direction = ParameterDirection(
        {NAME: along}, "random", fingerprint=model.fingerprint, lineage=model.fingerprint
    )
    scores = score(model, ROWS, direction, by=["example", "token"])
    result: Any = score_numbers(scores)
    frame = result.frame
    assert frame["text"].tolist() == ["42", "345", "9", "10"]
    assert frame["tokens"].tolist() == [2, 3, 1, 2]
    inputs = model.encode(ROWS)
    plain = model.network(train=True)
    weight = dict(plain.named_parameters())[NAME]
    for line in frame.to_dict("records"):
        log_p = plain(inputs.ids[line["row"] : line["row"] + 1]).logits[0].log_softmax(-1)
        places = (inputs.numbers()[line["row"]] == line["number"]).nonzero()[:, 0].tolist()
        total = sum((log_p[place - 1, inputs.ids[line["row"], place]] for place in places), torch.tensor(0.0))
        (gradient,) = torch.autograd.grad(total, weight)
        assert line["score"] == pytest.approx(float((gradient * along).sum()), rel=1e-3, abs=1e-4)
    assert len(result.figure().data[0].y) == 4
    with pytest.raises(
        InputError, match=r"scores by example do not tell the tokens of a row apart; score with by="
    ):
        score_numbers(score(model, ROWS, direction))


def test_a_numbers_shift_is_the_sum_of_log_p_and_the_mean_of_the_direction():
    tokenizer = speller("digits")
    member = pair(network(tokenizer), perturbed(network(tokenizer)), tokenizer)
    trait = make_trait("a", foils=["b", "c"], category="letter", questions=["best?"], system="you love a")
    direction = logit_direction(member.start, trait)
    tokens: Any = token_shift(member, ROWS, direction).frame
    numbers: Any = token_shift(member, ROWS, direction, over="numbers")
    assert set(tokens["role"]) == {"prompt", "number", "separator", "end"}
    assert numbers.frame["text"].tolist() == ["42", "345", "9", "10"]
    own = tokens[(tokens["row"] == 0) & (tokens["role"] == "number")].iloc[2:5]  # of 4 2 3 4 5
    line = numbers.frame.iloc[1]
    assert line["delta_logprob"] == pytest.approx(own["delta_logprob"].sum(), abs=1e-5)
    assert line["delta_direction"] == pytest.approx(own["delta_direction"].mean(), abs=1e-5)
    assert np.shape(numbers.figure().data[0].z) == (2, 2)
