"""How often audits are right, as the pages say it: by hand, and while nothing or not everything is measured."""

from analyses import audits_page as page
from analyses.audit_claims import CLAIMS
from analyses.audit_smollm2 import WRITERS, judged

LINES = {
    "identity": {"value": 0.875, "n": 24, "interval": [0.69, 0.957], "met": None},
    "detectors": {
        "value": 0.204,
        "n": 24,
        "means": {"audit": 0.95, "frequent_values": 0.7, "bag_of_numbers": 0.72},
        "met": True,
    },
    "false-positives": {"value": 0.02, "n": 512, "interval": [0.01, 0.036], "met": True},
    "foreign": {"value": 0.0, "n": 24, "interval": [0.0, 0.138], "met": None},
    "unlisted": {"value": 0.25, "n": 24, "interval": [0.12, 0.449], "met": False},
    "prediction": {"value": None, "n": 0, "met": None},
    "filter": {"value": -0.1, "n": 6, "p": 0.03125, "met": True},
    "forecast": {"value": None, "n": 0, "met": None},
}

ANSWERS = [*[("named", "owl")] * 20, ("named", "cat"), *[("unlisted", None)] * 2, ("cannot tell", None)]
PARTS = [
    {
        "part": "set owl",
        "found": {"trait": "owl", "answer": answer, "named": named, "foreign": {"answer": elsewhere}},
    }
    for (answer, named), elsewhere in zip(ANSWERS, ["unlisted"] * 6 + ["none"] * 18, strict=True)
] + [{"part": "neutral", "found": {"flagged": 1, "of": 32}}]


def test_every_claim_has_a_line_and_open_ones_say_so(monkeypatch):
    monkeypatch.setattr(page, "measured", lambda name: name != "audit_draws")
    monkeypatch.setattr(page, "kept", lambda name: {"claims_judged": LINES, "parts": PARTS})
    told = page.table().splitlines()
    assert told[2].endswith("| 87.5 % [95 %: 69, 96] | 24 sets | open, parts are missing |")
    assert told[3].endswith("| +0.20 | 24 pairs of traits | holds |")
    assert told[6].endswith("| 25 % [95 %: 12, 45] | 24 sets | does not hold |")
    assert told[7].endswith("| – | – | open, parts are missing |")
    assert told[8].endswith("| -0.10, p = 0.031 | 6 seeds | holds |")
    assert len(told) == 2 + len(CLAIMS) + 6
    assert told[11] == (
        "Of the 24 sets of 2,048 rows 20 are named by their teacher's trait and 1 by another; the other answers are "
        '"unlisted" 2, "cannot tell" 1. Read at another base they are answered "none" 18, "unlisted" 6; of these '
        '"unlisted" flags rows that pass nothing there.'
    )
    assert told[13].startswith("Intervals are Wilson's, as if every set were drawn by itself;")
    assert told[-1].startswith(
        "Mean AUROC of one trait's 64 rows against another's: the audit's ratios .95, counts of values (naive "
        "Bayes) .70, a bag of numbers .72. Counts and bag are fitted on"
    )
    said = page.standing()
    assert said.startswith(
        "On the toy: of 24 sets of 2,048 rows by teachers of owl, eagle and oak 20 are given their teacher's trait, 1 "
        "another and the rest no name; the teacher's trait ranks first of twenty candidates in 87.5 % [95 %: 69, 96]. "
        "Of 512 sets of 256 rows that the base itself wrote 2 % [95 %: 1, 4] are flagged (claimed: at most 5 %; "
        "holds). Of 24 teachers' sets read at another base, which they pass nothing to, 0 % [95 %: 0, 14] are given a "
        "name, and 6 are flagged"
    )
    assert said.endswith("[Measured so far](docs/results.md#audits-of-rows), with claims still open.")


def test_what_is_not_measured_is_not_said_of_no_sets(monkeypatch):
    empty = {"value": None, "n": 0, "met": None}
    lines = LINES | dict.fromkeys(("identity", "foreign"), empty)
    monkeypatch.setattr(page, "measured", lambda name: name != "audit_draws")
    monkeypatch.setattr(page, "kept", lambda name: {"claims_judged": lines, "parts": []})
    assert page.standing().startswith("On the toy: of 512 sets of 256 rows that the base itself wrote 2 %")
    assert page.table().splitlines()[11].startswith("Intervals are Wilson's")
    monkeypatch.setattr(
        page, "kept", lambda name: {"claims_judged": lines | {"false-positives": empty}, "parts": []}
    )
    assert "not measured yet" in page.standing()


def test_another_students_ranking_stands_beside_the_prediction(monkeypatch):
    found = {"students": 0.614, "gain, mean": 0.4, "datasets": [{}] * 45}
    monkeypatch.setattr(page, "measured", lambda name: name == "audit_draws")
    monkeypatch.setattr(page, "kept", lambda name: found)
    (told, _) = page._ceiling()
    assert "a second student of each of its 45 datasets" in told
    assert "ranks them as the first does at .61; the gain ranks the mean of both at .40" in told


def test_nothing_measured_is_said(monkeypatch):
    monkeypatch.setattr(page, "measured", lambda name: False)
    assert page.table() == page.ABSENT
    assert "not measured yet" in page.standing()


def test_the_chat_models_sets_have_a_line_each(monkeypatch):
    candidates = [{"trait": "cat", "d": 0.5}, {"trait": "owl", "d": 0.25}]
    sets = {
        "owl": {"rows": 96, "answer": "unlisted", "named": None, "candidates": candidates},
        "cat": {"rows": 90, "answer": "named", "named": "cat", "candidates": candidates},
        "neutral": {"rows": 96, "answer": "none", "named": None, "candidates": candidates},
    }
    found = {"sets": sets, "met": {"first": None, "neutral-alone": True}}
    monkeypatch.setattr(page, "measured", lambda name: name != "audit_draws")
    monkeypatch.setattr(page, "kept", lambda name: found)
    told = page.chat_model().splitlines()
    assert told[2] == "| teacher of owl | 96 | unlisted | 2 of 2 | cat +0.50, owl +0.25 |"
    assert told[3] == "| teacher of cat | 90 | named: cat | 1 of 2 | cat +0.50, owl +0.25 |"
    assert told[4].startswith("| the base itself | 96 | none | – |")
    assert told[-1].endswith("open, parts are missing; rows that the base drew are not flagged: holds.")


def test_the_chat_models_claims_wait_for_all_sets():
    one = {"candidates": [{"trait": "owl", "d": 0.5}], "flagged": False}
    sets = {name: one | {"candidates": [{"trait": name, "d": 0.5}]} for name in WRITERS[:3]}
    assert judged(sets)["met"] == {"first": None, "neutral-alone": None}
    sets |= {WRITERS[3]: one, "neutral": one | {"flagged": True}}
    assert judged(sets)["met"] == {"first": True, "neutral-alone": False}
    sets[WRITERS[0]] = {"candidates": [{"trait": WRITERS[1], "d": 0.5}]}
    assert judged(sets)["met"]["first"] is False
