"""Metrics by hand on 2 x 2 matrices, against the steps that torch's optimisers and PEFT's adapters really take."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from interp.core.runs import InputError
from interp.gradients.scores.metrics import SGD, Adam, LoraAdam, LoraMetric, Sign
from interp.models.low_rank import LowRank
from interp.models.parameters import ParameterDirection
from interp.models.updates import adapter_factors

V = torch.tensor([[1.0, 2.0], [3.0, 4.0]])


def direction(label="v", fingerprint="f", biases=None, **tensors):
    return ParameterDirection(tensors, label, fingerprint, "root", biases or {})


STEERED = direction(biases={"blocks.0.hook_resid_post": torch.ones(2)}, w=V)


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()


def trained(net, steps=5, **options):
    """An AdamW that has taken a few steps on random rows."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.0, **options)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(8, 3).double()).square().sum().backward()
        optimizer.step()
    return optimizer


def test_sgd_is_the_direction_itself():
    made = SGD().fold(direction(w=V))
    assert torch.equal(made["w"], V)
    assert made.label == "v [SGD]"


class TestAdam:
    def test_by_hand(self):
        moments = {"w": torch.tensor([[4.0, 1.0], [0.0, 16.0]]), "other": torch.ones(3)}
        made = Adam(moments, eps=1.0).fold(direction(w=V))
        assert torch.equal(
            made["w"], torch.tensor([[1 / 3, 1.0], [0.0, 0.8]])
        )  # nothing where nothing was seen
        assert made.label == "v [Adam]"

    @pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"betas": (0.8, 0.9), "eps": 1e-4}], ids=str)
    def test_the_fold_is_the_step_the_optimiser_takes(self, options):
        """With β₁ = 0 the next step on g is −lr g / (√v̂ + ε), where v̂ already holds g: fold at that state."""
        net = network()
        betas = (0.0, options.get("betas", (0, 0.999))[1])
        optimizer = trained(net, **{**options, "betas": betas})
        gradients = {name: weight.grad.clone() for name, weight in net.named_parameters()}
        before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
        optimizer.step()  # the same gradients once more
        taken = {name: weight.detach() - before[name] for name, weight in net.named_parameters()}
        folded = Adam.from_optimizer(optimizer, net.named_parameters()).fold(direction(**gradients))
        for name, step in taken.items():
            assert torch.allclose(-1e-2 * folded[name].double(), step, rtol=1e-4, atol=1e-9)

    def test_a_saved_state_is_corrected_for_its_bias(self, tmp_path):
        net = network()
        optimizer = trained(net, steps=7)
        saved = {name: optimizer.state[weight]["exp_avg_sq"] for name, weight in net.named_parameters()}
        save_file(saved, tmp_path / "adam.safetensors")
        live, back = (
            Adam.from_optimizer(optimizer, net.named_parameters()),
            Adam.from_safetensors(tmp_path / "adam.safetensors", step=7),
        )
        assert live.eps == back.eps
        assert all(torch.allclose(live.second_moments[n], back.second_moments[n], rtol=1e-5) for n in saved)
        with pytest.raises(InputError, match=r"step 0 is before the first"):
            Adam.from_safetensors(tmp_path / "adam.safetensors", step=0)
        with pytest.raises(InputError, match=r"no file at .*nowhere.safetensors"):
            Adam.from_safetensors(tmp_path / "nowhere.safetensors", step=1)

    def test_another_network_is_found_out(self):
        net, other = network(), network(1)
        optimizer = trained(net)
        with pytest.raises(
            InputError, match=r"trains a parameter of shape \[4, 3\] that is not among the 4 named"
        ):
            Adam.from_optimizer(optimizer, other.named_parameters())
        partial = torch.optim.Adam(list(net.parameters())[:2])
        net[0](torch.ones(1, 3).double()).sum().backward()
        partial.step()
        with pytest.raises(InputError, match=r"2.weight asks for a gradient and is not in the optimiser"):
            Adam.from_optimizer(partial, net.named_parameters())

    def test_an_optimiser_that_has_not_stepped_or_keeps_no_moments(self):
        net = network()
        for optimizer in (torch.optim.Adam(net.parameters()), torch.optim.SGD(net.parameters(), lr=1.0)):
            with pytest.raises(
                InputError, match=r"no second moment \(exp_avg_sq\) for 0.weight; pass an Adam"
            ):
                Adam.from_optimizer(optimizer, net.named_parameters())

    def test_groups_of_different_eps(self):
        net = network()
        optimizer = trained(net)
        optimizer.param_groups[0]["params"], rest = list(net.parameters())[:2], list(net.parameters())[2:]
        optimizer.add_param_group({"params": rest, "eps": 1e-3})
        with pytest.raises(
            InputError, match=r"groups of the optimiser have different eps \[1e-08, 0.001\]; use one"
        ):
            Adam.from_optimizer(optimizer, net.named_parameters())

    def test_a_state_that_does_not_fit(self):
        with pytest.raises(
            InputError, match=r"Adam has no state for w: 'w' is unknown; known: u; pass the state of"
        ):
            Adam({"u": V}).fold(direction(w=V))
        with pytest.raises(InputError, match=r"Adam has a state of shape \[3\] for w, which is \[2, 2\]"):
            Adam({"w": torch.ones(3)}).fold(direction(w=V))
        with pytest.raises(InputError, match=r"the Adam state belongs to the lineage of x, v to root"):
            Adam({"w": V}, lineage="x").fold(direction(w=V))


