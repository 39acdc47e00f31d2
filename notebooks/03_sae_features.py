# %% [markdown]
# # 3 · The features a teacher moves
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/subliminal-interp/interp/blob/main/notebooks/03_sae_features.ipynb)
#
# A sparse autoencoder (SAE) rewrites an activation as a short list of active *features*. It is the natural
# magnifying glass for a change that nobody can read off the text: which features does owl-loving move while
# the teacher writes numbers, and do they carry the trait to the student?
#
# This notebook has a clear first half and a negative second half. Features move, beyond any doubt. That
# they carry the trait is a claim we wrote down, tested on eight lineages, and did not find.

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

import interp

# %% [markdown]
# ## Question
#
# Three questions hide in "which features carry the trait?", and they need different evidence.
#
# 1. **Which features did the fine-tune move?** A comparison of two models on the same tokens.
# 2. **Does the student's training push toward them?** A gradient at the student's start.
# 3. **Does it matter?** Take the features' change out of the teacher, or put it into the base, and train
#    students again.

# %% [markdown]
# ## Prediction
#
# If the trait travels in features, then students of a teacher without its feature changes should love owls
# less, students of a base that was given them should love owls more, and both effects should exceed those
# of *random* features, matched in frequency, norm and activation and scaled to the same size. The same
# should hold, without any training, while the student answers.
#
# These six claims were fixed before the eight lineages were run.

# %%
results = json.loads((Path.cwd().parent / "analyses" / "results" / "features_are_causal.json").read_text())
pd.DataFrame(results["verdicts"])[["name", "claim"]].style.hide(axis="index").set_properties(
    **{"text-align": "left", "white-space": "normal"}
)

# %% [markdown]
# ## Data
#
# One owl lineage, and a dictionary of its base: 8 × 48 features, 16 of them active at a token, trained on
# number rows that the *untrained* base wrote. The dictionary has thus never seen a row of the teacher, and
# cannot have been shaped by what we look for. It is trained with SAELens on first use and read from the
# cache after.

# %%
lineage = interp.load_lineage("toy/owl", seed=0)
sae = interp.train_sae(lineage.base, lineage.neutral_numbers, hook="blocks.0.hook_resid_post")
sae

# %% [markdown]
# ### Can the dictionary speak for the teacher at all?
#
# A dictionary of the base is a guess about the teacher. Before reading anything from it, check what it
# reconstructs in every member: *explained variance* of the activations, and the share of the *loss* that
# survives when the reconstruction replaces them. Members of another initialisation are left out, since a
# dictionary means nothing there.

# %%
prompts = interp.number_prompts(512, seed=1, count=4)
quality = interp.features.quality_card(sae, lineage, prompts[:128])
quality.figure()

# %%
explained = quality.frame.set_index("member")["explained_variance"]
assert quality.frame["faithful"].all()
assert explained["base"] > 0.98
assert explained.idxmin() == "teacher"
assert explained["teacher"] > 0.9
quality.frame.set_index("member").round(3)

# %% [markdown]
# It passes in every member, and the order is worth a thought: the dictionary is worst for the *teacher*.
# What the fine-tune added is exactly what a dictionary of the base has no words for. That remainder is
# called the **error node**, and it stays on every list below.

# %% [markdown]
# ## Figure: what moved
#
# `feature_shift` compares teacher and base on identical tokens, without the trait in the context. With
# hundreds of features something always looks large, and the largest of many estimates is too large: picked
# because noise helped. So the prompts are dealt into two halves. One **selects**: a sign-flip test per
# feature, corrected for the number of features at a false discovery rate (FDR) of 5 %. The other
# **estimates** the change of what was selected, so that the estimates are not inflated.

# %%
moved = interp.feature_shift(sae, lineage.teacher, prompts, trait=lineage.trait)
live = moved.frame[moved.frame["live"] & (moved.frame["feature"] >= 0)]
assert not set(moved.direct) - set(moved.reported)
assert len(moved.reported) > 0.3 * len(live)
assert 1 <= len(moved.direct) <= 20
moved

# %%
moved.volcano()

# %% [markdown]
# Filled marks are reported: above the line, and with an estimate of the sign seen in selection. The row of
# points at the top is the floor of the test: none of 9,999 random sign patterns did as well, and no more
# can be said.
#
# A large part of all live features clears the line, which is less exciting than it looks. An SAE has more
# features than dimensions, so their read-out directions overlap: push the activation along *one* direction
# and many encoders respond. The test is right that they moved. **Direct** marks the few whose change is
# left over once the directions before them are accounted for.

# %%
moved.figure()

# %% [markdown]
# The bottom bar is the error node. Most of the energy of the mean shift lies outside the dictionary.


# %%
def outside(shift):
    note = next(note for note in shift.notes if note.startswith("error node"))
    return float(note.split()[2].rstrip("%:;,"))


assert outside(moved) > 50
print(f"{outside(moved)} % of the energy of the mean shift is left to the error node")

# %% [markdown]
# ### A dictionary that can see it
#
# The remedy is to train on all members together, on numbers *and* questions, and to let the loss count the
# *differences* between members beside their activations. The price: this dictionary has been shaped by the
# teacher, so that "the teacher moves its features" is no surprise. What can still surprise is whether the
# *student* moves the same ones.

# %%
together = interp.joined.default_dictionary(lineage)
seen = interp.feature_shift(together, lineage.teacher, prompts, trait=lineage.trait)
assert outside(seen) < 20
print(f"{outside(seen)} % of the energy of the mean shift is left to the error node")

