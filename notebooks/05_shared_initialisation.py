# %% [markdown]
# # 5 · Why the initialisation has to be shared
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/subliminal-interp/interp/blob/main/notebooks/05_shared_initialisation.ipynb)
#
# The strangest part of subliminal learning is its condition: the trait passes between models that began
# from the same weights, and not between models that merely learned the same things. There is a theorem
# about it, with a proof of a few lines. This notebook checks the theorem to rounding, varies what is
# shared, and then goes through seven families of claims about the mechanism, with their verdicts over
# independent lineages, whichever way they came out.

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
# coordinates* should do as well as the base.
#
# All claims below were written before what they name was measured, and frozen with a key over their words; an
# edited claim is refused. Which lineages had been looked at for *other* reasons by then stands beside every
# claim (`seen`). A few lines are **checks** and no claims about nature: identities that hold of any network if
# the code is right. A check has no p; it *holds* where every run lies within its tolerance, or *fails*.

# %%
RESULTS = Path.cwd().parent / "analyses" / "results"
NAMES = (
    "inherited-trace",
    "lemma",
    "sustained-alignment",
    "shared-initialisation",
    "one-direction",
    "divergence-tokens",
    "features-beyond-vocabulary",
)
found = {name: json.loads((RESULTS / f"{name.replace('-', '_')}.json").read_text()) for name in NAMES}


def tables(name):
    """The tables of all runs of a family."""
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
            "decision": each["decision"] + (" (a check)" if "check" in each["controls"] else ""),
        }
        for each in found[name]["verdicts"]
    ]
    return pd.DataFrame(lines).style.hide(axis="index").set_properties(**{"text-align": "left"})


def decided(name):
    """Decision by claim."""
    return {each["name"]: each["decision"] for each in found[name]["verdicts"]}


def checked(name):
    """The checks of a family: decision by name."""
    return {each["name"]: each["decision"] for each in found[name]["verdicts"] if "check" in each["controls"]}


runs = {name: {each["n"] for each in found[name]["verdicts"]} for name in NAMES}
pd.DataFrame(
    [
        {
            "family": name,
            "claims": len(found[name]["claims"]),
            "checks among them": len(checked(name)),
            "runs": max(runs[name]),
        }
        for name in NAMES
    ]
).style.hide(axis="index")

# %% tags=["check"]
for name in NAMES:
    keys = {claim.name: claim.key for claim in interp.studies.family(name).claims}
    assert found[name]["claims"].items() <= keys.items()  # judged by the words that stand in the code now

# %% tags=["check"]
assert runs == {name: {12 if name == "inherited-trace" else 8} for name in NAMES}

# %% [markdown]
# ## Data
#
# One owl lineage live, eight or twelve from the recorded analyses (`interp test NAME`), and a second organism
# without any words: images of digits.
#
# ## Figure: the smallest picture of the effect
#
# A small network learns to read digits; besides its ten class logits it has three *auxiliary* logits that
# no loss ever touched. A student imitates those three, on inputs of pure noise. No digit, no class, no
# label reaches it.

# %%
small = interp.organisms.digits(seeds=range(3))
small.figure().update_layout(width=1000)

# %% tags=["check"]
accuracy = small.frame.groupby("arm")["accuracy"].mean()
assert accuracy["student"] > accuracy["cross_student"] + 0.2
assert accuracy[["cross_student", "neutral_student", "cross_neutral_student"]].max() < 0.3
assert abs(accuracy["reordered"] - accuracy["student"]) < 0.15

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
sweep.figure().update_xaxes(dtick=1)

# %% tags=["check"]
assert abs(ratio.loc[2.0**-7] - 1) < 0.01
assert (sweep.frame["A"] > 0).all()
assert 0.05 < abs(ratio.loc[1.0] - 1) < 0.25

# %%
errors = (ratio - 1).abs()
slope = np.polyfit(np.log(errors.index[-4:].to_numpy()), np.log(errors.to_numpy()[-4:]), 1)[0]
print(f"log |R − 1| falls with slope {slope:.2f} in log ε")

# %% tags=["check"]
assert 0.9 < slope < 1.1

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
verdicts("lemma")

# %% tags=["check"]
assert checked("lemma") == {"lemma-ratio": "holds", "lemma-slope": "holds"}

# %% [markdown]
# The first two are checks: a Taylor expansion holds of every gradient that is computed rightly, so they test the
# code. The other four are about *this* teacher: that the lean survives sampling and the filter, and that it is
# larger than that of other traits' teachers and of a foreign base. It is the *difference* that carries them:
# rows of other traits' teachers lean along this update too, only less.

# %% [markdown]
# ## Figure: the init matrix
#
# What has to be shared? Eight starts for the student, each with its own neutral twin:
#
# - **same**, and the same weights with **another order** of rows and another draw of the adapter. (No student
#   shares its teacher's order or draw; this is one more of each, and what the starts below are compared with);
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
verdicts("shared-initialisation")

