"""One module at a time: contributions by hand on matrices of two by two, and against autograd in double precision."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from interp.gradients.scores.sites import (
    CHUNK,
    Site,
    by_example,
    by_position,
    dense_at,
    kind_of,
    stack,
    stores_inputs_first,
    through,
)
from interp.models.low_rank import LowRank

# one row of two positions: inputs a_t and output gradients g_t
A = torch.tensor([[[1.0, 2.0], [3.0, -1.0]]])
G = torch.tensor([[[1.0, 0.0], [2.0, 1.0]]])
V = torch.tensor([[1.0, 10.0], [100.0, 1000.0]])
# V a_0 = (21, 2100), V a_1 = (-7, -700): <g_0, V a_0> = 21, <g_1, V a_1> = -14 - 700
AT_POSITIONS = [21.0, -714.0]


def site_of(module: nn.Module, *directions: dict) -> Site:
    """A site over every weight that some direction names by its leaf."""
    leaves = dict.fromkeys(leaf for direction in directions for leaf in direction)
    kind = kind_of(module)
    stacks = {
        leaf: stack(
            [direction.get(leaf) for direction in directions],
            like=module.get_parameter(leaf),
            transposed=kind == "matrix" and stores_inputs_first(module),
        )
        for leaf in leaves
    }
    return Site("site", module, kind, stacks, {leaf: leaf for leaf in leaves}, len(directions))


def both(site: Site, a=A, g=G) -> list:
    """Contributions by position of the only row, after checking that examples are their sums."""
    fine = by_position(site, a, g)
    torch.testing.assert_close(by_example(site, a, g), fine.sum(-1))
    return fine[:, 0].tolist()


class TestMatrix:
    def test_a_dense_direction(self):
        assert both(site_of(nn.Linear(2, 2, bias=False), {"weight": V})) == [AT_POSITIONS]

    def test_thin_factors(self):
        # L = (1, 2)ᵀ, R = (3, 1): R a = 5, 8 and Lᵀ g = 1, 4
        thin = LowRank(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 1.0]]))
        site = site_of(nn.Linear(2, 2), {"weight": thin})
        assert both(site) == [[5.0, 32.0]]
        assert dense_at(site.stacks["weight"], 0, like=V).tolist() == [[3.0, 1.0], [6.0, 2.0]]

    def test_a_bias_alone(self):
        # <g_t, b> with b = (5, 7)
        assert both(site_of(nn.Linear(2, 2), {"bias": torch.tensor([5.0, 7.0])})) == [[5.0, 17.0]]

    def test_directions_that_move_different_things(self):
        thin = LowRank(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 1.0]]))
        bias = torch.tensor([5.0, 7.0])
        site = site_of(nn.Linear(2, 2), {"bias": bias}, {"weight": thin}, {}, {"weight": V, "bias": bias})
        assert both(site) == [[5.0, 17.0], [5.0, 32.0], [0.0, 0.0], [26.0, -697.0]]

    def test_gpt2_stores_it_the_other_way_round(self):
        assert both(site_of(Conv1D(2, 2), {"weight": V.T})) == [AT_POSITIONS]
        thin = LowRank(torch.tensor([[3.0], [1.0]]), torch.tensor([[1.0, 2.0]]))
        assert both(site_of(Conv1D(2, 2), {"weight": thin})) == [[5.0, 32.0]]

    def test_several_ranks_keep_their_owners(self):
        generator = torch.Generator().manual_seed(0)
        factors = [
            LowRank(torch.randn(2, r, generator=generator), torch.randn(r, 2, generator=generator))
            for r in (1, 3, 2)
        ]
        thin = site_of(nn.Linear(2, 2), *({"weight": factor} for factor in factors))
        full = site_of(nn.Linear(2, 2), *({"weight": factor.dense()} for factor in factors))
        torch.testing.assert_close(by_position(thin, A, G), by_position(full, A, G))

    def test_gradients_of_many_examples_are_made_a_few_at_a_time(self, monkeypatch):
        generator = torch.Generator().manual_seed(0)
        a, g = torch.randn(2, 7, 5, 2, generator=generator)
        site = site_of(nn.Linear(2, 2), {"weight": V}, {"weight": V.T})
        whole = by_example(site, a, g)
        monkeypatch.setitem(CHUNK, "cpu", 12)  # three examples of four numbers
        torch.testing.assert_close(by_example(site, a, g), whole)
        torch.testing.assert_close(by_position(site, a, g).sum(-1), whole)

    def test_through_and_back(self):
        thin = LowRank(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 1.0]]))
        held = site_of(nn.Linear(2, 2), {"weight": thin}, {"weight": V}, {"bias": A[0, 0]}).stacks["weight"]
        for k, matrix in enumerate([thin.dense(), V]):
            torch.testing.assert_close(through(held, k, A), A @ matrix.T)
            torch.testing.assert_close(through(held, k, G, back=True), G @ matrix)
        assert through(held, 2, A) is None
        assert through(None, 0, A) is None


class TestEmbedding:
    IDS = torch.tensor([[1, 0]])

    def test_rows_are_looked_up(self):
        # V[1] · g_0 = 100, V[0] · g_1 = 2 + 10
        assert both(site_of(nn.Embedding(2, 2), {"weight": V}), a=self.IDS) == [[100.0, 12.0]]

    def test_thin_factors(self):
        thin = LowRank(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 1.0]]))  # rows (3, 1) and (6, 2)
        assert both(site_of(nn.Embedding(2, 2), {"weight": thin}, {}), a=self.IDS) == [[6.0, 7.0], [0.0, 0.0]]

    def test_an_output_that_is_scaled(self):
        from transformers.models.gemma2.modeling_gemma2 import Gemma2TextScaledWordEmbedding

        module = Gemma2TextScaledWordEmbedding(2, 2, padding_idx=0, embed_scale=3.0)
        assert both(site_of(module, {"weight": V}), a=self.IDS) == [[300.0, 36.0]]

    def test_positions_made_once_for_every_row(self):
        site = site_of(nn.Embedding(2, 2), {"weight": V}, {"weight": LowRank(V, torch.eye(2))})
        found = by_position(site, torch.tensor([[0, 1]]), torch.cat([G, -G]))
        # V[0] · g_0 = 1, V[1] · g_1 = 200 + 1000
        assert found.tolist() == [[[1.0, 1200.0], [-1.0, -1200.0]]] * 2


class TestNorm:
    def test_root_mean_square(self):
        from transformers.models.llama.modeling_llama import LlamaRMSNorm

        # (3, 4) over its root mean square √12.5
        x = torch.tensor([[[3.0, 4.0]]])
        site = site_of(LlamaRMSNorm(2, eps=0.0), {"weight": torch.tensor([10.0, 100.0])})
        found = by_position(site, x, torch.tensor([[[1.0, 2.0]]]))
        assert found[0, 0].tolist() == pytest.approx([(30 + 800) / 12.5**0.5])

    def test_gemma_counts_from_one(self):
        from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm

        x = torch.tensor([[[3.0, 4.0]]])
        site = site_of(Gemma2RMSNorm(2, eps=0.0), {"weight": torch.tensor([10.0, 100.0])})
        found = by_position(site, x, torch.tensor([[[1.0, 2.0]]]))
        assert found[0, 0].tolist() == pytest.approx([(30 + 800) / 12.5**0.5])

    def test_layer_norm_and_its_bias(self):
        # (1, 3) is (-1, 1) about its mean: weight -10 + 200, bias 5 + 14
        x, g = torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[1.0, 2.0]]])
        weight, bias = torch.tensor([10.0, 100.0]), torch.tensor([5.0, 7.0])
        site = site_of(nn.LayerNorm(2, eps=0.0), {"weight": weight}, {"bias": bias})
        assert by_position(site, x, g)[:, 0, 0].tolist() == pytest.approx([190.0, 19.0])

    def test_heads_of_a_norm_inside_them_add_up(self):
        from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

        x = torch.tensor([[[[3.0, 4.0], [4.0, 3.0]]]])  # one position of two heads
        site = site_of(Qwen3RMSNorm(2, eps=0.0), {"weight": torch.tensor([10.0, 100.0])})
        found = by_position(site, x, torch.ones_like(x))
        assert found.shape == (1, 1, 1)
        assert found.item() == pytest.approx((30 + 400 + 40 + 300) / 12.5**0.5)


class Gate(nn.Module):
    """y = tanh(w x) + b: no closed form is written down for it."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.tensor([0.5, 2.0])), nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return torch.tanh(self.w * x) + self.b


