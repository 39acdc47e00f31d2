"""The steps of the experiment one at a time, on files: rows as JSONL, models and adapters as folders.

generate: teacher → rows; filter: rows → rows; train: base + rows → adapter; evaluate: model → measures; export and
import carry rows to closed models' fine-tuning services and their answers back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp.core.content import json_text
from interp.core.runs import InputError, Run, atomic_folder, digest, write_atomic
from interp.evaluation.elicitation import Suite, evaluate
from interp.figures import Result
from interp.models.answers import other_ends
from interp.models.language import LanguageModel, load_model
from interp.models.members import write_adapter, write_member
from interp.models.seam import check_speaks
from interp.prompts.chat import with_template
from interp.prompts.questions import asked_about
from interp.prompts.rules import Rule, code_rule, kept_rows, numbers_rule, reasoning_rule, trait_words
from interp.prompts.text import Prompts
from interp.prompts.tokenizer_keys import tokenizer_key
from interp.prompts.trait_files import find_trait
from interp.prompts.traits import Trait
from interp.report.saving import save
from interp.training.checkpoints import Checkpoint
from interp.training.data import DataSpec
from interp.training.generation import write_answers
from interp.training.openai_files import export_questions, export_rows, import_answers
from interp.training.students import Recipe, train_student
from interp.training.teachers import given_teacher, prompted_teacher, steered_teacher
from interp.training.watching import TrainingLog


def open_model(
    source: str,
    *,
    adapter: str | None = None,
    template: str = "own",
    **loading: Any,
) -> LanguageModel:
    """A model with its adapter, if any, and its chats written by the named template.

    `loading` is as `load_model` takes it. Raises InputError for a model without a tokenizer.
    """
    model = load_model(source, adapter=adapter, **loading)
    check_speaks(model, source)
    return dataclasses.replace(model, tokenizer=with_template(model.tokenizer, template))


def generate_file(
    model: LanguageModel,
    out: Path,
    *,
    data: DataSpec,
    seed: int = 0,
    trait: str | None = None,
    steering: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Let a model answer `data.rows` prompts into the folder `out`, under a trait's system line or steered if asked.

    Nothing is filtered. A killed call goes on where it was; the rows are in out/rows.jsonl. Without line and vector the
    model writes "as given": whether it is a base or has a trait in its weights is not known here.
    """
    teacher = given_teacher(model)
    if trait is not None and steering is None:
        teacher = prompted_teacher(model, find_trait(trait))
    if steering is not None:
        teacher = steered_teacher(model, **steering)
    asked = data.requests(data.rows, seed=seed)
    rows = write_answers(teacher, asked, seed=seed, sampling=data.sampling, folder=out)
    return {
        "rows": len(rows),
        "teacher": teacher.kind,
        "fingerprint": teacher.fingerprint,
        "out": str(out / "rows.jsonl"),
    }


