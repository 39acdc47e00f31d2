"""How often an audit is right, as a block of the README and one of docs/results.md."""

from typing import Any

from analyses.audit_claims import CLAIMS
from analyses.audit_smollm2 import CLAIMS as CHAT_CLAIMS, NEUTRAL
from analyses.results_page import ABSENT, kept, measured, short

DECIDED = {True: "holds", False: "does not hold", None: "open, parts are missing"}
SHARES = ("identity", "false-positives", "foreign", "unlisted", "forecast")
"""Claims whose number is a share."""
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
    found = kept("audits")["claims_judged"]
    rows = ["| claim | found | over | decision |", "|---|---|---|---|"]
    rows += [
        f"| {name}: {CLAIMS[name]} | {_value(name, line)} | {line['n'] or '–'} | {DECIDED[line['met']]} |"
        for name, line in found.items()
    ]
    means = found["detectors"].get("means")
    told = (
        ", ".join(f"{WORDS[name]} {short(value)}" for name, value in means.items())
        if means
        else "not measured"
    )
    return "\n".join([*rows, "", f"Mean AUROC of one trait's 64 rows against another's: {told}."])


def chat_model() -> str:
    """One line per set of the chat model's rows: what the audit says, and where the writer's candidate stands."""
    if not measured("audit_smollm2"):
        return ABSENT
    found = kept("audit_smollm2")
    rows = [
        "| who wrote the rows | rows | answer | rank of its candidate | first candidates, d |",
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
    if not measured("audits"):
        return "How often the answer is right is not measured yet: `python -m analyses.audits`."
    found = kept("audits")["claims_judged"]
    first, flagged, foreign = (found[name] for name in ("identity", "false-positives", "foreign"))
    told = (
        f"On the toy: of {first['n']} sets of 2,048 rows of teachers of owl, eagle and oak, "
        f"{_value('identity', first)} put the teacher's trait first of twenty; of {flagged['n']} sets of 256 rows "
        f"that the base wrote, {_value('false-positives', flagged)} are flagged; read at a foreign base, "
        f"{_value('foreign', foreign)} name a trait"
    )
    return f"{told} ([all claims](docs/results.md#audits-of-rows))."


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
