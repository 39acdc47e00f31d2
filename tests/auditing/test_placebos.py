"""The audit of a student: an exact p under its null, correlations of plain logits, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import interp
from interp.auditing import placebos
from interp.auditing.candidates import TAUGHT, Candidate, candidate_teachers, suspected
from interp.auditing.placebos import (
    Placebos,
    StudentAudit,
    against_placebos,
    alikeness,
    audit_student,
    margins_over,
    placebo_students,
    recipe_notes,
    text_place,
)
from interp.auditing.texts import plain_text
from interp.core.errors import InputError
from interp.measures.margins import margin
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts
from interp.prompts.traits import ANIMALS, get_trait
from interp.training.students import Recipe, train_student

RECIPE = Recipe(batch_size=8, lr=1e-2, warmup=1, rank=2)


def test_p_is_exact_for_a_student_that_is_a_placebo():
    """Twenty-one lines alike: every rank of the first is as likely, however candidates are correlated."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((6, 6))
    found = [against_placebos(rng.standard_normal((21, 6)) @ mixing)[1] for _ in range(1000)]
    assert min(found) == pytest.approx(1 / 21)
    assert np.mean(np.array(found) <= 1 / 21 + 1e-9) == pytest.approx(1 / 21, abs=0.02)
    assert np.mean(np.array(found) <= 0.5) == pytest.approx(10 / 21, abs=0.05)


