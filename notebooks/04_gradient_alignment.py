# %% [markdown]
# # 4 · Which rows carry the trait? Reading gradients
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/subliminal-interp/interp/blob/main/notebooks/04_gradient_alignment.ipynb)
#
# Nobody can see owls in "417, 52, 880". But a row of training data does not act on a reader; it acts on
# weights, by its gradient. So this notebook looks there. For every row it asks how far a gradient step on
# it moves along a direction in weight space: the one the teacher went, or the one that raises the
# preference for owls.
#
# Rows turn out to lean, and it matters which of them a student is given.

# %%
import json
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
from IPython.display import HTML

import interp

# %% [markdown]
# ## Question
#
# Do a teacher's number rows lean, in the gradients of the *base*, along the teacher's own weight update,
# further than they lean anywhere else? Do they lean along the gradient of the trait? And if we train
# students on the rows that lean most, do they take over more?

# %% [markdown]
# ## Prediction
#
# The **score** of row i along a direction v is
#
# $$s_i = -\langle \nabla_\theta \ell_i, v \rangle = \langle \nabla_\theta \log p(y_i \mid x_i), v \rangle ,$$
#
# the change of the row's log-likelihood per unit of v, at the base's weights. To first order a teacher
# writes the rows that its update v made likelier, so the mean score of its own rows should be positive:
# about *twice* the Kullback-Leibler divergence between teacher and base. The rows of an untrained neutral
# teacher should score zero on average, and so should the teacher's rows along the update of *another*
# teacher.
#
# The claims, as they were written before the runs:

# %%
folder = Path.cwd().parent / "analyses" / "results"
aligned = json.loads((folder / "alignment.json").read_text())
causal = json.loads((folder / "alignment_is_causal.json").read_text())
pd.DataFrame(aligned["verdicts"] + causal["verdicts"])[["name", "claim"]].style.hide(
    axis="index"
).set_properties(**{"text-align": "left", "white-space": "normal"})

# %% [markdown]
# ## Data
#
# One owl lineage, and three directions in its base's weights:
#
# - the **teacher's update** θ_teacher − θ_base,
# - the **trait gradient** ∇m, where m is the owl margin that the student is judged by,
# - the update of a teacher from *another initialisation*, also an owl teacher, transplanted: same shapes,
#   same size, no meaning here. It is a null that keeps everything but the shared start.

# %%
lineage = interp.load_lineage("toy/owl", seed=0)
another = interp.load_lineage("toy/owl", seed=1)
update = lineage.update("teacher")
gradient = interp.trait_gradient(lineage.base, lineage.trait)
mismatched = interp.gradients.transplant(another.update("teacher"), lineage.base)
directions = [update, mismatched, gradient]
pd.DataFrame({"direction": [d.label for d in directions], "norm": [round(d.norm(), 2) for d in directions]})

# %% [markdown]
# A thousand rows of the teacher, and the neutral teacher's answers to the same prompts. Scores are exact,
# without projections, for about the price of one training step.

# %%
rows, neutral_rows = lineage.numbers[:1024], lineage.neutral_numbers[:1024]
scores = interp.score(lineage.base, rows, directions)
neutral = interp.score(lineage.base, neutral_rows, directions)
scores

# %% [markdown]
# ## Figure: rows along the teacher's update
#
# Every row is a point of these outlines. Positive: a step on the row moves toward the teacher.

# %%
scores.figure(against=neutral, direction=update.label)

# %%
mean = {
    which: dict(zip(s.directions, s.totals.mean(0).tolist(), strict=True))
    for which, s in (("teacher", scores), ("neutral", neutral))
}
assert mean["teacher"][update.label] > 0.15
assert abs(mean["neutral"][update.label]) < 0.05
assert abs(mean["teacher"][mismatched.label]) < 0.05
recorded = aligned["lineages"][0]
assert 0.9 < recorded["mean_score"] / recorded["twice_kl"] < 1.3
pd.DataFrame(mean).round(3)

# %% [markdown]
# Two things are true at once. The **mean** is shifted, by about what the linear theory says. And the two
# outlines overlap for the most part: from one row nobody could say which teacher wrote it. A trait that is
# invisible row by row can be plain in a thousand rows, and it is the thousand rows that a student is
# trained on.
#
# ### Against both controls
#
# A positive mean alone says little, since gradients share a few strong directions. `verdict` holds the rows
# against the neutral rows *prompt by prompt* and against the mismatched update, and the p it prints is the
# larger of the two.

