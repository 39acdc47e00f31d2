"""The commands of whole experiments: run, test, calibrate and matrix."""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.options import Backend, Changes, Json, Seed, Workers, tell_run
from interp.studies.registry import HOMES

PANEL = "Experiment"
experiment = typer.Typer()


@experiment.command("run", rich_help_panel=PANEL)
def _run(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's YAML file, or a shipped one: toy, small, smollm2, qwen.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; made when absent.")],
    change: Changes = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="In small, as the recipe says: shows the path.")
    ] = False,
    workers: Workers = None,
    backend: Backend = "joblib",
    as_json: Json = False,
) -> None:
    """Run a whole experiment from one recipe: teachers, numbers, students, controls, evaluations, report."""
    from interp.experiment.run import run_experiment

    made = run_experiment(recipe, out, changes=change or [], quick=quick, workers=workers, backend=backend)
    lines = [
        *(
            f"transmission {name}: {value:+.3f} nats"
            for name, value in made.summary.get("transmission", {}).items()
        ),
        *(f"{verdict['name']}: {verdict['decision']}, {verdict['reason']}" for verdict in made.verdicts),
        *(
            f"what moved in it: interp trace --lineage {each} --limit 8 --out {made.folder}-trace"
            for each in sorted(made.folder.glob("lineages/*"))[:1]
        ),
    ]
    found = {"folder": str(made.folder), "summary": made.summary, "verdicts": made.verdicts}
    tell_run(made, found, lines, as_json=as_json)


@experiment.command("test", rich_help_panel=PANEL)
def _test(
    name: Annotated[
        str,
        typer.Argument(help=f"{', '.join([*HOMES][:-1])} or {[*HOMES][-1]}."),
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
    lines = [f"{told(verdict)}, n = {verdict['n']}; {verdict['reason']}" for verdict in made.verdicts]
    tell_run(made, {"folder": str(made.folder), "verdicts": made.verdicts}, lines, as_json=as_json)


@experiment.command("calibrate", rich_help_panel=PANEL)
def _calibrate(
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
    methods = made.tables["calibration"].to_dict("records")
    lines = [
        f"{line['method']}: {'passed' if line['passed'] else 'not passed'}, recovery {line['recovery']:.2f}, "
        f"AUROC {line['auroc']:.2f}, false positives {line['false_positive_rate']:.2f}, n = {line['n']}"
        for line in methods
    ]
    tell_run(made, {"folder": str(made.folder), "methods": methods}, lines, as_json=as_json)


@experiment.command("matrix", rich_help_panel=PANEL)
def _matrix(
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
    cells = made.tables[f"matrix_{trait}"].to_dict("records")
    lines = [
        f"teacher {line['teacher']}, student {line['student']}: {line['transfer']:+.3f} nats "
        f"{bracket((line['low'], line['high']), level=0.95, form='+.3f')}, n = {line['n']}"
        for line in cells
    ]
    tell_run(made, {"matrix": cells, "out": str(made.folder)}, lines, as_json=as_json)