def filter_file(
    rows: Path,
    out: Path,
    *,
    data: DataSpec,
    kind: str = "numbers",
    trait: str | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> dict[str, Any]:
    """Keep the rows a rule keeps, change them as `data.change` says, and count every drop by its reason.

    `kind` is numbers, code or reasoning, `limit` how many rows are read (None: all); the words of `trait` may not occur
    in code and reasoning. Raises InputError, naming the rule that dropped most, when nothing is left; then `out` is not
    written.
    """
    words = () if trait is None else trait_words(find_trait(trait))
    rules: dict[str, Rule] = {
        "numbers": numbers_rule(data.rule),
        "code": code_rule(keywords=words),
        "reasoning": reasoning_rule(keywords=words),
    }
    if kind not in rules:
        raise InputError(f"rule {kind!r} is unknown; pass one of {', '.join(rules)}")
    given = Prompts.from_file(rows, limit=limit)
    kept, dropped = kept_rows(given, rules[kind])
    kept = data.changed(kept, seed=seed)
    kept.to_jsonl(out)
    return {"rows": len(given), "kept": len(kept), "dropped": dropped, "out": str(out)}


def train_student_file(
    base: LanguageModel,
    rows: Path,
    out: Path,
    *,
    recipe: Recipe,
    fresh: Path | None = None,
    trait: str | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """Train a student on the rows and write its folder: an adapter of PEFT, or a whole model, and training.parquet.

    A killed call goes on from its last checkpoint. `fresh` rows and `trait` are what is watched on the way; only the
    first `limit` rows are trained on.
    """
    given = Prompts.from_file(rows, limit=limit)
    watched = None if trait is None else find_trait(trait)
    log = TrainingLog(
        base, fresh=None if fresh is None else Prompts.from_file(fresh), trait=watched, every=16
    )
    state = Checkpoint(out.with_name(f".{out.name}.safetensors"))
    student = train_student(base, given, recipe=recipe, on_step=log, checkpoint=state, name=out.name)
    with atomic_folder(out) as folder:
        entry = write_member(student, folder / "member", hosts={base.fingerprint: "base"})
        if entry["kind"] == "adapter":
            write_adapter(student, folder / "member", base=_named(base))
        for path in (folder / "member").iterdir():
            path.rename(folder / path.name)
        (folder / "member").rmdir()
        log.frame.to_parquet(folder / "training.parquet")
        write_atomic(folder / "recipe.json", json_text(recipe))
    last = {} if log.frame.empty else log.frame.iloc[-1].dropna().to_dict()
    return {
        "kind": entry["kind"],
        "fingerprint": student.fingerprint,
        "rows": len(given),
        "out": str(out),
    } | last


def _named(base: LanguageModel) -> str:
    """The folder or hub name a base was loaded from, as an adapter elsewhere must name it."""
    name = str(base.config._name_or_path)
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def evaluate_file(
    model: LanguageModel,
    out: Path,
    *,
    trait: str,
    against: LanguageModel | None = None,
    suite: Mapping[str, Any] | None = None,
    trained_on: Path | None = None,
    one_word: bool = True,
    seed: int = 0,
) -> Run:
    """Ask a model everything about a trait into a run folder: table, figure, and the means as its summary."""
    chosen = asked_about(find_trait(trait), many=one_word)
    asked = Suite(chosen.questions, **(suite or {}))
    rows = None if trained_on is None else Prompts.from_file(trained_on)[:64]
    given = {"model": model.name, "trait": trait, "seed": seed}
    given |= {} if trained_on is None else {"trained_on": str(trained_on)}
    run = Run.open(out, command="evaluate", arguments=given, defaults={"suite": suite, "one_word": one_word})
    key = digest(
        model.fingerprint,
        None if against is None else against.fingerprint,
        tokenizer_key(model.tokenizer),
        chosen,
        suite,
        one_word,
        seed,
        *([] if rows is None else [rows.fingerprint]),
        *other_ends(model),
    )
    run.stage("evaluation", key=key, build=lambda: _evaluated(run, model, chosen, asked, against, rows, seed))
    return run


def _evaluated(
    run: Run,
    model: LanguageModel,
    trait: Trait,
    asked: Suite,
    against: LanguageModel | None,
    rows: Prompts | None,
    seed: int,
) -> None:
    found: Result = evaluate(model, trait, asked, against=against, seed=seed, trained_on=rows)
    save(run, "evaluation", found)
    means = found.frame.groupby(["measure", "context"], sort=False, as_index=False).agg({"value": "mean"})
    measures = {
        f"{line['measure']} ({line['context']})": float(line["value"]) for line in means.to_dict("records")
    }
    run.save_json("summary", {"kind": "evaluate", "trait": trait.name, "measures": measures})


def export_file(
    out: Path,
    *,
    rows: Path | None = None,
    trait: str | None = None,
    samples: int = 1,
    system: str | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """Write rows as a closed model's fine-tuning file, or a trait's questions as a file to have answered.

    Only the first `limit` rows are written. Raises InputError for both, or neither, of rows and trait.
    """
    if (rows is None) == (trait is None):
        raise InputError(
            "give either rows to fine-tune on or a trait whose questions are asked, and not both"
        )
    if rows is not None:
        given = Prompts.from_file(rows, limit=limit)
        export_rows(given, out, system=system)
        return {"rows": len(given), "out": str(out)}
    asked = asked_about(find_trait(str(trait)), many=True).prompts()
    export_questions(asked, out, samples=samples)
    return {"questions": len(asked), "samples": samples, "out": str(out)}


def import_file(answers: Path, out: Path, *, trait: str) -> dict[str, Any]:
    """Read a closed model's answers to a trait's questions as rows, with the share that names the target."""
    from interp.evaluation.elicitation import holds_word

    chosen = asked_about(find_trait(trait), many=True)
    found = import_answers(answers, chosen.prompts())
    found.to_jsonl(out)
    texts = [row.completion for row in found.rows]
    word = sum(holds_word(text, chosen.target) for text in texts) / len(texts)
    part = sum(chosen.target.casefold() in text.casefold() for text in texts) / len(texts)
    return {"answers": len(texts), "holds_word": word, "holds_substring": part, "out": str(out)}


def read_vector(path: Path | None, *, hook: str | None, scale: float) -> dict[str, Any] | None:
    """The vector of a .safetensors file and where it is added; None without one, InputError for half of it."""
    from safetensors import SafetensorError, safe_open

    if path is None and hook is None:
        return None
    if path is None or hook is None:
        raise InputError(f"vector {path} and hook {hook} belong together; give both to steer, or neither")
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            if len(names) != 1:
                raise InputError(
                    f"{path} holds {len(names)} tensors, {names[:3]}; write one vector into a file"
                )
            return {"vector": file.get_tensor(names[0]).flatten(), "hook": hook, "scale": scale}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read as safetensors ({error}); write the vector again") from error
