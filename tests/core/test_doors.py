"""The door of every public verb: what is wrong is one InputError that names it, what fits goes through as it is."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from beartype import BeartypeConf
from beartype.door import is_bearable
from beartype.roar import BeartypeException

import interp
from interp.core.doors import door
from interp.core.doors.hints import evaluated, unpacked_hints
from interp.core.runs import InputError
from interp.models.language import load_model
from interp.prompts.text import Prompts

CONF = BeartypeConf(is_pep484_tower=True)


class Stray:
    """Something that no verb takes."""


WRONG: dict[str, Any] = {
    "a Stray": Stray(),
    "None": None,
    "the text 'zzz'": "zzz",
    "the float 3.5": 3.5,
    "a complex": 1j,
    "a bytes": b"zzz",
    "a dict": {1: Stray()},
    "a list of 1 Stray": [Stray()],
    "a Lineage": inspect.getattr_static(interp.Lineage, "__new__", None) and object.__new__(interp.Lineage),
    "a DataFrame": pd.DataFrame({"a": [1]}),
    "the class Stray": Stray,
}
READ = {"str": ("Path", "list", "tuple", "Sequence", "Trait")}
"""What a text is read as beside text: a path, a list of one, a trait's name, which is looked up."""


def packages() -> Iterator[tuple[str, Any]]:
    """`interp` and its rooms, each with the prefix of its names."""
    yield "", interp
    yield from (
        (f"{name}.", room) for name in interp.__all__ if inspect.ismodule(room := getattr(interp, name))
    )


def verbs() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public name that has a door, and every public method of those that has one."""
    for prefix, package in packages():
        for name in package.__all__:
            thing = getattr(package, name)
            if prefix and name in interp.__all__:
                continue
            function = thing.__init__ if inspect.isclass(thing) else thing
            if hasattr(function, "__door__"):
                yield prefix + name, function
            for method, function in vars(thing).items() if inspect.isclass(thing) else ():
                inner = getattr(function, "__func__", function)
                if method != "__init__" and hasattr(inner, "__door__"):
                    yield f"{prefix}{name}.{method}", inner


VERBS = dict(verbs())


def parameters(verb: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Those of a verb by name, the keys of its unpacked options among them."""
    found: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(verb).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            options = unpacked_hints(evaluated(parameter.annotation, verb.__module__))
            found |= {
                key: inspect.Parameter(key, parameter.KEYWORD_ONLY, default=None, annotation=hint)
                for key, hint in options.items()
            }
        elif name not in ("self", "cls"):
            found[name] = parameter
    return found


def holder(verb: Callable[..., Any]) -> tuple[Any, ...]:
    """Stands for self or cls."""
    return (Stray(),) if {"self", "cls"} & inspect.signature(verb).parameters.keys() else ()


def fits(value: Any, hint: Any, module: str) -> bool:
    """By beartype, which knows nothing of doors; what it cannot check fits nothing here."""
    hint = evaluated(hint, module)
    if typing.get_origin(hint) in (typing.Union, type(int | str)):
        return any(fits(value, part, module) for part in typing.get_args(hint))
    if hasattr(hint, "array_type"):
        return isinstance(value, hint.array_type)
    try:
        return is_bearable(value, hint, conf=CONF)
    except (BeartypeException, TypeError):
        return False


def refused(verb: Callable[..., Any], parameter: inspect.Parameter) -> dict[str, Any]:
    """The values that are wrong for a parameter."""
    written = str(parameter.annotation)
    read = isinstance(WRONG["the text 'zzz'"], str) and any(word in written for word in READ["str"])
    return {
        name: value
        for name, value in WRONG.items()
        if not fits(value, parameter.annotation, verb.__module__)
        and not (name == "the text 'zzz'" and read)
        and not (name == "a DataFrame" and "Prompts" in written)  # rows, if of another shape
    }


