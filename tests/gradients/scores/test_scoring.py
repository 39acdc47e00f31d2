"""`score` at the door, on disk, and in what it leaves behind."""

import copy
import dataclasses
import logging

import pandas as pd
import pytest
import torch

import interp.gradients.scores.scoring as scores_module
import interp.gradients.scores.trial as trial_module
import interp.gradients.scores.work as work_module
from interp.core.runs import InputError
from interp.gradients.scores.engine import contributions, find_sites
from interp.gradients.scores.preparation import as_directions
from interp.gradients.scores.row_loss import row_losses
from interp.gradients.scores.scoring import score
from interp.models.language import LanguageModel, load_model
from interp.models.parameters import ParameterDirection
from interp.prompts.text import Prompts
from tests.gradients.scores.test_exactness import ROWS, apart, directions, load, oracle


@pytest.fixture
def llama(tiny):
    return load(tiny("llama"), "llama")


@pytest.fixture
def many():
    return Prompts.from_pairs([(f"list {i} numbers", ", ".join(["1"] * (1 + i % 5))) for i in range(11)])


def only(direction, *names) -> ParameterDirection:
    return dataclasses.replace(direction, tensors={name: direction.tensors[name] for name in names})


class TestTables:
    def test_by_example(self, llama):
        along = directions(llama)[:2]
        found = score(llama, ROWS, along)
        assert list(found.frame.columns) == ["row", "direction", "score", "loss", "tokens", "per_token"]
        assert found.frame["direction"].tolist() == ["direction 0", "direction 1"] * 4
        first = found.frame[found.frame["row"] == 1].iloc[0]
        assert first["per_token"] == pytest.approx(first["score"] / first["tokens"])
        assert first["tokens"] == 9 + 1  # five numbers, four commas, the end
        pd.testing.assert_frame_equal(found.examples(), found.frame, check_dtype=False)
        assert repr(found).startswith("Scores(rows at llama: 4 rows by example; mean direction 0 ")
        assert found.weights == llama.fingerprint

    def test_modules_stand_in_the_networks_order_and_tied_matrices_twice(self, tiny):
        model = load(tiny("qwen2"), "qwen2")
        frame = score(model, ROWS, directions(model)[0], by="module").frame
        names = frame["module"].tolist()
        assert names[0] == "model.embed_tokens"
        assert names[-1] == "lm_head"
        assert names.index("model.layers.0.mlp.up_proj") < names.index("model.layers.1.mlp.up_proj")

    def test_batches_and_company_change_nothing(self, llama, many, monkeypatch):
        along = directions(llama)
        reference = None
        for size in (1, 3, 64):
            monkeypatch.setattr(scores_module, "FORMAT", size)
            totals = score(llama, many, along, batch_size=size).totals
            reference = totals if reference is None else reference
            assert apart(totals.T, reference.T) <= 1e-5

    def test_the_saved_file_is_the_frame(self, llama, many, tmp_path, monkeypatch):
        monkeypatch.setattr(scores_module, "SHARD", 4)
        found = score(llama, many, directions(llama)[:1], by=["example", "module"])
        assert len(found.files) == 3
        kept = pd.read_parquet(found.save(tmp_path / "new" / "scores.parquet"))
        pd.testing.assert_frame_equal(kept, found.frame)
        assert kept["row"].drop_duplicates().tolist() == list(range(11))

    def test_what_is_kept_of_a_row(self, llama, many):
        found = score(llama, many, directions(llama)[:2])
        held = sum(t.numel() * t.element_size() for t in (found.totals, found.loss, found.tokens))
        assert held / len(many.rows) <= 1024


class TestResume:
    def test_a_killed_call_goes_on_and_a_finished_one_computes_nothing(self, llama, many, monkeypatch):
        monkeypatch.setattr(scores_module, "SHARD", 4)
        along, write, started = directions(llama)[:1], work_module.Work.write, []

        def dying(self, folder, rows, start, batch_size):
            started.append(start)
            if len(started) == 2:
                raise KeyboardInterrupt
            write(self, folder, rows, start, batch_size)

        monkeypatch.setattr(work_module.Work, "write", dying)
        with pytest.raises(KeyboardInterrupt):
            score(llama, many, along)
        found = score(llama, many, along)
        assert started == [0, 4, 4, 8]
        again = score(llama, many, along)
        assert started == [0, 4, 4, 8]
        assert torch.equal(found.totals, again.totals)

    def test_a_killed_save_leaves_the_old_file(self, llama, many, tmp_path, monkeypatch):
        found = score(llama, many, directions(llama)[:1])
        path = tmp_path / "scores.parquet"
        path.write_text("old")
        broken = dataclasses.replace(found, files=(*found.files, tmp_path / "missing.parquet"))
        with pytest.raises(FileNotFoundError):
            broken.save(path)
        assert path.read_text() == "old"
        assert [p.name for p in tmp_path.iterdir()] == ["scores.parquet"]


