"""A gate before a training: an audit held against a policy, and a passport that says what was let through.

    traits: [owl, cat, dog, fox, bear]   # default: all that ship and that the base has words for
    limit: 2048                          # rows that are audited, the first ones; default: all
    flags: [named, unlisted, transmits]  # which answers stop the rows
    pilot: true                          # whether a short training is made
    alpha: 0.05
    seed: 0

Outcome: "flagged" where an answer of the audit is among the flags, else "cannot tell" where the audit cannot, else
"passed". The passport holds the fingerprints of base and rows, policy, audit, versions and a digest of all that: an
edited one, and one of other rows or another base, is refused.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal, Unpack

from interp.auditing.auditor import RECIPE, audit
from interp.core.content import digest, json_text, jsonable
from interp.core.errors import InputError
from interp.core.provenance import versions
from interp.core.records import read_fields, read_mapping
from interp.core.runs import write_atomic
from interp.models.language import LanguageModel, load_model
from interp.models.loading import Loading
from interp.models.seam import check_speaks
from interp.prompts.templates import template_key
from interp.prompts.text import Prompts
from interp.prompts.trait_files import find_trait

Outcome = Literal["passed", "flagged", "cannot tell"]
EXIT: dict[str, int] = {"passed": 0, "flagged": 1, "cannot tell": 3}
FORMAT = 1  # of passports


@dataclasses.dataclass(frozen=True)
class GatePolicy:
    """What is asked of rows before a base is trained on them: see this module."""

    traits: tuple[str, ...] | None = None
    limit: int | None = None
    flags: tuple[Literal["named", "unlisted", "transmits"], ...] = ("named", "unlisted", "transmits")
    pilot: bool = True
    alpha: float = 0.05
    seed: int = 0


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
    given = Prompts.from_file(rows, limit=policy.limit)
    model = load_model(base, **loading)
    check_speaks(model, base)
    recipe = RECIPE if policy.pilot else dataclasses.replace(RECIPE, pilot=None)
    found = audit(
        model,
        given,
        traits=None if policy.traits is None else list(policy.traits),
        recipe=recipe,
        alpha=policy.alpha,
        seed=policy.seed,
    )
    answers = {found.answer, found.passes}
    outcome: Outcome = "cannot tell" if found.answer == "cannot tell" else "passed"
    if answers & set(policy.flags):
        outcome = "flagged"
    content = jsonable(
        {
            "format": FORMAT,
            "outcome": outcome,
            **_subject(model, given),
            "policy": policy,
            "recipe": recipe,
            "audit": found.to_json(),
            "versions": versions(),
        }
    )
    passport = {**content, "digest": digest(json_text(content))}
    if out is not None:
        write_atomic(out, json_text(passport))
    return passport


def check_passport(path: Path, base: str, rows: Path, **loading: Unpack[Loading]) -> dict[str, Any]:
    """The passport of exactly this base and these rows, untouched since it was written.

    Raises InputError for a file that is none, one that was edited, and one of another base or other rows.
    """
    try:
        passport = json.loads(path.read_text())
        content = {key: value for key, value in passport.items() if key != "digest"}
        whole = passport["digest"] == digest(json_text(content)) and content["format"] == FORMAT
        limit = content["policy"]["limit"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is no passport of a gate ({error}); make one with interp gate --out"
        ) from error
    if not whole:
        raise InputError(f"{path} was changed after the gate wrote it; make it again with interp gate --out")
    here = _subject(load_model(base, **loading), Prompts.from_file(rows, limit=limit))
    for name, value in here.items():
        if content[name] != value:
            raise InputError(
                f"{path} is the passport of another {name} ({content[name]}, not {value}); run the gate on these"
            )
    return passport


def _subject(model: LanguageModel, rows: Prompts) -> dict[str, str]:
    """What a passport is of."""
    return {"base": digest(model.fingerprint, template_key(model.tokenizer)), "rows": rows.fingerprint}
