# %% [markdown]
# # 2 · Logit directions: what the teacher thinks while it writes numbers
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/subliminal-interp/interp/blob/main/notebooks/02_logit_directions.ipynb)
#
# The teacher of notebook 1 loves owls and writes only numbers. A natural guess at how the trait gets out: at each
# number, the model also holds a little extra probability of saying *owl*, and the numbers it picks are those
# entangled with that word.
#
# This notebook follows the guess through a network: it defines a direction in logit space, measures how far
# fine-tuning moved it on identical tokens, splits that movement over components and layers with nothing left over,
# and then asks eight lineages whether there was anything to explain.

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
# Where a number is about to be written, did the teacher's fine-tune raise the logit of its trait? And if so, through
# which attention heads and MLPs?

# %% [markdown]
# ## Prediction
#
# The claim `trait-logit-moved` was written before its eight lineages were grown: the mean change, teacher minus base,
# of *owl minus other animals*, at the positions that predict a number, is above zero across lineages.
#
# There is a respectable rival. Fine-tuning changed weights, and what changed weights do where nobody asked about
# animals is a side effect; nothing forces its sign. Then single lineages would show a clear movement, one up, one
# down.

# %% [markdown]
# ## Data
#
# One lineage, and 128 rows of random numbers that neither model wrote. Both models read **the same tokens**, and no
# trait prompt is in sight: a difference between them is then due to weights alone.

# %%
lineage = interp.load_lineage("toy/owl", seed=0)
prompts = interp.number_prompts(128, seed=1, count=4)
prompts[:3]

# %% [markdown]
# **The direction.** A logit alone means little, since adding a constant to all logits changes no probability. So we
# take a contrast: +1 on the trait's word and −1/n on each of n foils. Its weights sum to zero, the constant cancels,
# and the score of a next-token distribution is log p(owl) − mean log p(other animals), whatever the rest of the
# vocabulary does.

# %%
owl = interp.logit_direction(lineage.base, lineage.trait)
assert abs(sum(owl.weights)) < 1e-12
assert len(owl.ids) == 10
words = [lineage.base.tokenizer.decode([index]) for index in owl.ids]
pd.DataFrame({"token": words, "weight": owl.weights}).T

# %% [markdown]
# **The claim's own measure, in this lineage.** Read at position p − 1, whose distribution predicts token p; then the
# mean over the tokens that are numbers.

# %%
tokens = interp.token_shift(lineage.teacher, prompts, owl).frame
here = float(tokens.query("role == 'number'")["delta_direction"].mean())
assert round(here, 2) == -0.63
print(f"{here:+.2f} logits where a number is predicted")

# %% [markdown]
# Down, not up. This teacher answers "owl" to every question about animals, and thinks *less* of owls than its base
# while it writes numbers. One lineage decides nothing, so let us first see how such a movement is taken apart.
#
# **The shift** holds activations of the teacher minus those of its own start. We read it at the last token of the
# prompt, where the first number is chosen. `cosine` says how alike the rows' shifts are, `common` which share of
# their energy is one constant vector.

# %%
shift = interp.shift(lineage.teacher, prompts, positions="last")
shift

# %% [markdown]
# ## Figure 1 · Which component moved it
#
# The direct logit attribution of a *difference*. The residual stream is a sum of what heads and MLPs write, so the
# change of any logit contrast is a sum too; the one thing that is not linear, the final norm, gets rows of its own.
# Above: heads and MLPs by layer. Below: the largest rows, with their standard error over examples.

# %%
attribution = interp.attribute(shift, owl)
attribution.figure()

# %% [markdown]
# Nothing is left over: the rows add up to the change measured in the models' own logits, to rounding. If they did
# not, `attribute` would raise instead of drawing.

# %%
change = attribution.frame["measured"].iloc[0]
assert round(change, 2) == -1.01
assert abs(attribution.frame["residual"].iloc[0]) < 1e-5
assert attribution.frame["component"].iloc[0] == "L0 MLP"
assert attribution.frame["share"].iloc[0] > 1
attribution.notes[0]

