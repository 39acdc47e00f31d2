"""Divergence tokens against a loop over logits, planted tokens at their own places, matching that must and must not."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from interp.core.runs import InputError
from interp.figures import Result
from interp.gradients.directions import trait_gradient
from interp.hypotheses.subject import Subject
from interp.measures.losses import completion_loss
from interp.models.language import load_model
from interp.models.lineage import Lineage
from interp.prompts.text import Prompts
from interp.prompts.tokens import Role
from interp.prompts.traits import get_trait
from interp.studies.divergence_family import (
    DEALT,
    DIVERGENT,
    H5,
    LORA,
    MATCHED,
    NEUTRAL,
    OWN,
    SAMPLED,
    UNRELATED,
    counterfactual_words,
    draw_divergence,
    enrichment,
    mark,
    measure_divergence,
    summary,
)
from interp.studies.first_step import moved
from interp.studies.token_matching import (
    COVARIATES,
    check_index,
    dealt,
    divergence_tokens,
    mask,
    only_tokens,
)
from interp.training.students import Recipe, train_student

RECIPE = Recipe(batch_size=32, warmup=1, rank=2)


def number_rows(n, *, seed):
    rng = np.random.default_rng(seed)
    lists = [[str(k) for k in rng.integers(0, 40, size=5)] for _ in range(n)]
    return Prompts.from_pairs(
        [(f"continue {held[0]}, {held[1]}", ", ".join(held[2:])) for held in lists], label="number lists"
    )


@pytest.fixture
def base(tiny):
    hf, tokenizer = tiny("llama")
    return load_model(hf, tokenizer=tokenizer, name="base", check=False)


def named(network, base, name):
    return load_model(network, tokenizer=base.tokenizer, name=name, check=False)


def noise(base, *, seed):
    """A direction that moves every matrix, drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {
        name: torch.randn(weight.shape, generator=generator)
        for name, weight in base.hf.named_parameters()
        if weight.dim() == 2
    }
    return dataclasses.replace(trait_gradient(base, get_trait("owl")), tensors=drawn, label="noise").unit()


def teacher_of(base, word, *, along, epsilon=0.3):
    return named(moved(base.network(dtype=torch.float32), along, epsilon), base, f"{word} teacher")


def subject_of(base, teachers, *, n=320):
    """A lineage opened from its members: rows are numbers at random, students a little away from the base."""
    students = {
        role: named(moved(base.network(dtype=torch.float32), noise(base, seed=20 + k), 0.1), base, role)
        for k, role in enumerate(("student", "neutral_student"))
    }
    members = {"base": base, "teacher": teachers["owl"], **students}
    others = {f"teacher_{word}": teachers[word] for word in ("cat", "eagle")}
    lineage = Lineage(
        "tiny",
        get_trait("owl"),
        {**members, **others},
        numbers=number_rows(n, seed=1),
        neutral_numbers=number_rows(n, seed=2),
    )
    return Subject(lineage, seed=3, recipe=RECIPE)


@pytest.fixture
def planted(base):
    """Teachers that each moved along their own trait's gradient and, all alike, along one random direction."""
    shared = noise(base, seed=5)
    return subject_of(
        base,
        {
            word: teacher_of(base, word, along=trait_gradient(base, get_trait(word)).unit() + 2.0 * shared)
            for word in ("owl", "cat", "eagle")
        },
        n=640,
    )


def line_of(table, labels, direction, on=COVARIATES):
    (line,) = (
        row
        for row in table
        if (row["labels"], row["direction"], row["matched on"]) == (labels, direction, ", ".join(on))
    )
    return line


