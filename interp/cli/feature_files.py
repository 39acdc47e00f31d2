"""Features from files: what the commands `interp sae train|card` and `interp features shift|lean` do.

A run folder holds the tables, the figure and summary.json; its report is written by who calls. Rows, folders and the
dictionary are checked before anything is written, so bad input leaves nothing behind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from interp.core.runs import InputError, Run, digest
from interp.features.dictionary import Dictionary
from interp.features.examples import feature_examples, said_features
from interp.features.lean import FeatureLean, feature_lean
from interp.features.lean_nulls import lean_correlation
from interp.features.quality import quality_card
from interp.features.sae import SAERecipe, train_sae
from interp.features.sae_files import check_place, load_sae
from interp.features.shift import FeatureShift, feature_shift
from interp.figures import Result
from interp.models.language import load_model
from interp.models.lineage import Lineage, open_lineage
from interp.models.loading import Loading
from interp.prompts.numbers import answer_positions
from interp.prompts.text import Prompts
from interp.prompts.tokenizer_keys import tokenizer_key
from interp.prompts.trait_files import find_trait

RECIPE = SAERecipe()
LARGEST = 10  # features told of a shift


def train_sae_file(
    base: str,
    prompts: Path,
    *,
    hook: str,
    out: Path,
    recipe: SAERecipe = RECIPE,
    positions: str = "all",
    limit: int | None = None,
    **loading: Unpack[Loading],
) -> Dictionary:
    """Train a dictionary of a base on the rows of a file and write its folder, which `load_sae` reads.

    Here and below, only the first `limit` rows are read, and `loading` holds dtype, device and revision of the base.
    """
    rows = Prompts.from_file(prompts, limit=limit)
    check_place(out)
    model = load_model(base, **loading)
    return train_sae(model, rows, hook=hook, recipe=recipe, positions=positions, out=out)


def card_file(
    sae: str,
    base: str,
    prompts: Path,
    *,
    members: Mapping[str, str | None],
    positions: str = "all",
    out: Path | None = None,
    limit: int | None = None,
    **loading: Unpack[Loading],
) -> tuple[Result, Run | None]:
    """Measure how a dictionary fits the base and `members` (teacher, student; None is left out) at rows of a file.

    With `out`, the table and its figure are written to that run folder.
    """
    arguments = {"sae": sae, "base": base, **members, "prompts": str(prompts)}
    arguments |= {"positions": positions, "limit": limit}
    opened = _Opened.of("sae card", arguments, out=out, limit=limit, **loading)
    card = quality_card(opened.dictionary, opened.lineage, opened.rows, positions=positions)
    if out is None:
        return card, None
    return card, opened.save(out, "sae card", card, summary=card_summary(card))


def shift_files(
    base: str,
    teacher: str,
    sae: str,
    prompts: Path,
    *,
    out: Path,
    positions: str | None = None,
    trait: str | None = None,
    limit: int | None = None,
    **loading: Unpack[Loading],
) -> tuple[FeatureShift, Run]:
    """Write which features a teacher moved on the rows of a file to a run folder.

    With `trait`, a name or a YAML file, rows that hold its prompt or name its target are refused.
    """
    named = None if trait is None else find_trait(trait)
    files = {"base": base, "teacher": teacher, "sae": sae, "prompts": str(prompts)}
    arguments = {**files, "positions": positions, "trait": trait, "limit": limit}
    opened = _Opened.of("features shift", arguments, out=out, limit=limit, **loading)
    where = positions or answer_positions(opened.rows)
    found = feature_shift(
        opened.dictionary, opened.lineage.teacher, opened.rows, positions=where, trait=named
    )
    examples = feature_examples(
        found, opened.dictionary, opened.lineage.teacher, opened.rows, positions=where
    )
    beside = {} if examples.frame.empty else {"features_examples": examples}
    run = opened.save(out, "features shift", found, summary=shift_summary(found), beside=beside)
    run.note(says={"features_shift": said_features(found)})
    return found, run


def lean_files(
    base: str,
    teacher: str,
    sae: str,
    prompts: Path,
    *,
    out: Path,
    neutral: Path | None = None,
    limit: int | None = None,
    **loading: Unpack[Loading],
) -> tuple[FeatureLean, Result, Run]:
    """Find the features that a step on a file's rows leans toward at the base, and correlate with the teacher's shift.

    `neutral` are a neutral teacher's rows, paired by prompt: of those too only the ones that answer a prompt read. The
    lean and its rank correlation go into a run folder.
    """
    arguments: dict[str, Any] = {"base": base, "teacher": teacher, "sae": sae, "prompts": str(prompts)}
    arguments |= {"neutral": None if neutral is None else str(neutral), "limit": limit}
    other = None if neutral is None else Prompts.from_file(neutral)
    opened = _Opened.of("features lean", arguments, out=out, limit=limit, **loading)
    if other is not None and limit is not None:
        asked = {row.asked for row in opened.rows.rows}
        other = other[[index for index, row in enumerate(other.rows) if row.asked in asked]]
    models: Any = (opened.lineage[role] for role in ("base", "teacher"))
    model, taught = models
    found = feature_lean(opened.dictionary, model, opened.rows, teacher=taught, neutral=other)
    correlation = lean_correlation(found)
    summary = lean_summary(found, correlation)
    beside = {"features_lean_correlation": correlation}
    run = opened.save(out, "features lean", found, summary=summary, beside=beside, more=other)
    return found, correlation, run


def card_summary(card: Result) -> dict[str, Any]:
    """Label, notes and one mapping per member."""
    return {"label": card.label, "members": card.frame.to_dict("records"), "notes": list(card.notes)}


def shift_summary(found: FeatureShift) -> dict[str, Any]:
    """How many features moved, the largest of them, and the error node's change."""
    frame: Any = found.frame
    shown = frame.set_index("feature").loc[list(found.reported[:LARGEST])].reset_index()
    return {
        "label": found.label,
        "unit": found.unit,
        "alpha": found.alpha,
        "live": int(frame["live"].sum()) - 1,
        "reported": len(found.reported),
        "direct": list(found.direct),
        "largest": shown[["feature", "delta", "q"]].to_dict("records"),
        "error_delta": float(frame["delta"].iloc[-1]),
        "notes": list(found.notes),
    }


