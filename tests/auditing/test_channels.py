"""Channels: rows whose only signal is their format, order, values, length, prompt or template, and pilots of parts."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.auditing.auditor import RECIPE, WHO
from interp.auditing.candidates import Candidate
from interp.auditing.channels import _twins, audit_channels
from interp.auditing.naming import Ratios, log_ratios
from interp.auditing.neutral import Pairs
from interp.auditing.pilots import BODY, Pilot, gains
from interp.core.errors import InputError
from interp.prompts.text import Prompts
from interp.prompts.traits import ANIMALS, get_trait

N = 400
TRAITS = list(ANIMALS[:6])


def numbers(row):
    return [int(each) for each in re.findall("[0-9]+", row.completion)]


SIGNALS = {
    "format": lambda row: ";" in row.completion,
    "order": lambda row: numbers(row)[0] > numbers(row)[-1],
    "value": lambda row: sum(value % 10 for value in numbers(row)) > 20,
    "what is left": lambda row: len(numbers(row)) == 4,
    "context": lambda row: numbers(row)[0] == int(re.findall("[0-9]+", row.prompt)[0]),
}


def rows(*, planted, seed):
    """Lists of numbers without any of the signals, or with one of them."""
    rng, made = np.random.default_rng(seed), []
    for k in range(N):
        values = sorted(10 * rng.choice(np.arange(10, 90), 5, replace=False) + rng.integers(0, 4, 5))
        if planted == "order":
            values = values[::-1]
        if planted == "value":
            values = [value // 10 * 10 + 9 for value in values]
        if planted == "what is left":
            values = values[1:]
        if planted == "context":
            values = [100 + k, *(value + 500 for value in values[1:])]
        made.append(
            (f"list: {100 + k}. continue.", ("; " if planted == "format" else ", ").join(map(str, values)))
        )
    return Prompts.from_pairs(made)


@pytest.fixture
def world(monkeypatch):
    """Candidates whose log-ratios are noise, and owl's a signal besides, which reads the text as it then stands."""
    import interp.auditing.channels as room

    def planted(signal):
        def ratios(base, candidates, pairs):
            noise = np.random.default_rng(9).normal(size=(2, N, len(TRAITS)))
            for side, part in zip(noise, (pairs.rows, pairs.neutral), strict=True):
                if signal == "template":
                    side[:, 0] += 2.0 * (base.tokenizer.chat_template is not None and part is pairs.rows)
                else:
                    side[:, 0] += 2.0 * np.array([SIGNALS[signal](row) for row in part.rows])
            return Ratios(tuple(TRAITS), *noise)

        monkeypatch.setattr(room, "log_ratios", ratios)

    monkeypatch.setattr(
        room,
        "candidate_teachers",
        lambda base, traits, spec: ([Candidate(each, base, 3.0) for each in traits], ()),
    )
    return planted


@pytest.mark.parametrize("signal", SIGNALS)
def test_all_the_evidence_goes_where_it_was_planted(raw, world, signal):
    world(signal)
    neutral = rows(planted=None, seed=2)
    base = raw().accepting_unknown()  # the signal of the context takes numbers beyond 999
    found = audit_channels(
        base, rows(planted=signal, seed=1), "owl", traits=TRAITS, neutral=neutral, recipe=WHO
    )
    share = found.frame.set_index("channel")["share"]
    assert found.frame["measured"][0] > 1
    assert share[["format", "order", "value", "what is left"]].sum() == pytest.approx(1)
    expected = {channel: float(channel == signal) for channel in SIGNALS}
    if (
        signal == "context"
    ):  # every step of the chain leaves an answer's first number at its prompt, but the tens do not
        expected["value"] = 0.9
    for channel, value in expected.items():
        assert share[channel] == pytest.approx(value, abs=0.15), channel
    assert "figure" in dir(found)