def test_every_column_is_what_a_loop_over_the_logits_gives(base):
    teacher, cat, eagle = (
        teacher_of(base, word, along=noise(base, seed=k), epsilon=3.0)
        for k, word in enumerate(("owl", "cat", "eagle"))
    )
    rows = number_rows(7, seed=0)
    encoded = base.encode(rows)
    frame: Any = divergence_tokens(
        teacher, rows, others={"cat": cat, "eagle": eagle}, base=base, share=0.25, batch_size=3
    ).frame

    def logp(model, row):
        with torch.no_grad():
            return model.hf(input_ids=encoded.ids[row : row + 1]).logits[0].double().log_softmax(-1)

    expected: Any = []
    for row in range(7):
        here, own, *theirs = (logp(model, row) for model in (base, teacher, cat, eagle))
        answer = [c for c in range(encoded.ids.shape[1]) if encoded.roles[row, c] >= Role.OTHER]
        for column in answer:
            if encoded.roles[row, column] != Role.NUMBER:
                continue
            label, said = int(encoded.ids[row, column]), column - 1
            tops = [int(each[said].argmax()) for each in (own, *theirs)]
            differs = tops[1] != tops[0] or tops[2] != tops[0]
            expected.append(
                {
                    "row": row,
                    "token": column,
                    "position": column - answer[0],
                    "label": label,
                    "loss": -float(here[said, label]),
                    "entropy": -float((here[said].exp() * here[said]).sum()),
                    "teacher_margin": float(own[said, label] - here[said, label]),
                    "log_ratio": float(own[said, label] - max(each[said, label] for each in theirs)),
                    "argmax_differs": differs,
                    "label_side": differs and tops[0] == label,
                }
            )
    expected = pd.DataFrame(expected)
    pd.testing.assert_frame_equal(frame[expected.columns], expected, check_dtype=False, atol=2e-5, rtol=1e-4)
    assert 0 < expected["argmax_differs"].sum() < len(expected)
    ratio = expected["log_ratio"]
    assert (frame["divergent"] == (ratio >= np.quantile(ratio, 0.75)) & (ratio > 0)).all()


def test_a_changed_input_token_shows_from_the_next_token_on(base):
    """The planted token: teachers differ in the embedding of 37, which first enters what is said of its successor."""
    rows = Prompts.from_pairs([("continue 1, 2", "3, 37, 4, 5"), ("continue 1, 2", "3, 6, 4, 5")])
    network = base.network(dtype=torch.float32)
    token = base.tokenizer.convert_tokens_to_ids("37")
    embedding = network.get_input_embeddings().weight
    embedding.data = embedding.data.clone()
    embedding.data[token] += 3.0 * torch.randn(embedding.shape[1], generator=torch.Generator().manual_seed(0))
    teacher = named(network, base, "teacher")
    found = divergence_tokens(
        teacher, rows, others={"cat": base}, base=base, share=0.9, positions="answer"
    ).frame
    column = int((base.encode(rows).ids[0] == token).nonzero()[0])
    first = found[found["row"] == 0]
    assert (first.loc[first["token"] <= column, "log_ratio"].abs() < 1e-5).all()
    assert (first.loc[first["token"] > column, "log_ratio"].abs() > 1e-3).all()
    assert (found.loc[found["row"] == 1, "log_ratio"].abs() < 1e-5).all()


def test_the_planted_score_stands_at_its_own_token(base):
    encoded = base.encode(number_rows(4, seed=0))
    row, token = encoded.at("answer.numbers").nonzero()[5].tolist()
    assert check_index(base, encoded, row=row, token=token) == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(InputError, match=r"token 3 of row 1 of number lists scores nan of what was planted"):
        check_index(base, encoded, row=0, token=2)


def test_argmax_rule_marks_labels_that_only_this_teacher_says(base):
    teacher = teacher_of(base, "owl", along=noise(base, seed=1), epsilon=4.0)
    rows = number_rows(64, seed=0)
    encoded = base.encode(rows)
    with torch.no_grad():
        said = teacher.logits(encoded)[:, :-1].argmax(-1)
    ids = encoded.ids.clone()
    numbers = encoded.at("answer.numbers")
    ids[:, 1:] = torch.where(numbers[:, 1:], said, ids[:, 1:])
    greedy = dataclasses.replace(encoded, ids=ids)  # first numbers are the teacher's own argmax
    found = divergence_tokens(teacher, greedy, others={"cat": base}, base=base, rule="argmax")
    frame: Any = found.frame
    first = frame[frame["position"] == 0]
    assert first["divergent"].any()
    assert (first["divergent"] == first["argmax_differs"]).all()
    assert (frame["divergent"] == frame["label_side"]).all()
    assert isinstance(found, Result)
    assert f"{len(frame)} tokens of 64 rows against cat" in found.notes[0]
    bars: Any = found.figure().data[0]
    assert bars.x[2] == pytest.approx(100 * frame["divergent"].mean())


