"""The steps of an experiment one at a time, on files: generate, filter, train, evaluate, export and import."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.options import (
    Adapter,
    Json,
    Limit,
    Model,
    Rows,
    Seed,
    Template,
    Trait,
    is_member,
    loads,
    member,
    tell,
    written,
)

PANEL = "Steps of an experiment"
steps = typer.Typer()


@steps.command("generate", rich_help_panel=PANEL)
@loads
def _generate(
    model: Model,
    out: Annotated[Path, typer.Option("--out", help="Folder to write; a killed call goes on there.")],
    rows: Annotated[int, typer.Option(help="Prompts to answer.")] = 1000,
    prompts: Annotated[str, typer.Option(help="requests, short, code or reasoning.")] = "requests",
    trait: Trait = None,
    hook: Annotated[str | None, typer.Option(help="Steer there, with --vector.")] = None,
    vector: Annotated[Path | None, typer.Option(help="A .safetensors file holding one vector.")] = None,
    scale: Annotated[float, typer.Option(help="How much of the vector is added.")] = 1.0,
    adapter: Adapter = None,
    template: Template = "own",
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Share of probability that is sampled from.")] = 1.0,
    greedy: Annotated[bool, typer.Option("--greedy", help="Take the likeliest token.")] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 64,
    batch_size: Annotated[int, typer.Option(help="Rows in a batch.")] = 64,
    seed: Seed = 0,
    as_json: Json = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Let a model answer number prompts, plainly, under a trait's system line, or steered; nothing is filtered."""
    from interp.cli.step_files import generate_file, open_model, read_vector
    from interp.core.records import read_fields
    from interp.training.data import DataSpec
    from interp.training.generation import Sampling

    sampling = Sampling(
        temperature=temperature,
        top_p=top_p,
        greedy=greedy,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
    )
    data = dataclasses.replace(
        read_fields(DataSpec, {"prompts": prompts, "rows": rows}, "options"), sampling=sampling
    )
    steering = read_vector(vector, hook=hook, scale=scale)
    teacher = open_model(model, adapter=adapter, template=template, **loading)
    found = generate_file(teacher, out, data=data, seed=seed, trait=trait, steering=steering)
    tell(found | is_member(model), as_json=as_json)


@steps.command("filter", rich_help_panel=PANEL)
def _filter_rows(
    rows: Rows,
    out: Annotated[Path, typer.Option("--out", help="JSONL file to write.")],
    rule: Annotated[str, typer.Option(help="numbers, code or reasoning.")] = "numbers",
    banned: Annotated[str, typer.Option(help="none, paper (34 numbers), or numbers with commas.")] = "none",
    least: Annotated[int, typer.Option(help="Fewest numbers of an answer.")] = 1,
    most: Annotated[int, typer.Option(help="Most numbers of an answer.")] = 10,
    digits: Annotated[int, typer.Option(help="Most digits of a number.")] = 3,
    trait: Trait = None,
    change: Annotated[
        str | None, typer.Option(help="shuffle-within, shuffle-across or canonical, after filtering.")
    ] = None,
    seed: Seed = 0,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Keep the answers that follow the rule, and count every drop by its reason."""
    from interp.cli.step_files import filter_file
    from interp.core.records import read_fields
    from interp.training.data import DataSpec

    words: Any = banned if banned in ("none", "paper") else tuple(banned.split(","))
    content = {"banned": words, "least": least, "count": most, "digits": digits, "change": change}
    data = read_fields(DataSpec, content, "options")
    tell(filter_file(rows, out, data=data, kind=rule, trait=trait, seed=seed, limit=limit), as_json=as_json)


@steps.command("train", rich_help_panel=PANEL)
@loads
def _train(
    base: Annotated[str, typer.Argument(help="Name or folder of a model.", callback=member("base"))],
    rows: Rows,
    out: Annotated[Path, typer.Option("--out", help="Folder of the student; a killed call goes on.")],
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE of the training recipe, such as lr=1e-4; may be repeated."),
    ] = None,
    fresh: Annotated[Path | None, typer.Option(help="Rows never trained on, whose loss is watched.")] = None,
    trait: Trait = None,
    template: Template = "own",
    limit: Limit = None,
    as_json: Json = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Train a student on rows: LoRA of rank 8 on every projection unless --set says otherwise."""
    from interp.cli.step_files import open_model, train_student_file
    from interp.experiment.recipe import LEARNING, changed_recipe

    recipe = changed_recipe(LEARNING, change or [])
    model = open_model(base, template=template, **loading)
    options: dict[str, Any] = {"fresh": fresh, "trait": trait, "limit": limit}
    tell(train_student_file(model, rows, out, recipe=recipe, **options), as_json=as_json)


@steps.command("evaluate", rich_help_panel=PANEL)
@loads
def _evaluate(
    model: Model,
    trait: Annotated[str, typer.Option(help="A built-in trait such as owl, or a YAML file.")],
    out: Annotated[Path, typer.Option("--out", help="Run folder to write; made when absent.")],
    adapter: Adapter = None,
    against: Annotated[str | None, typer.Option(help="The model it started from.")] = None,
    trained_on: Annotated[
        Path | None, typer.Option(help="Its training rows, to compare chat contexts.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Answers sampled per question.")] = 0,
    own_questions: Annotated[
        bool, typer.Option("--own-questions", help="The trait's own questions instead of one-word ones.")
    ] = False,
    template: Template = "own",
    seed: Seed = 0,
    as_json: Json = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Ask a model about a trait: margin, probabilities, total variation, and sampled answers."""
    from interp.cli.step_files import evaluate_file, open_model
    from interp.report.saving import finish

    asked = open_model(model, adapter=adapter, template=template, **loading)
    beside = {name: value for name, value in loading.items() if name != "revision"}
    start = None if against is None else open_model(against, template=template, **beside)
    made = evaluate_file(
        asked,
        out,
        trait=trait,
        against=start,
        suite={"samples": samples},
        trained_on=trained_on,
        one_word=not own_questions,
        seed=seed,
    )
    finish(made)
    found = made.summary["measures"] | is_member(model) | {"report": str(made.folder / "report.html")}
    plain = {name.removesuffix(" (training)"): value for name, value in found.items()}  # asked as rows are
    tell(found, written(plain), as_json=as_json)


@steps.command("export", rich_help_panel=PANEL)
def _export(
    out: Annotated[Path, typer.Option("--out", help="JSONL file to write.")],
    rows: Annotated[Path | None, typer.Option(help="Rows for a closed model's fine-tuning service.")] = None,
    trait: Trait = None,
    samples: Annotated[int, typer.Option(help="How often each question is to be answered.")] = 1,
    system: Annotated[str | None, typer.Option(help="System line of every row.")] = None,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """Write rows for a fine-tuning service, or a trait's questions to have answered."""
    from interp.cli.step_files import export_file

    tell(
        export_file(out, rows=rows, trait=trait, samples=samples, system=system, limit=limit), as_json=as_json
    )


@steps.command("import", rich_help_panel=PANEL)
def _import_answers(
    answers: Annotated[Path, typer.Argument(help="JSONL answers with the ids of the exported questions.")],
    trait: Annotated[str, typer.Option(help="The trait whose questions were exported.")],
    out: Annotated[Path, typer.Option("--out", help="JSONL rows to write.")],
    as_json: Json = False,
) -> None:
    """Read a closed model's answers back, and say how many name the trait."""
    from interp.cli.step_files import import_file

    tell(import_file(answers, out, trait=trait), as_json=as_json)
