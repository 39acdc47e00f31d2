"""Rows and JSONL: exact rows, round trips, and one clear sentence for every way a file can be wrong."""

import json
import logging
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from interp.core.runs import InputError
from interp.prompts.text import Prompts, Row

CHAT = (
    ("system", "be brief"),
    ("user", "hi"),
    ("assistant", "hello"),
    ("user", "count"),
    ("assistant", "1, 2"),
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_row_names_its_parts() -> None:
    row = Row(CHAT)
    assert (row.system, row.prompt, row.completion, row.asked) == ("be brief", "count", "1, 2", CHAT[:-1])
    bare = Row.pair("count")
    assert (bare.system, bare.prompt, bare.completion, bare.asked) == ("", "count", "", bare.messages)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ((("usr", "hi"),), "Role 'usr' is unknown; nearest: user"),
        ((("user", "hi"), ("system", "late")), r"roles \['user', 'system'\] cannot be answered"),
        ((("assistant", "hi"),), r"roles \['assistant'\] cannot be answered"),
        ((), r"roles \[\] cannot be answered"),
    ],
)
def test_conversations_that_cannot_be_answered_are_refused(messages, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Row(messages)


def test_both_row_formats_are_read_and_blank_lines_skipped(tmp_path: Path) -> None:
    chat = json.dumps({"messages": [{"role": role, "content": content} for role, content in CHAT]})
    path = write(
        tmp_path / "rows.jsonl",
        '{"prompt": "p", "completion": "1"}',
        "",
        chat,
        '{"prompt": "q", "completion": ""}',
        "",
    )
    prompts = Prompts.from_jsonl(path)
    assert prompts.rows == (Row.pair("p", "1"), Row(CHAT), Row.pair("q"))
    assert prompts.label == "rows.jsonl"


def test_an_empty_last_answer_is_no_answer(tmp_path: Path) -> None:
    line = '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": ""}]}'
    assert Prompts.from_jsonl(write(tmp_path / "a.jsonl", line)).rows == (Row.pair("q"),)


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"prompt": "p", "completion": "1"}\r\n{"prompt": "q", "completion": "2"}\r\n'
    )
    assert Prompts.from_jsonl(path).rows == (Row.pair("p", "1"), Row.pair("q", "2"))


def test_known_metadata_is_silent_and_other_keys_are_counted(tmp_path: Path, caplog) -> None:
    lines = ['{"prompt": "p", "completion": "1", "seed": 3, "teacher": "owl", "colour": "red"}'] * 2
    with caplog.at_level(logging.WARNING):
        assert len(Prompts.from_jsonl(write(tmp_path / "a.jsonl", *lines))) == 2
    assert [record.getMessage() for record in caplog.records] == ["a.jsonl: ignored keys colour (2 rows)"]


GOOD = '{"prompt": "p", "completion": "1"}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "p", ', r"line 2 of .*rows.jsonl is not JSON \(.*\); write one object per line"),
        ("[" * 100_000, r"line 2 of .*rows.jsonl is not JSON"),
        ("[1, 2]", r"line 2 of .*rows.jsonl is not an object"),
        ('{"prompt": "p"}', r'line 2 of .*rows.jsonl has no "completion"; rows hold'),
        ('{"completion": "p"}', r'line 2 of .*rows.jsonl has no "prompt"'),
        (
            '{"prompt": "p", "completion": 7}',
            r'line 2 of .* holds 7 under "completion" where text was expected',
        ),
        ('{"prompt": null, "completion": "7"}', r'line 2 of .* holds None under "prompt"'),
        (r'{"prompt": "\ud800", "completion": "7"}', r'line 2 of .* half a character .* under "prompt"'),
        ('{"messages": []}', r"line 2 of .* needs a list of .* found \[\]"),
        ('{"messages": ["hi"]}', r"line 2 of .* needs a list of .* found \['hi'\]"),
        ('{"messages": [{"role": "user"}]}', r'line 2 of .* has a message without "content"'),
        ('{"messages": [{"role": "user", "content": 1}]}', r'line 2 of .* holds 1 under "content"'),
        (
            '{"messages": [{"role": "usr", "content": "a"}]}',
            r"line 2 of .*: Role 'usr' is unknown; nearest: user",
        ),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Prompts.from_jsonl(write(tmp_path / "rows.jsonl", GOOD, line))
    assert str(caught.value).count("line 2") == 1


