"""The trace: one lineage, one set of rows, and what the fine-tune moved, through what, down to the single token.

The page opens with how likely every member is to answer with the trait, how far the student changed as its teacher
did, through which parts, and one question answered by all. Then every table is a member against its own start, a
student's less what its neutral twin changed, on identical tokens without the trait prompt. A trace is of one lineage:
it measures and does not judge, since a verdict needs independent trainings (see `demo`).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Unpack

from interp.activations.shifts import own_start, shift
from interp.core.doors import door
from interp.core.runs import InputError, Run, digest
from interp.figures import Result
from interp.joined.findings import said_answers, said_lens, said_part, said_tokens, said_words
from interp.joined.moved_words import moved_by, moved_together
from interp.joined.opening import NEUTRAL, NO_NEUTRAL, Opening, answers, twin
from interp.logits.attribution import attribute_together
from interp.logits.direction import LogitDirection, logit_direction
from interp.logits.lenses import lens
from interp.logits.spectra import spectrum
from interp.logits.token_shifts import token_shift
from interp.models.lineage import Lineage, open_lineage, read_lineage
from interp.models.loading import Loading
from interp.models.once import reading_once
from interp.models.precision import in_float32
from interp.models.seam import Model, lineage_root
from interp.prompts.numbers import ANY_NUMBERS, answer_positions, filter_numbers
from interp.prompts.text import Prompts
from interp.prompts.tokenizer_keys import tokenizer_key
from interp.prompts.trait_files import find_trait
from interp.prompts.traits import Trait
from interp.report.saving import finish, save_stage

log = logging.getLogger(__name__)

TOKEN_ROWS = 40  # rows shown token by token
PAGE = 3  # raise when the same tables are told otherwise
LAYERS = 4
"""A lens over fewer layers is no curve: its table is kept and not drawn."""


@door
def trace(
    lineage: Lineage,
    prompts: Prompts,
    out: str | Path,
    *,
    positions: str | None = None,
    toward: Callable[[Model], LogitDirection] | None = None,
    arguments: dict[str, Any] | None = None,
) -> Run:
    """Trace what training moved in the teacher and every student of a lineage, and write the report.

    Args:
        lineage: whose members are traced, each against its own start; a student less its neutral twin, the member
            `neutral_student` (`cross_neutral_student` for one of the other start), where there is one.
        prompts: rows of any kind, without system message.
        out: the run folder.
        positions: which tokens are read, a name of `Encoded.at`; by default those that predict the answers:
            "predicting answer.numbers", "predicting answer" where they are no numbers, "last" where there are none. The
            run and its report say which.
        toward: makes the direction for a base; by default that of the lineage's trait.
        arguments: what run.json says was asked; the lineage's name by default.

    Returns:
        The `Run`: tables in nats and logits, figures and report.html.

    Raises:
        InputError: for rows without such a token, for a lineage without a trait when `toward` is not given, and for a
            folder that holds another run.

    Example:
        >>> import interp
        >>> lineage = interp.load_lineage("toy/owl")
        >>> interp.trace(lineage, lineage.numbers[:128], "runs/owl")  # doctest: +SKIP
    """
    prompts, positions = read_rows(prompts, positions)
    for member in lineage.members.values():
        check_read(member, prompts, positions)  # before a folder is made
    toward = toward or _toward_trait(lineage)
    label = toward(lineage.base).label
    given = {"lineage": lineage.name} if arguments is None else arguments
    run = Run.open(
        Path(out), command="trace", arguments=given, defaults={"positions": positions, "toward": label}
    )
    prints = {name: model.fingerprint for name, model in lineage.members.items()}
    run.note(fingerprints=prints, data={prompts.label: prompts.fingerprint})
    numbers = prompts if positions.endswith("answer.numbers") else None
    asked = [lineage.trait, tokenizer_key(lineage.base.tokenizer)]
    key = digest(PAGE, prints, asked, prompts.fingerprint, positions)
    opening = Opening(lineage, student_of(lineage), numbers)
    moved = cache(partial(moved_by, lineage, prompts=prompts, positions=positions))
    with reading_once(*in_float32(list(lineage.members.values()))):
        open_page(run, opening, moved, key=key)
        trace_members(run, lineage, prompts, toward, positions=positions, moved=moved)
        run.stage(
            "summary",
            key=digest(PAGE, prints, asked, label, positions),
            build=lambda: _summarise(run, lineage, toward(lineage.base), positions),
        )
    finish(run)
    return run


def student_of(lineage: Lineage) -> str | None:
    """The member whose change stands beside the teacher's: "student", else the first that is no teacher or control."""
    found = [
        name
        for name, model in lineage.members.items()
        if model.start is not None
        and not any(word in name for word in ("teacher", "neutral", "control", "cross"))
        and lineage_root(model) == lineage_root(lineage.base)
    ]
    return "student" if "student" in found else next(iter(found), None)


