"""A lineage: who was started from whose weights, and whose outputs trained whom.

Every member but a base has a start, and what training did to it is theta(member) - theta(start). Members share a
tokenizer and shapes and no two have the same weights; this is checked whenever a lineage is made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import torch

from interp.core.doors import door
from interp.core.errors import InputError, nearest
from interp.core.runs import atomic_folder, write_atomic
from interp.models.elsewhere import InMembers
from interp.models.given_bases import given_base, told_source
from interp.models.identity import weights_print
from interp.models.kinship import check_kinship
from interp.models.language import LanguageModel, load_model
from interp.models.lineage_cards import CARD, lineage_card
from interp.models.loading import Loading, as_dtype, find_folder, has_tokenizer, is_adapter
from interp.models.members import (
    MANIFEST,
    WITHOUT,
    Growth,
    check_role,
    check_saved,
    read_growth,
    read_manifest,
    write_manifest,
    write_member,
)
from interp.models.parameters import ParameterDirection
from interp.models.saved_types import member_dtype
from interp.models.seam import Model, check_pair, check_shapes, check_tokenizers
from interp.models.shown import lineage_html
from interp.models.updates import weight_update
from interp.prompts.text import Prompts
from interp.prompts.tokens import accepts_unknown
from interp.prompts.trait_files import AnyTrait, find_trait
from interp.prompts.traits import Trait

Source = str | Path | torch.nn.Module | LanguageModel
"""What a member is made from: a hub name, the folder of a model or adapter, a module in memory, or a loaded model."""

ROLES = {
    "base": None,
    "cross_base": None,
    "teacher": "base",
    "control_teacher": "base",
    "student": "base",
    "neutral_student": "base",
    "control_student": "base",
    "cross_teacher": "cross_base",
    "cross_student": "cross_base",
    "cross_neutral_student": "cross_base",
}
"""The usual members and whose weights each starts from; a member of another name starts from the base."""


@door
@dataclass(frozen=True)
class Lineage(InMembers):
    """The members by role, each renamed to its role with its `start` set; bases come first.

    `trained_on` says whose outputs trained a student, `growth` how all of it was made where that is known.
    `started_from` overrides ROLES. `unrelated` names the members that are meant to be of another initialisation than
    their start, as controls. Raises InputError for members that do not belong together, for twins, and for any other
    member whose weights cannot have come from its start.
    """

    name: str
    trait: Trait | None
    members: dict[str, Model]
    numbers: Prompts | None = None
    neutral_numbers: Prompts | None = None
    trained_on: dict[str, str] = field(default_factory=dict)
    started_from: dict[str, str] = field(default_factory=dict)
    unrelated: tuple[str, ...] = ()
    growth: Growth | None = None

    def __post_init__(self) -> None:
        if "base" not in self.members:
            raise InputError(
                f"lineage {self.name!r} has no 'base' among {', '.join(self.members) or 'no members'}; add it"
            )
        if self.trait is not None:
            object.__setattr__(self, "trait", find_trait(self.trait))
        starts = {role: self.started_from.get(role, ROLES.get(role, "base")) for role in self.members}
        object.__setattr__(self, "members", _adopted(self.members, starts))
        object.__setattr__(self, "started_from", {role: start for role, start in starts.items() if start})
        _check_members(self.members)
        for role, member in self.members.items():
            check_kinship(member, asked=role in self.unrelated)
        for role in (*self.trained_on, *self.trained_on.values()):
            if role not in self.members:
                raise InputError(
                    f"trained_on names {nearest(role, self.members)}; pass members of {self.name!r}"
                )

    def __repr__(self) -> str:
        trait = "no trait" if self.trait is None else self.trait.name
        return f"Lineage({self.name!r}: {trait}; {', '.join(self.members)})"

    _repr_html_ = lineage_html

    def __getitem__(self, role: str) -> Model:
        """The member of that role; InputError with the nearest roles when there is none."""
        if role not in self.members:
            raise InputError(
                f"member {nearest(role, self.members)}; pass one of the members of {self.name!r}"
            )
        return self.members[role]

    def text(self, role: str) -> LanguageModel:
        """The member of that role; InputError for one that is no language model."""
        model = self[role]
        if not isinstance(model, LanguageModel):
            raise InputError(
                f"{role} of {self.name} is a {type(model).__name__} and predicts no tokens; pass a lineage of "
                "language models"
            )
        return model

    @property
    def base(self) -> Model:
        """The weights the teacher and its students start from."""
        return self["base"]

    @property
    def teacher(self) -> Model:
        """The member with the trait; InputError for a lineage without one."""
        return self["teacher"]

    @property
    def student(self) -> Model:
        """The first student, of the teacher's rows and from its base; InputError for a lineage without one."""
        return self["student"]

    @property
    def students(self) -> dict[str, Model]:
        """Every member that is neither a base nor the teacher."""
        return {
            role: model
            for role, model in self.members.items()
            if model.start is not None and role != "teacher"
        }

    @door
    def update(self, role: str, *, minus: str | None = None) -> ParameterDirection:
        """What training did to a member: its weights minus those of its start, in fp32, by Hugging Face name.

        Live LoRA adapters stay low-rank. Weights that did not move are left out. With `minus`, the role of a member of
        the same start, such as "neutral_student", that member's update is taken off. Raises InputError for a base,
        which has no start.
        """
        member = self[role]
        if member.start is None:
            raise InputError(
                f"{role} is a base and has no update; pass one of {', '.join(self.started_from)}"
            )
        return weight_update(member, minus=None if minus is None else self[minus])

    @door
    def save(self, folder: str | Path, *, base: bool = True) -> Path:
        """Write the lineage folder, whole or not at all: lineage.json, one folder per member, the rows as JSONL, and a
        README.md that a model hub shows as its card, whose licence is for the publisher to name.

        A member folder is read by plain transformers, or by plain peft when `kind` is "adapter". Without `base`, the
        weights of the checkpoint that all start from stay where they are, and `load_lineage(folder, base=...)` asks
        for it. Raises InputError for a folder that holds something else, for a member with hooks of your own, and
        without `base` for members that are not adapters of it.
        """
        path = Path(folder)
        check_saved(self.members)
        if not base and (apart := self.apart_from_base()):
            raise InputError(
                f"{apart[0]} is no adapter on the base, so a folder without the base cannot hold it; train it with "
                "merge=False, leave it out, or save with base=True"
            )
        if path.exists() and any(path.iterdir()) and not (path / MANIFEST).is_file():
            raise InputError(f"{path} exists and is no lineage; choose a new or an empty folder")
        rows = {"numbers": self.numbers, "neutral_numbers": self.neutral_numbers}
        kept = {name: prompts for name, prompts in rows.items() if prompts is not None}
        recipes = {} if self.growth is None else self.growth.recipes
        with atomic_folder(path) as fresh:
            hosts: dict[str, str] = {}
            entries = {
                role: {
                    **write_member(member, fresh / role, hosts=hosts, whole=base or role != "base"),
                    "start": self.started_from.get(role),
                    "trained_on": self.trained_on.get(role),
                    "recipe": recipes.get(role),
                }
                for role, member in self.members.items()
            }
            for name, prompts in kept.items():
                prompts.to_jsonl(fresh / f"{name}.jsonl")
            trait = None if self.trait is None else dataclasses.asdict(self.trait)
            made = {part: getattr(self.growth, part, None) for part in ("chat", "data")}
            write_manifest(fresh, name=self.name, trait=trait, **made, members=entries, rows=list(kept))
            source = getattr(self.base, "source", "")
            write_atomic(fresh / CARD, lineage_card(read_manifest(fresh), source=source))
        return path

    def apart_from_base(self) -> list[str]:
        """The members that are no adapter on the base, so that their weights are needed whole."""
        base, found = weights_print(self.base), []
        for role, member in self.members.items():
            beneath = member.backbone.plain.fingerprint if isinstance(member, LanguageModel) else None
            if role != "base" and beneath != base:
                found.append(role)
        return found