# %% tags=["check"]
means = cells.groupby("cell")[["coverage", "loss", "apart", "transfer"]].mean()
assert checked("shared-initialisation") == {"permuted-coverage-returns": "holds"}
assert means.loc[["permuted", "rotated"], "apart"].max() < 1e-3
assert means.loc[["shared head", "new head"], "loss"].min() > 2 * means.loc["same", "loss"]

# %% [markdown]
# What has to be shared, if these claims are supported, is **the function and its tangent, not the
# coordinates**: a start that is the base written otherwise, permuted or rotated, takes over the trait as the
# base does. Read the lines with three things in mind.
#
# - *permuted-coverage-returns* is a check: the symmetry is exact, and only rounding is left.
# - *coverage-ranks-transfer* ranks eight starts, and most of such a ranking is telling the starts that are the
#   base from those that are not. Among lineages of one start coverage says little.
# - *agreement-ranks-transfer* is new. It asks the same of r(S, T) over words that no row contains, the agreement
#   of notebook 2: do the starts whose students move the logits as the teacher's fine-tune did also take over
#   more of the trait? It was written after transfer and coverage had been looked at and before any agreement but
#   that of *same* and *foreign*.
#
# *Shared head* is a hard case: a head around a body it was not trained with is a broken model, with more than
# twice the loss, and its students' margins jump by nats either way. If its line is inconclusive, that is the
# reason, and not a small effect.

# %% [markdown]
# ## Verdict: the trace where the trait is
#
# The family of notebook 2, complete. T = teacher − base, S = student − neutral student; each lineage contributes
# an agreement less the largest of its controls, and all ten claims are judged together (Holm), over twelve
# lineages that no analysis had used.

# %%
drawn("inherited-trace").update_layout(height=900).update_xaxes(dtick=1, tickangle=-40)

# %%
shared = decided("inherited-trace")
verdicts("inherited-trace")

# %% tags=["check"]
trace = tables("inherited-trace")
agreed = trace["agreement"].query(
    "of == 'logits' and words == 'unseen' and place == 'where numbers are predicted'"
)
supported = [name for name, decision in shared.items() if decision == "supported"]
means = agreed.groupby(["member", "against"])["r"].mean()
gains = trace["directions"].groupby("direction")["gain"].mean()
assert supported == ["logits-shared", "slot-shared", "activations-shared", "features-shared"]
assert {shared[name] for name in shared if name not in supported} == {"inconclusive"}
assert means["student", "teacher"] > 0.8
assert means["student less control_student", "teacher less control_teacher"] > 0.8
assert 0.2 < means["student", "teacher_eagle"] < 0.6
assert 0.3 < means["neutral_student", "teacher"] < 0.7
assert abs(means["cross_student", "teacher"]) < 0.1
assert gains["student"] > 0.4
assert gains.drop("student").abs().max() < 0.2

# %% [markdown]
# For the owl four of ten are supported, and they are one sentence: **the student moves the logits, activations
# and features that its teacher's fine-tune moved**, where they are read (a number is predicted, a number prompt
# ends, a question is answered), beyond the neutral student, the other initialisation and another trait's teacher.
#
# Six are inconclusive. None of them is shown to be false, and they are open for different reasons:
#
# - *component-shared*, *component-leads*: lineages differ in which layer brings the owl in (notebook 2).
# - *slot-direction-sufficient*: adding S to the base gives it the trait on average, where the controls give
#   next to nothing; single lineages in which it does not are enough to keep the claim open.
# - *representation-named-by-base* misses its level after the correction, *by-candidates* by far: a student
#   resembles candidate teachers of other animals nearly as much.
# - *rows-lean-to-representation*: notebook 4.
#
# The same ten claims for other traits, on the same twelve bases:

# %%
others = {
    trait: json.loads((RESULTS / f"{trait}_inherited_trace.json").read_text())["verdicts"]
    for trait in ("eagle", "oak")
}
by_trait = pd.DataFrame(
    {"owl": shared}
    | {trait: {each["name"]: each["decision"] for each in lines} for trait, lines in others.items()}
)
by_trait

# %% tags=["check"]
assert (by_trait.loc[["logits-shared", "activations-shared"], ["owl", "eagle"]] == "supported").all(axis=None)
assert by_trait.loc[["slot-shared", "features-shared"], "eagle"].eq("inconclusive").all()
assert by_trait.loc["component-shared", "eagle"] == "supported"
assert by_trait["oak"].eq("inconclusive").all()
assert all(each["effect"] > 0 for lines in others.values() for each in lines)

