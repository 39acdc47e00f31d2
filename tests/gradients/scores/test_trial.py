"""The self-test of `score` is made once for all it depends on, and never left out where something acts unseen."""

import pytest
import torch

import interp.gradients.scores.trial as trial_module
from interp.core.runs import InputError
from interp.gradients.scores.scoring import score
from interp.models.low_rank import LowRank
from interp.models.memory import saved_bytes
from interp.prompts.text import Prompts
from tests.gradients.rows import along
from tests.gradients.scores.test_exactness import directions, load

ROWS = Prompts.from_pairs([(f"list {i}", ", ".join(["1"] * (1 + i % 4))) for i in range(6)])
OTHER = Prompts.from_pairs([(f"list {i}", ", ".join(["2"] * (1 + i % 4))) for i in range(6)])


@pytest.fixture
def llama(tiny):
    return load(tiny("llama"), "llama")


@pytest.fixture
def tried(monkeypatch):
    """The rows of every self-test that was made."""
    found, check = [], trial_module.check_padding

    def counted(work, rows, *, batch_size):
        found.append(len(rows))
        return check(work, rows, batch_size=batch_size)

    monkeypatch.setattr(trial_module, "check_padding", counted)
    return found


def test_other_rows_of_the_same_sizes_are_not_tried_again(llama, tried):
    own = directions(llama)[0]
    score(llama, ROWS, own)
    score(llama, OTHER, own)
    assert tried == [6]


def test_more_rows_longer_ones_and_wider_padding_are(llama, tried):
    own = directions(llama)[0]
    longer = Prompts.from_pairs([("list", ", ".join(["1"] * n)) for n in (1, 1, 1, 1, 1, 30)])
    for rows in (ROWS[:2], ROWS, longer, ROWS):
        score(llama, rows, own)
    assert tried == [2, 6, 6]


def test_another_route_key_kind_of_direction_or_attention_is(tiny, llama, tried):
    own = directions(llama)[0]
    name = "model.layers.0.mlp.up_proj.weight"
    thin = along(llama, {name: LowRank(torch.ones(own[name].shape[0], 1), torch.ones(1, own[name].shape[1]))})
    score(llama, ROWS, own)
    score(llama, ROWS, own.only(name))
    score(llama, ROWS, thin)
    score(llama, ROWS, own, by=["example", "module"])
    score(llama, ROWS, own, by=["example", "token"])
    llama.hf.set_attn_implementation("eager")
    score(llama, ROWS, along(llama, dict(own.items()), label="eager"), by=["module"])
    assert len(tried) == 6


def test_other_weights_and_other_versions_are(tiny, tried, monkeypatch):
    for seed in (0, 1):
        model = load(tiny("llama", seed), "llama")
        score(model, ROWS, directions(model)[0])
    monkeypatch.setattr(trial_module, "versions", lambda: {"torch": "another"})
    score(model, OTHER, directions(model)[0])
    monkeypatch.setattr(trial_module, "_code", lambda: "edited")
    score(model, OTHER[1:], directions(model)[0])
    assert len(tried) == 4


def test_a_hook_that_comes_later_is_found_out(llama, tried):
    """The weights and their fingerprint stay as they were; what acts on the rows does not."""
    own = directions(llama)[0]
    score(llama, ROWS, own)
    llama.hf.model.layers[0].mlp.register_forward_hook(
        lambda m, a, out: out + 0.1 * out.mean(0, keepdim=True)
    )
    with pytest.raises(InputError, match="a row's score changes by"):
        score(llama, OTHER, own)
    assert len(tried) == 2


def test_a_failure_is_not_remembered(llama, tried, monkeypatch):
    monkeypatch.setattr(trial_module, "TOLERANCE", {torch.float32: -1.0})
    for _ in range(2):
        with pytest.raises(InputError, match=r"more than -1e\+00"):
            score(llama, ROWS, directions(llama)[0])
    assert len(tried) == 2


def test_a_batch_that_does_not_fit_is_refused_before_anything_is_scored(llama, tried, monkeypatch):
    monkeypatch.setattr("interp.models.memory.available_memory", lambda: 2**10)
    with pytest.raises(
        InputError,
        match=r"scoring .* takes [\d.e-]+ GiB of memory and 9\.5e-07 GiB are free; lower batch_size \(now 4\), or free",
    ):
        score(llama, ROWS, directions(llama)[0], batch_size=4)
    assert not tried


def test_what_a_batch_needs_grows_with_its_rows_and_their_length(llama, monkeypatch):
    asked = []
    monkeypatch.setattr(trial_module, "check_memory", lambda needed, *_, **__: asked.append(needed))
    own = directions(llama)[0]
    score(llama, ROWS, own, batch_size=2)
    score(llama, OTHER, own, batch_size=4)
    long = Prompts.from_pairs([("list", ", ".join(["3"] * n)) for n in (1, 40)])
    score(llama, long, own, batch_size=2)
    assert asked[1] == 2 * asked[0] > 0
    assert asked[2] > 2 * asked[0]


def test_room_is_measured_once_for_rows_of_one_length(llama, monkeypatch):
    measured = []

    def counted(network, run):
        measured.append(1)
        return saved_bytes(network, run)

    monkeypatch.setattr(trial_module, "saved_bytes", counted)
    own = directions(llama)[0]
    score(llama, ROWS, own)
    score(llama, OTHER, own)
    assert len(measured) == 1
    long = Prompts.from_pairs([("list", ", ".join(["3"] * n)) for n in (1, 40)])
    score(llama, long, own)
    assert len(measured) == 2
