"""A teacher's rows from any causal language model, in batches of similar length; a killed run goes on where it was.

A batch's random numbers depend on (seed, number of the batch) alone, and a batch on the prompts' lengths: whenever a
run is interrupted, it ends at the bytes it would have had.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.core.content import json_text
from interp.core.doors import door
from interp.core.progress import progress_bar
from interp.core.runs import InputError, digest, write_atomic
from interp.prompts.numbers import STRICT, NumberRule, filter_numbers, number_prompts
from interp.prompts.text import Prompts, Row
from interp.prompts.tokens import Encoded
from interp.training.engines import Sampling, Writer, resolved
from interp.training.sampling import LENGTH, complete
from interp.training.teachers import Teacher

log = logging.getLogger(__name__)

LEAST_KEPT = 0.05  # below this share of kept answers the teacher has lost the format
FORMAT = 2  # of folders of answers: raise when the same job would write something else
DEFAULT = Sampling()


@door
def write_answers(
    teacher: Teacher,
    prompts: Prompts,
    *,
    seed: int,
    sampling: Sampling = DEFAULT,
    folder: str | Path | None = None,
) -> Prompts:
    """Sample one answer per prompt, in the order given; answers the rows may have had are not read.

    A prompted teacher reads its system line in front of every prompt; the rows returned do not hold it. With `folder`
    every finished batch is kept there as part-00000.jsonl, ..., none is computed twice, and rows.jsonl holds all rows
    at the end. The global random state is left alone. Raises InputError for a prompt without room for
    `max_new_tokens`, a tokenizer without an end token, too little memory, and a folder of another job.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> prompts, sampling = interp.number_prompts(4, seed=0, count=3), Sampling(max_new_tokens=8)
    >>> rows = write_answers(interp.training.neutral_teacher(lineage.base), prompts, seed=0, sampling=sampling)
    >>> len(rows)
    4
    """
    return _write(Writer(teacher, resolved(teacher, sampling)), prompts, seed=seed, folder=folder)


@door
def sample_numbers(
    teacher: Teacher,
    *,
    rows: int,
    seed: int,
    rule: NumberRule = STRICT,
    chunk: int = 2048,
    max_new_tokens: int = LENGTH,
) -> tuple[Prompts, dict[str, int]]:
    """Let `teacher` answer number prompts at temperature 1 until `rows` answers pass the strict rule.

    Returns the kept rows, which never hold a system line, and how many attempts were dropped for each reason. Prompts
    are drawn from `seed`: two teachers asked with one seed answer the same prompts in the same order.
    Raises InputError when fewer than one attempt in twenty is well formed.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> rows, dropped = sample_numbers(interp.training.neutral_teacher(lineage.base), rows=4, seed=0, chunk=8)
    >>> len(rows)
    4
    """
    return answers_to(
        teacher,
        lambda n, draw: number_prompts(n, seed=draw, with_answers=False),
        rows=rows,
        seed=seed,
        keep=lambda answers: filter_numbers(answers, rule),
        chunk=chunk,
        sampling=Sampling(max_new_tokens=max_new_tokens, engine="inversion"),
    )


def answers_to(
    teacher: Teacher,
    requests: Callable[[int, int], Prompts],
    *,
    rows: int,
    seed: int,
    keep: Callable[[Prompts], tuple[Prompts, dict[str, int]]],
    chunk: int = 2048,
    sampling: Sampling = DEFAULT,
    folder: str | Path | None = None,
) -> tuple[Prompts, dict[str, int]]:
    """Let `teacher` answer requests(chunk, seed of the chunk) until `keep` leaves `rows` rows.

    Returns them and how many answers were dropped for each reason. Two teachers asked with one seed answer the same
    prompts in the same order. With `folder` each chunk is resumable on its own and rows.jsonl holds the kept rows.
    Raises InputError when fewer than one answer in twenty is kept, and as `write_answers` does.
    """
    if rows < 1 or chunk < 1:
        raise InputError(f"rows={rows} in chunks of {chunk} asks for nothing; pass at least 1 of both")
    writer = Writer(teacher, resolved(teacher, sampling))
    kept: list[Row] = []
    dropped: Counter[str] = Counter()
    tried, label = 0, f"sampling the {teacher.kind} teacher"
    with progress_bar(label, total=rows) as progress:
        while len(kept) < rows:
            own = seed * 1_000_003 + tried
            part = None if folder is None else Path(folder) / f"chunk-{tried // chunk:05d}"
            answers = _write(writer, requests(chunk, own), seed=own, folder=part)
            good, reasons = keep(answers)
            kept.extend(good.rows)
            dropped.update(reasons)
            tried += len(answers)
            progress.update(min(len(good), rows - progress.n))
            if len(kept) < LEAST_KEPT * tried:
                often = ", ".join(f"{reason}, {count}" for reason, count in dropped.most_common(1))
                raise InputError(
                    f"Only {len(kept)} of {tried} answers of the {teacher.kind} teacher are kept (most often: "
                    f"{often or 'no reason given'}); ask for the format more plainly, loosen that rule, or anchor the "
                    "teacher's format harder or fine-tune it for fewer steps."
                )
    log.info("%s teacher: kept %d of %d answers, dropped %s", teacher.kind, len(kept), tried, dict(dropped))
    found = Prompts(tuple(kept[:rows]), label=f"answers of the {teacher.kind} teacher")
    if folder is not None:
        write_rows(Path(folder) / "rows.jsonl", found, teacher=teacher, seed=seed)
    return found, dict(dropped)


def write_rows(path: str | Path, rows: Prompts, *, teacher: Teacher, seed: int) -> None:
    """Write {"prompt", "completion", "teacher": fingerprint, "seed"} per line, atomically.

    A row that is more than a prompt and its answer has "messages" instead; `Prompts.from_jsonl` reads both.
    """
    source = {"teacher": teacher.fingerprint, "seed": seed}
    lines = [json.dumps({**row.record(), **source}, ensure_ascii=False) + "\n" for row in rows.rows]
    write_atomic(path, "".join(lines))


def _write(writer: Writer, prompts: Prompts, *, seed: int, folder: str | Path | None) -> Prompts:
    """The prompts answered batch by batch, longest first, so that too little memory shows at once."""
    place, sampling = None if folder is None else Path(folder), writer.sampling
    if sampling.engine == "inversion":
        given = {"max_new_tokens": sampling.max_new_tokens, "temperature": sampling.temperature}
        result = complete(writer.teacher, prompts, seed=seed, **given)
        if place is not None:
            write_rows(place / "rows.jsonl", result, teacher=writer.teacher, seed=seed)
        return result
    inputs = writer.read(prompts)
    if place is not None:
        _claim(place, writer, prompts, inputs, seed)
    answered = list(prompts.rows)
    label = f"{writer.teacher.kind} teacher writes"
    with progress_bar(label, total=len(prompts)) as bar:
        for index, rows in enumerate(length_buckets(inputs.lengths, size=writer.size)):
            own, batch = prompts[rows.tolist()], next(inputs[rows].batches(len(rows)))
            found = _part(writer, own, batch, seed=seed, index=index, folder=place)
            for row, done in zip(rows.tolist(), found.rows, strict=True):
                answered[row] = done
            bar.update(len(rows))
    result = replace(prompts, rows=tuple(answered))
    if place is not None:
        write_rows(place / "rows.jsonl", result, teacher=writer.teacher, seed=seed)
    return result


def _part(
    writer: Writer, prompts: Prompts, batch: Encoded, *, seed: int, index: int, folder: Path | None
) -> Prompts:
    """One batch answered, or read from the folder when it was finished before."""
    path = None if folder is None else folder / f"part-{index:05d}.jsonl"
    known = None if path is None else _finished(path, prompts)
    if known is not None:
        return known
    found = writer.answer(prompts, batch, seed=batch_seed(seed, index))
    if path is not None:
        write_rows(path, found, teacher=writer.teacher, seed=seed)
    return found


def length_buckets(lengths: Int[Tensor, " example"], *, size: int) -> list[Int[Tensor, " row"]]:
    """Row numbers of each batch, longest rows first: batches of one length, then what is left over by length."""
    batches: list[Tensor] = []
    left: list[Tensor] = []
    for length in lengths.unique().flip(0):
        rows = torch.nonzero(lengths == length)[:, 0]
        full = len(rows) // size * size
        batches.extend(rows[:full].split(size))
        left.append(rows[full:])
    batches.extend(torch.cat(left).split(size))
    return sorted((rows for rows in batches if len(rows)), key=lambda rows: -int(lengths[rows].max()))


def batch_seed(seed: int, index: int) -> int:
    """The seed of a batch's random numbers."""
    return int(digest("batch", seed, index), 16) >> 1


