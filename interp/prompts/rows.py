"""Rows from whatever a researcher has them in: a file, a table, a data set, or a list.

    file       JSONL, a JSON array, CSV, TSV or parquet, told apart by what they hold
    table      a pandas or polars DataFrame, an Arrow table, a `datasets.Dataset`: a row is a record
    list       of texts (prompts without answers), of pairs (prompt, answer), of records, of lists of messages

Records have the shapes of `interp.prompts.shapes`. What is read past is counted and said in one line of the log.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from interp.core.doors.nouns import shown
from interp.core.errors import InputError
from interp.core.runs import write_atomic
from interp.prompts.shapes import FORMS, Tally, read_chat, read_record, text_of
from interp.prompts.text import Prompts, Row

log = logging.getLogger(__name__)

SHAPES = "a file (JSONL, JSON, CSV or parquet), a table, or a list of texts, of pairs or of dicts"
SUFFIXES = {".csv": ",", ".tsv": "\t"}
PARQUET = b"PAR1"
FOREIGN = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "a zip or Excel file",
    b"BZh": "bzip2",
    b"ARROW1": "an Arrow file",
}
UTF16 = (b"\xff\xfe", b"\xfe\xff")

Placed = tuple[Any, str]  # an item and where it stands, as a message says it


def as_prompts(rows: Any, *, argument: str = "rows") -> Prompts:
    """Rows in any shape named above as `Prompts`, in order; `argument` is what a message calls them.

    >>> as_prompts([("Go on: 3, 5.", "8, 13"), "And?"]).rows[1].messages
    (('user', 'And?'),)
    >>> as_prompts([{"instruction": "Go on.", "input": "3, 5", "output": "8"}])[0].prompt
    'Go on.\\n3, 5'

    Raises InputError for anything else, for none at all, and with its place for a row that cannot be read.
    """
    if isinstance(rows, Prompts):
        return rows
    if isinstance(rows, Row):
        return Prompts((rows,))
    if isinstance(rows, (str, os.PathLike)):
        return read_file(_existing(rows, argument))
    items, label = _items(rows, argument)
    return _read(((item, f"row {n} of {label}") for n, item in enumerate(items, start=1)), label)


def read_file(path: str | Path) -> Prompts:
    """The rows of a file, labelled by its name; InputError for another kind of file: see `Prompts.from_file`."""
    path = Path(path)
    data = _bytes(path)
    if data.startswith(PARQUET):
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            records = pq.read_table(pa.BufferReader(data)).to_pylist()
        except pa.ArrowException as error:
            raise InputError(f"{path} cannot be read as parquet ({error}); write it again.") from error
        return _read(((record, f"row {n} of {path}") for n, record in enumerate(records, start=1)), path.name)
    text = _text(data, path)
    if path.suffix.lower() in SUFFIXES:
        return _read(_table(text, path), path.name)
    return parse_json(text, path)


def read_json_file(path: str | Path) -> Prompts:
    """The rows of a JSONL or JSON file; see `Prompts.from_jsonl`."""
    return parse_json(_text(_bytes(Path(path)), Path(path)), Path(path))


def keep_records(path: Path, out: Path, copies: Sequence[int]) -> None:
    """Write the records of a file of rows as they stand there, each so often: its format, order and other fields.

    Raises InputError for an `out` that is the file itself or is named as another format.
    """
    if out.suffix.lower() != path.suffix.lower() or out.resolve() == path.resolve():
        raise InputError(
            f"{out} cannot hold what is left of {path}; name another file that ends in {path.suffix!r}"
        )
    data, chosen = _bytes(path), [place for place, times in enumerate(copies) for _ in range(times)]
    if data.startswith(PARQUET):
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = io.BytesIO()
        pq.write_table(pq.read_table(pa.BufferReader(data)).take(chosen), sink)
        write_atomic(out, sink.getvalue())
        return
    text = _text(data, path)
    if path.suffix.lower() in SUFFIXES:
        delimiter, sheet = SUFFIXES[path.suffix.lower()], io.StringIO(newline="")
        header, *lines = filter(None, csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
        writer = csv.writer(sheet, delimiter=delimiter, lineterminator="\n")
        writer.writerows([header, *(lines[place] for place in chosen)])
        write_atomic(out, sheet.getvalue())
    elif (array := _array(text, path)) is not None:
        write_atomic(out, json.dumps([array[place] for place in chosen], indent=1, ensure_ascii=False) + "\n")
    else:
        lines = list(filter(str.strip, re.split("\r\n|\r|\n", text)))
        write_atomic(out, "".join(f"{lines[place]}\n" for place in chosen))


def parse_json(text: str, path: Path) -> Prompts:
    """The rows of JSON text: an array of them, or one per line."""
    array = _array(text, path)
    if array is not None:
        placed = ((record, f"row {n} of {path}") for n, record in enumerate(array, start=1))
        return _read(placed, path.name, named=str(path))
    return _read(_lines(text, path), path.name, named=str(path))


def _read(placed: Iterable[Placed], label: str, *, named: str | None = None) -> Prompts:
    tally = Tally()
    rows = tuple(_row(item, place, tally) for item, place in placed)
    if not rows:
        raise InputError(
            f"{named or label} holds no rows; write one JSON object with {FORMS.split(',')[0]} per line."
        )
    if 0 < len(tally.bare) < len(rows):
        raise InputError(
            f'{tally.bare[0]} has no "completion"; rows hold {FORMS}, "" where there is no answer.'
        )
    if said := tally.sentence():
        log.warning("%s: %s", label, said)
    return Prompts(rows, label=label)


def _row(item: Any, place: str, tally: Tally) -> Row:
    if isinstance(item, Row):
        return item
    if isinstance(item, str):
        return _pair((item, ""), place)
    if isinstance(item, Mapping):
        return read_record(item, place, tally)
    if isinstance(item, (list, tuple)) and item and all(isinstance(part, Mapping) for part in item):
        return read_chat(list(item), place, tally)
    if isinstance(item, (list, tuple)) and len(item) == 2:
        return _pair(item, place)
    raise InputError(
        f'{place} is not an object, a text or a pair but {shown(item)}; write {{"prompt": ..., "completion": ...}}.'
    )


def _pair(pair: Any, place: str) -> Row:
    prompt, completion = pair
    return Row.pair(text_of(prompt, "prompt", place), text_of(completion or "", "completion", place))


# --- lists and tables ----------------------------------------------------------------------------------------


def _items(rows: Any, argument: str) -> tuple[list[Any], str]:
    """The items of a list or the records of a table, and the label of the rows."""
    kind, library = type(rows).__name__, type(rows).__module__.partition(".")[0]
    if library == "datasets" and kind != "Dataset":
        raise InputError(_data_set(rows, kind, argument))
    readers: dict[tuple[str, str], Callable[[], list[Any]]] = {
        ("datasets", "Dataset"): lambda: list(rows),
        ("pandas", "DataFrame"): lambda: [_whole(record) for record in rows.to_dict("records")],
        ("pandas", "Series"): lambda: rows.tolist(),
        ("polars", "DataFrame"): lambda: rows.to_dicts(),
        ("pyarrow", "Table"): lambda: rows.to_pylist(),
        ("numpy", "ndarray"): lambda: rows.tolist(),
    }
    if (library, kind) in readers:
        return readers[library, kind](), argument
    if isinstance(rows, (list, tuple, Iterator)):
        return _checked(list(rows), argument), argument
    instead = "pass a list of such rows" if isinstance(rows, Mapping) else f"pass {SHAPES}"
    raise InputError(f"{argument} is {shown(rows)}, where rows are needed; {instead}.")


def _checked(items: list[Any], argument: str) -> list[Any]:
    if not items:
        raise InputError(f"{argument} is empty; pass at least one row.")
    if all(isinstance(item, Mapping) and {"role", "content"} <= item.keys() for item in items):
        raise InputError(
            f"{argument} is one conversation of {len(items)} messages; pass a list of conversations."
        )
    return items


def _data_set(rows: Any, kind: str, argument: str) -> str:
    if isinstance(rows, Mapping):
        names = [str(name) for name in rows] or ["train"]
        return f"{argument} is a {kind} of {', '.join(names)}; pass one of them, such as {argument}[{names[0]!r}]."
    return f"{argument} is {shown(rows)}, which has no length; pass some of its rows, as list({argument}.take(1000))."


def _whole(record: Mapping[Any, Any]) -> dict[str, Any]:
    """A record of a DataFrame without its empty cells' NaN, and with its arrays as lists."""
    cells = {str(key): value.tolist() if hasattr(value, "tolist") else value for key, value in record.items()}
    return {key: None if value != value else value for key, value in cells.items()}


