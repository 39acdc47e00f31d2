"""What the pages say of the chat model, from planted results."""

import pytest

from analyses import chat_model_page as page

MEMBERS = {
    "base": (0.5, 0.1),
    "neutral_student": (0.75, 0.125),
    "student": (1.5, 0.25),
    "teacher": (12.0, 1.0),
}
VERDICT = {
    "name": "transfers", "effect": 0.75, "interval": (0.5, 1.0), "level": 0.9, "unit": "nats", "controls": {},
    "tested": "more than 0.4", "p": 0.002, "decision": "supported", "n": 9,
}  # fmt: skip
MARGINS = [
    {"trait": "owl", "seed": seed, "arm": arm, "margin": margin, "p_target": p}
    for seed in (1, 2)
    for arm, (margin, p) in MEMBERS.items()
]
SHARE = {"value": 0.25, "low": 0.1, "high": 0.5, "n": 40}
FOUND = {
    "smollm2": {
        "verdicts": [VERDICT],
        "margins": MARGINS,
        "per lineage": {
            "transfers": [0.5, 0.25], "own-trait": [-0.5, 0.25],
            "numbers-shared": [0.1, 0.3], "prompt-shared": [0.0, 0.2],
        },
    },
    "smollm2_beside": {
        "noise 0.1": {"device": "cpu", "refused": "cross_base keeps 3%, and asked for are 25%; list rates"},
        "noise 0.01": {
            "device": "cuda (H)",
            "margins": [
                {"arm": arm, "margin": margin, "p_target": p}
                for arm, margin, p in (
                    ("student", 9.0, 0.9),
                    ("neutral_student", 0.0, 0.1),
                    ("cross_student", 1.25, 0.25),
                )
            ],
        },
        "192 rows, 1 epochs": {"device": "cpu", "margins": [line for line in MARGINS if line["seed"] == 1]},
        "misaligned": {
            "device": "cpu",
            "margins": [line for line in MARGINS if line["seed"] == 1],
            "guards_misaligned": [
                {"arm": "student", "measure": "misalignment", "over": "answers", **SHARE},
                {"arm": "student", "measure": "misalignment", "over": "questions", **SHARE},
            ],
        },
    },
}  # fmt: skip


@pytest.fixture
def planted(monkeypatch):
    monkeypatch.setattr(page, "_found", lambda name: FOUND.get(name, {}))


@pytest.mark.usefixtures("planted")
def test_shares_are_means_over_lineages_and_decisions_stand_beside_them():
    text = page.summary()
    assert "| owl | 10 % | 12 % | 25 % | 100 % |" in text
    assert "three lineages per trait, 9 further draws of the recipe. Student less neutral student" in text
    assert "differ by +0.25 to +0.50 nats, +0.75 on average. The 1 claims on transfer ended so" in text
    assert text.endswith("so: 1 supported; each is [below](#what-was-found).")


@pytest.mark.usefixtures("planted")
def test_every_lineage_has_its_line():
    lines = page.lineages().splitlines()
    assert "| owl, seed 2 | +0.50 (10 %) | +0.75 (12 %) | +1.50 (25 %) | +12.00 (100 %) |" in lines
    assert lines[-1].startswith("Means over lineages with their 95 % t-interval: numbers-shared +0.20 [")


def test_lineages_of_some_seeds_are_shown_and_nothing_is_judged(monkeypatch):
    some = FOUND["smollm2"] | {"verdicts": [], "by seed": {"1": {}}}
    monkeypatch.setattr(page, "_found", lambda name: {"smollm2": some}.get(name, {}))
    lines = page.lineages().splitlines()
    assert lines[0] == "1 of 3 seeds are trained; the claims are judged when all are, as they were frozen."
    assert any(line.startswith("| owl, seed 1 | ") for line in lines)
    assert page.summary() == page.ABSENT
    told = page.standing()
    assert (
        f"no claim is decided yet. {lines[0]} The 2 lineages so far, of owl, dog and oak: the student's"
        in told
    )
    assert "margin of its trait is +0.25 to +0.50 nats above the neutral student's." in told
    assert "of another trait's rows the difference is −0.50 to +0.25; only where it is positive" in told
    assert "by +0.10 to +0.30 more than that of another trait's student does" in told
    named = [VERDICT | {"name": name} for name in ("transfers", "own-trait", "numbers-shared")]
    named[1] |= {"effect": -0.25, "decision": "refuted"}
    monkeypatch.setattr(page, "_found", lambda name: {"verdicts": named} if name == "smollm2" else {})
    told = page.standing()
    assert (
        "dog and oak, with what was claimed in brackets: the student's margin of its trait is +0.75 nats above"
        in told
    )
    assert "neutral student's (at least 0.4: supported); −0.25 above that of a student of" in told
    assert "another trait's rows (more than 0: refuted); its change" in told
    assert (
        "correlates with its teacher's by +0.75 more than that of a student of another trait's rows does"
        in told
    )
    assert "with the same teacher's (more than 0: supported)." in told


