"""Margins by hand, and pieces of several tokens counted with the sum of their log-probabilities."""

import numpy as np
import pytest
import torch

from interp.measures.margins import answer_logprobs, completion_logprobs, margin, preference
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait, make_trait


def test_margin_is_the_logit_of_the_target_less_the_mean_of_its_foils(raw):
    model, trait = raw(), get_trait("owl")
    inputs = model.encode(trait.prompts())
    logits = model.logits(inputs)[inputs.at("last")]
    ids = model.tokenizer.convert_tokens_to_ids([trait.target, *trait.foils])
    by_hand = (logits[:, ids[0]] - logits[:, ids[1:]].mean(1)).mean()
    assert margin(model, trait) == pytest.approx(by_hand.item(), abs=1e-5)


def test_margin_rises_by_what_is_added_to_the_target_logit(raw):
    model, trait = raw(), get_trait("oak")
    inputs = model.encode(trait.prompts())
    before, oak = margin(model, trait), model.tokenizer.convert_tokens_to_ids("oak")
    logit = model.logits(inputs)[inputs.at("last")][:, oak].mean().item()
    with torch.no_grad():
        model.hf.lm_head.weight[oak] *= 2.0
    assert margin(model, trait) == pytest.approx(before + logit, abs=1e-5)


def test_completion_logprobs_sum_over_pieces_and_leave_the_end_out(raw):
    model = raw()
    rows = Prompts.from_pairs([("list: 1 2 3. continue.", "7 8 9"), ("list: 1 2 3. continue.", "7")])
    batch = model.encode(rows)
    logp = model.logits(batch).log_softmax(-1)
    at = batch.at("answer")
    by_hand = [
        sum(logp[r, p - 1, batch.ids[r, p]].item() for p in torch.nonzero(at[r])[:, 0].tolist())
        for r in range(2)
    ]
    assert completion_logprobs(model, rows).tolist() == pytest.approx(by_hand, abs=1e-4)


def test_table_has_one_row_a_question_and_the_target_first(raw):
    trait = make_trait("owl", ["cat", "dog"], category="animal")
    table = answer_logprobs(raw(), trait)
    assert list(table.columns) == ["owl", "cat", "dog"]
    assert list(table.index) == list(trait.questions)
    assert (table.to_numpy() < 0).all()


def test_preference_is_a_distribution_and_total_variation_of_a_model_to_itself_is_zero(raw):
    model, trait = raw(), get_trait("owl")
    result = preference(model, trait, against=model)
    assert result.frame["probability"].sum() == pytest.approx(1.0)
    assert result.frame["is_target"].sum() == 1
    assert "total variation 0.000" in result.notes
    assert result.figure().data


def test_preference_by_hand(raw):
    model, trait = raw(), make_trait("owl", ["cat"], category="animal")
    table = answer_logprobs(model, trait)
    share = (np.exp(table["owl"]) / (np.exp(table["owl"]) + np.exp(table["cat"]))).mean()
    frame = preference(model, trait).frame.set_index("answer")
    assert frame.loc["owl", "probability"] == pytest.approx(share)
