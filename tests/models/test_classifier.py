"""A classifier behind the seam: parity with the batched network, every hook fires and edits, and its refusals."""

import dataclasses

import pytest
import torch

from interp.activations.recording import record
from interp.activations.shifts import shift
from interp.core.runs import InputError
from interp.gradients.scores.scoring import score
from interp.logits.attribution import attribute
from interp.logits.direction import LogitDirection, logit_direction
from interp.logits.lenses import lens
from interp.logits.moved import moved_tokens
from interp.logits.token_shifts import token_shift
from interp.models.classifier import Classifier, Images
from interp.models.parameters import ParameterDirection
from interp.models.seam import check_pair, lineage_root
from interp.organisms.digit_data import load_digits
from interp.organisms.digit_networks import DigitsRecipe
from interp.organisms.digit_transfer import train_digits
from interp.prompts.text import Prompts

RECIPE = DigitsRecipe(
    hidden=(12, 10), teacher_epochs=1, student_epochs=1, lr=1e-2, batch_size=256, noise_images=256
)


@pytest.fixture(scope="module")
def trained():
    return train_digits(RECIPE, load_digits(), seeds=(0, 1), arms=("student", "cross_student"))


@pytest.fixture(scope="module")
def images(trained):
    return Images.of(trained.images.x_test[:7], trained.images.y_test[:7])


@pytest.fixture
def model(trained):
    return trained.classifier("student", 1)


def test_logits_are_those_of_the_batched_network(trained, images):
    pixels = images.pixels.expand(2, -1, -1)
    for arm in ("teacher", "student"):
        batched = trained.members[arm].logits(pixels)
        for k, seed in enumerate(trained.seeds):
            single = trained.classifier(arm, seed).logits(images)
            assert single.shape == (7, 1, 13)
            torch.testing.assert_close(single[:, 0], batched[k], atol=1e-6, rtol=0)


def test_every_hook_fires_and_layers_follow_one_another(model, images):
    found = model.run(images, hooks=model.hook_names)
    widths = {name: values.shape[-1] for name, values in found.items()}
    assert widths == {
        "hook_input": 64,
        "blocks.0.hook_pre": 12,
        "blocks.0.hook_resid_post": 12,
        "blocks.1.hook_pre": 10,
        "blocks.1.hook_resid_post": 10,
    }
    assert set(model.network.hook_dict) == set(model.hook_names)
    assert torch.equal(found["hook_input"][:, 0], images.pixels)
    for k in (0, 1):
        assert torch.equal(found[f"blocks.{k}.hook_resid_post"], found[f"blocks.{k}.hook_pre"].relu())


def test_the_unembedding_of_the_last_layer_gives_the_logits(model, images):
    last = f"blocks.{model.n_layers - 1}.hook_resid_post"
    read = model.unembedding().logits(model.run(images, hooks=[last])[last])
    torch.testing.assert_close(read, model.logits(images), atol=1e-6, rtol=0)
    assert (model.n_layers, model.d_model, model.tokenizer) == (2, 10, None)


def test_edits_hold_while_open_and_nest(model, images):
    plain, bias = model.logits(images), model.parameters()["unembed.b_U"]
    with model.hooks({"blocks.1.hook_resid_post": torch.zeros_like}):
        torch.testing.assert_close(model.logits(images), bias.expand(7, 1, -1))
        with model.hooks({"blocks.1.hook_resid_post": lambda value: value + 1}):
            seen = model.run(images, hooks=["blocks.1.hook_resid_post"])["blocks.1.hook_resid_post"]
            assert torch.equal(seen, torch.ones(7, 1, 10))
    assert torch.equal(model.logits(images), plain)


def test_an_edit_that_fails_leaves_no_hook_behind(model, images):
    plain = model.logits(images)

    def fail(value):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"), model.hooks({"hook_input": fail}):
        model.logits(images)
    assert torch.equal(model.logits(images), plain)


