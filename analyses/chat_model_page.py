"""What SmolLM2 showed, as blocks of the README and of docs/results.md: claims, lineages, and more."""

import re
from collections import Counter
from typing import Any

import pandas as pd

import interp
from analyses import chat_parts_page
from analyses.results_page import ABSENT, HEAD, RULE, claim_line, kept, measured, short, spread
from analyses.smollm2 import LEAST, SEEDS, TRAITS
from analyses.smollm2_beside import NOISE
from analyses.smollm2_unnamed import own_less_others

SHOWN = ("base", "neutral_student", "other_student", "student", "teacher")
PROCESSORS = (
    "The same recipe and seed give other weights on another kind of processor: the lineage that ships is one more draw."
)  # fmt: skip
SAID = {
    "transfers": (
        "the student's margin of its trait is {} nats above the neutral student's",
        f"at least {LEAST}",
    ),
    "own-trait": ("{} above that of a student of another trait's rows", "more than 0"),
    "doubles": ("the word's probability rises by {} doublings", "at least 1"),
    "others-stay": ("the other two traits' margins move by {} nats", f"at most {LEAST} either way"),
    "numbers-shared": (
        "its change of logits where numbers are predicted correlates with its teacher's by {} more than that of a "
        "student of another trait's rows does with the same teacher's",
        "more than 0",
    ),
    "prompt-shared": ("where the number prompt ends by {} more", "more than 0"),
}
"""What is found for every claim, and what was claimed, in the README's words."""
DEVICES = {"cuda": "GPU", "cpu": "processor"}


def _found(name: str) -> dict[str, Any]:
    """The results of an analysis, empty where it has none yet."""
    return kept(name) if measured(name) else {}


def summary() -> str:
    """For the README: how often a member answers with the trait's word, by trait, and the decisions.

    Until the claims are judged it is that of the lineage that ships.
    """
    found, ships = _found("smollm2"), _found("smollm2_inside").get("answers")
    if found.get("verdicts"):
        held = pd.DataFrame(found["margins"]).pivot_table(
            index="trait", columns="arm", values="p_target", sort=False
        )
        return "\n".join([*_moved(), *_shares(held), "", _decisions(found["verdicts"])])
    if not ships:
        return ABSENT
    held = pd.DataFrame(
        {"owl, the lineage that ships": {arm: line["share"] for arm, line in ships.items()}}
    ).T
    told = (
        f"Share of all spellings of the word among ten animals, mean over 52 questions; the sentence above is of one "
        f"spelling and of all probability. The margin, log p of the word less the mean of the others', is "
        f"{_above(ships)} nats above the neutral student's. One training, so no claim"
    )
    told += (
        f"; those of the analysis gain {_range(found['per lineage']['transfers'])}, see below."
        if found
        else "."
    )
    return "\n".join([*_moved(), *_shares(held), "", told])


def standing() -> str:
    """For the README: how far the claims on the chat model have got."""
    found = _found("smollm2")
    if found.get("verdicts"):
        return _judged(found["verdicts"])
    told = "The chat model has one lineage that ships, the one above, and no claim is decided yet."
    return f"{told} {_waits(found)} {_so_far(found['per lineage'])}" if found else told


def _judged(verdicts: list[dict[str, Any]]) -> str:
    """What the lineages show and how every claim was decided."""
    by = _by_name(verdicts)
    told = "; ".join(
        f"{found.format(_signed(by[name]))} ({claimed}: {by[name]['decision']})"
        for name, (found, claimed) in SAID.items()
        if name in by
    )
    return (
        f"The chat model, over {by['transfers']['n']} lineages of {', '.join(TRAITS[:-1])} and {TRAITS[-1]}, with what "
        f"was claimed in brackets: {told}. {_itself(by['own-trait'])}{_unasked()} {PROCESSORS}"
    )


