"""Where a score comes from: terms of a tied matrix, modules, positions, virtual biases, and several directions."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from interp.core.runs import InputError
from interp.gradients.scores.engine import (
    Place,
    contributions,
    example_scores,
    find_sites,
    positions,
    whole_examples,
)
from interp.gradients.scores.forward_mode import token_contributions
from interp.gradients.scores.row_loss import row_losses
from interp.gradients.scores.scoring import score
from interp.models.language import load_model
from interp.models.low_rank import LowRank
from interp.prompts.text import Prompts
from interp.prompts.tokens import Role
from tests.gradients.rows import FullDirection, along, bare, by_row, near, read
from tests.gradients.scores.test_exactness import FAMILIES, ROWS, apart, directions, load, oracle


@pytest.fixture
def llama(tiny):
    return load(tiny("llama"), "llama")


class TestTiedMatrices:
    @pytest.mark.parametrize("family", ["qwen2", "gemma2", "gpt2"])
    def test_the_score_is_the_sum_of_both_uses(self, tiny, family):
        model = load(tiny(family), family)
        name = model.hf.get_input_embeddings().weight
        name = next(n for n, w in model.hf.named_parameters() if w is name)
        direction, encoded = along(model, {name: directions(model)[0][name]}), model.encode(ROWS)
        found = read(model, encoded, direction)
        network = copy.deepcopy(model.hf)
        embedding, unembedding = network.get_input_embeddings(), network.get_output_embeddings()
        unembedding.weight = nn.Parameter(unembedding.weight.detach().clone())  # each use its own leaf
        leaves = {"in": embedding.weight.requires_grad_(), "out": unembedding.weight}
        gradients = by_row(network, encoded, leaves)
        for use, place in (("in", name.removesuffix(".weight")), ("out", "lm_head")):
            expected = torch.stack([-(row[use] * direction[name]).sum() for row in gradients])
            assert near(found.places[Place(place)][0].sum(-1), expected)
        assert len(found.places) == 2

    def test_untied_matrices_are_two_weights(self, llama):
        one = along(llama, {"model.embed_tokens.weight": directions(llama)[0]["model.embed_tokens.weight"]})
        found = read(llama, llama.encode(ROWS), one)
        assert [place.module for place in found.places] == ["model.embed_tokens"]


@pytest.mark.parametrize("thin", [False, True])
def test_an_embedding_gives_its_padding_row_no_gradient(llama, thin):
    """torch leaves it out of the gradient even where the token is part of a row, so a step does not move it."""
    encoded = llama.encode(ROWS)
    ids = encoded.ids.clone()
    ids[:, 2] = llama.hf.model.embed_tokens.padding_idx
    encoded = dataclasses.replace(encoded, ids=ids)
    shape = llama.hf.model.embed_tokens.weight.shape
    tensor = LowRank(torch.ones(shape[0], 1), torch.ones(1, shape[1])) if thin else torch.ones(shape)
    direction, network = along(llama, {"model.embed_tokens.weight": tensor}), bare(llama)
    sites = find_sites(network, [direction])
    leaf = copy.deepcopy(llama.hf).requires_grad_(False)
    weight = leaf.model.embed_tokens.weight.requires_grad_()
    rows = by_row(leaf, encoded, {"weight": weight})
    expected = -torch.stack([row["weight"].sum() for row in rows])
    for reader in (positions, whole_examples):
        assert near(contributions(network, encoded, sites=sites, reader=reader).totals()[0], expected)
    assert near(token_contributions(network, encoded, sites=sites).totals()[0], expected)
    cosine = score(llama, encoded, direction, cosine=True).frame["cosine"]
    norms = torch.stack([row["weight"].norm() for row in rows])
    assert near(torch.tensor(cosine.to_numpy()), expected / (norms * direction.norm()), 1e-4)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "qwen3"])
def test_every_module_has_the_share_of_its_own_weights(tiny, family):
    model = load(tiny(family), family)
    encoded, direction = model.encode(ROWS), directions(model)[0]
    network = copy.deepcopy(model.hf).requires_grad_(True)
    gradients = by_row(network, encoded, dict(network.named_parameters()))
    found = read(model, encoded, direction)
    expected = dict.fromkeys((name.rpartition(".")[0] for name in direction), torch.zeros(4))
    for name in direction:
        expected[name.rpartition(".")[0]] = expected[name.rpartition(".")[0]] - torch.stack(
            [(row[name] * direction[name]).sum() for row in gradients]
        )
    names = {module: name for name, module in model.hf.named_modules()}
    embedding, shares = names[model.hf.get_input_embeddings()], {}
    for place, values in found.places.items():
        owner = place.module if place.module in expected else embedding  # the other use of a tied matrix
        shares[owner] = shares.get(owner, 0) + values[0].sum(-1)
    assert shares.keys() == expected.keys()
    for name, share in expected.items():
        assert near(shares[name], share, 2e-5), name


class TestPositions:
    WEIGHTS = (
        "model.embed_tokens",
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.mlp.down_proj",
        "model.layers.1.input_layernorm",
        "lm_head",
    )

    @pytest.mark.parametrize("name", WEIGHTS)
    def test_a_weight_that_moves_at_one_position_only(self, llama, name):
        """Against the derivative in ε of a network whose module adds ε_t V a_t to what it puts out at t."""
        weight = f"{name}.weight"
        direction, encoded = along(llama, {weight: directions(llama)[0][weight]}), llama.encode(ROWS)
        network = copy.deepcopy(llama.hf).requires_grad_(False)
        module = network.get_submodule(name)
        moved = copy.deepcopy(module)
        moved.weight = nn.Parameter(direction[weight], requires_grad=False)  # linear in its weight
        width = encoded.ids.shape[1]
        first = int((encoded.roles >= Role.OTHER)[:, 1:].any(0).nonzero()[0]) if name == "lm_head" else 0
        step = torch.zeros(len(encoded), width, requires_grad=True)

        def hook(module, args, output):
            return output + step[:, first : first + output.shape[1], None] * moved(*args)

        module.register_forward_hook(hook)
        row_losses(network, encoded)[0].sum().backward()
        found = read(llama, encoded, direction)
        assert step.grad is not None
        assert near(found.places[Place(name)][0], -step.grad)

    def test_padding_scores_nothing(self, llama):
        encoded, network = llama.encode(ROWS), bare(llama)
        found = contributions(network, encoded, sites=find_sites(network, directions(llama)))
        for values in found.places.values():
            assert not values[:, ~encoded.mask].any()


class TestVirtualBias:
    HOOKS = ("blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre", "blocks.1.hook_resid_post")

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("hook", HOOKS)
    def test_by_position(self, tiny, family, hook):
        model = load(tiny(family), family)
        vector, encoded = torch.linspace(-1, 1, 32), model.encode(ROWS)
        direction, network = along(model, {}, biases={hook: vector}), bare(model)
        sites = find_sites(network, [direction])
        found = next(iter(contributions(network, encoded, sites=sites).places.values()))[0]
        added = torch.zeros(4, encoded.ids.shape[1], 32, requires_grad=True)
        layers = next(m for m in network.base_model.modules() if isinstance(m, nn.ModuleList) and len(m) == 2)
        layer = layers[int(hook[7])]
        if hook.endswith("pre"):
            handle = layer.register_forward_pre_hook(lambda m, args: (args[0] + added, *args[1:]))
        else:
            handle = layer.register_forward_hook(
                lambda m, args, out: (out[0] + added, *out[1:]) if isinstance(out, tuple) else out + added
            )
        row_losses(network, encoded)[0].sum().backward()
        handle.remove()
        assert added.grad is not None
        assert near(found, -(added.grad @ vector))
        tokens = token_contributions(network, encoded, sites=sites)
        assert near(tokens.totals()[0], found.double().sum(-1))

    def test_two_names_of_one_place_add_up(self, llama):
        ones, both = torch.ones(32), ("blocks.0.hook_resid_post", "blocks.1.hook_resid_pre")
        single = score(llama, ROWS, along(llama, {}, biases={both[0]: ones}), cosine=True)
        double = score(llama, ROWS, along(llama, {}, biases=dict.fromkeys(both, ones)), cosine=True)
        assert near(double.totals, 2 * single.totals)
        # twice the dot, √2 times either norm
        assert double.frame["cosine"].tolist() == pytest.approx(single.frame["cosine"].tolist())

    def test_beside_weights_it_comes_in_the_order_of_the_network(self, llama):
        biases = dict.fromkeys(reversed(self.HOOKS), torch.ones(32))
        names = ("lm_head.weight", "model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight")
        own = directions(llama)[0]
        sites = find_sites(bare(llama), [along(llama, {name: own[name] for name in names}, biases=biases)])
        assert [site.name for site in sites] == [
            "model.embed_tokens",
            "blocks.0.hook_resid_pre",
            "model.layers.0.mlp.up_proj",
            "blocks.1.hook_resid_pre",
            "blocks.1.hook_resid_post",
            "lm_head",
        ]


class TestCompany:
    @pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neo"])
    def test_order_batch_and_padding_change_nothing(self, tiny, family):
        model = load(tiny(family), family)
        answers = [", ".join(["1", "2", "3", "4"] * (1 + i % 4)) for i in range(9)]
        encoded = model.encode(
            Prompts.from_pairs([(f"list {i}", answer) for i, answer in enumerate(answers)])
        )
        network, own = bare(model), directions(model)
        expected = example_scores(network, encoded, own)
        mixed = torch.tensor([4, 8, 0, 2, 6, 1, 3, 7, 5])
        for size in (1, 3, 64):
            found = torch.cat(
                [example_scores(network, batch, own) for batch in encoded[mixed].batches(size)], 1
            )
            assert apart(found, expected[:, mixed]) <= 1e-5


class TestSupports:
    def test_directions_that_move_different_weights(self, llama):
        own, network, encoded = directions(llama), bare(llama), llama.encode(ROWS)
        several = [
            along(llama, {"model.norm.weight": own[0]["model.norm.weight"]}),
            along(llama, {n: t for n, t in own[2].tensors.items() if ".mlp." in n}),
            along(llama, {n: t for n, t in own[1].tensors.items() if ".mlp." in n or "lm_head" in n}),
            along(llama, {}, biases={"blocks.0.hook_resid_post": torch.ones(32)}),
        ]
        sites = find_sites(network, several)
        for reader in (positions, whole_examples):
            together = contributions(network, encoded, sites=sites, reader=reader).totals()
            for k, one in enumerate(several):
                assert near(together[k], example_scores(network, encoded, [one])[0])
        tokens = token_contributions(network, encoded, sites=sites).totals()
        assert apart(tokens, example_scores(network, encoded, several)) <= 1e-5
        full = [dict.fromkeys(own[0], torch.zeros(())) | dict(one.items()) for one in several[:3]]
        expected = oracle(network, encoded, [FullDirection(llama, each) for each in full])
        assert apart(example_scores(network, encoded, several[:3]), expected) <= 1e-5

    def test_biases_alone(self, tiny):
        model = load(tiny("gpt2"), "gpt2")
        own = {n: t for n, t in directions(model)[0].items() if n.endswith("bias")}
        found = score(model, ROWS, along(model, own))
        expected = oracle(bare(model), model.encode(ROWS), [FullDirection(model, own)])
        assert apart(found.totals.T, expected) <= 1e-5
        assert found.plan.route == "direction-first"

    def test_a_matrix_used_twice_scores_both_and_has_no_cosine(self, tiny):
        network, tokenizer = tiny("llama")
        one, two = (layer.mlp for layer in network.model.layers)
        two.up_proj.weight = one.up_proj.weight
        model = load_model(network, tokenizer=tokenizer, name="shared", check=False)
        name = "model.layers.0.mlp.up_proj.weight"
        direction = along(model, {name: directions(model)[0][name]})
        expected = oracle(bare(model), model.encode(ROWS), [FullDirection(model, dict(direction.items()))])
        assert apart(score(model, ROWS, direction).totals.T, expected) <= 1e-5
        with pytest.raises(
            InputError, match=f"gradient norm of {name}, which the network uses more than once"
        ):
            score(model, ROWS, direction, cosine=True)


class TestErrors:
    def test_rows_without_answers(self, llama):
        rows = Prompts.from_pairs([("one", "1"), ("two", "")], label="halves")
        network, encoded = bare(llama), llama.encode(rows)
        sites = find_sites(network, directions(llama)[:1])
        with pytest.raises(InputError, match="row 2 of a batch of halves has no answer tokens"):
            contributions(network, encoded, sites=sites)
        with pytest.raises(
            InputError, match="halves has no answer tokens, so no loss; pass rows with completions"
        ):
            contributions(network, encoded[1:], sites=sites)

    def test_names_the_network_does_not_have(self, llama):
        with pytest.raises(
            InputError,
            match=r"weight 'lm_haed.weight' is unknown; nearest: lm_head.weight, .*; directions name the weights",
        ):
            find_sites(llama.hf, [along(llama, {"lm_haed.weight": torch.ones(2)})])

    def test_sites_of_another_network(self, llama):
        sites = find_sites(bare(llama), directions(llama)[:1])
        with pytest.raises(
            InputError, match=r"model.embed_tokens is a module of another network, so it would score"
        ):
            contributions(bare(llama), llama.encode(ROWS), sites=sites)
