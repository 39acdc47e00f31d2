"""What is frozen before an analysis measures, and the ledger of it that stays when the results are deleted.

entry = {analysis, organism, seeds, claims: {name: key}, judged, code, data, commit, dirty, date}, in `ledger.json`
beside the results. Entries are only added. A claim that stands there under another key was edited after its data: it is
refused unless a reason is given, which the ledger keeps. Other code or data are no other claim: the entry names them,
the measurement is made again, and kept results of older code are marked where they are printed (`stale`), not refused:
most changes of code leave every number as it was, and which did not is seen by running again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from interp.core.content import digest, json_text, jsonable
from interp.core.doors import door
from interp.core.provenance import origin
from interp.core.runs import InputError, write_atomic
from interp.hypotheses.claims import Hypothesis
from interp.studies.sources import code_key

LEDGER = "ledger.json"
PASSING = ("commit", "dirty", "date")
"""What an entry may differ in and say the same."""


@door
def freeze(
    results: str | Path,
    claims: Mapping[str, Any],
    *,
    measure: Callable[..., Any],
    organism: str,
    seeds: Sequence[int],
    data: Any,
    judged: str = "each claim at its own level",
    refreeze: str | None = None,
) -> dict[str, Any]:
    """Enter what an analysis claims into the ledger beside its results, before it measures.

    Args:
        results: the file that will hold its numbers; its name is the analysis's in the ledger.
        claims: by name a `Hypothesis`, or the words and numbers of a claim or of a protocol as plain values.
        measure: the function that measures; its code and what it reaches in the measuring rooms has a key.
        organism: what is measured on.
        seeds: which runs of it.
        data: the recipe of the data, or its key; whatever `digest` takes.
        judged: the rule that judges, in words.
        refreeze: why claims that stand in the ledger under other keys are frozen anew.

    Returns:
        What the results carry: keys of claims, code and data, the rule, commit, whether files differ from it, and day.

    Raises:
        InputError: for a claim that the ledger holds under another key, and no reason why.

    Example:
        >>> import interp
        >>> words = {"grows": "the margin grows with the rows, at 0.01"}
        >>> given = {"organism": "toy/owl", "seeds": range(8), "data": interp.organisms.TOY}
        >>> interp.studies.freeze("results/growth.json", words, measure=print, **given)  # doctest: +SKIP
    """
    results = Path(results)
    ledger = results.parent / LEDGER
    keys = {
        name: claim.key if isinstance(claim, Hypothesis) else digest("claim", name, jsonable(claim))
        for name, claim in claims.items()
    }
    kept = {
        "claims": keys,
        "judged": judged,
        "code": code_key(measure),
        "data": data if isinstance(data, str) else digest("data", data),
        **origin(),
    }
    entry = {"analysis": results.stem, "organism": organism, "seeds": list(seeds), **kept}
    entries = read_ledger(ledger)
    _check_unedited(entries, entry, refreeze)
    if refreeze:
        entry["reason"] = refreeze
    same = [each for each in entries if each["analysis"] == results.stem and each["organism"] == organism]
    if not same or _lasting(same[-1]) != _lasting(jsonable(entry)):
        write_atomic(ledger, json_text([*entries, entry]))
    return kept


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """The entries of a ledger, oldest first; none where there is no file."""
    return json.loads(path.read_text()) if path.is_file() else []


def stale(results: Mapping[str, Any], measure: Callable[..., Any]) -> str | None:
    """A sentence when kept results were measured by other code than there is now, or by code without a key.

    Example:
        >>> import interp
        >>> kept = {"command": "python -m analyses.lemma"}
        >>> interp.studies.stale(kept, interp.studies.family("lemma").measure)
        'measured by code that had no key yet; run again with `python -m analyses.lemma`'
    """
    then = results.get("code")
    if then == code_key(measure):
        return None
    by = f"other code (key {then})" if then else "code that had no key yet"
    return f"measured by {by}; run again with `{results.get('command', 'its command')}`"


def _check_unedited(
    entries: Sequence[Mapping[str, Any]], entry: Mapping[str, Any], reason: str | None
) -> None:
    """InputError for a claim whose last key in the ledger is another one, or that is judged by another rule."""
    for name, key in () if reason else entry["claims"].items():
        before = [
            each for each in entries if each["analysis"] == entry["analysis"] and name in each["claims"]
        ]
        if before and before[-1]["claims"][name] != key:
            raise InputError(
                f"{name!r} of {entry['analysis']} was frozen on {before[-1]['date']} under claim "
                f"{before[-1]['claims'][name]} and is now {key}: a claim edited after its data; restore its wording, "
                "give the new claim a new name, or pass --refreeze REASON, which the ledger keeps"
            )
        if before and before[-1]["judged"] != entry["judged"]:
            raise InputError(
                f"{name!r} of {entry['analysis']} was to be judged by {before[-1]['judged']!r} and is now judged by "
                f"{entry['judged']!r}; restore the rule, or pass --refreeze REASON, which the ledger keeps"
            )


def _lasting(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in PASSING}