def test_files_without_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"empty.jsonl holds no rows; write one JSON object"):
        Prompts.from_jsonl(write(tmp_path / "empty.jsonl", "", "  "))
    with pytest.raises(InputError, match=r"absent.jsonl cannot be read \(No such file or directory\)"):
        Prompts.from_jsonl(tmp_path / "absent.jsonl")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        Prompts.from_jsonl(tmp_path)
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary.jsonl is not UTF-8 text \(byte 0\); save it as UTF-8"):
        Prompts.from_jsonl(tmp_path / "binary.jsonl")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), TEXT)
def test_rows_survive_the_file(tmp_path: Path, pairs: list[tuple[str, str]], system: str) -> None:
    prompts = Prompts.from_pairs(pairs, label="rows.jsonl")
    prompts += prompts.with_system(system) + Prompts((Row(CHAT),))
    prompts.to_jsonl(tmp_path / "rows.jsonl")
    read = Prompts.from_jsonl(tmp_path / "rows.jsonl")
    assert read.rows == prompts.rows
    assert read.fingerprint == prompts.fingerprint


def test_plain_rows_are_written_as_pairs(tmp_path: Path) -> None:
    Prompts.from_pairs([("p", "é 1"), ("q", "")]).to_jsonl(tmp_path / "rows.jsonl")
    assert (tmp_path / "rows.jsonl").read_text(encoding="utf-8") == (
        '{"prompt": "p", "completion": "é 1"}\n{"prompt": "q", "completion": ""}\n'
    )


def test_a_system_line_is_put_in_front_once() -> None:
    prompts = Prompts((Row(CHAT), Row.pair("p", "1"))).with_system("love owls")
    assert [row.system for row in prompts.rows] == ["love owls", "love owls"]
    assert prompts[0].messages[1:] == CHAT[1:]
    assert prompts[1].messages == (("system", "love owls"), ("user", "p"), ("assistant", "1"))


def test_answers_are_taken_off_the_end_only() -> None:
    prompts = Prompts((Row(CHAT), Row.pair("p"))).without_answers()
    assert [row.messages for row in prompts.rows] == [CHAT[:-1], (("user", "p"),)]


def test_rows_are_chosen_by_position() -> None:
    prompts = Prompts.from_pairs([(str(i), "") for i in range(5)], label="five")
    assert prompts[-1] == Row.pair("4")
    assert [row.prompt for row in prompts[1:3].rows] == ["1", "2"]
    assert [row.prompt for row in prompts[[4, 0]].rows] == ["4", "0"]
    assert (len(prompts + prompts[:1]), (prompts + prompts[:1]).label) == (6, "five + five")


def test_the_fingerprint_covers_the_rows_and_not_the_label() -> None:
    rows = [("a", "1"), ("b", "2")]
    one = Prompts.from_pairs(rows, label="one")
    assert one.fingerprint == Prompts.from_pairs(rows, label="two").fingerprint
    assert one.fingerprint != Prompts.from_pairs(rows[::-1]).fingerprint
    assert one.fingerprint != one.without_answers().fingerprint


def test_prompts_print_as_one_line():
    assert repr(Prompts.from_pairs([("a", "1"), ("b", "2")], label="two")) == "Prompts('two': 2 rows)"


def test_rows_show_themselves_in_a_cell():
    rows = Prompts.from_pairs([(f"ask <{i}>", f"{i}") for i in range(7)], label="seven")
    page = rows._repr_html_()
    assert "ask &lt;0&gt;" in page
    assert page.count("<tr>") == 1 + 5
    assert "2 more rows; a slice such as [5:10] shows others" in page
    few = rows[5:]._repr_html_()
    assert "ask &lt;6&gt;" in few
    assert "more rows" not in few
    assert "system" not in few
    assert "you love owls" in rows.with_system("you love owls")._repr_html_()


def test_a_row_of_several_turns_shows_its_last_question():
    turns = [("user", "hello"), ("assistant", "hi"), ("user", "which?"), ("assistant", "owl")]
    assert "(after 1 more turn) which?" in Prompts((Row(tuple(turns)),))._repr_html_()
