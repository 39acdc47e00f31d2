"""The options of every command that loads a model, in one place."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

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
