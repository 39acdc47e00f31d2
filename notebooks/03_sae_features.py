# %% [markdown]
# # 3 · The features that teacher and student share
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/subliminal-interp/interp/blob/main/notebooks/03_sae_features.ipynb)
#
# A sparse autoencoder (SAE) rewrites an activation as a short list of active *features*. It is the natural
# magnifying glass for a change that nobody can read off the text: which features did the teacher's fine-tune move,
# and does the student, which saw nothing but numbers, move the same ones?
#
# Two things decide what such a glass can show: **what the dictionary was trained on**, and **where one looks**. An
# earlier set of six claims, that features *carry* the trait, used a dictionary of the base alone. It stands at the
# end, with what was wrong with it.

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
# Let T be teacher − base and S be student − neutral student, feature by feature, on identical tokens. Does S go along
# T, at the end of a number prompt, where numbers are predicted, and where a question is answered?

# %% [markdown]
# ## Prediction
#
# If the trait travels in features, then over the features that fire, S and T rank alike: Spearman's ρ(S, T) is
# positive. Two controls say how much that is worth, and both should be lower:
#
# - the **neutral student** against the same T. Any training on numbers moves features, and some of them are the
#   teacher's by accident;
# - S against **another trait's teacher** of the same base. Fine-tuning on animal questions moves features whichever the
#   animal.
#
# A cross student is missing: a dictionary means nothing in a network of another initialisation.
#
# The claim *features-shared*, at the end of the number prompt, was frozen before the twelve lineages of seeds 8 to 19
# were read; notebook 5 has its verdict. Here is the first of them live.

# %% [markdown]
# ## Data
#
# One owl lineage, and one dictionary of **all its members** of one start: 8 × 48 features, 16 of them active at a
# token, trained on the rows of both teachers and on questions. Its loss counts the *differences* between members
# beside the activations, since a difference between two models is small beside what they have in common, and a
# dictionary of activations alone may spend no feature on it. It is trained with SAELens on first use and read from
# the cache after.

# %%
lineage = interp.load_lineage("toy/owl", seed=8)
dictionary = interp.joined.default_dictionary(lineage)
dictionary

# %% [markdown]
# The price: this dictionary was shaped by teacher and student, so that "the teacher moves its features" is no
# surprise. What can still surprise is whether the two move *the same* ones, and the controls had the same chance,
# since they were in the training too.
#
# ### Can it speak for every member?
#
# Before reading anything from a dictionary, check what it reconstructs: *explained variance* of the activations, and
# the share of the *loss* that survives when the reconstruction replaces them.

# %%
prompts = interp.number_prompts(512, seed=1, count=4)
quality = interp.features.quality_card(dictionary, lineage, prompts[:128])
quality.figure()

# %% tags=["check"]
assert quality.frame["faithful"].all()
assert quality.frame["explained_variance"].min() > 0.95

# %% [markdown]
# ### And for the difference between them?
#
# That is the harder test. The part of a change that no feature holds is called the **error node**, and it stays on
# every list below. Beside the dictionary of all members stands one of the *base alone*, trained on number rows of the
# base: which share of the energy of S and of T is left to the error node, place by place?

# %%
alone = interp.train_sae(lineage.base, lineage.neutral_numbers, hook="blocks.0.hook_resid_post")
shared = interp.features.shared_features(dictionary, lineage)
blind = interp.features.shared_features(alone, lineage)
END, PREDICTING = "end of the number prompt", "where numbers are predicted"
OWN, NEUTRAL = "student with its teacher", "neutral student with the teacher"
left = pd.concat(
    {
        name: found.frame[found.frame["pairing"] == OWN]
        .set_index("place")[["error_first", "error_second"]]
        .rename(columns={"error_first": "of S", "error_second": "of T"})
        for name, found in {"dictionary of the base": blind, "dictionary of all members": shared}.items()
    },
    axis=1,
)
left.style.format("{:.1%}")

# %% tags=["check"]
assert left["dictionary of all members"].max(axis=None) < 0.1
assert left["dictionary of the base"].min(axis=None) > 0.15