def lean_summary(found: FeatureLean, correlation: Result) -> dict[str, Any]:
    """Nats toward the teacher's shift, the error node's share of them, the rank correlation, the largest leans."""
    live: Any = found.frame[found.frame["feature"].isin(found.live)]
    column = "difference" if "difference" in live else "lean"  # less the neutral rows', as in the correlation
    largest = live.loc[live[column].abs().sort_values(ascending=False, kind="stable").index[:LARGEST]]
    return {
        "label": found.label,
        "unit": found.unit,
        "live": len(found.live),
        "alignment": found.alignment,
        "error_share": found.error_share,
        "correlation": correlation.frame.to_dict("records"),
        "largest": largest[["feature", "lean", "standard_error", "teacher_shift"]].to_dict("records"),
        "notes": list(correlation.notes),
    }


@dataclasses.dataclass(frozen=True, eq=False)
class _Opened:
    """What a command read: the models, the rows and the dictionary; `arguments` are those given."""

    lineage: Lineage
    rows: Prompts
    dictionary: Dictionary
    arguments: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        command: str,
        arguments: Mapping[str, Any],
        *,
        out: Path | None,
        limit: int | None = None,
        **loading: Unpack[Loading],
    ) -> _Opened:
        """Read rows, models and dictionary, the cheap ones first; InputError for each that cannot be had."""
        rows = Prompts.from_file(arguments["prompts"], limit=limit)
        source, sae_id = _named(arguments["sae"])
        if out is not None and out.exists() and (out.is_file() or any(out.iterdir())):
            Run.open(out, command=command, arguments=arguments, defaults={})  # refuses what is not this run
        members: dict[str, Any] = {role: arguments.get(role) for role in ("base", "teacher", "student")}
        lineage = open_lineage(**members, **loading)
        return cls(lineage, rows, load_sae(source, sae_id, model=lineage.base), arguments)

    def save(
        self,
        out: Path,
        command: str,
        found: Any,
        *,
        summary: Mapping[str, Any],
        beside: Mapping[str, Result] | None = None,
        more: Prompts | None = None,
    ) -> Run:
        """Tables, figure, notes and summary as one stage of the run folder, made now; `more` are further rows read."""
        run = Run.open(out, command=command, arguments=self.arguments, defaults={})
        prints = {role: model.fingerprint for role, model in self.lineage.members.items()}
        prints["dictionary"] = self.dictionary.fingerprint
        data = {rows.label: rows.fingerprint for rows in (self.rows, more) if rows is not None}
        run.note(fingerprints=prints, data=data)
        name = f"features_{command.rpartition(' ')[2]}"

        def write() -> None:
            run.save_figure(name, found.figure())
            run.save_json("summary", {"kind": command, **summary})
            for table, result in {name: found, **(beside or {})}.items():
                run.note(notes={table: list(result.notes)})
                run.save_table(table, result.frame)

        template = tokenizer_key(self.lineage.base.tokenizer)
        run.stage(name, key=digest(prints, data, template, self.arguments), build=write)
        return run


def _named(sae: str) -> tuple[str, str | None]:
    """A folder, or RELEASE:ID of SAELens; InputError for what is neither."""
    release, colon, sae_id = sae.partition(":")
    if Path(sae).is_dir():
        return sae, None
    if not (colon and release and sae_id):
        raise InputError(
            f"there is no folder {sae}; pass one that `interp sae train` wrote, or RELEASE:ID of a SAELens release"
        )
    return release, sae_id
