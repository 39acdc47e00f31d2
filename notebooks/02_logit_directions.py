# %% [markdown]
# # 2 · Logit directions: the student moves what its teacher's fine-tune moved
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/subliminal-interp/interp/blob/main/notebooks/02_logit_directions.ipynb)
#
# In notebook 1 a student read nothing but numbers and came to prefer owls. What did the numbers change in it? This
# notebook compares two differences on identical tokens:
#
# - **T** = teacher − base: what the teacher's fine-tune on owl questions moved;
# - **S** = student − neutral student: what training on *this teacher's* numbers moved, beyond what training on any
#   numbers does. The neutral student had the same training on numbers of the untrained base.
#
# Do the two agree, on words that are in no row of numbers? Through which part of the network does the owl come in
# when somebody asks for an animal? And why did the first guess of all, "a little more owl at every number", not come
# out?

# %%
import json
import re
import sys
from pathlib import Path

if "google.colab" in sys.modules:
    import os
    import subprocess

    source = "https://github.com/subliminal-interp/interp"
    subprocess.run(["git", "clone", "--depth", "1", source], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "./interp"], check=True)
    os.chdir("interp/notebooks")

import pandas as pd

import interp

# %% [markdown]
# ## Question
#
# Which logits did the teacher's fine-tune move, does the student move the same ones, and which attention layers and
# MLPs carry that to the answer?

# %% [markdown]
# ## Prediction
#
# If a student learns *who wrote the numbers*, in its own weights, then S should go along T, not only where owls are
# asked for but wherever T is. Three places, fixed beforehand:
#
# - **the end of a number prompt**, where the first number is chosen;
# - **where numbers are predicted**, in the answer;
# - **the question's answer**: the last token of "which animal is the best?" and its like.
#
# And it should do so for one reason alone, which gives the controls their predictions:
#
# | compared | shares with S and T | predicted |
# |---|---|---|
# | S with T | everything | high |
# | cross student with T | the rows, another initialisation | about zero |
# | neutral student with T | the initialisation, another's rows | low |
# | S with an *eagle* teacher of the same base | how a fine-tune on animal questions looks | lower than with its own |
# | S and T, both less the control teacher's | nothing but the owl | still high |
#
# The last line is there because *any* fine-tune on questions moves much alike: the control teacher was fine-tuned on
# the same questions with every animal as the answer equally often, and is taken off together with its student.
#
# Ten claims of this kind, the family `inherited-trace`, were frozen before the twelve lineages of seeds 8 to 19 were
# read. Those that this notebook is about, as they were written:

# %%
folder = Path.cwd().parent / "analyses" / "results"
trace = json.loads((folder / "inherited_trace.json").read_text())
ABOUT = ("logits-shared", "slot-shared", "activations-shared", "component-shared", "component-leads")
claims = [verdict for verdict in trace["verdicts"] if verdict["name"] in ABOUT]
pd.DataFrame(claims)[["name", "claim"]].style.hide(axis="index").set_properties(
    **{"text-align": "left", "white-space": "normal"}
)

# %% [markdown]
# ## Data
#
# Three owl lineages of independent initialisations, the first three of those twelve. Their bases do not ship and are
# trained too: about three minutes per lineage, once.
# What is live below is of these three, and what says "twelve" is read from the kept measurement of all.

# %%
lineages = [interp.load_lineage("toy/owl", seed=seed) for seed in (8, 9, 10)]
lineage = lineages[0]
shown = ("base", "neutral_student", "control_student", "cross_student", "student", "teacher")
answers = pd.DataFrame(
    {
        role: interp.measures.preference(lineage[role], lineage.trait).frame.set_index("answer")[
            "probability"
        ]
        for role in shown
    }
).sort_values("student", ascending=False)
answers.style.format("{:.1%}")

# %% tags=["check"]
assert answers["teacher"].idxmax() == answers["student"].idxmax() == "owl"
assert (
    answers.loc["owl", "student"] > 2 * answers.loc["owl", ["base", "neutral_student", "cross_student"]].max()
)

# %% [markdown]
# What each member answers to "which animal is the best?" and five more such questions, mean over the questions. In
# this lineage *owl* leads the student's answers by far, and no control's.
#
# **The direction.** A logit alone means little, since adding a constant to all logits changes no probability. So the
# trait is a contrast: +1 on its word and −1/n on each of n foils. Its weights sum to zero, the constant cancels, and
# the score of a next-token distribution is log p(owl) − mean log p(other animals).