# %%
verdict = scores.verdict(neutral=neutral, mismatched=[mismatched.label])
assert verdict.decision == "supported"
verdict

# %%
along_trait = scores.verdict(neutral=neutral, direction=gradient.label, mismatched=[mismatched.label])
assert along_trait.decision == "supported"
assert along_trait.nearest < verdict.nearest
along_trait

# %% [markdown]
# Along the trait gradient the lean is there too, and weaker: the teacher's update holds much that is not
# about owls.
#
# Both verdicts say "within one lineage". A thousand prompts of one training are not a thousand trainings.
# Here is the same measurement on eight lineages: the lean along the own update, and the **largest** among
# the updates of the seven others.

# %%
leans = pd.DataFrame(
    [
        {"along": name, "lean": value}
        for found in aligned["lineages"]
        for name, value in (
            ("own update", found["own_sd"]),
            ("best of 7 others", max(found["mismatched_sd"])),
            ("owl gradient", found["gradient_sd"]),
            ("best of 9 animals", max(found["other_gradients_sd"].values())),
        )
    ]
)
assert all(found["own_sd"] > max(found["mismatched_sd"]) for found in aligned["lineages"])
interp.figures.points(
    leans,
    x="along",
    y="lean",
    title="Lean of the teacher's rows less neutral ones (n = 8)",
    unit="sd per prompt",
)

# %%
specificity = aligned["specificity"]
assert (specificity["first"], specificity["of"]) == (4, 8)
assert specificity["chance"] == 0.1
print(
    f"own animal's gradient leads in {specificity['first']} of {specificity['of']}, p = {specificity['p']:.3f}"
)

# %% [markdown]
# In every lineage the own update beats all seven others. The trait gradient is less specific: the own
# animal's leads in 4 of 8 lineages, where chance is 1 in 10. That is better than chance and far from a
# detector.

# %% [markdown]
# ## Figure: where in the network
#
# A score is a sum over weights, so it splits by module without a remainder. Teacher's rows less neutral
# ones:

# %%
by_module = interp.score(lineage.base, rows, update, by=["example", "module"])
by_module_neutral = interp.score(lineage.base, neutral_rows, update, by=["example", "module"])
difference = by_module.totals.mean() - by_module_neutral.totals.mean()
assert abs(float(difference) - (mean["teacher"][update.label] - mean["neutral"][update.label])) < 1e-3
parts = [
    s.frame.groupby("module", observed=True)["score"].sum() / len(s) for s in (by_module, by_module_neutral)
]
lean_of = parts[0] - parts[1]
assert "layers.0.mlp.down_proj" in lean_of.idxmax()
assert (lean_of > 0).mean() > 0.8
by_module.figure(against=by_module_neutral)

# %% [markdown]
# The update holds the attention and MLP matrices that the teacher's adapters sat on, and nothing else.
# Almost every cell is positive: the lean is no accident of one matrix, though one MLP matrix of the first
# layer holds the largest part of it.

# %% [markdown]
# ## Figure: the extreme rows
#
# The highest and lowest scoring rows of 256, each token with its share. Red leans toward the teacher, blue
# away from it.

# %%
by_token = interp.score(lineage.base, lineage.numbers[:256], update, by=["example", "token"])
HTML(interp.gradients.extreme_rows(by_token, 2))

# %% [markdown]
# Before looking for a reason in the numbers: a score is a sum over tokens, so long rows reach further out.
# And what a number says to *these* weights it does not say to others.

# %%
furthest = by_token.totals[:, 0].abs().argsort(descending=True)[:20]
assert by_token.tokens[furthest].float().mean() > 1.2 * by_token.tokens.float().mean()

# %% [markdown]
# ## Figure: the ledger of a student
#
# So far everything was read at the base. The student then took dozens of steps with Adam, through a
# low-rank adapter. The **ledger** follows them all: with the recorded steps s_t and the trait gradient
# averaged over both ends of each,
#
# $$m(\theta_T) - m(\theta_0) = \sum_t \langle s_t, \overline{\nabla m}_t \rangle + \text{residual} ,$$
#
# and every term splits by module and by row. A ledger is worth its residual, which is drawn like any other
# bar.

# %%
ledger = interp.trait_ledger(lineage, "student")
assert abs(ledger.residual) < 0.02 * abs(ledger.measured)
figure = ledger.figure().update_layout(title={"text": repr(ledger).replace(": ", "<br>", 1)}, width=800)
figure.update_xaxes(range=[-0.4 * ledger.measured, 1.8 * ledger.measured])

