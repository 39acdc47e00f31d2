"""Rows in every shape in which they are brought: the same conversations from each, and one sentence for the rest."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interp.core.runs import InputError
from interp.prompts.rows import as_prompts
from interp.prompts.text import Prompts, Row

ASKED, ANSWERED = {"role": "user", "content": "go on: 1, 2"}, {"role": "assistant", "content": "3, 4"}
PAIR = Row.pair("go on: 1, 2", "3, 4")
RECORD = {"prompt": "go on: 1, 2", "completion": "3, 4"}
SHAPES: dict[str, Any] = {
    "pair": RECORD,
    "messages": {"messages": [ASKED, ANSWERED]},
    "trl": {"prompt": [ASKED], "completion": [ANSWERED]},
    "trl, one side": {"prompt": [ASKED], "completion": "3, 4"},
    "content parts": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "go on: "}, {"type": "text", "text": "1, 2"}],
            },
            {"role": "assistant", "content": [{"type": "output_text", "text": "3, 4"}]},
        ]
    },
    "roles of gemma": {"messages": [ASKED, {**ANSWERED, "role": "model"}]},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "go on: 1, 2"}, {"from": "gpt", "value": "3, 4"}]
    },
    "alpaca without input": {"instruction": "go on: 1, 2", "input": "", "output": "3, 4"},
    "response": {"prompt": "go on: 1, 2", "response": "3, 4"},
    "question": {"question": "go on: 1, 2", "answer": "3, 4"},
    "nulls of a table": {**RECORD, "messages": None, "conversations": None, "text": None},
    "weight 1": {"messages": [ASKED, {**ANSWERED, "weight": 1, "name": None}]},
    "messages as text": {"messages": json.dumps([ASKED, ANSWERED])},
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_the_same_row_in_a_list_and_in_a_file(name: str, tmp_path: Path, caplog) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(SHAPES[name]) + "\n", encoding="utf-8")
    assert as_prompts([SHAPES[name]]).rows == Prompts.from_jsonl(path).rows == (PAIR,)
    assert not caplog.records


def test_a_row_of_weight_zero_has_no_answer_and_another_share_is_passed_over(caplog) -> None:
    rows = as_prompts([{**RECORD, "weight": weight} for weight in (0, 1, 0.5)] + [{**RECORD, "train": False}])
    assert [row.completion for row in rows.rows] == ["", "3, 4", "3, 4", ""]
    assert caplog.messages == ["rows: ignored keys weight (1 rows); left out answers of weight 0 (2)"]


def test_nested_lists_as_pandas_reads_them_from_parquet(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"messages": [[*SHAPES["content parts"]["messages"][:1], {**ANSWERED, "content": []}]]}
    )
    frame.to_parquet(tmp_path / "r.parquet")
    assert as_prompts(pd.read_parquet(tmp_path / "r.parquet"))[0] == Row.pair("go on: 1, 2")


def test_a_column_without_a_name_is_said_as_such(tmp_path: Path, caplog) -> None:
    (tmp_path / "r.csv").write_text(",prompt,completion\n0,a,1\n")
    assert Prompts.from_file(tmp_path / "r.csv")[0] == Row.pair("a", "1")
    assert caplog.messages == ["r.csv: ignored keys without a name (1 rows)"]


def test_system_lines_and_inputs_have_their_place() -> None:
    developer = {"messages": [{"role": "developer", "content": "be brief"}, ASKED, ANSWERED]}
    beside = {
        "system": "be brief",
        "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "1"}],
    }
    alpaca = {"instruction": "go on", "input": "1, 2", "output": "3"}
    dolly = {"instruction": "go on", "context": "1, 2", "response": "3"}
    rows = as_prompts([developer, beside, alpaca, dolly])
    assert [row.system for row in rows.rows] == ["be brief", "be brief", "", ""]
    assert rows[2] == rows[3] == Row.pair("go on\n1, 2", "3")


CHAT = [ASKED, ANSWERED, {"role": "user", "content": "more"}, {"role": "assistant", "content": "5"}]


@pytest.mark.parametrize(
    ("weights", "kept", "answer", "said"),
    [
        ((None, None), 4, "5", ""),
        ((0, 1), 4, "5", ""),
        ((0, None), 4, "5", ""),
        ((1, 0), 2, "3, 4", "left out answers of weight 0 (1)"),
        ((None, 0), 2, "3, 4", "left out answers of weight 0 (1)"),
        ((0, 0), 3, "", "left out answers of weight 0 (1)"),
        ((1, 1), 4, "5", "read answers of weight 1 before a row's last as context (1)"),
    ],
)
def test_an_answer_of_weight_zero_is_none(weights, kept: int, answer: str, said: str, caplog) -> None:
    messages = [dict(message) for message in CHAT]
    for index, weight in zip((1, 3), weights, strict=True):
        if weight is not None:
            messages[index]["weight"] = weight
    with caplog.at_level(logging.WARNING):
        row = as_prompts([{"messages": messages}])[0]
    assert row.messages == tuple((m["role"], m["content"]) for m in CHAT[:kept])
    assert row.completion == answer
    assert [record.getMessage() for record in caplog.records] == ([f"rows: {said}"] if said else [])


def test_what_is_not_read_is_counted_in_one_line(caplog) -> None:
    named = {
        "messages": [{**ASKED, "name": "Ann"}, {**ANSWERED, "tool_calls": [1], "refusal": None}],
        "score": 3,
    }
    with caplog.at_level(logging.WARNING):
        as_prompts([named, named, {**RECORD, "score": float("nan"), "messages": [ASKED, ANSWERED]}])
    assert [record.getMessage() for record in caplog.records] == [
        "rows: ignored keys score (3 rows), prompt (1 rows), completion (1 rows); "
        "ignored keys of messages name (2 messages), tool_calls (2 messages)"
    ]


# --- where rows come from ---------------------------------------------------------------------------------------------

TABLE = {"prompt": ["go on: 1, 2", "b"], "completion": ["3, 4", "NA"]}
RECORDS = [RECORD, {"prompt": "b", "completion": "NA"}]
SOURCES: dict[str, Any] = {
    "list of dicts": lambda: RECORDS,
    "list of pairs": lambda: [("go on: 1, 2", "3, 4"), ["b", "NA"]],
    "tuple of rows": lambda: (PAIR, Row.pair("b", "NA")),
    "generator": lambda: (record for record in RECORDS),
    "chats": lambda: [[ASKED, ANSWERED], [{**ASKED, "content": "b"}, {**ANSWERED, "content": "NA"}]],
    "DataFrame": lambda: pd.DataFrame(TABLE, index=[7, 7]),
    "Arrow": lambda: pa.table(TABLE),
    "Dataset": lambda: datasets.Dataset.from_dict(TABLE),
    "Prompts": lambda: Prompts.from_pairs(zip(*TABLE.values(), strict=True)),
}
FILES: dict[str, Any] = {
    "r.jsonl": lambda path: path.write_text("\r\n".join(map(json.dumps, RECORDS))),
    "r.json": lambda path: path.write_text(json.dumps(RECORDS, indent=1)),
    "one line.json": lambda path: path.write_text(json.dumps(RECORDS)),
    "chats.jsonl": lambda path: path.write_text("\n".join(map(json.dumps, SOURCES["chats"]()))),
    "r.csv": lambda path: pd.DataFrame(TABLE).to_csv(path, index=False, encoding="utf-8-sig"),
    "r.tsv": lambda path: pd.DataFrame(TABLE).to_csv(path, index=False, sep="\t"),
    "r.parquet": lambda path: pd.DataFrame(TABLE).to_parquet(path),
    "chats.parquet": lambda path: pq.write_table(pa.table({"messages": SOURCES["chats"]()}), path),
    "named otherwise.bin": lambda path: pd.DataFrame(TABLE).to_parquet(path),
}
EXPECTED = (PAIR, Row.pair("b", "NA"))


@pytest.mark.parametrize("name", SOURCES)
def test_rows_come_from_lists_and_tables(name: str) -> None:
    assert Prompts.of(SOURCES[name]()).rows == EXPECTED


@pytest.mark.parametrize("name", FILES)
def test_rows_come_from_files(name: str, tmp_path: Path) -> None:
    FILES[name](tmp_path / name)
    read = Prompts.from_file(tmp_path / name)
    assert (read.rows, read.label) == (EXPECTED, name)
    assert as_prompts(str(tmp_path / name)).rows == EXPECTED


@pytest.mark.parametrize(
    "texts",
    [["a", "b"], np.array(["a", "b"]), pd.Series(["a", "b"]), [{"prompt": "a"}, {"prompt": "b", "id": 3}]],
)
def test_texts_alone_are_prompts_without_answers(texts: Any) -> None:
    assert as_prompts(texts).rows == (Row.pair("a"), Row.pair("b"))


def test_a_cell_keeps_its_line_break(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_bytes(b'prompt,completion\n"a, ""b""\r\nc",1\n')
    assert Prompts.from_file(tmp_path / "r.csv")[0] == Row.pair('a, "b"\r\nc', "1")


# --- one sentence -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "a\n1"}, r'row 1 of rows has "text" alone.*split it into "prompt" and "completion"'),
        ({"prompt": "a", "compeltion": "1"}, r'no "completion".*this one holds compeltion, prompt'),
        (
            {"prompt": "a", "completion": None},
            r'holds None under "completion".*write "" where there is no answer',
        ),
        ({**RECORD, "label": False}, r'marks its answer as a bad one \("label" false\); leave such rows out'),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, r"two answers.*keep the one to be read"),
        ({"role": "user", "content": "a"}, "row 1 of rows is one message; put a conversation's"),
        (
            {"messages": [ASKED, {"role": "assistant", "content": None}]},
            "role 'assistant' with nothing under \"content\"",
        ),
        (
            {"messages": [ASKED, {"role": "tool", "content": "5"}, ANSWERED]},
            "role 'tool', and tools' answers are not read",
        ),
        (
            {"messages": [ASKED, {**ANSWERED, "weight": 0.5}]},
            r'"weight" 0.5, and a message is trained on or is not; write 0 or 1',
        ),
        (
            {"messages": [{**ASKED, "weight": 1}, ANSWERED]},
            r"on a message of the user, and only answers are trained on",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, ANSWERED]},
            "part of type 'image_url'.*only text is read",
        ),
        ({"prompt": [ASKED, ANSWERED], "completion": "1"}, "ends with the assistant, and an answer"),
        ({"prompt": [ASKED], "completion": [ANSWERED, ASKED, ANSWERED]}, "an answer of 3 messages"),
        ({"prompt": "a", "completion": 7}, 'holds 7 under "completion"'),
        (["a", "b", "c"], "row 1 of rows is not an object, a text or a pair but a list of 3 str"),
        (5, "not an object, a text or a pair but the int 5"),
    ],
)
def test_a_row_that_cannot_be_read_is_one_sentence(record: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        as_prompts([record, "b"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, r"given is None, where rows are needed; pass a file \(JSONL, JSON, CSV or parquet\), a table"),
        (
            {"prompt": ["a"], "completion": ["b"]},
            "given is a dict, where rows are needed; pass a list of such rows",
        ),
        ("owl", r"given is the text 'owl' and no file of that name is there.*or \[text\] for one prompt"),
        ("absent.jsonl", r"absent.jsonl cannot be read \(No such file or directory\)"),
        ([], "given is empty; pass at least one row"),
        ([ASKED, ANSWERED], "given is one conversation of 2 messages; pass a list of conversations"),
        ([RECORD, {"prompt": "b"}], r'row 2 of given has no "completion"; rows hold'),
    ],
)
def test_what_are_no_rows_is_one_sentence(rows: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_prompts(rows, argument="given")


def test_data_sets_of_several_parts_name_them() -> None:
    part = datasets.Dataset.from_dict(TABLE)
    with pytest.raises(
        InputError, match=r"a DatasetDict of train, test; pass one of them, such as rows\['train'\]"
    ):
        as_prompts(datasets.DatasetDict(train=part, test=part))
    with pytest.raises(InputError, match=r"IterableDataset, which has no length; pass some of its rows"):
        as_prompts(part.to_iterable_dataset())


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", '{"prompt": "a"}'.encode("utf-16"), "is UTF-16 text and not UTF-8; save it as UTF-8"),
        ("a.jsonl", '{"prompt": "a"}'.encode("utf-16-le"), "is UTF-16 text and not UTF-8"),
        ("a.jsonl.gz", b"\x1f\x8b\x08", "is gzip, and no file of rows; unpack it"),
        ("a.parquet", b"PAR1nonsense", "cannot be read as parquet"),
        (
            "a.jsonl",
            b'{"prompt": "a", "completion": "1", "completion": "2"}',
            'line 1 .* the key "completion" occurs twice',
        ),
        ("a.json", b'[{"prompt": "a", "prompt": "b"}]', 'the key "prompt" occurs twice'),
        (
            "a.txt",
            b"4, 5, 6",
            "line 1 .* is not JSON .*; a table is read where its file is named .csv or .tsv, or is",
        ),
        ("a.json", b'{\n "prompt": "a"}', "line 1 .* is not JSON .*; write one object per line, or an array"),
        ("a.csv", b"prompt,completion\na,1,2\n", "line 2 .* has 3 cells under 2 headings"),
        ("a.csv", b"prompt,completion,completion\na,1,2\n", 'has the heading "completion" twice; keep one'),
        ("a.csv", b"prompt;completion\na;1\n", r'has no "completion".*this one holds prompt;completion'),
        ("a.csv", b'prompt,completion\n"a,1\n', "is not CSV"),
    ],
)
def test_a_file_of_another_kind_is_one_sentence(name: str, data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        Prompts.from_file(tmp_path / name)