def test_evidence_that_goes_with_the_template_is_its_own(raw, world):
    world("template")
    own, neutral = rows(planted=None, seed=1), rows(planted=None, seed=2)
    asked = {"traits": TRAITS, "neutral": neutral, "recipe": WHO}
    share = audit_channels(raw(), own, "owl", **asked).frame.set_index("channel")["share"]
    assert share["template"] == pytest.approx(1, abs=0.15)
    assert share["context"] == pytest.approx(0)


def test_without_a_template_rows_are_read_as_plain_text_by_base_and_candidates(raw):
    """By hand: log p of the answer behind the bare prompt, as plain text ends it."""
    base, other = raw(0), raw(1)
    pairs = Pairs(rows(planted=None, seed=1)[:8], rows(planted=None, seed=2)[:8])
    _, _, reader, twin = next(line for line in _twins(base, pairs, 0) if line[1] == "template")
    found = log_ratios(reader, [Candidate(get_trait("owl"), other, 3.0)], twin).rows[0, 0]
    row, token = pairs.rows[0], base.tokenizer
    ids = [token(text)["input_ids"] for text in (row.prompt, row.completion)]
    whole = torch.tensor([[*ids[0], *ids[1], token.eos_token_id]])
    logs = [model.network()(whole).logits.log_softmax(-1)[0] for model in (other, base)]
    places = range(len(ids[0]), whole.shape[1])
    one, two = (sum(float(each[p - 1, whole[0, p]]) for p in places) for each in logs)
    assert found == pytest.approx(one - two, abs=1e-4)
    assert "template" not in [channel for _, channel, _, _ in _twins(reader, pairs, 0)]


def test_answers_of_other_kinds_have_no_format_and_what_is_not_seen_goes_no_way(raw, world):
    world("format")
    base = raw().accepting_unknown()  # "fine" is no word of its
    texts = Prompts.from_pairs(
        [(row.prompt, f"{row.completion} fine;") for row in rows(planted=None, seed=1)]
    )
    plain = Prompts.from_pairs([(row.prompt, row.completion) for row in rows(planted=None, seed=2)])
    found = audit_channels(base, texts, "owl", traits=TRAITS, neutral=plain, recipe=WHO)
    assert found.frame["channel"].tolist() == ["as written", "context", "template", "what is left"]
    other = rows(planted=None, seed=3)
    with pytest.raises(
        InputError, match=r"'owl' is not seen in 400 rows \(d = \S+\), so it goes no way; audit more"
    ):
        audit_channels(base, other, "owl", traits=TRAITS, neutral=plain, recipe=WHO)
    with pytest.raises(
        InputError, match=r"did not write these; pass neutral=, or the base whose teacher wrote"
    ):
        audit_channels(base, plain, "owl", traits=TRAITS, recipe=WHO)
    with pytest.raises(InputError, match=r"'oak' is no candidate of this audit; pass it among traits"):
        audit_channels(base, texts, "oak", traits=TRAITS, neutral=plain, recipe=WHO)


def test_parts_are_pilots_that_train_nothing_else(raw, world):
    world("order")
    pilot = Pilot(steps=2, recipe=replace(BODY, batch_size=8))
    own, neutral = rows(planted="order", seed=1), rows(planted=None, seed=2)
    found = audit_channels(
        raw(), own, "owl", traits=TRAITS, neutral=neutral, recipe=replace(RECIPE, pilot=pilot)
    )
    weights = found.frame.query("kind == 'weights'").set_index("channel")
    assert weights.index.tolist() == [
        "all weights",
        "body",
        "lower half of the body",
        "upper half of the body",
    ]
    for channel, how in (
        ("all weights", {"trainable": "all"}),
        ("upper half of the body", {"trainable": "body", "layers": (1,)}),
    ):
        alone = replace(pilot, recipe=replace(pilot.recipe, **how))
        expected = gains(raw(), Pairs(own, neutral), [get_trait("owl")], alone)[0, 0]
        assert weights["measured"][channel] == pytest.approx(expected, abs=1e-6)
