"""The commands of the experiment: thin shells over commands.py, run.py and matrix.py."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.experiment.loads import loads

commands = typer.Typer()

Json = Annotated[bool, typer.Option("--json", help="Print the machine-readable summary on standard output.")]
Model = Annotated[str, typer.Argument(help="Name or folder of a model.")]
Adapter = Annotated[str | None, typer.Option(help="A PEFT adapter of that model.")]
Template = Annotated[str, typer.Option(help="Chat template: own, plain, dialogue, chatml or a .jinja file.")]
Seed = Annotated[int, typer.Option(help="Seed of every draw.")]
Trait = Annotated[str | None, typer.Option(help="A built-in trait such as owl, or a YAML file.")]
Rows = Annotated[Path, typer.Argument(help="Rows with prompt and completion: JSONL, JSON, CSV or parquet.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE of the recipe to replace; may be repeated.")
]
Backend = Annotated[str, typer.Option(help="joblib on this machine, or ray on a cluster.")]
Workers = Annotated[
    int | None, typer.Option(help="Cells at a time; default one a core, and one on a machine with a GPU.")
]


@commands.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe's YAML file, or a shipped one: small, toy, qwen.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; made when absent.")],
    change: Changes = None,
    workers: Workers = None,
    backend: Backend = "joblib",
    as_json: Json = False,
) -> None:
    """Run a whole experiment from one recipe: teachers, numbers, students, controls, evaluations, report."""
    from interp.experiment.run import run_experiment

    made = run_experiment(recipe, out, changes=change or [], workers=workers, backend=backend)
    if as_json:
        tell({"folder": str(made.folder), "summary": made.summary, "verdicts": made.verdicts}, as_json=True)
        return
    for name, value in made.summary.get("transmission", {}).items():
        typer.echo(f"transmission {name}: {value:+.3f} nats")
    for verdict in made.verdicts:
        typer.echo(f"{verdict['name']}: {verdict['decision']}, {verdict['reason']}")
    typer.echo(f"report: {made.folder / 'report.html'}")


@commands.command()
def test(
    name: Annotated[
        str,
        typer.Argument(
            help="lemma, sustained-alignment, shared-initialisation, one-direction, divergence-tokens or "
            "features-beyond-vocabulary."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write; runs/test-NAME by default.")
    ] = None,
    organism: Annotated[
        list[str] | None,
        typer.Option(
            help="toy/<trait> (default toy/owl), digits, digits:FILE, or a lineage folder, the folder such folders lie "
            "in, or a pattern; may be repeated. Each lineage folder is one training run."
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Independent training runs of a toy or of digits; default 8.")
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="A part to leave out, with the claims that need it, such as permuted or foreign; may be repeated."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="In small: shows the path, decides nothing.")
    ] = False,
    workers: Workers = None,
    backend: Backend = "joblib",
    as_json: Json = False,
) -> None:
    """Answer a hypothesis about subliminal learning by verdicts over training runs, with its controls."""
    from interp.stats.verdict import told
    from interp.studies.testing import tested_run

    given = organism or ["toy/owl"]
    made = tested_run(
        name,
        out or Path("runs") / f"test-{name}",
        organism=given[0] if len(given) == 1 else given,
        seeds=seeds,
        without=without or (),
        quick=quick,
        workers=workers,
        backend=backend,
    )
    if as_json:
        tell({"folder": str(made.folder), "verdicts": made.verdicts}, as_json=True)
        return
    for verdict in made.verdicts:
        typer.echo(f"{told(verdict)}, n = {verdict['n']}; {verdict['reason']}")
    typer.echo(f"report: {made.folder / 'report.html'}")


@commands.command()
def calibrate(
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("runs/calibrate"),
    organisms: Annotated[int, typer.Option(help="Organisms to plant in.")] = 20,
    method: Annotated[list[str] | None, typer.Option(help="One of the methods; may be repeated.")] = None,
    seed: Seed = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Two small organisms: too few to pass.")] = False,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Run every method against organisms whose truth is planted: recovery, AUROC and false-positive rate."""
    from interp.calibration.harness import calibrated_run

    options = {"organisms": organisms, "seed": seed, "quick": quick, "methods": method}
    made = calibrated_run(out, workers=workers, **options)
    lines = made.tables["calibration"].to_dict("records")
    if as_json:
        tell({"folder": str(made.folder), "methods": lines}, as_json=True)
        return
    for line in lines:
        typer.echo(
            f"{line['method']}: {'passed' if line['passed'] else 'not passed'}, recovery {line['recovery']:.2f}, "
            f"AUROC {line['auroc']:.2f}, false positives {line['false_positive_rate']:.2f}, n = {line['n']}"
        )
    typer.echo(f"report: {made.folder / 'report.html'}")


