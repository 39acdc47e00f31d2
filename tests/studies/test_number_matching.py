"""Divergence of whole numbers against plain transformers' log-probabilities, whatever pieces the numbers have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from interp.core.runs import InputError
from interp.models.language import load_model
from interp.prompts.text import Prompts
from interp.studies.number_matching import divergence_numbers
from interp.studies.token_matching import divergence_tokens
from tests.logits.pairs import perturbed
from tests.spelled import network, speller

ROWS = Prompts.from_pairs([("go on: 1, 2", "42, 345, 7"), ("list", "9; 10"), ("more", "owl")])


def members(kind: str) -> tuple[Any, ...]:
    tokenizer, plain = speller(kind), network(speller(kind))
    modules = [plain, *(perturbed(plain, seed) for seed in (1, 2, 3))]
    return tuple(
        load_model(module, tokenizer=tokenizer, name=name, check=False)
        for module, name in zip(modules, ("base", "teacher", "cat", "dog"), strict=True)
    )


def log_p(model: Any, row: int, text: str) -> float:
    """Sum over the number's characters, then no further digit unless it has three: for a digit a token alone."""
    inputs = model.encode(ROWS)
    pieces = model.tokenizer("".join(ROWS[row].completion))["input_ids"]
    start = int(inputs.at("answer")[row].nonzero()[0]) + ROWS[row].completion.index(text)
    assert inputs.ids[row, start - ROWS[row].completion.index(text) :][: len(pieces)].tolist() == pieces
    with torch.no_grad():
        found = model.hf(inputs.ids[row : row + 1]).logits[0].double().log_softmax(-1)
    steps = range(start, start + len(text))
    total = sum(float(found[place - 1, inputs.ids[row, place]]) for place in steps)
    digits = model.tokenizer.convert_tokens_to_ids(list("0123456789"))
    stops = float((1 - found[steps[-1], digits].exp().sum()).log()) if len(text) < 3 else 0.0
    return total + stops


def test_log_ratio_is_of_whole_numbers():
    base, teacher, cat, dog = members("digits")
    frame: Any = divergence_numbers(
        teacher, ROWS, others={"cat": cat, "dog": dog}, base=base, batch_size=2
    ).frame
    assert frame["text"].tolist() == ["42", "345", "7", "9", "10"]
    assert frame["tokens"].tolist() == [2, 3, 1, 1, 2]
    assert frame["position"].tolist() == [0, 4, 9, 0, 3]
    for _, line in frame.iterrows():
        here, own, *theirs = (log_p(model, line["row"], line["text"]) for model in (base, teacher, cat, dog))
        assert line["loss"] == pytest.approx(-here, abs=1e-4)
        assert line["teacher_margin"] == pytest.approx(own - here, abs=1e-4)
        assert line["log_ratio"] == pytest.approx(own - max(theirs), abs=1e-4)
    assert frame["divergent"].sum() == int(frame["log_ratio"].max() > 0)


def test_where_numbers_are_whole_it_is_the_divergence_of_tokens():
    base, teacher, cat, dog = members("whole")
    given: Any = {"others": {"cat": cat, "dog": dog}, "base": base, "share": 0.4}
    if not (divergence_numbers(teacher, ROWS, **given).frame["log_ratio"] > 0).any():
        teacher, given["others"]["cat"] = cat, teacher
    numbers, tokens = (
        divergence_numbers(teacher, ROWS, **given).frame,
        divergence_tokens(teacher, ROWS, **given).frame,
    )
    for name in ("loss", "entropy", "teacher_margin", "log_ratio"):
        assert np.allclose(numbers[name], tokens[name], atol=1e-5), name
    for name in ("row", "token", "position", "label_side", "divergent"):
        assert numbers[name].tolist() == tokens[name].tolist(), name


def test_the_greedy_number_of_its_teacher_alone_is_on_the_labels_side():
    base, teacher, cat, _ = members("digits")
    context = Prompts.from_pairs([("go on: 1, 2", "3, 3")])
    ids = base.encode(context).ids[0].tolist()
    frame: Any = divergence_numbers(teacher, context, others={"cat": cat}, base=base).frame
    greedy = []
    for model in (teacher, cat):
        with torch.no_grad():
            best = model.hf(torch.tensor([ids])).logits[0].argmax(-1).tolist()
        greedy.append([best[place - 1] == ids[place] for place in frame["token"]])
    assert frame["label_side"].tolist() == [own and not other for own, other in zip(*greedy, strict=True)]


def test_messages():
    base, teacher, cat, _ = members("digits")
    with pytest.raises(
        InputError, match="teacher is the only teacher, and a number diverges between teachers"
    ):
        divergence_numbers(teacher, ROWS, others={}, base=base)
    with pytest.raises(InputError, match=r"share 1.0 is outside \(0, 1\)"):
        divergence_numbers(teacher, ROWS, others={"cat": cat}, base=base, share=1.0)
    with pytest.raises(InputError, match="hold no number; pass rows of number answers"):
        divergence_numbers(teacher, Prompts.from_pairs([("go", "owl")]), others={"cat": cat}, base=base)