# --- files ---------------------------------------------------------------------------------------------------


def _existing(path: str | os.PathLike[str], argument: str) -> Path:
    text = os.fspath(path)
    known = Path(text) if "\n" not in text and len(text) < 4096 and "\0" not in text else None
    if known is None or not (known.exists() or known.suffix or isinstance(path, os.PathLike)):
        raise InputError(
            f"{argument} is the text {text if len(text) <= 60 else text[:57] + '...'!r} and no file of that name is "
            f"there; pass the path of a file of rows, or [text] for one prompt."
        )
    return known


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); pass the path of a file of rows, such as JSONL."
        ) from error
    for magic, kind in FOREIGN.items():
        if data.startswith(magic):
            raise InputError(
                f"{path} is {kind}, and no file of rows; unpack it, or save it as JSONL, CSV or parquet."
            )
    return data


def _text(data: bytes, path: Path) -> str:
    if (data.startswith(UTF16) and len(data) % 2 == 0) or b"\0" in data[:2]:
        raise InputError(f"{path} is UTF-16 text and not UTF-8; save it as UTF-8.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    return text


def _array(text: str, path: Path) -> list[Any] | None:
    """The items of a file that is one JSON array, None for one object per line."""
    if not text.lstrip().startswith("["):
        return None
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (ValueError, RecursionError):
        return None  # a list of messages per line, or no JSON, which the line will say
    return found


def _lines(text: str, path: Path) -> Iterator[Placed]:
    for number, line in enumerate(re.split("\r\n|\r|\n", text), start=1):
        if line.strip():
            place = f"line {number} of {path}"
            yield _object(line, place, path), place


def _object(line: str, place: str, path: Path) -> Any:
    try:
        found = json.loads(line, object_pairs_hook=_once)
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", error)
        known = path.suffix.lower() in (".json", ".jsonl")
        also = "" if known else "; a table is read where its file is named .csv or .tsv, or is parquet"
        raise InputError(
            f"{place} is not JSON ({reason}); write one object per line, or an array of them{also}."
        ) from error
    if not isinstance(found, dict) and not (isinstance(found, list) and found and isinstance(found[0], dict)):
        raise InputError(f'{place} is not an object; write {{"prompt": ..., "completion": ...}}.')
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys each occur once; a reader of JSON would keep the last without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f'the key "{twice}" occurs twice in one object; keep one.')
    return found


def _table(text: str, path: Path) -> Iterator[Placed]:
    """The records of a CSV or TSV file, every cell as its text."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=SUFFIXES[path.suffix.lower()], strict=True)
    header: list[str] = []
    try:
        for cells in reader:
            if not header:
                header = _headings(cells, path)
            elif cells:
                place = f"line {reader.line_num} of {path}"
                if len(cells) != len(header):
                    raise InputError(
                        f"{place} has {len(cells)} cells under {len(header)} headings; quote texts with a separator."
                    )
                yield dict(zip(header, cells, strict=True)), place
    except csv.Error as error:
        raise InputError(
            f"line {reader.line_num} of {path} is not CSV ({error}); quote its texts."
        ) from error


def _headings(cells: list[str], path: Path) -> list[str]:
    """The names of the columns; InputError where two are alike, of which a reader would keep the last."""
    names = [cell.strip() for cell in cells]
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise InputError(f'{path} has the heading "{twice}" twice; keep one.')
    return names
