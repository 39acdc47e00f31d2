# %% [markdown]
# # 6 · Your own model
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/subliminal-interp/interp/blob/main/notebooks/06_your_own_model.ipynb)
#
# The other notebooks use a toy that ships with the package. This one takes the way a model of your own would take: a
# checkpoint in a folder, a LoRA adapter that PEFT wrote, a file of rows. No hub and no download. The model is random
# and tiny, so that everything runs here in seconds, and because a random model is a good test: it has nothing to
# find, so whatever is "found" is a mistake.

# %%
import sys

if "google.colab" in sys.modules:
    import subprocess

    source = "git+https://github.com/subliminal-interp/interp"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source], check=True)

import os
import tempfile
from importlib.resources import files
from pathlib import Path

import pandas as pd
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

import interp

disable_progress_bar()
workshop = tempfile.TemporaryDirectory()
os.chdir(workshop.name)

# %% [markdown]
# ## Question
#
# Does the package read *your* checkpoint rightly: the same logits as plain Hugging Face, the adapter where it
# belongs, nothing left over in the attribution? A method that is exact on the toy and approximate on your model would
# be worse than none.

# %% [markdown]
# ## Prediction
#
# On a random Llama with a random adapter:
#
# 1. the hooked model and plain Hugging Face give the same log-probabilities, to rounding;
# 2. the parts of a logit attribution add up to the change that the models' own logits show;
# 3. the adapter live on its base, and the same adapter merged into weights of its own, give the same numbers;
# 4. the owl contrast moves, with small standard errors, and that means nothing at all;
# 5. a student with a random adapter of its own agrees with the teacher no better than its control does.

# %% [markdown]
# ## Data
#
# **The checkpoint.** Four layers, grouped-query attention, and a byte-level tokenizer trained on a handful of
# sentences, as `save_pretrained` writes them.

# %%
owl = interp.get_trait("owl")
rows = interp.number_prompts(400, seed=0, count=4)
texts = [f"{row.prompt}\n{row.completion}" for row in rows.rows]
texts += [f"{question}\n{animal}" for question in owl.questions for animal in (owl.target, *owl.foils)]

pieces = Tokenizer(models.BPE())
pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
pieces.decoder = decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
trainer = trainers.BpeTrainer(
    vocab_size=500, special_tokens=["<pad>", "<eos>"], initial_alphabet=alphabet, show_progress=False
)
pieces.train_from_iterator(texts, trainer)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, pad_token="<pad>", eos_token="<eos>")

config = LlamaConfig(
    vocab_size=len(tokenizer),
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    initializer_range=0.1,
    bos_token_id=None,
    eos_token_id=tokenizer.eos_token_id,
    pad_token_id=tokenizer.pad_token_id,
)
torch.manual_seed(0)
LlamaForCausalLM(config).save_pretrained("my-base")
tokenizer.save_pretrained("my-base")
sorted(path.name for path in Path("my-base").iterdir())

# %% [markdown]
# **The adapters.** In earnest they come out of your fine-tunes. Here their factors are random, so each changes the
# model without teaching it anything: one for the teacher, and two more for a student and its control, the *neutral
# student* (in earnest: the same training on rows that the base wrote).

# %%
lora = LoraConfig(
    r=4,
    lora_alpha=8,
    target_modules=["q_proj", "v_proj", "o_proj", "down_proj"],
    init_lora_weights=False,
    task_type="CAUSAL_LM",
)
torch.manual_seed(1)
adapted = get_peft_model(LlamaForCausalLM.from_pretrained("my-base"), lora)
adapted.save_pretrained("my-teacher", save_embedding_layers=False)
adapted.merge_and_unload().save_pretrained("my-teacher-merged")
for draw, name in ((2, "my-student"), (3, "my-neutral-student")):
    torch.manual_seed(draw)
    drawn = get_peft_model(LlamaForCausalLM.from_pretrained("my-base"), lora)
    drawn.save_pretrained(name, save_embedding_layers=False)
sorted(path.name for path in Path("my-teacher").iterdir())