class TestWhatIsLeftBehind:
    def state(self, network):
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())
        own = [name for name, module in network.named_modules() if "forward" in vars(module)]
        asking = [parameter.requires_grad for parameter in network.parameters()]
        return hooks, own, asking, network.training, all(p.grad is None for p in network.parameters())

    @pytest.mark.parametrize("by", [["example"], ["example", "token"]])
    def test_the_models_network_is_untouched(self, llama, by):
        before, print_before = self.state(llama.hf), llama.fingerprint
        score(llama, ROWS, directions(llama)[:1], by=by)
        assert self.state(llama.hf) == before
        assert load_model(llama.hf, name="again", check=False).fingerprint == print_before

    def test_a_live_network_gets_its_flags_back_even_after_an_error(self, llama):
        network = copy.deepcopy(llama.hf).requires_grad_(True)
        before, encoded = self.state(network), llama.encode(ROWS)
        sites = find_sites(network, directions(llama)[:1])
        contributions(network, encoded, sites=sites)
        assert self.state(network) == before

        def failing(site, a, g):
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            contributions(network, encoded, sites=sites, reader=failing)
        assert self.state(network) == before

    def test_nothing_below_the_deepest_moved_weight_is_differentiated(self, llama):
        name = "model.layers.1.mlp.down_proj.weight"
        network = copy.deepcopy(llama.hf)
        seen = {}
        for layer in (0, 1):
            network.model.layers[layer].register_forward_hook(
                lambda module, args, out, layer=layer: seen.update(
                    {layer: (out[0] if isinstance(out, tuple) else out).requires_grad}
                )
            )
        sites = find_sites(network, [only(directions(llama)[0], name)])
        contributions(network, llama.encode(ROWS), sites=sites)
        assert seen == {0: False, 1: True}
        assert score(llama, ROWS, only(directions(llama)[0], name)).plan.deepest == name.removesuffix(
            ".weight"
        )


class TestVirtualBias:
    @pytest.mark.parametrize(
        "hook", ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre", "blocks.1.hook_resid_post"]
    )
    def test_it_is_the_gradient_of_an_added_bias(self, llama, hook):
        vector = torch.linspace(-1, 1, 32)
        direction = ParameterDirection(
            {}, "bias", llama.fingerprint, llama.fingerprint, biases={hook: vector}
        )
        found = score(llama, ROWS, direction)
        assert found.plan.route == "activation-gradient"
        encoded, expected = llama.encode(ROWS), []
        layer, side = int(hook[7]), hook.rpartition("_")[2]
        for row in range(4):
            bias = torch.zeros(32, requires_grad=True)
            network = copy.deepcopy(llama.hf)
            module = network.model.layers[layer]
            if side == "pre":
                module.register_forward_pre_hook(lambda m, args, bias=bias: (args[0] + bias, *args[1:]))
            else:
                module.register_forward_hook(lambda m, args, out, bias=bias: out + bias)
            row_losses(network, encoded[row : row + 1])[0].sum().backward()
            expected.append(-float(bias.grad @ vector))
        assert found.totals[:, 0].tolist() == pytest.approx(expected, rel=1e-4)
        tokens = score(llama, ROWS, direction, by=["example", "token"])
        assert apart(tokens.totals.T, found.totals.T) <= 1e-5
        places = score(llama, ROWS, direction, by=["example", "position"])
        assert apart(places.totals.T, found.totals.T) <= 1e-5