def open_page(run: Run, opening: Opening, moved: Callable[[str], Result], *, key: str) -> None:
    """What the page opens with, a stage each: probability, agreement, components, one question answered, and what
    student and teacher moved (`moved` gives by a member's name) together.
    """
    for name, make in opening.stages().items():
        save_stage(run, name, make, key=digest(name, key))
    lineage, student = opening.lineage, opening.student
    if lineage.trait is not None:
        save_answers(run, lineage, lineage.trait, key=key)
    if student is not None and "teacher" in lineage.members:
        save_stage(run, "moved", lambda: moved_together(lineage, student, moved), key=digest("moved", key))


def save_answers(run: Run, lineage: Lineage, trait: Trait, *, key: str, why: str = "") -> None:
    """The trait's first question, and what every member would answer to it; the question is fixed, not chosen.

    `why` says on the page how it came to be this lineage.
    """

    def build() -> None:
        question = trait.questions[0]
        found = answers(lineage, question)
        run.save_table("answers", found)
        said = f"the first question of the trait, “{question}”, put to every model of {lineage.name}"
        told = [f"{said}; a cell is an answer and its probability", *([why] if why else [])]
        run.note(notes={"answers": told}, says={"answers": said_answers(found)})

    run.stage("answers", key=digest("answers", key), build=build)


def trace_members(
    run: Run,
    lineage: Lineage,
    prompts: Prompts,
    toward: Callable[[Model], LogitDirection],
    *,
    positions: str,
    moved: Callable[[str], Result],
) -> None:
    """`trace_member` of everyone with a start, but of neutral twins, which stand in the others' differences."""
    twins = {twin(lineage, name) for name in lineage.members}
    for name, model in lineage.members.items():
        if model.start is not None and name not in twins:
            direction = toward(model.start)
            trace_member(run, lineage, name, prompts, direction, positions=positions, moved=moved)


def read_rows(prompts: Prompts, positions: str | None) -> tuple[Prompts, str]:
    """The rows to read and where: of number answers, the few that are something else are dropped and counted."""
    kind = answer_positions(prompts)
    chosen = kind if positions is None else positions
    log.info("%s: read at %r%s", prompts.label, chosen, ", by the kind of its answers" * (positions is None))
    if kind != "predicting answer.numbers" or not chosen.endswith("answer.numbers"):
        return prompts, chosen
    kept, dropped = filter_numbers(prompts, ANY_NUMBERS)
    if dropped:
        log.info("%s: dropped %s of %d rows", prompts.label, dropped, len(prompts))
    return kept, chosen


def check_read(member: Model, prompts: Prompts, positions: str) -> None:
    """InputError for rows over the member's context, an unknown name of positions, and rows without such a token."""
    if not member.encode(prompts).at(positions).any():
        raise InputError(
            f"no row of {prompts.label!r} has a position {positions!r}; pass rows that are answered, or "
            "positions='last' for where an answer would begin"
        )