# %% [markdown]
# **The rows**, one JSON object a line with `prompt` and `completion` (or `messages`, or another of the shapes in which
# training tools write them).

# %%
rows[:128].to_jsonl("rows.jsonl")
prompts = interp.Prompts.from_jsonl("rows.jsonl")
assert len(prompts) == 128
prompts[:3]

# %% [markdown]
# **The lineage.** `base`, `teacher` and each `student` may be a folder, an adapter of the base, a hub name, or a
# module in memory. An adapter stays an adapter: it is read over the base's storage, and the teacher costs no second
# copy of the weights.

# %%
students = {"student": "my-student", "neutral_student": "my-neutral-student"}
lineage = interp.load_lineage(base="my-base", teacher="my-teacher", student=students, trait=owl)
merged = interp.load_lineage(base="my-base", teacher="my-teacher-merged", trait=owl)
lineage

# %% [markdown]
# While loading, each member's hooked forward pass was compared with plain Hugging Face, padding included; more than
# 1e-3 nats apart in fp32 and it would have been refused. Here is the number itself:

# %%

apart = {role: interp.models.parity(model) for role, model in lineage.members.items()}
assert max(apart.values()) < 1e-4
pd.Series(apart, name="largest difference of log p (nats)").to_frame().style.format("{:.1e}")

# %% [markdown]
# ## Figure 1 · The verbs, on your checkpoint
#
# From here on nothing knows where the model came from. Which components moved the owl contrast, where the first
# number is chosen? `positions` names the place: "last" is the end of the prompt; left out, these rows would be read
# where their numbers are predicted.

# %%
direction = interp.logit_direction(lineage.base, owl)
shift = interp.shift(lineage.teacher, prompts, positions="last")
attribution = interp.attribute(shift, direction)
attribution.figure()

# %%
other = interp.attribute(interp.shift(merged.teacher, prompts, positions="last"), direction)
change, same = attribution.frame["measured"].iloc[0], other.frame["measured"].iloc[0]
assert abs(attribution.frame["residual"].iloc[0]) < 1e-4  # prediction 2
assert abs(change - same) < 1e-3  # prediction 3
left = abs(attribution.frame["residual"].iloc[0])
print(f"measured {change:+.4f} logits live, {same:+.4f} merged; left over {left:.0e}")

# %% [markdown]
# Which contrast was that? The log-probability of "owl" minus the mean over its foils, nine other animals. This
# tokenizer is so small that it has a token of its own for only one of the ten, "cat". A word of several pieces counts
# whole: log p(owl) = log p(*o*) + log p(*w* after *o*) + log p(*l* after *ow*). A first piece alone would not do,
# since every word that begins with *o* begins with it. In the figure above, the components are held against the first
# pieces, and what the pieces after them add is one bar, *later pieces*.
#
# With your own tokenizer look here first: the notes say how each word is written *as an answer to the trait's
# questions*, since "owl" and " owl" are often different tokens.

# %%
assert direction.label.startswith("'owl' ")
assert [len(word.pieces) for word in direction.words].count(1) == 1  # of ten words
assert "'cat' is one token; 'owl' is 3 pieces, 'o' 'w' 'l'; " in direction.notes[0]
assert "later pieces" in set(attribution.frame["component"])
print(direction.label, direction.notes[0].replace("; ", "\n").replace(": words", "\nwords"), sep="\n")

# %% [markdown]
# ## Figure 2 · The update, read off the adapter
#
# The rank of the change is the adapter's, and only the adapted matrices changed.

# %%
spectrum = interp.spectrum(lineage.teacher, owl)
spectrum.figure().update_layout(width=1000)

# %%
changed = spectrum.frame[spectrum.frame["norm"] > 0]
assert len(changed) == 4 * config.num_hidden_layers
assert changed["effective_rank"].max() <= 4
lineage.update("teacher")

# %% [markdown]
# ## Figure 3 · Does a student move what its teacher moved?
#
# The question of notebook 2, on your members: S = student − neutral student, T = teacher − base, on identical tokens.
# `words="all"` compares the whole vocabulary; with rows in the lineage "unseen" would leave out every token that the
# student has read.