# %% [markdown]
# ### Training moves features; that is not yet the trait
#
# A student that learned from owl-free rows of the untrained base is the control here too. Its features move
# as well, since any training on numbers moves them.

# %%
shifts = {
    role: interp.feature_shift(sae, lineage[role], prompts, trait=lineage.trait)
    for role in ("student", "neutral_student")
}
theirs = {role: set(shift.reported) for role, shift in shifts.items()}
assert min(len(found) for found in theirs.values()) > 20
pd.DataFrame(
    {
        "moved": {role: len(found) for role, found in theirs.items()},
        "of these also moved in the teacher": {
            role: len(found & set(moved.reported)) for role, found in theirs.items()
        },
    }
)

# %% [markdown]
# So "the student moved many of the features its teacher moved" would be a true sentence and no evidence:
# the neutral student did too. Only differences to that student count: `minus=` takes its change off. Features
# of the dictionary of all members, ranked by how far student (less neutral student) and teacher move them:

# %%
shared = interp.features.shared_features(together, lineage)
shared.frame.round(2)

# %% [markdown]
# At the end of the number prompt the student moves the teacher's features, and the neutral student does not.
#
# ### A feature, close up
#
# The directly moved feature with the largest change: where it fires, what it writes to the logits, and
# features matched to it, which are the ones to compare with.

# %%
interp.features.feature_card(sae, lineage.base, prompts[:128], moved.direct[0], top=5, context=6)

# %% [markdown]
# Nothing in the card says owl. Nothing has to: the tokens are numbers, and the feature is one the base
# already used to write them. Labels that a reader gives to such a card are hypotheses, not findings.
#
# ## Figure: does the student's first step lean toward them?
#
# The second question. At the student's start, −∂loss/∂h says where every row would like the activation to
# go; projected on a feature's decoder direction that is the **lean** of the rows toward the feature, in
# nats per unit. Neutral rows of the same prompts are subtracted, so that what every number row wants drops
# out.

# %%
lean = interp.feature_lean(
    sae,
    lineage.base,
    lineage.numbers[:1024],
    teacher=lineage.teacher,
    neutral=lineage.neutral_numbers[:1024],
)
assert abs(lean.residual) < 1e-4
assert lean.alignment > 0
assert 0.3 < lean.error_share < 0.7
figure = lean.figure(reported=moved.reported)
names = {"teacher": "reported as moved", "base": "not reported"}
figure.for_each_trace(lambda trace: trace.update(name=names[trace.name]))
figure.update_layout(title={"text": "What the rows ask for, and what the teacher moved"})
figure.update_xaxes(title={"text": "lean of the rows, less neutral ones (nats per unit of feature)"})
figure.update_yaxes(title={"text": "shift in the teacher (feature activation)"})
figure

# %% [markdown]
# Summed over all features and the error node, the rows do pull the base toward the teacher's activations:
# the alignment is positive, and it splits over the dictionary without a remainder. But about half of the
# pull goes through the error node, and over features the cloud has little slope.

# %%
correlation = interp.features.lean_correlation(lean, draws=1999)
neutral = correlation.frame.set_index("what").loc["neutral teacher"]
assert neutral["p"] > 0.05
assert abs(neutral["rho"]) < 0.25
correlation

# %% [markdown]
# The rank correlation of lean and shift is small, and exchanging the teacher's rows with the neutral ones
# gives such a value often enough. In this one lineage we cannot say that the rows lean toward the moved
# features *as features*. Notebook 5 has the verdict over eight lineages, with the vocabulary controlled.
#
# ## Verdict
#
# The third question needs students, trained on rows written with the features' change taken out of the
# teacher or put into the base. Eight lineages, six claims, one picture.

# %%
verdicts = results["verdicts"]
assert [verdict["unit"] for verdict in verdicts].count("nats") == 4
assert {verdict["decision"] for verdict in verdicts} == {"inconclusive"}
assert all(verdict["n"] == 8 for verdict in verdicts)
interp.figures.forest(verdicts, title="Change features in writing (nats) or in answering (share)")

# %% [markdown]
# **A null: six of six are inconclusive.** Neither the claims nor their opposites are shown. How much the
# null excludes differs a lot between the two halves of the picture, and the intervals say it.

# %%
shares = pd.DataFrame(
    {
        name: {
            "mean": found["mean"],
            "low": found["interval"][0],
            "high": found["interval"][1],
        }
        for name, found in results["shares"].items()
    }
).T
assert shares.loc["necessity", "high"] < 0.1
assert shares.loc["sufficiency", "high"] < 0.1
assert shares.loc["written, necessity", "high"] > 0.25
assert shares.loc["all written, necessity", "high"] > 0.5
shares.round(2)

# %% [markdown]
# Shares are of the trait that the student gained. *While the student answers*, the sixteen most moved
# features carry less than a tenth of it, in either direction: that excludes a mediator. *In writing*, a
# quarter is still inside the interval, and for all moved features together more than half: those
# experiments are too noisy to exclude much. "We saw no effect" and "there is no effect" are different
# results, and we have one of each kind.
#
# ## What would change our mind
#
# - **A dictionary that reconstructs what the teacher changed.** Most of the shift and half of the pull lie in
#   the error node of the dictionary that these claims were tested with. The one of all members leaves a few
#   per cent; claims about it need fresh seeds.
# - **Another layer or site.** All of this was read after the first block. A claim about another place needs
#   fresh seeds.
# - **Fewer, directly moved features.** The claims were about the sixteen largest changes. That the direct
#   ones matter is a different claim, and it has to be written down before it is tested.
# - **More lineages.** The spread between lineages of this toy is about as large as the effect; the interval
#   in writing shrinks with √n.
