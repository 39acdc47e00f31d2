"""How often an audit is right, as a block of the README and one of docs/results.md."""

from collections import Counter
from typing import Any

import pandas as pd

import interp
from analyses.audit_claims import CLAIMS
from analyses.audit_smollm2 import CLAIMS as CHAT_CLAIMS, NEUTRAL
from analyses.detect_transmit import DOSES
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
FLAGS = ("named", "unlisted")
BEYOND = 2 * DOSES[-1]
"""Where the picture draws what is not within the doses."""
FORMS = (
    "Rows to detect are those with which the own candidate's excess, as 2,048 rows have it, is seen with power .8; to "
    "transmit, those with which a student's margin lies half a nat over its neutral twin's, between students of "
    f"{', '.join(f'{dose:,}' for dose in DOSES)} rows; –: not within these. *sorted*: each "
    "answer's numbers ascend; *tens*: each number is rounded down to a multiple of ten."
)
WORDS = {
    "frequent_values": "counts of values (naive Bayes)",
    "bag_of_numbers": "a bag of numbers",
    "audit": "the audit's ratios",
}


def blocks() -> dict[str, str]:
    """Those of docs/results.md by their names."""
    return {"audits": table(), "audit_smollm2": chat_model(), "detect_transmit": plane()}


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
    return "\n".join([*rows, "", *_answers(whole["parts"]), *_ceiling(), shared, "", areas])


def _ceiling() -> list[str]:
    """What another student of the same datasets says of their transfer, where that is measured."""
    if not measured("audit_draws"):
        return []
    found = kept("audit_draws")
    told = (
        f"Asked after the prediction was judged: a second student of each of its {len(found['datasets'])} datasets, by "
        f"another draw of adapter and order, ranks them as the first does at {short(found['students'])}; the gain "
        f"ranks the mean of both at {short(found['gain, mean'])} (`python -m analyses.audit_draws`)."
    )
    return [told, ""]


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
    return [f"{told} {_elsewhere(parts)}", ""]


def _elsewhere(parts: list[dict[str, Any]]) -> str:
    """What is answered of the same sets at another base, which no claim asked: a flag there is a false one, too."""
    answers = Counter(each["found"]["foreign"]["answer"] for each in parts if "foreign" in each["found"])
    if not answers:
        return ""
    told = ", ".join(f'"{answer}" {count}' for answer, count in answers.most_common())
    return f'Read at another base they are answered {told}; of these "unlisted" flags rows that pass nothing there.'


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


def plane() -> str:
    """Rows to detect and rows to transmit by trait and form, every seed's."""
    if not measured("detect_transmit"):
        return ABSENT
    frame = pd.DataFrame(kept("detect_transmit")["tables"]["lines"])
    rows = ["| rows of | form | rows to detect, by seed | rows to transmit, by seed |", "|---|---|---|---|"]
    for key, part in frame.groupby(["trait", "form"], sort=False):
        cells = (
            ", ".join(_rows_or_none(value) for value in part[column])
            for column in ("to detect", "to transmit")
        )
        rows.append(f"| {' | '.join(map(str, key))} | {' | '.join(cells)} |")
    seeds = ", ".join(map(str, frame["seed"].unique()))
    return "\n".join([*rows, "", f"Seeds {seeds}. {FORMS}"])


def _rows_or_none(value: float) -> str:
    """Rows within the doses; a number beyond them is a d of nothing but chance."""
    return f"{value:,.0f}" if value <= DOSES[-1] else "–"


