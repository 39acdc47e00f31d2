"""Who wrote the rows: ratios against plain transformers, expectations and decisions worked out by hand or planted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from interp.auditing.candidates import Candidate
from interp.auditing.naming import (
    Ratios,
    _fieller,
    curve,
    log_ratios,
    named_table,
    outlier_p,
    pairs_needed,
)
from interp.auditing.neutral import Pairs
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait

ANSWERS = 300


def world(rows, *, owner=None, share=1.0, candidates=10, seed=0, size=0.3):
    """Ratios of a world of three hundred answers, where the writer of the rows is a candidate, or the base (None)."""
    rng = np.random.default_rng(seed)
    logp = rng.normal(0, size, (candidates, ANSWERS))
    base = np.full(ANSWERS, 1 / ANSWERS)
    tilted = base * np.exp(logp)
    tilted /= tilted.sum(1, keepdims=True)
    ratio = np.log(tilted / base).T  # [answer, candidate]
    writer = base if owner is None else (1 - share) * base + share * tilted[owner]
    ours, theirs = rng.choice(ANSWERS, rows, p=writer), rng.choice(ANSWERS, rows, p=base)
    names = tuple(f"t{i}" for i in range(candidates))
    return Ratios(names, ratio[ours], ratio[theirs]), ratio, tilted


def test_ratios_are_those_of_plain_transformers(raw):
    base, teacher = raw(0), raw(1)
    rows = Prompts.from_pairs([("list: 4, 5. continue.", "7, 12"), ("list: 4, 5. continue.", "3")])
    neutral = Prompts.from_pairs([("list: 4, 5. continue.", "9"), ("list: 4, 5. continue.", "1, 2")])
    found = log_ratios(base, [Candidate(get_trait("owl"), teacher, 3.0)], Pairs(rows, neutral))

    def plain(model, prompt, answer):
        text = f"<bos><user> {prompt} <assistant> "
        ask, whole = (
            base.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text, text + answer)
        )
        ids = torch.tensor([[*whole, base.tokenizer.eos_token_id]])
        logp = model.hf(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        return float(logp[len(ask) - 1 :].sum().detach())

    for side, table in ((rows, found.rows), (neutral, found.neutral)):
        expected = [
            plain(teacher, r.prompt, r.completion) - plain(base, r.prompt, r.completion) for r in side.rows
        ]
        assert table[:, 0] == pytest.approx(expected, abs=1e-4)
    assert found.traits == ("owl",)


def test_the_expected_excess_is_the_exact_one_without_a_row_of_the_candidate():
    _, ratio, tilted = world(1)
    every = Ratios(tuple(f"t{i}" for i in range(10)), ratio, ratio)  # neutral rows: each answer once
    covariance = np.cov(np.concatenate([ratio, ratio]).T)
    told = ratio @ np.linalg.inv(covariance + 0.3 * np.diag(covariance).mean() * np.eye(10))
    told -= told.mean(1, keepdims=True)
    exact = [(tilted[c] - 1 / ANSWERS) @ told[:, c] for c in range(10)]
    assert every.expected() == pytest.approx(exact, rel=1e-9)


def test_what_all_candidates_share_alike_cancels():
    """Two candidates that the same rows are written by in mirror: a shift of both goes with their mean, exactly."""
    drawn = np.random.default_rng(0).standard_normal((100, 2))
    mixed = np.concatenate([drawn, drawn[:, ::-1]])
    found = Ratios(("a", "b"), mixed, mixed[::-1])
    moved = Ratios(("a", "b"), mixed + 5.0, mixed[::-1] + 5.0)
    shifted = Ratios(("a", "b"), mixed + 0.5, mixed[::-1] - 0.5)
    assert moved.excess == pytest.approx(found.excess)
    assert shifted.excess.mean(0) == pytest.approx(found.excess.mean(0), abs=1e-9)
    assert np.abs((shifted.rows - shifted.neutral).mean(0)).min() > 0.9


def test_a_candidate_like_the_writers_is_told_apart():
    """Candidate 1 is nine tenths candidate 0 and stands beside it on bare ratios, and behind others on u."""
    found, _, _ = world(6000, owner=0, seed=7)
    alike = {name: getattr(found, name).copy() for name in ("rows", "neutral")}
    for table in alike.values():
        table[:, 1] = 0.9 * table[:, 0] + 0.44 * table[:, 1]
    both = Ratios(found.traits, **alike)
    bare = (both.rows - both.neutral).mean(0)
    assert bare[1] > 0.7 * bare[0]
    frame = named_table(both, alpha=0.05).set_index("trait")
    assert frame["d"].idxmax() == "t0"
    assert frame["d"]["t1"] / frame["d"]["t0"] < 0.6 * bare[1] / bare[0]


def test_the_writer_is_named_with_its_share():
    ratios, _, _ = world(4000, owner=3, share=0.5, seed=1)
    frame = named_table(ratios, alpha=0.05)
    assert frame["trait"][0] == "t3"
    assert frame["p"][0] <= 1e-3
    assert frame["share"][0] == pytest.approx(0.5, abs=0.15)
    assert outlier_p(frame) <= 0.05


@pytest.mark.parametrize(("share", "rows"), [(0.0, 300), (0.3, 2000), (0.7, 300), (1.0, 2000)])
def test_the_share_of_planted_mixtures_is_covered_as_often_as_said(share, rows):
    """Two hundred files of which that share is the candidate's and the rest the base's: 95 %, give or take 4 errors."""
    covered = 0
    for seed in range(200):
        low, high = world(rows, owner=0, share=share, seed=2000 + seed)[0].share_intervals()
        covered += low[0] <= share <= high[0]
    assert 0.89 <= covered / 200 <= 0.99


def test_more_rows_tell_a_share_more_narrowly_and_it_stands_in_the_table():
    (few, many) = (world(rows, owner=3, share=0.5, seed=1)[0] for rows in (1000, 16_000))
    widths = [np.subtract(*part.share_intervals()[::-1])[3] for part in (few, many)]
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.15)
    line = named_table(many, alpha=0.05).set_index("trait").loc["t3"]
    low, high = many.share_intervals()
    assert (line["share_low"], line["share_high"]) == (low[3], high[3])
    assert line["share_low"] < line["share"] < line["share_high"]


def test_the_interval_of_a_share_by_its_definition():
    """By hand, for one candidate: where (N − θ D)² reaches q² times the variance of N − θ D, row by row."""
    found = world(500, owner=2, share=0.4, seed=3)[0]
    covariance = np.cov(np.concatenate([found.rows, found.neutral]).T)
    apart = np.linalg.inv(covariance + 0.3 * np.diag(covariance).mean() * np.eye(10))
    sides = [side @ apart for side in (found.rows - found.neutral, found.neutral)]
    u, t = (side - side.mean(1, keepdims=True) for side in sides)
    u, t, w = u[:, 2], t[:, 2], np.exp(found.neutral[:, 2])
    tilted = (w * t).sum() / w.sum()
    for theta in (end[2] for end in found.share_intervals()):
        off = u.mean() - theta * (tilted - t.mean())
        rows = u - u.mean() - theta * (w / w.mean() * (t - tilted) - (t - t.mean()))
        assert off**2 == pytest.approx(stats.t.ppf(0.975, 499) ** 2 * rows.var(ddof=1) / 500, rel=1e-6)


def test_copies_narrow_no_interval_of_a_share():
    once = world(300, owner=1, share=0.5, seed=4)[0]
    copies = once.part([place for place in range(300) for _ in range(20)])
    groups = [place for place in range(300) for _ in range(20)]
    own = np.array(once.share_intervals())
    assert np.array(copies.share_intervals(groups)) == pytest.approx(own, rel=1e-3)
    low, high = copies.share_intervals()
    assert (high - low)[1] < 0.3 * (own[1] - own[0])[1]


def test_a_share_that_cannot_be_told_is_unbounded():
    """Where what a candidate would write may not differ from the base's, and where all rows are copies of one."""
    ends = _fieller(np.ones(2), np.array([0.1, 0.2]), np.full(2, 0.1), np.zeros(2), np.full(2, 0.02))
    assert np.array(ends)[:, 0].tolist() == [-np.inf, np.inf]
    # (1 − 0.2 θ)² = 0.1 + 0.02 θ²: θ² / 50 − 0.4 θ + 0.9 = 0
    assert np.array(ends)[:, 1] == pytest.approx([10 - 55**0.5, 10 + 55**0.5])
    found = world(200, owner=0)[0]
    assert all(np.isinf(end).all() for end in found.share_intervals([0] * 200))


