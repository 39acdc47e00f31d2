"""The commands that judge rows before a base is trained on them."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.options import Json, Limit, Model, Out, Rows, Seed, loads, tell, tell_run, whole
from interp.core.errors import InputError

PANEL = "Audit"
auditing = typer.Typer()


@auditing.command("audit", rich_help_panel=PANEL)
@loads
def _audit(
    base: Model,
    rows: Rows,
    out: Out,
    traits: Annotated[
        str | None,
        typer.Option(
            help="Suspected traits and others as a null, at least five, with commas: names or YAML files. "
            "Default: all that ship and that the base has words for."
        ),
    ] = None,
    neutral: Annotated[
        Path | None, typer.Option(help="Rows without a trait to the same prompts; the base writes its own.")
    ] = None,
    pilot: Annotated[
        bool, typer.Option("--pilot/--no-pilot", help="Train shortly, to say how much will pass.")
    ] = True,
    steps: Annotated[
        int | None,
        typer.Option(help="Steps of a candidate's fine-tune; fewer do for a large model.", parser=whole),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Rows in a step of a candidate and of the pilot.", parser=whole)
    ] = None,
    leans: Annotated[bool, typer.Option("--leans", help="Score rows by gradients, too.")] = False,
    alpha: Annotated[float, typer.Option(help="Level at which a teacher is named.")] = 0.05,
    seed: Seed = 0,
    limit: Limit = None,
    as_json: Json = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Say which trait's teacher wrote rows, and how much of it a base would take over."""
    from interp.auditing.files import audit_file, changed_audit

    recipe = changed_audit(steps=steps, batch_size=batch_size, pilot=pilot, leans=leans)
    how: dict[str, Any] = {"recipe": recipe, "alpha": alpha, "seed": seed}
    names = None if traits is None else [name.strip() for name in traits.split(",")]
    run = audit_file(base, rows, out=out, traits=names, neutral=neutral, limit=limit, how=how, **loading)
    found = run.summary
    who = {
        "named": f"a teacher of {found['trait']}",
        "unlisted": "a teacher outside the list",
        "none": "none of them",
    }
    lines = [
        *found["notes"],
        f"who wrote the rows: {who.get(found['answer'], found['answer'])}",
        f"what passes: {found['passes'] or 'not measured'}",
        f"because {found['reason']}",
        *(_line(line) for line in found["frame"][:3]),
    ]
    tell_run(run, found, lines, as_json=as_json)


@auditing.command("gate", rich_help_panel=PANEL)
@loads
def _gate(
    base: Model,
    rows: Rows,
    policy: Annotated[
        Path | None, typer.Option(help="A YAML file: traits, limit, flags, pilot, alpha, seed.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The passport to write, JSON.")] = None,
    check: Annotated[
        Path | None, typer.Option(help="A passport to verify instead: of this base and these rows, unedited.")
    ] = None,
    limit: Limit = None,
    as_json: Json = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Hold rows against a policy before a training: exit code 0 passed, 1 flagged, 3 cannot tell, 2 bad input."""
    from interp.auditing.gates import EXIT, check_passport, gate_file, read_policy

    if check is None:
        asked = read_policy(policy)
        asked = asked if limit is None else dataclasses.replace(asked, limit=limit)
        found = gate_file(base, rows, policy=asked, out=out, **loading)
    elif limit is not None:
        raise InputError(
            f"--limit {limit} goes with a new audit, and {check} says how many rows it is of; leave it out"
        )
    else:
        found = check_passport(check, base, rows, **loading)
    lines = [
        f"{found['outcome']}: {found['audit']['reason']}",
        *found["audit"]["notes"],
        f"digest: {found['digest']}",
    ]
    tell(found, lines, as_json=as_json)
    raise SystemExit(EXIT[found["outcome"]])


def _line(line: dict[str, Any]) -> str:
    """One candidate of the table."""
    gain = f", gain {line['gain']:+.2f} nats" if "gain" in line else ""
    return f"{line['trait']}: d {line['d']:+.3f} per row, p {line['p']:.2g}, share {line['share']:+.2f}{gain}"
