"""Scores by attention head: they add up, they are where the network cuts, and an unknown layout is refused."""

import pytest
import torch
from torch import nn

from interp.core.runs import InputError
from interp.gradients.scores.engine import find_sites
from interp.gradients.scores.heads import head_layout
from interp.gradients.scores.scoring import score
from interp.models.low_rank import LowRank
from tests.gradients.rows import along, bare, near
from tests.gradients.scores.test_exactness import FAMILIES, ROWS, directions, load


@pytest.fixture
def llama(tiny):
    return load(tiny("llama"), "llama")


class TestHeads:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_heads_add_up_to_their_module(self, tiny, family):
        model = load(tiny(family), family)
        own = directions(model)
        fine = score(model, ROWS, own, by=["example", "head"]).frame
        coarse = score(model, ROWS, own, by=["example", "module"]).frame
        keys = ["row", "direction", "module"]
        sums = fine.groupby(keys, observed=True)["score"].sum()
        whole = coarse.groupby(keys, observed=True)["score"].sum()
        assert sums.index.equals(whole.index)
        scale = float(whole.pow(2).mean()) ** 0.5
        assert (sums - whole).abs().max() <= 1e-5 * scale
        assert set(fine["part"]) == {"", "q", "k", "v", "o"}
        queries = fine[fine["part"] == "q"]["head"]
        assert sorted(queries.unique()) == [0, 1, 2, 3]

    @pytest.mark.parametrize(
        ("leaf", "part", "heads"),
        [("q_proj", "q", 4), ("k_proj", "k", 2), ("v_proj", "v", 2), ("o_proj", "o", 4)],
    )
    @pytest.mark.parametrize("thin", [False, True])
    def test_a_direction_in_the_rows_or_columns_of_one_head(self, llama, leaf, part, heads, thin):
        name = f"model.layers.1.self_attn.{leaf}.weight"
        full = directions(llama)[2].tensors[name]
        for head in range(heads):
            left, right = full.left.clone(), full.right.clone()
            kept = torch.arange(32) // 8 if part in "qo" else torch.arange(16) // 8
            (right.T if part == "o" else left)[kept != head] = 0
            entry = LowRank(left, right) if thin else left @ right
            found = score(llama, ROWS, along(llama, {name: entry}, label=str(head)), by=["example", "head"])
            own = found.frame[found.frame["head"] == head].sort_values("row")["score"]
            assert near(torch.tensor(own.to_numpy()), found.totals[:, 0], 1e-6)
            others = found.frame[found.frame["head"] != head]["score"].abs().max()
            assert others <= 1e-6 * found.totals.abs().max()

    @pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
    def test_fused_matrices_are_cut_where_the_network_cuts_them(self, tiny, family):
        """Head 2 of v alone: rows 64 + 16 to 64 + 24 of gpt2, rows 2 · 24 + 16 to 3 · 24 of gpt_neox."""
        model = load(tiny(family), family)
        name = next(
            n for n in directions(model)[0] if n.endswith(("c_attn.weight", "query_key_value.weight"))
        )
        tensor = torch.zeros_like(model.hf.get_parameter(name))
        if family == "gpt2":
            tensor[:, 80:88] = 1.0
        else:
            tensor[64:72] = 1.0
        frame = score(model, ROWS, along(model, {name: tensor}), by="head").frame
        lines = frame[frame["score"].abs() > 0]
        assert lines[["part", "head"]].to_numpy().tolist() == [["v", 2]]

    def test_an_attention_of_another_layout_is_refused(self, llama):
        network = bare(llama)
        attention = network.model.layers[0].self_attn
        attention.add_module("latent_proj", nn.Linear(32, 8))
        direction = along(llama, {"model.layers.0.self_attn.latent_proj.weight": torch.ones(8, 32)})
        (site,) = find_sites(network, [direction])
        with pytest.raises(
            InputError,
            match="latent_proj is an attention matrix of a layout without known heads; leave 'head' out",
        ):
            head_layout(site, network.config)

    @pytest.mark.parametrize("leaf", ["c_attn", "k_proj"])
    def test_one_key_for_all_queries_under_a_familiar_name_is_refused(self, llama, leaf):
        """Multi-query attention: 32 + 8 + 8 fused rows, or 8 rows where the configuration promises two groups."""
        network = bare(llama)
        network.config.num_key_value_heads = 4 if leaf == "c_attn" else 2
        attention = network.model.layers[0].self_attn
        rows = 48 if leaf == "c_attn" else 8
        setattr(attention, leaf, nn.Linear(32, rows))
        direction = along(llama, {f"model.layers.0.self_attn.{leaf}.weight": torch.ones(rows, 32)})
        (site,) = find_sites(network, [direction])
        with pytest.raises(InputError, match="of a layout without known heads"):
            head_layout(site, network.config)