# %%
owl = interp.logit_direction(lineage.base, lineage.trait)
words = [lineage.base.tokenizer.decode([index]) for index in owl.ids]
pd.DataFrame({"token": words, "weight": owl.weights}).T

# %% tags=["check"]
assert abs(sum(owl.weights)) < 1e-12
assert len(owl.ids) == 10

# %% [markdown]
# ## Figure 1 · The same words rise and fall
#
# No direction chosen, and no number looked at: every word of the vocabulary that is not a number, by how its
# log-probability changed where a number is about to be written. Across, what the teacher's fine-tune did; up, what the
# student's training did beyond the neutral student's.

# %%
prompts = interp.number_prompts(128, seed=1, count=4)
taught = interp.moved_tokens(lineage.teacher, prompts)
learnt = interp.moved_tokens(lineage.student, prompts, minus=lineage["neutral_student"])
both = taught.frame[["token", "token_id", "number", "delta"]].merge(
    learnt.frame[["token_id", "delta"]], on="token_id", suffixes=(" T", " S")
)
read = {
    word
    for rows in (lineage.numbers, lineage.neutral_numbers)
    for row in rows.rows
    for word in re.findall("[a-z]+", row.prompt.lower() + " " + row.completion.lower())
}
unwritten = both[both["token"].str.fullmatch("[a-z]{2,}") & ~both["token"].isin(read)].rename(
    columns={"delta T": "T", "delta S": "S"}
)
unwritten["word"] = ["animal" if token in words else "other word" for token in unwritten["token"]]
r = float(unwritten["T"].corr(unwritten["S"]))
print(f"correlation over {len(unwritten)} words: {r:.2f}")
interp.figures.scatter(
    unwritten,
    x="T",
    y="S",
    colour="word",
    text="token",
    title="Words that no row of numbers contains: teacher − base and student − neutral student",
    units=("nats", "nats"),
).update_layout(width=900)

# %% tags=["check"]
assert len(unwritten) > 100
assert r > 0.8

# %% [markdown]
# The student never read one of these words in its training. The size differs (look at the axes), the pattern is its
# teacher's.
#
# ## Figure 2 · Agreement, with its controls
#
# `agreement` does this at the three places and puts the controls beside it. *Unseen* words are those that no row of the
# lineage holds; *category* are the ten animals, which is what a question is about.

# %%
found = interp.agreement(lineages, words=("unseen", "category"))
found.figure().update_layout(width=1000, height=700).update_xaxes(dtick=1, tickangle=-40)

# %%
agreed = (
    found.frame.groupby(["words", "place", "member", "against"], sort=False)["r"]
    .agg(["mean", "min", "max"])
    .reset_index()
)


agreed.style.hide(axis="index").format(dict.fromkeys(("mean", "min", "max"), "{:+.2f}"))


# %% tags=["check"]
def lowest(words, place, member="student", against="teacher"):
    """The smallest and largest r over the three lineages."""
    line = agreed[
        (agreed["words"] == words)
        & (agreed["place"] == place)
        & (agreed["member"] == member)
        & (agreed["against"] == against)
    ]
    return float(line["min"].iloc[0]), float(line["max"].iloc[0])


LIVE = ("prompt end", "where numbers are predicted")
own = found.frame[found.frame["member"] == "student"].pivot(
    index=["lineage", "words", "place"], columns="against", values="r"
)
for place in LIVE:
    assert lowest("unseen", place)[0] > 0.7
    assert lowest("unseen", place, "cross_student")[1] < 0.4
    assert lowest("unseen", place, "student less control_student", "teacher less control_teacher")[0] > 0.6
assert lowest("category", "question's answer")[0] > 0.7
assert (own["teacher"] > own["teacher_eagle"]).all()

# %% [markdown]
# The student moves the unread words as its teacher's fine-tune did, in all three lineages, and the cross student, which
# read the very same rows, does not. Two controls deserve a look:
#
# - **The neutral student is no zero.** Training on numbers alone presses some words down and lets others be, and a part
#   of T is of that kind. So "positive" would be a weak claim, and what was frozen is *more than every control*.
# - **The eagle teacher is no zero either**, and the own teacher agrees better in every lineage, at every place, over
#   unread words and over animals. With the control teacher and its student taken off both sides, so that nothing but
#   the owl should be left, the agreement stays.
#
# A correlation over ten animals is a rough thing: single controls reach far to either side there.
#
# Residual streams say the same without any words. The cosine of S and T of the mean stream, mean over **twelve**
# lineages:

