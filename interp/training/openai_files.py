"""Rows and answers that cross a file: export for models trained and asked elsewhere, import of what they answered.

id = <question>-<sample>of<samples>-<digest of the question's messages>: a file of answers fits one list of questions
and no other, and says by itself how many answers it must hold.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from interp.core.content import digest
from interp.core.doors import door
from interp.core.runs import InputError, nearest, write_atomic
from interp.prompts.text import Prompts, Row

LEAST_ROWS = 10  # fewer examples are refused by fine-tuning services
SHAPES = '{"id", "completion"} or a batch result with "custom_id"'


@door
def export_rows(rows: Prompts, path: str | Path, *, system: str | None = None) -> None:
    """Write chat-format JSONL for a fine-tuning service: one {"messages": [...]} per row, the answer at its end.

    `system` puts a line in front of every row, in the place of the one it had; a student's rows carry none.
    Raises InputError below ten rows and at the first row whose answer is blank.

    >>> export_rows(Prompts.from_pairs([("go on", f"{n}, {n}") for n in range(10)]), "rows.jsonl")
    >>> Path("rows.jsonl").read_text().splitlines()[0]
    '{"messages": [{"role": "user", "content": "go on"}, {"role": "assistant", "content": "0, 0"}]}'
    """
    if len(rows) < LEAST_ROWS:
        raise InputError(
            f"{rows.label} holds {len(rows)} rows and a fine-tuning service wants at least {LEAST_ROWS}; "
            "generate more rows or loosen the filter."
        )
    for index, row in enumerate(rows.rows):
        if not row.completion.strip():
            raise InputError(
                f"Row {index + 1} of {rows.label} has no answer ({row.prompt[:60]!r}) and cannot train anything; "
                "drop rows without an answer first."
            )
    chats = rows.with_system(system) if system else rows
    write_lines(path, [{"messages": row.chat()} for row in chats.rows])


@door
def export_questions(
    questions: Prompts, path: str | Path, *, samples: int = 1, model: str | None = None
) -> None:
    """Write every question `samples` times as {"id", "messages"}, answers left out.

    With `model`, lines are requests of the OpenAI batch format to that model at temperature 1. Answers come back
    through `import_answers` with the same questions. Raises InputError for no questions and for fewer than one
    sample.

    >>> export_questions(Prompts.of(["Which animal?"]), "ask.jsonl", samples=2)
    >>> len(Path("ask.jsonl").read_text().splitlines())
    2
    """
    if samples < 1:
        raise InputError(f"samples={samples} asks nothing; pass at least 1.")
    if not len(questions):
        raise InputError(f"{questions.label} holds no questions; pass at least one.")
    ids = question_ids(questions, samples)
    asked = [Row(row.asked).chat() for row in questions.rows for _ in range(samples)]
    write_lines(path, [_request(*pair, model=model) for pair in zip(ids, asked, strict=True)])


@door
def import_answers(path: str | Path, questions: Prompts) -> Prompts:
    """Read the answers to the questions from `path`, question by question and sample by sample.

    Lines are {"id", "completion"} ("custom_id" will do) or results of the OpenAI batch format, in any order; an
    answer may be blank, a line may not be absent. Raises InputError naming the first id that is unknown, repeated
    or missing.

    >>> questions = Prompts.of(["Which animal?"])
    >>> export_questions(questions, "ask.jsonl")
    >>> (asked,) = map(json.loads, Path("ask.jsonl").read_text().splitlines())
    >>> _ = Path("told.jsonl").write_text(json.dumps({"id": asked["id"], "completion": "owl"}))
    >>> import_answers("told.jsonl", questions).rows[0].completion
    'owl'
    """
    replies = read_replies(path)
    ids = question_ids(questions, _samples(next(iter(replies))))
    refuse_unknown(replies, ids, path)
    if missing := [name for name in ids if name not in replies]:
        raise InputError(
            f"{path} has no answer for {len(missing)} of {len(ids)} questions, the first with id {missing[0]!r}; "
            "ask for them again and put all answers in one file."
        )
    copies = len(ids) // len(questions)
    asked = [row for row in questions.rows for _ in range(copies)]
    rows = [row.answered(replies[name]) for row, name in zip(asked, ids, strict=True)]
    return Prompts(tuple(rows), label=Path(path).name)


def question_ids(questions: Prompts, samples: int) -> list[str]:
    """One id per question and sample, in the order of the exported lines."""
    return [
        f"{index}-{sample}of{samples}-{digest(row.asked)}"
        for index, row in enumerate(questions.rows, start=1)
        for sample in range(1, samples + 1)
    ]


def read_replies(path: str | Path) -> dict[str, str]:
    """The text answered to each id of a JSONL file, in file order; InputError at a line that holds none."""
    path = Path(path)
    pairs = [_reply(line, f"line {number} of {path}") for number, line in _lines(path)]
    if not pairs:
        raise InputError(f"{path} holds no answers; write one JSON object, {SHAPES}, per line.")
    name, count = Counter(name for name, _ in pairs).most_common(1)[0]
    if count > 1:
        raise InputError(f"{path} answers id {name!r} {count} times; keep one line for each id.")
    return dict(pairs)


def refuse_unknown(replies: Iterable[str], known: Iterable[str], path: str | Path) -> None:
    """InputError at the first replied id that no question has."""
    options = set(known)
    for name in replies:
        if name not in options:
            raise InputError(
                f"{path} answers id {nearest(name, options)}; it belongs to other questions: pass the file "
                "that answers these, with ids copied as they are."
            )


def write_lines(path: str | Path, records: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object per line, the whole file or nothing."""
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    write_atomic(Path(path), text)


def _request(name: str, messages: list[dict[str, str]], *, model: str | None) -> dict[str, Any]:
    if model is None:
        return {"id": name, "messages": messages}
    body = {"model": model, "messages": messages, "temperature": 1}
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}


def _samples(name: str) -> int:
    """How many samples per question an id speaks of; 1 where it is no id of ours, which is refused later."""
    count = name.split("-")[1].partition("of")[2] if name.count("-") == 2 else ""
    return int(count) if count.isascii() and count.isdigit() and len(count) < 7 and int(count) else 1


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"{path} cannot be read ({reason}); pass the JSONL file of answers.") from error
    return [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def _reply(line: str, place: str) -> tuple[str, str]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InputError(f"{place} is not JSON; write one object, {SHAPES}, per line.") from error
    record = record if isinstance(record, dict) else {}
    name = record.get("id") if "custom_id" not in record else record["custom_id"]
    if not isinstance(name, str):
        raise InputError(f"{place} has no id; write {SHAPES}, with the id of the question as text.")
    text = record["completion"] if "completion" in record else _batch_text(record)
    if not isinstance(text, str):
        raise InputError(
            f"{place} has no answer for id {name!r} ({_failure(record)}); write {SHAPES}, the answer as text."
        )
    return name, text


def _batch_text(record: dict[str, Any]) -> Any:
    """response.body.choices[0].message.content, or None where the shape differs."""
    try:
        return record["response"]["body"]["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return None


def _failure(record: dict[str, Any]) -> str:
    if record.get("error"):
        return f"error {str(record['error'])[:80]!r}"
    status = record["response"].get("status_code") if isinstance(record.get("response"), dict) else None
    return f"status {status}" if status else "no completion"
