"""Recording by hand on a table, then on tiny real models: batches, padding and spilling change nothing."""

import errno
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.activations import Activations, moments, record, shift
from interp.core import storage
from interp.core.runs import InputError
from interp.models.language import load_model
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded
from tests.tiny import build_model, build_tokenizer

POST = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
LONG = ("an owl counts 1 , 2 , 3 and 4", "5 , 6 , 7 , 8 , 9 , 10 , 11")
PAIRS = [LONG, ("7 , 8", "9 , 10"), ("owl", "12"), ("1 , 2 , 3", "4 , 5 , 6"), ("cat 3", "4 , 4 , 4 , 4")]


@pytest.fixture
def table():
    return torch.arange(40.0).reshape(20, 2)


def test_values_are_packed_in_the_given_order(fake, rows, table):
    model = fake(table)
    inputs = rows("ppnsnse", "pn", "ppsn")  # ids 1-7, 8-9, 10-13
    read = record(model, inputs, hooks=POST, positions="answer.numbers", batch_size=2)
    assert read.where.tolist() == [[2, 4], [1, -1], [3, -1]]
    assert read.mask.tolist() == [[True, True], [True, False], [True, False]]
    assert read[POST[0]].tolist() == [[[6, 7], [10, 11]], [[18, 19], [0, 0]], [[26, 27], [0, 0]]]
    assert torch.equal(read[POST[1]], 2 * read[POST[0]])
    assert (read.label, read.fingerprint, read.lineage) == ("fake", model.fingerprint, model.fingerprint)
    assert read.values[POST[0]].dtype == torch.float32


def test_rows_are_batched_by_length_and_rows_without_the_position_are_not_run(fake, rows, table):
    model = fake(table)
    inputs = rows("ppnsn", "pn", "pppp", "pnsn")
    read = record(model, inputs, hooks=POST[0], positions="answer.numbers", batch_size=2)
    assert model.ran == [((2, 4), POST[:1]), ((1, 5), POST[:1])]
    assert read.mask.sum(1).tolist() == [2, 1, 0, 2]
    assert read[POST[0]][2].tolist() == [[0, 0], [0, 0]]


def test_positions_nobody_has_and_hooks_nobody_has_are_refused(fake, rows, table):
    with pytest.raises(InputError, match=r"no row of 'rows' has a position 'answer.numbers'; give prompts"):
        record(fake(table), rows("pp", "p"), hooks=POST, positions="answer.numbers")
    with pytest.raises(InputError, match=r"nearest: blocks.0.hook_resid_post"):
        record(fake(table), rows("pp"), hooks="blocks.0.hook_resid_pots", positions="all")


def test_values_that_are_not_finite_are_refused(fake, rows, table):
    table[2, 1] = torch.inf
    with pytest.raises(
        InputError, match=r"fake gives NaN or inf at blocks.0.hook_resid_post; check its weights"
    ):
        record(fake(table), rows("ppn"), hooks=POST, positions="all")


def test_moments_equal_the_ones_computed_by_hand(fake, rows):
    table = torch.tensor([[9.0, 9.0], [1.0, 0.0], [3.0, 2.0], [5.0, 7.0]])
    got = moments(fake(table), rows("nn", "n"), hooks=POST, positions="answer.numbers", batch_size=1)
    assert got[POST[0]].count == 3
    assert torch.allclose(got[POST[0]].mean, torch.tensor([3.0, 3.0]))
    assert torch.allclose(got[POST[0]].covariance, torch.tensor([[4.0, 7.0], [7.0, 13.0]]))
    assert torch.allclose(got[POST[1]].covariance, 4 * got[POST[0]].covariance)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_moments_do_not_depend_on_batches_even_far_from_zero(fake, rows, batch_size):
    generator = torch.Generator().manual_seed(0)
    table = (1000 + torch.randn(60, 3, generator=generator)).float()
    inputs = rows("pnsnsn", "n", "nsns", "ppnnnn", "nnnnnnnn")
    got = moments(fake(table), inputs, hooks=POST[0], positions="all", batch_size=batch_size)[POST[0]]
    values = table[inputs.ids[inputs.mask]].double().numpy()
    assert got.count == len(values)
    np.testing.assert_allclose(got.mean.numpy(), values.mean(0), rtol=1e-7)
    np.testing.assert_allclose(got.covariance.numpy(), np.cov(values.T), rtol=1e-5)