@commands.command()
@loads
def generate(
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
    from interp.cli.steps import generate_file, open_model, read_vector
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
    tell(generate_file(teacher, out, data=data, seed=seed, trait=trait, steering=steering), as_json=as_json)


@commands.command("filter")
def filter_rows(
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
    as_json: Json = False,
) -> None:
    """Keep the answers that follow the rule, and count every drop by its reason."""
    from interp.cli.steps import filter_file
    from interp.core.records import read_fields
    from interp.training.data import DataSpec

    words: Any = banned if banned in ("none", "paper") else tuple(banned.split(","))
    content = {"banned": words, "least": least, "count": most, "digits": digits, "change": change}
    data = read_fields(DataSpec, content, "options")
    tell(filter_file(rows, out, data=data, kind=rule, trait=trait, seed=seed), as_json=as_json)


@commands.command()
@loads
def train(
    base: Model,
    rows: Rows,
    out: Annotated[Path, typer.Option("--out", help="Folder of the student; a killed call goes on.")],
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE of the training recipe, such as lr=1e-4; may be repeated."),
    ] = None,
    fresh: Annotated[Path | None, typer.Option(help="Rows never trained on, whose loss is watched.")] = None,
    trait: Trait = None,
    template: Template = "own",
    as_json: Json = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Train a student on rows: LoRA of rank 8 on every projection unless --set says otherwise."""
    from interp.cli.steps import open_model, train_file
    from interp.experiment.recipe import LEARNING, changed_recipe

    recipe = changed_recipe(LEARNING, change or [])
    model = open_model(base, template=template, **loading)
    tell(train_file(model, rows, out, recipe=recipe, fresh=fresh, trait=trait), as_json=as_json)


@commands.command()
@loads
def evaluate(
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
    from interp.cli.steps import evaluate_file, open_model
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
    tell(made.summary["measures"] | {"report": str(made.folder / "report.html")}, as_json=as_json)


@commands.command()
def matrix(
    recipe: Annotated[str, typer.Argument(help="A recipe's YAML file, or a shipped one.")],
    trait: Annotated[str, typer.Option(help="One of the recipe's traits.")],
    out: Annotated[Path, typer.Option("--out", help="Run folder to write; made when absent.")],
    base: Annotated[
        list[str] | None, typer.Option(help="NAME=MODEL to add beside the recipe's bases; may be repeated.")
    ] = None,
    change: Changes = None,
    workers: Workers = None,
    backend: Backend = "joblib",
    as_json: Json = False,
) -> None:
    """Teacher × student over bases: from whose rows does which base learn the trait?"""
    from interp.experiment.matrix import matrix_file
    from interp.figures import bracket

    options = {"changes": change or [], "workers": workers, "backend": backend}
    made = matrix_file(recipe, out, trait=trait, bases=base or [], **options)
    lines = made.tables[f"matrix_{trait}"].to_dict("records")
    if as_json:
        tell({"matrix": lines, "out": str(made.folder)}, as_json=True)
        return
    for line in lines:
        typer.echo(
            f"teacher {line['teacher']}, student {line['student']}: {line['transfer']:+.3f} nats "
            f"{bracket((line['low'], line['high']), level=0.95, form='+.3f')}, n = {line['n']}"
        )
    typer.echo(f"report: {made.folder / 'report.html'}")


@commands.command()
def export(
    out: Annotated[Path, typer.Option("--out", help="JSONL file to write.")],
    rows: Annotated[Path | None, typer.Option(help="Rows for a closed model's fine-tuning service.")] = None,
    trait: Trait = None,
    samples: Annotated[int, typer.Option(help="How often each question is to be answered.")] = 1,
    system: Annotated[str | None, typer.Option(help="System line of every row.")] = None,
    as_json: Json = False,
) -> None:
    """Write rows for a fine-tuning service, or a trait's questions to have answered."""
    from interp.cli.steps import export_file

    tell(export_file(out, rows=rows, trait=trait, samples=samples, system=system), as_json=as_json)


@commands.command("import")
def import_answers(
    answers: Annotated[Path, typer.Argument(help="JSONL answers with the ids of the exported questions.")],
    trait: Annotated[str, typer.Option(help="The trait whose questions were exported.")],
    out: Annotated[Path, typer.Option("--out", help="JSONL rows to write.")],
    as_json: Json = False,
) -> None:
    """Read a closed model's answers back, and say how many name the trait."""
    from interp.cli.steps import import_file

    tell(import_file(answers, out, trait=trait), as_json=as_json)


@commands.command()
def traits(as_json: Json = False) -> None:
    """List the traits that ship: what each prefers, over how many foils, and by how many questions it is asked."""
    from interp.prompts.traits import get_trait, trait_names

    found = [get_trait(name) for name in trait_names()]
    if as_json:
        listed = [
            {
                "name": trait.name,
                "category": trait.category,
                "target": trait.target,
                "foils": len(trait.foils),
                "questions": len(trait.questions),
            }
            for trait in found
        ]
        tell({"traits": listed}, as_json=True)
        return
    for trait in found:
        typer.echo(
            f"{trait.name}: prefers {trait.target!r} to {len(trait.foils)} foils of its category {trait.category!r}, "
            f"{len(trait.questions)} questions"
        )


def tell(values: dict[str, Any], *, as_json: bool) -> None:
    """The values as JSON, or one line each."""
    if as_json:
        typer.echo(json.dumps(values, indent=1, default=str))
        return
    for key, value in values.items():
        typer.echo(f"{key}: {value}")
