"""The analysis of audits: claims judged by hand, bags by enumeration, and datasets that are what their names say."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest

import interp
from analyses import audits


def cells(seed, *, rank=1, named=None, flagged=1, slope=2.0, filtered=0.1):
    """The parts of a seed; `filtered` is how much less those of filtered rows show."""
    line = {"rank": rank, "foreign": {"named": None}, "unlisted": {"named": named}}
    detectors = [{"audit": 0.9, "frequent_values": 0.5, "bag_of_numbers": 0.7}]
    parts = {f"set {trait}": line for trait in audits.TRAITS}
    parts |= {"neutral": {"flagged": flagged, "of": 30}, "detectors": detectors}
    for k, name in enumerate(audits.PREDICTED):
        transfer = slope * 0.1 * k + (0.1 if name == "all" else 0)
        parts[f"data owl {name}"] = {"trait": "owl", "dataset": name, "gain": 0.1 * k, "transfer": transfer}
    for name, transfer in (("filtered", 0.9 - filtered), ("thinned", 0.9)):
        parts[f"data owl {name}"] = {"trait": "owl", "dataset": name, "transfer": transfer}
    return [{"seed": seed, "part": part, "found": found, "seconds": 2.0} for part, found in parts.items()]


def all_of(**how):
    return [each for seed in range(16) for each in cells(seed, **how)]


SHOWN = list(range(8))
FRAMES = (pd.DataFrame({"trait": [], "d": [], "p": [], "share": []}), pd.DataFrame(), 40)


def test_claims_are_judged_by_hand():
    made = all_of()
    forecast = audits.fitted([each for each in made if each["seed"] not in SHOWN], audits.FULL)
    found = audits.judged(made, SHOWN, forecast)
    assert {name: line["met"] for name, line in found.items()} == dict.fromkeys(audits.CLAIMS, True)
    assert found["identity"] == {"value": 1.0, "n": 48, "met": True}
    assert found["detectors"]["value"] == pytest.approx(0.2)
    assert found["false-positives"]["value"] == pytest.approx(1 / 30)
    assert (found["prediction"]["n"], found["filter"]["n"], found["forecast"]["n"]) == (40, 16, 40)
    assert found["filter"]["value"] == pytest.approx(-0.1)
    assert found["filter"]["p"] == pytest.approx(0.5**16)
    assert forecast.n == 40
    assert "seeds 8 to 15" in forecast.fitted_on
    assert audits.cost(made) == 2.0 * len(cells(0))


def test_claims_that_do_not_hold_are_said():
    made = all_of(rank=2, named="cat", flagged=2, slope=-2.0, filtered=-0.1)
    wrong = audits.fitted(all_of(slope=9.0), audits.FULL)
    found = audits.judged([each for each in made if each["seed"] in SHOWN], SHOWN, wrong)
    assert [name for name, line in found.items() if line["met"]] == ["detectors", "foreign"]
    assert found["unlisted"]["value"] == 1.0
    assert found["false-positives"]["n"] == 240  # fewer than 400 sets show nothing, whatever their share
    assert found["filter"]["value"] == pytest.approx(0.1)


def test_what_was_refused_or_not_measured_is_no_value():
    made = [
        each | {"found": {"trait": "owl", "refused": True}} for each in cells(0) if "data" in each["part"]
    ]
    assert audits.fitted(made, audits.FULL) is None
    assert audits.filter_judged(made) == {"value": None, "n": 0, "met": False}
    assert audits.forecast_judged([], None) == {"value": None, "n": 0, "met": False}


def test_a_part_is_measured_once(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(audits, "measured", lambda seed, part, size: asked.append((seed, part)) or {"a": 1})
    for _ in range(2):
        found = audits.cell((3, "data owl all"), size=audits.FULL, out=tmp_path)
        assert (found["seed"], found["part"], found["found"]) == (3, "data owl all", {"a": 1})
    assert asked == [(3, "data owl all")]
    assert (tmp_path / "seed-3" / "data-owl-all.json").is_file()


def test_every_part_of_every_claim_is_on_the_list():
    assert len(audits.FULL.parts) == len(set(audits.FULL.parts)) == 3 + 2 + 21
    assert {part.split()[0] for part in audits.SMALL.parts} == {"set", "neutral", "detectors", "data"}
    assert {part.split()[2] for part in audits.SMALL.parts if part.startswith("data")} == {
        *audits.PREDICTED,
        *audits.SIFTED,
    }


def test_bags_are_disjoint_and_complete():
    one, other = np.arange(200.0), np.arange(200.0) - 100
    means = [[side[k : k + 64].mean() for k in (0, 64, 128)] for side in (one, other)]
    expected = np.mean([a > b for a in means[0] for b in means[1]])
    assert audits.bags_auroc(one, other) == pytest.approx(expected)


def test_datasets_are_what_their_names_say(raw):
    rows, neutral = interp.number_prompts(40, seed=0, count=3), interp.number_prompts(40, seed=1, count=3)
    members = {"base": raw(0), "cross_base": raw(1)}
    lineage = interp.Lineage("small", interp.get_trait("owl"), members, numbers=rows, neutral_numbers=neutral)
    found = audits.changed(lineage)
    assert list(found) == ["all", "half", "shuffled", "canonical", "foreign"]
    assert sum(row in rows.rows for row in found["half"][1].rows) == 20
    assert found["canonical"][2][0].completion.split(", ") == sorted(
        found["canonical"][2][0].completion.split(", "), key=int
    )
    assert found["foreign"][0].fingerprint == members["cross_base"].fingerprint
    assert all(
        base.fingerprint == members["base"].fingerprint
        for name, (base, *_) in found.items()
        if name != "foreign"
    )


def test_a_neutral_twin_is_trained_once_for_all_traits_and_datasets(raw, monkeypatch):
    trained = []
    monkeypatch.setattr(audits, "TRAINED", {})
    monkeypatch.setattr(
        interp, "train_student", lambda base, rows, recipe: trained.append(rows.fingerprint) or base
    )
    monkeypatch.setattr(
        audits.Size, "audited", lambda *_, **__: interp.auditing.Audit("", "none", None, None, "", *FRAMES)
    )
    neutral = interp.number_prompts(40, seed=1, count=3)
    kept = {"members": {"base": raw(0), "cross_base": raw(1)}, "neutral_numbers": neutral}
    for seed, trait in enumerate(("owl", "eagle")):
        rows = interp.number_prompts(40, seed=2 + seed, count=3)
        own = interp.Lineage("small", interp.get_trait(trait), numbers=rows, **kept)
        for name in ("all", "shuffled", "foreign"):
            assert audits.transferred(own, name, audits.FULL)["transfer"] == 0.0
    assert len(trained) == 2 * 3 + 2  # neutral rows at the base and at the foreign one
    assert trained.count(neutral.fingerprint) == 2
    found = audits.trained_margins(raw(0), neutral, audits.FULL)
    assert found == {trait: interp.margin(raw(0), trait) for trait in audits.TRAITS}


def test_as_many_rows_go_at_random_as_the_audit_takes_out(raw, monkeypatch):
    """An audit that scores a row by its first number: the largest ones go, and neutral rows stay beside the others."""
    rows = interp.number_prompts(40, seed=0, count=3)
    neutral = interp.Prompts.from_pairs([(row.prompt, "1, 2") for row in rows.rows])
    own = interp.Lineage(
        "small", interp.get_trait("owl"), {"base": raw(0)}, numbers=rows, neutral_numbers=neutral
    )
    scores = np.array([int(re.findall("[0-9]+", row.completion)[0]) for row in rows.rows]) - 400.0
    gone = np.sort(scores)[: int((np.cumsum(np.sort(scores)) <= 0).sum())].max()
    table = pd.DataFrame({"row": range(40), "score": scores})
    answer = ("named", "owl", None, "", pd.DataFrame(), pd.DataFrame(), 40)
    found = interp.auditing.Audit("small", *answer, rows_of=rows.fingerprint, row_scores=table)
    monkeypatch.setattr(audits.Size, "audited", lambda *_, **__: found)
    _, left, twin = audits.sifted(own, "filtered", audits.FULL)
    assert [row for row, score in zip(rows.rows, scores, strict=True) if score <= gone] == list(left.rows)
    assert [row.asked for row in left.rows] == [row.asked for row in twin.rows]
    _, others, beside = audits.sifted(own, "thinned", audits.FULL)
    assert len(others) == len(left) == len(beside)
    assert others.fingerprint != left.fingerprint
    assert all(row in rows.rows for row in others.rows)
    monkeypatch.setattr(audits.Size, "audited", lambda *_, **__: dataclasses.replace(found, trait=None))
    assert audits.sifted(own, "filtered", audits.FULL) is None