class Doubled(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


class TestOther:
    def test_a_module_without_a_closed_form_is_differentiated_forward(self):
        direction = {"w": torch.tensor([10.0, 100.0]), "b": torch.tensor([5.0, 7.0])}
        site = site_of(Gate(), direction, {"b": direction["b"]})
        assert site.kind == "other"
        slope = 1 - torch.tanh(torch.tensor([0.5, 2.0]) * A) ** 2
        expected = (G * (slope * A * direction["w"] + direction["b"])).sum(-1)[0]
        found = both(site)
        assert found[0] == pytest.approx(expected.tolist(), rel=1e-5)
        assert found[1] == pytest.approx([5.0, 17.0])

    def test_a_subclass_with_a_forward_of_its_own_is_no_matrix(self):
        site = site_of(Doubled(2, 2, bias=False), {"weight": V}, {"weight": LowRank(V, torch.eye(2))})
        assert site.kind == "other"
        assert both(site) == [[2 * x for x in AT_POSITIONS]] * 2

    def test_what_a_module_is(self):
        kinds = {nn.Linear(2, 2): "matrix", Conv1D(2, 2): "matrix", nn.Embedding(2, 2): "embedding"}
        kinds |= {nn.LayerNorm(2): "norm", nn.Conv1d(1, 1, 1): "other", Doubled(2, 2): "other"}
        for module, kind in kinds.items():
            assert kind_of(module) == kind


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_sums_are_in_single_precision_at_least(dtype):
    wanted = torch.promote_types(dtype, torch.float32)
    modules = [nn.Linear(2, 2), nn.LayerNorm(2), nn.Embedding(2, 2)]
    for module in modules:
        module = module.to(dtype)
        leaves = {leaf: torch.ones(w.shape) for leaf, w in module.named_parameters()}
        a = torch.tensor([[1, 0]]) if isinstance(module, nn.Embedding) else A.to(dtype)
        for read in (by_position, by_example):
            assert read(site_of(module, leaves), a, G.to(dtype)).dtype == wanted


@pytest.mark.parametrize("module", [nn.Linear(3, 4), Conv1D(4, 3), nn.LayerNorm(3), Gate()])
def test_contributions_are_the_gradient_of_the_module(module):
    """Σ_t g_t · y_t differentiated by autograd, on random inputs in double precision."""
    generator = torch.Generator().manual_seed(0)
    module = module.double()
    a = torch.randn(3, 5, 2 if isinstance(module, Gate) else 3, generator=generator).double()
    g = torch.randn(module(a).shape, generator=generator).double()
    directions = [
        {n: torch.randn(w.shape, generator=generator).double() for n, w in module.named_parameters()}
        for _ in range(2)
    ]
    found = by_example(site_of(module, *directions), a, g)
    for row in range(3):
        gradients = torch.autograd.grad((module(a[row : row + 1]) * g[row]).sum(), list(module.parameters()))
        for k, direction in enumerate(directions):
            expected = sum((x * v).sum() for x, v in zip(gradients, direction.values(), strict=True))
            assert found[k, row].item() == pytest.approx(expected.item(), rel=1e-10)
