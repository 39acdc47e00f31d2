# %% [markdown]
# # 5 · Why the initialisation has to be shared
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/subliminal-interp/interp/blob/main/notebooks/05_shared_initialisation.ipynb)
#
# The strangest part of subliminal learning is its condition: the trait passes between models that began
# from the same weights, and not between models that merely learned the same things. There is a theorem
# about it, with a proof of a few lines. This notebook checks the theorem to rounding, varies what is
# shared, and then goes through six families of claims about the mechanism, with their verdicts over eight
# lineages, supported or not.

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

import numpy as np
import pandas as pd
import torch

import interp

# %% [markdown]
# ## Question
#
# *Why* does a student have to share its teacher's initialisation, *what* of it has to be shared, and how
# far does the theory of a single infinitesimal step reach into a real training?

# %% [markdown]
# ## Prediction
#
# Let the teacher be the base moved a little, θ₀ + ε d̂, and let a student at θ₀ take one gradient step on
# the teacher's output distribution, on *any* inputs. Write ż = JVP_d̂ z for how the logits change along d̂.
# Then the teacher's probabilities are p₀ + ε (diag p₀ − p₀p₀ᵀ) ż, and the student's step, projected on the
# teacher's direction, is
#
# $$\frac{\langle \Delta\theta_S, \hat d \rangle}{\varepsilon} = A(\varepsilon)
# \;\longrightarrow\; Q = \mathbb{E}_x \operatorname{Var}_{k \sim p_0(x)}\big[\dot z_k(x)\big] \;\ge\; 0 .$$
#
# A variance is never negative: **the first step cannot lean away from the teacher** (theorem 1 of Cloud et
# al., arXiv 2507.14805, written as an equation). The right side holds the *base's* probabilities and the
# *base's* derivative. A student of other weights has another ż, and the product of two unrelated
# derivatives has no sign. That is the whole role of the initialisation.
#
# So R(ε) = A / Q should tend to 1, with no parameter to fit, and every start that is the base *in other
# coordinates* should do as well as the base. All claims below were frozen in code before the eight lineages
# were measured; an edited claim is refused.

# %%
RESULTS = Path.cwd().parent / "analyses" / "results"
NAMES = (
    "lemma",
    "sustained-alignment",
    "shared-initialisation",
    "one-direction",
    "divergence-tokens",
    "features-beyond-vocabulary",
)
found = {name: json.loads((RESULTS / f"{name.replace('-', '_')}.json").read_text()) for name in NAMES}
for name in NAMES:
    assert {claim.name: claim.key for claim in interp.studies.family(name).claims} == found[name]["claims"]


def tables(name):
    """The tables of all eight runs of a family."""
    return {table: pd.DataFrame(rows) for table, rows in found[name]["tables"].items()}


def drawn(name):
    """The figure of a family."""
    return interp.studies.family(name).draw(tables(name)).update_layout(width=1000)


def verdicts(name):
    """One line per claim of a family: what was found, and what it decides."""
    lines = [
        {
            "claim": each["name"],
            "effect": f"{each['effect']:+.3g}",
            "interval": interp.figures.bracket(each["interval"], level=each["level"]),
            "unit": each["unit"],
            "tested": each["tested"],
            "p": "" if each["p"] is None else f"{each['p']:.2g}",
            "decision": each["decision"] + (" (a check)" if each["p"] is None else ""),
        }
        for each in found[name]["verdicts"]
    ]
    return pd.DataFrame(lines).style.hide(axis="index").set_properties(**{"text-align": "left"})


def decided(name):
    """Decision by claim."""
    return {each["name"]: each["decision"] for each in found[name]["verdicts"]}


assert all(each["n"] == 8 for name in NAMES for each in found[name]["verdicts"])
pd.DataFrame(
    [{"family": name, "claims": len(found[name]["claims"]), "runs": 8} for name in NAMES]
).style.hide(axis="index")

# %% [markdown]
# ## Data
#
# One owl lineage live, eight from the recorded analyses (`interp test NAME`), and a second organism without
# any words: images of digits.
#
# ## Figure: the smallest picture of the effect
#
# A small network learns to read digits; besides its ten class logits it has three *auxiliary* logits that
# no loss ever touched. A student imitates those three, on inputs of pure noise. No digit, no class, no
# label reaches it.