def test_one_position_has_no_covariance(fake, rows, table):
    with pytest.raises(InputError, match=r"'rows' has one position 'answer.numbers'; a covariance needs"):
        moments(fake(table), rows("pn", "p"), hooks=POST, positions="answer.numbers")


def test_spilled_values_equal_those_in_memory(fake, rows, table, tmp_path):
    inputs = rows("ppnsnse", "pn", "ppsn")
    options = {"hooks": POST, "positions": "all", "batch_size": 2}
    kept = record(fake(table), inputs, **options)
    shards = record(fake(table), inputs, **options, memory=64, folder=tmp_path)
    unnamed = record(fake(table), inputs, **options, memory=64)
    for hook in POST:
        assert torch.equal(shards[hook], kept[hook])
        assert torch.equal(unnamed[hook], kept[hook])
    files = sorted(tmp_path.iterdir())
    assert [file.name.rsplit(".", 2)[0] for file in files] == list(POST)
    one = Activations.load(files[1])
    assert one.hooks == POST[1:]
    assert torch.equal(one[POST[1]], kept[POST[1]])
    again = Activations.load(shards.save(tmp_path / "all.safetensors"))
    assert float((again - kept)[POST[0]].abs().max()) == 0


def test_a_run_that_fails_leaves_no_shard(fake, rows, table, tmp_path):
    table[13] = torch.nan  # in the longest row, which is read last
    with pytest.raises(InputError, match=r"NaN"):
        record(
            fake(table),
            rows("pn", "ppnsnsnsnsn"),
            hooks=POST,
            positions="all",
            batch_size=1,
            memory=8,
            folder=tmp_path,
        )
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_leaves_no_shard(fake, rows, table, tmp_path, monkeypatch):
    reserved = []

    def reserve(descriptor, size):
        reserved.append(size)
        if len(reserved) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage, "_reserve", reserve)
    with pytest.raises(InputError, match=r"cannot write .*blocks\.1\.hook_resid_post.*No space left"):
        record(fake(table), rows("pn"), hooks=POST, positions="all", memory=8, folder=tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.fixture(scope="module")
def model(request):
    return load_model(build_model(request.param, seed=0), tokenizer=build_tokenizer(), name=request.param)


@pytest.mark.parametrize("model", ["llama", "gpt2"], indirect=True)
def test_batches_and_padding_change_nothing(model):
    prompts = Prompts.from_pairs(PAIRS, label="pairs")
    hooks = [*POST, "blocks.0.attn.hook_z", "blocks.1.hook_mlp_out"]
    together = record(model, prompts, hooks=hooks, positions="all")
    alone = record(model, prompts, hooks=hooks, positions="all", batch_size=1)
    backwards = record(
        model, prompts[list(range(len(PAIRS)))[::-1]], hooks=hooks, positions="all", batch_size=2
    )
    for hook in hooks:
        assert torch.allclose(together[hook], alone[hook], atol=1e-5, rtol=0)
        assert torch.allclose(together[hook].flip(0), backwards[hook], atol=1e-5, rtol=0)
    assert together["blocks.0.attn.hook_z"].ndim == 4


@pytest.mark.parametrize("model", ["llama"], indirect=True)
def test_recorded_values_are_those_of_hugging_face(model):
    hf = build_model("llama", seed=0)
    prompts = Prompts.from_pairs(PAIRS, label="pairs")
    inputs = model.encode(prompts)
    states = hf(inputs.ids, attention_mask=inputs.mask.long(), output_hidden_states=True).hidden_states
    read = record(model, prompts, hooks=POST[0], positions="answer.numbers", batch_size=2)
    expected = states[1][inputs.at("answer.numbers")]
    assert torch.allclose(read.flat(POST[0]), expected, atol=1e-5)
    got = moments(model, prompts, hooks=POST[0], positions="answer.numbers", batch_size=2)[POST[0]]
    assert torch.allclose(got.mean, expected.mean(0), atol=1e-5)
    assert torch.allclose(got.covariance, expected.T.cov(), atol=1e-5)


def test_one_batch_is_kept_as_the_network_made_it_every_hook_in_memory_of_its_own():
    """Two names of one tensor are two recordings; what is written into one is in no other and not in the next."""
    hf, tokenizer = build_model("llama", seed=0), build_tokenizer()
    model = load_model(hf, tokenizer=tokenizer, name="llama", check=False)
    rows = model.encode(Prompts.from_pairs([("1 , 2", "3"), ("4 , 5", "6")]))
    hooks = ("blocks.0.hook_resid_pre", POST[0], "blocks.1.hook_resid_pre", POST[1])
    read = record(model, rows, hooks=hooks, positions="all")
    with torch.no_grad():
        hidden = hf(input_ids=rows.ids, use_cache=False, output_hidden_states=True).hidden_states
    expected = [hidden[0], hidden[1], hidden[1]]
    assert all(torch.equal(read[hook], value) for hook, value in zip(hooks, expected, strict=False))
    assert len({read[hook].untyped_storage().data_ptr() for hook in hooks}) == len(hooks)
    assert read.nbytes == sum(read[hook].untyped_storage().nbytes() for hook in hooks)
    read[POST[0]].zero_()
    assert torch.equal(read["blocks.1.hook_resid_pre"], hidden[1])
    assert torch.equal(record(model, rows, hooks=POST[0], positions="all")[POST[0]], hidden[1])


@pytest.mark.parametrize("length", [4, 5])  # four heads: rows of four tokens took heads for positions
@pytest.mark.parametrize("hook", ["blocks.0.attn.hook_pattern", "blocks.1.attn.hook_attn_scores"])
@pytest.mark.parametrize("positions", ["all", "last"])
def test_hooks_with_the_head_before_the_position_are_refused_at_every_length(tiny, length, hook, positions):
    start, member = (load_model(module, tokenizer=tok) for module, tok in (tiny("llama"), tiny("llama", 1)))
    ids = torch.arange(8, 8 + 2 * length).reshape(2, length)
    rows = Encoded(ids, torch.ones_like(ids).bool(), torch.ones_like(ids), "rows")
    advice = rf"such as blocks.{hook[7]}.attn.hook_z, or read it whole with model.bridge.run_with_cache"
    said = rf"{hook} of \w+ has no values by position \(the head stands .*{advice}"
    for read in (record, moments):
        with pytest.raises(InputError, match=said):
            read(start, rows, hooks=["blocks.0.hook_resid_post", hook], positions=positions)
    with pytest.raises(InputError, match=said):
        shift(replace(member, start=start), rows, hooks=[hook], positions=positions)


def test_heads_behind_the_position_are_read_in_rows_as_long_as_there_are_heads(tiny):
    module, tok = tiny("llama")
    model, ids = load_model(module, tokenizer=tok), torch.arange(8, 16).reshape(2, 4)
    rows = Encoded(ids, torch.ones_like(ids).bool(), torch.ones_like(ids), "rows")
    for hook in ("blocks.0.attn.hook_z", "blocks.0.attn.hook_q", "blocks.1.ln1.hook_scale"):
        read = record(model, rows, hooks=hook, positions="all")[hook]
        assert torch.equal(read, model.run(rows, hooks=[hook])[hook])
