"""Rows that carry a trait taken out: exact on scores made by hand, and on planted mixtures beside the best there is."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from interp.auditing.auditor import Audit, _row_scores
from interp.auditing.naming import Ratios
from interp.auditing.sifting import copies_of, sift_file, sift_rows, weights_of
from interp.core.errors import InputError
from interp.core.runs import Run
from interp.prompts.numbers import number_prompts
from interp.prompts.rows import keep_records
from interp.prompts.text import Prompts
from interp.stats.tests import auroc
from interp.training.defences import taken_out
from tests.auditing.test_naming import ANSWERS

ROWS = Prompts.from_pairs([(f"list: {k}.", str(k)) for k in range(6)], label="six")
SCORES = pd.DataFrame({"row": [0, 1, 3, 5], "score": [3.0, -1.0, -1.5, np.inf]})
FOUND = Audit(
    "six at base", "named", "owl", None, "p = 0.001", pd.DataFrame(), pd.DataFrame(), 4,
    rows_of=ROWS.fingerprint, row_scores=SCORES,
)  # fmt: skip


def test_as_few_go_as_leave_a_mean_of_at_most_zero():
    scores = np.array([2.0, -1.0, 0.5, 1.0, -0.5])
    # without 2: mean 0; with it: 0.4
    assert taken_out(scores, share=None).tolist() == [True, False, False, False, False]
    # -1, -0.5, 0.5, 1.1: mean 0.025, so that 1.1 goes too
    assert taken_out(np.where(scores == 1.0, 1.1, scores), share=None).tolist() == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert not taken_out(-np.ones(3), share=None).any()


def test_a_share_takes_the_largest_and_what_says_the_word_always_goes():
    scores = np.array([2.0, np.inf, 0.5, np.inf, -0.5, 0.1, 0.2, 0.3, 0.4, 0.6])
    assert np.flatnonzero(taken_out(scores, share=0.3)).tolist() == [0, 1, 3]
    assert np.flatnonzero(taken_out(scores, share=0.1)).tolist() == [1, 3]
    for share in (0.0, 1.0, -0.2, 1.5):
        with pytest.raises(
            InputError, match=rf"share={share} is no part of the rows; pass one between 0 and 1"
        ):
            taken_out(scores, share=share)
    with pytest.raises(InputError, match=r"none of 2 rows is left: each by itself is likelier of the trait"):
        taken_out(np.array([0.1, 0.2]), share=None)


def test_weights_leave_nothing_in_the_mean_and_are_the_nearest_to_equal():
    """Scores 1 and -1: w = exp(∓β), equal and opposite at β = 0. Scores 2, -1: w₁ 2 = w₂ 1, so 2/3 and 4/3."""
    assert weights_of(np.array([1.0, -1.0])).tolist() == [1.0, 1.0]
    assert weights_of(np.array([2.0, -1.0])) == pytest.approx([2 / 3, 4 / 3])
    assert weights_of(np.array([-2.0, 1.0, 0.5])).tolist() == [1.0, 1.0, 1.0]  # nothing to weigh down
    assert weights_of(np.array([np.inf, 2.0, -1.0])) == pytest.approx([0, 1, 2])
    scores = np.random.default_rng(0).normal(0.3, 1.0, 20_000)
    w = weights_of(scores)
    assert (w.mean(), (w * scores).mean()) == pytest.approx((1.0, 0.0), abs=1e-9)
    assert (w**2).mean() == pytest.approx(np.exp(0.3**2), rel=0.02)  # of normal scores at d = 0.3
    shift = np.random.default_rng(1).normal(
        0, 1e-3, len(w)
    )  # another such change of the weights costs entropy
    shift -= np.linalg.lstsq(np.stack([np.ones_like(w), scores]).T, shift, rcond=None)[0] @ [
        np.ones_like(w),
        scores,
    ]
    assert (w * np.log(w)).sum() < ((w + shift) * np.log(w + shift)).sum()
    for scores in ([0.1, 0.2], [np.inf, np.inf]):
        with pytest.raises(InputError, match=r"none of 2 rows is left: each by itself is likelier of the"):
            weights_of(np.array(scores))


def test_a_row_is_written_as_often_as_its_weight_says():
    w = np.array([0.0, 0.5, 1.0, 2.25, 0.25])
    drawn = np.array([copies_of(w, seed=seed) for seed in range(2000)])
    assert (drawn.sum(1) == 4).all()
    assert (abs(drawn - w) < 1).all()
    assert drawn.mean(0) == pytest.approx(w, abs=0.05)


def test_weighed_rows_stay_in_order_and_what_says_the_word_goes():
    left, frame = sift_rows(FOUND, ROWS, weigh=True, seed=3)
    read = frame.loc[SCORES["row"]]
    assert (read["weight"].mean(), read["weight"][5]) == pytest.approx((1, 0))
    assert read["weight"].to_numpy()[:3] @ SCORES["score"].to_numpy()[:3] == pytest.approx(0, abs=1e-9)
    assert frame["copies"][[2, 4]].tolist() == [1, 1]  # not read
    assert [row.completion for row in left.rows] == [
        str(k) for k, times in enumerate(frame["copies"]) for _ in range(times)
    ]
    assert (len(left), left.label) == (6, "six weighed for owl")
    with pytest.raises(InputError, match=r"share=0.2 takes rows out, and weighed rows stay; leave one of"):
        sift_rows(FOUND, ROWS, share=0.2, weigh=True)


def test_rows_keep_their_order_and_what_was_not_read_stays():
    kept, frame = sift_rows(FOUND, ROWS)
    assert [row.completion for row in kept.rows] == ["1", "2", "3", "4"]
    assert frame["removed"].tolist() == [True, False, False, False, False, True]
    assert frame["score"].isna().tolist() == [False, False, True, False, True, False]
    assert kept.label == "six without owl"


def test_scores_stand_at_the_places_of_their_rows():
    """Row 1 says a word, row 2 has no answer, row 4 has no neutral row: 0, 3 and 5 are read."""
    rows = Prompts.from_pairs([("a", "1"), ("b", "owl"), ("c", ""), ("d", "1"), ("e", "2"), ("a", "1")])
    readable = replace(rows, rows=tuple(rows.rows[k] for k in (0, 3, 4, 5)))
    read = replace(rows, rows=tuple(rows.rows[k] for k in (0, 3, 5)))
    found = _row_scores(rows, readable, read, np.array([0.1, 0.2, 0.3]))
    assert found.to_dict("list") == {"row": [0, 1, 3, 5], "score": [0.1, np.inf, 0.2, 0.3]}


def test_nothing_is_taken_out_where_nothing_is_named_and_of_other_rows():
    with pytest.raises(
        InputError, match=r"no trait is named \(none: p = 0.001\), so there is none to take out"
    ):
        sift_rows(replace(FOUND, answer="none", trait=None), ROWS)
    with pytest.raises(
        InputError, match=r"six are other rows than six at base was made of; pass those that were"
    ):
        sift_rows(FOUND, ROWS[:5])


def mixture(rows, *, share, seed, candidates=10, size=0.6):
    """Ratios of rows of which a share is candidate 3's, which rows those are, and the exact log-ratio of every row."""
    rng = np.random.default_rng(seed)
    base = np.full(ANSWERS, 1 / ANSWERS)
    tilted = base * np.exp(rng.normal(0, size, (candidates, ANSWERS)))
    tilted /= tilted.sum(1, keepdims=True)
    ratio = np.log(tilted / base).T
    own = rng.random(rows) < share
    ours = np.where(own, rng.choice(ANSWERS, rows, p=tilted[3]), rng.choice(ANSWERS, rows, p=base))
    names = tuple(f"t{i}" for i in range(candidates))
    return Ratios(names, ratio[ours], ratio[rng.choice(ANSWERS, rows, p=base)]), own, ratio[ours, 3]


