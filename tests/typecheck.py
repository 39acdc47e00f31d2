"""The run-time type checker of the tests: beartype on every annotation that can be checked.

Annotations that exist for the static checker only (names imported under TYPE_CHECKING) and Protocols that are not
runtime-checkable are dropped one by one; everything else, tensor shapes above all, is enforced at each call.
"""

from __future__ import annotations

from typing import Any

from beartype import BeartypeConf, beartype
from beartype.door import is_bearable
from beartype.roar import BeartypeException

CONF = BeartypeConf(is_pep484_tower=True)  # an int is a fine float


def checked(function: Any) -> Any:
    """Decorate `function` so that calls with other types than it declares raise."""
    hints = getattr(function, "__annotations__", {})
    function.__annotations__ = {name: hint for name, hint in hints.items() if _checkable(hint)}
    return beartype(conf=CONF)(function)


def _checkable(hint: Any) -> bool:
    if isinstance(hint, str):
        return False
    try:
        is_bearable(object(), hint, conf=CONF)
    except (BeartypeException, NameError, TypeError):
        return False
    return True
