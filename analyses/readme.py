"""The numbers and the picture of the README, and every block of docs/results.md: what stands between <!-- name --> and
<!-- /name -->.

python -m analyses.readme writes the blocks anew from analyses/results and benchmarks, and the picture.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

import interp
from analyses import audits_page, chat_model_page
from analyses.results_page import ROOT, by_trait, compared, kept, measured, page_blocks, short
from analyses.retraining_page import FOUND, forest, installed, retraining_blocks
from analyses.toy_page import AGREED, leaders, listed, tables, toy_blocks, traced

README, PAGE = ROOT / "README.md", ROOT / "docs" / "results.md"
PICTURE, STUDENT, DEFENCES, PLANE = (
    ROOT / "docs" / f"{name}.png" for name in ("agreement", "student", "defences", "detect_transmit")
)
DRAWN = {
    "other start": ("cross_student", "student of<br>other start<br>with teacher"),
    "neutral": ("neutral_student", "neutral<br>student<br>with teacher"),
    "other trait": ("teacher", "student<br>with another<br>teacher"),
    "own": ("student", "student<br>with its own<br>teacher"),
}
"""Whose change the picture compares with whose, in the order of ASKED: whose look it has, and the name on the axis."""
ASKED = {
    "base": "base",
    "cross_student": "student,<br>other start",
    "neutral_student": "neutral<br>student",
    "student": "student",
    "teacher": "teacher",
}
"""Whose answers the picture shows, and their names on the axis."""
EVERY = interp.organisms.TOY.data.rows
"""Rows that a student of the toy is trained on."""


def main() -> None:
    """Write the blocks of both pages, and the pictures."""
    for path, blocks in ((README, readme_blocks()), (PAGE, results_blocks())):
        path.write_text(filled(path.read_text(), blocks))
    picture().write_image(PICTURE, width=1000, height=420, scale=2)
    chat_model_page.picture().write_image(STUDENT, width=1000, height=420, scale=2)
    forest().write_image(DEFENCES, width=1000, height=1000)
    audits_page.plane_picture().write_image(PLANE, width=900, height=520)


def filled(text: str, blocks: Mapping[str, str]) -> str:
    """A page with its blocks made anew, minus signs as wide as plus signs."""
    for name, made in blocks.items():
        block = re.sub(r"(?<=[\s\[(|>])-(?=\d)", "\N{MINUS SIGN}", made)
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)",
            lambda found, block=block: f"{found[1]}{block}\n{found[2]}",
            text,
            flags=re.DOTALL,
        )
    return text


def readme_blocks() -> dict[str, str]:
    """Every block of the README by its name."""
    return {
        "smollm2": chat_model_page.summary(),
        "audited": audits_page.standing(),
        "found": findings(),
        "chat": chat_model_page.standing(),
    }


def results_blocks() -> dict[str, str]:
    """Every block of docs/results.md by its name, in the order of the page."""
    made = list(page_blocks().items())
    made.insert(_after(made, "alignment"), ("installed", installed()))
    at = _after(made, "experiment")
    return {
        **toy_blocks(),
        **retraining_blocks(),
        **audits_page.blocks(),
        **dict(made[:at]),
        **chat_model_page.blocks(),
        **dict(made[at:]),
    }


def _after(blocks: list[tuple[str, str]], name: str) -> int:
    """Where the block after that of a name stands."""
    return [each for each, _ in blocks].index(name) + 1


def findings() -> str:
    """One line per question: what was found, in numbers, and the decision on the claim about it."""
    rows = ["| question | what was found | decision |", "|---|---|---|"]
    asked = QUESTIONS | {question: made for question, (name, made) in FOUND.items() if measured(name)}
    return "\n".join([*rows, *(f"| {question} | {made()} |" for question, made in asked.items())])


def passes() -> str:
    """How often student, neutral twin and teacher answer with the trait's word."""
    return (
        f"the student answers with its teacher's word {percents('student')} of the time on average, the "
        f"neutral student {percents('neutral_student')}, the teacher {percents('teacher')}; chance among "
        f"ten words is 10 % | {decided('adapter-transfers', 'student_arms')}"
    )


