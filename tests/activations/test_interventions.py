"""Edits seen by logits and by later hooks while the block is open, and gone bit for bit after it."""

import pytest
import torch

from interp.activations import Direction, ablate, moments, patch, record, steer
from interp.core.runs import InputError
from interp.models.language import load_model
from interp.prompts.text import Prompts
from tests.tiny import build_model, build_tokenizer

PRE, POST, LAST = "blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"
Z = "blocks.1.attn.hook_z"
PROMPTS = Prompts.from_pairs([("1 , 2 , 3", "4 , 5 , 6"), ("owl 7", "8"), ("9 , 9", "9 , 9")], label="pairs")


@pytest.fixture(scope="module", params=["llama", "gpt2", "gpt_neox"])
def model(request):
    return load_model(build_model(request.param, seed=0), tokenizer=build_tokenizer(), name=request.param)


@pytest.fixture(scope="module")
def batch(model):
    return model.encode(PROMPTS)


@pytest.fixture
def untouched(model, batch):
    """Logits before the test; after it they must be the same bits."""
    before = model.logits(batch).clone()
    yield before
    assert torch.equal(model.logits(batch), before)


@pytest.fixture
def vector():
    return torch.randn(32, generator=torch.Generator().manual_seed(3))


def read(model, hook):
    return record(model, PROMPTS, hooks=hook, positions="all")


def test_steering_adds_the_vector_and_reaches_the_logits(model, batch, untouched, vector):
    plain = read(model, POST)
    with steer(model, hook=POST, vector=vector, scale=2.0) as steered:
        assert steered is model
        moved = read(model, POST) - plain
        assert torch.allclose(moved.flat(POST), (2 * vector).expand(int(moved.mask.sum()), -1), atol=1e-5)
        assert (model.logits(batch) - untouched).abs().max() > 1e-3


def test_steering_at_positions_leaves_earlier_tokens_alone(model, batch, untouched, vector):
    here = torch.zeros_like(batch.mask)
    here[0, 3] = True
    with steer(model, hook=POST, vector=vector, positions=here):
        moved = (model.logits(batch) - untouched).abs().amax(-1)
    assert moved[0, :3].max() < 1e-5
    assert moved[0, 3] > 1e-3
    assert moved[1:][batch.mask[1:]].max() < 1e-5
    with (
        steer(model, hook=POST, vector=vector, positions=here[:2]),
        pytest.raises(InputError, match=r"do not match"),
    ):
        model.logits(batch)


def test_ablating_a_direction_leaves_no_component(model, untouched, vector):
    plain = read(model, POST)
    with ablate(model, hook=POST, direction=vector):
        left = read(model, POST)
    assert left.project(vector).nan_to_num().abs().max() < 1e-5
    across = plain.flat(POST) - plain.project(vector)[plain.mask][:, None] * (vector / vector.norm())
    assert torch.allclose(left.flat(POST), across, atol=1e-5)


def test_mean_ablation_sets_the_component_to_its_mean(model, untouched, vector):
    mean = moments(model, PROMPTS, hooks=POST, positions="all")[POST].mean
    with ablate(model, hook=POST, direction=vector, value="mean", over=PROMPTS):
        left = read(model, POST)
    component = left.project(vector)[left.mask]
    assert torch.allclose(component, (mean @ vector / vector.norm()).expand_as(component), atol=1e-5)


def test_ablating_heads_zeroes_them_alone(model, batch, untouched):
    plain = read(model, Z)
    with ablate(model, hook=Z, heads=[1, 3]):
        left = read(model, Z)
        assert (model.logits(batch) - untouched).abs().max() > 1e-4
    assert left[Z][:, :, [1, 3]].abs().max() == 0
    assert torch.allclose(left[Z][:, :, [0, 2]], plain[Z][:, :, [0, 2]], atol=1e-6)
    mean = plain.mean(Z)
    with ablate(model, hook=Z, heads=[2], value="mean", over=PROMPTS):
        left = read(model, Z).flat(Z)
    assert torch.allclose(left[:, 2], mean[2].expand_as(left[:, 2]), atol=1e-5)
    assert torch.allclose(left[:, 0], plain.flat(Z)[:, 0], atol=1e-6)


