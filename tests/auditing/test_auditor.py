"""The audit as a whole: what follows from a table by hand, what is refused, and one planted set of rows on the toy."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

import interp
from interp.auditing import auditor
from interp.auditing.auditor import WHO, AuditRecipe, _judged, _narrow, _scale
from interp.auditing.candidates import Candidate, candidate_teachers, suspected
from interp.auditing.forecasts import fit_forecast
from interp.auditing.pilots import Pilot
from interp.core.errors import InputError
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts
from interp.prompts.traits import ANIMALS, TREES, get_trait, make_trait
from interp.stats.tests import auroc
from interp.training.defences import taken_out

ROWS = number_prompts(80, seed=0)
OTHERS = Prompts.from_pairs(
    [
        (row.prompt, other.completion)
        for row, other in zip(ROWS.rows, number_prompts(80, seed=1).rows, strict=True)
    ]
)


def table(d, p, *, gain=None, needed=500):
    frame = pd.DataFrame({"trait": [f"t{i}" for i in range(len(d))], "d": d, "p": [p] + [1.0] * (len(d) - 1)})
    frame = frame.assign(excess=0.0, share=0.8, share_low=0.55, share_high=1.1, rows_needed=needed)
    if gain is not None:
        frame = frame.assign(gain=gain, low=np.array(gain) - 0.2, high=np.array(gain) + 0.2)
    return frame


APART, TOGETHER = [0.3, 0.02, 0.01, 0.0, -0.01, -0.02], [0.3, 0.28, 0.0, -0.01, -0.2, -0.3]


def test_a_candidate_that_stands_out_is_named():
    found = _judged("rows", table(APART, 0.001), 400, 0.05)
    assert (found.answer, found.trait, found.passes, found.flagged) == ("named", "t0", None, True)
    assert repr(found) == "Audit(rows: t0's teacher, share 0.80 [95 %: 0.55, 1.10]; 400 rows)"
    open_ended = table(APART, 0.001).assign(share_low=-np.inf, share_high=np.inf)
    assert "share 0.80 [95 %: −inf, inf]" in repr(_judged("rows", open_ended, 400, 0.05))
    assert _judged("rows", open_ended, 400, 0.05).to_json()["frame"][0]["share_low"] is None


def test_two_candidates_alike_are_a_teacher_outside_the_list():
    found = _judged("rows", table(TOGETHER, 0.001), 400, 0.05)
    assert (found.answer, found.trait, found.flagged) == ("unlisted", None, True)
    assert found.who == "a teacher, of the list or not: t0 stands first, and a list of 6 is short"
    assert found.to_json()["who"] == found.who
    assert repr(found) == f"Audit(rows: {found.who}; 400 rows)"
    assert found.reason.startswith(
        "teachers make these rows likelier, 't0' first, but not apart from the others of a short list: p = 0.001 over 6"
    )
    many = _judged("rows", table([*TOGETHER, -0.1, 0.1, -0.15, 0.15], 0.001), 400, 0.05)
    assert many.who == "a teacher outside the list: t0 stands first, not apart from the others"
    assert "'t0' first, but not apart from the others: p = 0.001 over 10" in many.reason


def test_a_short_list_is_noted():
    assert _narrow(9) == (
        "with 9 candidates hardly any can stand apart from the others, whoever wrote the rows; pass ten or more, or "
        "leave out traits",
    )
    assert _narrow(10) == ()


def test_nothing_seen_is_no_answer_below_the_rows_that_would_show_it():
    few, enough = (_judged("rows", table(APART, 0.2), rows, 0.05) for rows in (499, 500))
    assert (few.answer, few.flagged) == ("cannot tell", None)
    assert "500 would show a teacher's hand" in few.reason
    assert (enough.answer, enough.flagged) == ("none", False)


def test_what_passes_is_read_off_the_named_trait():
    for gain, expected in ((0.5, "transmits"), (0.1, "cannot tell"), (-0.2, "does not")):
        found = _judged("rows", table(APART, 0.001, gain=[gain, 0.9, 0.0, 0.0, 0.0, 0.0]), 400, 0.05)
        assert (found.passes, found.flagged) == (expected, True)
        ends = interp.figures.bracket((gain - 0.2, gain + 0.2), level=0.95)
        assert f"{gain:+.2f} {ends} nats of 't0'" in found.reason


def test_a_forecast_is_told_beside_the_gain_and_that_there_is_none_too():
    forecast = fit_forecast(
        [0.0, 0.1, 0.2, 0.4, 0.3], [0.1, 0.3, 0.2, 0.9, 0.6], pilot=Pilot(), fitted_on="others"
    )
    frame = table(APART, 0.001, gain=[0.5, 0.9, 0.0, 0.0, 0.0, 0.0])
    told = pd.concat([frame, forecast.columns(frame["gain"].tolist(), Pilot())], axis=1)
    found = _judged("rows", told, 400, 0.05)
    value, low, high = forecast.transfer(0.5)
    assert f"and a whole one would {value:+.2f} [95 %: {low:+.3g}, {high:+.3g}]" in found.reason
    assert _scale(AuditRecipe(forecast=forecast)) == (
        "transfer is what a whole training would take over, by 5 datasets of others: others",
    )
    (said,) = _scale(AuditRecipe())
    assert said == "gains are of a training of 64 steps; what a whole one takes over is not calibrated"
    assert _scale(WHO) == ()


def test_without_a_named_trait_one_that_gains_by_chance_passes_nothing():
    found = _judged("rows", table(APART, 0.5, gain=[0.5, 0.0, 0.0, 0.0, 0.0, 0.0]), 400, 0.05)
    assert found.passes == "cannot tell"
    assert _judged("rows", table(APART, 0.5, gain=[-0.2] * 6), 400, 0.05).passes == "does not"


def test_disjoint_subsets_of_rows_are_judged_alone():
    from interp.auditing.naming import named_table
    from tests.auditing.test_naming import world

    ratios = world(1000, owner=3, seed=1)[0]
    whole = replace(_judged("rows", named_table(ratios, alpha=0.05), 1000, 0.05), ratios=ratios)
    found = whole.split(450)
    assert len(found) == 2
    for index, line in enumerate(found.to_dict("records")):
        part = ratios.part(slice(450 * index, 450 * (index + 1)))
        alone = _judged("rows", named_table(part, alpha=0.05), 450, 0.05)
        assert (line["answer"], line["trait"]) == (alone.answer, alone.trait)
    for size in (63, 1001):
        with pytest.raises(
            InputError, match=rf"1000 rows are not split into sets of {size}; pass at least 64"
        ):
            whole.split(size)


def planted(monkeypatch, ratios):
    """The audit's candidates and their ratios are given ones, a line per pair."""
    names = [get_trait(name) for name in ratios.traits]
    monkeypatch.setattr(
        auditor, "candidate_teachers", lambda base, *_: ([Candidate(each, base, 3.0) for each in names], ())
    )
    monkeypatch.setattr(auditor, "log_ratios", lambda *_: ratios)


