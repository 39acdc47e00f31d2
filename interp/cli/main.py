"""The `interp` command: thin shells over public functions; bad input is one sentence and exit code 2."""

import logging
import sys
import warnings
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from interp import __version__
from interp.cli.auditing import auditing
from interp.cli.experiment import experiment
from interp.cli.options import Json, Out, tell, tell_verdicts, whole
from interp.cli.reading import features_app, reading, sae_app
from interp.cli.steps import steps
from interp.core.errors import InputError
from interp.core.progress import never_silent
from interp.core.runs import Run

PANEL = "Look"
app = typer.Typer(
    help="Mechanistic interpretability of subliminal learning.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _tell_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"interp {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def _interp(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None: ...


@app.command("demo", rich_help_panel=PANEL)
def _demo(
    out: Out = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(help="Independent lineages to grow.", parser=whole)] = 8,
    trait: Annotated[str, typer.Option(help="What the teacher loves: an animal or a tree.")] = "owl",
    quick: Annotated[
        bool, typer.Option("--quick", help="Two small lineages: shows the page, decides nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Grow toy lineages, judge whether the trait passed through numbers, trace two, write the report."""
    from interp.studies.demonstration import demo as run_demo

    tell_verdicts(run_demo(out, seeds=seeds, trait=trait, quick=quick), as_json=as_json)


@app.command("organism", rich_help_panel=PANEL)
def _organism(
    name: Annotated[str, typer.Argument(help="For instance toy/owl or toy/oak.")],
    out: Out,
    seed: Annotated[
        int | None, typer.Option(help="Seed of base, teacher and students; default 0.", parser=whole)
    ] = None,
    as_json: Json = False,
) -> None:
    """Grow one lineage and write its members as folders that transformers loads."""
    from interp.organisms.library import load_lineage

    lineage = load_lineage(name, seed=seed)
    lineage.save(out)
    members = {role: model.fingerprint for role, model in lineage.members.items()}
    lines = [f"lineage: {lineage.name}", f"folder: {out}", f"members: {', '.join(members)}"]
    tell({"lineage": lineage.name, "folder": str(out), "members": members}, lines, as_json=as_json)


@app.command("report", rich_help_panel=PANEL)
def _report(
    run: Annotated[Path | None, typer.Argument(help="A run folder.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="RUN_A RUN_B", help="Two run folders, to stand side by side on one page."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The page of --compare.")] = Path("comparison.html"),
    as_json: Json = False,
) -> None:
    """Write the report page of a run folder anew, or one page that compares two."""
    from interp.report import compare_runs, write_report

    if compare is not None and run is None:
        path = compare_runs(*(Run.load(folder) for folder in compare), out=out)
    elif run is not None and compare is None:
        path = write_report(Run.load(run))
    else:
        raise InputError("report takes one run folder, or --compare with two; pass one or the other")
    tell({"report": str(path)}, as_json=as_json)


@app.command("doctor", rich_help_panel=PANEL)
def _doctor(as_json: Json = False) -> None:
    """Show versions, cores, device, offline state and cache."""
    from interp.core.provenance import doctor as look

    tell(look(), as_json=as_json)


@app.command("traits", rich_help_panel=PANEL)
def _traits(as_json: Json = False) -> None:
    """List the traits that ship: category, what each prefers, and over which foils."""
    from interp.prompts.traits import get_trait, trait_names

    found = [get_trait(name) for name in trait_names()]
    listed = [
        {
            "name": trait.name,
            "category": trait.category,
            "target": trait.target,
            "foils": list(trait.foils),
            "questions": len(trait.questions),
        }
        for trait in found
    ]
    lines = [
        f"{line['name']} ({line['category']}): {line['target']} rather than {', '.join(line['foils'][:3])} and "
        f"{len(line['foils']) - 3} more; {line['questions']} questions"
        for line in listed
    ]
    tell({"traits": listed}, lines, as_json=as_json)


app.add_typer(reading)
app.add_typer(sae_app, name="sae", rich_help_panel="Read a model")
app.add_typer(features_app, name="features", rich_help_panel="Read a model")
app.add_typer(auditing)
app.add_typer(experiment)
app.add_typer(steps)


def main() -> None:
    """Entry point: one sentence on standard error and exit code 2 for bad input."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    logging.getLogger("interp").setLevel(logging.INFO)
    warnings.simplefilter("ignore", FutureWarning)  # of the libraries below, nothing a user can act on
    try:
        with never_silent():
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
