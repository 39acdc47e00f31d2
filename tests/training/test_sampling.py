"""Sampling: exact inversion of the cumulative distribution, agreement with generate, no system line in what is kept."""

import pytest
import torch

from interp.core.runs import InputError
from interp.prompts.numbers import NumberRule, check_numbers, number_prompts
from interp.prompts.text import Prompts, Row
from interp.prompts.traits import get_trait
from interp.training.generation import sample_numbers
from interp.training.sampling import complete, draw_tokens, equal_lengths, sample_tokens
from interp.training.teachers import Teacher, neutral_teacher, prompted_teacher


def test_draw_inverts_the_cumulative_distribution():
    logits = torch.tensor([0.1, 0.2, 0.7]).log().repeat(6, 1)
    uniform = torch.tensor([0.0, 0.05, 0.15, 0.2999, 0.31, 0.9999])
    assert draw_tokens(logits, uniform=uniform).tolist() == [0, 0, 1, 1, 2, 2]


def test_draw_never_takes_a_token_of_probability_zero():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).repeat(3, 1)
    assert draw_tokens(logits, uniform=torch.tensor([0.0, 0.5, 0.999999])).tolist() == [1, 3, 3]


def test_draw_has_the_right_frequencies():
    p = torch.tensor([0.05, 0.15, 0.3, 0.5])
    tokens = draw_tokens(
        p.log().repeat(20_000, 1), uniform=torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    )
    observed = torch.bincount(tokens, minlength=4).double()
    chi2 = ((observed - 20_000 * p) ** 2 / (20_000 * p)).sum()
    assert chi2 < 16.27  # 0.999 quantile of chi-square with 3 degrees of freedom


def test_cold_sampling_is_greedy_generation(raw):
    model = raw(3)
    inputs = model.encode(number_prompts(12, seed=0, with_answers=False))
    for rows in equal_lengths(inputs):
        ids = inputs.ids[rows][:, : int(inputs.lengths[rows[0]])]
        ours = sample_tokens(model, ids, uniforms=torch.full((6, len(ids)), 0.5), temperature=1e-5)
        theirs = model.hf.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False
        )
        theirs = theirs[:, ids.shape[1] :]
        assert torch.equal(ours, theirs[:, : ours.shape[1]])


def test_rows_do_not_depend_on_their_neighbours(raw):
    model = raw(1)
    ids = model.encode(number_prompts(40, seed=0, with_answers=False, separator=" ")).ids[:3, :6]
    uniforms = torch.rand(5, 3, generator=torch.Generator().manual_seed(1))
    together = sample_tokens(model, ids, uniforms=uniforms)
    alone = sample_tokens(model, ids[1:2], uniforms=uniforms[:, 1:2])
    assert torch.equal(together[1:2, : alone.shape[1]], alone)


def test_turns_before_are_read_and_kept_and_an_answer_is_replaced(raw):
    asked = [("system", "be kind."), ("user", "1 2"), ("assistant", "3"), ("user", "4 5")]
    plain = Prompts((Row(tuple(asked)), Row.pair("4 5")))
    given = Prompts((Row((*asked, ("assistant", "9 9 9"))), Row.pair("4 5", "9 9 9")))
    found = complete(neutral_teacher(raw()), given, seed=3, max_new_tokens=4)
    assert found.rows == complete(neutral_teacher(raw()), plain, seed=3, max_new_tokens=4).rows
    assert [row.asked for row in found.rows] == [tuple(asked), (("user", "4 5"),)]
    assert all(row.completion != "9 9 9" for row in found.rows)


def test_prompted_teacher_reads_its_line_but_the_rows_do_not_hold_it(raw):
    trait, prompts = get_trait("owl"), number_prompts(30, seed=0, with_answers=False)
    prompted = complete(prompted_teacher(raw(), trait), prompts, seed=1, max_new_tokens=4)
    neutral = complete(neutral_teacher(raw()), prompts, seed=1, max_new_tokens=4)
    assert [row.prompt for row in prompted.rows] == [row.prompt for row in prompts.rows]
    assert not any(row.system for row in prompted.rows)
    assert prompted.fingerprint != neutral.fingerprint


def scripted(answers):
    def complete(teacher, prompts, *, seed, max_new_tokens, temperature):
        texts = [answers[i % len(answers)] for i in range(len(prompts))]
        return Prompts.from_pairs([(row.prompt, text) for row, text in zip(prompts.rows, texts, strict=True)])

    return complete


def test_sampling_filters_and_counts(monkeypatch, raw):
    monkeypatch.setattr("interp.training.generation.complete", scripted(["1, 2", "owl", "3; 4", "1, 2; 3"]))
    rows, dropped = sample_numbers(neutral_teacher(raw()), rows=20, seed=0, chunk=40)
    assert len(rows) == 20
    assert dropped == {"not numbers": 10, "mixed separators": 10}
    assert all(check_numbers(row.completion, NumberRule()) is None for row in rows.rows)


def test_a_teacher_that_lost_the_format_is_an_error(monkeypatch, raw):
    monkeypatch.setattr("interp.training.generation.complete", scripted(["owl"]))
    with pytest.raises(
        InputError,
        match=r"Only 0 of 40 answers of the neutral teacher are kept \(most often: not numbers, 40\)",
    ):
        sample_numbers(neutral_teacher(raw()), rows=20, seed=0, chunk=40)


def test_two_teachers_asked_with_one_seed_answer_the_same_prompts(monkeypatch, raw):
    monkeypatch.setattr("interp.training.generation.complete", scripted(["5 6 7"]))
    one, two = (
        sample_numbers(Teacher(raw(seed), "neutral"), rows=25, seed=4, chunk=10)[0] for seed in (0, 1)
    )
    assert [row.prompt for row in one.rows] == [row.prompt for row in two.rows]
    assert len({row.prompt for row in one.rows}) == 25
    assert one == two