# %%
agreed = interp.agreement(lineage, words=["all"], prompts=prompts)
r = agreed.frame.pivot(index="place", columns="member", values="r")
assert r["student"].max() < 0.2
assert (r["neutral_student"] > 0.3).all()
assert (agreed.frame["entries"] == len(tokenizer)).all()
agreed.figure().update_layout(width=1000)

# %% [markdown]
# S does not go along T, as it should not: the student's adapter was drawn at random. But look at its control. The
# *neutral student*, drawn just as blindly, reaches a correlation of .4 with the teacher over five hundred words, at all
# three places. Taken as five hundred independent observations that would be beyond any doubt, and it is an accident of
# three draws: two low-rank changes of one model share directions, and the words move together. So an agreement is read
# beside its controls (`agreement` adds those that the lineage has members for: another initialisation, a control
# teacher, other traits' teachers, `candidates=`), and its replicates are trainings, not words.
#
# ## What is checked at the door
#
# Most wrong answers about a model begin with a wrong file. A checkpoint that is not what it is taken for is refused
# with one sentence: what was given, and what to do. Two of them. First an adapter that was made for another base:


# %%
def refused(verb, *arguments, **options) -> str:
    """The sentence with which the package refuses this call."""
    try:
        verb(*arguments, **options)
    except interp.InputError as error:
        return str(error)
    raise AssertionError("nothing was refused")


config.num_hidden_layers = 3
LlamaForCausalLM(config).save_pretrained("another-base")
tokenizer.save_pretrained("another-base")
sentence = refused(interp.load_lineage, base="another-base", teacher="my-teacher")
assert "made for another base" in sentence
print(sentence)

# %% [markdown]
# Then a teacher that is the base under another name, as after saving the wrong variable. Every difference would be
# zero:

# %%
sentence = refused(interp.load_lineage, base="my-base", teacher="my-base")
assert "weights" in sentence
print(sentence)

# %% [markdown]
# Also refused: pickled weights (they can run code), truncated files, missing or misshapen tensors, weights that are
# not finite, a tokenizer with more ids than the model has embeddings, members that split text differently, rows
# longer than the context, and rows that hold a system message, since the trait prompt would then be in the context.

# %% [markdown]
# ## The whole experiment from one file
#
# So far the teacher existed. `interp run` makes everything: teachers, numbers, students, controls, evaluation,
# report. A recipe is a YAML file in which every key is known; this one ships as `small` and suits a small pretrained
# checkpoint on a CPU.

# %%
recipes = files("interp.experiment") / "recipes"
print((recipes / "small.yaml").read_text())

# %% [markdown]
# Single values are replaced on the command line. A key that does not exist is refused before anything is trained,
# with the nearest one that does, so that a slip of the pen cannot pass as a default:

# %%
mine = ["base.model=my-base", "cross_base.model=my-base"]
experiment = interp.read_experiment("small", changes=[*mine, "data.rows=2048", "seeds=[0, 1]"])
assert experiment.data.rows == 2048
assert experiment.seeds == (0, 1)
sentence = refused(interp.read_experiment, "small", changes=[*mine, "student.recipe.batchsize=64"])
assert "nearest: batch_size" in sentence
print(sentence.replace(str(recipes), "recipes"))

# %% [markdown]
# ```
# interp run small --out runs/small --set base.model=FOLDER --set cross_base.model=FOLDER
# interp run my.yaml --out runs/mine --set data.rows=2048 --set "seeds=[0, 1]" --workers 2
# interp trace --base my-base --teacher my-teacher --prompts rows.jsonl --trait owl --out runs/trace
# ```
#
# A killed run goes on where it was. It leaves one lineage folder per trait and seed, which every verb of these
# notebooks reads (`interp.load_lineage("runs/mine/lineages/owl-0")`), tables, and `report.html`. Four controls are on
# unless you take them out: the neutral teacher's rows, another trait's rows, another base, and the rows read in
# context without training. `cross_base` above is the same architecture with weights drawn anew (`reinitialise`).