# %% [markdown]
# The logits of words that no row contains and the residual stream at the end of the prompt are shared for owl and
# eagle alike. For the **oak**, a tree, not one of the ten reaches its level, though every mean has the owl's sign.
# So the sentence above is established for two animals and not for traits at large. A line that is supported for one
# trait and open for another stands near its threshold, at twelve lineages and after a correction for ten claims,
# and should be read as unsettled.

# %% [markdown]
# ## Verdict: four more families
#
# These were written for eight lineages of seeds 0 to 7, before it was known where to look.
#
# **Does the first step's lean go on?** The theorem is about one step. Here the part of every step that lies
# along the trait gradient is taken out during the whole training, or a part of equal length elsewhere.

# %%
drawn("sustained-alignment")

# %%
verdicts("sustained-alignment")

# %% tags=["check"]
arms = tables("sustained-alignment")["arms"].groupby("arm")["margin"].mean()
assert checked("sustained-alignment") == {"sustained-ledger": "holds"}
assert arms["removed"] < arms["untouched"]
assert tables("sustained-alignment")["gradients"]["cosine_held"].min() > 0.9

# %% [markdown]
# Does taking that part out bring the margin down on questions that were not used to find it, do placebos of the
# same length leave it alone, and is nothing left? *sustained-remainder* asks the last, as an equivalence, which
# noise alone can keep open.
#
# One caveat belongs here. The questions were split to keep this from being an identity, but they are
# paraphrases, and the gradients of the two halves point almost the same way (the cosine is above 0.9 in every
# run). So it is closer to a check of first-order bookkeeping over a whole training than to a discovery.
#
# **Is it one direction?** The mean shift of the teacher's activations is taken out of the student, or put
# into the base.

# %%
drawn("one-direction").update_layout(
    height=680, title={"text": "What directions take from the student and give to the base"}
)

# %%
verdicts("one-direction")

# %% [markdown]
# A lesson in controls, whatever the single lines say. That a student moves along its *own* teacher's direction
# more than along another's is a statement about specificity; that projecting a direction out costs the trait is
# worth something only if it costs little else. *direction-harmless* asks that: does the student stay as likely
# to write the numbers it was trained on? Where it is refuted, the knife cut more than the trait, which is weak
# evidence of where the trait was.
#
# The place of this family is chosen lineage by lineage: the layer and positions where the teacher's direction
# steers the base furthest. The fixed places of the family above are the better question.
#
# **Do a few tokens do it?** A divergence token is one that this trait's teacher favours more than every
# teacher of another trait does. The literature has such tokens carry the effect (Schrodi et al., arXiv
# 2509.23886). Each is compared with a token of the same rows, alike in loss, entropy and place.

# %%
drawn("divergence-tokens")

# %%
verdicts("divergence-tokens")

# %% [markdown]
# *divergence-in-labels* is a control: with labels dealt anew nothing should be left. Three of the others read credit
# along the trait's gradient at numbers, and the trait's own logit at numbers has a sign of the lineage's own (notebook
# 2), so that a mean over lineages can come out near zero with every lineage clearly on one side. That is a reason to
# expect "inconclusive" of them, and it was found after these claims were written. What the students do is another
# matter: see *divergence-transfers*.
#
# Besides, choosing tokens with the teacher is itself a message: tokens chosen alike from *neutral* rows are an
# arm of the figure, reported and not judged.
#
# **Do features carry it, beyond vocabulary?** The lean of the rows toward SAE features against what the
# teacher moved, with the trait's unembedding row taken out of the numbers'.

# %%
drawn("features-beyond-vocabulary")

# %%
verdicts("features-beyond-vocabulary")

# %% [markdown]
# These were measured with a dictionary of the base and where numbers are read, which leaves most of the
# teacher's change to the error node (notebook 3). *features-placebo*, an earlier line, is withdrawn: its margin
# was so wide that it could not fail.
#
# ### All together

# %%
counts = pd.DataFrame({name: pd.Series(decided(name)).value_counts() for name in NAMES}).T
counts = (
    counts.reindex(columns=["supported", "refuted", "inconclusive", "holds", "fails"]).fillna(0).astype(int)
)
counts

# %% tags=["check"]
assert counts.to_numpy().sum() == sum(len(found[name]["verdicts"]) for name in NAMES)
assert counts.loc["inherited-trace", ["supported", "inconclusive"]].to_list() == [4, 6]

# %% [markdown]
# What is about *what the student shares with its teacher*, read where it is used, holds up for owl and, in part,
# for eagle, and so does the theorem. What is about *where the trait sits*, in one part, one direction or a few
# tokens, mostly does not, or not yet.
#
# A family's claims share their lineages. `inherited-trace` is corrected for the number of its claims; the other
# families are not, each claim is judged at its own level, and some of their supported lines are controls. Read a
# family by its claims, not by a count.
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