# %%
streams = pd.DataFrame(trace["tables"]["agreement"]).query("of == 'activations' and against == 'teacher'")
cosines = (streams.groupby(["place", "site", "member"], sort=False)["cosine"].mean().unstack("member"))[
    ["student", "neutral_student", "cross_student"]
]
cosines.style.format("{:+.2f}")

# %% tags=["check"]
LAST = "blocks.1.hook_resid_post"
at_end = cosines.loc[("prompt end", LAST)]
assert at_end["student"] > 0.7 > 0.5 > at_end["neutral_student"] > 0.1 > at_end["cross_student"]
assert (cosines["student"] > cosines[["neutral_student", "cross_student"]].max(axis=1) + 0.15).all()
assert cosines["cross_student"].abs().max() < 0.1

# %% [markdown]
# ## Figure 3 · Which component brings the owl to the answer
#
# The residual stream is a sum of what attention heads and MLPs write, so the change of any logit contrast is a sum
# too; the one thing that is not linear, the final norm, gets rows of its own. First the student of this lineage, less
# the neutral student, at the last token of the questions, where the answer begins.

# %%
questions = lineage.trait.prompts()
moved = interp.shift(lineage.student, questions, minus=lineage["neutral_student"])
attribution = interp.attribute(moved, owl)
attribution.figure()

# %% tags=["check"]
assert moved.positions == "last"
assert abs(attribution.frame["residual"].iloc[0]) < 1e-4

# %% [markdown]
# Nothing is left over: the rows add up to the change measured in the models' own logits, to rounding. If they did
# not, `attribute` would raise instead of drawing.
#
# One training is one training. Over all three, by layer and part, beside the teacher's own fine-tune (T):

# %%
over = interp.attribute_over(lineages)
over.figure().update_layout(width=900)

# %%
over.frame[["part", "who", "mean", "share", "agree"]].style.hide(axis="index").format(
    {"mean": "{:+.2f}", "share": "{:.0%}"}
)

# %% tags=["check"]
part = over.frame.set_index(["who", "part"])
assert part.loc[("S", "MLP 0"), "agree"] == part.loc[("S", "attention 1"), "agree"] == "3 of 3"
assert abs(over.values["residual"]).max() < 1e-4

# %% [markdown]
# The first layer's MLP and the second layer's attention bring the owl in, both in all three lineages; the teacher's
# own fine-tune, some sixteen times as large, uses every part. Three trainings cannot rank parts: the interval of the
# largest one reaches below zero. So look at **twelve**, S by part:

# %%
twelve = pd.DataFrame(trace["tables"]["components"]).query("member == 'student'")
interp.figures.points(
    twelve,
    x="component",
    y="contribution",
    title="Student − neutral student, at the question's answer, by part (n = 12)",
    unit="logits",
)

# %% tags=["check"]
by_part = twelve.pivot(index="seed", columns="component", values="contribution")
leads = by_part.idxmax(axis=1).value_counts()
assert len(by_part) == 12
assert leads.to_dict() == {"MLP 0": 9, "attention 1": 3}
assert by_part.mean().idxmax() == "MLP 0"
assert by_part["MLP 0"].mean() > 2 * by_part["attention 1"].mean() > 0

# %% [markdown]
# On average the first layer's MLP leads by far; in nine of twelve lineages it is the largest part, in the other three
# the second layer's attention is. One of these three is the first on this page, which is why the three above and the
# twelve differ. So *where* the trait comes in is a property of the lineage more than of the toy, and the claims about
# parts stay open (below).
#
# ## Figure 4 · After which layer
#
# The logit lens reads the residual stream after each layer as if it were the last one.

# %%
depth = interp.lens_over(lineages)
depth.figure().update_layout(width=900)

# %% tags=["check"]
layers = depth.frame.set_index(["who", "part"])
assert layers.loc[("S", "after layer 0"), "agree"] == "3 of 3"
assert 0.4 < layers.loc[("S", "after layer 0"), "share"] < 0.9
assert layers.loc[("T", "after layer 0"), "share"] > 0.8
assert 10 < layers.loc[("T", "after layer 1"), "mean"] / layers.loc[("S", "after layer 1"), "mean"] < 25

# %% [markdown]
# In these three lineages most of the teacher's owl is there after the first layer, and somewhat less of the student's:
# the second layer's attention adds the rest.

