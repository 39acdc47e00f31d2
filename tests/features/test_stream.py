"""The stream of activations: what a batch holds follows from the seed and its number, whatever the memory."""

import itertools

import pytest
import torch

from interp.activations.recording import record
from interp.core.runs import InputError
from interp.features.stream import Stream, activation_stream
from interp.models.language import load_model
from interp.prompts.text import Prompts
from tests.features.handmade import ROWS

HOOK = "blocks.0.hook_resid_post"


@pytest.fixture
def llama(tiny):
    hf, tokenizer = tiny("llama")
    return load_model(hf, tokenizer=tokenizer, name="llama")


@pytest.fixture
def prompts():
    return Prompts.from_pairs(ROWS * 3)


def taken(stream: Stream, count: int, start: int = 0) -> torch.Tensor:
    return torch.stack(list(itertools.islice(stream.batches(start), count)))


def sorted_rows(values: torch.Tensor) -> torch.Tensor:
    return values[values[:, 0].argsort(stable=True)]


@pytest.mark.parametrize("buffer", [2**26, 4 * 32 * 20])
def test_an_epoch_holds_every_activation_once(llama, prompts, buffer):
    whole = record(llama, prompts, hooks=HOOK, positions="all").flat(HOOK)
    stream = activation_stream([llama], prompts, hook=HOOK, batch_size=1, buffer=buffer)
    assert stream.size == len(whole)
    found = taken(stream, stream.size)[:, 0]
    torch.testing.assert_close(sorted_rows(found), sorted_rows(whole), rtol=1e-5, atol=1e-5)
    assert not torch.equal(found, whole)


@pytest.mark.parametrize("buffer", [2**26, 4 * 32 * 20])
def test_a_stream_goes_on_where_another_stopped(llama, prompts, buffer):
    def stream():
        return activation_stream([llama], prompts, hook=HOOK, batch_size=7, buffer=buffer, seed=3)

    whole = taken(stream(), 40)  # more than two epochs
    for start in (0, 1, 13, 31):
        assert torch.equal(taken(stream(), 40 - start, start), whole[start:])


def test_another_seed_gives_another_order(llama, prompts):
    one, other = (
        taken(activation_stream([llama], prompts, hook=HOOK, batch_size=8, seed=seed), 3) for seed in (0, 1)
    )
    assert not torch.equal(one, other)


def test_what_fits_is_read_once(llama, prompts):
    stream = activation_stream([llama], prompts, hook=HOOK, batch_size=16)
    reads = []
    counted = Stream(
        lambda rows: reads.append(len(rows)) or stream.read(rows), stream.inputs, stream.counts, 16, 10**6
    )
    taken(counted, 50)
    assert reads == [len(prompts)]


def test_what_does_not_fit_is_read_in_chunks(llama, prompts):
    stream = activation_stream([llama], prompts, hook=HOOK, batch_size=4)
    held = []
    counted = Stream(
        lambda rows: held.append(int(rows.mask.sum())) or stream.read(rows),
        stream.inputs,
        stream.counts,
        4,
        40,
    )
    taken(counted, stream.size // 4)
    assert max(held) <= 40
    assert sum(held) == stream.size


def test_only_the_tokens_named_and_heads_flattened(llama, prompts):
    stream = activation_stream(
        [llama], prompts, hook="blocks.0.attn.hook_z", positions="answer.numbers", batch_size=2
    )
    assert stream.size == 3 * (3 + 5 + 2 + 1)
    assert next(stream.batches()).shape == (2, 32)


def test_several_models_stay_together_token_by_token(llama, prompts, tiny):
    other = load_model(tiny("llama", seed=1)[0], tokenizer=llama.tokenizer, name="other")
    both = activation_stream([llama, other], prompts, hook=HOOK, batch_size=9, seed=2)
    alone = [activation_stream([each], prompts, hook=HOOK, batch_size=4, seed=2) for each in (llama, other)]
    found = taken(both, 3)
    assert found.shape == (3, 8, 32)  # nine activations hold four tokens of two models
    for place, stream in enumerate(alone):
        torch.testing.assert_close(found[:, place::2], taken(stream, 3))


def test_errors(llama, prompts):
    with pytest.raises(
        InputError, match=r"a batch of 1 activations holds no token in each of 2 models; raise the recipe's"
    ):
        activation_stream([llama, llama], prompts, hook=HOOK, batch_size=1)
    with pytest.raises(InputError, match=r"hook 'blocks.0.hook_resid_pots' is unknown; nearest"):
        activation_stream([llama], prompts, hook="blocks.0.hook_resid_pots", batch_size=4)
    for hook in ("blocks.0.attn.hook_pattern", "blocks.0.ln1.hook_scale"):
        with pytest.raises(
            InputError, match=rf"{hook} of llama holds .* and a dictionary reads a vector at every"
        ):
            activation_stream([llama], prompts, hook=hook, batch_size=4)
    with pytest.raises(
        InputError, match=r"33 activations at 'answer.numbers' of .* are fewer than one batch"
    ):
        activation_stream([llama], prompts, hook=HOOK, positions="answer.numbers", batch_size=64)
