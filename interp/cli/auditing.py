"""The commands that judge rows before a base is trained on them, a student after it, and what any training changed."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.options import (
    Base,
    Changes,
    Json,
    Limit,
    Model,
    Out,
    Seed,
    Trait,
    loads,
    tell,
    tell_run,
    whole,
)
from interp.core.errors import InputError

PANEL = "Audit"
TRAINED = "the folder or name of what was trained"
auditing = typer.Typer()

Subject = Annotated[
    str,
    typer.Argument(
        help="Rows with prompt and completion (JSONL, JSON, CSV or parquet), or the folder or name of a student of "
        "that base."
    ),
]
Traits = Annotated[
    str | None,
    typer.Option(
        help="Suspected traits and others as a null, at least five, better ten or more, with commas: names or YAML "
        "files. Default: all that ship and that the base has words for."
    ),
]
Neutral = Annotated[
    Path | None, typer.Option(help="Rows without a trait to the same prompts; the base writes its own.")
]
Trains = Annotated[bool, typer.Option("--pilot/--no-pilot", help="Train shortly, to say how much will pass.")]
Steps = Annotated[
    int | None,
    typer.Option(help="Steps of a candidate's fine-tune; fewer do for a large model.", parser=whole),
]
BatchSize = Annotated[
    int | None, typer.Option(help="Rows in a step of a candidate and of the pilot.", parser=whole)
]
Leans = Annotated[bool, typer.Option("--leans", help="Score rows by gradients, too.")]
Fitted = Annotated[
    Path | None,
    typer.Option(
        "--forecast", help="A file that tells from the pilot's gain what a whole training takes over."
    ),
]
Sift = Annotated[
    Path | None,
    typer.Option("--filter", help="Where to write the rows without those that carry the named trait."),
]
Share = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="Of the rows to take out; default as few as leave none of it in the mean."
    ),
]
Weigh = Annotated[
    bool,
    typer.Option(
        "--weigh",
        help="With --filter: write every row as often as its weight says, instead of taking rows out.",
    ),
]
Channels = Annotated[
    bool,
    typer.Option(
        "--channels",
        help="Say through what the named trait goes: format, order, values, prompts, template, and which weights. "
        "Audits changed rows and trains parts of the base, too.",
    ),
]
Alpha = Annotated[float, typer.Option(help="Level at which a trait is named.")]
StudentRows = Annotated[
    Path | None,
    typer.Option("--rows", help="Of a student: the rows it was trained on, or rows like them and as many."),
]
Trained = Annotated[str, typer.Option(help="Name or folder of what was trained from the base.")]
Baseline = Annotated[
    str | None, typer.Option(help="Name or folder of a neutral twin, trained alike on rows without a trait.")
]
Text = Annotated[
    Path | None, typer.Option(help="Generic rows to read both on (JSONL, JSON, CSV or parquet); some ship.")
]
Words = Annotated[
    str | None, typer.Option(help="Nouns to choose among, with commas, one token each; some ship.")
]
Nulls = Annotated[
    int,
    typer.Option(
        "--placebos",
        help="Placebo trainings for p, 20 or more, on the base's answers to --rows.",
        parser=whole,
    ),
]
Placebos = Annotated[
    int, typer.Option(help="Of a student: placebo students, each trained on the base's own answers.")
]
Policy = Annotated[
    Path | None, typer.Option(help="A YAML file: traits, limit, flags, pilot, alpha, seed, placebos.")
]
Passport = Annotated[Path | None, typer.Option("--out", help="The passport to write, JSON.")]
Check = Annotated[
    Path | None, typer.Option(help="A passport to verify instead: of this base and subject, and by --policy.")
]


@auditing.command("audit", rich_help_panel=PANEL)
@loads
def _audit(
    base: Model,
    subject: Subject,
    out: Out,
    traits: Traits = None,
    neutral: Neutral = None,
    pilot: Trains = True,
    steps: Steps = None,
    batch_size: BatchSize = None,
    leans: Leans = False,
    forecast: Fitted = None,
    sift: Sift = None,
    share: Share = None,
    weigh: Weigh = False,
    channels: Channels = False,
    alpha: Alpha = 0.05,
    rows: StudentRows = None,
    text: Text = None,
    change: Changes = None,
    placebos: Placebos = 20,
    seed: Seed = 0,
    limit: Limit = None,
    as_json: Json = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Say which trait's teacher wrote rows and how much of it a base would take over, or which trait a student took."""
    from interp.auditing.files import audit_file, changed_audit, is_student, student_audit_file
    from interp.auditing.placebos import Placebos as Null
    from interp.auditing.sifting import sift_file

    recipe = changed_audit(steps=steps, batch_size=batch_size, pilot=pilot, leans=leans, forecast=forecast)
    names = None if traits is None else [name.strip() for name in traits.split(",")]
    asked: dict[str, Any] = {"out": out, "traits": names, **loading}
    if is_student(subject):
        _only("rows", {"--neutral": neutral, "--no-pilot": not pilot, "--leans": leans, "--seed": seed})
        _only("rows", {"--forecast": forecast, "--filter": sift, "--share": share, "--limit": limit})
        _only("rows", {"--weigh": weigh, "--channels": channels})
        trained = _trained_by(subject, change)
        null = Null(placebos, trained)
        how = {"candidates": recipe.candidates, "placebos": null, "alpha": alpha}
        run = student_audit_file(base, subject, rows=rows, text=text, how=how, **asked)
        tell_run(run, run.summary, _student_lines(run.summary), as_json=as_json)
    else:
        _only("a student", {"--rows": rows, "--text": text, "--set": change, "--placebos": placebos != 20})
        how = {"recipe": recipe, "alpha": alpha, "seed": seed}
        if sift is None:
            _only("--filter", {"--share": share, "--weigh": weigh})
        if weigh:
            _only("rows that are taken out", {"--share": share})
        if sift is not None and limit is not None:
            raise InputError(f"--limit {limit} leaves rows unread, which --filter would keep; leave it out")
        asked |= {"neutral": neutral, "limit": limit, "channels": channels}
        run = audit_file(base, Path(subject), how=how, **asked)
        ways = {"channels": _channels(run)} if channels else {}
        drawn: dict[str, Any] = {"share": share, "weigh": weigh, "seed": seed}
        sifted = {} if sift is None else {"filter": sift_file(run, Path(subject), sift, **drawn)}
        lines = [*_lines(run.summary), *_channel_lines(run.summary, **ways), *_sifted_lines(**sifted)]
        tell_run(run, run.summary | ways | sifted, lines, as_json=as_json)


