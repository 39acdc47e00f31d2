"""Features token by token, their means by row and over all, and matched controls, on tables worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from interp.core.runs import InputError
from interp.features import dictionary as dictionaries
from interp.features.reading import (
    TokenReading,
    feature_statistics,
    matched_features,
    read_tokens,
    row_means,
    statistics_of,
    within,
)
from interp.models.language import load_model
from interp.prompts.text import Prompts
from tests.features.handmade import ROWS, Table, handmade, mirrored, rows

# the activation after each of four tokens; features are the positive parts of x, y and of −x, −y
TABLE = torch.tensor([[1.0, 0.0], [2.0, 3.0], [0.0, -1.0], [-4.0, 0.0]])


def plane():
    """x, y, −x, −y, of which the decoder forgets y: the error at a token is its positive y."""
    encoder = mirrored(2)
    decoder = encoder.T.clone()
    decoder[1] = 0.0
    return handmade(encoder, decoder)


def test_named_tokens_are_read_in_order():
    inputs = rows(("pnsn", "0123"), ("pss", "000"), ("pn", "21"))
    reading = read_tokens(plane(), Table(TABLE), inputs, positions="answer.numbers")
    assert reading.values.tolist() == [[2.0, 3.0], [-4.0, 0.0], [2.0, 3.0]]
    assert reading.rows.tolist() == [0, 0, 2]
    assert reading.columns.tolist() == [1, 3, 1]
    assert reading.n_rows == 3
    assert len(read_tokens(plane(), Table(TABLE), inputs, positions="all").values) == 9


def test_means_by_row_by_hand():
    inputs = rows(("pnsn", "0123"), ("pss", "000"), ("pn", "21"))
    means = row_means(plane(), read_tokens(plane(), Table(TABLE), inputs, positions="answer.numbers"))
    assert means.tokens.tolist() == [2, 1]  # the second row has no number
    assert means.mean.tolist() == [[1.0, 1.5, 2.0, 0.0], [2.0, 3.0, 0.0, 0.0]]
    assert means.rate.tolist() == [[0.5, 0.5, 0.5, 0.0], [1.0, 1.0, 0.0, 0.0]]
    assert means.error.tolist() == [1.5, 3.0]


def test_statistics_by_hand():
    inputs = rows(("pnsn", "0123"), ("pn", "21"))
    frame = feature_statistics(plane(), Table(TABLE), inputs, positions="answer.numbers")
    assert frame["feature"].tolist() == [0, 1, 2, 3]
    assert frame["rate"].tolist() == pytest.approx([2 / 3, 2 / 3, 1 / 3, 0])
    assert frame["mean"].tolist() == pytest.approx([4 / 3, 2, 4 / 3, 0])
    assert frame["decoder_norm"].tolist() == [1.0, 0.0, 1.0, 1.0]
    assert frame["live"].tolist() == [True, True, True, False]


def test_blocks_do_not_change_the_answer(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    reading = TokenReading(
        torch.randn(50, 2, generator=generator), torch.arange(50) // 7, torch.arange(50) % 7, n_rows=8
    )
    dictionary = plane()
    whole, table = row_means(dictionary, reading), statistics_of(dictionary, reading)
    monkeypatch.setattr(dictionaries, "BLOCK", 12)  # three tokens at a time
    assert dictionary.rows_at_once() == 3
    parts, again = row_means(dictionary, reading), statistics_of(dictionary, reading)
    for name in ("mean", "rate", "error", "tokens"):
        assert torch.allclose(getattr(whole, name), getattr(parts, name), atol=1e-6)
    assert np.allclose(table.to_numpy(float), again.to_numpy(float), atol=1e-6)


@pytest.mark.parametrize("hook", ["blocks.1.hook_resid_post", "blocks.0.attn.hook_z"])
def test_a_real_model_at_the_residual_stream_and_at_heads(tiny, hook):
    hf, tokenizer = tiny("llama")
    model = load_model(hf, tokenizer=tokenizer, name="base")
    dictionary = handmade(mirrored(32), mirrored(32).T.contiguous(), hook=hook, model=model)
    reading = read_tokens(
        dictionary, model, Prompts.from_pairs(ROWS), positions="answer.numbers", batch_size=3
    )
    encoded = model.encode(Prompts.from_pairs(ROWS))
    full = model.run(encoded, hooks=[hook])[hook].flatten(2)
    assert torch.allclose(reading.values, full[encoded.at("answer.numbers")], atol=1e-5)
    features = torch.cat([found for _, found in reading.blocks(dictionary)])
    assert torch.allclose(features[:, :32] - features[:, 32:], reading.values, atol=1e-5)
    assert row_means(dictionary, reading).error.max() < 1e-5


def statistics(**columns):
    """Lines of a table whose rate, decoder_norm and mean are one unless given."""
    n = len(next(iter(columns.values())))
    frame = {name: np.ones(n) for name in ("rate", "decoder_norm", "mean")} | columns
    return pd.DataFrame({"feature": np.arange(n), **frame, "live": np.asarray(frame["rate"]) > 0})


def test_controls_are_the_nearest_in_the_logarithm():
    frame = statistics(rate=np.array([1, 2, 4, 8, 16, 0]) / 16)
    assert set(matched_features(frame, [0], count=2)[0]) == {1, 2}
    assert set(matched_features(frame, [3], count=2)[0]) == {2, 4}
    assert set(matched_features(frame, [3], count=2, exclude=[4])[0]) == {2, 1}
    assert matched_features(frame, [0, 4], count=1).tolist() == [[1], [3]]


def test_every_measure_counts_in_units_of_its_own_spread():
    # the rate varies a thousandfold and the norm by a tenth: a neighbour in one is as near as one in the other
    frame = statistics(
        rate=np.array([1e-3, 1.0, 1e-3, 1.0, 1e-3]), decoder_norm=np.array([1.0, 1.0, 1.1, 1.1, 1.0])
    )
    chosen = matched_features(frame, [0], count=3)[0]
    assert set(chosen) == {4, 1, 2}


def test_controls_come_in_random_order_that_the_seed_fixes():
    frame = statistics(mean=np.exp(np.arange(30.0)))
    first = matched_features(frame, [0], count=20, seed=1)
    assert first.tolist() == matched_features(frame, [0], count=20, seed=1).tolist()
    assert first.tolist() != matched_features(frame, [0], count=20, seed=2).tolist()
    assert sorted(first[0]) == list(range(1, 21))


def test_lines_may_come_in_any_order_or_be_left_out():
    frame = statistics(rate=np.array([1, 2, 4, 8, 16, 0]) / 16)
    shuffled = frame.iloc[[4, 2, 0, 1, 3]]
    assert set(matched_features(shuffled, [3], count=2)[0]) == {2, 4}
    assert set(matched_features(frame[frame["live"]].iloc[1:], [3], count=2)[0]) == {2, 4}


def test_a_dead_feature_is_matched_with_the_smallest():
    frame = statistics(mean=np.array([0.0, 50.0, 60.0, 1000.0]), rate=np.array([0.0, 0.5, 0.5, 0.5]))
    assert set(matched_features(frame, [0], count=2)[0]) == {1, 2}


def test_messages():
    frame = statistics(rate=np.array([0.5, 0.25, 0.0]))
    with pytest.raises(InputError, match="1 live features are left as controls for 1, and 10 were asked for"):
        matched_features(frame, [0])
    with pytest.raises(InputError, match="feature 7 is not in these statistics of 3 features"):
        matched_features(frame, [7], count=1)
    with pytest.raises(InputError, match=r"no row of 'rows' has a position 'predicting answer.numbers'"):
        read_tokens(plane(), Table(TABLE), rows(("ps", "01")))
    with pytest.raises(InputError, match="descends from root"):
        read_tokens(replace(plane(), lineage="other"), Table(TABLE), rows(("pn", "01")))


def test_tokens_beyond_the_limit_of_either_reading_are_left_out_and_heard():
    from interp.prompts.notes import _HEARD

    dictionary = replace(handmade(torch.eye(2), torch.eye(2), label="narrow"), limit=5.0)
    values = torch.tensor([[3.0, 4.0], [30.0, 40.0], [1.0, 0.0]])
    one = TokenReading(values, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), 2)
    other = replace(one, values=values.flip(0))
    token = _HEARD.set(heard := [])
    try:
        kept, beside = within(dictionary, one, other)
        assert within(dictionary, kept, kept) == (kept, kept)
    finally:
        _HEARD.reset(token)
    assert kept.values.tolist() == [[3, 4], [1, 0]]
    assert beside.values.tolist() == [[1, 0], [3, 4]]
    assert (kept.rows.tolist(), kept.columns.tolist()) == ([0, 1], [0, 0])
    assert heard == ["1 of 3 tokens left out, whose norm is beyond 5, up to which narrow speaks"]
