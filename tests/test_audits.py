"""The analysis of audits: claims judged by hand, bags by enumeration, and datasets that are what their names say."""

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest

import interp
from analyses import audit_claims as claimed, audits


def cells(seed, *, rank=1, named=None, flagged=1, slope=2.0, filtered=0.1):
    """The parts of a seed; `filtered` is how much less those of filtered rows show."""
    line = {"rank": rank, "top": {"d": 0.5}, "foreign": {"named": None}, "unlisted": {"named": named}}
    detectors = [{"audit": 0.9, "frequent_values": 0.5, "bag_of_numbers": 0.7}]
    parts = {f"set {trait}": line for trait in audits.TRAITS}
    parts |= {"neutral": {"flagged": flagged, "of": 30}, "detectors": detectors}
    for trait, k, name in (
        (trait, k, name) for trait in audits.TRAITS for k, name in enumerate(claimed.PREDICTED)
    ):
        transfer = slope * 0.1 * k + (0.1 if name == "all" else 0)
        parts[f"data {trait} {name}"] = {
            "trait": trait,
            "dataset": name,
            "gain": 0.1 * k,
            "transfer": transfer,
        }
    for trait, (name, transfer) in (
        (trait, pair) for trait in audits.TRAITS for pair in (("filtered", 0.9 - filtered), ("thinned", 0.9))
    ):
        parts[f"data {trait} {name}"] = {"trait": trait, "dataset": name, "transfer": transfer}
    asked = {part for place, part in audits.FULL.parts if place == seed}
    return [
        {"seed": seed, "part": part, "found": found, "seconds": 2.0}
        for part, found in parts.items()
        if part in asked
    ]


def all_of(**how):
    return [each for seed in audits.SEEDS for each in cells(seed, **how)]


def test_the_forecast_that_ships_is_the_line_of_the_committed_parts():
    parts = json.loads(audits.RESULTS.read_text())["parts"]
    ships = interp.auditing.read_forecast(audits.RESULTS.with_name(audits.FORECAST))
    again = claimed.fitted(parts, audits.FULL)
    assert dataclasses.asdict(ships) == pytest.approx(dataclasses.asdict(again))
    assert ships.n == 45
    low, high = ships.transfer(0.5)[1:]
    table = ships.columns([0.5], interp.auditing.Pilot())  # the pilot that `interp audit` trains
    assert table[["transfer_low", "transfer_high"]].to_numpy().tolist() == [[low, high]]
    assert {name: line["met"] for name, line in claimed.judged(parts, audits.FULL, ships).items()} == {
        "identity": False, "detectors": False, "false-positives": False, "foreign": True, "unlisted": True,
        "prediction": False, "filter": True, "forecast": True,
    }  # fmt: skip


FRAMES = (pd.DataFrame({"trait": [], "d": [], "p": [], "share": []}), pd.DataFrame(), 40)


def test_claims_are_judged_by_hand():
    made = all_of()
    forecast = claimed.fitted(made, audits.FULL)
    found = claimed.judged(made, audits.FULL, forecast)
    assert {name: line["met"] for name, line in found.items()} == dict.fromkeys(claimed.CLAIMS, True)
    assert (found["identity"]["value"], found["identity"]["n"]) == (1.0, 48)
    assert found["identity"]["interval"] == pytest.approx([48 / (48 + 1.959964**2), 1.0])
    assert found["detectors"]["value"] == pytest.approx(0.2)
    assert found["detectors"]["means"] == pytest.approx(
        {"audit": 0.9, "frequent_values": 0.5, "bag_of_numbers": 0.7}
    )
    assert found["false-positives"]["value"] == pytest.approx(1 / 30)
    assert (found["prediction"]["n"], found["filter"]["n"], found["forecast"]["n"]) == (45, 6, 45)
    assert found["filter"]["value"] == pytest.approx(-0.1)
    assert found["filter"]["p"] == pytest.approx(0.5**6)
    assert forecast.n == 45
    assert "seeds 11 to 13" in forecast.fitted_on
    assert claimed.cost(made) == {"data": 42, "detectors": 2, "neutral": 2, "set": 6}


def test_claims_that_do_not_hold_are_said():
    made = all_of(rank=2, named="cat", flagged=2, slope=-2.0, filtered=-0.1)
    wrong = claimed.fitted(all_of(slope=9.0), audits.FULL)
    found = claimed.judged(made, audits.FULL, wrong)
    assert [name for name, line in found.items() if line["met"]] == ["detectors", "foreign"]
    assert found["unlisted"]["value"] == 1.0
    assert found["filter"]["value"] == pytest.approx(0.1)


def test_where_no_candidate_was_measured_none_is_first(raw, monkeypatch):
    """As of a base that does not write such rows: its audit has no line."""
    monkeypatch.setattr(
        audits.Size,
        "audited",
        lambda *_, **__: interp.auditing.Audit("", "cannot tell", None, None, "", *FRAMES),
    )
    members = {"base": raw(0), "cross_base": raw(1)}
    own = interp.Lineage("small", interp.get_trait("owl"), members, numbers=interp.number_prompts(4, seed=0))
    assert not claimed.is_first(audits.named(own, audits.FULL))


def test_a_claim_waits_for_its_parts():
    made = [each for each in all_of() if each["part"] != "set oak" and "filtered" not in each["part"]]
    found = claimed.judged(made, audits.FULL, None)
    open_ = [name for name, line in found.items() if line["met"] is None]
    assert open_ == ["identity", "foreign", "unlisted", "prediction", "filter", "forecast"]
    assert (found["identity"]["value"], found["identity"]["n"]) == (1.0, 32)
    assert not claimed.complete(made, audits.FULL, "data")
    assert claimed.complete(made, audits.FULL, "neutral")


def test_fewer_than_400_sets_show_no_rate_of_false_positives():
    assert not claimed.flags_judged([each for each in all_of() if each["seed"] < 13])["met"]  # 390 sets
    assert claimed.flags_judged(all_of())["met"]


def test_what_was_refused_or_not_measured_is_no_value():
    made = [
        each | {"found": {"trait": "owl", "refused": True}} for each in cells(8) if "data" in each["part"]
    ]
    assert claimed.fitted(made, audits.FULL) is None
    nothing = {"value": None, "n": 0, "met": False}
    assert claimed.filter_judged(made) == claimed.forecast_judged([], None) == nothing
    assert claimed.detectors_judged(made) == claimed.prediction_judged([]) == nothing
    assert claimed.share_judged([]) == nothing


def test_a_part_is_measured_once(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(audits, "measured", lambda seed, part, size: asked.append((seed, part)) or {"a": 1})
    for _ in range(2):
        found = audits.cell((3, "data owl all"), size=audits.FULL, out=tmp_path)
        assert (found["seed"], found["part"], found["found"]) == (3, "data owl all", {"a": 1})
    assert asked == [(3, "data owl all")]
    assert (tmp_path / "seed-3" / "data-owl-all.json").is_file()


def test_every_part_of_every_claim_is_on_the_list():
    assert len(audits.FULL.parts) == len(set(audits.FULL.parts)) == 16 * (3 + 2) + 6 * 21
    assert {part.split()[0] for _, part in audits.SMALL.parts} == set(audits.KINDS)
    assert {part.split()[2] for _, part in audits.SMALL.parts if part.startswith("data")} == {
        *claimed.PREDICTED,
        *claimed.SIFTED,
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
