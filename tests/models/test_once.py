"""Rows are read once while several verbs ask: what is served is what the network computes, and all of it is dropped."""

import pytest
import torch

from interp.models import prefixes
from interp.models.language import load_model
from interp.models.once import made_once, marked_logits, reading_once
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded

ROWS = Prompts.from_pairs([(f"list {i}", ", ".join(["1", "2"] * (1 + i % 3))) for i in range(6)])
HOOKS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")


@pytest.fixture(params=["gpt2", "llama", "gemma2", "gpt_neox"])
def model(request, tiny):
    network, tokenizer = tiny(request.param)
    return load_model(network, tokenizer=tokenizer, name=request.param, check=False)


@pytest.fixture
def passes(model):
    """The shape of every batch that went through the first layer."""
    found: list[tuple[int, int]] = []
    model.backbone.layers[0].register_forward_hook(
        lambda module, args, output: found.append(
            tuple((output[0] if isinstance(output, tuple) else output).shape[:2])
        )
    )
    return found


def plain(model, batch):
    """transformers' own logits, and its hidden states after every layer but the last, whose norm it applies."""
    with torch.no_grad():
        out = model.hf(
            input_ids=batch.ids, attention_mask=batch.mask.long(), use_cache=False, output_hidden_states=True
        )
    return out.logits, out.hidden_states


def test_logits_and_stream_are_the_networks_own_from_one_pass(model, passes):
    batch = model.encode(ROWS)
    logits, hidden = plain(model, batch)
    passes.clear()
    with reading_once(model):
        first, again = model.logits(batch), model.logits(batch)
        stream = model.run(batch, hooks=HOOKS)
    assert passes == [tuple(batch.ids.shape)]
    assert torch.equal(first, logits)
    assert torch.allclose(again[batch.mask], logits[batch.mask], atol=1e-5)
    assert torch.allclose(stream[HOOKS[0]][batch.mask], hidden[1][batch.mask], atol=1e-6)
    assert torch.equal(stream[HOOKS[1]][batch.mask], model.run(batch, hooks=HOOKS)[HOOKS[1]][batch.mask])


def test_the_stream_first_and_rows_in_other_company_are_served_too(model, passes):
    batch = model.encode(ROWS)
    logits, _ = plain(model, batch)
    passes.clear()
    with reading_once(model):
        model.run(batch, hooks=HOOKS[1:])
        parts = [model.logits(part) for part in batch[[4, 0, 5, 2]].batches(2)]
    assert len(passes) == 1
    for rows, part in zip(([4, 0], [5, 2]), parts, strict=True):
        for row, values in zip(rows, part, strict=True):
            n = int(batch.lengths[row])
            assert torch.allclose(values[:n], logits[row, :n], atol=1e-5)


def test_what_was_not_read_is_computed(model, passes):
    batch = model.encode(ROWS)
    other = model.encode(Prompts.from_pairs([("numbers", "3, 4, 5")]))
    with reading_once(model):
        model.logits(batch)
        found = model.logits(other)
        pre = model.run(batch, hooks=("blocks.0.hook_resid_pre",))["blocks.0.hook_resid_pre"]
    assert torch.equal(found, plain(model, other)[0])
    assert torch.allclose(pre[batch.mask], plain(model, batch)[1][0][batch.mask], atol=1e-6)


def test_an_edit_is_never_answered_from_what_was_read_without_it(model):
    batch = model.encode(ROWS)
    with reading_once(model):
        before = model.logits(batch)
        with model.hooks({HOOKS[0]: torch.zeros_like}):
            edited, stream = model.logits(batch), model.run(batch, hooks=HOOKS)
        after = model.logits(batch)
    assert not torch.allclose(edited, before, atol=1e-3)
    assert not stream[HOOKS[0]].any()
    assert torch.allclose(after[batch.mask], before[batch.mask], atol=1e-5)


def test_no_more_than_the_memory_is_kept_and_nothing_afterwards(model, passes):
    batch = model.encode(ROWS)
    each = 3 * model.d_model * 4
    with reading_once(model, memory=each * int(batch.lengths[:2].sum())):
        for _ in range(2):
            model.logits(next(batch[[0, 1]].batches(2)))
            model.logits(next(batch[[2, 3]].batches(2)))
        kept = vars(model.backbone)["kept"]
        assert (
            kept.used == each * int(batch.lengths[:2].sum()) == sum(row.nbytes for row in kept.rows.values())
        )
    assert len(passes) == 3  # the first two rows once, the others each time
    assert "kept" not in vars(model.backbone)
    with pytest.raises(KeyError), reading_once(model):
        raise KeyError
    assert "kept" not in vars(model.backbone)


