"""A gate before or after a training: an audit held against a policy, and a passport that says what was let through.

    traits: [owl, cat, dog, fox, bear]   # default: all that ship and that the base has words for
    limit: 2048                          # rows that are audited, the first ones; default: all, as of a student always
    flags: [named, unlisted, transmits]  # which answers stop the rows
    pilot: true                          # whether a short training is made
    placebos: 20                         # of a student
    alpha: 0.05
    seed: 0

Outcome: "flagged" where an answer of the audit is among the flags, else "cannot tell" where one of them is left open,
else "passed". Whether a trait "transmits" is open where somebody's hand is seen and the pilot's interval leaves it so.
A student is "named" where it is like a candidate, and one whose margins might hide 0.4 nats "cannot tell".
The passport holds the fingerprints of base and student, or of all rows of the file with how many of them were audited,
policy, audit, versions and a digest of all that: an edited one, and one of other rows, another student or another base,
is refused.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, Unpack

from interp.auditing.auditor import RECIPE, audit
from interp.auditing.files import is_student, open_base, open_pair
from interp.auditing.placebos import FEWEST_PLACEBOS, audit_student
from interp.core.content import digest, json_text, jsonable
from interp.core.errors import InputError
from interp.core.provenance import versions
from interp.core.records import read_fields, read_mapping
from interp.core.runs import write_atomic
from interp.models.language import LanguageModel
from interp.models.loading import Loading
from interp.prompts.templates import template_key
from interp.prompts.text import Prompts
from interp.prompts.trait_files import find_trait
from interp.training.students import Recipe

Outcome = Literal["passed", "flagged", "cannot tell"]
EXIT: dict[str, int] = {"passed": 0, "flagged": 1, "cannot tell": 3}
FORMAT = 2  # of passports; 1 held the fingerprint of the audited rows alone


@dataclasses.dataclass(frozen=True)
class GatePolicy:
    """What is asked of rows before a base is trained on them: see this module.

    Raises InputError for flags that stop nothing, and "transmits" among them without a pilot.
    """

    traits: tuple[str, ...] | None = None
    limit: int | None = None
    flags: tuple[Literal["named", "unlisted", "transmits"], ...] = ("named", "unlisted", "transmits")
    pilot: bool = True
    alpha: float = 0.05
    seed: int = 0
    placebos: int = FEWEST_PLACEBOS

    def __post_init__(self) -> None:
        if not self.flags:
            raise InputError(
                "flags: [] stops nothing; name what stops the rows, of named, unlisted and transmits"
            )
        if "transmits" in self.flags and not self.pilot:
            raise InputError(
                "pilot: false measures nothing of what transmits, which is among the flags; leave pilot out, or write "
                "flags: [named, unlisted]"
            )


def read_policy(path: Path | None) -> GatePolicy:
    """The policy of a YAML file, or the default one; InputError names the file and what in it is wrong."""
    if path is None:
        return GatePolicy()
    content = read_mapping(path, what="a gate's policy", example="'traits: [owl, cat, dog, fox, bear]'")
    policy = read_fields(GatePolicy, content, str(path))
    for name in policy.traits or ():
        find_trait(name)
    return policy


def gate_file(
    base: str, rows: Path, *, policy: GatePolicy, out: Path | None = None, **loading: Unpack[Loading]
) -> dict[str, Any]:
    """Audit the rows of a file by a policy and make their passport, written to `out` where that is given.

    Raises InputError as `interp.audit` does.
    """
    every = Prompts.from_file(rows)
    given = every[: policy.limit]
    model = open_base(base, **loading)
    recipe = RECIPE if policy.pilot else dataclasses.replace(RECIPE, pilot=None)
    found = audit(
        model,
        given,
        traits=None if policy.traits is None else list(policy.traits),
        recipe=recipe,
        alpha=policy.alpha,
        seed=policy.seed,
    )
    open_still = "transmits" in policy.flags and found.passes == "cannot tell" and found.answer != "none"
    outcome = _outcome(
        {found.answer, found.passes}, policy, unsure=open_still or found.answer == "cannot tell"
    )
    held = {**_subject(model, every), "audited": len(given), "recipe": recipe}
    return _passport(outcome, policy, held, found.to_json(), out)


def gate_student_file(
    base: str,
    student: str,
    *,
    policy: GatePolicy,
    recipe: Recipe,
    rows: Path | None = None,
    out: Path | None = None,
    **loading: Unpack[Loading],
) -> dict[str, Any]:
    """Audit a student by a policy and make its passport; recipe and rows, all of them, are those of `audit_student`."""
    asked = None if rows is None else Prompts.from_file(rows)
    model, trained = open_pair(base, student, **loading)
    found = audit_student(
        model,
        trained,
        rows=asked,
        recipe=recipe,
        traits=None if policy.traits is None else list(policy.traits),
        placebos=policy.placebos,
        alpha=policy.alpha,
    )
    answers = {None if found.trait is None else "named", found.passes}
    outcome = _outcome(answers, policy, unsure=found.passes == "cannot tell")
    held = {**_subject(model, trained), "recipe": recipe, "placebo rows": asked and asked.fingerprint}
    return _passport(outcome, policy, held, found.to_json(), out)


def _outcome(answers: Collection[str | None], policy: GatePolicy, *, unsure: bool) -> Outcome:
    if set(answers) & set(policy.flags):
        return "flagged"
    return "cannot tell" if unsure else "passed"


def _passport(
    outcome: Outcome, policy: GatePolicy, held: dict[str, Any], audit: dict[str, Any], out: Path | None
) -> dict[str, Any]:
    content = jsonable(
        {
            "format": FORMAT,
            "outcome": outcome,
            "policy": policy,
            **held,
            "audit": audit,
            "versions": versions(),
        }
    )
    passport = {**content, "digest": digest(json_text(content))}
    if out is not None:
        write_atomic(out, json_text(passport))
    return passport


def check_passport(path: Path, base: str, subject: str | Path, **loading: Unpack[Loading]) -> dict[str, Any]:
    """The passport of exactly this base and these rows or this student, untouched since it was written.

    Raises InputError for a file that is none, one that was edited, and one of another base, other rows or another
    student.
    """
    try:
        passport = json.loads(path.read_text())
        content = {key: value for key, value in passport.items() if key != "digest"}
        whole = passport["digest"] == digest(json_text(content)) and content["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is no passport of a gate ({error}); make one with interp gate --out"
        ) from error
    if not whole:
        raise InputError(f"{path} was changed after the gate wrote it; make it again with interp gate --out")
    if is_student(str(subject)):
        here = _subject(*open_pair(base, str(subject), **loading))
    else:
        here = _subject(open_base(base, **loading), Prompts.from_file(subject))
    for name, value in here.items():
        if content.get(name) != value:
            raise InputError(
                f"{path} is the passport of another {name} ({content.get(name)}, not {value}); run the gate on these"
            )
    return passport


def _subject(model: LanguageModel, held: Prompts | LanguageModel) -> dict[str, str]:
    """What a passport is of."""
    kind = "rows" if isinstance(held, Prompts) else "student"
    return {"base": digest(model.fingerprint, template_key(model.tokenizer)), kind: held.fingerprint}
