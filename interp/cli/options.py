"""The options that commands share, those of every command that loads a model, and how a command answers."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.core.runs import Run


def whole(text: str | int) -> int:
    """A whole number of the command line; typer's error for anything else."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not an integer; pass a whole number such as 0.") from None


def member(wanted: str) -> Callable[[Any], Any]:
    """What an option does with what it is given: says where that is a member of another role in a lineage folder."""

    def said(given: Any) -> Any:
        from interp.models.membership import say_member

        for source in given if isinstance(given, (list, tuple)) else [given]:
            say_member(source, wanted)
        return given

    return said


def is_member(model: str) -> dict[str, str]:
    """What a model is, for the summary, where its folder is a member of a lineage folder; nothing elsewhere."""
    from interp.models.membership import membership_of

    known = membership_of(model)
    return {} if known is None else {"member": str(known)}


Json = Annotated[bool, typer.Option("--json", help="Print the machine-readable summary on standard output.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write; made when absent.")]
_BASE = typer.Option(help="Name or folder of the base model.", callback=member("base"))
_TEACHER = typer.Option(
    help="Name or folder of the teacher, a model or an adapter of the base.", callback=member("teacher")
)
Base = Annotated[str, _BASE]
AnyBase = Annotated[str | None, _BASE]
Teacher = Annotated[str, _TEACHER]
AnyTeacher = Annotated[str | None, _TEACHER]
Data = Annotated[Path, typer.Option(help="Rows with prompt and completion: JSONL, JSON, CSV or parquet.")]
Positions = Annotated[
    str | None,
    typer.Option(
        help="Named positions to read at; default where answers are predicted, 'predicting answer.numbers'."
    ),
]
EveryToken = Annotated[
    str,
    typer.Option(
        help="Named positions to read at, as answer; what stands out in norm is left out but for 'X with outliers'."
    ),
]
Sae = Annotated[str, typer.Option(help="Folder of a sparse autoencoder, or RELEASE:ID of SAELens.")]
Limit = Annotated[int | None, typer.Option(help="Read only the first rows.", parser=whole)]
Model = Annotated[str, typer.Argument(help="Name or folder of a model.")]
Adapter = Annotated[str | None, typer.Option(help="A PEFT adapter of that model.")]
Template = Annotated[str, typer.Option(help="Chat template: own, plain, dialogue, chatml or a .jinja file.")]
Seed = Annotated[int, typer.Option(help="Seed of every draw.")]
Trait = Annotated[str | None, typer.Option(help="A built-in trait such as owl, or a YAML file.")]
Rows = Annotated[Path, typer.Argument(help="Rows with prompt and completion: JSONL, JSON, CSV or parquet.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE of the recipe to replace; may be repeated.")
]
Backend = Annotated[str, typer.Option(help="joblib on this machine, or ray on a cluster.")]
Workers = Annotated[
    int | None, typer.Option(help="Cells at a time; default one per core, and one on a machine with a GPU.")
]
AllowUnknown = Annotated[
    bool, typer.Option("--allow-unknown", help="Read rows whose tokens are mostly unknown to the tokenizer.")
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16, float16 or float64; default the checkpoint's own, measured in float32."
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N; auto takes a GPU where there is one.")]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of the (base) model's repository on the hub.")
]
LOADING: dict[str, tuple[Any, Any]] = {
    "dtype": (Dtype, None),
    "device": (Device, "auto"),
    "revision": (Revision, None),
    "allow_unknown": (AllowUnknown, False),
}


def loads(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options of LOADING, of which it takes those that were given as the mapping `loading`."""
    signature = inspect.signature(command)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "loading"]
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in LOADING.items()
    ]

    @wraps(command)
    def shell(**given: Any) -> None:
        chosen = {name: given.pop(name) for name in LOADING}
        command(**given, loading={name: chosen[name] for name in LOADING if chosen[name] != LOADING[name][1]})

    own = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    shell.__signature__ = signature.replace(parameters=[*own, *shared])  # pyright: ignore[reportAttributeAccessIssue]
    shell.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
    return shell


def tell(values: Mapping[str, Any], lines: Sequence[str] | None = None, *, as_json: bool) -> None:
    """The values as JSON, or the lines; without lines as `written`."""
    if as_json:
        typer.echo(json.dumps(values, indent=1, default=str))
        return
    for line in written(values) if lines is None else lines:
        typer.echo(line)


def written(values: Mapping[str, Any], indent: str = "") -> list[str]:
    """A line for each value: numbers to four digits, what a mapping holds below its name.

    >>> written({"rows": 5, "margin": -0.3559946, "dropped": {"shape": 2}, "notes": []})
    ['rows: 5', 'margin: -0.356', 'dropped:', '  shape: 2', 'notes: none']
    """
    lines: list[str] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            lines += [f"{indent}{key}:", *written(value, f"{indent}  ")]
        else:
            lines.append(f"{indent}{key}: {_told(value)}")
    return lines


def _told(value: Any) -> str:
    if value is None or (isinstance(value, (list, tuple, Mapping)) and not value):
        return "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_told, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def tell_run(run: Run, found: Mapping[str, Any], lines: Sequence[str], *, as_json: bool) -> None:
    """What a run found, as JSON, or as lines and where its report lies."""
    tell(found, [*lines, f"report: {run.folder / 'report.html'}"], as_json=as_json)


def tell_verdicts(run: Run, *, as_json: bool) -> None:
    """The verdicts of a run."""
    from interp.stats.verdict import told

    found = {"folder": str(run.folder), "summary": run.summary, "verdicts": run.verdicts}
    lines = [f"{told(verdict)}, n = {verdict['n']}" for verdict in run.verdicts]
    tell_run(run, found, lines, as_json=as_json)