def test_padding_on_the_left_is_computed(model, passes):
    ids = torch.tensor([[0, 0, 5, 6], [5, 6, 7, 8]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    from interp.models.once import plain_logits

    with reading_once(model):
        for _ in range(2):
            plain_logits(model.backbone, ids, mask)
    assert len(passes) == 2


def test_marked_logits_ask_the_output_matrix_at_the_marks_alone(model, passes):
    batch = model.encode(ROWS)
    where, sizes = batch.at("answer"), []
    logits, _ = plain(model, batch)
    handle = model.hf.get_output_embeddings().register_forward_hook(
        lambda *given: sizes.append(given[2].shape)
    )
    passes.clear()
    try:
        with reading_once(model):
            found = [marked_logits(model, batch, where) for _ in range(2)]
    finally:
        handle.remove()
    assert passes == [tuple(batch.ids.shape)]
    assert [size[0] for size in sizes] == [int(where.sum())] * 2
    assert all(torch.allclose(each, logits[where], atol=1e-5) for each in found)


def test_marked_logits_are_the_same_numbers_without_the_others(model, passes):
    """Outside `reading_once`, too: one pass, the output matrix at the marks; with an open hook the whole pass."""
    batch = model.encode(ROWS)
    where, sizes = batch.at("answer+end", predicting=True), []
    expected = plain(model, batch)[0][where]
    handle = model.hf.get_output_embeddings().register_forward_hook(
        lambda *given: sizes.append(given[2].shape[0])
    )
    passes.clear()
    try:
        found = marked_logits(model, batch, where)
    finally:
        handle.remove()
    assert passes == [tuple(batch.ids.shape)]
    assert sizes[-1] == int(where.sum())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    with model.hooks({HOOKS[1]: lambda resid: resid.flip(-1)}):
        torch.testing.assert_close(marked_logits(model, batch, where), model.logits(batch)[where])
        assert (marked_logits(model, batch, where) - expected).abs().max() > 1e-3


def test_what_rests_on_the_same_rows_is_made_once_and_an_edit_asks_again(model):
    made = []

    def make():
        made.append(len(made))
        return made[-1]

    assert [made_once(model, "it", make, torch.ones(2)) for _ in range(2)] == [0, 1]
    with reading_once(model):
        assert [made_once(model, "it", make, torch.ones(2)) for _ in range(2)] == [2, 2]
        assert made_once(model, "it", make, torch.zeros(2)) == 3
        assert made_once(model, "other", make, torch.ones(2)) == 4
        with model.hooks({HOOKS[0]: torch.zeros_like}):
            assert made_once(model, "it", make, torch.ones(2)) == 5
    assert made_once(model, "it", make, torch.ones(2)) == 6


def test_a_beginning_that_went_through_the_tree_is_a_row_that_was_read(model, monkeypatch):
    monkeypatch.setattr(prefixes, "PASS", 0)  # so that the tree is the cheaper way
    start, (one, other) = tuple(range(3, 15)), ((20, 21), (22, 23))
    asked = [start + one, start + other, *(start + one + (token,) for token in range(30, 34))]
    rows = torch.tensor(asked[:2])
    with torch.no_grad():
        expected = model.hf(input_ids=rows, use_cache=False, output_hidden_states=True)
    batch = Encoded(rows, torch.ones_like(rows).bool(), torch.ones_like(rows), "rows")
    with torch.no_grad(), reading_once(model):
        list(prefixes.prefix_logits(model, asked))
        kept = vars(model.backbone)["kept"]
        assert len(kept.rows) == 2
        monkeypatch.setattr(kept, "listening", None)  # nothing is read from here on
        assert torch.allclose(model.logits(batch), expected.logits, atol=1e-5)
        stream = model.run(batch, hooks=HOOKS)
    assert torch.allclose(stream[HOOKS[0]], expected.hidden_states[1], atol=1e-5)