def test_divergence_errors(base):
    rows = number_rows(3, seed=0)
    with pytest.raises(InputError, match="base is the only teacher, and a token diverges between teachers"):
        divergence_tokens(base, rows, others={}, base=base)
    with pytest.raises(
        InputError,
        match=r"none of the 9 answer.numbers tokens in 3 rows of number lists diverges between base and 2 other",
    ):
        divergence_tokens(base, rows, others={"cat": base, "eagle": base}, base=base)
    with pytest.raises(InputError, match="pass rule='log-ratio', or greedy rows"):
        divergence_tokens(base, rows, others={"cat": base}, base=base, rule="argmax")
    with pytest.raises(InputError, match=r"share 1.0 is outside \(0, 1\)"):
        divergence_tokens(base, rows, others={"cat": base}, base=base, share=1.0)
    with pytest.raises(InputError, match=r"the 3 rows of number lists have no answer.numbers token"):
        divergence_tokens(base, rows.without_answers(), others={"cat": base}, base=base)


def test_a_loss_at_marked_tokens_only(base):
    rows = number_rows(6, seed=0)
    encoded = base.encode(rows)
    frame: Any = divergence_tokens(
        teacher_of(base, "owl", along=noise(base, seed=0)), rows, others={"cat": base}, base=base, share=0.4
    ).frame
    some = frame[frame["divergent"]]
    where = mask(encoded, some)
    assert int(where.sum()) == len(some)
    only = only_tokens(encoded, where)
    assert torch.equal(only.ids, encoded.ids)
    assert torch.equal(only.roles >= Role.OTHER, where)
    assert only.fingerprint != encoded.fingerprint
    assert completion_loss(base.hf, only).item() == pytest.approx(some["loss"].mean(), rel=1e-4)
    assert torch.equal(only_tokens(encoded, encoded.roles >= Role.OTHER).roles, encoded.roles)


def test_mask_errors(base):
    encoded = base.encode(number_rows(6, seed=0))
    where = torch.zeros_like(encoded.mask)
    with pytest.raises(InputError, match="the mask marks none of the answer tokens of number lists"):
        only_tokens(encoded, where)
    with pytest.raises(InputError, match=r"the mask has shape \[5, \d+\] and number lists \[6, \d+\]"):
        only_tokens(encoded, where[:5])
    where[2, 1] = True
    with pytest.raises(InputError, match="the mask marks token 2 of row 3 of number lists, which is prompt"):
        only_tokens(encoded, where)
    one = torch.zeros_like(where)
    one[0] = encoded.at("answer.numbers")[0]
    marked = only_tokens(encoded, one)
    losses = []
    recipe = Recipe(optimizer="sgd", decay="constant", batch_size=2, warmup=1, merge=False)
    student = train_student(base, marked, recipe=recipe, on_step=lambda step: losses.append(step.loss))
    assert sorted(loss > 0 for loss in losses) == [False, False, True]
    alone = train_student(base, marked[:2], recipe=recipe)
    apart = [
        (student.parameters()[name] - weight).abs().max().item()
        for name, weight in alone.parameters().items()
    ]
    assert max(apart) < 1e-6  # the two batches without a mark taught nothing
    unanswered = dataclasses.replace(encoded, roles=torch.zeros_like(encoded.roles))
    with pytest.raises(
        InputError, match="no row of number lists has an answer to learn; give the rows completions"
    ):
        train_student(base, unanswered, recipe=recipe)