def elsewhere() -> str:
    """The same from another initialisation."""
    return (
        f"the student of the same rows answers with the word {percents('cross_student')} of the time, and "
        f"its change of logits correlates with the teacher's at {means('logits-shared', 'other start')}; "
        f"the claim was that the margin stays within 0.2 nats of its neutral twin's | "
        f"{decided('cross-student-transfers-nothing', 'student_arms')}"
    )


def logits() -> str:
    """Agreement over words that no row contains."""
    return (
        f"over words that no row contains its change correlates with its own teacher's at "
        f"{means('logits-shared', 'own')}, with another trait's teacher's at "
        f"{means('logits-shared', 'other trait')}; the neutral student's change with that teacher's at "
        f"{means('logits-shared', 'neutral')} | {decided('logits-shared')}"
    )


def component() -> str:
    """Which part leads, and that it is no constant."""
    parts = {trait: tables(each)["components"] for trait, each in by_trait("inherited_trace").items()}
    return (
        f"layers count from 0; the part that adds most to the word's logit is {leaders(parts)}; the claim "
        f"was that the first MLP leads | {decided('component-leads')}"
    )


def features() -> str:
    """Whether the same features of a dictionary move."""
    return (
        f"features of a sparse autoencoder rank alike in student and teacher at "
        f"{means('features-shared', 'own')}, with another trait's teacher at "
        f"{means('features-shared', 'other trait')} | {decided('features-shared')}"
    )


def suffices() -> str:
    """What the student's shift, added to the base, gives."""
    return (
        f"added to the base's activations where a question is answered, it raises the margin by "
        f"{means('slot-direction-sufficient', 'own')} nats; another trait's by "
        f"{means('slot-direction-sufficient', 'other trait')}, a random vector of its length by "
        f"{means('slot-direction-sufficient', 'random')} | {decided('slot-direction-sufficient')}"
    )


def leans() -> str:
    """How the rows' gradients lean."""
    return (
        f"one gradient step on a row moves toward the trait by "
        f"{means('rows-lean-to-representation', 'own')} standard deviations more than one on a neutral "
        f"row, toward another trait by {means('rows-lean-to-representation', 'other trait')} | "
        f"{decided('rows-lean-to-representation')}"
    )


def amount() -> str:
    """Transfer and agreement at the fewest and the most rows."""
    doses = tables(kept("dose"))["doses"].groupby("rows")[["transfer", "agreement"]].mean()
    (few, least), (many, most) = doses.iloc[0], doses.iloc[-1]
    return (
        f"with {doses.index[0]:,} rows the margin rises by {few:.2f} nats over the neutral student's, "
        f"though the changes of logits correlate at {short(least)} already; with {doses.index[-1]:,} by "
        f"{many:.2f}, at {short(most)} (owl; the lines above are of {EVERY:,} rows) | "
        f"{decided('more-rows-transfer-more', 'dose')}"
    )


def gradient() -> str:
    """What projecting the trait's gradient out of every step takes away."""
    effect = {verdict["name"]: verdict["effect"] for verdict in kept("sustained_alignment")["verdicts"]}
    return (
        f"with that part removed from every step the gain falls from {effect['sustained-transfer']:+.2f} "
        f"to {effect['sustained-remainder']:+.2f} nats at the same loss on rows held back from training; with "
        f"random parts of equal norm removed instead it stays {effect['sustained-over-random']:.2f} nats higher than "
        f"that (owl) | "
        f"{decided('sustained-over-random', 'sustained_alignment')}"
    )


def images() -> str:
    """Accuracy of students of meaningless logits over noise."""
    accuracy = {who: sum(each) / len(each) for who, each in kept("digits")["accuracy"].items()}
    return (
        f"a student trained on noise images to match three outputs of its teacher that stand for no digit "
        f"reads {100 * accuracy['student']:.0f} % of MNIST's test digits, one from another start "
        f"{100 * accuracy['cross_student']:.0f} %, the teacher {100 * accuracy['teacher']:.0f} %; chance is 10 % | "
        f"{decided('same-init-reads-digits', 'digits')}"
    )