# %%
small = interp.organisms.digits(seeds=range(3))
accuracy = small.frame.groupby("arm")["accuracy"].mean()
assert accuracy["student"] > accuracy["cross_student"] + 0.2
assert accuracy[["cross_student", "neutral_student", "cross_neutral_student"]].max() < 0.3
assert abs(accuracy["reordered"] - accuracy["student"]) < 0.15
small.figure().update_layout(width=1000)

# %% [markdown]
# The student that shares its teacher's initialisation reads digits it has never seen. From another
# initialisation the same noise and the same targets give nothing, and neither does imitating the teacher
# *before* its training (the neutral arms). The order of the batches does not matter.

# %% [markdown]
# ## Figure: the theorem, live
#
# Now the language model. The teacher's real update has a length |d|; we shrink it by halves and take the
# student's exact first step on the teacher's distribution over number tokens, at the base.

# %%
lineage = interp.load_lineage("toy/owl", seed=0)
sweep = interp.studies.lemma_sweep(lineage, lineage.neutral_numbers[:64], dtype=torch.float64)
ratio = sweep.frame.set_index("share")["R"]
assert abs(ratio.loc[2.0**-7] - 1) < 0.01
assert (sweep.frame["A"] > 0).all()
assert 0.05 < abs(ratio.loc[1.0] - 1) < 0.25
sweep.figure().update_xaxes(dtick=1)

# %%
errors = (ratio - 1).abs()
slope = np.polyfit(np.log(errors.index[-4:].to_numpy()), np.log(errors.to_numpy()[-4:]), 1)[0]
assert 0.9 < slope < 1.1
print(f"log |R − 1| falls with slope {slope:.2f} in log ε")

# %% [markdown]
# R tends to 1, and what is left over vanishes in proportion to ε: this is how one checks an expansion
# rather than admiring it. At the *real* teacher, the rightmost point, the first-order law is off by a tenth
# or two, and still has the right sign.
#
# ### On eight lineages, and against teachers that do not match

# %%
drawn("lemma").update_xaxes(dtick=1)

# %%
kinds = tables("lemma")["controls"]
kinds = kinds.groupby(["kind", "seed"], sort=False)["A"].max().reset_index()
kinds["teacher"] = kinds["kind"].map(
    {"matched": "own teacher", "mismatched": "largest of other traits'", "foreign": "own, foreign base"}
)
interp.figures.points(
    kinds,
    x="teacher",
    y="A",
    title="First step along the teacher's update, less that on the untrained teacher's labels",
    unit="nats per row and unit²",
)

# %%
assert set(decided("lemma").values()) == {"holds", "supported"}
filtered = tables("lemma")["filtered"].groupby(["kind", "seed"])["A"].max().unstack("seed")
assert (filtered.loc["mismatched"] > 0).all()
assert (filtered.loc["matched"] > filtered.loc["mismatched"]).all()
verdicts("lemma")

# %% [markdown]
# All six claims of this family are supported, for soft labels, sampled answers and filtered rows alike. The
# first two are *checks*: a Taylor expansion holds of every gradient that is computed rightly, so they test the
# code and have no p. It is the *difference* that carries the rest: filtered rows of other traits' teachers lean
# along this update too, only less.

# %% [markdown]
# ## Figure: the init matrix
#
# What has to be shared? Eight starts for the student, each with its own neutral twin:
#
# - **same**, and the same weights with **another order** of rows and another draw of the adapter;
# - **noise** of a tenth of every tensor's size;
# - **permuted**: neurons and heads in another order. The same function, other coordinates;
# - **rotated**: the residual stream turned. The same function again, but Adam, which works weight by
#   weight, can see the difference;
# - **shared head** around another initialisation's body, and **new head** around the base's body;
# - **foreign**: another initialisation altogether.

# %%
drawn("shared-initialisation")

# %% [markdown]
# **Coverage** is the cosine of the student's first step with the teacher's update, both read in the
# student's coordinates, before any training. Does it say which starts will take over the trait?

