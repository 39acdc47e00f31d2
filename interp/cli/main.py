"""The `interp` command: thin shells over public functions; bad input is one sentence and exit code 2."""

import logging
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from interp.cli.experiment import Trait, commands, tell
from interp.core.runs import InputError, Run
from interp.experiment.loads import loads

app = typer.Typer(
    help="Mechanistic interpretability of subliminal learning.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
sae_app = typer.Typer(help="Train a sparse autoencoder, and say how well one does.", no_args_is_help=True)
features_app = typer.Typer(
    help="Say which features a teacher moved, and which a step leans toward.", no_args_is_help=True
)
app.add_typer(commands)
app.add_typer(sae_app, name="sae")
app.add_typer(features_app, name="features")


def _whole(text: str | int) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not an integer; pass a whole number such as 0.") from None


Json = Annotated[bool, typer.Option("--json", help="Print the machine-readable summary on standard output.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write; made when absent.")]
Base = Annotated[str, typer.Option(help="Name or folder of the base model.")]
Teacher = Annotated[
    str, typer.Option(help="Name or folder of the teacher, a model or an adapter of the base.")
]
Rows = Annotated[Path, typer.Option(help="Rows with prompt and completion: JSONL, JSON, CSV or parquet.")]
Positions = Annotated[
    str | None,
    typer.Option(help="Named positions to read at; default answer.numbers for rows of numbers, else answer."),
]
Sae = Annotated[str, typer.Option(help="Folder of a sparse autoencoder, or RELEASE:ID of SAELens.")]


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
    from interp.experiment.demonstration import demo as run_demo

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
    tell({"lineage": lineage.name, "folder": str(out), "members": members}, as_json=as_json)


@app.command()
@loads
def trace(
    base: Base,
    teacher: Teacher,
    prompts: Rows,
    out: Out,
    student: Annotated[
        list[str] | None, typer.Option(help="Name or folder of a student; may be repeated.")
    ] = None,
    trait: Trait = None,
    target: Annotated[
        str | None, typer.Option(help="Text whose logit is followed, instead of a trait.")
    ] = None,
    foil: Annotated[
        list[str] | None, typer.Option(help="Text the target is compared with; may be repeated.")
    ] = None,
    positions: Positions = None,
    limit: Annotated[int | None, typer.Option(help="Read only the first rows.", parser=_whole)] = None,
    unrelated: Annotated[
        list[str] | None,
        typer.Option(
            help="A member, such as teacher, of another initialisation on purpose; may be repeated."
        ),
    ] = None,
    as_json: Json = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Say which logits a fine-tune moved on rows of any kind, and through which components."""
    from interp.joined.tracing import trace_files

    checkpoints = {"base": base, "teacher": teacher, "student": student, "unrelated": unrelated or []}
    named = {"trait": trait, "target": target, "foils": foil or []}
    options = {"limit": limit, "positions": positions, **loading}
    _tell(trace_files(checkpoints, prompts=prompts, out=out, **named, **options), as_json=as_json)


@app.command()
@loads
def score(
    base: Annotated[str, typer.Option(help="Name or folder of the base model, where gradients are taken.")],
    data: Annotated[Path, typer.Option(help="Rows with prompt and completion: JSONL, JSON, CSV or parquet.")],
    direction: Annotated[
        list[str],
        typer.Option(
            help="update:PATH, trait:NAME, trait:FILE.yaml or a .safetensors file; may be repeated."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write.")],
    by: Annotated[
        list[str] | None,
        typer.Option(help="example, token, position, module, head; may be repeated, or several with commas."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Read only the first rows.", parser=_whole)] = None,
    as_json: Json = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Say how far a gradient step on each row moves along directions such as a teacher's update."""
    from interp.cli.gradients import score_file, score_summary

    keys = [key.strip() for text in by or ["example"] for key in text.split(",")]
    scores = score_file(base, data, direction, out=out, by=keys, limit=limit, **loading)
    found: dict[str, Any] = score_summary(scores) | {"out": str(out)}
    if as_json:
        tell(found, as_json=True)
        return
    typer.echo(f"rows: {found['rows']} ({found['label']})")
    for line in found["directions"]:
        typer.echo(
            f"{line['direction']}: mean {line['mean']:+.4g} {found['unit']}, "
            f"{line['share_positive']:.1%} of rows positive"
        )
    typer.echo(f"route: {found['route']}, {found['reason']}\nout: {out}")


@app.command()
@loads
def ledger(
    lineage: Annotated[str, typer.Argument(help="An organism such as toy/owl, or a lineage folder.")],
    student: Annotated[str, typer.Option(help="The member whose training is accounted for.")] = "student",
    seed: Annotated[int | None, typer.Option(help="Seed of the organism; default 0.", parser=_whole)] = None,
    trait: Trait = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for tables and figures.")] = None,
    as_json: Json = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Split the change of a student's trait margin over the steps, modules and rows of its training."""
    from interp.cli.gradients import ledger_of, ledger_summary

    found = ledger_summary(ledger_of(lineage, student, seed=seed, out=out, trait=trait, **loading))
    if as_json:
        tell(found | {"out": None if out is None else str(out)}, as_json=True)
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


@sae_app.command("train")
@loads
def sae_train(
    base: Base,
    prompts: Rows,
    hook: Annotated[str, typer.Option(help="Where it reads, such as blocks.3.hook_resid_post.")],
    out: Out,
    architecture: Annotated[
        str, typer.Option(help="topk, batchtopk, jumprelu, standard or matryoshka.")
    ] = "topk",
    width: Annotated[
        int | None, typer.Option(help="Features; default 8 times the activation's width.", parser=_whole)
    ] = None,
    k: Annotated[int, typer.Option(help="Features active at a token.", parser=_whole)] = 16,
    samples: Annotated[int, typer.Option(help="Activations to train on.", parser=_whole)] = 400_000,
    seed: Annotated[int, typer.Option(help="Seed of weights and order.", parser=_whole)] = 0,
    as_json: Json = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Train a sparse autoencoder on a model's activations at rows, and write its folder."""
    from interp.cli.features import train_file
    from interp.features.sae import SAERecipe

    recipe = SAERecipe(architecture=architecture, width=width, k=k, samples=samples, seed=seed)
    made = train_file(base, prompts, hook=hook, out=out, recipe=recipe, **loading)
    facts = {"architecture": architecture, "hook": made.hook, "d_in": made.d_in, "width": made.width}
    tell({**facts, "fingerprint": made.fingerprint, "out": str(out)}, as_json=as_json)


@sae_app.command("card")
@loads
def sae_card(
    sae: Sae,
    base: Base,
    prompts: Rows,
    teacher: Annotated[str | None, typer.Option(help="Name or folder of the teacher.")] = None,
    student: Annotated[str | None, typer.Option(help="Name or folder of a student.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for table and figure.")] = None,
    as_json: Json = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Say how well a sparse autoencoder reconstructs the base, the teacher and the student."""
    from interp.cli.features import card_file, card_summary

    members = {"teacher": teacher, "student": student}
    card, run = card_file(sae, base, prompts, members=members, out=out, **loading)
    found = card_summary(card)
    lines = [
        f"{line['member']}: explained variance {line['explained_variance']:.3f}, L0 {line['L0']:.1f}, "
        f"dead {line['dead_share']:.1%}, loss recovered {line['loss_recovered']:.3f}"
        for line in found["members"]
    ]
    _told(found, [*lines, *found["notes"]], run, as_json=as_json)


@features_app.command("shift")
@loads
def features_shift(
    base: Base,
    teacher: Teacher,
    sae: Sae,
    prompts: Rows,
    out: Out,
    positions: Positions = None,
    trait: Annotated[
        str | None, typer.Option(help="A trait that the rows may not name, such as owl, or a YAML file.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Read only the first rows.", parser=_whole)] = None,
    as_json: Json = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Say which features the teacher moved from the base, on identical tokens and corrected for their number."""
    from interp.cli.features import shift_files, shift_summary

    shift, run = shift_files(
        base,
        teacher,
        sae,
        prompts,
        out=out,
        positions=positions,
        trait=trait,
        limit=limit,
        **loading,
    )
    found = shift_summary(shift)
    lines = [
        f"feature {line['feature']}: {line['delta']:+.3g} (q = {line['q']:.2g})" for line in found["largest"]
    ]
    _told(found, [repr(shift), *lines], run, as_json=as_json)


@features_app.command("lean")
@loads
def features_lean(
    base: Base,
    teacher: Teacher,
    sae: Sae,
    prompts: Rows,
    out: Out,
    neutral: Annotated[Path | None, typer.Option(help="Rows of a neutral teacher, paired by prompt.")] = None,
    as_json: Json = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Say which features a training step on the rows leans toward, beside what the teacher moved."""
    from interp.cli.features import lean_files, lean_summary

    lean, correlation, run = lean_files(base, teacher, sae, prompts, out=out, neutral=neutral, **loading)
    found = lean_summary(lean, correlation)
    lines = [
        *(
            f"rank correlation with the teacher's shift {line['rho']:+.3f}, {line['what']}: p = {line['p']:.3g}"
            for line in found["correlation"]
        ),
    ]
    lines += [
        f"feature {line['feature']}: {line['lean']:+.3g} (standard error {line['standard_error']:.2g})"
        for line in found["largest"]
    ]
    _told(found, [repr(lean), *lines], run, as_json=as_json)


@app.command()
def report(
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


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show versions, cores, device, offline state and cache."""
    from interp.core.provenance import doctor as look

    tell(look(), as_json=as_json)


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
    from interp.stats.verdict import told

    if as_json:
        tell({"folder": str(run.folder), "summary": run.summary, "verdicts": run.verdicts}, as_json=True)
        return
    for verdict in run.verdicts:
        typer.echo(f"{told(verdict)}, n = {verdict['n']}")
    typer.echo(f"report: {run.folder / 'report.html'}")


def _told(found: dict[str, Any], lines: list[str], run: Run | None, *, as_json: bool) -> None:
    """What a verb found, as JSON or as lines, once the report of its run folder is written."""
    if run is not None:
        from interp.report.saving import finish

        finish(run)
    if as_json:
        tell(found | {"out": None if run is None else str(run.folder)}, as_json=True)
        return
    for line in lines if run is None else [*lines, f"report: {run.folder / 'report.html'}"]:
        typer.echo(line)
