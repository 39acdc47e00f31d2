"""Shards and batches: the self-test, numbers that are not finite, precision, and weights that the rows never meet."""

import pytest
import torch
from torch import nn

import interp.gradients.scores.scoring as scores_module
import interp.gradients.scores.work as work_module
from interp.core.runs import InputError
from interp.gradients.scores.engine import (
    contributions,
    example_scores,
    find_sites,
    positions,
    whole_examples,
)
from interp.gradients.scores.forward_mode import token_contributions
from interp.gradients.scores.scoring import score
from interp.models.backbone import view
from interp.models.language import load_model
from interp.organisms.toy import shipped_base
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts
from tests.gradients.rows import FullDirection, along, bare, near
from tests.gradients.scores.test_exactness import ROWS, apart, directions, load, oracle


@pytest.fixture
def llama(tiny):
    return load(tiny("llama"), "llama")


class TestPrecision:
    @pytest.mark.parametrize("by", [["example"], ["example", "token"], ["example", "position", "head"]])
    def test_double_precision_passes_the_door(self, tiny, by):
        """A norm that works in single precision whatever the weights are does not fail the self-test."""
        network, tokenizer = tiny("llama")
        model = load_model(network.double(), tokenizer=tokenizer, name="double", check=False)
        own = directions(model)[:2]
        expected = oracle(bare(model), model.encode(ROWS), own)
        assert apart(score(model, ROWS, own, by=by).totals.T, expected) <= 1e-5

    def test_tokens_in_double_precision_agree_to_ten_digits(self, tiny):
        network, tokenizer = tiny("gpt2")
        model = load_model(network.double(), tokenizer=tokenizer, name="double", check=False)
        own = directions(model)[:2]
        encoded, network = model.encode(ROWS), bare(model)
        sites = find_sites(network, own)
        expected = oracle(
            network, encoded, [FullDirection(model, {n: t.double() for n, t in d.items()}) for d in own]
        )
        for found in (
            token_contributions(network, encoded, sites=sites),
            contributions(network, encoded, sites=sites, reader=whole_examples),
        ):
            assert apart(found.totals(), expected) <= 1e-10

    def test_bf16_on_the_toy(self):
        toy = shipped_base(0)
        encoded, own = toy.encode(number_prompts(12, seed=0)), directions(toy)
        half = view(toy.hf).requires_grad_(False).bfloat16()
        expected, sites = example_scores(bare(toy), encoded, own), find_sites(half, own)
        readings: list[Contributions] = [
            contributions(half, encoded, sites=sites, reader=reader) for reader in (positions, whole_examples)
        ]
        for found in (*readings, token_contributions(half, encoded, sites=sites)):
            assert {values.dtype for values in found.places.values()} == {torch.float32}
            assert found.totals().dtype == torch.float64
            error = (found.totals() - expected).square().mean(1).sqrt() / expected.square().mean(1).sqrt()
            assert error.max() <= 0.03


class TestUnmetWeights:
    BYS = (
        ["example"],
        ["example", "module"],
        ["example", "position"],
        ["example", "position", "module"],
        ["example", "head"],
        ["example", "token"],
        ["position", "head"],
    )

    @pytest.mark.parametrize("by", BYS)
    def test_a_weight_the_rows_never_meet_scores_zero_in_every_table(self, tiny, by):
        network, tokenizer = tiny("llama")
        network.spare = nn.Linear(4, 4, bias=False)
        model = load_model(network, tokenizer=tokenizer, name="spare", check=False)
        spare = {"spare.weight": torch.ones(4, 4)}
        alone = score(model, ROWS, along(model, spare), by=by)
        assert not alone.totals.any()
        assert not alone.frame["score"].any()
        used = {"lm_head.weight": directions(model)[0]["lm_head.weight"]}
        beside = score(model, ROWS, along(model, spare | used), by=by)
        assert near(beside.totals, score(model, ROWS, along(model, used)).totals)
        if "module" in by:
            frame = beside.frame
            assert not frame[frame["module"] == "spare"]["score"].any()
            assert set(frame["module"]) == {"spare", "lm_head"}

    def test_and_has_no_cosine(self, tiny):
        network, tokenizer = tiny("llama")
        network.spare = nn.Linear(4, 4, bias=False)
        model = load_model(network, tokenizer=tokenizer, name="spare", check=False)
        with pytest.raises(
            InputError, match=r"no weight of the direction enters the loss .* leave out cosine"
        ):
            score(model, ROWS, along(model, {"spare.weight": torch.ones(4, 4)}), cosine=True)