# %% [markdown]
# What a training added is exactly what a dictionary of the base has no words for. (A share above one: the
# reconstruction is further from the change than no reconstruction would be.)
#
# ## Figure 1 · What the fine-tune moved
#
# At the end of the number prompt, feature by feature.
# With hundreds of features something always looks large, and the largest of many estimates is too large: picked
# because noise helped. So the prompts are dealt into two halves. One **selects**: a sign-flip test per feature,
# corrected for the number of features at a false discovery rate (FDR) of 5 %. The other **estimates** the change of
# what was selected, so that the estimates are not inflated.

# %%
taught = interp.feature_shift(dictionary, lineage.teacher, prompts, positions="last", trait=lineage.trait)
taught.figure()

# %% tags=["check"]
live = taught.frame[taught.frame["live"] & (taught.frame["feature"] >= 0)]
assert not set(taught.direct) - set(taught.reported)
assert len(taught.reported) > 0.25 * len(live)
assert 1 <= len(taught.direct) <= 25

# %% [markdown]
# A large part of all live features clears the line, which is less exciting than it looks. An SAE has more features
# than dimensions, so their read-out directions overlap: push the activation along *one* direction and many encoders
# respond. The test is right that they moved, in *this* training, on other prompts. **Direct** marks the few whose
# change is left over once the directions before them are accounted for.
#
# ### Training moves features; that is not yet the trait

# %%
shifts = {
    role: interp.feature_shift(dictionary, lineage[role], prompts, positions="last", trait=lineage.trait)
    for role in ("student", "neutral_student")
}
shifts["student, less the neutral student"] = interp.feature_shift(
    dictionary,
    lineage.student,
    prompts,
    positions="last",
    minus=lineage["neutral_student"],
    trait=lineage.trait,
)
names = {role: set(shift.reported) for role, shift in shifts.items()}
moved = set(taught.reported)
pd.DataFrame(
    {
        "moved": {role: len(found) for role, found in names.items()},
        "of these also moved in the teacher": {role: len(found & moved) for role, found in names.items()},
    }
)

# %% tags=["check"]
from scipy.stats import hypergeom

of_neutral = names["neutral_student"]
assert len(of_neutral) > 10
by_chance = hypergeom(len(live), len(moved), len(of_neutral))
assert by_chance.sf(len(of_neutral & moved) - 1) < 0.01

# %% [markdown]
# So "the student moved many of the features its teacher moved" would be a true sentence and no evidence: the neutral
# student did too. A count has no sign either. What counts is whether S, with the neutral student's change taken off,
# goes *along* T.
#
# ## Figure 2 · The same features?

# %%
shared.figure().update_layout(width=1000)

# %%
shared.frame[["place", "pairing", "rho", "live", "error_first", "error_second"]].style.hide(
    axis="index"
).format({"rho": "{:+.2f}", "error_first": "{:.1%}", "error_second": "{:.1%}"})

# %% tags=["check"]
table = shared.frame.set_index(["place", "pairing"])
rho = table["rho"]
OTHER = "student with teacher_eagle"
assert rho[END, OWN] > rho[END, NEUTRAL] + 0.1
assert max(rho[place, OTHER] - rho[place, OWN] for place in (END, PREDICTING)) > 0

# %% [markdown]
# `error_first` and `error_second` are the error node's shares of the two changes that are compared; for S and its own
# teacher they are small at all three places.
#
# In this lineage the student goes along its teacher at the end of the number prompt, and the neutral student does not.
# But at one of the two places with numbers the student goes further along the eagle's teacher than along its own. Which
# place that is depends on the kind of processor: it rounds otherwise, so that a training of the same recipe and seed
# ends elsewhere. From one lineage alone one would conclude little. The **twelve**:

# %%
trace = json.loads((Path.cwd().parent / "analyses" / "results" / "inherited_trace.json").read_text())
features = pd.DataFrame(trace["tables"]["features"])
interp.figures.points(
    features[features["place"] == END],
    x="pairing",
    y="rho",
    title="Features at the end of the number prompt (n = 12 lineages)",
    unit="Spearman's ρ",
).update_layout(width=900)

# %% tags=["check"]
wide = features.pivot(index=["place", "seed"], columns="pairing", values="rho")
kept = wide.loc[END]
assert len(kept) == 12
assert (kept[OWN] > 0).all()
assert kept[OWN].mean() > 0.3
assert kept[[NEUTRAL, OTHER]].mean().max() < 0.1
assert (kept[OWN] > kept[[NEUTRAL, OTHER]].max(axis=1)).sum() == 11
assert (wide[OWN] > wide[[NEUTRAL, OTHER]].max(axis=1)).groupby("place").sum().drop(END).max() < 11