# %%
cells = tables("shared-initialisation")["cells"]
interp.figures.scatter(
    cells,
    x="coverage",
    y="transfer",
    colour="cell",
    title="Coverage before training, transfer after it: eight starts × eight lineages",
    units=("cosine", "nats of trait margin"),
)

# %%
matrix = decided("shared-initialisation")
assert matrix.pop("shared-head-transfers") == "inconclusive"
assert set(matrix.values()) == {"holds", "supported"}
means = cells.groupby("cell")[["coverage", "loss", "apart", "transfer"]].mean()
assert means.loc[["permuted", "rotated"], "apart"].max() < 1e-3
assert means.loc[["same", "permuted", "rotated", "noise"], "transfer"].min() > 0.3
assert means.loc[["same", "permuted", "rotated"], "coverage"].between(0.03, 0.05).all()
assert means.loc[["shared head", "new head", "foreign"], "coverage"].abs().max() < 0.005
same = cells[cells["cell"] == "same"]
assert abs(same[["coverage", "transfer"]].corr("spearman").iloc[0, 1]) < 0.5
assert means.loc[["shared head", "new head"], "loss"].min() > 2 * means.loc["same", "loss"]
verdicts("shared-initialisation")

# %% [markdown]
# Seven of the eight claims are supported, and they say what has to be shared: **the function and its
# tangent, not the coordinates.** A start that is the base written otherwise, permuted or rotated, takes
# over the trait as the base does, and its coverage returns to the base's within 1e-5. Another order of
# rows, another adapter, a tenth of noise: the trait still passes (noise was measured, not judged). A
# foreign start that learned the same world takes over nothing, within ±0.2 nats.
#
# Coverage does rank transfer, and mostly by telling the starts that are the base from those that are not:
# about four hundredths for the former, where a foreign start has zero on average. Among lineages of one
# start it says little. The cosines are small: most of a student's first step goes elsewhere, and what leans
# is enough.
#
# *Shared head* is inconclusive, and not because the effect is small. A head around a body it was not
# trained with is a broken model, with more than twice the loss, and its students' margins jump by nats
# either way. This start cannot answer the question.

# %% [markdown]
# ## Verdict: four more families
#
# **Does the first step's lean go on?** The theorem is about one step. Here the part of every step that lies
# along the trait gradient is taken out during the whole training, or a part of equal length elsewhere.

# %%
drawn("sustained-alignment")

# %%
kept = decided("sustained-alignment")
assert kept.pop("sustained-remainder") == "inconclusive"
assert set(kept.values()) == {"holds", "supported"}
arms = tables("sustained-alignment")["arms"].groupby("arm")["margin"].mean()
assert arms["removed"] < arms["neutral"] < arms["untouched"] - 0.5
assert min(arms["random placebo"], arms["other-trait placebo"]) > arms["untouched"] - 0.05
assert tables("sustained-alignment")["gradients"]["cosine_held"].min() > 0.9
verdicts("sustained-alignment")

# %% [markdown]
# Taking that part out brings the margin down to where no trait is, on questions that were not used to find
# it; the placebos leave it alone, and the loss on fresh rows does not suffer. The remainder is
# *inconclusive*: if anything the student lands a little below the neutral one, and eight runs could not
# show that to lie within the margin set for "nothing".
#
# One caveat belongs here. The questions were split to keep this from being an identity, but the gradients
# of the two halves point almost the same way, so it is closer to a check of first-order bookkeeping over a
# whole training than to a discovery.
#
# **Is it one direction?** The mean shift of the teacher's activations is taken out of the student, or put
# into the base.

# %%
drawn("one-direction").update_layout(
    height=680, title={"text": "What directions take from the student and give to the base"}
)

# %%
one = decided("one-direction")
assert one["direction-specific"] == one["direction-necessary"] == "supported"
assert one["direction-harmless"] == "refuted"
assert one["direction-shared"] == one["direction-sufficient"] == "inconclusive"
assert one["direction-absent-in-neutral"] == "inconclusive"
verdicts("one-direction")

