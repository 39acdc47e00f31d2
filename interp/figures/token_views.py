"""Tokens in colour with their signed value beneath: opacity = |value| / limit, red above zero and blue below."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def token_html(tokens: Sequence[str], values: ArrayLike, *, unit: str, limit: float | None = None) -> str:
    """Tokens as escaped spans: blue below and red above zero, the signed value printed beneath, no script.

    The deepest colour is `limit`, by default the largest magnitude; a value that is not finite stays uncoloured.
    """
    numbers = np.asarray(values, dtype=float)
    if numbers.shape != (len(tokens),):
        raise ValueError(f"values have shape {numbers.shape}, but there are {len(tokens)} tokens")
    limit = limit or float(np.abs(numbers[np.isfinite(numbers)]).max(initial=0.0)) or 1.0
    spans = "".join(
        _token_span(token, value, limit, unit) for token, value in zip(tokens, numbers, strict=True)
    )
    return f'<div style="font-family:monospace;line-height:2.6">{spans}</div>'


def _token_span(token: str, value: float, limit: float, unit: str) -> str:
    share = float(np.clip(value / limit, -1, 1)) if np.isfinite(value) else 0.0
    red, green, blue = (178, 24, 43) if share > 0 else (33, 102, 172)
    shown = html.escape(token.replace("\n", "\\n").replace(" ", "\u2423"))
    style = (
        f"display:inline-block;text-align:center;margin:1px;padding:0 3px;line-height:1.3;color:"
        f"{'white' if abs(share) > 0.6 else 'black'};background:rgba({red},{green},{blue},{abs(share):.3f})"
    )
    return (
        f'<span style="{style}" title="{html.escape(f"{value:+.4g} {unit}")}">{shown}<br>'
        f"<small>{value:+.2g}</small></span>"
    )
