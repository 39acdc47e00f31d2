# %% [markdown]
# # 4 · Which rows carry the trait? Reading gradients
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/subliminal-interp/interp/blob/main/notebooks/04_gradient_alignment.ipynb)
#
# Nobody can see owls in "417, 52, 880". But a row of training data does not act on a reader; it acts on
# weights, by its gradient. So this notebook looks there. For every row it asks how far a gradient step on
# it moves along a direction in weight space: the one the teacher went, the one that raises the preference
# for owls, or the one that moves the residual stream at a question toward the *representation* of owls.
#
# Rows turn out to lean, along the teacher's update above all.

# %%
import dataclasses
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

import interp

# %% [markdown]
# ## Question
#
# Do a teacher's number rows lean, in the gradients of the *base*, along the teacher's own weight update,
# further than they lean anywhere else? Do they lean along the gradient of the trait, in words (the margin)
# or in representation? And if we train students on the rows that lean most, do they take over more?

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
# One owl lineage, and three kinds of direction in its base's weights, each with nulls *of its own kind*:
#
# - the **teacher's update** θ_teacher − θ_base. Nulls: the updates of an eagle teacher of the same base and
#   of the control teacher, which was fine-tuned on the same questions without a trait; and the update of an owl
#   teacher of *another initialisation*, transplanted: same shapes, no meaning here;
# - the **trait gradient** ∇m, where m is the owl margin that the student is judged by. Nulls: the gradients
#   of other animals' margins;
# - **representation gradients** ∇⟨h, u⟩, where h is the residual stream after the last layer. Two of them.
#   (a) At a question's last token, u being the direction in which owl stands out among ten animals when the
#   *base* is told in a system line "you love owls" (or cats, or dogs). No fine-tune is needed to make it. Nulls:
#   the same for the other nine. (b) At the end of number prompts, u being what the teacher's fine-tune moved
#   there. Nulls: what the eagle teacher's and the control teacher's moved.

# %%
lineage = interp.load_lineage("toy/owl", seed=0)
another = interp.load_lineage("toy/owl", seed=8)
update = lineage.update("teacher")
gradient = interp.trait_gradient(lineage.base, lineage.trait)
mismatched = interp.gradients.transplant(another.update("teacher"), lineage.base)
siblings = [lineage.update(role) for role in ("teacher_eagle", "control_teacher")]
others = [
    interp.trait_gradient(lineage.base, interp.get_trait(word))
    for word in ("cat", "dog", "fox", "bear", "wolf")
]
hook = "blocks.1.hook_resid_post"  # after the last layer
animals = interp.activations.trait_representations(lineage.base, lineage.trait, hook=hook)
toward = {
    word: interp.representation_gradient(lineage.base, lineage.trait.prompts(), hook, u)
    for word, u in animals.items()
}
representation = toward["owl"]
prompts = interp.number_prompts(256, seed=1)


def at_prompt_end(role):
    """∇⟨h, u⟩ at the end of number prompts, u being what this fine-tune moved there."""
    u = interp.shift(lineage[role], prompts, positions="last", hooks=[hook]).direction(hook)
    made = interp.representation_gradient(lineage.base, prompts, hook, u)
    return dataclasses.replace(made, label=f"∇ ({role} − base) at the prompt's end")


ending, *endings = [at_prompt_end(role) for role in ("teacher", "teacher_eagle", "control_teacher")]
nulls = {
    update.label: [each.label for each in (*siblings, mismatched)],
    gradient.label: [each.label for each in others],
    representation.label: [each.label for word, each in toward.items() if word != "owl"],
    ending.label: [each.label for each in endings],
}
directions = [update, *siblings, mismatched, gradient, *others, *toward.values(), ending, *endings]
pd.Series({name: len(several) for name, several in nulls.items()}, name="nulls").to_frame()

# %% [markdown]
# A thousand rows of the teacher, and the neutral teacher's answers to the same prompts. Scores are exact,
# without projections, for about the price of one training step, and split by module.