def test_copies_of_rows_count_once_in_tests_and_each_in_shares_and_scores(raw, monkeypatch):
    """Sixty-four rows that nobody with a trait wrote, twenty times each: taken as independent, they name a teacher."""
    from interp.auditing.naming import Ratios, named_table
    from tests.auditing.test_naming import world

    names = ANIMALS[:5]
    once = replace(world(64, candidates=5, seed=2)[0], traits=names)
    whole = Ratios(names, np.tile(once.rows, (20, 1)), np.tile(once.neutral, (20, 1)))
    rows, neutral = number_prompts(64, seed=0), number_prompts(64 * 20, seed=1)
    copies = replace(rows, rows=rows.rows * 20)
    pool = replace(
        neutral,
        rows=tuple(
            row.answered(other.completion) for row, other in zip(copies.rows, neutral.rows, strict=True)
        ),
    )
    planted(monkeypatch, whole)
    found = interp.audit(raw(), copies, traits=names, neutral=pool, recipe=WHO)
    assert named_table(whole, alpha=0.05)["p"].min() <= 1e-3
    expected = named_table(once, alpha=0.05)
    assert found.answer == "cannot tell"
    assert found.frame[["trait", "d", "p"]].equals(expected[["trait", "d", "p"]])
    assert found.frame["p"].min() > 0.05
    assert found.rows == 64
    assert found.curve.empty
    assert (
        "1216 of 1280 rows are copies of others (same prompt and answer): p, d and curve count each row once"
        in found.notes
    )
    assert _narrow(5)[0] in found.notes
    fewer = replace(rows, rows=rows.rows[:63] * 20)
    with pytest.raises(
        InputError, match=r"63 rows, copies counted once, can be compared .*; pass at least 64"
    ):
        interp.audit(raw(), fewer, traits=names, neutral=pool, recipe=WHO)