def call(verb: Callable[..., Any], parameter: inspect.Parameter, value: Any) -> Any:
    if parameter.kind is parameter.VAR_POSITIONAL:
        before = [name for name, p in parameters(verb).items() if p.kind is p.POSITIONAL_OR_KEYWORD]
        return verb(*holder(verb), *[Prompts.of(["a"]) for _ in before], value)
    return verb(*holder(verb), **{parameter.name: value})


def test_the_table_covers_what_is_public() -> None:
    assert len(VERBS) > 130
    flat = {name: getattr(interp, name) for name in interp.__all__}
    assert [name for name, thing in flat.items() if inspect.isfunction(thing) and name not in VERBS] == []


@pytest.mark.parametrize("name", VERBS)
def test_a_wrong_type_is_one_sentence_before_anything_is_computed(name: str) -> None:
    verb = VERBS[name]
    for parameter in parameters(verb).values():
        for came, value in refused(verb, parameter).items():
            with pytest.raises(InputError) as caught:
                call(verb, parameter, value)
            said = str(caught.value)
            assert re.match(rf"(row 1 of )?{parameter.name}\b", said), said
            assert came.removeprefix("a ") in said or "Stray" in said, said
            assert (said.count("; "), "\n" in said) == (1, False), said


@pytest.mark.parametrize("name", VERBS)
def test_names_are_checked_alike(name: str) -> None:
    verb = VERBS[name]
    known = parameters(verb)
    with pytest.raises(InputError, match=r"argument 'zzz' is unknown; (nearest|known): ?"):
        verb(*holder(verb), zzz=1)
    needed = [p for p in known.values() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    if needed:
        with pytest.raises(InputError, match=f"needs {needed[0].name}, .*which is missing; "):
            verb(*holder(verb))
    if all(p.kind is not p.VAR_POSITIONAL for p in known.values()):
        with pytest.raises(
            InputError, match=r"takes \d+ arguments? without a name .* and 30 came; name the others"
        ):
            verb(*holder(verb), *([None] * 30))


def test_a_twice_given_argument_and_a_near_name_are_said() -> None:
    with pytest.raises(InputError, match="number_prompts: argument 'sed' is unknown; nearest: seed"):
        interp.number_prompts(3, sed=0)  # pyright: ignore
    with pytest.raises(InputError, match="number_prompts: argument 'n' is given twice"):
        interp.number_prompts(3, n=3, seed=0)  # pyright: ignore


def test_what_transformers_would_take_is_refused_with_what_to_do() -> None:
    with pytest.raises(
        InputError,
        match=r"load_model takes no device_map='auto': a model lies on one device here.* pass device='cuda:0'",
    ):
        interp.load_model("folder", device_map="auto")  # pyright: ignore
    with pytest.raises(
        InputError, match=r"load_lineage takes no device_map=\{'': 0\}: a model lies on one device"
    ):
        interp.load_lineage(base="folder", device_map={"": 0})  # pyright: ignore
    with pytest.raises(
        InputError, match=r"load_model takes no load_in_4bit=True: .* pass the 16-bit checkpoint"
    ):
        interp.load_model("folder", load_in_4bit=True)  # pyright: ignore
    with pytest.raises(InputError, match="number_prompts: argument 'device_map' is unknown"):
        interp.number_prompts(3, seed=0, device_map="auto")  # pyright: ignore


# --- what is said -----------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tiny):
    hf, tokenizer = tiny("llama")
    return load_model(hf, tokenizer=tokenizer, name="base", check=False)


@pytest.fixture
def lineage(model, tiny):
    other = load_model(tiny("llama", seed=1)[0], tokenizer=model.tokenizer, name="teacher", check=False)
    return interp.Lineage("pair", None, {"base": model, "teacher": other}, unrelated=("teacher",))


def test_the_sentence_says_what_to_do_with_what_came(model, lineage) -> None:
    rows = interp.number_prompts(2, seed=0)
    for call, message in (
        (
            lambda: interp.shift(lineage, rows),
            "member is a Lineage, where a model is needed; pass one of its members",
        ),
        (
            lambda: interp.record(model.hf, rows, hooks="x"),
            r"needed; wrap it with interp.load_model\(module, tokenizer",
        ),
        (
            lambda: interp.margin("gpt2", "owl"),
            "model is the text 'gpt2', where .* is needed; pass model=lineage.\"gpt2\". for a member of a lineage, or "
            "load one with interp.load_model$",
        ),
        (
            lambda: interp.gradients.alignment_course(model),
            "lineage is a LanguageModel, where a lineage is needed; make one with",
        ),
        (
            lambda: interp.lens("owl", "owl"),
            "shift is the text 'owl', where a shift is needed; make one with interp.shift",
        ),
        (
            lambda: interp.score(model, rows, "owl"),
            r"where a direction in weights or a list .*; pass interp.trait_gradient\(base, 'owl'\) for a trait's, or "
            r"lineage.update\('teacher'\)$",
        ),
        (
            lambda: interp.score(model, rows, interp.get_trait("owl")),
            r"direction is a Trait, .*; pass interp.trait_gradient\(base, trait\), or take lineage.update",
        ),
        (
            lambda: interp.score(model, rows, interp.logit_direction(model, "owl")),
            r"direction is a LogitDirection, .*; that is one in logits; pass interp.trait_gradient\(base, trait\)$",
        ),
        (
            lambda: interp.record(model, rows, hooks=3),
            "hooks is the int 3, where text or a list of str is needed",
        ),
        (
            lambda: interp.record(model, None, hooks="x"),
            "prompts is None, where rows are needed; pass a file",
        ),
        (lambda: interp.margin(model, "ovl"), "Trait 'ovl' is unknown; nearest: owl, wolf"),
        (lambda: interp.number_prompts(True, seed=0), "n is the bool True, where an integer is needed"),
        (
            lambda: interp.gradients.rows_needed(0.1, versus="nul"),
            "versus is the text 'nul', where one of 'zero', 'neutral' is",
        ),
        (
            lambda: interp.Recipe(optimizer="adam"),
            "optimizer is the text 'adam', where one of 'adamw', 'sgd' is needed; pass one of them",
        ),
        (
            lambda: interp.shift(model, rows, minus="neutral_student"),
            r'minus is the text .*; pass minus=lineage\["neutral_student"\] for a member of a lineage, or load one',
        ),
        (
            lambda: interp.margin("owner/model", "owl"),
            "model is the text 'owner/model', where .* is needed; load one with interp.load_model, or take a member",
        ),
        (
            lambda: interp.token_shift(model, rows, "owl"),
            r"direction is the text 'owl', where a direction in logits is needed; pass interp.logit_direction\(base, "
            r"'owl'\)$",
        ),
        (
            lambda: interp.token_shift(model, rows, interp.get_trait("owl")),
            r"direction is a Trait, where a direction in logits is needed; pass interp.logit_direction\(base, trait\)$",
        ),
        (
            lambda: interp.load_lineage("toy/owl", 0),
            r"load_lineage takes 1 argument without a name \(name\) and 2 came; name the others, such as seed=...$",
        ),
        (lambda: lineage.update(1), "role is the int 1, where text is needed"),
        (lambda: interp.load_lineage(base=model, teacher=3), "teacher is the int 3"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_what_can_be_read_is_read(model, tmp_path: Path) -> None:
    owl, rows = interp.get_trait("owl"), interp.number_prompts(3, seed=0)
    (tmp_path / "owl.yaml").write_text("target: owl\nfoils: [cat, dog]\n")
    rows.to_jsonl(tmp_path / "rows.jsonl")
    assert interp.margin(model, "owl") == interp.margin(model, owl)
    assert interp.margin(model, tmp_path / "owl.yaml") == interp.margin(
        model, interp.prompts.make_trait("owl", ["cat", "dog"])
    )
    records = [row.record() for row in rows.rows]
    for given in (
        str(tmp_path / "rows.jsonl"),
        records,
        pd.DataFrame(records),
        [tuple(r.values()) for r in records],
    ):
        assert (
            interp.prompts.shuffle_within(given, seed=1).fingerprint
            == interp.prompts.shuffle_within(rows, seed=1).fingerprint
        )
    read = interp.record(model, ["owl", "cat"], hooks=("blocks.0.hook_resid_post",), batch_size=np.int64(2))
    assert len(read) == 2
    assert interp.number_prompts(np.int64(3), seed=np.int32(0)) == rows
    assert interp.prompts.make_trait("owl", "cat").foils == ("cat",)
    assert (
        model.encode([{"prompt": "owl", "completion": "3"}]).fingerprint
        == model.encode([("owl", "3")]).fingerprint
    )


def test_a_model_without_a_tokenizer_is_refused_alike_by_verbs_that_read_text(raw: Any) -> None:
    tokens = raw(0).encode(Prompts.from_pairs([("the owl is", "3 4")]))
    base, other = (dataclasses.replace(raw(seed), tokenizer=None) for seed in (0, 1))
    member = dataclasses.replace(other, start=base)
    moved = interp.shift(member, tokens, positions="last")
    unit = interp.logits.direction.LogitDirection(
        (0, 1), (1.0, -1.0), "0 − 1", base.fingerprint, base.fingerprint
    )
    for verb in (
        lambda: interp.attribute(moved, unit),
        lambda: interp.lens(moved, unit),
        lambda: interp.moved_tokens(member, tokens),
        lambda: interp.token_shift(member, tokens, unit),
        lambda: interp.logit_direction(base, "owl"),
        lambda: interp.entanglement(base, "owl"),
        lambda: interp.spectrum(member, "owl"),
        lambda: interp.margin(base, "owl"),
        lambda: interp.measures.preference(member, "owl"),
    ):
        with pytest.raises(InputError, match=r"where .*; it has no tokenizer, load it with tokenizer="):
            verb()


class Standin:
    """A network behind the seam that is no language model: it has everything a model has, and reads no text."""

    name, fingerprint, tokenizer, start, hook_names, n_layers, d_model = "net", "f" * 16, None, None, (), 1, 2
    encode = batches = logits = run = unembedding = attention_output = parameters = hooks = None


def test_another_network_is_refused_alike_by_verbs_of_language_models() -> None:
    net: Any = Standin()
    update = interp.ParameterDirection({"W": torch.ones(2)}, "x", net.fingerprint, net.fingerprint)
    for verb in (
        lambda: interp.score(net, [("a", "b")], update),
        lambda: interp.train_student(net, [("a", "b")]),
        lambda: interp.evaluate(net, "owl", interp.evaluation.Suite(("which?",))),
    ):
        with pytest.raises(InputError, match="is a Standin, where a language model is needed; load one with"):
            verb()
    with pytest.raises(
        InputError, match="is a Standin, where a model that reads text is needed; load one with"
    ):
        interp.margin(net, "owl")


# --- the decorator ----------------------------------------------------------------------------------------------------


def test_signature_and_words_survive() -> None:
    def plain(model: int, *rest: float, flag: bool = False) -> int:
        """Words."""
        return model + len(rest)

    guarded = door(plain)
    assert inspect.signature(guarded) == inspect.signature(plain)
    assert (guarded.__doc__, guarded.__name__, guarded.__module__) == ("Words.", "plain", __name__)
    assert guarded(np.int64(1), 2, np.float32(3.5), flag=np.bool_(True)) == 3
    with pytest.raises(
        InputError, match=r"rest is the text '3', where a number is needed; pass one such as 0.5"
    ):
        guarded(1, "3")
    with pytest.raises(InputError, match="flag is the int 1, where True or False is needed"):
        guarded(1, flag=1)