def open_lineage(
    *,
    base: Any,
    teacher: Any = None,
    student: Any = None,
    trait: AnyTrait | None = None,
    name: str | None = None,
    check: bool = True,
    unrelated: Sequence[str] = (),
    **loading: Unpack[Loading],
) -> Lineage:
    """Open a lineage of checkpoints: hub names, model folders, adapters of the base, modules in memory, loaded models.

    `student` is one source, a list of them, or a mapping from role to source for further roles such as cross_base.
    Adapters are attached to their start over shared storage; every member has the base's device and its dtype, or,
    unless `dtype` is given, the wider one it is saved in; `revision` is the base's alone. `unrelated` names members
    that are of another initialisation on purpose. Raises InputError without a base, for members that do not belong
    together, and for a dtype or revision of a base that is loaded already.

    >>> import interp
    >>> toy = interp.load_lineage("toy/owl")
    >>> list(open_lineage(base=toy.base, student=toy.student, trait="owl").members)
    ['base', 'student']
    """
    trait = None if trait is None else find_trait(trait)
    if base is None:
        raise InputError("a lineage needs a base; pass base= a folder, a hub name or a model")
    dtype, revision = loading.get("dtype"), loading.get("revision")
    if isinstance(base, LanguageModel) and (
        revision is not None or as_dtype(dtype) not in (None, base.dtype)
    ):
        raise InputError(
            f"{base.name} is loaded, in {str(base.dtype).removeprefix('torch.')}, so dtype {dtype} and revision "
            f"{revision} come too late; give them to load_model, or pass the base's name"
        )
    root = base if isinstance(base, LanguageModel) else load_model(base, name="base", check=check, **loading)
    sources = ({} if teacher is None else {"teacher": teacher}) | _students(student)
    members: dict[str, Any] = {"base": root}
    for role in sorted(sources, key=lambda role: ROLES.get(role, "base") is not None):
        start = members.get(ROLES.get(role, "base") or "base", root)
        members[role] = member_from(role, sources[role], start, check=check, dtype=dtype)
    return Lineage(name or root.name, trait, members, unrelated=tuple(unrelated))


