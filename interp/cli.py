"""The `interp` command: thin shells over public functions; bad input is one sentence and exit code 2."""

import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from interp.runs import InputError, Run

app = typer.Typer(
    help="Mechanistic interpretability of subliminal learning.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not an integer; pass a whole number such as 0.") from None


Json = Annotated[bool, typer.Option("--json", help="Print the machine-readable summary on standard output.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write; made when absent.")]


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(help="Independent lineages to grow.", parser=_whole)] = 8,
    trait: Annotated[str, typer.Option(help="What the teacher loves: an animal or a tree.")] = "owl",
    quick: Annotated[
        bool, typer.Option("--quick", help="Two small lineages: shows the page, decides nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Grow toy lineages, judge whether the trait passed through numbers, trace one, write the report."""
    from interp.demo import demo as run_demo

    _tell(run_demo(out, seeds=seeds, trait=trait, quick=quick), as_json=as_json)


@app.command()
def organism(
    name: Annotated[str, typer.Argument(help="For instance toy/owl or toy/oak.")],
    out: Out,
    seed: Annotated[int, typer.Option(help="Seed of base, teacher and students.", parser=_whole)] = 0,
    as_json: Json = False,
) -> None:
    """Grow one lineage and write its members as folders that transformers loads."""
    from interp.organisms.library import load_lineage

    lineage = load_lineage(name, seed=seed)
    lineage.save(out)
    members = {role: model.fingerprint for role, model in lineage.members.items()}
    _print({"lineage": lineage.name, "folder": str(out), "members": members}, as_json=as_json)


@app.command()
def trace(
    base: Annotated[str, typer.Option(help="Name or folder of the base model.")],
    teacher: Annotated[
        str, typer.Option(help="Name or folder of the teacher, a model or an adapter of the base.")
    ],
    prompts: Annotated[Path, typer.Option(help="JSONL rows with prompt and completion.")],
    out: Out,
    student: Annotated[
        list[str] | None, typer.Option(help="Name or folder of a student; may be repeated.")
    ] = None,
    trait: Annotated[str | None, typer.Option(help="A built-in trait, such as owl.")] = None,
    target: Annotated[
        str | None, typer.Option(help="Text whose logit is followed, instead of a trait.")
    ] = None,
    foil: Annotated[
        list[str] | None, typer.Option(help="Text the target is compared with; may be repeated.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Read only the first rows.", parser=_whole)] = None,
    as_json: Json = False,
) -> None:
    """Say which logits a fine-tune moved on number rows, and through which components."""
    from interp.trace import trace_files

    checkpoints = {"base": base, "teacher": teacher, "student": student}
    named = {"trait": trait, "target": target, "foils": foil or []}
    _tell(trace_files(checkpoints, prompts=prompts, out=out, **named, limit=limit), as_json=as_json)


@app.command()
def score(
    base: Annotated[str, typer.Option(help="Name or folder of the base model, where gradients are taken.")],
    data: Annotated[Path, typer.Option(help="JSONL rows with prompt and completion.")],
    direction: Annotated[
        list[str], typer.Option(help="update:PATH, trait:NAME or a .safetensors file; may be repeated.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write.")],
    by: Annotated[
        list[str] | None,
        typer.Option(help="example, token, position, module, head; may be repeated, or several with commas."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Read only the first rows.", parser=_whole)] = None,
    as_json: Json = False,
) -> None:
    """Say how far a gradient step on each row moves along directions such as a teacher's update."""
    from interp.gradients.specs import score_file, score_summary

    keys = [key.strip() for text in by or ["example"] for key in text.split(",")]
    scores = score_file(base, data, direction, out=out, by=keys, limit=limit)
    found: dict[str, Any] = score_summary(scores) | {"out": str(out)}
    if as_json:
        _print(found, as_json=True)
        return
    typer.echo(f"rows: {found['rows']} ({found['label']})")
    for line in found["directions"]:
        typer.echo(
            f"{line['direction']}: mean {line['mean']:+.4g} {found['unit']}, "
            f"{line['share_positive']:.1%} of rows positive"
        )
    typer.echo(f"route: {found['route']}, {found['reason']}\nout: {out}")


@app.command()
def ledger(
    lineage: Annotated[str, typer.Argument(help="An organism such as toy/owl, or a lineage folder.")],
    student: Annotated[str, typer.Option(help="The member whose training is accounted for.")] = "student",
    seed: Annotated[int | None, typer.Option(help="Seed of the organism; default 0.", parser=_whole)] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for tables and figures.")] = None,
    as_json: Json = False,
) -> None:
    """Split the change of a student's trait margin over the steps, modules and rows of its training."""
    from interp.gradients.specs import ledger_of, ledger_summary

    found = ledger_summary(ledger_of(lineage, student, seed=seed, out=out))
    if as_json:
        _print(found | {"out": None if out is None else str(out)}, as_json=True)
        return
    typer.echo(
        f"{found['label']}: {found['measured']:+.3f} nats measured over {found['steps']} steps on "
        f"{found['rows']} rows, {found['attributed']:+.3f} attributed, {found['residual']:+.3f} left over"
    )
    largest = sorted(found["modules"].items(), key=lambda part: -abs(part[1]))
    for module, attributed in [part for part in largest if part[0] != "residual"][:5]:
        typer.echo(f"{module}: {attributed:+.3f}")
    if out is not None:
        typer.echo(f"out: {out}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    as_json: Json = False,
) -> None:
    """Write the report page of a run folder anew."""
    from interp.report import write_report

    path = write_report(Run.load(run))
    _print({"report": str(path)}, as_json=as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show versions, cores, device, offline state and cache."""
    from interp.provenance import doctor as look

    _print(look(), as_json=as_json)


def main() -> None:
    """Entry point: one sentence on standard error and exit code 2 for bad input."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    logging.getLogger("interp").setLevel(logging.INFO)
    warnings.simplefilter("ignore", FutureWarning)  # of the libraries below, nothing a user can act on
    try:
        app(standalone_mode=False)
    except InputError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.strerror or error}: {error.filename or 'the output folder'}")
    except Exception as error:
        mistyped = getattr(error, "format_message", None)  # typer's own errors about the command line
        if mistyped is None:
            raise
        _refuse(f"{mistyped()} See 'interp --help'.")


def _refuse(sentence: str) -> NoReturn:
    typer.echo(f"interp: {sentence}", err=True)
    raise SystemExit(2) from None


def _tell(run: Run, *, as_json: bool) -> None:
    """The verdicts, or the summary, and where the report lies."""
    if as_json:
        _print({"folder": str(run.folder), "summary": run.summary, "verdicts": run.verdicts}, as_json=True)
        return
    for verdict in run.verdicts:
        low, high = verdict["interval"]
        typer.echo(
            f"{verdict['name']}: {verdict['decision']}  {verdict['effect']:+.2f} [{low:+.2f}, {high:+.2f}] "
            f"{verdict['unit']}, p = {verdict['p']:.3g}, n = {verdict['n']}"
        )
    typer.echo(f"report: {run.folder / 'report.html'}")


def _print(values: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(values, indent=1, default=str))
        return
    for key, value in values.items():
        typer.echo(f"{key}: {value}")