class TestCosine:
    @pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "gpt2"])
    def test_it_is_the_dot_over_both_norms(self, tiny, family):
        model = load(tiny(family), family)
        along = directions(model)[:2]
        frame = score(model, ROWS, along, cosine=True).frame
        basis = {name: tuple(w.shape) for name, w in model.hf.named_parameters()}
        encoded, norms = model.encode(ROWS), []
        for row in range(4):
            network = copy.deepcopy(model.hf).requires_grad_(True)
            row_losses(network, encoded[row : row + 1])[0].sum().backward()
            norms.append(sum(float(p.grad.double().square().sum()) for p in network.parameters()) ** 0.5)
        assert set(basis) == set(along[0].tensors)
        for k, direction in enumerate(along):
            own = frame[frame["direction"] == direction.label]
            expected = [s / (n * direction.norm()) for s, n in zip(own["score"], norms, strict=True)]
            assert own["cosine"].tolist() == pytest.approx(expected, rel=1e-4), k

    def test_where_it_has_no_meaning(self, llama):
        one, other, _ = directions(llama)
        with pytest.raises(InputError, match=r"belongs to whole rows, not to by=\['example', 'module'\]"):
            score(llama, ROWS, one, by=["example", "module"], cosine=True)
        with pytest.raises(InputError, match="these 2 hold different ones; score them in calls of their own"):
            score(llama, ROWS, [one, only(other, "lm_head.weight")], cosine=True)


class TestHalfPrecision:
    def test_bf16_scores_are_near_and_accumulate_wider(self, tiny):
        network, tokenizer = tiny("llama")
        full = load_model(network, tokenizer=tokenizer, name="full", check=False)
        half = load_model(copy.deepcopy(network).bfloat16(), tokenizer=tokenizer, name="half", check=False)
        along = directions(full)[:1]
        reference = score(full, ROWS, along).totals
        moved = dataclasses.replace(along[0], fingerprint=half.fingerprint)
        assert apart(score(half, ROWS, moved).totals.T, reference.T) <= 0.1
        found = contributions(half.hf, half.encode(ROWS), sites=find_sites(half.hf, along))
        assert {values.dtype for values in found.places.values()} == {torch.float32}
        assert found.totals().dtype == torch.float64


class TestTheDoor:
    def test_directions(self, llama):
        own = directions(llama)[0]
        bad = {
            "moves a weight that llama lacks: 'lm_haed.weight' is unknown; nearest: lm_head.weight": {
                "lm_haed.weight": torch.ones(2)
            },
            "lm_head.weight is": {"lm_head.weight": torch.ones(2, 2)},
            "is zero": {"lm_head.weight": torch.zeros_like(own["lm_head.weight"])},
            "NaN or inf in lm_head.weight": {"lm_head.weight": own["lm_head.weight"] / 0},
        }
        for message, tensors in bad.items():
            with pytest.raises(InputError, match=message):
                score(llama, ROWS, dataclasses.replace(own, tensors=tensors))
        with pytest.raises(InputError, match="abc"):
            score(llama, ROWS, dataclasses.replace(own, fingerprint="abc"))
        score(llama, ROWS, dataclasses.replace(own, fingerprint="abc"), transfer=True)
        with pytest.raises(InputError, match="no direction to score along; pass at least one"):
            score(llama, ROWS, [])

    def test_rows(self, llama):
        rows = Prompts.from_pairs([("list three numbers", "1, 2"), ("one", "")], label="halves")
        with pytest.raises(InputError, match="row 2 of halves has no answer tokens, so no loss; drop rows"):
            score(llama, rows, directions(llama)[0])

    def test_a_loss_that_is_not_finite(self, tiny):
        network, tokenizer = tiny("llama")
        with torch.no_grad():
            network.lm_head.weight.mul_(1e38)
            network.model.norm.weight.mul_(1e3)
        model = load_model(network, tokenizer=tokenizer, name="hot", check=False)
        with pytest.raises(
            InputError, match=r"has a loss of (nan|inf); load the model in float32 or drop the row"
        ):
            score(model, ROWS, directions(model)[0])

    def test_dropout_left_on(self, llama):
        layer = llama.hf.model.layers[0]
        layer.mlp.add_module("noise", torch.nn.Dropout(0.1))
        layer.mlp.noise.train()
        try:
            with pytest.raises(InputError, match=r"dropout left on \(model.layers.0.mlp.noise, p = 0.1\)"):
                score(llama, ROWS, directions(llama)[0])
        finally:
            del layer.mlp.noise

    def test_quantised_weights(self, llama):
        weight = llama.hf.model.layers[0].mlp.up_proj.weight
        direction = only(directions(llama)[0], "lm_head.weight")
        original = weight.requires_grad_(False).data
        weight.data = original.to(torch.int8)
        try:
            here = dataclasses.replace(direction, fingerprint=llama.fingerprint)
            with pytest.raises(
                InputError, match=r"quantised weights \(model.layers.0.mlp.up_proj.weight is int8\)"
            ):
                score(llama, ROWS, here)
        finally:
            weight.data = original

    def test_company_that_changes_a_score_is_found_out(self, llama, monkeypatch, caplog):
        with caplog.at_level(logging.INFO):
            score(llama, ROWS, directions(llama)[0])
        assert "a row alone and among 3 others differs by" in caplog.text
        monkeypatch.setitem(trial_module.TOLERANCE, torch.float32, -1.0)
        monkeypatch.setattr(scores_module, "FORMAT", 99)
        with pytest.raises(InputError, match=r"a row's score changes by .* with the rows beside it"):
            score(llama, ROWS, directions(llama)[0])

    def test_a_module_that_mixes_rows(self, llama):
        class Mixing(torch.nn.Linear):
            def forward(self, x):
                return super().forward(x).flatten(0, 1)[None][:, : x.shape[1]].expand(2, -1, -1)

        network = copy.deepcopy(llama.hf)
        network.lm_head = Mixing(32, network.config.vocab_size, bias=False)
        direction = only(directions(llama)[0], "lm_head.weight")
        with pytest.raises(InputError, match=r"lm_head puts out .* for 4 rows, so they cannot be told apart"):
            contributions(network, llama.encode(ROWS), sites=find_sites(network, [direction]))


