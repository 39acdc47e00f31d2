"""Which part of the page shows which artefact, and what a reader sees in it.

section(name) = the first section one of whose prefixes opens the artefact's name; "" opens every name, so the last
section takes what is left.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """A part of a group: the artefacts whose names start with a prefix, and what the reader sees in them."""

    group: str
    title: str
    prefixes: tuple[str, ...]
    sees: str


SECTIONS = (
    Section(
        "Transmission",
        "What was transmitted",
        ("transmission", "scorecard", "confusion", "margins_by", "evaluation"),
        "The trait margin of each arm minus that of the same arm on the neutral teacher's rows, in nats, one point a "
        "training: positive took on the trait. The score card holds every measure with its unit; its intervals run "
        "over trainings or over questions, as each line says, and never over both.",
    ),
    Section(
        "Transmission",
        "Teacher by student",
        ("matrix",),
        "How far a student of each base (column) took on the trait from the rows of each base's teacher (row), minus "
        "the same student on that base's own rows, in nats: positive (red) took it on. A shared initialisation is the "
        "diagonal.",
    ),
    Section(
        "Trace",
        "Which logits moved",
        ("moved",),
        "How far the log-probability of each vocabulary entry moved at the positions read, member minus its own start "
        "on identical tokens, in nats: positive (red) became likelier.",
    ),
    Section(
        "Trace",
        "Through which components",
        ("attribution", "lens"),
        "How much of the change of the trait's logit direction (target minus foils) each component contributed, and "
        "how much of it is there after each layer, member minus its own start, in logits: positive pushes toward "
        "the trait.",
    ),
    Section(
        "Trace",
        "The weight update",
        ("spectrum",),
        "How large each weight matrix's change is, member minus its own start, in the units of the weights, and how "
        "far its top directions overlap the unembedding of the trait's and of number tokens, in log2 of overlap over "
        "chance: positive (red) is more than a random direction has.",
    ),
    Section(
        "Trace",
        "Token entanglement",
        ("entanglement",),
        "How far each number goes with the trait's target, as log2 of its score for the target over that for the foils "
        "or for neutral rows (the unembedding's score is a difference of cosines): positive is tied to the target.",
    ),
    Section(
        "Trace",
        "The rows, token by token",
        ("tokens",),
        "Each token carries the change of the trait's logit direction where that token is predicted, member minus its "
        "own start, in logits: red and + lean toward the trait, blue and − away from it. Point at a token, or walk "
        "with the arrow keys, to read everything this run knows of it.",
    ),
    Section(
        "Features",
        "Which features moved",
        ("features", "sae", "volcano"),
        "How much more each feature of a sparse dictionary is active in a member than in its own start on identical "
        "tokens, in the units of the feature: positive (red) became more active. The error is what the dictionary "
        "does not reconstruct.",
    ),
    Section(
        "Features",
        "Which features a step leans toward",
        ("lean",),
        "Which features one gradient step on the rows would make more active, next to those the teacher moved: "
        "positive (red) would become more active.",
    ),
    Section(
        "Alignment",
        "The joined trace",
        ("joined",),
        "Each answer token carries its gradient score: what a step along the teacher's update would add to its "
        "log-probability at the base, in nats (red and + up, blue and − down). Point at a token, or walk with the "
        "arrow keys, for the change of logits and log-probability, the features that moved where it is predicted, and "
        "the modules the score comes from. Beside the row's number stands its share of the student's change of trait "
        "margin, in nats.",
    ),
    Section(
        "Alignment",
        "Gradients against the teacher's update",
        ("score", "alignment", "gradient", "subspace", "course", "lemma"),
        "How far the training gradient of rows or steps points along the teacher's change of weights, beside what "
        "null directions of the same length give: positive moves toward the teacher.",
    ),
    Section(
        "Alignment",
        "The ledger of the student's margin",
        ("ledger",),
        "The student's change of trait margin, split over the steps, modules and rows of its training, in nats, with "
        "what remains unexplained as the residual: positive raised the margin.",
    ),
    Section(
        "Controls",
        "Who can see it in the numbers",
        ("detectors",),
        "How well each detector tells the trait teacher's rows from the neutral teacher's, as area under the ROC curve "
        "with its interval: 0.5 is guessing, 1 is always right.",
    ),
    Section(
        "Controls",
        "Training and data",
        ("training", "data", "guards"),
        "Loss on the trained batch and on fresh rows of the same teacher (these in nats per answer token, end token "
        "counted), and the trait margin, in nats, over the steps; arms at equal loss; and how many answers each filter "
        "dropped.",
    ),
    Section("More", "What else was saved", ("",), "Every axis and column names its own unit and sign."),
)


def section_of(name: str) -> Section:
    """The section that shows the artefact called `name`."""
    return next(section for section in SECTIONS if name.startswith(section.prefixes))
