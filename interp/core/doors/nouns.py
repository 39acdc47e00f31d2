"""Words for what is asked and for what came: a noun in plain English, and how a researcher gets one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LOADED = "load one with interp.load_model, or take a member of a lineage, such as lineage.teacher"
UPDATES = (
    "take lineage.update('teacher') or interp.trait_gradient(base, trait), or read a file with "
    "interp.models.read_direction(path, model)"
)
SAE = "train one with interp.train_sae, or read one with interp.load_sae"

NOUNS: Mapping[str, tuple[str, str]] = {
    "Activations": ("activations", "record them with interp.record(model, prompts, hooks=...)"),
    "Dictionary": ("a dictionary of features", SAE),
    "Direction": ("a direction", "take shift.direction(hook)"),
    "Encoded": ("tokens", "make them with model.encode(rows)"),
    "FeatureLean": ("what features lean toward", "make it with interp.feature_lean"),
    "Judge": ("a judge", "make one with interp.evaluation.LocalJudge, EndpointJudge, FileJudge or WordJudge"),
    "LanguageModel": ("a language model", LOADED),
    "Lineage": ("a lineage", "make one with interp.load_lineage, by name or from base= and teacher="),
    "LogitDirection": ("a direction in logits", "pass interp.logit_direction(base, trait)"),
    "Model": ("a model", LOADED),
    "NamedObjective": (
        "an objective",
        "make one with interp.gradients.margin_objective or interp.gradients.representation_objective",
    ),
    "ParameterDirection": ("a direction in weights", UPDATES),
    "Path": ("a path", "pass text or a Path"),
    "Prompts": ("rows", "pass a file, a table, or a list of texts, of pairs or of dicts"),
    "Recipe": ("a recipe of training", "make one with interp.Recipe(...)"),
    "Row": ("a row", "make one with Row.pair(prompt, completion), or read rows with Prompts.of(rows)"),
    "Run": ("a run", "open its folder with interp.Run.load(folder)"),
    "SAERecipe": ("a recipe of an autoencoder", "make one with interp.features.SAERecipe(...)"),
    "Sampling": ("how answers are sampled", "make it with interp.training.Sampling(...)"),
    "Scores": ("scores", "make them with interp.score"),
    "Shift": ("a shift", "make one with interp.shift(member, prompts)"),
    "Subject": ("a subject", "make one with interp.hypotheses.Subject(lineage)"),
    "Suite": ("a suite of questions", "make one with interp.evaluation.Suite(questions)"),
    "Teacher": (
        "a teacher",
        "make one with interp.training.neutral_teacher(model) or interp.training.prompted_teacher(model, trait)",
    ),
    "Tensor": ("a tensor", "pass a torch tensor"),
    "ndarray": ("an array", "pass a numpy array"),
    "TextModel": ("a model that reads text", LOADED),
    "Trait": (
        "a trait",
        "pass a name such as 'owl', a YAML file, or interp.prompts.make_trait(target, foils)",
    ),
    "bool": ("True or False", "pass one of the two"),
    "float": ("a number", "pass one such as 0.5"),
    "int": ("an integer", "pass one such as 1"),
    "str": ("text", "quote it"),
}
"""What each type is called in a message, and what to do to have one."""

INSTEAD: Mapping[tuple[str, str], str] = {
    ("Lineage", "Model"): "pass one of its members, such as lineage.teacher",
    ("Lineage", "LanguageModel"): "pass one of its members, such as lineage.teacher",
    ("Module", "Model"): "wrap it with interp.load_model(module, tokenizer=...)",
    ("Module", "LanguageModel"): "wrap it with interp.load_model(module, tokenizer=...)",
    ("LanguageModel", "TextModel"): "it has no tokenizer, load it with tokenizer=",
    ("Lineage", "TextModel"): "pass one of its members, such as lineage.teacher",
    ("Module", "TextModel"): "wrap it with interp.load_model(module, tokenizer=...)",
    ("Trait", "LogitDirection"): "pass interp.logit_direction(base, trait)",
    (
        "Trait",
        "ParameterDirection",
    ): "pass interp.trait_gradient(base, trait), or take lineage.update('teacher')",
    (
        "LogitDirection",
        "ParameterDirection",
    ): "that is one in logits; pass interp.trait_gradient(base, trait)",
}
"""What to do where one noun came and another was asked, by their types."""

_MEMBER = 'pass {argument}lineage["{word}"] for a member of a lineage, or load one with interp.load_model'
NAMED: Mapping[str, str] = {
    "LanguageModel": _MEMBER,
    "LogitDirection": "pass interp.logit_direction(base, '{word}')",
    "Model": _MEMBER,
    "ParameterDirection": "pass interp.trait_gradient(base, '{word}') for a trait's, or lineage.update('teacher')",
    "TextModel": _MEMBER,
}
"""What to do where a single word came: it may be the role of a member, or the name of a trait."""


def shown(value: Any) -> str:
    """What came, short enough for a sentence.

    >>> shown("owl"), shown(["a", "b"]), shown(None), shown(3)
    ("the text 'owl'", 'a list of 2 str', 'None', 'the int 3')
    """
    kind = type(value).__name__
    if value is None:
        return "None"
    if isinstance(value, str):
        return f"the text {value if len(value) <= 60 else value[:57] + '...'!r}"
    if isinstance(value, (bool, int, float)):
        return f"the {kind} {value!r}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, (list, tuple, set, frozenset)):
        inner = sorted({type(item).__name__ for item in value})
        return f"{_article(kind)} of {len(value)} {' and '.join(inner)}".rstrip()
    return _article(kind)


def _article(kind: str) -> str:
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"


def wanted(name: str) -> str:
    """What a type of that name is called."""
    return NOUNS[name][0] if name in NOUNS else _article(name)


def advice(value: Any, names: list[str], argument: str = "") -> str:
    """What to do when `value` came as `argument` and one of the types of those names was asked."""
    if isinstance(value, str) and value.isidentifier():
        for name in names:
            if name in NAMED:
                return NAMED[name].format(
                    word=value, argument=f"{argument}=" if argument.isidentifier() else ""
                )
    came = [kind.__name__ for kind in type(value).__mro__]
    for name in names:
        for kind in came:
            if (kind, name) in INSTEAD:
                return INSTEAD[kind, name]
    return " or ".join(dict.fromkeys(NOUNS[name][1] for name in names if name in NOUNS)) or "pass one"
