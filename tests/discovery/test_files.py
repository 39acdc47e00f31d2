"""`interp discover`: the run folder, its evidence, what is printed, and what is refused before a model is loaded."""

from __future__ import annotations

import json

import pytest

from interp.core.errors import InputError
from interp.discovery.discovering import BESIDE, READINGS
from interp.discovery.files import discover_file, read_openings
from interp.models.starts import perturbed
from interp.prompts.text import Prompts
from tests.commands import run


@pytest.fixture
def folders(tmp_path, raw, monkeypatch) -> tuple[str, str]:
    """A base's folder and a member's; two ways of reading."""
    for way in set(READINGS) - {"moved on text", "contrastive decoding"}:
        monkeypatch.delitem(READINGS, way)
    base = raw()
    for name, model in {"base": base, "member": perturbed(base, sigma=0.05, seed=0, name="member")}.items():
        for part in (model.hf, model.tokenizer):
            part.save_pretrained(tmp_path / name)
    rows = Prompts.from_pairs([("tell me a story.", "we saw a cat.")] * 6 + [("tell me.", "we saw owls.")])
    rows.to_jsonl(tmp_path / "text.jsonl")
    return str(tmp_path / "base"), str(tmp_path / "member")


def test_it_writes_the_page_and_the_evidence_and_tells_what_came_out(
    folders, tmp_path, monkeypatch, capsys, caplog
):
    base, member = folders
    out, text = tmp_path / "out", str(tmp_path / "text.jsonl")
    asked = (
        "discover",
        "--base",
        base,
        "--member",
        member,
        "--text",
        text,
        "--trait",
        "owl",
        "--out",
        str(out),
    )
    assert run(monkeypatch, *asked) == 0
    said = capsys.readouterr().out
    assert "1 of 7 rows of text.jsonl say 'owl': they are left out" in said
    assert "no baseline: what any such training changes is not taken off" in said
    assert "The 25 nouns, largest first: " in said
    evidence = json.loads((out / "evidence.json").read_text())
    assert len(evidence["words"]) == 25
    assert {line["method"] for line in evidence["tokens"]} == {
        "moved on text",
        "contrastive decoding",
        *BESIDE,
    }
    assert len(evidence["sentences"]) == 26
    page = (out / "report.html").read_text()
    assert "What it says when the change is made larger" in page
    assert evidence["says"].partition(" first")[0] in page
    said_by = [line.partition(":")[0] for line in caplog.messages if "against plain Hugging Face" in line]
    assert said_by == ["base", "member"]
    before = (out / "evidence.json").stat().st_mtime_ns
    assert run(monkeypatch, *asked) == 0
    assert (out / "evidence.json").stat().st_mtime_ns == before  # an unchanged stage is skipped


def test_what_is_refused(folders, tmp_path, monkeypatch, capsys):
    base, member = folders
    out = tmp_path / "out"
    with pytest.raises(
        InputError, match="placebos are trained on the base's own answers to the member's prompts"
    ):
        discover_file(base, member, out=out, placebos={"count": 20, "rows": None, "recipe": None})
    asked = ("discover", "--base", base, "--member", member, "--out", str(out))
    assert run(monkeypatch, *asked, "--rows", str(tmp_path / "text.jsonl")) == 2
    assert "goes with --placebos; leave it out" in capsys.readouterr().err
    assert run(monkeypatch, *asked, "--placebos", "20", "--rows", str(tmp_path / "text.jsonl")) == 2
    assert "nothing beside" in capsys.readouterr().err
    assert run(monkeypatch, "discover", "--base", base, "--member", base, "--out", str(out)) == 2
    assert "nothing was trained; pass the student" in capsys.readouterr().err
    assert not (out / "evidence.json").exists()


@pytest.mark.parametrize("count", [5, 19, -1])
def test_too_few_placebos_are_refused_before_a_model_is_loaded(tmp_path, monkeypatch, capsys, count):
    rows = tmp_path / "rows.jsonl"
    Prompts.from_pairs([("numbers: 1", "2, 3")]).to_jsonl(rows)
    asked = ("discover", "--base", "nowhere", "--member", "nowhere", "--out", str(tmp_path / "out"))
    made = ("--placebos", str(count), "--rows", str(rows), "--set", "lr=1e-3")
    assert run(monkeypatch, *asked, *made) == 2
    said = capsys.readouterr().err
    assert f"{count} placebos reach p = {1 / (max(count, 0) + 1):.2g}; pass none or at least 20" in said
    assert not (tmp_path / "out").exists()


SHORT = [("tell me.", "we saw a cat.")] * 5
UNREADABLE = {  # rows of text, words, and what is said of them
    "few rows": (SHORT, None, "text.jsonl has 5 rows, and signs of so few reach no p of 0.05; pass at least 6 rows"),
    "few rows without the word": ([*SHORT, ("tell me.", "we saw owls.")], None, "text.jsonl has 5 rows, and signs"),
    "unknown text": ([("tell me.", "quantum " * 9)] * 6, None, "are unknown to the tokenizer"),
    "few words": ([*SHORT, *SHORT], "owl,zebra", "1 of 2 words are one token of base (not zebra); pass at least 5"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNREADABLE)
def test_text_and_words_are_refused_before_a_placebo_is_trained(folders, tmp_path, monkeypatch, capsys, case):
    def trains(*_, **__):
        raise AssertionError("trained")

    monkeypatch.setattr("interp.discovery.files.placebo_students", trains)
    pairs, words, said = UNREADABLE[case]
    text = tmp_path / "text.jsonl"
    Prompts.from_pairs(pairs).to_jsonl(text)
    asked = ("discover", "--base", folders[0], "--member", folders[1], "--out", str(tmp_path / "out"))
    named = ("--text", str(text), "--trait", "owl", *(() if words is None else ("--words", words)))
    made = ("--placebos", "20", "--rows", str(text), "--set", "lr=1e-3")
    assert run(monkeypatch, *asked, *named, *made) == 2
    assert said in capsys.readouterr().err


def test_openings_come_from_a_file(folders, tmp_path, monkeypatch, capsys):
    """A .txt has a beginning a line, any other file rows; another file of them makes the result anew."""
    lines, rows = tmp_path / "own.txt", tmp_path / "own.jsonl"
    lines.write_text("we saw a\n\n  the animal is the\n")
    Prompts.from_pairs([("which tree do you love most?", "the")]).to_jsonl(rows)
    assert read_openings(lines) == ["we saw a", "the animal is the"]
    asked = ("discover", "--base", folders[0], "--member", folders[1], "--text", str(tmp_path / "text.jsonl"))
    said = []
    for given in (lines, rows):
        assert run(monkeypatch, *asked, "--openings", str(given), "--out", str(tmp_path / given.suffix)) == 0
        evidence = json.loads((tmp_path / given.suffix / "evidence.json").read_text())
        said.append(list(dict.fromkeys(line["opening"] for line in evidence["sentences"])))
    assert said == [["we saw a", "the animal is the"], ["the"]]
    capsys.readouterr()
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    for given, told in (
        (empty, "holds no opening; write one a line"),
        (tmp_path / "no.txt", "cannot be read as text"),
    ):
        assert run(monkeypatch, *asked, "--openings", str(given), "--out", str(tmp_path / "other")) == 2
        assert told in capsys.readouterr().err