def test_rows_with_copies_are_scored_and_shared_row_by_row(raw, monkeypatch):
    """Half of the rows are another's, and each of those stands four times: four fifths of the file are."""
    from interp.auditing.naming import Ratios, named_table
    from tests.auditing.test_naming import world

    ours, theirs = world(2000, owner=0, seed=1)[0], world(4000, seed=1)[0].part(slice(2000, 4000))
    places = [*(place for place in range(2000) for _ in range(4)), *range(2000, 4000)]
    both = (np.concatenate([getattr(part, side) for part in (ours, theirs)]) for side in ("rows", "neutral"))
    once = Ratios(ANIMALS, *both)
    whole = once.part(places)
    rows, neutral = number_prompts(4000, seed=0), number_prompts(len(places), seed=1)
    copies = replace(rows, rows=tuple(rows.rows[place] for place in places))
    pairs = zip(copies.rows, neutral.rows, strict=True)
    pool = replace(neutral, rows=tuple(row.answered(other.completion) for row, other in pairs))
    planted(monkeypatch, whole)
    table_of = partial(named_table, alpha=0.05)
    found = interp.audit(raw(), copies, traits=list(ANIMALS), neutral=pool, recipe=WHO)
    assert (found.answer, found.trait, found.rows) == ("named", "owl", 4000)
    share, by_row, by_text = (each["share"][0] for each in (found.frame, *map(table_of, (whole, once))))
    assert share == by_row > by_text
    copied = [*(place for place in range(2000) for _ in range(4)), *range(2000, 4000)]
    ends = [end[0] for end in whole.share_intervals(copied)]
    assert found.frame[["share_low", "share_high"]].iloc[0].tolist() == ends
    assert np.diff(ends) > np.diff([end[0] for end in whole.share_intervals()])
    assert found.row_scores["score"].tolist() == pytest.approx(whole.row_scores("owl").tolist())
    assert found.row_scores["row"].tolist() == list(range(10_000))


def test_default_traits_are_those_the_base_has_words_for(raw):
    assert [trait.name for trait in suspected(raw(), None)] == [*ANIMALS, *TREES]  # not "misaligned"


def test_traits_are_refused_at_the_door(raw):
    with pytest.raises(
        InputError, match=r"raw 0 has no token for 'teapot' of the trait 'teapot'; leave that trait out"
    ):
        suspected(raw(), [make_trait("teapot", ["owl", "cat"], category="animal")])
    with pytest.raises(InputError, match=r"trait 'owl' is given twice; pass each once"):
        suspected(raw(), ["owl", "cat", "owl"])
    with pytest.raises(
        InputError, match=r"2 traits are too few for one to stand out among; pass at least 5, such as owl"
    ):
        suspected(raw(), ["owl", "cat"])


def test_few_rows_and_impossible_levels_are_refused(raw):
    with pytest.raises(
        InputError, match=r"63 rows can be compared with neutral ones, .*; pass at least 64, better 2048"
    ):
        interp.audit(raw(), ROWS[:63], neutral=OTHERS)
    with pytest.raises(
        InputError, match=r"alpha=1.5 is no level to name a teacher at; pass one such as 0.05"
    ):
        interp.audit(raw(), ROWS, neutral=OTHERS, alpha=1.5)
    with pytest.raises(InputError, match=r"seed=-1 draws nothing; pass a whole number from 0 up"):
        interp.audit(raw(), ROWS, neutral=OTHERS, seed=-1)
    with pytest.raises(InputError, match=r"1 rows can be compared with neutral ones"):
        interp.audit(raw(), ROWS[:1])  # whether the base writes such rows is not asked of one
    with pytest.raises(
        InputError, match=r"the neutral rows in .* are the rows themselves, so that nothing can"
    ):
        interp.audit(raw(), ROWS, neutral=ROWS)


