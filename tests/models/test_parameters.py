"""Directions in weight space: sums and products by hand on 2 x 2 matrices, files, and what is refused at the door."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from interp.core.runs import InputError, digest
from interp.models.language import load_model
from interp.models.lineage import open_lineage
from interp.models.low_rank import LowRank, compressed
from interp.models.parameters import ParameterDirection, read_direction
from interp.models.seam import lineage_root
from interp.models.updates import adapter_factors, weight_update
from tests.tiny import build_tokenizer

W, V = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
COLUMN, ROW = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 4.0]])  # their product is [[3, 4], [6, 8]]
THIN = LowRank(COLUMN, ROW)


def direction(label="a", fingerprint="f", biases=None, **tensors):
    return ParameterDirection(tensors, label, fingerprint, "root", biases or {})


class TestArithmetic:
    def test_it_reads_as_a_mapping_of_dense_tensors(self):
        made = direction(w=W, thin=THIN)
        assert torch.equal(made["thin"], torch.tensor([[3.0, 4.0], [6.0, 8.0]]))
        assert list(made) == list(made.keys()) == ["w", "thin"]
        assert len(made) == 2
        assert "w" in made
        assert "x" not in made
        assert {name: tensor.sum().item() for name, tensor in made.items()} == {"w": 10.0, "thin": 21.0}
        assert [tensor.shape for tensor in made.values()] == [(2, 2), (2, 2)]

    def test_dot_products_by_hand(self):
        dense, thin = direction(w=W, b=torch.ones(2)), direction(w=THIN)
        assert dense.dot(direction(w=V)) == 5.0  # 2 + 3
        assert dense.dot(thin) == thin.dot(dense) == 3 + 8 + 18 + 32
        assert thin.dot(thin) == 9 + 16 + 36 + 64
        assert thin.dot(direction(w=LowRank(torch.eye(2), V))) == 4 + 6
        assert dense.dot(direction(other=W)) == 0.0
        assert dense.norm() == pytest.approx(math.sqrt(32))
        assert dense.norms() == pytest.approx({"w": math.sqrt(30), "b": math.sqrt(2)})

    def test_virtual_biases_count(self):
        a, b = (
            direction(biases={"blocks.0.hook_resid_post": torch.tensor(x)}) for x in ([1.0, 2.0], [3.0, -1.0])
        )
        assert a.dot(b) == 1.0
        assert (a + 2 * b).biases["blocks.0.hook_resid_post"].tolist() == [7.0, 0.0]

    def test_sums_of_low_rank_stay_low_rank(self):
        total = direction(w=THIN) - 2 * direction("b", w=LowRank(torch.eye(2), V))
        assert isinstance(total.tensors["w"], LowRank)
        assert total.tensors["w"].rank == 3
        assert torch.equal(total["w"], torch.tensor([[3.0, 2.0], [4.0, 8.0]]))
        assert total.label == "a \N{MINUS SIGN} (2 × b)"

    def test_low_rank_and_dense_give_dense(self):
        total = direction(w=THIN) + direction("b", w=W, other=V)
        assert torch.equal(total.tensors["w"], torch.tensor([[4.0, 6.0], [9.0, 12.0]]))
        assert torch.equal(total["other"], V)

    def test_scales_and_signs(self):
        made = direction(w=W, thin=THIN)
        for scaled, factor in ((made * 3, 3.0), (made / 2, 0.5), (-made, -1.0)):
            assert torch.equal(scaled["w"], factor * W)
            assert torch.equal(scaled["thin"], factor * made["thin"])
            assert isinstance(scaled.tensors["thin"], LowRank)
        assert (-made).label == "\N{MINUS SIGN}a"
        assert made.unit().norm() == pytest.approx(1.0)

    def test_factors_that_cancel_have_a_norm(self):
        left, right = torch.randn(5, 2), torch.randn(2, 5)
        made = direction(w=LowRank(left, right)) - direction(w=LowRank(left, right))
        assert 0 <= made.norm() < 1e-6

    def test_half_precision_is_widened(self):
        made = direction(w=W.bfloat16(), thin=LowRank(COLUMN.half(), ROW.half()))
        assert made["w"].dtype == made["thin"].dtype == torch.float32

    def test_sums_are_accumulated_in_double(self):
        many = torch.full((3000, 2000), 0.1)
        exact = 6_000_000 * float(torch.tensor(0.1).double() ** 2)
        assert direction(w=many).dot(direction(w=many)) == pytest.approx(exact, rel=1e-12)

    def test_what_does_not_add_up(self):
        with pytest.raises(InputError, match=r"a \+ b: they start from weights f and g; combine directions"):
            direction() + direction("b", "g")
        with pytest.raises(InputError, match=r"w is \[2, 2\] in a and \[2\] in b; use directions of models"):
            direction(w=W) + direction("b", w=torch.ones(2))
        with pytest.raises(InputError, match=r"w is \[2, 2\] in a and \[2\] in b"):
            direction(w=W).dot(direction("b", w=torch.ones(2)))
        with pytest.raises(InputError, match=r"a is zero, so nothing leans toward it"):
            direction(w=torch.zeros(2)).unit()
        with pytest.raises(InputError, match=r"a cannot be divided by 0"):
            direction(w=W) / 0
        with pytest.raises(
            InputError, match=r"weight 'lm_haed' is unknown; nearest: lm_head; a leaves every other"
        ):
            direction(lm_head=W)["lm_haed"]


class TestSelections:
    def test_restriction_by_weight_or_module(self):
        tensors = {"h.0.mlp.weight": W, "h.0.attn.weight": W, "h.1.mlp.weight": W, "ln.bias": torch.ones(2)}
        made = ParameterDirection(tensors, "a", "f", "root", {"blocks.0.hook_resid_pre": torch.ones(2)})
        assert list(made.only("*.mlp.*")) == ["h.0.mlp.weight", "h.1.mlp.weight"]
        assert list(made.only("h.0.mlp", "ln.bias")) == ["h.0.mlp.weight", "ln.bias"]
        assert made.only("blocks.0.*").biases.keys() == {"blocks.0.hook_resid_pre"}
        assert made.only("*.mlp.*").label == "a at *.mlp.*"
        with pytest.raises(InputError, match=r"pattern 'h.0.mpl.weight' is unknown; nearest: h.0.mlp.weight"):
            made.only("*.mlp.*", "h.0.mpl.weight")
        with pytest.raises(InputError, match=r"no pattern restricts a; pass one such as"):
            made.only()

    def test_truncation_is_the_largest_singular_term(self):
        made = direction(w=torch.diag(torch.tensor([3.0, -1.0])), b=torch.ones(2)).truncated(1)
        assert torch.allclose(made["w"], torch.diag(torch.tensor([3.0, 0.0])), atol=1e-6)
        assert made.tensors["w"].rank == 1
        assert torch.equal(made["b"], torch.ones(2))
        assert made.label == "a (rank 1)"
        with pytest.raises(InputError, match=r"rank 0 holds nothing"):
            made.truncated(0)

    def test_truncation_of_factors_equals_truncation_of_their_product(self):
        torch.manual_seed(0)
        thin = LowRank(torch.randn(9, 4), torch.randn(4, 7))
        ours, dense = (direction(w=entry).truncated(2)["w"] for entry in (thin, thin.dense()))
        assert torch.allclose(ours, dense, atol=1e-5)

    def test_a_planted_rank_is_found(self):
        torch.manual_seed(0)
        planted, full = torch.randn(20, 3) @ torch.randn(3, 16), torch.randn(20, 16)
        made = direction(
            planted=planted, full=full, b=torch.ones(3), redundant=LowRank(planted, torch.eye(16))
        )
        found = made.compressed()
        assert {name: entry.rank for name, entry in found.tensors.items() if isinstance(entry, LowRank)} == {
            "planted": 3,
            "redundant": 3,
        }
        assert torch.equal(found.tensors["full"], full)
        assert all(torch.allclose(found[name], made[name], atol=1e-5) for name in made)

    def test_what_is_left_out_is_within_the_tolerance(self):
        spectrum = torch.tensor([1.0, 0.1, 0.01, 0.001, 0.0001, 0.0, 0.0, 0.0])
        for tolerance, rank in ((0.2, 1), (0.05, 2), (0.005, 3)):
            entry = compressed(torch.diag(spectrum), tolerance)
            assert isinstance(entry, LowRank)
            assert entry.rank == rank
            assert (entry.dense() - torch.diag(spectrum)).norm() <= tolerance * spectrum.norm()


class TestFiles:
    @pytest.fixture
    def saved_direction(self, tmp_path):
        made = direction(
            "teacher − base", w=W, thin=THIN, tied=W, biases={"blocks.0.hook_resid_post": torch.ones(2)}
        )
        return made, made.save(tmp_path / "deep" / "v.safetensors")

    def test_a_direction_comes_back_the_same(self, saved_direction):
        made, path = saved_direction
        back = ParameterDirection.load(path)
        assert (back.label, back.fingerprint, back.lineage, back.key) == (made.label, "f", "root", made.key)
        assert isinstance(back.tensors["thin"], LowRank)
        assert [file.name for file in path.parent.iterdir()] == ["v.safetensors"]

    def test_the_key_follows_the_content(self):
        made = direction(w=W)
        assert made.key == direction("another label", w=W.clone()).key
        others = (direction(w=2 * W), direction(x=W), direction(w=W, fingerprint="g"), direction(w=THIN))
        assert len({made.key, *(other.key for other in others)}) == 5
        assert made.key != digest(made)

    def test_a_truncated_file(self, saved_direction):
        _, path = saved_direction
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(InputError, match=r"cannot read .*v.safetensors: truncated or not safetensors"):
            ParameterDirection.load(path)
        with pytest.raises(InputError, match=r"no file at .*other.safetensors"):
            ParameterDirection.load(path.with_name("other.safetensors"))

    def test_a_foreign_file(self, tmp_path):
        save_file({"w": W}, tmp_path / "w.safetensors")
        with pytest.raises(
            InputError, match=r"without a saved direction \(interp.direction/1\); read tensors of your"
        ):
            ParameterDirection.load(tmp_path / "w.safetensors")

    def test_a_users_tensors_by_name(self, tiny, tmp_path):
        model = load_model(tiny("gpt2")[0], tokenizer=build_tokenizer(), check=False)
        path = tmp_path / "mine.safetensors"
        save_file({"transformer.ln_f.bias": torch.ones(32, dtype=torch.bfloat16)}, path)
        mine = read_direction(path, model)
        assert (mine.label, mine.fingerprint, list(mine)) == (
            "mine",
            model.fingerprint,
            ["transformer.ln_f.bias"],
        )
        assert mine["transformer.ln_f.bias"].dtype == torch.float32
        assert read_direction(mine.save(tmp_path / "saved.safetensors"), model).key == mine.key
        save_file({"transformer.ln_f.bais": torch.ones(32)}, path)
        with pytest.raises(
            InputError, match=r"mine moves a weight that GPT2LMHeadModel lacks: 'transformer.ln_f.bais'"
        ):
            read_direction(path, model)
        save_file({"transformer.ln_f.bias": torch.ones(31)}, path)
        with pytest.raises(
            InputError, match=r"transformer.ln_f.bias is \[31\] in mine and \[32\] in GPT2LMHeadModel"
        ):
            read_direction(path, model)


class TestAtTheDoor:
    @pytest.fixture
    def model(self, tiny):
        return load_model(tiny("gpt2")[0], tokenizer=build_tokenizer(), name="base", check=False)

    def made(self, model, values=1.0, **fields):
        fields = {"label": "v", "fingerprint": model.fingerprint, "lineage": lineage_root(model), **fields}
        return ParameterDirection({"transformer.ln_f.bias": torch.full((32,), values)}, **fields)

    def test_what_fits_passes(self, model):
        self.made(model).check(model)
        self.made(model, biases={"blocks.1.hook_resid_pre": torch.ones(32)}).check(model)

    def test_another_models_weights(self, model):
        with pytest.raises(
            InputError, match=r"v belongs to weights other, base has \w{16}; score it at the weights"
        ):
            self.made(model, fingerprint="other").check(model)
        self.made(model, fingerprint="other").check(model, transfer=True)

    def test_zero_and_nan(self, model):
        with pytest.raises(InputError, match=r"v is zero, so nothing leans toward it"):
            self.made(model, 0.0).check(model)
        with pytest.raises(
            InputError, match=r"v has NaN or inf in transformer.ln_f.bias \(32 of 32 values\)"
        ):
            self.made(model, math.nan).check(model)

    def test_a_bias_off_the_residual_stream(self, model):
        for hook in ("blocks.0.hook_mlp_out", "blocks.2.hook_resid_post"):
            with pytest.raises(InputError, match=rf"hook '{hook}' is unknown; nearest: blocks"):
                self.made(model, biases={hook: torch.ones(32)}).check(model)


class TestUpdates:
    @pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
    def test_factors_equal_the_merged_difference(self, family, tiny, lora):
        hf, tokenizer = tiny(family)
        lineage = open_lineage(
            base=load_model(hf, tokenizer=tokenizer, check=False), teacher=lora(hf), check=False
        )
        update = lineage.update("teacher")
        assert all(isinstance(entry, LowRank) and entry.rank == 2 for entry in update.tensors.values())
        before, after = lineage.base.parameters(), lineage.teacher.parameters()
        moved = {name for name in after if not torch.equal(before[name], after[name])}
        assert set(update) == moved
        assert all((update[name] - (after[name] - before[name])).abs().max() < 1e-6 for name in moved)
        assert (update.label, update.fingerprint) == ("teacher \N{MINUS SIGN} base", lineage.base.fingerprint)
        assert update.lineage == lineage_root(lineage.base)
        update.check(lineage.base)

    def test_several_adapters_stand_side_by_side(self, tiny, lora, tmp_path):
        hf, tokenizer = tiny("gpt2")
        for seed in (1, 2):
            lora(hf, seed=seed, lora_alpha=3 * seed, use_rslora=seed == 2).save_pretrained(
                tmp_path / str(seed)
            )
        base = load_model(hf, tokenizer=tokenizer, check=False)
        member = base.with_adapter(tmp_path / "1", tmp_path / "2", check=False)
        update = weight_update(member)
        before, after = base.parameters(), member.parameters()
        assert {entry.rank for entry in update.tensors.values()} == {4}
        assert all((update[name] - (after[name] - before[name])).abs().max() < 1e-6 for name in update)

    @pytest.mark.parametrize(
        "options",
        [
            {"use_dora": True},
            {"modules_to_save": ["ln_f"]},
            {"lora_bias": True},
            {"target_modules": ["c_fc", "wte"]},
        ],
        ids=str,
    )
    def test_other_adapters_are_dense(self, options, tiny, lora):
        hf, tokenizer = tiny("gpt2")
        peft = lora(hf, **options)
        with torch.no_grad():
            for name, weight in peft.named_parameters():
                if "modules_to_save" in name or ("lora_B" in name and name.endswith("bias")):
                    weight.add_(0.5)
                if "lora_embedding" in name:
                    weight.normal_()
        base = load_model(hf, tokenizer=tokenizer, check=False)
        lineage = open_lineage(base=base, teacher=peft, check=False)
        update, before = lineage.update("teacher"), lineage.base.parameters()
        after = lineage.teacher.parameters()
        assert any(isinstance(entry, torch.Tensor) for entry in update.tensors.values())
        assert set(update) == {n for n in after if n in before and not torch.equal(before[n], after[n])}
        assert all((update[name] - (after[name] - before[name])).abs().max() < 1e-6 for name in update)

    def test_a_full_member_moves_what_moved(self, tiny):
        (hf, tokenizer), (moved, _) = tiny("llama"), tiny("llama")
        with torch.no_grad():
            moved.model.norm.weight += 0.5
        lineage = open_lineage(
            base=load_model(hf, tokenizer=tokenizer, check=False), teacher=moved, check=False
        )
        update = lineage.update("teacher")
        assert list(update) == ["model.norm.weight"]
        assert torch.allclose(update["model.norm.weight"], torch.full((32,), 0.5))

    def test_a_peft_model_in_memory_starts_from_what_is_beneath_its_adapters(self, tiny, lora):
        hf, tokenizer = tiny("llama")
        peft = lora(hf)
        model = load_model(peft, tokenizer=tokenizer, name="tuned", check=False)
        assert model.start.name == "base of tuned"
        assert model.start.fingerprint == load_model(hf, check=False).fingerprint
        update, after, before = weight_update(model), model.parameters(), dict(hf.named_parameters())
        assert all(isinstance(entry, LowRank) for entry in update.tensors.values())
        assert set(update) == {name for name in after if not torch.equal(after[name], before[name])}
        assert all((update[name] - (after[name] - before[name])).abs().max() < 1e-6 for name in update)
        with peft.disable_adapter(), pytest.raises(InputError, match=r"have equal weights, so no update"):
            weight_update(load_model(peft, tokenizer=tokenizer, check=False))

    def test_no_start_and_no_change(self, tiny):
        model = load_model(tiny("gpt2")[0], tokenizer=build_tokenizer(), name="base", check=False)
        with pytest.raises(InputError, match=r"base has no start and so no update"):
            weight_update(model)
        still = SimpleNamespace(name="copy", start=model, parameters=model.parameters)
        with pytest.raises(InputError, match=r"copy and base have equal weights, so no update"):
            weight_update(still)

    def test_a_network_without_adapters_has_no_factors(self, tiny):
        assert adapter_factors(tiny("gpt2")[0]) == ({}, True)


def test_one_line_and_a_table():
    made = direction("teacher − <base>", w=W, thin=THIN)
    assert repr(made) == "ParameterDirection(teacher − <base>: 2 tensors, 8 numbers, norm 12.4, rank 1)"
    page = made._repr_html_()
    assert "<td>thin</td><td>[2, 2]</td><td>1</td><td>11.2</td>" in page
    assert "<base>" not in page
