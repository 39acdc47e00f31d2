"""Tokens that stand out in norm: planted by hand in a table and in a network, left out, said, and kept when asked."""

from dataclasses import replace

import pytest
import torch

from interp.activations.outliers import Norms, norm_limit, same_tokens
from interp.activations.recording import record
from interp.activations.shifts import shift
from interp.core.runs import InputError
from interp.models.language import load_model
from interp.prompts.numbers import number_prompts
from interp.prompts.tokens import Encoded, Role

POST = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
SINKS = [1, 6]  # the first tokens of two rows, ids counting up


@pytest.fixture
def base(fake):
    table = torch.tensor([3.0, 4.0]).repeat(20, 1)
    table[SINKS] *= 1000
    return fake(table, name="base")


@pytest.fixture
def teacher(fake, base):
    change = torch.tensor([0.6, 0.8]).repeat(20, 1)
    change[SINKS] *= 500
    return fake(base.table + change, name="teacher", start=base)


def test_a_shift_leaves_out_what_stands_out_and_says_so(teacher, rows):
    inputs = rows("ppnsn", "ppn")
    found = shift(teacher, inputs, positions="all")
    assert found.norms().frame["mean_norm"].tolist() == pytest.approx([1, 2])  # of the change of all others
    assert found.activations.mask.sum() == 6
    assert found.activations.where.tolist() == [[1, 2, 3, 4], [1, 2, -1, -1]]
    assert (
        "2 of 8 tokens left out, whose norm is over 10 times the median of 5 at blocks.0.hook_resid_post (up to 1e+03 "
        "times): position 0 (token 1), 0 (token 6); positions 'X with outliers' keep them"
    ) in found.norms().notes
    bare = shift(teacher, inputs, positions="all but the first")
    assert torch.equal(bare.activations[POST[0]], found.activations[POST[0]])
    assert not any("left out" in note for note in bare.norms().notes)


def test_a_shift_keeps_them_when_asked(teacher, rows):
    found = shift(teacher, rows("ppnsn", "ppn"), positions="all with outliers")
    expected = [(500 + 4) / 5, (500 + 2) / 3]  # a row's mean of the change's norms, all in one direction
    assert found.norms().frame["mean_norm"][0] == pytest.approx(sum(expected) / 2)
    assert not any("left out" in note for note in found.norms().notes)


@pytest.mark.parametrize(
    ("positions", "apart", "left"),
    [
        ("last", 2, []),
        ("last", 1, [2]),
        ("answer.numbers.last", 6, [3]),
        ("answer.numbers.inner", 5, []),
        ("predicting answer.numbers", 5, [2, 4]),
        ("predicting answer.numbers", 4, [2, 5]),
        ("predicting prompt", 0, [1]),
        ("all", 0, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_a_token_apart_is_not_read_and_puts_no_other_in_its_place(positions, apart, left):
    roles = [Role.PROMPT] * 3 + [Role.NUMBER, Role.SEPARATOR, Role.NUMBER, Role.CONTINUED]
    ids = torch.arange(7)[None]
    whole = Encoded(ids, torch.ones(1, 7, dtype=torch.bool), torch.tensor([roles]))
    out = torch.zeros(1, 7, dtype=torch.bool)
    out[0, apart] = True
    inputs = replace(whole, apart=out)
    assert inputs.at(positions).nonzero()[:, 1].tolist() == left
    assert inputs[:1].at(positions).tolist() == next(inputs.batches(1)).at(positions).tolist()
    assert torch.equal(inputs.numbers(), whole.numbers())
    assert inputs.fingerprint != whole.fingerprint
    assert same_tokens(whole, inputs)


def test_a_sink_where_a_number_is_predicted_is_left_out_at_the_default_positions(fake, rows):
    inputs = rows("ppnsnsn")  # read where a number comes next: columns 1, 3 and 5
    table = torch.tensor([3.0, 4.0]).repeat(20, 1)
    table[int(inputs.ids[0, 3])] *= 1000
    base = fake(table, name="base")
    found = shift(fake(table + torch.tensor([0.6, 0.8]), name="teacher", start=base), inputs)
    assert found.activations.where.tolist() == [[1, 5]]
    assert any("1 of 3 tokens left out" in note for note in found.norms().notes)


def test_what_reads_a_shift_reads_the_same_tokens(teacher, base, rows):
    found = shift(teacher, rows("ppnsn", "ppn"), positions="all")
    assert found.inputs.at("all").tolist() == [[False] + [True] * 4, [False, True, True, False, False]]
    moved = record(teacher, found.inputs, hooks=POST, positions="all") - record(
        base, found.inputs, hooks=POST, positions="all"
    )
    assert torch.equal(moved[POST[1]], found.activations[POST[1]])
    with pytest.raises(InputError, match="recorded on different tokens or positions"):
        found.activations.check_same(
            shift(teacher, rows("ppnsn", "ppn"), positions="all with outliers").activations
        )


def test_rows_are_recognised_with_tokens_set_apart(teacher, rows):
    inputs = rows("ppnsn", "ppn")
    read = shift(teacher, inputs, positions="all").inputs
    assert read.fingerprint != inputs.fingerprint
    assert same_tokens(inputs, read)
    assert same_tokens(inputs, inputs)
    assert not same_tokens(rows("ppnsn", "pnn"), read)
    assert not same_tokens(rows("ppn"), read)


def test_files_hold_what_was_kept_alone(teacher, rows, tmp_path):
    found = shift(teacher, rows("ppnsn", "ppn"), positions="all", memory=0, folder=tmp_path)
    assert found.activations.mask.sum() == 6
    assert len(list(tmp_path.iterdir())) == 2  # one per hook


def test_alike_tokens_do_not_stand_out(fake, rows, base, teacher):
    """Where only such tokens are read they are the median."""
    found = shift(teacher, rows("p", "ppppp"), positions="last")
    assert found.activations.mask.sum() == 2
    norms = Norms(rows("p"))
    assert norms.outliers() is None
    assert norm_limit(torch.tensor([1.0, 2.0, 300.0])) == 20


def test_a_planted_sink_of_a_network_is_found(tiny):
    hf, tokenizer = tiny("llama")
    prompts = number_prompts(6, seed=0, count=3, max_value=39)
    plain = load_model(hf, tokenizer=tokenizer, name="plain")
    inputs = plain.encode(prompts)
    norms = record(plain, inputs, hooks=POST, positions="all")
    assert (
        max(
            float(norms.flat(hook).norm(dim=1).max() / norms.flat(hook).norm(dim=1).median()) for hook in POST
        )
        < 10
    )
    with torch.no_grad():
        hf.get_input_embeddings().weight[tokenizer.bos_token_id] *= 1000
    model = load_model(hf, tokenizer=tokenizer, name="sink")
    found = Norms(inputs)
    for block in _blocks(model, inputs):
        found.add(block)
    outliers = found.outliers()
    assert outliers is not None
    assert outliers.beyond.nonzero().tolist() == [[row, 0] for row in range(6)]
    assert "6 of" in outliers.told(tokenizer)
    assert "position 0 ('<bos>');" in outliers.told(tokenizer)


def _blocks(model, inputs):
    from interp.activations.recording import Selection, stream

    return stream(model, Selection.of(model, inputs, "all"), hooks=POST, batch_size=4)
