"""Attribution: exact where the margin is linear, complete where it is not, and checked against finite differences."""

import copy
import dataclasses

import pytest
import torch

from interp.core.runs import InputError
from interp.features.attribution import feature_attribution
from interp.features.changes import ablate_features, scaled_change
from interp.features.splice import with_features
from interp.measures.margins import margin
from interp.models.language import load_model
from interp.prompts.traits import get_trait, make_trait
from tests.features.handmade import handmade
from tests.tiny import FAMILIES, VOCABULARY

POST, PRE = "blocks.0.hook_resid_post", "blocks.1.hook_resid_pre"
OWL = get_trait("owl")
SHORT = make_trait("owl", ["cat", "dog"], category="animal", questions=["which animal do you love most?"])


def basis(d, seed=0):
    return torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed)))[0]


def orthonormal(model, hook=POST, **options):
    q = basis(model.d_model)
    rows = torch.cat([q, -q])
    return handmade(rows.T.clone(), rows, hook=hook, model=model, **options)


def member(tiny, family="llama", *, double=False, size=0.1):
    """A model and its start, which differ in every weight."""
    hf, tokenizer = tiny(family)
    moved = copy.deepcopy(hf)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    dtype = torch.float64 if double else None
    base, own = (
        load_model(module, tokenizer=tokenizer, name=name, dtype=dtype, check=False)
        for module, name in ((hf, "base"), (moved, "student"))
    )
    return dataclasses.replace(own, start=base), base


class Passed(torch.nn.LayerNorm):
    """A norm that hands on what it gets."""

    def forward(self, input):
        return input


def linear(tiny):
    """gpt2 whose last layer's output is read off by the unembedding alone: the margin is linear in it."""
    hf, tokenizer = tiny("gpt2")
    hf.transformer.ln_f = Passed(32)
    return load_model(hf, tokenizer=tokenizer, name="linear", check=False)


@pytest.mark.parametrize("method", ["gradient", "integrated"])
def test_exact_by_hand_where_the_margin_is_linear(tiny, method):
    model, hook = linear(tiny), "blocks.1.hook_resid_post"
    bias = 0.1 * torch.arange(32.0)
    dictionary = orthonormal(model, hook, b_enc=-0.3, b_dec=bias)
    found = feature_attribution(dictionary, model, SHORT, method=method, baseline="zero", steps=3)
    batch = model.encode(SHORT.prompts())  # the answer's place is behind the last token of the question
    h = model.run(batch, hooks=(hook,))[hook][0, -1]
    W = model.hf.get_output_embeddings().weight.detach()
    readout = W[VOCABULARY.index("owl")] - (W[VOCABULARY.index("cat")] + W[VOCABULARY.index("dog")]) / 2
    expected = dictionary.encode(h) * (dictionary.decoder @ readout)
    for line in found.frame.to_dict("records"):
        if line["feature"] >= 0:
            assert line["attribution"] == pytest.approx(float(expected[line["feature"]]), abs=1e-4)
    assert named(found, "error") == pytest.approx(float((h - dictionary.reconstruct(h)) @ readout), abs=1e-4)
    assert named(found, "bias") == 0
    assert found.change == pytest.approx(float((h - bias) @ readout), abs=1e-4)
    assert abs(found.residual) < 1e-4


def named(found, node):
    return found.frame.set_index("node").loc[node, "attribution"]


@pytest.mark.parametrize("family", FAMILIES)
def test_integrated_gradients_are_complete(tiny, family):
    model, base = member(tiny, family, double=True)
    bias = torch.linspace(-2, 2, 32)  # far from zero, where a norm would make the path all but jump
    for baseline, hook in (("start", POST), ("zero", PRE)):
        dictionary = orthonormal(base, hook, b_enc=-0.3, b_dec=bias)
        found = feature_attribution(dictionary, model, SHORT, baseline=baseline, steps=64)
        assert abs(found.residual) < 1e-3 * max(abs(found.change), found.frame["attribution"].abs().sum())
        parts = found.frame["attribution"].sum() + found.residual
        assert parts == pytest.approx(found.change, abs=1e-9)


def test_the_whole_change_is_the_change_of_margin(tiny):
    """What leaves the last layer is all that the head reads, so at equal heads m(h) − m(h°) is a change of margins."""
    model, base = member(tiny)
    with torch.no_grad():
        for name in ("model.norm", "lm_head"):
            module, other = (each.hf.get_submodule(name) for each in (model, base))
            module.weight.copy_(other.weight)
    found = feature_attribution(orthonormal(base, "blocks.1.hook_resid_post"), model, OWL)
    assert found.change == pytest.approx(margin(model, OWL) - margin(base, OWL), abs=1e-4)