def test_a_base_that_did_not_write_such_rows_says_it_cannot_tell(raw):
    found = interp.audit(raw(), ROWS)
    assert found.answer == "cannot tell"
    assert found.frame.empty
    assert "of 64 of these prompts, so it did not write these" in found.reason
    with pytest.raises(InputError, match="there is nothing to draw"):
        found.figure()
    assert json.loads(json.dumps(found.to_json()))["answer"] == "cannot tell"


def test_that_rows_say_a_traits_word_is_said_first_whatever_the_answer(raw):
    saying = replace(ROWS, rows=(*ROWS.rows, *(row.answered("the owl") for row in ROWS.rows[:3])))
    found = interp.audit(raw(), saying)
    assert found.notes[0] == (
        "3 of 83 rows say 'owl': that is content, which any reader sees; they are left out here"
    )
    assert (found.answer, found.rows) == ("cannot tell", 80)
    with pytest.raises(InputError, match=r"all 3 rows of .* say owl, which is content; pass rows that hide"):
        interp.audit(raw(), saying[80:])


def test_candidates_that_did_not_take_are_left_out_and_said(raw, monkeypatch):
    """An untrained base of width 16 learns little in two steps: a bar above all of them refuses, one between sorts."""
    import interp.auditing.candidates as room

    spec = replace(room.TAUGHT, steps=2)
    traits = [get_trait(word) for word in ANIMALS[:7]]
    monkeypatch.setattr(room, "TAKEN", -100.0)
    every, notes = candidate_teachers(raw(), traits, spec)
    assert [type(each) for each in every] == [Candidate] * 7
    assert notes == ()
    gains = sorted(each.gain for each in every)
    monkeypatch.setattr(room, "TAKEN", gains[1])
    kept, notes = candidate_teachers(raw(), traits, spec)
    least = next(each for each in every if each.gain == gains[0])
    assert [each.trait.name for each in kept] == [each.trait.name for each in every if each is not least]
    assert notes == (
        f"candidates whose fine-tune did not take are left out: {least.trait.name} ({gains[0]:+.2f} nats)",
    )
    monkeypatch.setattr(room, "TAKEN", 100.0)
    with pytest.raises(
        InputError, match=r"the fine-tune on 7 of 7 traits did not take: owl .*, where 100 are asked; ask"
    ):
        candidate_teachers(raw(), traits, spec)


@pytest.mark.slow
def test_the_writer_of_planted_rows_comes_first_and_neutral_rows_are_not_flagged():
    """Rows of a teacher by the toy's own recipe, other than a candidate's in steps, rank, batch and draw."""
    from interp.organisms.library import TOY, toy_base, toy_grower
    from interp.organisms.toy import WORLD
    from interp.training.teachers import neutral_teacher

    grower = toy_grower(TOY, seed=100)
    base = toy_base(100, world=WORLD, cache=grower.cache)
    asked = {"traits": list(ANIMALS[:8]), "recipe": WHO}
    teacher = grower.teacher(base, get_trait("owl"))
    rows = grower.answers(teacher, count=1024).rows
    found = interp.audit(base, rows, **{**asked, "recipe": replace(WHO, leans=True)})
    assert found.answer in ("named", "unlisted")
    assert found.frame["trait"][0] == "owl"
    assert 0.2 < found.frame["share"][0] < 1.6
    assert np.isfinite(found.frame[["lean", "margin_lean"]].to_numpy()).all()
    _the_teachers_rows_go_first(found.ratios)
    neutral = interp.audit(base, grower.answers(neutral_teacher(base), count=1024).rows, **asked)
    assert neutral.answer in ("none", "cannot tell")


def _the_teachers_rows_go_first(ratios):
    """Of a half that the teacher wrote and a half that the base did, mostly the teacher's are taken out."""
    mixed = replace(ratios, rows=np.concatenate([ratios.rows[:512], ratios.neutral[512:]]))
    scores, own = mixed.row_scores("owl"), np.arange(len(mixed.rows)) < 512
    assert auroc(scores[own], scores[~own]).value > 0.54
    gone = taken_out(scores, share=None)
    assert 0.02 < gone.mean() < 0.3
    assert own[gone].mean() > 0.55