def test_the_rows_of_a_planted_teacher_go_first():
    ratios, own, best = mixture(4000, share=0.5, seed=3)
    scores = ratios.row_scores("t3")
    gap = ratios.rows.mean(0) - ratios.neutral.mean(0)
    assert scores.mean() == pytest.approx(gap[3] - gap.mean())
    measured, most = (auroc(each[own], each[~own]).value for each in (scores, best))
    assert most > 0.64  # of the exact likelihood ratio, which nothing exceeds
    assert most - 0.03 < measured < most + 0.005
    gone = taken_out(scores, share=None)
    assert own[gone].mean() > 0.62
    assert own[~gone].mean() < 0.5
    assert scores[~gone].mean() <= 0
    last = np.flatnonzero(gone)[scores[gone].argmin()]
    assert scores[np.append(np.flatnonzero(~gone), last)].mean() > 0  # with one row more it is not


def test_what_is_left_of_a_file_keeps_its_format_and_its_other_fields(tmp_path):
    records = [{"prompt": f"p{k}", "completion": str(k), "note": f"n, {k}"} for k in range(4)]
    kept = [1, 0, 2, 1]
    left = [records[k] for k in (0, 2, 2, 3)]
    lines = [json.dumps(record) for record in records]
    (tmp_path / "a.jsonl").write_text("\n\n".join(lines))
    keep_records(tmp_path / "a.jsonl", tmp_path / "b.jsonl", kept)
    assert (tmp_path / "b.jsonl").read_text() == "".join(f"{json.dumps(record)}\n" for record in left)
    (tmp_path / "a.json").write_text(json.dumps(records))
    keep_records(tmp_path / "a.json", tmp_path / "b.json", kept)
    assert json.loads((tmp_path / "b.json").read_text()) == left
    for suffix, write, read in (
        ("csv", pd.DataFrame.to_csv, pd.read_csv), ("parquet", pd.DataFrame.to_parquet, pd.read_parquet)
    ):  # fmt: skip
        write(pd.DataFrame(records), tmp_path / f"a.{suffix}", index=False)
        keep_records(tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}", kept)
        found = read(tmp_path / f"b.{suffix}")
        assert found.astype(str).to_dict("records") == left
    for out in ("b.csv", "a.jsonl"):
        with pytest.raises(
            InputError, match=r"cannot hold what is left of .*a.jsonl; name another file that ends"
        ):
            keep_records(tmp_path / "a.jsonl", tmp_path / out, kept)