class TestSign:
    def test_by_hand(self):
        mean = direction("g", w=torch.tensor([[2.0, 0.0], [-0.5, 1.0]]))
        made = Sign(mean).fold(direction(w=V, absent=torch.ones(2)))
        assert torch.equal(made["w"], torch.tensor([[0.5, 0.0], [6.0, 4.0]]))
        assert list(made) == ["w"]
        assert made.label == "v [sign]"

    def test_the_rows_of_a_batch_sum_to_its_sign_step(self):
        torch.manual_seed(0)
        rows = [torch.randn(2, 2) for _ in range(6)]
        mean = torch.stack(rows).mean(0)
        v = Sign(direction(w=mean)).fold(direction(w=V))
        total = sum(-direction(w=row).dot(v) for row in rows)
        assert total == pytest.approx(-6 * float((mean.sign() * V).sum()), rel=1e-5)

    def test_a_gradient_of_other_weights(self):
        with pytest.raises(
            InputError, match=r"the mean gradient belongs to weights g, v to f; take the gradient where"
        ):
            Sign(direction(fingerprint="g", w=V)).fold(direction(w=V))
        with pytest.raises(InputError, match=r"v and g share no weight"):
            Sign(direction("g", u=V)).fold(direction(w=V))
        with pytest.raises(InputError, match=r"sign has a state of shape \[2\] for w"):
            Sign(direction("g", w=torch.ones(2))).fold(direction(w=V))


IDS = torch.arange(12).reshape(2, 6) + 7


def fresh_adapter(hf, targets, *, turned):
    """The network under an adapter at B = 0, s = 2, and the gradient of its loss on IDS by every plain weight."""
    plain = copy.deepcopy(hf).requires_grad_(True)
    plain(input_ids=IDS, labels=IDS).loss.backward()
    full = direction(**{name: weight.grad for name, weight in plain.named_parameters()})
    config = LoraConfig(r=3, lora_alpha=6, target_modules=targets, fan_in_fan_out=turned)
    return get_peft_model(hf, config), full