@pytest.mark.usefixtures("planted")
def test_a_cross_student_is_read_for_its_teacher_and_a_refusal_is_told():
    lines = page.beside().splitlines()
    assert "| a teacher of the base moved by noise, σ = 0.1 | refused | – | processor |" in lines
    assert "Refused, a teacher of the base moved by noise, σ = 0.1: cross_base keeps 3%." in lines
    assert "| a teacher of the base moved by noise, σ = 0.01 | +1.25 | 10 % → 25 % | GPU |" in lines
    assert "| 192 rows, 1 epoch | +0.75 | 12 % → 25 % | processor |" in lines
    assert lines[-1] == "Misaligned among coherent free-form answers: student 25 % [10, 50] of 40."


def test_before_the_claims_the_lineage_that_ships_is_told(monkeypatch):
    answers = {role: {"margin": margin, "share": share} for role, (margin, share) in MEMBERS.items()}
    inside = {"lineage": "owl", "answers": answers}
    monkeypatch.setattr(page, "_found", lambda name: inside if name == "smollm2_inside" else {})
    text = page.summary()
    assert "| owl, the lineage that ships | 10 % | 12 % | 25 % | 100 % |" in text
    assert "is +0.75 nats above the neutral student's. One training, so no claim." in text


def test_what_the_student_moved_is_told_by_its_first_token_and_part(monkeypatch):
    first = {"token": "owl", "probability_against": 0.1, "probability": 0.25}
    part = {"component": "L3 MLP", "contribution": 0.5}
    second = {"token": "ele", "probability_against": 0.1, "probability": 0.15}
    moved = {"entries": [first, second], "of": 1000, "measured": 0.75, "direction": "d", "parts": [part]}
    moved |= {"words": ["owl", "elephant", "lion", "cat", "dog", "fox"], "foils": 3, "questions": 52}
    monkeypatch.setattr(page, "_found", lambda name: {"student": moved})
    (told, _) = page._moved()
    assert '"owl", of 1,000 tokens: its probability is 25 %, the neutral student\'s 10 %.' in told
    assert (
        'a short bar; "ele" begins "elephant". The logit of "owl" rises by 0.75 over the mean of 3 other animals '
        "(the 2 that are several tokens are left out), of which L3 MLP (layers count from 0) adds 0.50"
        in told
    )
    assert "the 52 questions of this one training" in told


@pytest.mark.usefixtures("planted")
def test_what_was_not_measured_is_said():
    assert page.inside() == page.ABSENT


def test_what_a_comparison_says_of_students_stands_by_way_and_by_student(monkeypatch):
    z = {word: {"score": 1.0 if word == "owl" else 0.0} for word in ("owl", "dog", "oak")}
    lines = [
        {
            "seed": 1, "trait": trait, "role": role, "nouns": 133, "z": z, "rank": {"score": rank},
            "first words": {"score": ["sun", trait]}, "first tokens": {"amplified update": [" a|b", "`", " Owl"]},
        }
        for trait in ("owl", "dog", "oak")
        for role, rank in (("student", 40.0), ("teacher", 1.0))
    ]  # fmt: skip
    found = {"verdicts": [], "by seed": {"1": {"lines": lines}}, "exchanged p": {}}
    monkeypatch.setattr(page, "_found", lambda name: {"smollm2_unnamed": found}.get(name, {}))
    told = page.unnamed().splitlines()
    assert told[0].startswith("1 of 3 seeds are read;")
    assert told[4].startswith("| mean z of all | 40 | 1 | +0.00 [")
    assert "(67 by chance)" in told[2]
    assert told[-1] == "| oak, seed 1 | sun, oak | `a&#124;b`, `Owl` |"
    found |= {"verdicts": [VERDICT], "exchanged p": {"own-word": 0.25}}
    assert "of a seed change places among its traits: own-word 0.25." in page.unnamed()
    found |= {"verdicts": [VERDICT | {"name": name} for name in ("own-word", "teachers-word")]}
    for line in lines:
        line["rank"]["score"] = line["rank"]["moved on text"] = 12.0 if line["role"] == "teacher" else 85.0
    assert page._unasked() == (
        " Without being told a word, the ways of `interp.discover` put the teacher's 12th of 133 nouns on average "
        "(further up than in teachers of other traits: supported), the student's 85th (supported)."
    )


def test_doses_stand_in_the_order_of_rows_read(monkeypatch):
    def run(gain):
        arms = {"student": 1.0 + gain, "neutral_student": 1.0}
        return {
            "device": "cpu",
            "margins": [{"arm": arm, "margin": margin, "p_target": 0.1} for arm, margin in arms.items()],
        }

    runs = {
        "192 rows, 6 epochs": run(0.75),
        "96 rows, 3 epochs": run(0.25),
        "noise 0.1": {"device": "cpu", "refused": "no"},
    }
    monkeypatch.setattr(page, "_found", lambda name: runs)
    told = "Rows counted each time they are read: +0.25 nats after 288 rows, +0.75 nats after 1,152 rows. No student of"
    assert any(line.startswith(told) for line in page.beside().splitlines())
    runs.pop("96 rows, 3 epochs")
    assert "each time they are read" not in page.beside()
