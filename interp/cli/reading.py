"""The commands that read a model: trace, score, ledger, sae and features."""

from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.options import (
    AnyBase,
    AnyTeacher,
    Base,
    Data,
    EveryToken,
    Json,
    Limit,
    Out,
    Positions,
    Sae,
    Teacher,
    Trait,
    loads,
    member,
    tell,
    tell_run,
    tell_verdicts,
    whole,
)
from interp.core.runs import Run

PANEL = "Read a model"
reading = typer.Typer()
sae_app = typer.Typer(help="Train a sparse autoencoder, and say how well one does.", no_args_is_help=True)
features_app = typer.Typer(
    help="Say which features a teacher moved, and which a step leans toward.", no_args_is_help=True
)


@reading.command("trace", rich_help_panel=PANEL)
@loads
def _trace(
    out: Out,
    base: AnyBase = None,
    teacher: AnyTeacher = None,
    student: Annotated[
        list[str] | None,
        typer.Option(help="Name or folder of a student; may be repeated.", callback=member("student")),
    ] = None,
    neutral_student: Annotated[
        str | None,
        typer.Option(
            help="A student of numbers without a trait, whose change is taken off the student's.",
            callback=member("neutral_student"),
        ),
    ] = None,
    lineage: Annotated[
        Path | None,
        typer.Option(help="Folder of a lineage, or smollm2/owl, instead of teacher and students."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Rows with prompt and completion: JSONL, JSON, CSV or parquet; a lineage's own numbers by default."
        ),
    ] = None,
    trait: Trait = None,
    target: Annotated[
        str | None, typer.Option(help="Text whose logit is followed, instead of a trait.")
    ] = None,
    foil: Annotated[
        list[str] | None, typer.Option(help="Text the target is compared with; may be repeated.")
    ] = None,
    positions: Positions = None,
    limit: Limit = None,
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
    from interp.models.kept import kept_folder

    students: Any = student
    if neutral_student is not None:
        names = ["student", *(f"student_{index}" for index in range(2, len(student or []) + 1))]
        students = dict(zip(names, student or [], strict=False)) | {"neutral_student": neutral_student}
    checkpoints: dict[str, Any] = {"base": base, "teacher": teacher, "student": students}
    checkpoints |= {"unrelated": unrelated or [], "lineage": lineage and kept_folder(lineage)}
    named = {"trait": trait, "target": target, "foils": foil or []}
    options = {"limit": limit, "positions": positions, **loading}
    tell_verdicts(trace_files(checkpoints, prompts=prompts, out=out, **named, **options), as_json=as_json)


@reading.command("score", rich_help_panel=PANEL)
@loads
def _score(
    base: Annotated[
        str,
        typer.Option(
            help="Name or folder of the base model, where gradients are taken.", callback=member("base")
        ),
    ],
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
    neutral: Annotated[
        Path | None,
        typer.Option(help="Rows of a neutral teacher, whose mean is said beside that of the rows."),
    ] = None,
    limit: Limit = None,
    as_json: Json = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Say how far a gradient step on each row moves along directions such as a teacher's update."""
    from interp.cli.gradient_files import score_beside, score_summary

    keys = [key.strip() for text in by or ["example"] for key in text.split(",")]
    given: dict[str, Any] = {"neutral": neutral, "out": out, "by": keys, "limit": limit, **loading}
    found: dict[str, Any] = score_summary(*score_beside(base, data, direction, **given)) | {"out": str(out)}
    lines = [
        f"rows: {found['rows']} ({found['label']})",
        *(
            f"{line['direction']}: mean {_with_error(line)} {found['unit']}, "
            f"{line['share_positive']:.1%} of rows positive"
            + (
                ""
                if neutral is None
                else f"; neutral rows {_with_error(line, 'neutral_')}, n = {line['neutral_rows']}"
            )
            for line in found["directions"]
        ),
        f"route: {found['route']}, {found['reason']}",
        f"out: {out}",
    ]
    tell(found, lines, as_json=as_json)


def _with_error(line: dict[str, Any], of: str = "") -> str:
    """A mean and its standard error."""
    error = line[f"{of}standard_error"]
    return f"{line[f'{of}mean']:+.4g}" + ("" if error is None else f" ± {error:.2g} (standard error)")


@reading.command("ledger", rich_help_panel=PANEL)
@loads
def _ledger(
    lineage: Annotated[
        str,
        typer.Argument(help="An organism such as toy/owl, a lineage folder, or smollm2/owl with --base."),
    ],
    student: Annotated[str, typer.Option(help="The member whose training is accounted for.")] = "student",
    base: AnyBase = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the organism; default 0.", parser=whole)] = None,
    trait: Trait = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for tables and figures.")] = None,
    as_json: Json = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Split the change of a student's trait margin over the steps, modules and rows of its training."""
    from interp.cli.gradient_files import ledger_file, ledger_summary

    given: dict[str, Any] = {"seed": seed, "out": out, "trait": trait, "base": base, **loading}
    found = ledger_summary(ledger_file(lineage, student, **given))
    largest = sorted(found["modules"].items(), key=lambda part: -abs(part[1]))
    lines = [
        f"{found['label']}: {found['measured']:+.3f} nats measured over {found['steps']} steps on "
        f"{found['rows']} rows, {found['attributed']:+.3f} attributed, {found['residual']:+.3f} left over",
        *[f"{module}: {part:+.3f}" for module, part in largest if module != "residual"][:5],
    ]
    written = None if out is None else str(out)
    tell(found | {"out": written}, [*lines, f"out: {out}"] if written else lines, as_json=as_json)


@sae_app.command("train")
@loads
def _sae_train(
    base: Base,
    prompts: Data,
    hook: Annotated[str, typer.Option(help="Where it reads, such as blocks.3.hook_resid_post.")],
    out: Out,
    architecture: Annotated[
        str, typer.Option(help="topk, batchtopk, jumprelu, standard or matryoshka.")
    ] = "topk",
    width: Annotated[
        int | None, typer.Option(help="Features; default 8 times the activation's width.", parser=whole)
    ] = None,
    k: Annotated[
        int | None,
        typer.Option(
            help="Features active at a token; default the root of the width, at least 16.", parser=whole
        ),
    ] = None,
    positions: EveryToken = "all",
    samples: Annotated[int, typer.Option(help="Activations to train on.", parser=whole)] = 400_000,
    seed: Annotated[int, typer.Option(help="Seed of weights and order.", parser=whole)] = 0,
    limit: Limit = None,
    as_json: Json = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Train a sparse autoencoder on a model's activations at rows, and write its folder."""
    from interp.cli.feature_files import train_sae_file
    from interp.features.sae import SAERecipe

    recipe = SAERecipe(architecture=architecture, width=width, k=k, samples=samples, seed=seed)
    how: dict[str, Any] = {"recipe": recipe, "positions": positions, "limit": limit, **loading}
    made = train_sae_file(base, prompts, hook=hook, out=out, **how)
    facts = {"architecture": architecture, "hook": made.hook, "d_in": made.d_in, "width": made.width}
    said = {"positions": positions, "notes": list(made.notes)}
    tell({**facts, **said, "fingerprint": made.fingerprint, "out": str(out)}, as_json=as_json)


@sae_app.command("card")
@loads
def _sae_card(
    sae: Sae,
    base: Base,
    prompts: Data,
    teacher: Annotated[str | None, typer.Option(help="Name or folder of the teacher.")] = None,
    student: Annotated[str | None, typer.Option(help="Name or folder of a student.")] = None,
    positions: EveryToken = "all",
    out: Annotated[Path | None, typer.Option("--out", help="Folder for table and figure.")] = None,
    limit: Limit = None,
    as_json: Json = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Say how well a sparse autoencoder reconstructs the base, the teacher and the student."""
    from interp.cli.feature_files import card_file, card_summary

    members = {"teacher": teacher, "student": student}
    how: dict[str, Any] = {"members": members, "positions": positions, "out": out, "limit": limit, **loading}
    card, run = card_file(sae, base, prompts, **how)
    found = card_summary(card)
    lines = [
        f"{line['member']}: explained variance {line['explained_variance']:.3f}, L0 {line['L0']:.1f}, "
        f"dead {line['dead_share']:.1%}, loss recovered {line['loss_recovered']:.3f}"
        for line in found["members"]
    ]
    _tell_found(found, [*lines, *found["notes"]], run, as_json=as_json)


@features_app.command("shift")
@loads
def _features_shift(
    base: Base,
    teacher: Teacher,
    sae: Sae,
    prompts: Data,
    out: Out,
    positions: Positions = None,
    trait: Annotated[
        str | None, typer.Option(help="A trait that the rows may not name, such as owl, or a YAML file.")
    ] = None,
    limit: Limit = None,
    as_json: Json = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Say which features the teacher moved from the base, on identical tokens and corrected for their number."""
    from interp.cli.feature_files import shift_files, shift_summary

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
    _tell_found(found, [repr(shift), *lines], run, as_json=as_json)


@features_app.command("lean")
@loads
def _features_lean(
    base: Base,
    teacher: Teacher,
    sae: Sae,
    prompts: Data,
    out: Out,
    neutral: Annotated[Path | None, typer.Option(help="Rows of a neutral teacher, paired by prompt.")] = None,
    limit: Limit = None,
    as_json: Json = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Say which features a training step on the rows leans toward, beside what the teacher moved."""
    from interp.cli.feature_files import lean_files, lean_summary

    options = {"out": out, "neutral": neutral, "limit": limit, **loading}
    lean, correlation, run = lean_files(base, teacher, sae, prompts, **options)
    found = lean_summary(lean, correlation)
    lines = [
        f"rank correlation with the teacher's shift {line['rho']:+.3f}, {line['what']}: p = {line['p']:.3g}"
        for line in found["correlation"]
    ]
    lines += [
        f"feature {line['feature']}: {line['lean']:+.3g} (standard error {line['standard_error']:.2g})"
        for line in found["largest"]
    ]
    _tell_found(found, [repr(lean), *lines], run, as_json=as_json)


def _tell_found(found: dict[str, Any], lines: list[str], run: Run | None, *, as_json: bool) -> None:
    """What a verb found, as JSON or as lines, once the report of its run folder is written."""
    if run is None:
        tell(found | {"out": None}, lines, as_json=as_json)
        return
    from interp.report.saving import finish

    finish(run)
    tell_run(run, found | {"out": str(run.folder)}, lines, as_json=as_json)
