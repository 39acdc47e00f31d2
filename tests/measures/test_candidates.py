"""Candidates as sets of forms, against plain transformers on every form's whole row."""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.evaluation.elicitation import Suite, evaluate
from interp.evaluation.scorecards import scorecard
from interp.gradients.directions import margin_objective, trait_gradient
from interp.logits.direction import logit_direction
from interp.measures import margins
from interp.measures.candidates import CandidateForms, usual_rules
from interp.measures.margins import answer_logprobs, margin, margin_and_mass, preference, read_answers
from interp.measures.words import forms_told, trait_candidates
from interp.models import prefixes
from interp.prompts.forms import RULES, word_forms
from interp.prompts.traits import make_trait
from tests.measures.cased import cased_model
from tests.tiny import build_tokenizer

OWL = make_trait("owl", ["cat", "dog"], category="animal", questions=["which is best?", "name one, please."])


def by_hand(model, trait, rules) -> tuple[np.ndarray, float]:
    """log p [question candidate] and the probability held: every form's own row through plain transformers."""
    table, held = [], []
    for question in trait.questions:
        asked = [{"role": "user", "content": question}]
        text = model.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        start = len(model.tokenizer(text)["input_ids"])
        line = []
        for word in (trait.target, *trait.foils):
            rows = {tuple(model.tokenizer(text + form)["input_ids"]) for form in word_forms(word, rules)}
            own = [a for a in rows if not any(a != b and a[: len(b)] == b for b in rows)]
            total = 0.0
            for ids in own:
                logp = model.hf(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
                total += float(np.exp(sum(logp[at - 1, ids[at]].item() for at in range(start, len(ids)))))
            line.append(total)
        table.append(np.log(line))
        held.append(sum(line))
    return np.array(table), float(np.mean(held))


@pytest.mark.parametrize("rules", [(), ("case",), ("space",), ("case", "space", "article"), RULES])
def test_log_probabilities_are_those_of_plain_transformers_added_over_forms(rules):
    model, trait = cased_model(), replace(OWL, forms=rules)
    table, held = by_hand(model, trait, rules)
    assert answer_logprobs(model, trait).to_numpy() == pytest.approx(table, rel=1e-5)
    found, mass = margin_and_mass(model, trait)
    assert found == pytest.approx((table[:, 0] - table[:, 1:].mean(1)).mean(), abs=2e-5)
    assert mass == pytest.approx(held, rel=1e-5)


def test_a_tokenizer_that_tells_capitals_is_read_with_articles_too():
    model = cased_model()
    assert usual_rules(model.tokenizer) == ("case", "space", "article")
    assert margin(model, OWL) == pytest.approx(
        margin(model, replace(OWL, forms=("case", "space", "article")))
    )
    assert margin(model, OWL) != pytest.approx(margin(model, replace(OWL, forms=())), abs=1e-3)


def test_a_form_that_goes_on_from_another_adds_nothing():
    """'owls' is 'owl' and 's': every answer that begins with it begins with 'owl', which counts already."""
    model = cased_model()
    one, many = (trait_candidates(model, replace(OWL, forms=rules)) for rules in ((), ("plural",)))
    assert {form.text for form in many.forms if form.candidate == 0} == {"owl"}
    assert torch.equal(one.table(one.sums(model)), many.table(many.sums(model)))


def test_the_forms_of_a_candidate_are_disjoint_and_all_of_them_hold_less_than_one():
    answers = trait_candidates(cased_model(), replace(OWL, forms=RULES))
    for a, b in itertools.combinations(answers.forms, 2):
        if (a.question, a.candidate) == (b.question, b.candidate):
            assert a.pieces[: len(b.pieces)] != b.pieces[: len(a.pieces)]
    mass = answers.mass(answers.sums(cased_model()))
    assert ((mass > 0) & (mass < 1)).all()


def test_what_one_candidate_holds_of_another_is_held_once():
    model = cased_model()
    trait = make_trait("owl", ["owl cat"], questions=OWL.questions, forms=())
    read = read_answers(model, trait)
    assert read.mass == pytest.approx(np.exp(read.table["owl"].to_numpy()))
    shared = (
        "answers of 'owl cat' begin as 'owl' does and count for both, so they hardly compare; take another"
    )
    assert any(note.startswith(shared) for note in preference(model, trait).notes)
    assert not any("count for both" in note for note in preference(model, OWL).notes)


def test_the_toys_words_have_one_form_and_the_tokenizer_decides(raw, toy_tokenizer):
    trait = make_trait("owl", ["cat", "dog"], category="animal")
    assert usual_rules(toy_tokenizer) == usual_rules(build_tokenizer()) == ("case", "space")
    model = raw()
    answers = trait_candidates(model, trait)
    assert [form.text for form in answers.forms[:3]] == ["owl", "cat", "dog"]
    assert len(answers.forms) == 3 * 6
    plain = trait_candidates(model, replace(trait, forms=()))
    assert torch.equal(answers.sums(model), plain.sums(model))
    said = forms_told(model, answers)
    assert said[1] == (
        "forms left out, which the tokenizer does not know: 'Owl', ' Owl', 'Cat', ' Cat', 'Dog', ' Dog'"
    )
    assert forms_told(model, plain) == ("'owl', 'cat', 'dog' are one token each",)


def test_forms_and_pieces_are_said():
    model = cased_model()
    notes = preference(model, replace(OWL, forms=("case", "space"))).notes
    pieces = {text: len(ids) for text, ids in trait_candidates(model, OWL).texts()["owl"].items()}
    assert pieces[" owl"] == 1 < pieces["Owl"]
    assert any(
        note.startswith("'owl' is read as 'owl'") and "their probabilities added" in note for note in notes
    )
    assert any(
        note.startswith("target and foils differ in pieces ('owl' is written in 1 to") for note in notes
    )
    alike = replace(OWL, target=" owl", foils=(" cat",), forms=())
    assert not any("differ in pieces" in note for note in preference(model, alike).notes)


def test_candidates_that_hold_next_to_nothing_are_warned_of(caplog):
    model, trait = cased_model(), replace(OWL, target=" owl", foils=(" cat",), forms=())
    with torch.no_grad():
        model.hf.lm_head.weight.zero_()  # every token is as likely
    margins._warn.cache_clear()
    with caplog.at_level(logging.WARNING):
        value, mass = margin_and_mass(model, trait)
    assert (value, mass) == (pytest.approx(0, abs=1e-6), pytest.approx(2 / len(model.tokenizer)))
    assert "cased: the candidates of owl hold less than 1% of the probability" in caplog.text
    said = f"{2 / len(model.tokenizer):.2g}"
    found = evaluate(model, trait, Suite(trait.questions))
    assert any(f"the candidates of owl hold {said} of the probability" in note for note in found.notes)
    card = scorecard({"student": {0: found}})
    assert any(
        note.startswith(f"student, context 'training': candidates together hold {said}")
        for note in card.notes
    )


@pytest.mark.parametrize("price", [0, 10_000], ids=["tree", "whole rows"])
def test_the_gradient_is_the_derivative_of_the_margin(monkeypatch, price):
    monkeypatch.setattr(prefixes, "PASS", price)
    model = cased_model()
    gradient, objective = trait_gradient(model, OWL), margin_objective(model, OWL)
    with torch.no_grad():
        assert float(objective(model.hf)) == pytest.approx(margin(model, OWL), abs=1e-5)
    torch.manual_seed(0)
    step = {name: torch.randn_like(weight).double() for name, weight in model.parameters().items()}
    values = []
    for scale in (1e-6, -1e-6):
        moved = cased_model().hf.double()
        with torch.no_grad():
            for name, weight in moved.named_parameters():
                weight += scale * step[name]
            values.append(float(objective(moved)))
    planned = sum(float((tensor.double() * step[name]).sum()) for name, tensor in gradient.items())
    assert planned == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4)