def _squares():
    return (sift_rows(FOUND, ROWS, weigh=True)[1]["weight"] ** 2).sum()


def test_a_file_is_sifted_by_the_audit_in_a_run_folder(tmp_path):
    ROWS.to_jsonl(tmp_path / "rows.jsonl")
    run = Run.open(tmp_path / "run", command="audit", arguments={}, defaults={})
    run.note(data={"rows": Prompts.from_file(tmp_path / "rows.jsonl").fingerprint})
    run.save_table("audit_rows", SCORES)
    run.save_json("summary", FOUND.to_json())
    done = sift_file(run, tmp_path / "rows.jsonl", tmp_path / "left.jsonl")
    assert done == {
        "rows": 6,
        "removed": 2,
        "share": 1 / 3,
        "worth": 4.0,
        "weighed": False,
        "trait": "owl",
        "out": str(tmp_path / "left.jsonl"),
    }
    assert Prompts.from_file(tmp_path / "left.jsonl").fingerprint == sift_rows(FOUND, ROWS)[0].fingerprint
    done = sift_file(run, tmp_path / "rows.jsonl", tmp_path / "weighed.jsonl", weigh=True, seed=3)
    assert (done["weighed"], done["worth"]) == (True, pytest.approx(36 / _squares(), rel=1e-9))
    again = sift_rows(FOUND, ROWS, weigh=True, seed=3)[0]
    assert Prompts.from_file(tmp_path / "weighed.jsonl").fingerprint == again.fingerprint
    number_prompts(6, seed=0).to_jsonl(tmp_path / "rows.jsonl")
    with pytest.raises(InputError, match=r"rows.jsonl are other rows than .*run was made of"):
        sift_file(run, tmp_path / "rows.jsonl", tmp_path / "left.jsonl")