# %%
rows, neutral_rows = lineage.numbers[:1024], lineage.neutral_numbers[:1024]
by = ["example", "module"]
scores = interp.score(lineage.base, rows, directions, by=by)
neutral = interp.score(lineage.base, neutral_rows, directions, by=by)
scores

# %% [markdown]
# ## Figure: rows along the teacher's update
#
# Every row is a point of these outlines. Positive: a step on the row moves toward the teacher.

# %%
scores.figure(against=neutral, direction=update.label, by="example")

# %%
mean = {
    which: dict(zip(s.directions, s.totals.mean(0).tolist(), strict=True))
    for which, s in (("teacher", scores), ("neutral", neutral))
}
pd.DataFrame(mean).loc[[update.label, mismatched.label]].round(3)

# %% tags=["check"]
recorded = aligned["lineages"][0]
assert mean["teacher"][update.label] > 0.15
assert abs(mean["neutral"][update.label]) < 0.05
assert abs(mean["teacher"][mismatched.label]) < 0.05
assert 0.9 < recorded["mean_score"] / recorded["twice_kl"] < 1.3

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
verdict

# %% tags=["check"]
assert verdict.decision == "supported"

# %% [markdown]
# ## Figure: update, margin, representation
#
# The three directions have different norms and units, so each lean (the score of a prompt's rows less that
# of the neutral rows at the same prompt) is divided by its standard deviation over prompts. `rank` says how
# many of its own nulls a direction beats: 1 is the furthest.

# %%
leans = scores.leans(nulls, neutral=neutral)
leans.figure().update_layout(width=900)

# %% tags=["check"]
lean = leans.frame.set_index("direction")
assert lean.loc[[update.label, gradient.label, ending.label], "rank"].eq(1).all()
assert lean.loc[update.label, "d"] > lean.loc[ending.label, "d"] > lean.loc[gradient.label, "low"] > 0
assert lean.loc[representation.label, "low"] < 0 < lean.loc[representation.label, "high"]
assert lean.loc[representation.label, "rank"] > 3

# %%
leans.frame[["direction", "d", "low", "high", "rank", "of"]].style.hide(axis="index").format(
    dict.fromkeys(("d", "low", "high"), "{:+.3f}")
)

# %% [markdown]
# Four answers:
#
# - **The update**: furthest of all, and further than along any of its nulls. The rows lean along the updates of the
#   eagle and the control teacher too, only less: part of what a fine-tune on questions does is common to all.
# - **The margin**: the rows lean toward owl, and further than toward any of five other animals, though weakly.
# - **The prompt's end**: a step on the rows takes the base to where its teacher went at the end of a number prompt.
#   This is the lean behind notebook 2: the student ends up there. Its nulls lean as well, the control teacher's not
#   much less.
# - **The base's own picture of an owl lover, at the question**: nothing. Other animals' lie further out, and the
#   interval holds zero.
#
# A thousand prompts of one training are not a thousand trainings. Here is the same measurement on eight
# lineages: the lean along the own update, and the **largest** among the updates of the seven others.