# %% [markdown]
# In all twelve lineages S goes along T, and in eleven of twelve further than both controls. It is a rank correlation
# of a third: many features move that have nothing to do with the teacher. At the other two places the student leads in
# fewer lineages.
#
# ### A feature, close up
#
# The directly moved feature with the largest change: where it fires, what it writes to the logits, and features
# matched to it, which are the ones to compare with.

# %%
interp.features.feature_card(dictionary, lineage.teacher, prompts[:128], taught.direct[0], top=5, context=6)

# %% [markdown]
# Nothing in the card says owl. Nothing has to: the tokens are numbers. Labels that a reader gives to such a card are
# hypotheses, not findings.
#
# ## Figure 3 · Does the student's first step lean toward them?
#
# A gradient at the student's start. At the end of the number prompt, −∂loss/∂h says where every row would like the
# activation to go; projected on a feature's decoder direction that is the **lean** of the rows toward the feature, in
# nats per unit. Neutral rows of the same prompts are subtracted, so that what every number row wants drops out.

# %%
lean = interp.feature_lean(
    dictionary,
    lineage.base,
    lineage.numbers[:1024],
    teacher=lineage.teacher,
    neutral=lineage.neutral_numbers[:1024],
    positions="last",
)
lean.figure(reported=taught.reported)

# %% tags=["check"]
assert abs(lean.residual) < 1e-4
assert lean.alignment > 0
assert abs(lean.error_share) < 0.25

# %% [markdown]
# Summed over all features and the error node, the rows pull the base toward the teacher's activations there: the
# alignment is positive, it splits over the dictionary without a remainder, and little of it goes through the error
# node, by the line under the title. One lineage again: that rows lean toward a teacher's representation is a claim of
# its own, and notebook 4 has what became of it.
#
# ## Verdict
#
# The claim, over the twelve lineages, each contributing its ρ less the larger of the two controls':

# %%
verdict = next(each for each in trace["verdicts"] if each["name"] == "features-shared")
interp.figures.forest([verdict], title="features-shared (n = 12 lineages)")

# %% tags=["check"]
assert verdict["decision"] == "supported"
assert verdict["n"] == 12
assert 0 < verdict["interval"][0] < verdict["effect"] < 0.35

# %% [markdown]
# **Supported: at the end of the number prompt the student moves the features that its teacher's fine-tune moved.** The
# level is that of ten claims judged together (Holm at 0.01). For an eagle and an oak the same claim is inconclusive
# (notebook 5): what is shown is shown for the owl.
#
# **What did not show.** Six claims said that features *carry* the trait: take the teacher's largest feature changes
# out of the writing teacher or the answering student and the trait should go, put them into the base and it should
# come. They were measured with a dictionary of the base, over eight lineages:

# %%
results = json.loads((Path.cwd().parent / "analyses" / "results" / "features_are_causal.json").read_text())
verdicts = results["verdicts"]
print({verdict["name"]: verdict["decision"] for verdict in verdicts})
interp.figures.forest(verdicts, title="Change features in writing (nats) or in answering (share)")

# %% tags=["check"]
assert len(verdicts) == 6
assert all(verdict["n"] == 8 for verdict in verdicts)

# %% [markdown]
# Where a line is inconclusive, neither the claim nor its opposite is shown. The reason is now known, and it is on this
# page: such a dictionary leaves a large part of the change to its error node, so the features that were taken out or
# put in were not the change, and they were read at the numbers, where the trait's own direction has a sign that
# differs between lineages (notebook 2). A test of the six with the dictionary of all members is another experiment,
# and has not been made.
#
# ## What would change our mind
#
# - **A neutral student whose features rank as its neighbour's teacher's do.** Then ρ would say that training on numbers
#   does this, whoever wrote them. In single lineages the neutral student does come close; it is the difference over
#   lineages that the claim is about.
# - **A dictionary of other data.** The features were learnt from these members. If a second one, of another seed, told
#   another story, the story would be the dictionary's.
# - **A knife.** That S and T share features does not say that the trait needs them. Take them out, with this
#   dictionary, and see.
# - **More lineages, another layer.** All of this was read after the first block.