class TestTheDoor:
    def test_a_network_that_looks_at_other_rows_fails_the_self_test(self, llama):
        def leaning(module, args, output):
            return output + 0.1 * output.mean(0, keepdim=True)

        llama.hf.model.layers[0].mlp.register_forward_hook(leaning)
        with pytest.raises(
            InputError,
            match=r"rows: a row's score changes by .* of the typical score with the rows beside it, more than 1e-03",
        ):
            score(llama, ROWS, directions(llama)[0])

    @pytest.mark.parametrize("by", [["example"], ["example", "token"]])
    def test_a_loss_that_is_not_finite_names_its_row_among_all(self, llama, by):
        """Row 3 of the table, whatever its place in a batch by length."""
        with torch.no_grad():
            llama.hf.model.embed_tokens.weight[llama.tokenizer.convert_tokens_to_ids("please")] = torch.inf
        rows = Prompts.from_pairs([("one", "1, 2, 3"), ("list", "2"), ("please", "3, 4")], label="some rows")
        own = directions(llama)[0]
        with pytest.raises(
            InputError, match="row 3 of some rows has a loss of nan; load the model in float32"
        ):
            score(llama, rows, own, by=by)
        network, encoded = bare(llama), llama.encode(rows)
        with pytest.raises(InputError, match="row 3 of a batch of some rows has a loss of nan"):
            contributions(network, encoded, sites=find_sites(network, [own]))

    def test_a_gradient_that_is_not_finite_names_its_row(self, llama):
        word = llama.tokenizer.convert_tokens_to_ids("please")
        factor = torch.ones(1)

        def mark(module, args, output):
            nonlocal factor
            factor = torch.where(args[0] == word, torch.inf, 1.0)[..., None].amax(1, keepdim=True)

        def steepen(module, args, output):
            if output.requires_grad:
                output.register_hook(lambda gradient: gradient * factor)

        llama.hf.model.embed_tokens.register_forward_hook(mark)
        llama.hf.model.layers[1].mlp.register_forward_hook(steepen)
        rows = Prompts.from_pairs([("one", "1, 2, 3"), ("list", "2"), ("please", "3, 4")], label="some rows")
        with pytest.raises(InputError, match="row 3 of some rows has a gradient that is not finite"):
            score(llama, rows, directions(llama)[0].only("model.layers.0.mlp.up_proj.weight"))

    def test_attention_dropout_left_on(self, llama):
        llama.hf.train()
        for layer in llama.hf.model.layers:
            layer.self_attn.attention_dropout = 0.1
        with pytest.raises(InputError, match=r"dropout left on \(model.layers.0.self_attn, p = 0.1\)"):
            score(llama, ROWS, directions(llama)[0])


class TestShards:
    """Five shards of two rows and a last one of one."""

    ROWS = Prompts.from_pairs([(f"list {i} numbers", ", ".join(["1"] * (1 + i % 4))) for i in range(11)])

    @pytest.mark.parametrize("by", [["example"], ["example", "position", "module"], ["module"]])
    def test_a_killed_call_ends_in_the_same_bytes(self, llama, by, monkeypatch, tmp_path):
        monkeypatch.setattr(scores_module, "SHARD", 2)
        monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "whole"))
        own, write, done = directions(llama)[:2], work_module.Work.write, []
        whole = score(llama, self.ROWS, own, by=by)

        def dying(self, folder, rows, start, batch_size):
            write(self, folder, rows, start, batch_size)
            if len(done) == 3:
                done.append(-1)
                raise KeyboardInterrupt
            done.append(start)

        monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "killed"))
        monkeypatch.setattr(work_module.Work, "write", dying)
        with pytest.raises(KeyboardInterrupt):
            score(llama, self.ROWS, own, by=by)
        resumed = score(llama, self.ROWS, own, by=by)
        assert done == [0, 2, 4, -1, 6, 8, 10]
        assert torch.equal(resumed.totals, whole.totals)
        assert [f.read_bytes() for f in resumed.files] == [f.read_bytes() for f in whole.files]
        assert not set(resumed.files) & set(whole.files)

    def test_rows_keep_their_numbers_whatever_the_shard(self, llama, monkeypatch):
        own = directions(llama)[:1]
        whole = score(llama, self.ROWS, own).frame
        monkeypatch.setattr(scores_module, "SHARD", 3)  # a shard of another size is another shard
        sharded = score(llama, self.ROWS, own)
        assert len(sharded.files) == 4
        assert sharded.frame["row"].tolist() == list(range(11))
        assert near(torch.tensor(sharded.frame["score"].to_numpy()), torch.tensor(whole["score"].to_numpy()))
        assert sharded.frame["tokens"].tolist() == whole["tokens"].tolist()