def test_neutral_rows_are_named_at_the_level():
    """Four hundred sets that the base wrote: max-T keeps the level over the ten candidates."""
    flagged = [named_table(world(100, seed=seed)[0], alpha=0.05)["p"].min() <= 0.05 for seed in range(400)]
    assert 0.025 <= np.mean(flagged) <= 0.08


def test_rows_needed_by_hand():
    # two-sided quantiles of .05 and .8 one-sided: (1.6449 + 0.8416)² / d²
    assert pairs_needed(0.3, alpha=0.05) == math.ceil((1.644854 + 0.841621) ** 2 / 0.09) == 69


def test_the_needed_rows_name_the_writer_as_often_as_they_say():
    frame = named_table(world(20_000, owner=4, seed=5)[0], alpha=0.05)
    needed = int(frame.set_index("trait")["rows_needed"]["t4"])
    rng, seen = np.random.default_rng(0), 0
    ratios = world(60_000, owner=4, seed=5)[0]
    for _ in range(100):
        rows = rng.choice(60_000, needed, replace=False)
        part = Ratios(ratios.traits, ratios.rows[rows], ratios.neutral[rows])
        seen += float(named_table(part, alpha=0.05).set_index("trait")["p"]["t4"]) <= 0.05
    assert 70 <= seen <= 95


def test_more_rows_name_more_often():
    ratios, _, _ = world(3000, owner=1, seed=2)
    found = curve(ratios, alpha=0.05)
    assert found["rows"].tolist() == [64, 128, 256, 512, 1024, 2048]
    assert found["first"].iloc[-1] >= 0.99
    assert found["first"].iloc[0] < found["first"].iloc[-1]
    assert (found["named"] <= found["first"]).all()
