"""A gate before or after a training: an audit held against a policy, and a passport that says what was let through.

    traits: [owl, cat, dog, fox, bear, wolf, eagle, lion, dolphin, elephant]  # default: all the base has words for
    limit: 2048    # rows that are audited, the first ones; default: all, as of a student always
    flags: [content, named, unlisted, transmits]  # what stops the rows
    pilot: true    # whether a short training is made
    placebos: 20   # of a student
    alpha: 0.05
    seed: 0

"content" is any row of the file, audited or not, that says a listed trait's word; it is said before everything else.
Outcome: "flagged" where there is content or an answer of the audit that is among the flags, else "cannot tell" where
one of them is left open, else "passed". Whether a trait "transmits" is open where somebody's hand is seen and the
pilot's interval leaves it so. A student is "named" where it is like a candidate, and one whose margins might hide 0.4
nats "cannot tell".
The passport holds the fingerprints of base and student, or of all rows of the file with how many of them were audited,
policy, audit, versions and a digest of all that: an edited one, and one of other rows, another student or another base,
is refused, and one by another policy where that is given. The digest is a checksum and no signature: whoever edits a
passport on purpose can compute it anew, so keep passports where only the gate writes, or sign them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, Unpack

from interp.auditing.auditor import RECIPE, audit, unmeasured
from interp.auditing.candidates import check_level, suspected
from interp.auditing.files import is_student, open_base, open_pair, trained_by
from interp.auditing.neutral import content_of
from interp.auditing.placebos import FEWEST_PLACEBOS, Placebos, audit_student
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
FORMAT = 3  # of passports; 2 did not say what rows say openly, 1 was of the audited rows alone
Flag = Literal["content", "named", "unlisted", "transmits"]
OF_STUDENTS = ("named", "transmits")


@dataclasses.dataclass(frozen=True)
class GatePolicy:
    """What is asked of rows before a base is trained on them: see this module.

    Raises InputError for flags that stop nothing, "transmits" among them without a pilot, a limit that leaves no rows,
    and a level or seed that `interp.audit` refuses.
    """

    traits: tuple[str, ...] | None = None
    limit: int | None = None
    flags: tuple[Flag, ...] = ("content", "named", "unlisted", "transmits")
    pilot: bool = True
    alpha: float = 0.05
    seed: int = 0
    placebos: int = FEWEST_PLACEBOS

    def __post_init__(self) -> None:
        check_level(self.alpha, seed=self.seed)
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit: {self.limit} leaves no rows; write at least 1, or leave it out")
        if not self.flags:
            raise InputError(
                "flags: [] stops nothing; name what stops the rows, of content, named, unlisted and transmits"
            )
        if "transmits" in self.flags and not self.pilot:
            raise InputError(
                "pilot: false measures nothing of what transmits, which is among the flags; leave pilot out, or write "
                "flags: [content, named, unlisted]"
            )


def read_policy(path: Path | None) -> GatePolicy:
    """The policy of a YAML file, or the default one; InputError names the file and what in it is wrong."""
    if path is None:
        return GatePolicy()
    content = read_mapping(path, what="a gate's policy", example="'limit: 2048'")
    policy = read_fields(GatePolicy, content, str(path))
    for name in policy.traits or ():
        find_trait(name)
    return policy


def gate_file(
    base: str, rows: Path, *, policy: GatePolicy, out: Path | None = None, **loading: Unpack[Loading]
) -> dict[str, Any]:
    """Audit the rows of a file by a policy and make their passport, written to `out` where that is given.

    Raises InputError as `interp.audit` does, and for an `out` that is a folder.
    """
    _check_out(out)
    every = Prompts.from_file(rows)
    given = every[: policy.limit]
    model = open_base(base, **loading)
    recipe = RECIPE if policy.pilot else dataclasses.replace(RECIPE, pilot=None)
    traits = None if policy.traits is None else list(policy.traits)
    saying, total, words = content_of(every, suspected(model, traits))
    how = {"traits": traits, "recipe": recipe, "alpha": policy.alpha, "seed": policy.seed}
    try:
        found = audit(model, given, **how)
    except InputError as error:  # too few others, or none: what is said openly is flagged all the same
        if not (saying and "content" in policy.flags):
            raise
        found = unmeasured(f"{given.label} at {model.name}", str(error), len(given), alpha=policy.alpha)
    open_still = "transmits" in policy.flags and found.passes == "cannot tell" and found.answer != "none"
    answers = {found.answer, found.passes, "content" if saying else None}
    outcome = _outcome(answers, policy, unsure=open_still or found.answer == "cannot tell")
    reason = _reason(saying, total, words, found.reason)
    said = {"reason": reason, "content": {"rows": saying, "of": total, "words": words}}
    held = {**_subject(model, every), "audited": len(given), "recipe": recipe}
    return _passport(outcome, policy, {**said, **held}, found.to_json(), out)


def _reason(saying: int, total: int, words: dict[str, int], others: str) -> str:
    """What rows say openly, if anything, and what was found of the others."""
    if not saying:
        return others
    which = ", ".join(f"{word!r} in {count}" for word, count in words.items())
    told = f"{saying} of {total} rows say a listed trait's word ({which}): that is content, which any reader sees"
    return told if saying == total else f"{told}; of the other rows: {others}"


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
    """Audit a student by a policy and make its passport.

    `recipe` trains its placebos, and rows, all of them, are those of `audit_student`. Raises InputError as that does,
    and for a policy whose flags stop no student.
    """
    if not set(policy.flags) & set(OF_STUDENTS):
        raise InputError(
            f"flags: [{', '.join(policy.flags)}] stops no student; add {' or '.join(OF_STUDENTS)} to them"
        )
    _check_out(out)
    asked = None if rows is None else Prompts.from_file(rows)
    model, trained = open_pair(base, student, **loading)
    found = audit_student(
        model,
        trained,
        rows=asked,
        traits=None if policy.traits is None else list(policy.traits),
        placebos=Placebos(policy.placebos, recipe, trained_by(student)),
        alpha=policy.alpha,
    )
    answers = {None if found.trait is None else "named", found.passes}
    outcome = _outcome(answers, policy, unsure=found.passes == "cannot tell")
    held = {
        "reason": found.reason,
        **_subject(model, trained),
        "recipe": recipe,
        "placebo rows": asked and asked.fingerprint,
    }
    return _passport(outcome, policy, held, found.to_json(), out)


def _check_out(out: Path | None) -> None:
    """InputError, before anything is measured, for a folder where a passport is to be written."""
    if out is not None and out.is_dir():
        raise InputError(f"{out} is a folder; name the passport in it, such as {out / 'passport.json'}")


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
            **held,
            "policy": policy,
            "audit": audit,
            "versions": versions(),
        }
    )
    passport = {**content, "digest": digest(json_text(content))}
    if out is not None:
        write_atomic(out, json_text(passport))
    return passport


def check_passport(
    path: Path,
    base: str,
    subject: str | Path,
    *,
    policy: GatePolicy | None = None,
    **loading: Unpack[Loading],
) -> dict[str, Any]:
    """The passport of exactly this base and these rows or this student, by this policy where one is given.

    Its digest is a checksum, which shows an accident and no forgery. Raises InputError for a file that is none, one
    whose digest is another, and one of another base, other rows or another student, or by another policy.
    """
    try:
        passport = json.loads(path.read_text())
        content = {key: value for key, value in passport.items() if key != "digest"}
        whole, made = passport["digest"] == digest(json_text(content)), content["format"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is no passport of a gate ({error}); make one with interp gate --out"
        ) from error
    if not whole:
        raise InputError(f"{path} was changed after the gate wrote it; make it again with interp gate --out")
    if made != FORMAT:
        raise InputError(
            f"{path} is a passport of format {made}, and {FORMAT} is read; make it again with interp gate --out"
        )
    _check_policy(path, content, policy)
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


def _check_policy(path: Path, content: dict[str, Any], policy: GatePolicy | None) -> None:
    """InputError where a passport was made by another policy than the one that is given."""
    wanted, made = jsonable(policy) or {}, content.get("policy") or {}
    differ = [
        f"{name} {made.get(name)}, not {value}" for name, value in wanted.items() if made.get(name) != value
    ]
    if differ:
        raise InputError(
            f"{path} was made by another policy ({'; '.join(differ)}); run the gate with this policy"
        )


def _subject(model: LanguageModel, held: Prompts | LanguageModel) -> dict[str, str]:
    """What a passport is of."""
    kind = "rows" if isinstance(held, Prompts) else "student"
    return {"base": digest(model.fingerprint, template_key(model.tokenizer)), kind: held.fingerprint}