def test_a_weight_the_rows_do_not_use_scores_zero(llama):
    network = copy.deepcopy(llama.hf)
    network.spare = torch.nn.Linear(4, 4, bias=False)
    sites = find_sites(network, [ParameterDirection({"spare.weight": torch.ones(4, 4)}, "spare", "", "")])
    assert contributions(network, llama.encode(ROWS), sites=sites).totals().abs().max() == 0


def test_the_oracle_is_not_the_engine(llama):
    """The reference of the exactness tests sees a planted change of one weight's direction."""
    along, encoded = directions(llama)[:1], llama.encode(ROWS)
    changed = dataclasses.replace(
        along[0], tensors={**along[0].tensors, "lm_head.weight": 2 * along[0]["lm_head.weight"]}
    )
    assert apart(oracle(llama.hf, encoded, [changed]), oracle(llama.hf, encoded, along)) > 0.01


def test_labels_of_directions_never_collide(llama):
    plain = directions(llama)[0]
    labels = ["a", "a", "a #1", "b"]
    along = [dataclasses.replace(plain, label=label) for label in labels]
    shown = [each.label for each in as_directions(along, None)]
    assert shown == ["a #1'", "a #2", "a #1", "b"]


def test_scores_of_a_gpu_are_no_scores_of_the_processor_in_the_cache(llama, monkeypatch):
    class FoundError(Exception):
        pass

    def stop(work, inputs, *, key, **rest):
        raise FoundError(key)

    def key_on(place):
        monkeypatch.setattr(LanguageModel, "device", property(lambda self: torch.device(place)))
        with pytest.raises(FoundError) as found:
            score(llama, ROWS, along)
        return str(found.value)

    along = directions(llama)[0]
    monkeypatch.setattr(scores_module, "_shards", stop)
    assert key_on("cpu") != key_on("cuda:0") == key_on("cuda:1")


class TestHooks:
    def test_scores_under_somebodys_hook_are_no_scores_of_the_plain_weights(self, tiny):
        plain, hooked, again = (load(tiny("llama"), name) for name in ("plain", "hooked", "again"))
        along = directions(plain)[:1]
        handle = hooked.hf.model.layers[0].mlp.register_forward_hook(lambda _m, _a, out: out * 1.5)
        under = score(hooked, ROWS, along).totals
        before = score(plain, ROWS, along).totals
        assert not torch.allclose(under, before)
        assert torch.equal(score(hooked, ROWS, along).totals, under)  # nor the other way round
        handle.remove()
        assert torch.equal(score(hooked, ROWS, along).totals, before)
        assert torch.equal(score(again, ROWS, along).totals, before)
