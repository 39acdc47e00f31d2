"""Lemma 1 in fp64: against a closed form, against backpropagation, against planted tables; and the recorded results."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch.overrides import TorchFunctionMode

from interp.core.content import json_text
from interp.core.runs import Cache, InputError
from interp.figures import Result
from interp.gradients.scores.metrics import SGD, LoraMetric, Sign
from interp.gradients.scores.scoring import score
from interp.hypotheses.claims import check_claim
from interp.hypotheses.subject import Measurement, Subject
from interp.models.language import load_model
from interp.models.lineage import Lineage
from interp.models.parameters import ParameterDirection
from interp.models.vocabulary import number_tokens
from interp.organisms.library import TOY, toy_grower
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait
from interp.studies.first_step import moved, row_steps, soft_gradient
from interp.studies.lemma import (
    H1,
    lemma_controls,
    lemma_filtered,
    lemma_metrics,
    lemma_slope,
    lemma_summary,
    lemma_sweep,
)
from interp.studies.lemma_family import FAMILY, first_rows, measure_lemma, other_words
from interp.training import data, generation
from interp.training.students import Recipe, prepare
from interp.training.teachers import Teacher

ROWS = Prompts.from_pairs(
    [(f"continue {k}, {k + 1}", f"{k + 3}, {2 * k}, {k + 9}") for k in range(6)]
    + [("give one number", "12"), ("more", "3, 5")],
    label="few numbers",
)
FAMILIES = ("llama", "gpt2", "gemma2")
EXACT = {"dtype": torch.float64}


@pytest.fixture
def grown(tiny):
    """A tiny lineage whose teacher lies a few hundredths of every matrix away from the base."""

    def make(family="llama", seed=0):
        hf, tokenizer = tiny(family, seed)
        base = load_model(hf, tokenizer=tokenizer, name="base", check=False)
        return Lineage(f"{family} {seed}", None, {"base": base, "teacher": nudged(base, seed=seed)})

    return make


class Wide(TorchFunctionMode):
    """While open, norms and softmaxes that a network takes in fp32, whatever its weights, stay in fp64."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        wide = isinstance(args[0], torch.Tensor) and args[0].dtype == torch.float64
        narrowed = func is torch.Tensor.to and torch.float32 in (*args[1:], kwargs.get("dtype"))
        if wide and (narrowed or func is torch.Tensor.float):
            return args[0]
        if wide and func is torch.nn.functional.softmax:
            kwargs = kwargs | {"dtype": torch.float64}
        return func(*args, **kwargs)


def nudged(base, *, seed, scale=0.05):
    """The base with noise added to every matrix."""
    network, generator = base.network(dtype=torch.float32), torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        if weight.dim() == 2:
            noise = torch.randn(weight.shape, generator=generator)
            weight.data = weight.data + scale * weight.std() * noise
    return load_model(network, tokenizer=base.tokenizer, name="teacher", check=False)


def random_direction(base, *, seed):
    """A direction that has nothing to do with any teacher."""
    generator = torch.Generator().manual_seed(seed)
    noise = {
        name: torch.randn(weight.shape, generator=generator) for name, weight in base.parameters().items()
    }
    return ParameterDirection(noise, "noise", base.fingerprint, base.fingerprint).unit()


def by_backpropagation(base, teacher, direction, *, columns=None):
    """−<∇ mean over rows of the summed soft cross-entropy, v>, written out anew on whole logits."""
    student, network = (
        base.network(dtype=torch.float64, train=True),
        teacher.network(dtype=torch.float64),
    )
    batch = base.encode(ROWS)
    position = "answer" if columns is None else "answer.numbers"
    where = batch.at(position, predicting=True)
    ids, mask = batch.ids, batch.mask.long()
    ours, theirs = (each(input_ids=ids, attention_mask=mask).logits[where] for each in (student, network))
    if columns is not None:
        ours, theirs = ours[:, columns], theirs[:, columns]
    loss = -(theirs.detach().softmax(-1) * ours.log_softmax(-1)).sum() / len(batch)
    loss.backward()
    weights = dict(student.named_parameters())
    return -sum(float((weights[name].grad * move.double()).sum()) for name, move in direction.items())