class TestLora:
    A = torch.tensor([[1.0, 2.0]])

    def test_by_hand(self):
        made = LoraMetric({"m": self.A}, scaling=2.0).fold(
            direction(**{"m.weight": V, "n.weight": V, "m.bias": V})
        )
        # 4 V AᵀA with V Aᵀ = (5, 11)
        assert torch.equal(made["m.weight"], 4 * torch.tensor([[5.0, 10.0], [11.0, 22.0]]))
        assert list(made) == ["m.weight"]
        assert made.tensors["m.weight"].rank == 1
        assert made.label == "v [LoRA]"

    def test_by_hand_where_weights_are_stored_transposed(self):
        metric = LoraMetric({"m": self.A}, scaling=2.0, transposed=frozenset({"m"}))
        made = metric.fold(direction(**{"m.weight": V.T.contiguous()}))
        assert torch.equal(made["m.weight"], 4 * torch.tensor([[5.0, 10.0], [11.0, 22.0]]).T)

    @pytest.mark.parametrize("turned", [False, True])
    def test_low_rank_and_dense_agree(self, turned):
        torch.manual_seed(0)
        thin, A = LowRank(torch.randn(4, 2), torch.randn(2, 4)), torch.randn(3, 4)
        metric = LoraMetric({"m": A}, transposed=frozenset({"m"} if turned else ()))
        ours, dense = (
            metric.fold(direction(**{"m.weight": entry}))["m.weight"] for entry in (thin, thin.dense())
        )
        assert torch.allclose(ours, dense, atol=1e-5)

    @pytest.mark.parametrize(
        ("family", "targets"), [("gpt2", ["c_attn", "c_fc"]), ("llama", ["q_proj", "up_proj"])]
    )
    def test_the_fold_is_what_a_first_step_on_b_does(self, family, targets, tiny):
        """At B = 0 gradient descent on the factors moves the weight by −η s² G AᵀA, G the gradient of the weight."""
        network, full = fresh_adapter(tiny(family)[0], targets, turned=family == "gpt2")
        optimizer = torch.optim.SGD([w for w in network.parameters() if w.requires_grad], lr=1.0)
        folded = LoraMetric.from_network(network).fold(full)
        network(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        with torch.no_grad():
            change, _ = adapter_factors(network.get_base_model())
        assert set(change) == set(folded) != set()
        for name in folded:
            assert torch.allclose(change[name].dense(), -folded[name], rtol=1e-4, atol=1e-7)

    @pytest.mark.parametrize(
        ("family", "targets"), [("gpt2", ["c_attn", "c_fc"]), ("llama", ["q_proj", "up_proj"])]
    )
    def test_the_fold_by_adam_is_what_its_first_step_on_b_does(self, family, targets, tiny):
        """v̂ of one batch is the square of its gradient, so that torch's Adam moves B by the sign."""
        network, full = fresh_adapter(tiny(family)[0], targets, turned=family == "gpt2")
        metric = LoraAdam.from_batches(network, [IDS], lambda net, ids: net(input_ids=ids, labels=ids).loss)
        folded = metric.fold(full)
        assert folded.label == "v [LoRA, Adam]"
        optimizer = torch.optim.Adam([w for w in network.parameters() if w.requires_grad], lr=1.0)
        network(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        with torch.no_grad():
            for layer in (m for m in network.modules() if hasattr(m, "lora_A")):
                layer.lora_A["default"].weight.copy_(metric_factor(metric, network, layer) / 2)
            change, _ = adapter_factors(network.get_base_model())
        assert set(change) == set(folded) != set()
        for name in folded:
            assert torch.allclose(change[name].dense(), -folded[name], rtol=1e-2, atol=1e-4), name

    def test_no_batch_is_refused(self, tiny):
        network = get_peft_model(tiny("llama")[0], LoraConfig(r=2, target_modules=["q_proj"]))
        with pytest.raises(
            InputError, match=r"no batch to take second moments of; pass the rows that are trained on"
        ):
            LoraAdam.from_batches(network, [], lambda net, ids: net(ids).loss)

    def test_several_adapters_add_up(self, tiny):
        config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"])
        peft = get_peft_model(tiny("llama")[0], config, adapter_name="a")
        peft.add_adapter("b", LoraConfig(r=3, lora_alpha=3, target_modules=["q_proj"]))
        peft.base_model.set_adapter(["a", "b"])
        metric = LoraMetric.from_network(peft)
        name = "model.layers.0.self_attn.q_proj"
        layer = peft.get_base_model().get_submodule(name)
        A, B = (layer.lora_A[x].weight.detach() for x in "ab")
        V = torch.randn(32, 32)
        made = metric.fold(direction(**{f"{name}.weight": V}))[f"{name}.weight"]
        assert torch.allclose(made, V @ (4 * A.T @ A + B.T @ B), atol=1e-5)

    def test_what_is_refused(self, tiny):
        with pytest.raises(InputError, match=r"no weight of v has an adapter; adapters are on m"):
            LoraMetric({"m": self.A}).fold(direction(**{"n.weight": V}))
        with pytest.raises(
            InputError, match=r"the adapter of m reads 3 inputs and m.weight has 2; pass the adapters"
        ):
            LoraMetric({"m": torch.ones(1, 3)}).fold(direction(**{"m.weight": V}))
        with pytest.raises(InputError, match=r"GPT2LMHeadModel has no live LoRA adapters"):
            LoraMetric.from_network(tiny("gpt2")[0])
        dora = get_peft_model(tiny("llama")[0], LoraConfig(r=2, target_modules=["q_proj"], use_dora=True))
        with pytest.raises(
            InputError, match=r"the Linear at model.layers.0.self_attn.q_proj adapts its layer otherwise"
        ):
            LoraMetric.from_network(dora)


def metric_factor(metric, network, layer):
    """s A of the layer as the metric holds it, s = 2: Adam's step moved A by rounding where its gradient is zero."""
    names = {id(module): name for name, module in network.get_base_model().named_modules()}
    return metric.adapters.factors[names[id(layer)]]


@pytest.mark.parametrize(
    "metric", [Adam({"w": V}), Sign(direction(w=V)), LoraMetric({"w": V})], ids=["Adam", "sign", "LoRA"]
)
def test_virtual_biases_have_no_metric(metric):
    with pytest.raises(
        InputError, match=r"v holds a virtual bias, which .* does not train; score it without a metric"
    ):
        metric.fold(STEERED)
    assert not math.isnan(SGD().fold(STEERED).norm())