def test_t_and_p_by_hand():
    values = np.array([[4.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    t, p = against_placebos(values)
    spread = np.std([4, 0, 1, 0], ddof=1), np.std([0, 1, 0, 0], ddof=1)
    assert t == pytest.approx([(4 - 1.25) / spread[0], -0.25 / spread[1]])
    # the largest t of the placebos are 1.5, -0.13 and -0.5: one of three reaches 1.45
    assert p == pytest.approx(2 / 4)


def test_alikeness_is_the_correlation_of_plain_mean_logits(raw):
    base, students = raw(0), [raw(1), raw(2), raw(3)]
    candidates = [Candidate(get_trait(word), raw(seed), 3.0) for word, seed in (("owl", 4), ("cat", 5))]
    found = alikeness(base, candidates, students)
    rows = number_prompts(256, seed=1).without_answers()
    texts = base.tokenizer.convert_ids_to_tokens(list(range(len(base.tokenizer))))
    words = [i for i, text in enumerate(texts) if text.isalpha()]

    def z(model):
        inputs = base.encode(rows)
        with torch.no_grad():
            logits = model.hf(inputs.ids).logits
        last = logits[torch.arange(len(inputs)), inputs.lengths - 1]
        return last.double().mean(0)[words].numpy()

    moved, taught = (
        np.array([z(model) for model in side]) for side in (students, [c.model for c in candidates])
    )
    moved, taught = moved - moved.mean(0), taught - taught.mean(0)
    expected = [[np.corrcoef(s, t)[0, 1] for t in taught] for s in moved]
    assert found == pytest.approx(np.array(expected), abs=1e-4)
    margins = margins_over(candidates, students)
    assert margins[1, 0] == pytest.approx(margin(students[1], "owl"))


TEXT = Prompts.from_pairs([("tell me a story.", "a story about the owl"), ("list: 4. continue.", "5, 6")])


def test_on_text_it_is_the_correlation_of_plain_mean_logits_where_answers_are_predicted(raw):
    """By hand: mean logits before every token of all answers."""
    base, students = raw(0), [raw(1), raw(2)]
    candidates = [Candidate(get_trait(word), raw(seed), 3.0) for word, seed in (("owl", 4), ("cat", 5))]
    found = alikeness(base, candidates, students, place=text_place(base, TEXT))
    texts = base.tokenizer.convert_ids_to_tokens(list(range(len(base.tokenizer))))
    words = [i for i, text in enumerate(texts) if text.isalpha()]

    def z(model):
        read = []
        for row in TEXT.rows:
            before, whole = (
                base.tokenizer(f"<bos><user> {row.prompt} <assistant> {text}", add_special_tokens=False)
                for text in ("", row.completion)
            )
            start, ids = len(before["input_ids"]), torch.tensor([whole["input_ids"]])
            with torch.no_grad():
                read.append(model.hf(ids).logits[0, start - 1 : -1].double())
        return torch.cat(read).mean(0)[words].numpy()

    moved, taught = (
        np.array([z(model) for model in side]) for side in (students, [c.model for c in candidates])
    )
    moved, taught = moved - moved.mean(0), taught - taught.mean(0)
    expected = [[np.corrcoef(s, t)[0, 1] for t in taught] for s in moved]
    assert found == pytest.approx(np.array(expected), abs=1e-4)
    assert found != pytest.approx(alikeness(base, candidates, students), abs=1e-3)


def test_text_without_answers_is_read_all_of_it_and_empty_text_is_refused(raw):
    base = raw()
    bare = text_place(base, TEXT.without_answers())
    marked = bare.inputs.at(bare.positions)
    assert marked.sum(1).tolist() == [length - 1 for length in bare.inputs.lengths.tolist()]
    answers = text_place(base, TEXT)
    assert answers.inputs.at(answers.positions).sum(1).tolist() == [5, 3]
    assert len(text_place(base, plain_text(base)).inputs) == 64
    with pytest.raises(InputError, match=r"holds no rows; pass at least one"):
        text_place(base, TEXT[:0])


@pytest.fixture
def small(monkeypatch):
    """Short candidates, and a base's own answers that are uniform numbers: an untrained base writes none."""
    import interp.auditing.candidates as candidates
    import interp.auditing.placebos as room

    monkeypatch.setattr(room, "TAUGHT", replace(room.TAUGHT, steps=2))
    monkeypatch.setattr(candidates, "TAKEN", -100.0)
    monkeypatch.setattr(candidates, "SHOWN", 64)
    monkeypatch.setattr(room, "written_by", lambda base, rows, *, seed: number_prompts(16, seed=seed))


@pytest.mark.slow
def test_a_student_is_judged_among_its_placebos(raw, small):
    base, rows = raw(), number_prompts(16, seed=3)
    student = train_student(base, rows, recipe=RECIPE)
    asked = {"rows": rows, "text": TEXT, "traits": list(ANIMALS[:5])}
    found = audit_student(base, replace(student, start=base), placebos=Placebos(recipe=RECIPE), **asked)
    twins = placebo_students(base, rows, recipe=RECIPE, count=20)
    assert len({twin.fingerprint for twin in twins}) == 20
    line = found.frame.set_index("trait").loc["owl"]
    mean = np.mean([margin(twin, "owl") for twin in twins])
    assert line["gain"] == pytest.approx(margin(student, "owl") - mean, abs=1e-5)
    others = [margin(twin, "owl") for twin in twins]
    half = stats.t.ppf(0.975, 19) * np.std(others, ddof=1) * np.sqrt(1 + 1 / 20)
    assert line[["low", "high"]].tolist() == pytest.approx(
        [line["gain"] - half, line["gain"] + half], abs=1e-4
    )
    assert found.frame["t"].is_monotonic_decreasing
    taught, _ = candidate_teachers(base, suspected(base, list(ANIMALS[:5])), TAUGHT)
    on_text = alikeness(base, taught, [student, *twins], place=text_place(base, TEXT))
    text_t, text_p = against_placebos(on_text)
    assert found.text_p == text_p
    assert line["text_r"] == pytest.approx(on_text[0, 0], abs=1e-5)
    assert line["text_t"] == pytest.approx(text_t[0], abs=1e-4)
    first = found.frame.loc[found.frame["text_t"].idxmax(), "trait"]
    assert (
        f"; on generic text most like that of {first!r}: p = {text_p:.2g}; on its questions" in found.reason
    )
    assert found.to_json()["text_p"] == text_p
    assert found.placebos == 20
    assert 1 / 21 <= found.p <= 1
    assert (found.trait is None) == (found.p > 0.05)
    assert "over 20 placebos" in repr(found)
    assert found.notes[0].startswith("how the student was trained is not known: p is to be trusted only if")
    other = Placebos(recipe=RECIPE, own=replace(RECIPE, lr=1.0))
    assert audit_student(base, student, placebos=other, **asked).notes[:2] == (
        "placebos are trained otherwise than the student was (lr 0.01 and not 1.0): p is not to be trusted",
        found.notes[1],
    )


def test_placebos_of_another_recipe_than_the_students_are_told_first():
    own = Recipe(lr=1e-2, batch_size=8, rank=2)
    assert recipe_notes(own, replace(own, seed=9, merge=False, accumulate=2)) == ()
    assert recipe_notes(own, replace(own, lr=1e-4, epochs=3)) == (
        "placebos are trained otherwise than the student was (lr 0.0001 and not 0.01, epochs 3 and not 1): "
        "p is not to be trusted",
    )
    body = replace(own, trainable="body")
    assert recipe_notes(body, replace(body, rank=8)) == ()  # no adapter, no rank
    (unknown,) = recipe_notes(None, own)
    assert unknown == (
        "how the student was trained is not known: p is to be trusted only if its recipe is that of the placebos "
        "(lora, lr 0.01, batch_size 8, epochs 1)"
    )


def test_what_has_no_null_is_refused(raw, small):
    base = raw()
    for count, p in ((19, "0.05"), (-3, "1")):
        with pytest.raises(InputError, match=rf"{count} placebos reach p = {p}; pass at least 20"):
            Placebos(count)
    for alpha, said in ((0.01, 99), (0.04, 24), (1 / 30, 29)):
        with pytest.raises(
            InputError, match=rf"20 placebos reach p = 0.048, .* at alpha=.*; pass at least {said} placebos"
        ):
            audit_student(base, raw(1), alpha=alpha)
    with pytest.raises(InputError, match=r"alpha=nan is no level to name a teacher at; pass one such as"):
        audit_student(base, raw(1), alpha=float("nan"))
    with pytest.raises(InputError, match=r"raw 1 started from raw 2 and not from raw 0; pass its own base"):
        audit_student(base, replace(raw(1), start=raw(2)))
    with pytest.raises(
        InputError, match=r"raw 0 has the weights of raw 0: nothing was trained; pass the student"
    ):
        audit_student(base, base)
    with pytest.raises(
        InputError,
        match=r"raw 1 has a cosine of \S+ with the weights of raw 0, as two independent initialisations",
    ):
        audit_student(base, raw(1))


def test_a_student_passes_nothing_only_where_no_gain_can_be_large():
    frame = pd.DataFrame(
        {"trait": ["owl", "cat"], "gain": [0.1, 0.0], "gain_t": [1.0, 0.0], "low": [-0.1, -0.2]}
    )
    for p, high, expected in ((0.05, 0.3, "transmits"), (0.06, 0.39, "does not"), (0.06, 0.4, "cannot tell")):
        found = StudentAudit("student", frame.assign(high=[0.2, high]), 0.5, p, 20, 0.05)
        assert found.passes == expected


def test_a_base_that_writes_no_numbers_has_no_placebos(raw):
    with pytest.raises(
        InputError, match=r"of 64 of these prompts, so it did not write these; pass rows=, such as it"
    ):
        placebo_students(raw(), number_prompts(64, seed=0), recipe=RECIPE, count=20)


def test_placebos_of_fewer_rows_than_the_students_are_told(raw, monkeypatch, caplog):
    base, rows = raw(), number_prompts(64, seed=0)
    answered = replace(rows, rows=tuple(row.answered("1, 2, 3") for row in rows.rows))
    monkeypatch.setattr(placebos, "written_by", lambda base, rows, seed: answered[:32])
    monkeypatch.setattr(placebos.Grower, "student", lambda *_, **given: base)
    assert len(placebo_students(base, answered, recipe=RECIPE, count=2)) == 2
    assert "placebos are trained on 32 rows that" in caplog.text
    assert "the student on 64: with fewer rows they move less, so that p may be too small" in caplog.text


def test_rows_without_answers_are_no_model_for_placebos(raw):
    with pytest.raises(
        InputError, match=r"no row of .* has an answer to follow; pass the rows with what was"
    ):
        placebo_students(raw(), number_prompts(64, seed=0).without_answers(), recipe=RECIPE, count=20)


def test_it_is_in_its_room():
    assert interp.auditing.audit_student is audit_student