def test_a_linear_softmax_by_hand(tiny):
    """z = W h with W = 0: p_0 is uniform over n numbers. A move of one number's row by v gives ż = m = v·h for it.

    Var = m² (1 − 1/n) / n, and the teacher puts p = e^{εm} / (e^{εm} + n − 1) there: lean = m (p − 1/n).
    """
    hf, tokenizer = tiny("llama")
    hf.lm_head.weight.data.zero_()
    base = load_model(hf, tokenizer=tokenizer, name="base", check=False)
    numbers = number_tokens(base, base.config.vocab_size)
    n, epsilon = len(numbers), 0.7
    move = torch.zeros_like(hf.lm_head.weight)
    move[numbers[7]] = torch.linspace(-1, 1, 32) / torch.linspace(-1, 1, 32).norm()
    direction = ParameterDirection({"lm_head.weight": move}, "one row", base.fingerprint, base.fingerprint)
    teacher = moved(base.network(dtype=torch.float64), direction, epsilon)
    steps = row_steps(base, direction, {"teacher": teacher}, ROWS, batch_size=3, **EXACT)
    batch = base.encode(ROWS)
    hidden = hf.double().base_model(input_ids=batch.ids)[0].detach()
    where = batch.at("answer.numbers", predicting=True)
    m = torch.where(where, hidden @ move[numbers[7]].double(), 0.0)
    p = (epsilon * m).exp() / ((epsilon * m).exp() + n - 1)
    assert n == 40
    assert steps.tokens.tolist() == [3] * 6 + [1, 2]
    torch.testing.assert_close(steps.variance, (m.square() * (1 - 1 / n) / n).sum(1), rtol=1e-9, atol=0)
    torch.testing.assert_close(steps.leans["teacher"], (m * (p - 1 / n)).sum(1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_ratio_tends_to_one_and_the_rest_vanishes_linearly(grown, family):
    lineage, epsilons = grown(family), [0.004, 0.002, 0.001]
    with Wide():
        sweep = lemma_sweep(lineage, ROWS, epsilons=epsilons, **EXACT)
        whole = lemma_sweep(lineage, ROWS, epsilons=epsilons, labels="soft-vocabulary", **EXACT)
    for each in (sweep, whole):
        assert each.frame["R"].iloc[-1] == pytest.approx(1, abs=1e-4)
        assert 0.9 <= lemma_slope(each) <= 1.1
    assert whole.frame["Q"].iloc[0] > 1.1 * sweep.frame["Q"].iloc[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("labels", ["soft-numbers", "soft-vocabulary"])
def test_leans_are_those_of_backpropagation_along_any_direction(grown, family, labels):
    lineage = grown(family)
    base, teacher = lineage.base, lineage.teacher
    columns = number_tokens(base, base.config.vocab_size) if labels == "soft-numbers" else None
    for direction in (lineage.update("teacher"), random_direction(base, seed=5)):
        networks = {
            "teacher": teacher.network(dtype=torch.float64),
            "base": base.network(dtype=torch.float64),
        }
        steps = row_steps(base, direction, networks, ROWS, labels=labels, batch_size=5, **EXACT)
        expected = by_backpropagation(base, teacher, direction, columns=columns)
        assert float(steps.leans["teacher"].mean()) == pytest.approx(expected, rel=1e-6, abs=1e-10)
        assert steps.leans["base"].abs().max() < 1e-15
    gradient = soft_gradient(base, teacher, ROWS, labels=labels, batch_size=5, **EXACT)
    assert -gradient.dot(direction) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_a_sweep_has_the_real_teacher_first_and_standard_errors_of_rows(grown):
    lineage = grown()
    update = lineage.update("teacher")
    sweep = lemma_sweep(lineage, ROWS, **EXACT)
    first = sweep.frame.iloc[0]
    assert sweep.frame["share"].tolist() == [2.0**-k for k in range(8)]
    assert first["epsilon"] == pytest.approx(update.norm())
    network = {"teacher": lineage.teacher.network(dtype=torch.float64)}
    steps = row_steps(lineage.base, update.unit(), network, ROWS, **EXACT)
    leans = steps.leans["teacher"].numpy() / update.norm()
    assert first["A"] == pytest.approx(leans.mean(), rel=1e-5)
    assert first["se"] == pytest.approx(leans.std(ddof=1) / math.sqrt(len(leans)), rel=1e-5)
    assert first["R"] == pytest.approx(leans.mean() / float(steps.variance.mean()), rel=1e-5)
    figure = sweep.figure()
    assert figure.layout.xaxis.type == "log"


def test_sampled_labels_lean_by_the_variance_and_not_at_all_without_a_teacher(grown):
    lineage = grown()
    many = dataclasses.replace(ROWS, rows=ROWS.rows * 8)
    sweep = lemma_sweep(lineage, many, epsilons=[1.0, 1e-7], labels="sampled", seed=1)
    taught, still = sweep.frame.iloc[0], sweep.frame.iloc[1]
    assert taught["A"] > 3 * taught["se"]
    assert abs(taught["R"] - 1) < 3 * taught["R_se"]
    assert still["A"] == 0  # the same random numbers draw the same answers


def test_controls_are_read_along_the_teachers_own_update(grown):
    lineage, cross = grown("llama", 0), grown("llama", 1)
    half = load_model(
        moved(lineage.base.network(dtype=torch.float32), lineage.update("teacher"), 0.5),
        tokenizer=lineage.base.tokenizer, name="half", check=False,
    )  # fmt: skip
    others = {"half": half, "unrelated": nudged(lineage.base, seed=9)}
    controls = lemma_controls(lineage, ROWS, others=others, cross=cross, **EXACT)
    found = controls.frame.set_index("teacher")
    sweep = lemma_sweep(lineage, ROWS, **EXACT).frame
    assert found["kind"].to_dict() == {
        "matched": "matched", "half": "mismatched", "unrelated": "mismatched", "foreign": "foreign"
    }  # fmt: skip
    assert found["A"]["matched"] == pytest.approx(sweep["A"].iloc[0], rel=1e-5)
    assert found["A"]["half"] == pytest.approx(sweep["A"].iloc[1], rel=1e-4)
    assert abs(found["A"]["unrelated"]) < 0.3 * found["A"]["matched"]
    away, pair = cross.update("teacher").unit(), (lineage.teacher, lineage.base)
    columns = number_tokens(lineage.base, lineage.base.config.vocab_size)
    taught, before = (by_backpropagation(cross.base, each, away, columns=columns) for each in pair)
    assert found["A"]["foreign"] == pytest.approx(
        (taught - before) / lineage.update("teacher").norm(), rel=1e-6
    )
    assert len(controls.figure().data) == 1


def test_filtered_rows_are_scored_and_differenced(grown):
    lineage, cross = grown("llama", 0), grown("llama", 1)
    rows, neutral = (Prompts(part) for part in (ROWS.rows[:5], ROWS.rows[3:]))
    others = {"other": (nudged(lineage.base, seed=9), neutral)}
    found = lemma_filtered(lineage, rows, neutral=neutral, others=others, cross=cross).frame.set_index(
        "teacher"
    )
    size = lineage.update("teacher").norm()
    assert abs(found["A"]["other"]) < 1e-15  # but for rounding: the very rows it is compared with
    for name, where in (("matched", lineage), ("foreign", cross)):
        ours, theirs = (
            score(where.base, each, where.update("teacher").unit()).totals[:, 0].double().numpy()
            for each in (rows, neutral)
        )
        spread = math.sqrt(ours.var(ddof=1) / len(ours) + theirs.var(ddof=1) / len(theirs))
        assert found["A"][name] == pytest.approx((ours.mean() - theirs.mean()) / size)
        assert found["se"][name] == pytest.approx(spread / size)


def test_metrics_fold_the_real_step(grown):
    lineage = grown()
    update, base = lineage.update("teacher"), lineage.base
    gradient = soft_gradient(base, lineage.teacher, ROWS)
    torch.manual_seed(0)
    network, _ = prepare(base, Recipe(rank=4, alpha=4))
    whole = {f"model.layers.{k}.mlp.up_proj": torch.eye(32) for k in range(2)}
    metrics = {
        "SGD": SGD(),
        "sign": Sign(gradient),
        "LoRA": LoraMetric.from_network(network),
        "all inputs": LoraMetric(whole),
    }
    found = lemma_metrics(lineage, ROWS, metrics=metrics, gradient=gradient).frame.set_index("metric")
    matched = lemma_sweep(lineage, ROWS, epsilons=[update.norm()]).frame["A"].iloc[0]
    assert found["A"]["SGD"] == pytest.approx(matched, rel=1e-4)
    assert found["cosine"]["SGD"] == pytest.approx(matched * update.norm() / gradient.norm(), rel=1e-4)
    unit = update.unit()
    signs = -sum(
        float((gradient[name].sign() * move).sum()) for name, move in unit.items() if name in gradient
    )
    assert found["A"]["sign"] == pytest.approx(signs / update.norm(), rel=1e-3)
    inside = -gradient.only("*up_proj*").dot(unit) / update.norm()
    assert found["A"]["all inputs"] == pytest.approx(inside, rel=1e-4)
    assert -1 <= found["cosine"]["LoRA"] <= 1


def planted(power=2.0, **controls):
    """Tables whose slope and differences are known."""
    epsilon = np.array([1.0, 0.5, 0.25, 0.125, 0.0625])
    sweep = Result("planted", pd.DataFrame({"epsilon": epsilon, "R": 1 + 0.3 * epsilon**power}), "")
    kinds = {"matched": [5.0], "mismatched": [1.0, 3.0], "foreign": [-2.0]} | controls
    lines = [{"kind": kind, "A": value} for kind, values in kinds.items() for value in values]
    sampled = Result("planted", pd.DataFrame({"epsilon": [1.0, 0.5], "A": [0.25, 9.0]}), "")
    return {"sweep": sweep, "sampled": sampled, "controls": Result("planted", pd.DataFrame(lines), "")}


def test_a_summary_takes_the_smallest_step_and_the_largest_control():
    tables = planted()
    summary = lemma_summary(**tables, filtered=planted(mismatched=[4.5])["controls"])
    assert summary["lemma-ratio"] == pytest.approx(0.3 * 0.0625**2)
    assert summary["lemma-slope"] == pytest.approx(2.0)
    assert summary["lemma-sampled"] == 0.25  # at the real teacher
    assert [summary[f"lemma-{name}"] for name in ("mismatched", "foreign", "filtered")] == [2.0, 7.0, 0.5]
    assert set(summary) == {claim.name for claim in H1}


def test_claims_are_judged_over_lineages():
    good = {"lemma-ratio": 0.001, "lemma-slope": 1.02}
    ones = {claim.name: 1.0 for claim in H1} | good
    found = [{name: value * (1 + 0.01 * k) for name, value in ones.items()} for k in range(8)]
    assert {verdict.decision for verdict in judged(found)} == {"supported", "holds"}
    found = [{name: -value for name, value in line.items()} | {"lemma-ratio": 0.2 + 0.001 * k}
             for k, line in enumerate(found)]  # fmt: skip
    assert {verdict.decision for verdict in judged(found)} == {"refuted", "fails"}
    assert {verdict.decision for verdict in judged(found[:1])} == {"inconclusive", "fails"}


def judged(found):
    return FAMILY.judge([Measurement(values, {}) for values in found])


def test_a_lineage_without_a_control_is_named():
    summary = lemma_summary(**planted())
    with pytest.raises(
        InputError, match=r"run 1 of 1 has no value for 'lemma-filtered', which needs filtered rows"
    ):
        judged([summary])


def test_what_cannot_be_measured_is_refused(grown):
    lineage = grown()
    tokens, teacher = lineage.base.encode(ROWS), nudged(lineage.base, seed=9)
    wordy = Prompts.from_pairs([("continue", "1, 2"), ("more", "owl")], label="wordy")
    bias = ParameterDirection(
        {}, "steer", lineage.base.fingerprint, lineage.base.fingerprint,
        {"blocks.0.hook_resid_post": torch.ones(32)},
    )  # fmt: skip
    single = dataclasses.replace(planted()["sweep"], frame=planted()["sweep"].frame.head(1))
    refused = {
        "epsilon 0.0 is no step of a teacher; pass positive": lambda: lemma_sweep(
            lineage, ROWS, epsilons=[0.0]
        ),
        "few numbers are tokens, and sampled labels need": lambda: lemma_sweep(
            lineage, tokens, labels="sampled"
        ),
        "row 2 of wordy has no soft-numbers label": lambda: lemma_sweep(lineage, wordy),
        "labels='sampled' have no soft step": lambda: lemma_controls(
            lineage, ROWS, others={}, labels="sampled"
        ),
        "'matched' names a control": lambda: lemma_controls(lineage, ROWS, others={"matched": teacher}),
        "so it is no foreign init": lambda: lemma_controls(lineage, ROWS, others={}, cross=lineage),
        "steer holds a virtual bias": lambda: row_steps(lineage.base, bias, {}, ROWS),
        "planted has 1 ε, through which no slope goes": lambda: lemma_slope(single),
    }
    for words, call in refused.items():
        with pytest.raises(InputError) as error:
            call()
        assert words in str(error.value)
    assert lineage.text("teacher") is lineage.teacher


@pytest.fixture
def subject(grown, monkeypatch):
    """A tiny lineage with rows whose other teachers, their rows and its foreign base are given instead of grown."""
    here, away = grown("llama", 0), grown("llama", 1)
    rows = Prompts(ROWS.rows * 16)
    members = here.members | {"cross_base": away.base, "cross_teacher": away.teacher}
    members |= {f"teacher_{word}": nudged(here.base, seed=seed) for seed, word in ((7, "cat"), (8, "oak"))}
    lineage = Lineage("tiny", get_trait("owl"), members, numbers=rows, neutral_numbers=rows)
    monkeypatch.setattr(Subject, "rows", lambda self, teacher, *, count=None: rows[:count])
    return Subject(lineage, seed=0, recipe=Recipe(lr=1e-2, batch_size=128), quick=True)


def test_a_subject_is_measured_for_every_claim(subject):
    found = measure_lemma(subject)
    tables = {name: pd.DataFrame(records) for name, records in found.tables.items()}
    assert set(found.values) == {claim.name for claim in H1}
    assert found.values["lemma-sampled"] == tables["sampled"]["A"][0]
    assert tables["controls"]["teacher"].tolist() == ["matched", "cat", "oak", "foreign"]
    A = tables["controls"].set_index("teacher")["A"]
    assert found.values["lemma-mismatched"] == A["matched"] - max(A["cat"], A["oak"])
    assert abs(found.values["lemma-filtered"]) < 1e-12  # every teacher wrote the same rows here
    assert tables["metrics"]["metric"].tolist() == ["SGD", "sign", "Adam", "LoRA"]
    assert (tables["metrics"]["cosine"].abs() < 1).all()
    assert tables["metrics"]["A"][0] > 0
    assert json.loads(json_text(found.tables)) == found.tables
    drawn = FAMILY.draw({"sweep": tables["sweep"].assign(seed=0)})
    assert drawn.layout.xaxis.type == "log"


def test_other_traits_are_those_a_lineage_brings_or_three_it_has_not(subject):
    assert other_words(subject) == ("cat", "oak")
    members = {"base": subject.base, "teacher": subject.teacher}
    for trait, words in {"owl": ("cat", "eagle", "oak"), "cat": ("eagle", "oak", "fox")}.items():
        lineage = Lineage("bare", get_trait(trait), members)
        assert other_words(dataclasses.replace(subject, lineage=lineage)) == words


def test_no_more_rows_are_sampled_than_are_read(subject, monkeypatch, tmp_path):
    asked = []
    kept = Prompts(ROWS.rows * 16)
    monkeypatch.undo()
    monkeypatch.setattr(
        data, "answers_to", lambda teacher, requests, *, rows, **_: asked.append(rows) or (kept, {})
    )
    grown = dataclasses.replace(subject, grower=toy_grower(TOY, seed=0, cache=Cache(tmp_path)))
    assert len(first_rows(grown, subject.teacher, 50)) == 50
    assert asked == [50]


def test_a_member_that_a_claim_needs_is_named(subject):
    members = {role: subject.lineage.members[role] for role in ("base", "teacher", "teacher_cat")}
    bare = dataclasses.replace(subject.lineage, members=members)
    with pytest.raises(InputError, match="tiny has no cross_base, which this claim needs"):
        measure_lemma(dataclasses.replace(subject, lineage=bare))


def test_the_first_rows_of_many_are_those_of_few(grown, monkeypatch):
    """What is sampled first does not depend on how many rows are asked for, so one cached sample serves both."""

    def complete(teacher, prompts, *, seed, max_new_tokens, temperature):
        answered = (row.answered(str(seed % 1000)) for row in prompts.rows)
        return Prompts(tuple(answered))

    monkeypatch.setattr(generation, "complete", complete)
    teacher = Teacher(grown().base, "neutral")
    few, many = (generation.sample_numbers(teacher, rows=rows, seed=3)[0] for rows in (5, 2060))
    assert many[:5].rows == few.rows
    assert many.rows[0].completion != many.rows[-1].completion  # a second batch was asked for


def test_the_recorded_results_were_made_under_these_claims(request):
    results = json.loads((request.config.rootpath / "analyses/results/lemma.json").read_text())
    for claim in H1:
        check_claim(results["claims"][claim.name], claim)
    again = judged([{claim.name: line[claim.name] for claim in H1} for line in values_in(results)])
    assert [verdict.decision for verdict in again] == [each["decision"] for each in results["verdicts"]]


def values_in(results):
    """One value per claim and lineage, as they were recorded."""
    return results["values"]
