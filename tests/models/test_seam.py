"""The unembedding by hand, and the text of every refusal of the seam."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from interp.core.runs import InputError
from interp.models.seam import Unembedding, check_finite, check_hooks, check_pair

RESID = torch.tensor([3.0, 4.0])


def unembedding(kind, *, eps=0.0, softcap=None, weight=(1.0, 1.0), bias=(0.0, 0.0)):
    W_U = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    b_U = torch.tensor([0.0, 0.0, 10.0])
    return Unembedding(W_U, b_U, kind, torch.tensor(weight), torch.tensor(bias), eps, softcap)


def test_rms_norm_divides_by_the_root_mean_square():
    out = unembedding("rms", weight=(1.0, 2.0))
    rms = math.sqrt((9 + 16) / 2)
    assert out.scale(RESID).item() == pytest.approx(rms)
    expected = [3 / rms, 8 / rms, 11 / rms + 10]
    assert out.logits(RESID).tolist() == pytest.approx(expected)


def test_layer_norm_subtracts_the_mean_and_adds_its_bias():
    out = unembedding("layer", bias=(0.5, 0.0))
    assert out.scale(RESID).item() == pytest.approx(0.5)
    assert out.normed(RESID).tolist() == pytest.approx([-0.5, 1.0])
    assert out.logits(RESID).tolist() == pytest.approx([-0.5, 1.0, 10.5])


def test_eps_stands_inside_the_root():
    assert unembedding("rms", eps=3.5).scale(RESID).item() == pytest.approx(4.0)


def test_without_a_norm_the_stream_is_read_as_it_is():
    out = unembedding("none")
    assert out.logits(RESID).tolist() == [3.0, 4.0, 17.0]
    assert out.scale(RESID.expand(5, 2)).shape == (5, 1)


def test_a_softcap_bends_logits_last():
    out = unembedding("none", softcap=2.0)
    assert out.logits(RESID).tolist() == pytest.approx([2 * math.tanh(x / 2) for x in (3.0, 4.0, 17.0)])


class Tokenizer:
    def __init__(self, vocabulary, pieces=(1,)):
        self.vocabulary, self.pieces = vocabulary, list(pieces)

    def get_vocab(self):
        return self.vocabulary

    def __call__(self, text, add_special_tokens):
        return {"input_ids": self.pieces}


def stub(name, *, fingerprint, shape=(2, 3), tokenizer=None, weight="w") -> Any:
    return SimpleNamespace(
        name=name,
        fingerprint=fingerprint,
        tokenizer=tokenizer,
        parameters=lambda: {weight: torch.zeros(shape)},
        hook_names=("hook_embed", "blocks.0.hook_resid_post"),
    )


def test_members_that_belong_together_pass():
    tokenizers = [Tokenizer({"a": 0}), Tokenizer({"a": 0})]
    check_pair(*(stub(str(i), fingerprint=str(i), tokenizer=tokenizers[i]) for i in range(2)))


REFUSED = {
    r"student and base have identical weights \(f0\)": {"fingerprint": "f0"},
    r"student and base have different shapes: w is \[2, 4\] in one and \[2, 3\] in the other": {
        "shape": (2, 4)
    },
    r"student has weights v and base has none": {"weight": "v"},
    r"student and base have different vocabularies \(2 and 1 entries, 'b' differs\)": {
        "tokenizer": Tokenizer({"a": 0, "b": 1})
    },
    r"the tokenizers of student and base split '.*' into different tokens": {
        "tokenizer": Tokenizer({"a": 0}, (1, 2))
    },
}


@pytest.mark.parametrize("message", REFUSED)
def test_members_that_do_not_belong_together_are_refused(message):
    base = stub("base", fingerprint="f0", tokenizer=Tokenizer({"a": 0}))
    with pytest.raises(InputError, match=message):
        check_pair(stub("student", **{"fingerprint": "f1", **REFUSED[message]}), base)


def test_a_mistyped_hook_name_offers_the_nearest():
    model = stub("toy", fingerprint="f")
    check_hooks(model, ["hook_embed"])
    with pytest.raises(
        InputError, match=r"hook 'hook_embd' is unknown; nearest: hook_embed; toy.hook_names lists all 2"
    ):
        check_hooks(model, ["hook_embed", "hook_embd"])


def test_the_first_tensor_with_nan_is_named():
    weights = {
        "fine": torch.ones(3),
        "ids": torch.ones(2, dtype=torch.long),
        "bad": torch.tensor([1.0, math.nan]),
    }
    with pytest.raises(
        InputError, match=r"student has NaN or inf in bad \(1 of 2 values\); take a checkpoint"
    ):
        check_finite(weights, "student")
    del weights["bad"]
    check_finite(weights, "student")