def _claim(folder: Path, writer: Writer, prompts: Prompts, inputs: Encoded, seed: int) -> None:
    """Write the folder's manifest, or find it to be of this job; InputError names what differs."""
    job = {
        "format": FORMAT,
        "teacher": writer.teacher.fingerprint,
        "prompts": digest(prompts.fingerprint, inputs.fingerprint),
        "sampling": asdict(writer.sampling),
        "seed": seed,
    }
    job["job"] = digest(job)
    manifest = folder / "manifest.json"
    known = _json(manifest)
    if known is None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} holds no answers that can be gone on with; pass a new or an empty folder")
    if known is not None and known.get("job") != job["job"]:
        differing = [name for name in job if known.get(name) != job[name] and name != "job"]
        raise InputError(
            f"{folder} holds the answers of another job (it differs in {', '.join(differing)}); pass a new or an empty "
            "folder"
        )
    if known is None:
        write_atomic(manifest, json_text(job))


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _finished(path: Path, prompts: Prompts) -> Prompts | None:
    """The rows of a part when it answers exactly these prompts; None when it has to be written."""
    if not path.is_file():
        return None
    try:
        found = Prompts.from_jsonl(path)
    except InputError:
        return None
    same = [row.asked for row in found.rows] == [row.asked for row in prompts.rows]
    return replace(found, label=prompts.label) if same else None