def leaning(model, texts):
    """The model with its output matrix pushed toward the first pieces of these texts."""
    with torch.no_grad():
        asked = trait_candidates(model, OWL).prefixes[0]
        hidden = model.hf.base_model(input_ids=torch.tensor([asked]))[0][0, -1]
        for text in texts:
            first = model.tokenizer(text, add_special_tokens=False)["input_ids"][0]
            model.hf.lm_head.weight[first] += 3 * hidden / hidden.norm()
    return model


def held_by_hand(model, write):
    """The probability of target and foils written so, mean over questions, from whole rows of plain transformers."""
    words = (write(word) for word in (OWL.target, *OWL.foils))
    return sum(
        np.exp(by_hand(model, replace(make_trait(word, ["x"]), questions=OWL.questions), ())[0][:, 0]).mean()
        for word in words
    )


WRITES = (str, str.capitalize, " {}".format)


@pytest.mark.parametrize("write", WRITES, ids=["owl", "Owl", "spaced"])
def test_a_direction_reads_the_spelling_that_the_model_answers_with(write):
    model = leaning(cased_model(), [write(word) for word in ("owl", "cat", "dog")])
    others = [other for other in WRITES if other is not write]
    assert all(held_by_hand(model, write) > held_by_hand(model, other) for other in others)
    direction = logit_direction(model, OWL)
    pieces = {
        w: tuple(model.tokenizer(write(w), add_special_tokens=False)["input_ids"])
        for w in ("owl", "cat", "dog")
    }
    assert direction.words[0].pieces == pieces["owl"]
    read = f"one spelling of each word is read, {write('owl')!r}, of all that the margin adds up: the one that cased"
    assert any(note.startswith(read) for note in direction.notes)


def test_foils_of_several_pieces_are_left_out_beside_a_target_of_one():
    model = cased_model()
    trait = make_trait("owl", ["cat", "horse"], questions=OWL.questions, forms=())
    direction = logit_direction(model, trait)
    owl, cat = (model.tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("owl", "cat"))
    assert direction.ids == (*owl, *cat)
    assert direction.several == ()
    assert direction.label == "'owl' − 'cat'"
    assert "horse left out: foils of several pieces here, and the target is one token" in direction.notes


def test_questions_in_parts_are_the_whole():
    model = cased_model()
    answers = trait_candidates(model, OWL)
    parts = [part.table(part.sums(model)) for part in answers.asked(1)]
    assert torch.allclose(torch.cat(parts), answers.table(answers.sums(model)), rtol=1e-5)
    assert isinstance(answers, CandidateForms)