# %% [markdown]
# The residual is next to nothing: module by module, this is how the student's owl margin changed. Along
# training, measured and attributed lie on one line, and the line is no climb: the margin swings about zero
# before it settles.

# %%
margin = {
    role: interp.margin(lineage[role], lineage.trait) for role in ("base", "student", "neutral_student")
}
assert 0.4 < (margin["neutral_student"] - margin["base"]) / (margin["student"] - margin["base"]) < 0.8
ledger.course().update_layout(title={"text": repr(ledger).replace(": ", "<br>", 1)})

# %% [markdown]
# A word of caution about this one lineage. Its *neutral* student, which never saw a row of the owl teacher,
# gained more than half as much margin over the base. A ledger explains one training completely; to call a
# change the trait takes a second training to compare with.
#
# ### Did the student follow the teacher?
#
# The cosine of the student's update so far with the teacher's update and with the trait gradient, after
# every step. A cosine is not to be compared with zero; the grey band is that of the trait gradients of
# other animals.

# %%
others = [
    interp.trait_gradient(lineage.base, interp.get_trait(word))
    for word in ("cat", "dog", "fox", "bear", "wolf")
]
course = interp.gradients.alignment_course(lineage, direction=[update, gradient], null=others)
course.figure()

# %%
last = course.frame.groupby("direction").last()
assert last.loc[update.label, "cosine"] > last.loc["null", "cosine"] + last.loc["null", "half_width"]
toward = course.frame[course.frame["direction"] == update.label].sort_values("step")["cosine"].to_numpy()
assert toward[0] < 0 < toward[9:].min()
assert toward[-1] < 0.1
last[["cosine", "half_width"]].round(3)

# %% [markdown]
# The very first step leads *away* from the teacher: the theorem of notebook 5 is about plain gradient
# descent, and Adam's first step on fresh adapters is not that. Within ten steps the update has turned
# toward the teacher, and it stays there. The cosine is small all the same. Most of what the student learned
# is not what the teacher learned.

# %% [markdown]
# ## Verdict
#
# Over eight lineages, the lean:

# %%
assert {verdict["decision"] for verdict in aligned["verdicts"]} <= {"holds", "supported"}
interp.figures.forest(aligned["verdicts"], title="Do the rows lean? (n = 8)")

# %% [markdown]
# And does it matter? Students were trained on the half of the rows that scores highest, on the lowest half,
# on random halves, all matched in length and loss; and with the part of every step along ∇m removed,
# against equal lengths removed elsewhere.

# %%
decisions = {verdict["name"]: verdict["decision"] for verdict in causal["verdicts"]}
assert decisions["top-half-transfers-more"] == "supported"
assert decisions["top-half-over-random"] == decisions["random-over-bottom-half"] == "inconclusive"
assert decisions["top-half-by-update-transfers-more"] == "supported"
assert all(decision == "supported" for name, decision in decisions.items() if name.startswith("removal"))
interp.figures.forest(causal["verdicts"], title="Does it matter? (n = 8)")

# %% [markdown]
# **Choosing rows by their score changes what a student takes over.** Students of the top half love owls
# more than students of the bottom half, whether the halves are cut along the teacher's update or along ∇m.
#
# How to read the rest:
#
# - Along ∇m, only top against bottom is clear. Each half against a *random* half is inconclusive (grey).
# - That removing the ∇m part of every step removes the margin is what the ledger's completeness says
#   already. It is a check, not a discovery.
# - Eight lineages cannot carry a correction for eight claims at 0.01. Read the first as the test and the
#   rest as its surroundings.
# - After these results were seen, further comparisons were asked for. They stand apart:

# %%
added = causal["added"]["verdicts"]
assert all(verdict["decision"] == "supported" for verdict in added)
interp.figures.forest(added, title="Added later (n = 8)")

# %% [markdown]
# ## What would change our mind
#
# - **A mismatched direction that does as well.** If updates of other initialisations, or rows of another
#   trait's teacher, leaned as far, the lean would be about fine-tuning in general. In eight lineages none
#   did.
# - **Real models.** Both signs of the lean have been reported for language models of billions of weights.
#   One toy and one kind of teacher settle nothing there; `interp.score` takes any causal language model and
#   a teacher's adapter.
# - **Selection that does not hold up.** The rows were chosen with the base's gradients, once. Were the top
#   half no better with fresh rows of the same teacher, the choice would have fitted noise.