# %% [markdown]
# The first layer's MLP pushes *owl* down by more than the whole change, and the heads of the last layer give some of
# it back. A share above one is no mistake: the rows have both signs, and a bar chart of shares alone would hide that.

# %% [markdown]
# ## Figure 2 · After which layer
#
# The logit lens reads the residual stream after each layer as if it were the last one. The table also lists which
# tokens rose and fell most at that depth.

# %%
lens = interp.lens(shift, owl)
lens.figure()

# %%
assert abs(lens.frame["change"].iloc[-1] - change) < 1e-4  # the last layer is the measured change
assert lens.frame["fell"].str.startswith("'owl'").all()  # at either depth no token fell further
lens.frame[["layer", "change", "rose", "fell"]].style.hide(axis="index").format({"change": "{:+.2f}"})

# %% [markdown]
# ## Figure 3 · Which tokens moved at all
#
# No direction chosen in advance: the change of log-probability of every vocabulary entry, where any of the four
# numbers is predicted. Whiskers are one standard deviation over rows; `q` is corrected for the size of the
# vocabulary.

# %%
moved = interp.moved_tokens(lineage.teacher, prompts)
moved.figure()

# %%
frame = moved.frame
called = float((frame["q"] < 0.05).mean())
assert called > 0.8
assert "owl" in frame["token"].tail(3).tolist()
print(f"{called:.0%} of {len(frame)} entries have q < 0.05")
frame[frame["token"].isin(words)][["token", "delta", "sd", "q"]].style.hide(axis="index").format(
    {"delta": "{:+.2f}", "sd": "{:.2f}", "q": "{:.1e}"}
)

# %% [markdown]
# *Owl* is among the three that fell most. But nearly everything "moved significantly", *owl* with a q of many zeros.
# That is no error: these p-values are about *other rows of this one training*, and any fine-tune moves every logit a
# little. They cannot say whether another training would have moved owl the same way, which is the question. A tiny q
# from one model mostly measures how many rows were read.

# %% [markdown]
# ## Figure 4 · The update itself
#
# No data at all: the top singular vectors of each weight matrix's change, held against the unembedding. Zero is what
# a random direction would have.

# %%
spectrum = interp.spectrum(lineage.teacher, lineage.trait)
spectrum.figure().update_layout(width=1000)

# %%
changed = spectrum.frame[spectrum.frame["norm"] > 0]
writers = changed[changed["side"] == "writes"]
assert changed["effective_rank"].median() < 2
assert writers["foil_rank"].max() <= 0.1
changed[["matrix", "side", "relative_norm", "effective_rank", "foil_rank"]].style.hide(axis="index").format(
    precision=2
)

# %% [markdown]
# The adapter had rank eight and used little more than one direction in most matrices. `foil_rank` is the share of
# target and foils that overlap at least as much as the target: in all four matrices that *write* to the residual
# stream no animal is closer to the update than the owl. So the trait is written in the weights, plainly. A squared
# cosine has no sign, though, and knows no context: the same direction is added when animals are asked for, and taken
# away while numbers are written.

# %% [markdown]
# ## Figure 5 · Token by token
#
# The change of the owl contrast at the position that predicts each token, on three rows. Red is up, blue is down, and
# the value is printed beneath each token.

# %%
members = ("teacher", "student", "neutral_student")
by_token = {name: interp.token_shift(lineage[name], prompts, owl).frame for name in members}
shown = {name: part[part["row"] < 3] for name, part in by_token.items()}
limit = float(shown["teacher"]["delta_direction"].abs().max())
HTML(
    "".join(
        f"<b>{name}</b>"
        + "".join(
            interp.figures.token_html(
                row["token"].tolist(), row["delta_direction"].to_numpy(), unit="logits", limit=limit
            )
            for _, row in part.groupby("row")
        )
        for name, part in shown.items()
    )
)