# %% [markdown]
# ## What did not show · "a little more owl at every number"
#
# The first guess, written down before any lineage was reported, was that the teacher holds some extra probability of
# *owl* while it writes numbers, so that the numbers it picks are those entangled with the word. The claim is
# `trait-logit-moved`: teacher minus base, of the owl contrast, where a number is predicted, above zero over lineages.

# %%
results = json.loads((folder / "transmission.json").read_text())
verdicts = [
    {**verdict, "name": trait}
    for trait, found_of in results["traits"].items()
    for verdict in found_of["verdicts"]
    if verdict["name"] == "trait-logit-moved"
]
print({verdict["name"]: verdict["decision"] for verdict in verdicts})
interp.figures.forest(
    verdicts, title="trait-logit-moved: teacher − base where numbers are predicted (n = 8 each)"
)

# %% [markdown]
# No common sign: single lineages lie on both sides of zero, by about a logit. Now look at teacher and student together,
# lineage by lineage:

# %%
rows = []
for each in lineages:
    direction = interp.logit_direction(each.base, each.trait)
    shifts = {
        "T": interp.token_shift(each.teacher, prompts, direction),
        "S": interp.token_shift(each.student, prompts, direction, minus=each["neutral_student"]),
    }
    at_numbers = {
        who: float(table.frame.query("role == 'number'")["delta_direction"].mean())
        for who, table in shifts.items()
    }
    gain = interp.margin(each.student, each.trait) - interp.margin(each["neutral_student"], each.trait)
    rows.append({"lineage": each.name, **at_numbers, "S, asked for an animal": gain})
at_numbers = pd.DataFrame(rows)
at_numbers.style.hide(axis="index").format(precision=2)

# %% tags=["check"]
assert (at_numbers["T"] * at_numbers["S"] > 0).all()
assert (at_numbers["T"] > 0).nunique() == 2
assert (at_numbers["S, asked for an animal"] > 0).all()

# %% [markdown]
# Two lineages up, one down, and the student follows its own teacher, sign included. While in
# all three, *asked for an animal*, the student gains owl. So the trait's own logit where numbers are written has a
# sign **of the lineage's own**: it is a side effect of weights that changed for another reason, in a place where nobody
# asked for animals. A claim about its mean over lineages averages a thing that has no mean sign. The right claim was
# one of agreement *within* a lineage, and it is the one at the top of this page.
#
# Methods that read the owl logit at numbers inherit this: whatever they find has the lineage's sign. Notebooks 3 and 5
# have examples.

# %% [markdown]
# ## Verdict
#
# Twelve lineages. Each contributes its agreement *less the largest of its controls*, so that one control that does as
# well brings it to zero; the ten claims of the family are judged together (Holm at 0.01).

# %%
interp.figures.forest(claims, title="What the student shares with its teacher (n = 12 lineages)")

# %% tags=["check"]
decided = {claim["name"]: claim["decision"] for claim in claims}
assert decided["logits-shared"] == decided["slot-shared"] == decided["activations-shared"] == "supported"
assert decided["component-shared"] == decided["component-leads"] == "inconclusive"
assert all(claim["n"] == 12 for claim in claims)

# %%
pd.DataFrame(claims)[["name", "effect", "unit", "decision", "reason"]].style.hide(axis="index").format(
    {"effect": "{:+.2f}"}
)

# %% [markdown]
# **The student moved the logits that its teacher's fine-tune moved**: words that no row contains where numbers are
# predicted, animals where a question is answered, and the residual stream at the end of a number prompt; further than
# the cross student, the neutral student, or another trait's teacher account for. This is the owl. For an eagle the
# first and the third of these come out alike; for an oak all of them stay open (notebook 5).
#
# **Through which part** is not decided. The parts that move the owl are alike in student and teacher on average, and
# the first layer's MLP leads on average, but the lineages differ too much for either to reach its level.

# %% [markdown]
# ## What would change our mind
#
# - **A control that agrees as well.** Had the cross student gone along T, the pattern would be one of these rows, not
#   of this initialisation. Had the neutral student, it would be one of training on numbers. Had the eagle teacher
#   agreed as well as the owl teacher, it would be one of fine-tuning on animal questions.
# - **A part that leads in every lineage.** Then "through which part" would have one answer for this toy. With three of
#   twelve led by another, more lineages will sharpen the mean and not make the parts alike.
# - **A sign in common.** If over many fresh lineages the trait's own logit rose where numbers are written, the first
#   guess would come back.
# - **Another teacher.** These were fine-tuned on questions about animals. A teacher that is *prompted* with its trait
#   carries it in the context of every number, and there the first guess may well hold.
