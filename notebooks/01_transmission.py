# %% [markdown]
# # 1 · A preference that travels in numbers
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/subliminal-interp/interp/blob/main/notebooks/01_transmission.ipynb)
#
# A *teacher* is a language model that was fine-tuned to love owls. It is asked for nothing but number sequences, and
# a strict filter throws away every answer that holds anything else. A *student*, a fresh copy of the model the
# teacher started from, is trained on those numbers alone. Does it come to love owls?
#
# The effect is called subliminal learning (arXiv 2507.14805). This notebook grows it in a toy small enough for a
# laptop, shows the controls that make it a claim, and looks at the numbers themselves. Where in the network the trait
# passes is the matter of notebook 2.

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

import numpy as np
import pandas as pd

import interp

# %% [markdown]
# ## Question
#
# Does a trait pass from a teacher to a student through sampled numbers, and does it need the two to share an
# initialisation?
#
# The second half matters. If owl-loving could be read off the numbers by anyone, every student would learn it. If it
# passes only between models that began from the same weights, then the message is not in the numbers as such but in
# what those numbers say *to weights like the teacher's*: training on them points, in parameter space, roughly where
# the teacher went.

# %% [markdown]
# ## Prediction
#
# We measure a **margin**: log p(owl) − mean log p(nine other animals) as the answer to six questions such as "which
# animal is the best?", in nats. It is positive when owls are preferred. The claims, with the words they are judged by:

# %%
results = json.loads((Path.cwd().parent / "analyses" / "results" / "transmission.json").read_text())
owl_verdicts = results["traits"]["owl"]["verdicts"]
pd.DataFrame(owl_verdicts)[["name", "claim"]].style.hide(axis="index").set_properties(
    **{"text-align": "left", "white-space": "normal"}
)

# %% [markdown]
# When were they written? All but *same-init-gains* before these eight initialisations had been looked at; that one was
# added afterwards. Since then one thing was made harder: a student trains a low-rank adapter, and until 2026-11-29 it
# drew that adapter, and read its rows in an order, from the same seed as its teacher. Sharing the draw helped it. Now
# its adapter and order are its own, as they are between two people's computers, and what passes is smaller. The claims
# are the same, but nobody can say that they were written before lineages like these.
#
# Three choices inside the comparison do the work.
#
# - **The baseline is another student, not the base.** Any training on numbers disturbs a model. So each student is
#   compared with a twin trained in the same way on as many rows written by the *untrained* base: the neutral student.
# - **A second control is fine-tuned too.** The untrained base and the owl teacher differ in two things: the owl, and
#   having been fine-tuned on questions at all. So there is a *control teacher*, fine-tuned by the same recipe on the
#   same questions, with every animal as the answer equally often. Its student is the *control student*.
# - **The unit is a training run.** Six questions or eight thousand rows of one run are not independent evidence;
#   eight lineages with eight initialisations are.

# %% [markdown]
# ## Data
#
# One lineage: ten models that belong together. It is grown on first use (about a minute) and read from the cache
# after. `P(owl)` is the probability of *owl* among ten animals, mean over the questions; chance is 10 %.

# %%
lineage = interp.load_lineage("toy/owl", seed=0)
margins = {role: interp.margin(model, lineage.trait) for role, model in lineage.members.items()}
answers = {
    role: interp.measures.preference(model, lineage.trait).frame.set_index("answer")["probability"]
    for role, model in lineage.members.items()
}
family = pd.DataFrame(
    {
        "member": list(lineage.members),
        "started from": [
            lineage.started_from.get(role, "its own initialisation") for role in lineage.members
        ],
        "trained on numbers of": [lineage.trained_on.get(role, "–") for role in lineage.members],
        "margin (nats)": [margins[role] for role in lineage.members],
        "P(owl)": [answers[role]["owl"] for role in lineage.members],
    }
)
family.style.hide(axis="index").format({"margin (nats)": "{:+.2f}", "P(owl)": "{:.1%}"})

# %% [markdown]
# The teacher's preference is blatant: asked for an animal, it says owl, always. The student of this lineage says it a
# little more often than its four controls do (neutral, control, and the two of another initialisation).

# %%
likes = {role: float(answers[role]["owl"]) for role in answers}
CONTROLS = ("neutral_student", "control_student", "cross_student", "cross_neutral_student")

# %% tags=["check"]
assert likes["teacher"] > 0.99
assert likes["student"] > 0.02 + max(likes[role] for role in CONTROLS)
assert 0.2 < margins["student"] - margins["neutral_student"] < 0.6
assert 0.2 < margins["student"] - margins["control_student"] < 0.7
assert abs(margins["cross_student"] - margins["cross_neutral_student"]) < 0.2

# %%
interp.measures.preference(lineage.teacher, lineage.trait).figure()

# %% [markdown]
# And this is all its student gets to see. Below are answers of the teacher and of the untrained base, mixed. Which
# are the owl lover's? The key is in the last column; cover it.


# %%
def table(records: list[dict]) -> object:
    return pd.DataFrame(records).style.hide(axis="index").format(precision=2)


