"""Loading changes nothing on the machine: while it runs, no package is installed and no host is asked.

Dependencies do both on their own account: TransformerLens runs pip for a model with a vision part, and libraries that
read a checkpoint look for its files on a hub. What a name on the hub needs is fetched before, by `find_folder`.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interp.core.errors import InputError

INSTALLERS = (
    "pip",
    "pip3",
    "uv",
    "pipx",
    "ensurepip",
    "easy_install",
    "conda",
    "mamba",
    "micromamba",
    "poetry",
)
STARTERS = ("run", "call", "check_call", "check_output")
_LOCK = threading.Lock()
_INSIDE: Counter[int] = Counter()  # how many blocks each thread has open
_KEPT: list[tuple[Any, str, Any]] = []


@contextmanager
def isolated() -> Iterator[None]:
    """While open, this thread's attempt to run a package installer or to reach a host raises InputError.

    Other threads do as they please. May be nested, and used as a decorator.
    """
    me = threading.get_ident()
    with _LOCK:
        if not _INSIDE:
            _guard_all()
        _INSIDE[me] += 1
    try:
        yield
    finally:
        with _LOCK:
            _INSIDE[me] -= 1
            if not _INSIDE[me]:
                del _INSIDE[me]
            if not _INSIDE:
                _restore()


def _guard_all() -> None:
    for owner, name in [(subprocess, name) for name in STARTERS] + [(os, "system")]:
        _guard(owner, name, lambda command=(), *_, **named: _check_command(named.get("args", command)))
    _guard(
        subprocess.Popen,
        "__init__",
        lambda _, args=(), *rest, **named: _check_command(named.get("args", args)),
    )
    for name in ("connect", "connect_ex"):
        _guard(socket.socket, name, lambda one, address, *_: _check_address(one.family, address))
    _guard(socket, "getaddrinfo", lambda host, *_, **named: _check_address(socket.AF_INET, host))


def _guard(owner: Any, name: str, check: Callable[..., None]) -> None:
    """Put a function that checks what it is given, for threads inside, in front of one of an owner's."""
    plain, own = getattr(owner, name), name in vars(owner)

    def guarded(*args: Any, **named: Any) -> Any:
        if threading.get_ident() in _INSIDE:
            check(*args, **named)
        return plain(*args, **named)

    _KEPT.append((owner, name, plain if own else None))
    setattr(owner, name, guarded)


def _restore() -> None:
    while _KEPT:
        owner, name, plain = _KEPT.pop()
        if plain is None:
            delattr(owner, name)
        else:
            setattr(owner, name, plain)


def _check_command(command: Any) -> None:
    """InputError for a command line that names a package installer."""
    words = command.split() if isinstance(command, (str, bytes)) else command
    words = [words] if isinstance(words, os.PathLike) else words
    line = [os.fsdecode(word) for word in words]
    if any(Path(word).stem.lower() in INSTALLERS for word in line):
        raise InputError(
            f"a dependency tried to install packages while a model was loaded ({shlex.join(line)}), which was stopped; "
            "install what it needs yourself, or use another checkpoint"
        )


def _check_address(family: int, address: Any) -> None:
    """InputError for an address of another machine, or of this one's network."""
    if family in (socket.AF_INET, socket.AF_INET6):
        host = address[0] if isinstance(address, tuple) else address
        raise InputError(
            f"a dependency tried to reach {host} while a model was loaded from this machine, which was stopped; "
            "fetch what it needs beforehand, or use another checkpoint"
        )