@auditing.command("discover", rich_help_panel=PANEL)
@loads
def _discover(
    base: Base,
    member: Trained,
    out: Out,
    baseline: Baseline = None,
    text: Text = None,
    trait: Trait = None,
    words: Words = None,
    placebos: Nulls = 0,
    rows: StudentRows = None,
    change: Changes = None,
    limit: Limit = None,
    seed: Seed = 0,
    as_json: Json = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Say what a fine-tune changed without a name for it: words, sentences and directions by six ways of reading."""
    from interp.discovery.files import discover_file

    made = None
    if placebos:
        made = {"count": placebos, "rows": rows, "recipe": _trained_by(member, change, TRAINED)}
    else:
        _only("--placebos", {"--rows": rows, "--set": change})
    if text is None:
        _only("--text", {"--limit": limit})
    chosen = None if words is None else [word.strip() for word in words.split(",")]
    how = {"trait": trait, "words": chosen, "seed": seed}
    read = {"baseline": baseline, "text": text, "limit": limit}
    run = discover_file(base, member, out=out, **read, how=how, placebos=made, **loading)
    tell_run(run, run.summary, [*run.summary["notes"], *run.summary["story"]], as_json=as_json)


@auditing.command("gate", rich_help_panel=PANEL)
@loads
def _gate(
    base: Model,
    subject: Subject,
    policy: Policy = None,
    out: Passport = None,
    check: Check = None,
    rows: StudentRows = None,
    change: Changes = None,
    limit: Limit = None,
    as_json: Json = False,
    *,
    loading: dict[str, Any],
) -> None:
    """Hold rows or a student against a policy: exit code 0 passed, 1 flagged, 3 cannot tell, 2 bad input."""
    from interp.auditing.files import is_student
    from interp.auditing.gates import EXIT, check_passport, gate_file, gate_student_file, read_policy

    given = {"--out": out, "--rows": rows, "--set": change, "--limit": limit}
    if check is not None:
        _only("a new audit", given, instead=f"{check} says by what it was made")
        asked = None if policy is None else read_policy(policy)
        found = check_passport(check, base, subject, policy=asked, **loading)
    else:
        asked = read_policy(policy)
        asked = asked if limit is None else dataclasses.replace(asked, limit=limit)
        if is_student(subject):
            _only("rows", {"--limit": limit})
            trained = _trained_by(subject, change)
            made = {"policy": asked, "recipe": trained, "rows": rows, "out": out}
            found = gate_student_file(base, subject, **made, **loading)
        else:
            _only("a student", {"--rows": rows, "--set": change})
            found = gate_file(base, Path(subject), policy=asked, out=out, **loading)
    lines = [
        f"{found['outcome']}: {found['reason']}",
        *found["audit"]["notes"],
        f"digest: {found['digest']}",
    ]
    tell(found, lines, as_json=as_json)
    raise SystemExit(EXIT[found["outcome"]])


def _only(what: str, options: Mapping[str, Any], *, instead: str = "") -> None:
    """InputError for the first option that was given, which is one for something else."""
    for name, value in options.items():
        if value:
            told = f"{name} {value}" if not isinstance(value, bool) else name
            raise InputError(f"{told} goes with {what}{instead and f', and {instead}'}; leave it out")


def _trained_by(student: str, change: list[str] | None, accepted: str = "") -> Any:
    """The recipe beside a student with what was changed; InputError where neither says how it was trained."""
    from interp.auditing.files import ACCEPTED, trained_by
    from interp.experiment.recipe import LEARNING, changed_recipe

    known = trained_by(student)
    if known is None and not change and not Path(student).exists():
        raise InputError(
            f"{student} is no file or folder here; pass {accepted or ACCEPTED}, and for a name how it was "
            "trained, such as --set lr=1e-4"
        )
    if known is None and not change:
        raise InputError(
            f"nothing beside {student} says how it was trained, and placebos are trained alike; say so with --set, "
            "such as --set lr=1e-4 --set epochs=3 (what is not said is as interp train has it)"
        )
    return changed_recipe(known or LEARNING, change or [])


def _lines(found: Mapping[str, Any]) -> list[str]:
    """What is printed of an audit of rows."""
    return [
        *found["notes"],
        f"who wrote the rows: {found['who']}",
        f"what passes: {found['passes'] or 'not measured'}",
        f"because {found['reason']}",
        *(_line(line) for line in found["frame"][:3]),
    ]


def _channels(run: Any) -> list[dict[str, Any]] | None:
    """The lines of the channels' table as plain JSON types; None where no trait was named."""
    from interp.core.content import jsonable

    return None if run.summary["trait"] is None else jsonable(run.tables["channels"].to_dict("records"))


def _channel_lines(found: Mapping[str, Any], **ways: list[dict[str, Any]] | None) -> list[str]:
    """What is printed of channels where they were asked for."""
    return [line for lines in ways.values() for line in _told_channels(found["trait"], lines)]


def _told_channels(trait: str | None, lines: list[dict[str, Any]] | None) -> list[str]:
    if lines is None:
        return ["through what it goes: not asked, as no trait is named"]
    said = [f"through what {trait} goes (shares of rows: of d as written; of weights: of the gain of all):"]
    for line in lines:
        unit = "gain {:+.2f} nats" if line["kind"] == "weights" else "d {:+.3f} per row"
        share = "–" if line["share"] is None else f"{line['share']:+.2f}"
        said.append(f"  {line['channel']} ({line['kind']}): share {share}, {unit.format(line['measured'])}")
    return said


def _sifted_lines(**sifted: Mapping[str, Any]) -> list[str]:
    """What is printed of rows that were taken out or weighed."""
    return [_weighed_line(done) if done["weighed"] else _taken_line(done) for done in sifted.values()]


def _taken_line(done: Mapping[str, Any]) -> str:
    return (
        f"taken out for {done['trait']}: {done['removed']} of {done['rows']} rows ({done['share']:.0%}); the others "
        f"are in {done['out']}"
    )


def _weighed_line(done: Mapping[str, Any]) -> str:
    return (
        f"weighed for {done['trait']}: {done['rows']} rows, worth {done['worth']:.0f} of equal weight, each as often "
        f"as its weight says in {done['out']}"
    )


def _line(line: Mapping[str, Any]) -> str:
    """One candidate of the table."""
    from interp.auditing.pilots import LEVEL
    from interp.figures import bracket

    reach = bracket((line["share_low"], line["share_high"]), level=LEVEL, form="+.2f")
    share = f"share {line['share']:+.2f} {reach}"
    gain = f", gain {line['gain']:+.2f} nats" if "gain" in line else ""
    return f"{line['trait']}: d {line['d']:+.3f} per row, p {line['p']:.2g}, {share}{gain}"


def _student_lines(found: Mapping[str, Any]) -> list[str]:
    """What is printed of an audit of a student."""
    return [
        *found["notes"],
        f"whose student: {found['trait'] or 'of none of them more than placebos are'}",
        f"what passed: {found['passes']}",
        f"because {found['reason']}",
        *(
            f"{line['trait']}: r {line['r']:+.3f}, t {line['t']:+.2f}, on text r {line['text_r']:+.3f}, t "
            f"{line['text_t']:+.2f}, gain {line['gain']:+.2f} nats"
            for line in found["frame"][:3]
        ),
    ]