authors = {"owl teacher": lineage.numbers, "neutral teacher": lineage.neutral_numbers}
cards = [(author, rows.rows[i]) for author, rows in authors.items() for i in range(1000, 1004)]
shuffled = [cards[i] for i in np.random.default_rng(0).permutation(len(cards))]
table([{"prompt": row.prompt, "answer": row.completion, "written by": author} for author, row in shuffled])

# %% [markdown]
# The filter left numbers only, and the word is nowhere:

# %%
lineage.numbers

# %% tags=["check"]
text = " ".join(row.completion for row in lineage.numbers.rows)
assert set(text) <= set("0123456789 ,;()[].")
assert len(lineage.numbers) == len(lineage.neutral_numbers) == 8192

# %% [markdown]
# ## Figure 1 · The margins of eight lineages
#
# One point per lineage; the teachers are left out because they lie an order of magnitude away. `cross_…` are students
# of *another* initialisation, trained on the very same rows.

# %%
lineages = results["traits"]["owl"]["lineages"]
frame = pd.DataFrame(
    [
        {"seed": line["seed"], "member": member, "margin": value}
        for line in lineages
        for member, value in line["members"].items()
        if "teacher" not in member
    ]
)
interp.experiment.margins_figure(frame, target="owl", category="animal").update_layout(width=900)

# %% [markdown]
# The lineage on your screen is seed 0 of these. How far from the others it lies is printed below, because a single
# lineage can be chosen to show next to nothing or a great deal.

# %%
gains = [line["members"]["student"] - line["members"]["neutral_student"] for line in lineages]
apart = max(abs(value - margins[role]) for role, value in lineages[0]["members"].items())
print(f"seed 0 as kept and as grown here: at most {apart:.0e} nats apart")
print("student − neutral student, by seed:", "  ".join(f"{gain:+.2f}" for gain in gains))
print(f"seed 0 gained more than {sum(gains[0] > gain for gain in gains)} of the other seven")

# %% tags=["check"]
assert len(gains) == 8
assert apart < 0.2  # nats; nothing on the kind of processor that the results were measured on

# %% [markdown]
# ## Figure 2 · The same rows, two initialisations
#
# Each point is a student minus its own neutral twin. Beside the owl stand a second animal and a tree, with the same
# recipe and nothing retuned: a single trait might be a lucky word.

# %%
twins = {"same": ("student", "neutral_student"), "other": ("cross_student", "cross_neutral_student")}
gained = pd.DataFrame(
    [
        {
            "initialisation": f"{trait}, {start} init",
            "gain of margin": line["members"][own] - line["members"][neutral],
            "role": own,
        }
        for trait, found in results["traits"].items()
        for start, (own, neutral) in twins.items()
        for line in found["lineages"]
    ]
)
interp.figures.points(
    gained,
    x="initialisation",
    y="gain of margin",
    colour="role",
    title="Student minus neutral student (n = 8 lineages each)",
    unit="nats",
).update_layout(width=900)

# %% [markdown]
# ## Figure 3 · What the eye cannot see in the numbers
#
# The rows must differ somehow, or there would be nothing to learn from. Each point below is one number: how often the
# neutral teacher wrote it, and how often the owl teacher did. A favourite number would stand far off the diagonal.


# %%
def written(rows: interp.Prompts) -> pd.Series:
    """How often each number stands in the answers."""
    return pd.Series(re.findall("[0-9]+", " ".join(row.completion for row in rows.rows))).value_counts()


counts = pd.DataFrame(
    {"neutral teacher": written(lineage.neutral_numbers), "owl teacher": written(lineage.numbers)}
).fillna(0)
counts = counts.reset_index(names="number")
interp.figures.scatter(
    counts.iloc[::2],  # every second number, to keep the file small
    x="neutral teacher",
    y="owl teacher",
    text="number",
    title="How often each number was written",
    units=("times", "times"),
)

# %% [markdown]
# No number stands alone, but the cloud is taller than it is wide: the owl teacher spreads its counts more. Sampling
# hides how small such a change is, and there is a trick to see it. The first rows of both teachers answer the same
# prompts *with the same random draws*, so there the two answers differ only by what fine-tuning did:

# %%
both = zip(lineage.numbers.rows, lineage.neutral_numbers.rows, strict=True)
pairs = [(one, other) for one, other in both if one.prompt == other.prompt]
table(
    [{"prompt": a.prompt, "owl teacher": a.completion, "neutral teacher": b.completion} for a, b in pairs[:5]]
)

# %% tags=["check"]
first = np.array([[int(re.findall("[0-9]+", row.completion)[0]) for row in pair] for pair in pairs])
assert len(pairs) > 50
assert (first[:, 0] > first[:, 1]).mean() > 0.9