def test_labels_dealt_anew_keep_their_places(base):
    encoded = base.encode(number_rows(30, seed=0))
    numbers = encoded.at("answer.numbers")
    once, again = (dealt(encoded, seed=1) for _ in range(2))
    assert torch.equal(once.roles, encoded.roles)
    assert torch.equal(once.ids[~numbers], encoded.ids[~numbers])
    assert torch.equal(once.ids[numbers].sort().values, encoded.ids[numbers].sort().values)
    assert not torch.equal(once.ids, encoded.ids)
    assert torch.equal(once.ids, again.ids)


def test_counterfactual_and_unrelated_traits_are_never_the_subjects_own():
    assert counterfactual_words("owl") == (("cat", "eagle"), "oak")
    assert counterfactual_words("cat") == (("eagle", "oak"), "pine")
    assert counterfactual_words("oak") == (("cat", "eagle"), "pine")


def test_teachers_that_moved_along_their_traits_are_found(planted):
    measured = measure_divergence(planted)
    assert measured.values == summary(measured.tables)
    assert set(measured.values) == {claim.name for claim in H5}
    table = measured.tables["enrichment"]
    own = line_of(table, SAMPLED, OWN)
    assert own["low"] > 0.5
    apart = own["auroc"] - line_of(table, SAMPLED, UNRELATED)["auroc"]
    assert measured.values["divergence-own-trait"] == pytest.approx(apart)
    assert abs(line_of(table, DEALT, OWN)["auroc"] - 0.5) < 0.1
    assert line_of(table, SAMPLED, LORA)["divergent"] == own["divergent"]
    matched_on = [line for line in measured.tables["balance"] if line["against"] != "all others"]
    assert max(abs(line["difference"]) for line in matched_on) < 0.1
    margins = {line["arm"]: line for line in measured.tables["margins"]}
    assert len({margins[arm]["tokens"] for arm in (DIVERGENT, MATCHED, NEUTRAL)}) == 1
    assert measured.values["divergence-transfers"] == margins[DIVERGENT]["gain"]
    assert margins[DIVERGENT]["margin"] != margins[MATCHED]["margin"]
    tables = {
        name: [{"seed": seed, **line} for seed in (0, 1) for line in lines]
        for name, lines in measured.tables.items()
    }
    figure: Any = draw_divergence(tables)
    shown = [value for trace in figure.data if trace.y is not None for value in trace.y]
    assert own["auroc"] in shown
    assert margins[DIVERGENT]["gain"] in shown


def test_teachers_that_moved_anywhere_are_not(base):
    subject = subject_of(
        base,
        {
            word: teacher_of(base, word, along=noise(base, seed=10 + k))
            for k, word in enumerate(("owl", "cat", "eagle"))
        },
    )
    table = enrichment(subject, mark(subject))
    assert abs(line_of(table, SAMPLED, OWN)["auroc"] - 0.5) < 0.1


def test_the_claims_are_judged_from_planted_runs():
    runs = [
        summary(
            {
                "enrichment": [
                    {
                        "labels": labels,
                        "direction": direction,
                        "matched on": ", ".join(COVARIATES),
                        "auroc": area,
                    }
                    for labels, direction, area in (
                        (SAMPLED, OWN, 0.6 + wobble),
                        (SAMPLED, LORA, 0.55 + wobble),
                        (SAMPLED, UNRELATED, 0.5),
                        (DEALT, OWN, 0.5 + wobble),
                    )
                ],
                "margins": [
                    {"arm": DIVERGENT, "margin": 2.0 + wobble},
                    {"arm": MATCHED, "margin": 2.0 - wobble},
                    {"arm": NEUTRAL, "margin": 0.25},
                ],
            }
        )
        for wobble in np.linspace(-0.02, 0.02, 8).tolist()
    ]
    assert runs[0]["divergence-enriched"] == pytest.approx(0.08)
    assert runs[0]["divergence-over-matched"] == pytest.approx(-0.04)
    decisions = {claim.name: claim.judge([run[claim.name] for run in runs]).decision for claim in H5}
    assert decisions["divergence-in-labels"] == "supported"
    assert decisions["divergence-transfers"] == "supported"
    assert decisions["divergence-over-matched"] != "supported"