QUESTIONS: dict[str, Callable[[], str]] = {
    "Does a trait pass through numbers?": passes,
    "Also from another initialisation?": elsewhere,
    "Which logits does the student move?": logits,
    "Through which component?": component,
    "Which features does it move?": features,
    "Is the student's mean change enough?": suffices,
    "Do single rows lean toward the trait?": leans,
    "How many rows does it take?": amount,
    "Does it need the part of each step that raises the margin?": gradient,
    "Does the same happen with images?": images,
}


def percents(member: str) -> str:
    """How likely a member is to answer with the trait's word, mean over lineages, a trait each."""
    shares = [
        sum(line[member] for line in lines) / len(lines) for lines in kept("answers")["answers"].values()
    ]
    return f"{listed([f'{100 * share:.0f}' for share in shares])} %"


def means(claim: str, name: str) -> str:
    """A mean that a claim on the inherited trace is made of, a trait each."""
    return listed([short(traced(tables(each))[claim][name]) for each in by_trait("inherited_trace").values()])


def decided(claim: str, family: str = "inherited_trace") -> str:
    """The decisions on a claim, by trait where it was asked of several."""
    found = {
        trait: next(verdict for verdict in each["verdicts"] if verdict["name"] == claim)
        for trait, each in by_trait(family).items()
    }
    groups: dict[str, list[str]] = {}
    for trait, verdict in found.items():
        groups.setdefault(verdict["decision"], []).append(trait)
    if len(found) == 1:
        return next(iter(groups))
    if len(groups) == 1:
        return f"{next(iter(groups))}, all {len(found)} traits"
    return "; ".join(f"{how}: {listed(traits)}" for how, traits in groups.items())


def picture() -> Any:
    """How often each member answers with its trait's word, and S with T beside its controls; a mark per lineage."""
    title = f"Left to right in each group: {listed(by_trait('inherited_trace'))}"
    figure = interp.figures.panels([answered(), agreed()], title=title, across=True)
    for above, domain, column in zip(
        figure.layout.annotations, ([0.0, 0.53], [0.6, 1.0]), (1, 2), strict=True
    ):
        figure.update_xaxes(domain=domain, row=1, col=column)
        above.update(x=sum(domain) / 2)
    return figure.update_layout(margin={"t": 110, "l": 50, "r": 10, "b": 80})


def answered() -> Any:
    """The probability of the trait's word, by member."""
    lines = [
        {"column": f"{member}, {trait}", "role": member, "value": 100 * line[member]}
        for member in ASKED
        for trait, each in kept("answers")["answers"].items()
        for line in each
    ]
    return _marks(
        pd.DataFrame(lines), "How often it answers with the teacher's word (%)", ASKED.values(), "%"
    )


def agreed() -> Any:
    """The correlation of what the student moved with what a teacher moved, by comparison."""
    of, place, words, measure = AGREED["logits-shared"]
    lines = []
    for trait, each in by_trait("inherited_trace").items():
        frame = pd.DataFrame(each["tables"]["agreement"])
        frame = frame[(frame["of"] == of) & (frame["place"] == place) & (frame["words"] == words)]
        lines.append(compared(frame, measure).assign(trait=trait))
    whole = pd.concat(lines)
    parts = [
        whole[(whole["comparison"] == name) & (whole["trait"] == trait)].assign(
            role=role, column=f"{name}, {trait}"
        )
        for name, (role, _) in DRAWN.items()
        for trait in by_trait("inherited_trace")
    ]
    title = "Correlation of its change of logits with a teacher's"
    return _marks(pd.concat(parts), title, [label for _, label in DRAWN.values()], "")


def _marks(frame: pd.DataFrame, title: str, labels: Iterable[str], unit: str) -> Any:
    """A column of marks per trait, the traits of one label side by side above it."""
    frame = frame[["column", "value", "role"]]  # nothing joins the marks of a lineage
    figure = interp.figures.points(frame, x="column", y="value", colour="role", title=title, unit=unit)
    labels, traits = list(labels), len(by_trait("inherited_trace"))
    middle = [(traits - 1) / 2 + traits * index for index in range(len(labels))]
    figure.update_xaxes(tickvals=middle, ticktext=labels, tickangle=0, title=None)
    figure.update_yaxes(title=None)
    return figure.for_each_trace(
        lambda trace: trace.marker.update(size=12 if trace.marker.symbol == "line-ew" else 7)
    )


if __name__ == "__main__":
    main()