# %% [markdown]
# ## What changes on a GPU
#
# The recipe `qwen` is the published open-model experiment, for one GPU:

# %%
print((recipes / "qwen.yaml").read_text())

# %%
qwen = interp.read_experiment("qwen")
steps = qwen.student.recipe
assert qwen.base.dtype == "bfloat16"
assert qwen.cross_base is None
assert "cross-base" not in qwen.controls
assert steps.batch_size // steps.accumulate == 20
compared = {"small": experiment, "qwen": qwen}
pd.DataFrame(
    {
        name: {
            "dtype": each.base.dtype or "the checkpoint's own",
            "rows": each.data.rows,
            "sampled at once": each.data.sampling.batch_size,
            "rows a training step": each.student.recipe.batch_size,
            "of these at once": each.student.recipe.batch_size // each.student.recipe.accumulate,
            "controls": ", ".join(each.controls),
        }
        for name, each in compared.items()
    }
)

# %% [markdown]
# - **dtype.** bf16 halves the memory while training and sampling. What is measured is measured in fp32: a verb makes a
#   copy of 16-bit weights, once, keeps it beside them, and says so in its notes. Leave room for both, or load with
#   `dtype="float32"` where you only measure.
# - **Batch size.** `data.sampling.batch_size` for generation; for training `accumulate`, which splits a step into
#   parts and adds their gradients up to the same step. Running out of memory is said as which of these to lower.
# - **vLLM.** With vLLM installed and a CUDA device, `engine: auto` samples the answers with it; a steered teacher,
#   which it cannot serve, stays with plain `generate`. Its samples are other draws of the same distribution.
# - **Several GPUs.** `torchrun --nproc-per-node 4 script.py`: inside, `interp.record` and `interp.score` share
#   batches or shards among the ranks, and every rank ends with the whole result. Across machines, `INTERP_CACHE` must
#   be a folder that all ranks see.
# - **A cluster.** `--backend ray` hands the cells of a run (one training or sampling each) to Ray; `--workers` says
#   how many at a time, by default one where there is a GPU and one a core elsewhere.
#
# None of this list is executed here: this page was built on a processor.

# %% [markdown]
# ## Verdict
#
# On this model, each of the five predictions as one line:

# %%
error = interp.lens(shift, direction).frame["standard_error"].iloc[-1]  # of the change itself, over rows
checks = {
    "hooked model = plain Hugging Face (nats apart)": (max(apart.values()), max(apart.values()) < 1e-4),
    "attribution is complete (logits left over)": (left, left < 1e-4),
    "adapter = merged weights (logits apart)": (abs(change - same), abs(change - same) < 1e-3),
    "a random adapter moves the owl contrast (logits)": (abs(change), abs(change) > 5 * error),
    "a random student agrees less than its control (largest r)": (
        r["student"].max(),
        (r["student"] < r["neutral_student"]).all(),
    ),
}
assert all(held for _, held in checks.values())
pd.DataFrame([{"prediction": name, "value": value} for name, (value, _) in checks.items()]).style.hide(
    axis="index"
).format({"value": "{:.1e}"})

# %% [markdown]
# The last two lines are the warning. A random adapter, which has learned nothing, moves the contrast by more than five
# of its own standard errors, and a random control agrees with a random teacher. Those errors run over rows or words of
# one model; that a fine-tune *means* something by it takes independent trainings and a control, as in notebooks 1 to 5.

# %% [markdown]
# ## What would change our mind
#
# - **An architecture that fails at the door.** Exactness is tested on tiny random gpt2, llama, qwen2, qwen3, gemma2,
#   gpt-neo and gpt-neox checkpoints. A model that writes to the residual stream elsewhere is refused, and then these
#   verbs do not apply.
# - **A residual that grows with depth.** Four layers in fp32 leave rounding. If sixty leave more than the tolerance,
#   `attribute` stops and says how much.
# - **A real base that disagrees with the toy.** That is what `interp run` is for, and both signs would be news.

# %%
os.chdir(Path.home())
workshop.cleanup()