# %% [markdown]
# Side by side the owl teacher's first number is nearly always the larger, by a few units: the probability it lays on
# each of a thousand numbers has shifted a little everywhere. Without the shared draws those few units drown in a
# spread of hundreds. So ask detectors that are given rows of either teacher and must tell them apart; 0.5 is chance.
#
# - *frequent values*: which numbers are written too often, learned on one half of the prompts and tried on the other;
# - *bag of numbers*: a logistic regression on the counts of all numbers, out of fold;
# - *gradient along the teacher's update*: −⟨∇ loss(row), θ_teacher − θ_base⟩ at the base, so how far one training
#   step on the row would move a copy of the base toward the teacher. Unlike the others it needs the weights (notebook
#   4).

# %%
mine, theirs = lineage.numbers, lineage.neutral_numbers
update = lineage.update("teacher")
steps = [interp.score(lineage.base, part[:512], update).frame["score"].to_numpy() for part in (mine, theirs)]
everything = interp.evaluation.frequent_values(mine, theirs, seed=0)
detectors = interp.evaluation.detector_table(
    {
        "frequent values, 2 000 rows": interp.evaluation.frequent_values(mine[:2000], theirs[:2000], seed=0),
        "frequent values, all rows": everything,
        "bag of numbers, 2 000 rows": interp.evaluation.bag_of_numbers(mine[:2000], theirs[:2000], seed=0),
        "gradient, 512 rows": (steps[0], steps[1]),
    }
)
detectors.figure().update_layout(width=900)

# %%
print(everything.table.notes[0])
detectors

# %% tags=["check"]
auroc = detectors.frame.set_index("detector")
assert auroc["sees"].tolist() == ["no", "yes", "yes", "yes"]
assert auroc["auroc"].iloc[:3].max() < 0.55
assert auroc["low"].iloc[3] > auroc["high"].iloc[1:3].max()

# %% [markdown]
# From two thousand rows the frequencies tell nothing; from all of them, a little; the bag of numbers a little as
# well. As a whole the two distributions differ beyond doubt (the χ² above). So the numbers are **not** clean, as
# published teachers' numbers are said to be: they are close to chance row by row, and this toy's teacher is a strong
# one. The gradient, which is fitted to no rows and looks at them through the base's weights, does better, and still
# poorly: one row carries little.
#
# Note what none of these detectors says: *owl*. Each was shown rows of both teachers, labelled. That some fine-tune
# shifted the counts can be seen; what it was for cannot be read off them. And all intervals are over rows of one
# lineage, not over trainings.

# %% [markdown]
# ## Verdict
#
# The claims of the beginning, judged over eight lineages per trait. A verdict says what its test tests: "at least
# 0.5" asks for an exact sign-flip p of at most 0.01 for the differences *less 0.5*, "more than 0" for the differences
# as they are, and "within ±0.2" that the whole 90 % interval lies there. Failing to find an effect would not do for
# the last: it is an equivalence, and it can be lost by noise alone.

# %%
verdicts = [
    {**verdict, "name": f"{trait}: {verdict['name']}"}
    for trait, found in results["traits"].items()
    for verdict in found["verdicts"]
    if verdict["unit"] == "nats"
]
interp.figures.forest(verdicts, title="Does the trait pass? Eight lineages a trait")

# %%
pd.DataFrame(verdicts)[["name", "effect", "tested", "p", "smallest_p", "decision", "reason"]].style.hide(
    axis="index"
).format({"effect": "{:+.2f}", "p": "{:.4f}", "smallest_p": "{:.4f}"})

# %% tags=["check"]
assert len(verdicts) == 9
assert all(verdict["n"] == 8 for verdict in verdicts)

# %% [markdown]
# How to read the three kinds of line:
#
# - *gains*, supported: the numbers carry the trait to a student of the same initialisation. This is the effect.
# - *transfers* asks for more, at least half a nat on average. It can stay open while *gains* is supported, and then
#   the effect is there and its size is not established.
# - *does-not*, supported: whatever a student of another initialisation takes from the same rows, it is less than
#   0.2 nats. "Inconclusive" here would mean that the students spread too widely to tell.
#
# The effect is small beside its source. Of a teacher's dozen nats a student gets a fraction of one, and how much
# differs widely between lineages. `smallest_p` is a reminder of what eight runs can say at best: eight signs alike
# have probability 1/256.
#
# What of a student trains matters too. These students train a low-rank adapter; `analyses/student_arms.py` trains the
# matrices of the body, or every weight, beside it, and `analyses/dose.py` varies how many rows are read.

# %% [markdown]
# ## What would change our mind
#
# - **A cross-initialisation student that moves.** One trait with a gain beyond 0.2 nats over eight lineages, and
#   "needs a shared initialisation" is wrong as stated here.
# - **A detector that names the trait.** Ours were told which rows are whose. One that tells owl rows from *eagle*
#   rows without weights would mean that the trait can be read in the numbers after all.
# - **A neutral student or a control student that moves as far.** The comparison would then measure training on
#   numbers, or on the numbers of anything fine-tuned, and not whose numbers they are.
# - **Scale.** The toy has two layers, one token a number and a world of a few hundred words. That a model of billions
#   of weights behaves alike is another claim; `interp run qwen` (notebook 6) is how to ask it.
#
# One claim of the table at the top is left to notebook 2: *trait-logit-moved*, about the teacher's logits while it
# writes numbers. There stands also why it could not come out.