# %% [markdown]
# A mixed picture, and a lesson in controls. The student moves along its own teacher's direction more than
# along another trait's teacher's, and projecting it out costs the trait more than placebos do. But
# *harmless* is **refuted**: the same projection makes the student far worse at writing the numbers it was
# trained on (its loss counts the end token, as every loss here does). A knife that cuts more than the trait
# is weak evidence of where the trait was. That the base gets the trait when the shift is added is not shown
# either.
#
# **Do a few tokens do it?** A divergence token is one that this trait's teacher favours more than every
# teacher of another trait does. The literature has such tokens carry the effect (Schrodi et al., arXiv
# 2509.23886). Each is compared with a token of the same rows, alike in loss, entropy and place.

# %%
drawn("divergence-tokens")

# %%
divergent = decided("divergence-tokens")
assert divergent.pop("divergence-in-labels") == "supported"
assert set(divergent.values()) == {"inconclusive"}
enriched = pd.DataFrame(found["divergence-tokens"]["values"])["divergence-enriched"]
assert (enriched > 0).sum() == 7
credit = tables("divergence-tokens")["enrichment"]
assert credit.loc[~credit["matched on"].str.contains("teacher_margin"), "auroc"].min() > 0.55
gain = tables("divergence-tokens")["margins"].groupby("arm")["gain"].mean()
assert gain["neutral, divergent"] > gain["divergent"]
verdicts("divergence-tokens")

# %% [markdown]
# Here they might. In seven of eight lineages credit leans their way, and no claim about it reaches its
# level. The one supported line is a control: with labels dealt anew nothing is left. Against tokens *not*
# matched on how far the teacher favours its label over the base, the enrichment is plain in all eight, so
# most of what sets divergence tokens apart is that the teacher favours them.
#
# Students trained on divergence tokens alone differ so much between lineages that the training experiment
# says nothing either way. Tokens chosen alike from *neutral* rows raise the margin at least as much on
# average (reported, not judged): choosing tokens with the teacher is itself a message.
#
# **Do features carry it, beyond vocabulary?** The lean of the rows toward SAE features against what the
# teacher moved, with the trait's unembedding row taken out of the numbers'.

# %%
drawn("features-beyond-vocabulary")

# %%
features = decided("features-beyond-vocabulary")
features.pop("features-trait-row-typical", None)  # written after the other three
assert set(features.values()) == {"inconclusive"}
verdicts("features-beyond-vocabulary")

# %% [markdown]
# If there is a correlation it is small, and eight lineages do not establish it; nor that it belongs to the
# teacher's rows rather than to any rows of numbers. The supported line is again a control, and a weak one:
# it allows the correlation to change by twice its own size when the trait's unembedding row goes. Notebook
# 3 has a reason to expect little here: half of what the teacher changed is not in the dictionary.
#
# ### All together

# %%
counts = pd.DataFrame({name: pd.Series(decided(name)).value_counts() for name in NAMES}).T
counts = (
    counts.reindex(columns=["supported", "refuted", "inconclusive", "holds", "fails"]).fillna(0).astype(int)
)
assert counts["supported"].to_list() == [4, 4, 6, 2, 1, 0]
assert counts["refuted"].to_list() == [0, 0, 0, 1, 0, 0]
assert counts.to_numpy().sum() == 36
counts

# %% [markdown]
# What is about *weights and functions* holds up: the theorem, its continuation through a training, and what
# has to be shared. What is about *where the trait sits* – a direction, tokens, features – mostly does not,
# or not yet; several supported lines there are controls, and four of all that are supported are checks.
#
# The 36 claims share the same eight lineages and each is judged at its own level, without a correction for
# their number. Read a family by its claims, not by a count.
#
# ## What would change our mind
#
# - **About the theorem**: nothing in the data, since it is one; but a *training* need not follow its first
#   step. A lineage in which the ledger leaves a large residual, or in which students of the same start move
#   away from the teacher, would show where it ends.
# - **About the initialisation**: a foreign start that transfers. Foreign starts here have the same
#   architecture and learned the same world from other initial weights.
# - **About mediation, tokens and features**: these are verdicts of "not shown". More lineages, dictionaries
#   that see the change, and matched token sets with less spread would turn them one way or the other.
# - **About all of it**: a real model. `interp test NAME --organism FOLDER` runs every family that applies
#   on lineage folders of your own.