def test_ablating_a_whole_hook(model, untouched):
    hook = "blocks.1.hook_mlp_out"
    with ablate(model, hook=hook):
        assert read(model, hook)[hook].abs().max() == 0


def test_patching_puts_the_source_where_it_was_read(model, batch, untouched, vector):
    with steer(model, hook=PRE, vector=vector):
        wanted = model.logits(batch)
        source = read(model, POST)
    with patch(model, hook=POST, source=source):
        assert torch.allclose(model.logits(batch)[batch.mask], wanted[batch.mask], atol=1e-4)
    with patch(model, hook=POST, source=record(model, PROMPTS, hooks=POST, positions="answer.numbers")):
        assert torch.allclose(model.logits(batch), untouched, atol=1e-5)  # its own values: nothing moves
    message = r"holds 2 rows and the batch 3; patch the rows that were recorded"
    with (
        patch(model, hook=POST, source=source.select(examples=[0, 1])),
        pytest.raises(InputError, match=message),
    ):
        model.logits(batch)


def test_a_single_source_row_goes_into_every_row(model, batch, untouched):
    last = record(model, PROMPTS[[1]], hooks=POST, positions="last")
    with patch(model, hook=POST, source=last):
        values = model.run(batch, hooks=[POST])[POST]
    column = int(last.where[0, 0])
    assert torch.allclose(values[:, column], last[POST][0, 0].expand(3, -1), atol=1e-6)


def test_an_error_inside_the_block_leaves_nothing(model, untouched, vector):
    with pytest.raises(RuntimeError, match=r"stop"), steer(model, hook=LAST, vector=vector):
        raise RuntimeError("stop")


def test_what_does_not_fit_is_refused(model, batch, untouched, vector):
    refused = [
        (
            steer(model, hook=POST, vector=vector[:5]),
            r"a vector of shape \(5,\) does not fit .* width 32; take one",
        ),
        (steer(model, hook="blocks.0.hook_resid_pots", vector=vector), "nearest: blocks.0.hook_resid_post"),
        (ablate(model, hook=POST, direction=torch.zeros(32)), "has norm 0.0; give a non-zero vector"),
        (ablate(model, hook=POST, heads=[0]), "heads are ablated at blocks.<layer>.attn.hook_z, not at"),
        (ablate(model, hook=Z, heads=[0], direction=vector), "a direction or heads, not both"),
        (ablate(model, hook=POST, value="mean"), "pass over=prompts"),
        (ablate(model, hook=POST, value="median"), "'zero' or 'mean', not 'median'"),
        (patch(model, hook=LAST, source=read(model, POST)), "is unknown; nearest: blocks.0.hook_resid_post"),
    ]
    for block, message in refused:
        with pytest.raises(InputError, match=message), block:
            pytest.fail("the block opened")
    with ablate(model, hook=Z, heads=[9]), pytest.raises(InputError, match=r"has heads 0 to 3, not 9"):
        model.logits(batch)
    with steer(model, hook=Z, vector=vector[:5]), pytest.raises(InputError, match=r"whose values are"):
        model.logits(batch)


def test_directions_of_other_weights_are_refused(model, untouched, vector):
    own = Direction(vector, POST, "mean", model.fingerprint, model.fingerprint)
    with steer(model, hook=POST, vector=own):
        assert torch.isfinite(read(model, LAST)[LAST]).all()
    other = Direction(vector, POST, "owl", "c" * 16, "c" * 16)
    message = r"direction 'owl' was read in the lineage of 'c{16}'"
    with pytest.raises(InputError, match=message), ablate(model, hook=POST, direction=other):
        pytest.fail("the block opened")