def trace_files(
    checkpoints: dict[str, Any],
    *,
    prompts: Path | None = None,
    out: Path,
    trait: str | None = None,
    target: str | None = None,
    foils: Sequence[str] = (),
    limit: int | None = None,
    positions: str | None = None,
    **loading: Unpack[Loading],
) -> Run:
    """`trace` on checkpoints and a JSONL file, toward a trait (a name or a YAML file) or a target against its foils.

    `checkpoints` holds base, teacher and student (see `load_lineage`), or `lineage`, the folder of one, which brings
    its trait and its rows where none are given. Only the first `limit` rows are read, and everything cheap is checked
    before a model is loaded; `loading` holds dtype, device and revision of the base. Raises InputError for both, or
    neither, of trait and target, for a target without foils, for a lineage's folder beside other checkpoints, and for
    neither.

    Example:
        >>> import interp
        >>> members = {"base": "checkpoints/base", "teacher": "checkpoints/teacher", "student": "adapters/owl"}
        >>> given = {"prompts": "numbers.jsonl", "out": "runs/owl", "trait": "owl", "limit": 128}
        >>> run = interp.joined.trace_files(members, **given)  # doctest: +SKIP
        >>> "moved" in run.tables, (run.folder / "report.html").is_file()  # doctest: +SKIP
        (True, True)
    """
    folder = _check_sources(checkpoints)
    if (trait is None) == (target is None) and (folder is None or trait is not None):
        raise InputError("give either a trait, such as owl, or a target with its foils, and not both.")
    if target is not None and not foils:
        raise InputError(f"target {target!r} has no foil to be compared with: give at least one foil.")
    if prompts is None and folder is None:
        raise InputError("no rows are given to trace; pass prompts, a file of rows")
    sought = None if trait is None else find_trait(trait)
    rows = None if prompts is None else Prompts.from_file(prompts)
    lineage = _opened(checkpoints, folder, sought, loading)
    rows = lineage.numbers if rows is None else rows
    if rows is None:
        raise InputError(f"the lineage in {folder} has no rows of its own; pass prompts, a file of rows")
    given = {
        name: value for name, value in checkpoints.items() if folder is None or name in ("base", "lineage")
    }
    sources = {**given, **loading, "prompts": None if prompts is None else str(prompts), "limit": limit}
    named = {"trait": trait, "target": target, "foils": list(foils)}
    toward = None if target is None else partial(logit_direction, target=target, foils=foils)
    return trace(lineage, rows[:limit], out, positions=positions, toward=toward, arguments=sources | named)


def _check_sources(checkpoints: Mapping[str, Any]) -> str | None:
    """The folder of a lineage, where one is given; InputError for one beside its members and for neither."""
    folder, given = (
        checkpoints.get("lineage"),
        [name for name in ("base", "teacher", "student") if checkpoints.get(name)],
    )
    if folder is not None and not set(given) <= {"base"}:
        raise InputError(
            f"lineage {str(folder)!r} is given and {', '.join(given)} too; pass the folder of a lineage alone, with "
            "base where it does not hold that, or checkpoints"
        )
    if folder is None and "lineage" in checkpoints and not {"base", "teacher"} <= set(given):
        raise InputError("nothing is given to trace; pass base and teacher, or lineage, the folder of one")
    return None if folder is None else str(folder)


def _opened(checkpoints: Mapping[str, Any], folder: str | None, trait: Trait | None, loading: Any) -> Lineage:
    """The lineage of a folder, asked about `trait` where one is given, or of checkpoints."""
    if folder is None:
        sources = {name: value for name, value in checkpoints.items() if name != "lineage"}
        return open_lineage(**sources, trait=trait, **loading)
    found = read_lineage(folder, base=checkpoints.get("base"), device=loading.get("device", "auto"))
    return found if trait is None else replace(found, trait=trait)