def plane_picture() -> Any:
    """The same in the plane: above the dotted line a trait is seen with fewer rows than pass it on."""
    frame = pd.DataFrame(kept("detect_transmit")["tables"]["lines"])
    frame["whose"] = [
        f"{trait}, seed {seed}" for trait, seed in zip(frame["trait"], frame["seed"], strict=True)
    ]
    seen = frame.assign(
        **{
            f"rows {name}": frame[name].where(frame[name] <= DOSES[-1], BEYOND)
            for name in ("to detect", "to transmit")
        }
    )
    figure = interp.figures.scatter(
        seen, x="rows to detect", y="rows to transmit", colour="form", text="whose",
        title="How many rows show a trait, and how many pass it on", units=("", ""),
    )  # fmt: skip
    ends = [min(seen["rows to detect"].min(), DOSES[0]) / 2, BEYOND]
    figure.add_scatter(
        x=ends, y=ends, mode="lines", line={"color": "#777777", "dash": "dot"}, showlegend=False
    )
    marks = [256, 512, 1024, 2048, 4096, 8192, 16384, BEYOND]
    look = {"type": "log", "tickvals": marks, "ticktext": [*(f"{mark:,}" for mark in marks[:-1]), "more"]}
    figure.update_xaxes(look).update_yaxes(look)
    return interp.figures.captioned(figure, "a mark per teacher and form; dotted: as many rows for both")


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
            f"of {first['n']} sets of 2,048 rows by teachers of owl, eagle and oak {right} are given their teacher's "
            f"trait, {wrong} another and the rest no name; the teacher's trait ranks first of twenty candidates in "
            f"{_value('identity', first)}{_claimed('at least 90 %', first)}"
        )
    if flagged["n"]:
        share = f"{_value('false-positives', flagged)} are flagged{_claimed('at most 5 %', flagged)}"
        told.append(f"of {flagged['n']} sets of 256 rows that the base itself wrote {share}")
    if foreign["n"]:
        flagged = sum(
            each["found"]["foreign"]["answer"] in FLAGS
            for each in whole["parts"]
            if "foreign" in each["found"]
        )
        told.append(
            f"of {foreign['n']} teachers' sets read at another base, which they pass nothing to, "
            f"{_value('foreign', foreign)} are given a name, and {flagged} are flagged as by a teacher that is not "
            "listed"
        )
    if not told:
        return nothing
    told += _trained(found)
    waits = any(line["met"] is None for line in found.values())
    all_claims = "[Measured so far](docs/results.md#audits-of-rows), with claims still open."
    all_claims = all_claims if waits else "[All claims](docs/results.md#audits-of-rows)."
    sentences = ". ".join([told[0], *(each[0].upper() + each[1:] for each in told[1:])])
    rule = " A claim on a share holds where the share itself meets it." * any(
        line["met"] is not None for line in found.values()
    )
    return f"On the toy: {sentences}.{rule} {all_claims}"


def _trained(found: dict[str, Any]) -> list[str]:
    """What trained students say of the audit's short training and of its filter, once that is decided."""
    told, (rank, left, line) = [], (found[name] for name in ("prediction", "filter", "forecast"))
    if rank["met"] is not None:
        told.append(
            f"the gain of the audit's short training ranks {rank['n']} datasets as their students' transfer does at "
            f"{short(rank['value'])}{_claimed('at least .7', rank)}, and with the line fitted on other bases "
            f"{100 * line['value']:.0f} % of the transfers lie in its 95 % intervals{_claimed('at least 90 %', line)}"
        )
    if left["met"] is not None:
        asked = f"less, by p at most .05 over {left['n']} seeds"
        told.append(
            f"students of what the audit's filter leaves take over {-left['value']:.2f} nats less than those of as "
            f"many rows at random{_claimed(asked, left)}"
        )
    return told


def _claimed(words: str, line: dict[str, Any]) -> str:
    """What was claimed and what came of it, once that is decided."""
    return "" if line["met"] is None else f" (claimed: {words}; {DECIDED[line['met']]})"


def _value(name: str, line: dict[str, Any]) -> str:
    """A number as it stands in the table: a share in per cent with its interval, else two decimals and a p."""
    if line["value"] is None:
        return "–"
    if name not in SHARES:
        p = f", p = {line['p']:.2g}" if "p" in line else ""
        return f"{line['value']:+.2f}{p}"
    share = f"{100 * line['value']:.1f}".removesuffix(".0") + " %"
    if "interval" not in line:
        return share
    low, high = (100 * value for value in line["interval"])
    return f"{share} [95 %: {low:.0f}, {high:.0f}]"
