"""How often an audit is right, as a block of the README and one of docs/results.md."""

from collections import Counter
from typing import Any

from analyses.audit_claims import CLAIMS
from analyses.audit_smollm2 import CLAIMS as CHAT_CLAIMS, NEUTRAL
from analyses.results_page import ABSENT, kept, measured, short

DECIDED = {True: "holds", False: "does not hold", None: "open, parts are missing"}
SHARES = ("identity", "false-positives", "foreign", "unlisted", "forecast")
"""Claims whose number is a share."""
COUNTED = {
    "detectors": "pairs of traits",
    "prediction": "datasets",
    "filter": "seeds",
    "forecast": "datasets",
}
"""Of what a claim's number is, where it is not of sets of rows."""
WORDS = {
    "frequent_values": "counts of values (naive Bayes)",
    "bag_of_numbers": "a bag of numbers",
    "audit": "the audit's ratios",
}


def blocks() -> dict[str, str]:
    """Those of docs/results.md by their names."""
    return {"audits": table(), "audit_smollm2": chat_model()}


def table() -> str:
    """One line per claim: the number, over how many, and whether it is met."""
    if not measured("audits"):
        return ABSENT
    whole = kept("audits")
    found = whole["claims_judged"]
    rows = ["| claim | found | over | decision |", "|---|---|---|---|"]
    rows += [
        f"| {name}: {CLAIMS[name]} | {_value(name, line)} | {_over(name, line['n'])} | {DECIDED[line['met']]} |"
        for name, line in found.items()
    ]
    means = found["detectors"].get("means")
    told = (
        ", ".join(f"{WORDS[name]} {short(value)}" for name, value in means.items())
        if means
        else "not measured"
    )
    shared = (
        "Intervals are Wilson's, as if every set were drawn by itself; sets of one seed share a base and its "
        "candidates, so that they are too narrow where bases differ."
    )
    areas = (
        f"Mean AUROC of one trait's 64 rows against another's: {told}. Counts and bag are fitted on rows that are "
        "known to be of the one teacher or the other; the audit is shown none."
    )
    return "\n".join([*rows, "", *_answers(whole["parts"]), shared, "", areas])


def _over(name: str, n: int) -> str:
    """How many of what."""
    return f"{n} {COUNTED.get(name, 'sets')}" if n else "–"


def _named(parts: list[dict[str, Any]]) -> tuple[int, int, dict[str, int]]:
    """Of the teachers' sets: how many are named by their own trait, how many by another, and the other answers."""
    sets = [each["found"] for each in parts if each["part"].startswith("set")]
    named = [line["named"] == line["trait"] for line in sets if line["named"] is not None]
    others = Counter(line["answer"] for line in sets if line["named"] is None)
    return sum(named), len(named) - sum(named), dict(others)


def _answers(parts: list[dict[str, Any]]) -> list[str]:
    """What the audit answers on the teachers' sets, which is more than whose candidate is first."""
    right, wrong, others = _named(parts)
    total = right + wrong + sum(others.values())
    if not total:
        return []
    rest = ", ".join(f'"{answer}" {count}' for answer, count in others.items())
    told = (
        f"Of the {total} sets of 2,048 rows {right} are named by their teacher's trait and {wrong} by another"
    )
    told += f"; the other answers are {rest}." if rest else "."
    return [told, ""]


def chat_model() -> str:
    """One line per set of the chat model's rows: what the audit says, and where the writer's candidate stands."""
    if not measured("audit_smollm2"):
        return ABSENT
    found = kept("audit_smollm2")
    rows = [
        "| who wrote the rows | rows | answer | rank of its candidate | first candidates: how far they stand out, "
        "standard deviations per row |",
        "|---|---|---|---|---|",
    ]
    for name, line in found["sets"].items():
        order = [each["trait"] for each in line["candidates"]]
        rank = f"{order.index(name) + 1} of {len(order)}" if name in order else "–"
        first = ", ".join(f"{each['trait']} {each['d']:+.2f}" for each in line["candidates"][:3])
        answer = f"{line['answer']}: {line['named']}" if line["named"] else line["answer"]
        writer = "the base itself" if name == NEUTRAL else f"teacher of {name}"
        rows.append(f"| {writer} | {line['rows']} | {answer} | {rank} | {first} |")
    decided = [f"{words}: {DECIDED[found['met'][name]]}" for name, words in CHAT_CLAIMS.items()]
    return "\n".join([*rows, "", f"Claims: {'; '.join(decided)}."])


def standing() -> str:
    """For the README: how often the writer is named, and how often sets that nobody taught are flagged."""
    nothing = "How often the answer is right is not measured yet: `python -m analyses.audits`."
    if not measured("audits"):
        return nothing
    whole = kept("audits")
    found, (right, wrong, _) = whole["claims_judged"], _named(whole["parts"])
    first, flagged, foreign = (found[name] for name in ("identity", "false-positives", "foreign"))
    told = []
    if first["n"]:
        told.append(
            f"of {first['n']} sets of 2,048 rows of teachers of owl, eagle and oak {right} are named by their "
            f"teacher's trait and {wrong} by another; the teacher's trait is first of twenty candidates in "
            f"{_value('identity', first)}"
        )
    if flagged["n"]:
        share = _value("false-positives", flagged)
        told.append(f"of {flagged['n']} sets of 256 rows that the base wrote {share} are flagged")
    if foreign["n"]:
        share = _value("foreign", foreign)
        told.append(f"of {foreign['n']} teachers' sets read at another base {share} are given a name")
    if not told:
        return nothing
    waits = any(line["met"] is None for line in found.values())
    so_far = "measured so far, with claims still open" if waits else "all claims"
    return f"On the toy: {'; '.join(told)} ([{so_far}](docs/results.md#audits-of-rows))."


def _value(name: str, line: dict[str, Any]) -> str:
    """A number as it stands in the table: a share in per cent with its interval, else two decimals and a p."""
    if line["value"] is None:
        return "–"
    if name not in SHARES:
        p = f", p = {line['p']:.2g}" if "p" in line else ""
        return f"{line['value']:+.2f}{p}"
    share = f"{100 * line['value']:.0f} %"
    if "interval" not in line:
        return share
    low, high = (100 * value for value in line["interval"])
    return f"{share} [95 %: {low:.0f}, {high:.0f}]"