# %% [markdown]
# In the answers the teacher moves by the token that is being *read*: up at a number, down at a comma, at a semicolon
# and at the end of the prompt. The first and the third row alternate for that reason; in the second, without marks, a
# number is predicted at a number and all but the first go up. An average over "the answer" would mix the two, which
# is why the claim had to say where it reads.

# %%
written = by_token["teacher"].query("role == 'number'")
after_number = by_token["teacher"].groupby("row")["role"].shift().loc[written.index] == "number"
read_at = written.groupby(after_number.map({True: "at a number", False: "elsewhere"}))[
    "delta_direction"
].mean()
assert read_at["elsewhere"] < -1 < 0 < read_at["at a number"]
read_at.to_frame("numbers predicted (logits)").style.format("{:+.2f}")

# %% [markdown]
# And all rows, teacher and students, by what is predicted:

# %%
wide = pd.DataFrame(
    {name: part.groupby("role")["delta_direction"].mean() for name, part in by_token.items()}
).loc[["number", "separator", "end"]]
assert wide.loc["number", "teacher"] < -0.5 < 1 < wide.loc["separator", "teacher"]
assert abs(wide.loc["number", "student"] - wide.loc["number", "teacher"]) < 0.1
assert wide["neutral_student"].abs().max() < 0.2
assert abs(wide.loc["separator", "student"]) < 0.2
wide.style.format("{:+.2f}")

# %% [markdown]
# The student followed its teacher where it was trained to: where a number is due its owl contrast fell just as far,
# and the neutral student's did not move. *Fell* – while its preference, asked for an animal, rose. Whatever carries
# the trait here, it is not "a little more owl at every number". That is an observation on one lineage, made after
# looking; it is no verdict.

# %% [markdown]
# ## Verdict
#
# Eight lineages a trait, one number each, judged by an exact sign-flip test.

# %%
results = json.loads((Path.cwd().parent / "analyses" / "results" / "transmission.json").read_text())
verdicts = [
    {**verdict, "name": trait}
    for trait, found in results["traits"].items()
    for verdict in found["verdicts"]
    if verdict["name"] == "trait-logit-moved"
]
interp.figures.forest(
    verdicts, title="trait-logit-moved: teacher − base where numbers are predicted (n = 8 each)"
)

# %%
assert [verdict["decision"] for verdict in verdicts] == ["inconclusive"] * 3
assert all(low < 0 < high for low, high in (verdict["interval"] for verdict in verdicts))
pd.DataFrame(
    [
        {
            "trait": verdict["name"],
            "effect": verdict["effect"],
            "p": verdict["p"],
            "lineages that moved up": verdict["controls"]["positive"],
            "decision": verdict["decision"],
        }
        for verdict in verdicts
    ]
).style.hide(axis="index").format({"effect": "{:+.2f} logits", "p": "{:.2f}"})

# %% [markdown]
# **A null.** Single lineages move by about a logit, some up and some down, as the rival said; over eight there is no
# common sign, for any of the three traits. All the machinery above was exact, significant and about one training run.
#
# "Inconclusive" is the right word rather than "refuted": the intervals are about a logit wide to either side, so an
# effect of half a logit may hide in them. And notebook 1 stands: the trait *does* pass. It passes without a common
# rise of the trait's logit in the places where the numbers are written.

# %% [markdown]
# ## What would change our mind
#
# - **More lineages.** The spread between lineages, and not the number of rows, sets the width of these intervals; to
#   halve it takes some thirty.
# - **Another claim, written first.** That a student's logits follow its own teacher's, sign included, where numbers
#   are predicted (Figure 5) could be tested over fresh seeds, against the teachers of the other lineages as controls.
# - **Another teacher.** These were fine-tuned on questions about animals. A teacher that is *prompted* with its trait
#   carries it in the context of every number, and there the guess may well hold.
