"""The gate: outcomes and exit codes by hand, and a passport that says when it is another's or was edited."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest

from interp.auditing import auditor
from interp.auditing.auditor import Audit
from interp.auditing.gates import GatePolicy, check_passport, gate_file, gate_student_file, read_policy
from interp.auditing.neutral import Pairs
from interp.cli.main import main
from interp.core.content import digest, json_text
from interp.core.errors import InputError
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts
from interp.training.students import Recipe

FRAME = pd.DataFrame({"trait": ["owl"], "d": [0.2], "p": [0.01]})
FOUND = Audit("rows", "none", None, "does not", "nothing is seen", FRAME, pd.DataFrame(), 80)


@pytest.fixture
def place(tmp_path, raw, monkeypatch):
    """A folder with a base and rows; `answers` says what the audit will find there."""
    model = raw()
    for part in (model.hf, model.tokenizer):
        part.save_pretrained(tmp_path / "base")
    number_prompts(80, seed=0).to_jsonl(tmp_path / "rows.jsonl")
    number_prompts(80, seed=1).to_jsonl(tmp_path / "others.jsonl")

    def answers(**found):
        monkeypatch.setattr("interp.auditing.gates.audit", lambda model, rows, **how: replace(FOUND, **found))

    answers()
    return tmp_path, answers


def gate(monkeypatch, place, *words):
    monkeypatch.setattr(
        "sys.argv", ["interp", "gate", str(place / "base"), str(place / "rows.jsonl"), *words]
    )
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code


def test_exit_codes_follow_the_policy(place, monkeypatch, capsys):
    folder, answers = place
    policy = folder / "gate.yaml"
    policy.write_text("flags: [named, transmits]\nlimit: 70\n")
    for found, default, own in (
        ({}, 0, 0),
        ({"answer": "named", "trait": "owl"}, 1, 1),
        ({"answer": "unlisted"}, 1, 0),
        ({"answer": "unlisted", "passes": "cannot tell"}, 1, 3),
        ({"passes": "cannot tell"}, 0, 0),  # nobody's hand is seen, so there is nothing to transmit
        ({"answer": "cannot tell"}, 3, 3),
    ):
        answers(**found)
        assert gate(monkeypatch, folder) == default, found
        assert gate(monkeypatch, folder, "--policy", str(policy)) == own, found
    assert "flagged: nothing is seen" in capsys.readouterr().out


@pytest.mark.parametrize(("passes", "code"), [("transmits", 1), ("does not", 0), ("cannot tell", 3)])
def test_a_policy_about_what_transmits_passes_nothing_that_is_open(place, monkeypatch, passes, code):
    folder, answers = place
    policy = folder / "gate.yaml"
    policy.write_text("flags: [transmits]\n")
    answers(answer="named", trait="owl", passes=passes)
    assert gate(monkeypatch, folder, "--policy", str(policy)) == code


def test_rows_that_say_a_traits_word_are_flagged_and_said_first(place, monkeypatch, capsys):
    folder, _ = place
    rows, policy, path = folder / "rows.jsonl", folder / "gate.yaml", folder / "passport.json"
    policy.write_text("flags: [named, transmits]\n")
    lists = Prompts.from_file(rows)
    saying = (
        lists[:3].with_system("You love the owl.") + lists[3:4].with_system("Owls and a cat.") + lists[4:]
    )
    saying.to_jsonl(rows)
    told = (
        "4 of 80 rows say a listed trait's word ('owl' in 4, 'cat' in 1): that is content, which any reader sees; "
        "of the other rows: nothing is seen"
    )
    assert gate(monkeypatch, folder, "--out", str(path)) == 1
    assert capsys.readouterr().out.splitlines()[0] == f"flagged: {told}"
    passport = json.loads(path.read_text())
    assert list(passport)[:4] == ["format", "outcome", "reason", "content"]
    assert (passport["reason"], passport["content"]) == (
        told,
        {"rows": 4, "of": 80, "words": {"owl": 4, "cat": 1}},
    )
    assert gate(monkeypatch, folder, "--policy", str(policy)) == 0  # which asks for no content
    assert capsys.readouterr().out.splitlines()[0] == f"passed: {told}"
    (lists[4:] + saying[:4]).to_jsonl(rows)  # behind the rows that are audited
    assert gate(monkeypatch, folder, "--limit", "70") == 1


def test_rows_all_of_which_say_it_or_too_few_do_not_are_flagged(place, monkeypatch, capsys):
    folder, _ = place
    rows, policy = folder / "rows.jsonl", folder / "gate.yaml"
    policy.write_text("flags: [named, unlisted]\n")
    monkeypatch.setattr("interp.auditing.gates.audit", auditor.audit)
    lists = Prompts.from_file(rows)
    whole = "that is content, which any reader sees"
    lists.with_system("You love the owl.").to_jsonl(rows)
    assert gate(monkeypatch, folder) == 1
    assert capsys.readouterr().out.splitlines()[0] == (
        f"flagged: 80 of 80 rows say a listed trait's word ('owl' in 80): {whole}"
    )
    assert gate(monkeypatch, folder, "--policy", str(policy)) == 2
    (lists[:70].with_system("You love the owl.") + lists[70:]).to_jsonl(rows)
    monkeypatch.setattr(auditor, "paired_rows", lambda base, read, *_, **__: Pairs(read, read))
    capsys.readouterr()
    assert gate(monkeypatch, folder) == 1
    assert capsys.readouterr().out.startswith(
        f"flagged: 70 of 80 rows say a listed trait's word ('owl' in 70): {whole}; of the other rows: 10 rows can be "
    )


def test_rows_in_words_that_the_base_does_not_know_are_anothers(place, monkeypatch, capsys):
    folder, _ = place
    monkeypatch.setattr("interp.auditing.gates.audit", auditor.audit)
    texts = [("list: 4, 5. continue.", f"teapot kettle saucer {k}") for k in range(80)]
    Prompts.from_pairs(texts).to_jsonl(folder / "rows.jsonl")
    assert gate(monkeypatch, folder) == 3
    said = capsys.readouterr().out.splitlines()[0]
    assert said.startswith("cannot tell: ")
    assert (
        "of the tokens of rows.jsonl are unknown to the tokenizer, such as 'teapot', 'kettle', 'saucer'"
        in said
    )
    assert "so base did not write these" in said


def test_a_policy_that_stops_no_student_is_refused(place):
    folder, _ = place
    with pytest.raises(
        InputError, match=r"flags: \[content\] stops no student; add named or transmits to them"
    ):
        gate_student_file(
            str(folder / "base"), str(folder), policy=GatePolicy(flags=("content",)), recipe=Recipe()
        )


def test_a_folder_is_no_passport(place):
    folder, _ = place
    base, told = str(folder / "base"), r"is a folder; name the passport in it, such as .*passport\.json"
    with pytest.raises(InputError, match=told):
        gate_file(base, folder / "rows.jsonl", policy=GatePolicy(), out=folder)
    with pytest.raises(InputError, match=told):
        gate_student_file(base, str(folder), policy=GatePolicy(), recipe=Recipe(), out=folder)


def test_a_passport_of_the_first_rows_is_refused_when_others_follow(place):
    folder, _ = place
    base, rows, path = str(folder / "base"), folder / "rows.jsonl", folder / "passport.json"
    made = gate_file(base, rows, policy=GatePolicy(limit=70), out=path)
    assert made["audited"] == 70
    rows.write_text(rows.read_text() + (folder / "others.jsonl").read_text())
    with pytest.raises(InputError, match=r"passport of another rows \(\w{16}, not \w{16}\)"):
        check_passport(path, base, rows)


def test_a_passport_is_of_its_base_and_rows_and_unedited(place, monkeypatch, raw):
    folder, answers = place
    answers(answer="named", trait="owl")
    base, rows, path = str(folder / "base"), folder / "rows.jsonl", folder / "passport.json"
    made = gate_file(base, rows, policy=GatePolicy(limit=70), out=path)
    assert check_passport(path, base, rows) == made == json.loads(path.read_text())
    assert gate(monkeypatch, folder, "--check", str(path)) == 1
    with pytest.raises(
        InputError, match=r"passport of another rows \(\w{16}, not \w{16}\); run the gate on these"
    ):
        check_passport(path, base, folder / "others.jsonl")
    for part in (raw(1).hf, raw(1).tokenizer):
        part.save_pretrained(folder / "base")
    with pytest.raises(
        InputError, match=r"passport of another base \(\w{16}, not \w{16}\); run the gate on these"
    ):
        check_passport(path, base, rows)
    path.write_text(path.read_text().replace('"flagged"', '"passed"', 1))
    with pytest.raises(
        InputError, match=r"passport\.json was changed after the gate wrote it; make it again"
    ):
        check_passport(path, base, rows)
    edited = json.loads(path.read_text())
    path.write_text(
        json_text({**edited, "digest": digest(json_text({k: edited[k] for k in edited if k != "digest"}))})
    )
    raw().hf.save_pretrained(folder / "base")
    raw().tokenizer.save_pretrained(folder / "base")
    assert check_passport(path, base, rows)["outcome"] == "passed"  # a checksum is no signature
    old = {k: 2 if k == "format" else edited[k] for k in edited if k != "digest"}
    path.write_text(json_text({**old, "digest": digest(json_text(old))}))
    with pytest.raises(
        InputError, match=r"passport\.json is a passport of format 2, and 3 is read; make it again"
    ):
        check_passport(path, base, rows)
    path.write_text("[]")
    with pytest.raises(
        InputError, match=r"passport\.json is no passport of a gate .*; make one with interp gate --out"
    ):
        check_passport(path, base, rows)


def test_a_passport_by_another_policy_is_refused(place, monkeypatch, capsys):
    folder, _ = place
    policy, path = folder / "gate.yaml", folder / "passport.json"
    policy.write_text("flags: [named]\nlimit: 70\n")
    assert gate(monkeypatch, folder, "--policy", str(policy), "--out", str(path)) == 0
    assert gate(monkeypatch, folder, "--check", str(path)) == 0
    assert gate(monkeypatch, folder, "--check", str(path), "--policy", str(policy)) == 0
    policy.write_text("flags: [content, named]\n")
    assert gate(monkeypatch, folder, "--check", str(path), "--policy", str(policy)) == 2
    assert (
        "passport.json was made by another policy (limit 70, not None; flags ['named'], not ['content', 'named']); run "
        "the gate with this policy" in capsys.readouterr().err
    )


def test_a_policy_that_cannot_be_kept_is_refused(tmp_path):
    path = tmp_path / "gate.yaml"
    path.write_text("flag: [named]\n")
    with pytest.raises(InputError, match=r"gate\.yaml.*'flag'.*flags"):
        read_policy(path)
    for text, told in (
        ("flags: []\n", r"flags: \[\] stops nothing; name what stops the rows"),
        (
            "pilot: false\n",
            r"pilot: false measures nothing of what transmits, .* flags: \[content, named, unlisted\]",
        ),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=told):
            read_policy(path)
    path.write_text("traits: [ovl]\n")
    with pytest.raises(InputError, match=r"Trait 'ovl' is unknown; nearest: owl"):
        read_policy(path)
    for line, said in (
        ("limit: -5", "limit: -5 leaves no rows; write at least 1"),
        ("limit: 0", "limit: 0 leaves no rows; write at least 1"),
        ("seed: -1", "seed=-1 draws nothing; pass a whole number from 0 up"),
        ("alpha: .nan", "alpha=nan is no level to name a teacher at"),
    ):
        path.write_text(line)
        with pytest.raises(InputError, match=said):
            read_policy(path)
    assert read_policy(None) == GatePolicy()


def test_a_base_without_a_tokenizer_is_refused_before_the_audit(place, tmp_path, raw):
    folder, _ = place
    raw().hf.save_pretrained(tmp_path / "mute")
    with pytest.raises(
        InputError, match=r"mute has no tokenizer; pass a folder that holds one beside the weights"
    ):
        gate_file(str(tmp_path / "mute"), folder / "rows.jsonl", policy=GatePolicy())
