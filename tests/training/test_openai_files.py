"""Round trips through files, and every way a file of answers can fail to fit its questions."""

import json

import pytest

from interp.core.runs import InputError
from interp.prompts.text import Prompts
from interp.training.openai_files import export_questions, export_rows, import_answers

ROWS = Prompts.from_pairs([(f"list: {i}.", f"{i}, {i + 1}") for i in range(12)], label="numbers")
QUESTIONS = Prompts.from_pairs([("who are you?", ""), ("what now?", "ignored")], label="questions")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def answer(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def asked(tmp_path):
    export_questions(QUESTIONS, tmp_path / "questions.jsonl", samples=2)
    return lines(tmp_path / "questions.jsonl")


def test_rows_are_chats_that_read_back_as_the_same_rows(tmp_path):
    export_rows(ROWS, tmp_path / "rows.jsonl")
    assert Prompts.from_jsonl(tmp_path / "rows.jsonl").fingerprint == ROWS.fingerprint
    assert lines(tmp_path / "rows.jsonl")[3] == {
        "messages": [{"role": "user", "content": "list: 3."}, {"role": "assistant", "content": "3, 4"}]
    }


def test_a_system_line_replaces_the_rows_own(tmp_path):
    export_rows(ROWS.with_system("old"), tmp_path / "rows.jsonl", system="new")
    back = Prompts.from_jsonl(tmp_path / "rows.jsonl")
    assert {row.system for row in back.rows} == {"new"}
    assert back.fingerprint == ROWS.with_system("new").fingerprint


def test_questions_leave_answers_out_and_have_one_id_a_sample(asked):
    assert [record["messages"][-1]["content"] for record in asked] == ["who are you?"] * 2 + ["what now?"] * 2
    assert all(len(record["messages"]) == 1 for record in asked)
    assert len({record["id"] for record in asked}) == 4
    assert asked[1]["id"].startswith("1-2of2-")


def test_answers_come_back_in_question_order_whatever_the_files_order(asked, tmp_path):
    records = [{"id": r["id"], "completion": f"reply {i}"} for i, r in enumerate(asked)]
    back = import_answers(answer(tmp_path / "a.jsonl", records[::-1]), QUESTIONS)
    assert [row.completion for row in back.rows] == ["reply 0", "reply 1", "reply 2", "reply 3"]
    assert [row.prompt for row in back.rows] == ["who are you?"] * 2 + ["what now?"] * 2


def test_batch_requests_and_batch_results_round_trip(tmp_path):
    export_questions(QUESTIONS, tmp_path / "q.jsonl", model="some-model")
    requests = lines(tmp_path / "q.jsonl")
    assert requests[0]["body"]["model"] == "some-model"
    results = [
        {
            "id": f"batch_{i}",
            "custom_id": r["custom_id"],
            "response": {"status_code": 200, "body": {"choices": [{"message": {"content": f"é {i}"}}]}},
            "error": None,
        }
        for i, r in enumerate(requests)
    ]
    back = import_answers(answer(tmp_path / "a.jsonl", results), QUESTIONS)
    assert [row.completion for row in back.rows] == ["é 0", "é 1"]


def test_a_blank_answer_stays_as_a_row_without_one(asked, tmp_path):
    records = [{"id": r["id"], "completion": ""} for r in asked]
    back = import_answers(answer(tmp_path / "a.jsonl", records), QUESTIONS)
    assert [row.completion for row in back.rows] == [""] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r[:-1], "has no answer for 1 of 4 questions, the first with id '2-2of2-"),
        (lambda r: r[::2], "has no answer for 2 of 4 questions, the first with id '1-2of2-"),
        (lambda r: [*r, r[1]], "answers id '1-2of2-"),
        (lambda r: [*r, r[1]], "2 times; keep one line for each id."),
        (lambda r: [*r[:-1], {**r[-1], "id": "9-1of2-x"}], "answers id '9-1of2-x' is unknown"),
        (lambda r: [{**r[0], "id": "7"}], "answers id '7' is unknown; known: 1-1of1-"),
        (lambda r: [{"completion": "x"}], "line 1 of"),
        (lambda r: [{"completion": "x"}], "has no id; write"),
        (lambda r: [{"id": "a"}], "has no answer for id 'a' (no completion)"),
        (lambda r: [{"custom_id": "a", "response": {"status_code": 500}}], "for id 'a' (status 500)"),
        (lambda r: [{"custom_id": "a", "response": None, "error": "expired"}], "(error 'expired')"),
        (lambda r: [], "holds no answers; write one JSON object"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_the_first_offending_id(asked, tmp_path, change, message):
    records = [{"id": r["id"], "completion": "x"} for r in asked]
    with pytest.raises(InputError) as error:
        import_answers(answer(tmp_path / "a.jsonl", change(records)), QUESTIONS)
    assert message in str(error.value)


def test_answers_to_other_questions_are_refused(asked, tmp_path):
    path = answer(tmp_path / "a.jsonl", [{"id": r["id"], "completion": "x"} for r in asked])
    other = Prompts.from_pairs([("who are you?", ""), ("what then?", "")])
    with pytest.raises(InputError, match=r"answers id '2-1of2-.*is unknown.*belongs to other questions"):
        import_answers(path, other)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: export_rows(ROWS[:9], path), "numbers holds 9 rows and a fine-tuning service wants"),
        (lambda path: export_rows(ROWS[:11] + QUESTIONS[:1], path), "Row 12 of numbers + questions has no"),
        (lambda path: export_questions(QUESTIONS, path, samples=0), "samples=0 asks nothing; pass at least"),
        (lambda path: export_questions(QUESTIONS[:0], path), "questions holds no questions; pass at least"),
        (lambda path: import_answers(path, QUESTIONS), "cannot be read (No such file or directory)"),
    ],
)
def test_messages(tmp_path, call, message):
    with pytest.raises(InputError) as error:
        call(tmp_path / "x.jsonl")
    assert message in str(error.value)
    assert not (tmp_path / "x.jsonl").exists()