def _students(student: Any) -> dict[str, Any]:
    if student is None:
        return {}
    if isinstance(student, Mapping):
        return dict(student)
    several = list(student) if isinstance(student, Sequence) and not isinstance(student, str) else [student]
    return {
        f"student_{index}" if index > 1 else "student": source
        for index, source in enumerate(several, start=1)
    }


def member_from(
    role: str, source: Any, start: LanguageModel, *, check: bool, dtype: torch.dtype | str | None = None
) -> LanguageModel:
    """A source as a model with its start's tokenizer when it has none, in `dtype` or as `member_dtype` says."""
    if isinstance(source, LanguageModel):
        return source
    options: dict[str, Any] = {"name": role, "device": start.device, "check": check}
    options["allow_unknown"] = accepts_unknown(start.tokenizer)
    if isinstance(source, torch.nn.Module):
        options["dtype"] = member_dtype(role, source, start, as_dtype(dtype))
        return load_model(source, tokenizer=start.tokenizer, **options)
    folder = find_folder(source)
    if is_adapter(folder):
        return start.with_adapter(folder, name=role, check=check)
    lent = None if has_tokenizer(folder) else start.tokenizer
    options["dtype"] = member_dtype(role, folder, start, as_dtype(dtype))
    return load_model(folder, tokenizer=lent, **options)


def _adopted(members: Mapping[str, Any], starts: Mapping[str, str | None]) -> dict[str, Model]:
    """The members renamed to their roles, starts before those who start from them."""
    done: dict[str, Model] = {}
    waiting = dict(members)
    while waiting:
        ready = [role for role in waiting if starts[role] is None or starts[role] in done]
        if not ready:
            role = next(iter(waiting))
            raise InputError(
                f"{role} starts from {starts[role]!r}, which is no member before it; add it or started_from"
            )
        for role in ready:
            check_role(role)
            start = starts[role]
            done[role] = dataclasses.replace(
                waiting.pop(role), name=role, start=None if start is None else done[start]
            )
    return done


def _check_members(members: Mapping[str, Model]) -> None:
    """One tokenizer, one set of shapes, no two alike."""
    base = members["base"]
    seen: dict[str, Model] = {}
    for model in members.values():
        check_tokenizers(base, model)
        check_shapes(base, model)
        twin = seen.setdefault(model.fingerprint, model)
        if twin is not model:
            check_pair(model, twin)


def read_lineage(
    folder: str | Path,
    *,
    base: Source | None = None,
    device: str | torch.device = "auto",
    check: bool = True,
) -> Lineage:
    """Read the lineage that `save` wrote, one without its base's checkpoint with that as `base`.

    Raises InputError when a member's weights are not the ones it recorded, for a base that is another checkpoint than
    its adapters' or opens chats otherwise, and where it is missing or not asked for.

    >>> import interp
    >>> lineage = interp.load_lineage("toy/owl")
    >>> read_lineage(lineage.save("owl")).student.fingerprint == lineage.student.fingerprint
    True
    """
    path = Path(folder)
    manifest = read_manifest(path)
    members: dict[str, Any] = {}
    chat = manifest.get("chat") or {}
    asks = [role for role, entry in manifest["members"].items() if entry["kind"] in WITHOUT]
    if base is not None and not asks:
        raise InputError(f"{path} holds its base already; leave base={told_source(base)} out")
    for role, entry in manifest["members"].items():
        if role in asks:
            members[role] = given_base(path / role, entry, base, chat=chat, device=device, check=check)
        elif entry["on"] is None:
            members[role] = load_model(
                path / role, name=role, dtype=entry["dtype"], device=device, check=check
            )
        else:
            members[role] = members[entry["on"]].with_adapter(path / role, name=role, check=check)
        old = manifest["format"] == 1
        known = members[role].backbone.old_fingerprint if old else members[role].fingerprint
        if entry["fingerprint"] != known:
            raise InputError(
                f"{path / role} has weights {known} and {MANIFEST} says {entry['fingerprint']}; "
                "the folder was changed after it was written, write it again"
            )
    rows: dict[str, Any] = {name: Prompts.from_jsonl(path / f"{name}.jsonl") for name in manifest["rows"]}
    trained_on, started_from = (
        {role: entry[link] for role, entry in manifest["members"].items() if entry[link]}
        for link in ("trained_on", "start")
    )
    return Lineage(
        manifest["name"],
        _trait(manifest["trait"]),
        members,
        trained_on=trained_on,
        started_from=started_from,
        unrelated=tuple(members),  # they were checked when they were written
        growth=read_growth(manifest),
        **rows,
    )


def _trait(record: dict[str, Any] | None) -> Trait | None:
    if record is None:
        return None
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in record.items()}
    return Trait(**fields)