def trace_member(
    run: Run,
    lineage: Lineage,
    name: str,
    prompts: Prompts,
    direction: LogitDirection,
    *,
    positions: str,
    moved: Callable[[str], Result],
) -> None:
    """One stage per analysis of a member against its start, less what its neutral twin changed, where it has one:
    moved tokens (which `moved` gives by the member's name), attribution, lens, spectrum and tokens.

    Attribution is read at `positions` and, as `_first`, at the last prompt token, where the first one is chosen.
    Drawn is what nothing on the page tells already, of the student and its teacher.
    """
    member, other = lineage[name], twin(lineage, name)
    minus = None if other is None else lineage[other]
    there = dict.fromkeys((positions, "last"))

    @cache
    def attributed() -> dict[str, Result]:
        shifts = [shift(member, prompts, minus=minus, positions=where, hooks=()) for where in there]
        return dict(zip(there, attribute_together(shifts, direction), strict=True))

    def read_lens() -> Result:
        return lens(shift(member, prompts, minus=minus, positions=positions, hooks=()), direction)

    analyses: dict[str, Callable[[], Result]] = {
        f"moved_{name}": lambda: _said(moved(name), said_words),
        f"attribution_{name}": lambda: _said(attributed()[positions], said_part),
        f"attribution_{name}_first": lambda: attributed()["last"],
        f"lens_{name}": lambda: _said(read_lens(), said_lens),
        f"spectrum_{name}": lambda: spectrum(member, lineage.trait, minus=minus),
        f"tokens_{name}": lambda: _said(
            token_shift(member, prompts[:TOKEN_ROWS], direction, minus=minus), said_tokens
        ),
    }
    if positions == "last":
        del analyses[f"attribution_{name}_first"]
    prints = [member.fingerprint, own_start(member).fingerprint, member.encode(prompts).fingerprint]
    prints += [] if minus is None else [minus.fingerprint]
    asked = [lineage.trait, tokenizer_key(lineage.base.tokenizer), direction.label, positions]
    inputs, drawn = digest(PAGE, prints, asked), _drawn(lineage, name)
    for stage, analyse in analyses.items():
        save_stage(run, stage, analyse, key=digest(stage, inputs), drawn=stage in drawn)


def _said(result: Result, says: Callable[[Any], str]) -> Result:
    return replace(result, says=says(result.frame))


def _drawn(lineage: Lineage, name: str) -> set[str]:
    """Which of a member's figures stand on the page: none of whoever is neither the student nor its teacher."""
    student = student_of(lineage)
    both, layers = student is not None and "teacher" in lineage.members, lineage.base.hook_names
    deep = sum(hook.endswith("hook_resid_post") for hook in layers) >= LAYERS
    if name not in (student, "teacher"):
        return set()
    found = {f"lens_{name}": deep and (name == student or student is None), f"moved_{name}": not both}
    found[f"attribution_{name}"] = lineage.trait is None  # with a trait `components` tells it at the question
    return {stage for stage, is_drawn in found.items() if is_drawn}


def _toward_trait(lineage: Lineage) -> Callable[[Model], LogitDirection]:
    trait = lineage.trait
    if trait is None:
        raise InputError(
            f"lineage {lineage.name!r} has no trait to look for: pass a trait, or a target and its foils."
        )
    return lambda base: logit_direction(base, trait)


def _summarise(run: Run, lineage: Lineage, direction: LogitDirection, positions: str) -> None:
    summary: dict[str, Any] = {
        "kind": "trace",
        "lineage": lineage.name,
        "toward": direction.label,
        "positions": positions,
        "notes": direction.notes,
    }
    student, says = student_of(lineage), run.record["says"]
    first = next((says[name] for name in ("preference", "moved", "moved_teacher") if says.get(name)), "")
    summary["short"] = [each for each in (first, says.get("components", "")) if each]
    if student is not None:
        summary["story"] = [NO_NEUTRAL if twin(lineage, student) is None else NEUTRAL]
    if lineage.trait is not None:
        asked = run.tables["preference"]
        members = dict(zip(asked["member"], asked["margin"], strict=True))
        summary |= {"trait": lineage.trait.name, "lineages": [{"seed": None, "members": members}]}
    run.save_json("summary", summary)