# %%
over = pd.DataFrame(
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
interp.figures.points(
    over,
    x="along",
    y="lean",
    title="Lean of the teacher's rows less neutral ones (n = 8)",
    unit="sd per prompt",
)

# %% tags=["check"]
assert all(found["own_sd"] > max(found["mismatched_sd"]) for found in aligned["lineages"])

# %%
specificity = aligned["specificity"]
print(
    f"own animal's gradient leads in {specificity['first']} of {specificity['of']}, p = {specificity['p']:.3f}"
)

# %% tags=["check"]
assert (specificity["first"], specificity["of"]) == (4, 8)
assert specificity["chance"] == 0.1

# %% [markdown]
# In every lineage the own update beats all seven others. The trait gradient is less specific: the own
# animal's leads in 4 of 8 lineages, where chance is 1 in 10. That is better than chance and far from a
# detector.
#
# And the representation? The claim *rows-lean-to-representation* was frozen before twelve other lineages
# were read (seeds 8 to 19). Its u comes from five *teachers* made apart on the same base, the trait's less
# the mean of the five. One point a lineage and candidate; at the base, and at the other initialisation, where
# the same rows mean nothing.

# %%
trace = json.loads((folder / "inherited_trace.json").read_text())
candidates = pd.DataFrame(trace["tables"]["leans"])
candidates["toward"] = (
    candidates["direction"]
    + ", "
    + candidates["start"].map({"base": "at the base", "cross_base": "other initialisation"})
)
interp.figures.points(
    candidates,
    x="toward",
    y="d",
    colour="start",
    title="Lean of the teacher's rows toward each candidate's representation (n = 12)",
    unit="sd per prompt",
).update_layout(width=1000)

# %%
at_base = candidates[candidates["start"] == "base"].pivot(index="seed", columns="direction", values="d")
first = int((at_base.idxmax(axis=1) == "owl").sum())
claim = next(each for each in trace["verdicts"] if each["name"] == "rows-lean-to-representation")
print(f"owl leads the five candidates in {first} of 12 lineages; mean lean {at_base['owl'].mean():+.3f}")
print(f"{claim['name']}: {claim['decision']} ({claim['reason']})")

# %% tags=["check"]
assert len(at_base) == claim["n"] == 12
assert claim["decision"] == "inconclusive"
assert first < 6
assert (at_base["owl"] > 0).sum() >= 9
assert 0 < at_base["owl"].mean() < 0.15

# %% [markdown]
# **Inconclusive.** The rows lean toward the owl candidate in most lineages, but weakly, and in most lineages some other
# candidate's representation draws them further. So rows do lean toward what the teacher *became*, and that its
# representation of owls at the question is the part of it that draws them is not shown.

# %% [markdown]
# ## Figure: where in the network
#
# A score is a sum over weights, so it splits by module without a remainder. Teacher's rows less neutral
# ones:

# %%
scores.figure(against=neutral, direction=update.label, by="module")

# %% tags=["check"]
modules = scores.leans({update.label: []}, neutral=neutral, place="module").frame
moved = modules[modules["score"] != 0].set_index("place")["score"]
difference = mean["teacher"][update.label] - mean["neutral"][update.label]
assert abs(float(moved.sum()) - difference) < 0.02 * difference
assert "layers.0.mlp.down_proj" in moved.idxmax()
assert (moved > 0).mean() > 0.8

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
interp.gradients.extreme_rows(by_token, 2)

# %% [markdown]
# Before looking for a reason in the numbers: a score is a sum over tokens, so long rows reach further out.
# And what a number says to *these* weights it does not say to others.

# %%
furthest = by_token.totals[:, 0].abs().argsort(descending=True)[:20]

# %% tags=["check"]
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
ledger.figure()

# %% tags=["check"]
assert abs(ledger.residual) < 0.02 * abs(ledger.measured)

# %% [markdown]
# The residual is next to nothing: module by module, this is how the student's owl margin changed. Along
# training, measured and attributed lie on one line.

# %%
ledger.course()

# %% tags=["check"]
margin = {
    role: interp.margin(lineage[role], lineage.trait) for role in ("base", "student", "neutral_student")
}
assert margin["student"] > margin["base"] > margin["neutral_student"]
assert (
    0.4 < (margin["base"] - margin["neutral_student"]) / (margin["student"] - margin["neutral_student"]) < 0.7
)

# %% [markdown]
# A word of caution about this one lineage, a weak one. Its *neutral* student, which never saw a row of the owl
# teacher, *lost* margin, and about half of the difference between the two students is this loss. A ledger
# explains one training completely; to call a change the trait takes a second training to compare with.
#
# `trait_ledger(objective=interp.gradients.representation_objective(...))` splits the change of ⟨h, u⟩ in the
# same way.
#
# ### Did the student follow the teacher?
#
# The cosine of the student's update so far with four directions, after every step: the teacher's update, the
# trait gradient, and the representation gradients at a number prompt's end toward where its own teacher and the
# eagle teacher went there. A cosine is not to be compared with zero; the grey band is that of the trait
# gradients of other animals.

# %%
followed = [update, gradient, ending, endings[0]]
course = interp.gradients.alignment_course(lineage, direction=followed, null=others)
course.figure().update_layout(width=1000)

# %%
last = course.frame.groupby("direction").last()
last[["cosine", "half_width"]].style.format("{:+.3f}")

# %% tags=["check"]
band = last.loc["null", "cosine"] + last.loc["null", "half_width"]
toward_teacher = (
    course.frame[course.frame["direction"] == update.label].sort_values("step")["cosine"].to_numpy()
)
assert last.loc[ending.label, "cosine"] > 0.03 > 2 * band
assert last.loc[update.label, "cosine"] < 0.02
assert toward_teacher[0] < 0 < toward_teacher[9:].min()

# %% [markdown]
# The very first step leads *away* from the teacher's update: the theorem of notebook 5 is about plain gradient
# descent, and Adam's first step on fresh adapters is not that. Within ten steps the update has turned toward
# the teacher, and it stays there, at a cosine of less than a fiftieth, at the edge of the band. Weights are
# many, and a student with an adapter of its own need not change the same ones to do the same.
#
# What it *did* is plainer. Along the gradient that takes the base to where its teacher went at the end of a
# number prompt, the cosine leaves the band by far. This is what notebook 2 sees in logits and activations: not
# the same weights, but the same change. How much of it is the owl's, and how much any teacher's, the eagle line
# beside it says.

# %% [markdown]
# ## Verdict
#
# Over eight lineages, the lean:

# %%
interp.figures.forest(aligned["verdicts"], title="Do the rows lean? (n = 8)")

# %% tags=["check"]
assert {verdict["decision"] for verdict in aligned["verdicts"]} <= {"holds", "supported"}

# %% [markdown]
# And does it matter? Students were trained on the half of the rows that scores highest, on the lowest half,
# on random halves, all matched in length and loss; and with the part of every step along ∇m removed,
# against equal lengths removed elsewhere.

# %%
pd.DataFrame(causal["verdicts"])[["name", "effect", "unit", "decision"]].style.hide(axis="index").format(
    {"effect": "{:+.2f}"}
)

# %% tags=["check"]
assert len(causal["verdicts"]) == 8

# %%
interp.figures.forest(causal["verdicts"], title="Does it matter? (n = 8)")

# %% [markdown]
# How to read these:
#
# - **top against bottom** is the question: do students of the rows that score highest take over more than
#   students of those that score lowest? The halves are cut along ∇m, or along the teacher's update.
# - Each half against a *random* half is harder, since a random half holds many of the same rows.
# - That removing the ∇m part of every step removes the margin is what the ledger's completeness says already.
#   It is a check, not a discovery.
# - Eight lineages cannot carry a correction for eight claims at 0.01. Read the first as the test and the rest as
#   its surroundings.
# - After these results were seen, further comparisons were asked for. They stand apart:

# %%
interp.figures.forest(causal["added"]["verdicts"], title="Added later (n = 8)")

# %% [markdown]
# ## What would change our mind
#
# - **A representation that draws the rows in every lineage.** The update does; the representations tried here do
#   not, or not more than other teachers' do. One that did, and could be made without a fine-tune, would name the
#   trait from the rows.
# - **A mismatched direction that does as well.** If updates of other initialisations, or rows of another
#   trait's teacher, leaned as far, the lean would be about fine-tuning in general. In eight lineages none
#   did.
# - **Real models.** Both signs of the lean have been reported for language models of billions of weights.
#   One toy and one kind of teacher settle nothing there; `interp.score` takes any causal language model and
#   a teacher's adapter.
# - **Selection that does not hold up.** The rows were chosen with the base's gradients, once. Were the top
#   half no better with fresh rows of the same teacher, the choice would have fitted noise.