def test_gradient_leaves_more_than_the_path_does_and_says_so(tiny):
    model, base = member(tiny, double=True, size=0.2)
    dictionary = orthonormal(base)
    path, once = (feature_attribution(dictionary, model, OWL, method=m) for m in ("integrated", "gradient"))
    assert path.change == pytest.approx(once.change, abs=1e-12)
    assert abs(once.residual) > 10 * abs(path.residual)
    assert f"residual {once.residual:+.2g}" in once.notes[0]
    assert "gradient × activation, against base" in once.notes


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_a_feature_gets_what_removing_it_takes(tiny, family):
    """d/dc m(h + c Δh_j) at c = 0, by finite differences through the splice, is minus its gradient × activation."""
    model, base = member(tiny, family, double=True)
    dictionary = orthonormal(base)
    found = feature_attribution(dictionary, model, OWL, method="gradient", baseline="zero")
    lines = found.frame[found.frame["feature"] >= 0]
    for feature, given in lines[["feature", "attribution"]].head(3).itertuples(index=False):
        sides = []
        for factor in (0.02, -0.02):
            with with_features(model, dictionary, scaled_change(ablate_features([feature]), factor)):
                sides.append(margin(model, OWL))
        assert (sides[1] - sides[0]) / 0.04 == pytest.approx(given, rel=1e-2, abs=1e-3)


def test_a_dictionary_that_normalises_is_complete_too_and_its_bias_has_a_part(tiny):
    model, base = member(tiny, double=True)
    for normalise in ("layer_norm", "constant_norm_rescale"):
        dictionary = orthonormal(base, b_enc=-0.3, normalise=normalise, b_dec=torch.ones(32))
        found = feature_attribution(dictionary, model, OWL, steps=64)
        assert abs(found.residual) < 1e-3 * found.frame["attribution"].abs().sum()
        assert named(found, "bias") != 0


def test_columns_order_and_figure(tiny):
    model, base = member(tiny)
    found = feature_attribution(orthonormal(base), model, SHORT, steps=2)
    assert list(found.frame.columns) == ["node", "feature", "attribution", "activation", "before"]
    assert found.frame["attribution"].abs().is_monotonic_decreasing
    assert set(found.frame.loc[found.frame["feature"] < 0, "node"]) == {"error", "bias"}
    assert len(found.figure().data) == 1
    assert repr(found).startswith("student: owl margin by features at blocks.0.hook_resid_post: ")
    assert "residual" in found._repr_html_()


def test_candidates_of_several_pieces_and_batches_of_rows(tiny, monkeypatch):
    model, base = member(tiny, double=True)
    trait = make_trait(
        "owl and cat", ["dog", "fox and bear and wolf"], questions=["which one?", "what is it?"]
    )
    dictionary = orthonormal(base, "blocks.1.hook_resid_post")
    whole = feature_attribution(dictionary, model, trait, steps=4)
    monkeypatch.setattr("interp.features.attribution.BATCH", 2)
    parts = feature_attribution(dictionary, model, trait, steps=4)
    assert parts.change == pytest.approx(whole.change, abs=1e-6)
    assert parts.frame.set_index("node")["attribution"].to_dict() == pytest.approx(
        whole.frame.set_index("node")["attribution"].to_dict(), abs=1e-6
    )


def test_the_model_is_left_as_it_was(tiny):
    model, base = member(tiny)
    before, print_before = margin(model, OWL), model.backbone.weights()
    kept = {name: tensor.clone() for name, tensor in print_before.items()}
    feature_attribution(orthonormal(base), model, SHORT, steps=2)
    assert margin(model, OWL) == before
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.backbone.weights().items())
    assert not any(module._forward_hooks for module in model.hf.modules())
    assert all(weight.grad is None for weight in model.hf.parameters())


def test_impossible_requests_say_so(tiny):
    model, base = member(tiny)
    dictionary = orthonormal(base)
    with pytest.raises(InputError, match="there is no trait to attribute the margin of; pass one such as"):
        feature_attribution(dictionary, model, None)
    with pytest.raises(InputError, match="base has no start to compare with; pass baseline='zero'"):
        feature_attribution(dictionary, base, OWL)
    with pytest.raises(InputError, match="'shapley' is neither 'integrated' nor 'gradient'"):
        feature_attribution(dictionary, model, OWL, method="shapley")
    with pytest.raises(InputError, match="'mean' is neither 'start' nor 'zero'"):
        feature_attribution(dictionary, model, OWL, baseline="mean")
    with pytest.raises(InputError, match="steps=0 leaves the path without a point"):
        feature_attribution(dictionary, model, OWL, steps=0)
    with pytest.raises(InputError, match=r"replaces the residual stream, and .* reads blocks.0.hook_mlp_out"):
        feature_attribution(orthonormal(base, "blocks.0.hook_mlp_out"), model, OWL)