def test_weights_are_named_copied_and_fingerprinted(trained, model):
    weights = model.parameters()
    assert {name: tuple(w.shape) for name, w in weights.items()} == {
        "blocks.0.W": (64, 12),
        "blocks.0.b": (12,),
        "blocks.1.W": (12, 10),
        "blocks.1.b": (10,),
        "unembed.W_U": (10, 13),
        "unembed.b_U": (13,),
    }
    assert weights["blocks.0.W"].data_ptr() != trained.members["student"].weights[0][1].data_ptr()
    assert model.fingerprint == trained.classifier("student", 1).fingerprint
    check_pair(model, trained.classifier("teacher", 1))


def test_students_descend_from_their_own_start(trained):
    roots = {arm: lineage_root(trained.classifier(arm, 0)) for arm in ("teacher", "student", "cross_student")}
    assert roots["teacher"] == roots["student"] != roots["cross_student"]


def test_activations_are_recorded_and_shifted_like_those_of_a_language_model(model, images):
    hook = "blocks.1.hook_resid_post"
    recorded = record(model, images, hooks=hook, batch_size=3)
    alone = [
        model.run(batch, hooks=[hook])[hook] for batch in images.batches(3)
    ]  # rounding depends on the batch
    assert torch.equal(recorded.values[hook], torch.cat(alone))
    moved = shift(model, images, hooks=hook, positions="last").activations.values[hook]
    expected = recorded.values[hook] - model.start.run(images, hooks=[hook])[hook]
    torch.testing.assert_close(moved, expected)


def test_images_are_cut_and_told_apart(images):
    halves = list(images.batches(4))
    assert [len(half) for half in halves] == [4, 3]
    assert torch.equal(halves[1].pixels, images.pixels[4:])
    assert images[[2, 0]].ids[:, 0].tolist() == [images.ids[2, 0], images.ids[0, 0]]
    assert images.fingerprint != dataclasses.replace(images, pixels=images.pixels + 1).fingerprint


def test_refusals_name_what_would_be_right(model, images):
    with pytest.raises(
        InputError, match=r"'blocks.1.hook_post' is unknown; nearest: .*student 1.hook_names lists"
    ):
        model.run(images, hooks=["blocks.1.hook_post"])
    with pytest.raises(InputError, match=r"student 1 reads images, not Prompts; pass Images\.of"):
        model.encode(Prompts.from_pairs([("a", "b")]))
    with pytest.raises(InputError, match="student 1 reads images of 64 pixels, not 9"):
        model.logits(Images.of(torch.zeros(2, 9)))
    with pytest.raises(InputError, match="student 1 has no attention in layer 0"):
        model.attention_output(0)
    with pytest.raises(InputError, match="0 images were given"):
        Images.of(torch.zeros(0, 9))
    with pytest.raises(InputError, match="flat has 1 layers; give at least a hidden one"):
        Classifier.of("flat", [(torch.zeros(2, 2), torch.zeros(2))])
    broken = [(torch.full((2, 2), torch.nan), torch.zeros(2))] * 2
    with pytest.raises(InputError, match=r"broken has NaN or inf in blocks.0.W \(4 of 4 values\)"):
        Classifier.of("broken", broken)


def test_verbs_of_text_refuse_images_alike(trained, images):
    """One sentence, whichever verb is asked; what works on any network goes on working."""
    start = trained.classifier("student", 0)
    member = dataclasses.replace(trained.classifier("student", 1), start=start)
    moved = shift(member, images, positions="all")
    toward = LogitDirection((2, 0), (1.0, -1.0), "x", start.fingerprint, start.fingerprint)
    update = ParameterDirection({"unembed.b_U": torch.ones(13)}, "x", member.fingerprint, member.fingerprint)
    verbs = {
        "attribute": lambda: attribute(moved, toward),
        "lens": lambda: lens(moved, toward),
        "moved_tokens": lambda: moved_tokens(member, images, positions="last"),
        "token_shift": lambda: token_shift(member, Prompts.from_pairs([("a", "b")]), toward),
        "logit_direction": lambda: logit_direction(member, "owl"),
        "score": lambda: score(member, images, update),
    }
    for ask in verbs.values():
        with pytest.raises(
            InputError, match=r"this is asked of language models alone, and a Classifier reads images$"
        ):
            ask()
