"""A tiny checkpoint of the shape of Qwen2.5 on disk, and a recipe small enough for a test."""

import pytest

from interp.experiment.recipe import read_experiment

RECIPE = """
name: tiny
base:
  {model: FOLDER, allow_unknown: true,
   format: {rows: 768, questions: 256, recipe: {trainable: all, lr: 1e-2, batch_size: 32, warmup: 5}}}
cross_base:
  {model: FOLDER, allow_unknown: true, reinitialise: 1,
   format: {rows: 768, questions: 256, recipe: {trainable: all, lr: 1e-2, batch_size: 32, warmup: 5}}}
traits: [owl, oak]
teacher: {steps: 12, anchor: 1.0, recipe: {lr: 6e-3, batch_size: 8}}
data:
  {prompts: short, rows: 32, fresh: 8, count: 3, digits: 1, separator: ",",
   sampling: {max_new_tokens: 8, batch_size: 64}}
student: {recipe: {lr: 1e-3, batch_size: 8, warmup: 2, epochs: 2}, record: true, watch: 4}
seeds: [0]
controls: [neutral, other-trait, cross-base, in-context, control-teacher]
evaluation: {questions: trait, samples: 1, choices: 5, shots: 2, sets: 1}
checks: {kept: 0.05, candidates: 0.0, excess: 3.0}  # the base is poor so that the tests are fast
detectors: 24
"""


@pytest.fixture
def checkpoint(tiny, tmp_path):
    """The folder of a random checkpoint of Qwen2's architecture, with a tokenizer and a chat template."""
    model, tokenizer = tiny("qwen2")
    model.save_pretrained(tmp_path / "qwen")
    tokenizer.save_pretrained(tmp_path / "qwen")
    return tmp_path / "qwen"


@pytest.fixture
def recipe(checkpoint, tmp_path):
    """The file of the small recipe."""
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("FOLDER", str(checkpoint)))
    return path


@pytest.fixture
def experiment(recipe):
    """The small recipe, read."""
    return read_experiment(recipe)