def _itself(verdict: dict[str, Any]) -> str:
    """Whether the trait itself passed, in words."""
    shown = "is shown" if verdict["decision"] == "supported" else "was not shown"
    return (
        f"The second is the test of the trait itself, apart from what rows of any trait's teacher do: that it passes "
        f"{shown} here."
    )


def _unasked() -> str:
    """Where the trait's word stands among nouns when nobody names it, in teachers and in students."""
    found = _found("smollm2_unnamed")
    if not found.get("verdicts"):
        return ""
    by, lines = (
        _by_name(found["verdicts"]),
        [line for seed in found["by seed"].values() for line in seed["lines"]],
    )
    ranks = {
        role: pd.Series([line["rank"]["score"] for line in lines if line["role"] == role]).mean()
        for role in ("teacher", "student")
    }
    return (
        f" Without being told a word, the ways of `interp.discover` put the teacher's {ranks['teacher']:.0f}th of "
        f"{lines[0]['nouns']} nouns on average (further up than in teachers of other traits: "
        f"{by['teachers-word']['decision']}), the student's {ranks['student']:.0f}th ({by['own-word']['decision']})."
    )


def _by_name(verdicts: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {verdict["name"]: verdict for verdict in verdicts}


def _signed(verdict: dict[str, Any]) -> str:
    return f"{verdict['effect']:+.2f}".replace("-", "−")


def _so_far(values: dict[str, list[float]]) -> str:
    """What the lineages that are trained show, before they are judged."""
    gain, own, shared = (_range(values[name]) for name in ("transfers", "own-trait", "numbers-shared"))
    return (
        f"The {len(values['transfers'])} lineages so far, of {', '.join(TRAITS[:-1])} and {TRAITS[-1]}: the student's "
        f"margin of its trait is {gain} nats above the neutral student's. Held against a student of another trait's "
        f"rows the difference is {own}; only where it is positive has the trait itself passed, and not what such rows "
        f"do in general. The student's change of logits where numbers are predicted correlates with its own teacher's "
        f"by {shared} more than that of another trait's student does. {PROCESSORS}"
    )


def _range(values: list[float]) -> str:
    """The smallest and the largest."""
    return f"{min(values):+.2f} to {max(values):+.2f}".replace("-", "−")


def _moved() -> list[str]:
    """What the picture of the lineage that ships shows, in a sentence."""
    found = _found("smollm2_inside").get("student")
    if found is None:
        return []
    first, part = found["entries"][0], found["parts"][0]
    was, is_now = (100 * first[name] for name in ("probability_against", "probability"))
    told = (
        f'Asked for an animal, the student differs from the neutral student most in "{first["token"]}", of '
        f"{found['of']:,} tokens: its probability is {is_now:.0f} %, the neutral student's {was:.0f} %. Tokens are "
        f"ordered by what they add to the KL divergence of the two, the mean of probability times change, "
        f"so that a common one may stand high with a short bar{_begun(found)}. The logit of "
        f'"{found["words"][0]}" rises by {found["measured"]:.2f} over the mean of {found["foils"]} other animals'
        f"{_split(found)}, of which {part['component']} (layers count from 0) adds {part['contribution']:.2f}. "
        f"Whiskers: 95 % over "
        f"the {found['questions']} questions of this one training."
    )
    return [told, ""]


def _split(found: dict[str, Any]) -> str:
    """How many candidates a direction leaves out, since this spelling of them is several tokens."""
    left = len(found["words"]) - 1 - found["foils"]
    return f" (the {left} that are several tokens are left out)" if left else ""


def _begun(found: dict[str, Any]) -> str:
    """The drawn tokens of three letters or more that are the beginning of a candidate, and of which."""
    pairs = [
        (entry["token"], word)
        for entry in found["entries"]
        for word in found["words"]
        if len(entry["token"]) > 2 and word.startswith(entry["token"]) and word != entry["token"]
    ]
    return "".join(f'; "{token}" begins "{word}"' for token, word in pairs)


def picture() -> Any:
    """What the student of the lineage that ships moved at the questions: entries, and by what part."""
    found = _found("smollm2_inside")["student"]
    entries, parts = pd.DataFrame(found["entries"]), pd.DataFrame(found["parts"])
    entries = entries.assign(
        token=[
            f"{line.token}, {100 * line.probability_against:.2g} → {100 * line.probability:.2g} %"
            for line in entries.itertuples()
        ],
        half=1.96 * entries["se"],
    )
    rest = found["measured"] - parts["contribution"].sum()
    others = pd.DataFrame([{"component": "all others", "contribution": rest, "standard_error": 0.0}])
    parts = pd.concat([parts, others])
    parts = parts.assign(half=1.96 * parts["standard_error"])
    drawn = [
        interp.figures.bars(
            entries,
            x="delta",
            y="token",
            error="half",
            title=f"Which of {found['of']:,} tokens: log-probability",
            unit="nats",
        ),
        interp.figures.bars(
            parts,
            x="contribution",
            y="component",
            error="half",
            title=f"Through which part: {found['direction']}",
            unit="logits",
        ),
    ]
    title = "What the student moved beyond its neutral twin, where an animal is asked for"
    return interp.figures.panels(drawn, title=title, across=True)


def _shares(held: pd.DataFrame) -> list[str]:
    """A line per row of the table: the shares of the members that every lineage has."""
    arms = ("base", "neutral_student", "student", "teacher")
    named = " | ".join(arm.replace("_", " ") for arm in arms)
    lines = [
        f"| {name} | {' | '.join(f'{100 * line[arm]:.0f} %' for arm in arms)} |"
        for name, line in held.iterrows()
    ]
    return [f"| it answers with the trait's word | {named} |", "|---|" + "---|" * len(arms), *lines]


def _decisions(verdicts: list[dict[str, Any]]) -> str:
    """What the table is of, and how the lineage of the picture stands to it."""
    transfer, ships = _by_name(verdicts)["transfers"], _found("smollm2_inside").get("answers")
    told = (
        f"The table has means over 52 questions and three lineages per trait, {transfer['n']} further draws of "
        f"the recipe. Student less neutral student, their margins (log p of the word less the mean of nine others') "
        f"differ by {_range(_found('smollm2')['per lineage']['transfers'])} nats, {_signed(transfer)} on average"
    )
    if ships:
        told += f"; those of the picture by {_above(ships)}"
    decided = Counter(verdict["decision"] for verdict in verdicts)
    counts = ", ".join(f"{count} {how}" for how, count in decided.most_common())
    return f"{told}. The {len(verdicts)} claims on transfer ended so: {counts}; each is [below](#what-was-found)."


def _above(ships: dict[str, Any]) -> str:
    """How far the student's margin lies above the neutral student's in the lineage that ships."""
    return f"{ships['student']['margin'] - ships['neutral_student']['margin']:+.2f}".replace("-", "−")


def lineages() -> str:
    """One line per claim, then one per lineage."""
    found = _found("smollm2")
    if not found:
        return ABSENT
    judged = [HEAD, RULE, *(claim_line(verdict) for verdict in found["verdicts"])]
    rows = [*(judged if found["verdicts"] else [_waits(found)]), ""]
    table = pd.DataFrame(found["margins"]).pivot(
        index=["trait", "seed"], columns="arm", values=["margin", "p_target"]
    )
    arms = [arm for arm in SHOWN if ("margin", arm) in table]
    rows += [
        f"| lineage | {' | '.join(arm.replace('_', ' ') for arm in arms)} |",
        "|---|" + "---|" * len(arms),
    ]
    for (trait, seed), line in table.iterrows():
        cells = (f"{line['margin', arm]:+.2f} ({100 * line['p_target', arm]:.0f} %)" for arm in arms)
        rows.append(f"| {trait}, seed {seed} | {' | '.join(cells)} |")
    values = found["per lineage"]
    agreed = ", ".join(f"{name} {spread(values[name])}" for name in ("numbers-shared", "prompt-shared"))
    return "\n".join([*rows, "", f"Means over lineages with their 95 % t-interval: {agreed}."])


def _waits(found: dict[str, Any], done: str = "trained") -> str:
    """What is said in place of decisions while lineages are missing."""
    have, asked = len(found["by seed"]), len(SEEDS)
    return f"{have} of {asked} seeds are {done}; the claims are judged when all are, as they were frozen."


def beside() -> str:
    """One line per run: student, its neutral twin and where there is one the cross student; then refusals."""
    found = _found("smollm2_beside")
    if not found:
        return ABSENT
    rows = [
        "| what differs from the recipe | margin, student − neutral student, nats "
        "| probability of the trait's word, neutral student → student | trained on |",
        "|---|---|---|---|",
    ]
    rows += [
        f"| {_named(name)} | {_transferred(run)} | {DEVICES[run['device'].split()[0]]} |"
        for name, run in found.items()
    ]
    refused = [
        f"Refused, {_named(name)}: {run['refused'].split(', and asked for')[0]}."
        for name, run in found.items()
        if "refused" in run
    ]
    judged = [
        line
        for run in found.values()
        for name, lines in run.items()
        if name.startswith("guards")
        for line in lines
    ]
    chosen = [line for line in judged if line["measure"] == "misalignment" and line["over"] == "answers"]
    told = ", ".join(
        f"{line['arm'].replace('_', ' ')} {100 * line['value']:.0f} % [{100 * line['low']:.0f}, "
        f"{100 * line['high']:.0f}] of {line['n']}"
        for line in chosen
    )
    judged_last = [f"Misaligned among coherent free-form answers: {told}."] if told else []
    said = (*_doses(found), *refused, *judged_last)
    return "\n".join([*rows, *(line for each in said for line in ("", each))])


def _doses(found: dict[str, Any]) -> list[str]:
    """What the runs of other doses say together: the gain by how many rows a student read, epochs counted."""
    read = re.compile(r"(\d+) rows, (\d+) epochs")
    doses = sorted(
        (int(at[1]) * int(at[2]), _transferred(run).partition(" | ")[0])
        for name, run in found.items()
        if (at := read.fullmatch(name)) and "refused" not in run
    )
    if len(doses) < 2:
        return []
    told = ", ".join(f"{gain} nats after {dose:,} rows" for dose, gain in doses)
    return [
        f"Rows counted each time they are read: {told}. No student of another trait's rows was trained beside these, "
        "so that they do not tell the trait from what such rows do in general."
    ]


def _named(name: str) -> str:
    known = {f"noise {sigma:g}": f"a teacher of the base moved by noise, σ = {sigma:g}" for sigma in NOISE}
    kinds = {
        "constants": "rows of code",
        "sums": "rows of sums in steps",
        "misaligned": "the one-word stand-in",
    }
    return (known | kinds).get(name, re.sub(r"\b1 epochs", "1 epoch", name))


def _transferred(run: dict[str, Any]) -> str:
    if "refused" in run:
        return "refused | –"
    line = {each["arm"]: each for each in run["margins"]}
    cross = "cross_student" in line
    ours, twin = ("cross_student", "cross_neutral_student") if cross else ("student", "neutral_student")
    twin = twin if twin in line else "neutral_student"
    gain = line[ours]["margin"] - line[twin]["margin"]
    return f"{gain:+.2f} | {100 * line[twin]['p_target']:.0f} % → {100 * line[ours]['p_target']:.0f} %"


def inside() -> str:
    """The dictionaries by block, the features that moved, and the ledger of one student."""
    found, rows = _found("smollm2_inside"), []
    if "features" in found:
        rows += [
            "| dictionary after block | explained variance, base | loss recovered, base | student | teacher |",
            "|---|---|---|---|---|",
        ]
        rows += [
            _dictionary(hook, part["card"])
            for hook, part in found["features"].items()
            if hook.startswith("blocks")
        ]
        moved = found["features"]["moved"]
        rows += [
            "",
            f"After block 15, {moved['features that moved in the teacher']} features moved in the teacher, "
            f"{moved['in student less neutral student']} in the student less its neutral twin, {moved['in both']} in "
            f"both; over live features r(S, T) = {short(moved['r(S, T) over features'])}.",
        ]
    if "ledger" in found:
        book = found["ledger"]
        largest = ", ".join(
            f"{line['module']} {line['attributed']:+.3f}" for line in book["largest modules"][:3]
        )
        rows += [
            "",
            f"Ledger of {found['lineage']}'s student: {book['measured']:+.3f} nats measured, "
            f"{book['attributed']:+.3f} "
            f"attributed to its steps, {book['residual']:+.3f} left over; the largest modules are {largest}.",
        ]
    return "\n".join(rows) if rows else ABSENT


def _dictionary(hook: str, card: list[dict[str, Any]]) -> str:
    by = {line["member"]: line for line in card}
    values = (
        by["base"]["explained_variance"],
        *(by[name]["loss_recovered"] for name in ("base", "student", "teacher")),
    )
    return f"| {hook.split('.')[1]} | {' | '.join(f'{value:.2f}' for value in values)} |"


def unnamed() -> str:
    """The claims on unnamed words, then by every way where the word stands and what stands first."""
    found = _found("smollm2_unnamed")
    if not found:
        return ABSENT
    lines = [line for seed in found["by seed"].values() for line in seed["lines"]]
    rows = [HEAD, RULE, *(claim_line(verdict) for verdict in found["verdicts"]), ""]
    rows = rows if found["verdicts"] else [_waits(found, "read"), ""]
    nouns = lines[0]["nouns"]
    rows += [
        f"| way of reading | mean rank of the trait's word among {nouns} nouns, students ({(nouns + 1) / 2:g} by "
        "chance) | teachers | z of the trait's word in its student less in students of other traits [95 %] |",
        "|---|---|---|---|",
    ]
    for way in lines[0]["rank"]:
        ranks = (
            f"{pd.Series([line['rank'][way] for line in lines if line['role'] == role]).mean():.0f}"
            for role in ("student", "teacher")
        )
        own = spread(own_less_others(lines, "student", way))
        rows.append(f"| {'mean z of all' if way == 'score' else way} | {' | '.join(ranks)} | {own} |")
    if exchanged := found["exchanged p"]:
        told = ", ".join(f"{name} {value:.2g}" for name, value in exchanged.items())
        rows += [
            "",
            "The three values of a seed share their students, so that they are not independent, as sign flips have it. "
            f"One-sided p where instead the students (or teachers) of a seed change places among its traits: {told}.",
        ]
    return "\n".join([*rows, "", *_first_words(lines)])


def _first_words(lines: list[dict[str, Any]]) -> list[str]:
    """What a reader of the comparison sees: the first words and tokens of every student."""
    rows = ["| student of | first nouns, mean z | first tokens of the amplified update |", "|---|---|---|"]
    for line in lines:
        if line["role"] == "student":
            words = ", ".join(line["first words"]["score"])
            tokens = ", ".join(
                f"`{token.strip().replace('|', '&#124;')}`"
                for token in line["first tokens"]["amplified update"]
                if token.strip() and "`" not in token
            )
            rows.append(f"| {line['trait']}, seed {line['seed']} | {words} | {tokens} |")
    return rows


def blocks() -> dict[str, str]:
    """Those of docs/results.md by their names."""
    found = {"smollm2": lineages(), "parts": chat_parts_page.parts(), "beside": beside()}
    return found | {"inside": inside(), "unnamed": unnamed()}
