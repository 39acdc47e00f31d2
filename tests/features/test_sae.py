"""Training dictionaries: every architecture, the cache, resuming bit for bit, and features that were planted."""

import dataclasses
import itertools
import math

import pytest
import torch

import interp.features.sae as sae_module
from interp.activations.recording import record
from interp.core.runs import Cache, InputError
from interp.features.sae import ARCHITECTURES, SAERecipe, delta_loss, train_sae, trained
from interp.features.sae_files import load_sae
from interp.features.stream import Stream
from interp.models.language import load_model
from interp.prompts.text import Encoded, Prompts
from tests.features.handmade import ROWS
from tests.features.planting import TableModel

HOOK = "blocks.0.hook_resid_post"
SMALL = SAERecipe(width=64, k=4, samples=3200, batch_size=32, lr=1e-2)
FACTS = {"hook_name": HOOK, "model_name": "planted", "interp_lineage": "root"}


@pytest.fixture
def llama(tiny):
    hf, tokenizer = tiny("llama")
    return load_model(hf, tokenizer=tokenizer, name="llama")


@pytest.fixture
def prompts():
    return Prompts.from_pairs(ROWS * 2)


def same(one, other) -> bool:
    a, b = one.sae.state_dict(), other.sae.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_trains_and_comes_back(llama, prompts, architecture, tmp_path, fresh_seeds):
    made = train_sae(llama, prompts, hook=HOOK, architecture=architecture, recipe=SMALL, out=tmp_path / "sae")
    values = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    features = made.encode(values)
    assert features.shape == (50, 64)
    assert bool((features >= 0).all())
    assert not any(weight.requires_grad for weight in made.sae.parameters())
    back = load_sae(tmp_path / "sae", model=llama)
    assert same(made, back)
    assert made.fingerprint == back.fingerprint
    torch.testing.assert_close(back.reconstruct(values), made.reconstruct(values))
    if architecture == "topk":
        assert int((features > 0).sum(1).max()) <= 4


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka"])
def test_batch_topk_is_as_sparse_at_inference_as_it_was_trained(llama, prompts, architecture):
    recipe = dataclasses.replace(SMALL, samples=12_800)
    made = train_sae(llama, prompts, hook=HOOK, architecture=architecture, recipe=recipe)
    stream = sae_module.activation_stream([llama], prompts, hook=HOOK, batch_size=64)
    active = (made.encode(next(stream.batches())) > 0).float().sum(1).mean()
    assert 3 <= active <= 5  # k is 4


def test_a_second_call_trains_nothing(llama, prompts, monkeypatch):
    first = train_sae(llama, prompts, hook=HOOK, recipe=SMALL)
    monkeypatch.setattr(sae_module, "_trainer", lambda *_: pytest.fail("trained again"))
    assert same(first, train_sae(llama, prompts, hook=HOOK, recipe=SMALL))


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard", "matryoshka"])
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(
    llama, prompts, architecture, monkeypatch, tmp_path
):
    recipe = dataclasses.replace(SMALL, architecture=architecture)
    from sae_lens import SAETrainer

    whole = train_sae(llama, prompts, hook=HOOK, recipe=recipe, cache=Cache(tmp_path / "whole"))
    monkeypatch.setattr(sae_module, "SAVE_EVERY", 30)
    cache, steps = Cache(tmp_path / "killed"), []

    class Killed(Exception):
        pass

    step = SAETrainer.step

    def killing(limit):
        def counted(trainer, batch):
            steps.append(trainer.n_training_steps)
            if trainer.n_training_steps == limit:
                raise Killed
            return step(trainer, batch)

        return counted

    for limit in (70, 95):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SAETrainer, "step", killing(limit))
            with pytest.raises(Killed):
                train_sae(llama, prompts, hook=HOOK, recipe=recipe, cache=cache)
    assert steps[-1] == 95
    assert steps[71] == 60  # the second run began at the last saved state
    again = train_sae(llama, prompts, hook=HOOK, recipe=recipe, cache=cache)
    assert same(whole, again)
    assert not list((tmp_path / "killed").rglob("state.safetensors"))


@pytest.fixture
def sink(tiny):
    """A network whose first token, <bos>, has a thousand times the norm."""
    hf, tokenizer = tiny("llama")
    with torch.no_grad():
        hf.get_input_embeddings().weight[tokenizer.bos_token_id] *= 1000
    return load_model(hf, tokenizer=tokenizer, name="sink")


def test_a_sink_is_left_out_of_the_training_said_and_let_through(sink, prompts, tmp_path):
    made = train_sae(sink, prompts, hook=HOOK, recipe=SMALL, out=tmp_path / "sae")
    clean = train_sae(sink, prompts, hook=HOOK, recipe=SMALL, positions="all but the first")
    assert same(made, clean)
    assert made.notes[0].startswith("training of the dictionary: 8 of ")
    assert "position 0 ('<bos>'); positions 'X with outliers' keep them" in made.notes[0]
    assert not clean.notes
    back = load_sae(tmp_path / "sae", model=sink)
    assert (back.limit, back.notes, back.fingerprint) == (made.limit, made.notes, made.fingerprint)
    recorded = record(sink, prompts, hooks=HOOK, positions="all").flat(HOOK)
    norms = recorded.norm(dim=1)
    assert made.limit == pytest.approx(10 * float(norms.median()))
    features, rebuilt = made.split(recorded)
    out = norms > made.limit
    assert int(out.sum()) == len(prompts)
    assert not features[out].any()
    assert torch.equal(rebuilt[out], made.sae.b_dec.expand_as(rebuilt[out]))
    assert bool(features[~out].any(1).all())
    with_it = train_sae(sink, prompts, hook=HOOK, recipe=SMALL, positions="all with outliers")
    assert (with_it.limit, with_it.notes) == (math.inf, ())
    assert not same(with_it, made)


def test_a_sink_of_any_of_several_models_is_left_out(llama, sink, prompts):
    """Read beside a model without one, and in chunks, by the rule for one."""
    whole, parts = (
        sae_module.activation_stream([llama, sink], prompts, hook=HOOK, batch_size=2, buffer=buffer)
        for buffer in (2**26, 4 * 64 * 20)
    )
    assert whole.limit == pytest.approx(parts.limit)
    assert whole.told(HOOK) == parts.told(HOOK)
    assert whole.told(HOOK).startswith("8 of ")
    kept = whole.size - len(prompts)
    for stream in (whole, parts):
        batches = torch.cat(list(itertools.islice(stream.batches(), 3 * kept)))  # three epochs
        assert float(batches.norm(dim=1).max()) <= stream.limit
        first, later = batches.unflatten(0, (3, -1))[[0, 2]].sum(1)
        torch.testing.assert_close(first, later, rtol=1e-4, atol=1e-3)  # an epoch holds the same tokens
        assert torch.equal(next(stream.batches(kept + 1)), batches.split(2)[kept + 1])


def test_defaults_follow_the_width():
    toy, real = SAERecipe().sized(48), SAERecipe().sized(576)
    assert (toy.width, toy.k, toy.lr) == (384, 16, 3e-3)
    assert (real.width, real.k, real.lr) == (4608, 24, pytest.approx(3e-3 * (128 / 576) ** 0.5))
    assert SAERecipe(width=5, k=2, lr=0.1).sized(576) == SAERecipe(width=5, k=2, lr=0.1)


def planted_stream(directions: torch.Tensor, count: int) -> Stream:
    """Sums of two or three of the directions with amplitudes around one."""
    torch.manual_seed(1)
    active = torch.zeros(count, len(directions))
    for row in active:
        row[torch.randperm(len(directions))[: int(torch.randint(2, 4, ()))]] = 1
    values = (active * (0.5 + torch.rand_like(active))) @ directions
    rows = Encoded(
        torch.zeros(count, 1).long(),
        torch.ones(count, 1).bool(),
        torch.ones(count, 1).long(),
        label="planted",
    )
    return Stream(lambda _: values, rows, torch.ones(count).long(), 128, count)


@pytest.mark.slow
def test_planted_features_are_found():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        directions = torch.nn.functional.normalize(torch.randn(24, 16), dim=1)
        stream = planted_stream(directions, 8000)
    recipe = SAERecipe(width=48, k=3, samples=128 * 1500, batch_size=128)
    found = trained(stream, hook=HOOK, label="planted", recipe=recipe, facts=FACTS)
    cosines = torch.nn.functional.normalize(found.decoder, dim=1) @ directions.T
    assert float((cosines.max(0).values > 0.9).float().mean()) >= 0.8


def every_token(count: int) -> Encoded:
    ids = torch.arange(count).reshape(-1, 10)
    return Encoded(ids, torch.ones_like(ids).bool(), torch.ones_like(ids), label="all tokens")


@pytest.fixture(scope="module")
def moved_tables() -> list[TableModel]:
    """Sparse sums of directions, and a member moved by a hundredth of their size along a direction of its own."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(17, 16, generator=generator), dim=1)
    on = torch.rand(4000, 16, generator=generator) < 0.2
    h = (on * (1 + torch.rand(4000, 16, generator=generator))) @ directions[:16]
    h += 0.3 * torch.randn(h.shape, generator=generator)
    base = TableModel(h)
    return [base, TableModel(h + 0.03 * directions[16], name="teacher", start=base)]


@pytest.mark.parametrize(("delta", "low", "high"), [(1.0, 0.0, 0.1), (0.0, 0.1, math.inf)])
def test_a_small_shift_is_learnt_where_differences_count(moved_tables, delta, low, high, tmp_path):
    recipe = SAERecipe(width=32, k=3, samples=100_000, batch_size=200, delta=delta)
    made = train_sae(moved_tables, every_token(4000), hook=HOOK, recipe=recipe, cache=Cache(tmp_path))
    base, teacher = (model.table for model in moved_tables)
    moved = (teacher - base).mean(0)
    error = moved - (made.reconstruct(teacher) - made.reconstruct(base)).mean(0)
    assert low < float(error.square().sum() / moved.square().sum()) < high


def test_the_loss_of_differences_by_hand():
    h = torch.tensor([[0.0, 0.0], [0.0, 1.0], [4.0, 0.0], [4.0, 1.0]])  # two tokens in two models
    loss = delta_loss(h, 2, 0.5)
    rebuilt = h + torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0], [3.0, 0.0]])
    # the activations vary by 4 + 1/4, the difference is 1: factor 0.5 × 4.25
    expected = [[1.0, 0.0], [0 + 2.125 * 1, 4 + 2.125 * 4], [0.0, 0.0], [9 + 2.125 * 9, 0.0]]
    torch.testing.assert_close(loss(rebuilt, h), torch.tensor(expected))
    still = delta_loss(h[[0, 0, 2, 2]], 2, 0.5)
    torch.testing.assert_close(still(rebuilt, h), (rebuilt - h).square())


@pytest.mark.parametrize("size", [1, 7])
def test_no_more_is_read_than_is_trained_on(size):
    values = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(64)[:, None]
    rows = Encoded(ids, torch.ones_like(ids).bool(), torch.ones_like(ids), label="rows")
    read = []

    def counted(chosen):
        read.append(len(chosen))
        return values[chosen.ids[:, 0]]

    stream = Stream(counted, rows, torch.ones(64).long(), batch_size=4, capacity=8)
    recipe = SAERecipe(width=16, k=2, samples=8 * size, batch_size=4)
    trained(stream, hook=HOOK, label="counted", recipe=recipe, facts={**FACTS, "interp_inputs": str(size)})
    assert read == [8] * size


class TestErrors:
    def test_architecture(self, llama, prompts):
        with pytest.raises(InputError, match=r"architecture 'topp' is unknown; nearest: .*topk"):
            train_sae(llama, prompts, hook=HOOK, architecture="topp")

    def test_hook(self, llama, prompts):
        with pytest.raises(InputError, match=r"hook 'blocks.7.hook_resid_post' is unknown; nearest"):
            train_sae(llama, prompts, hook="blocks.7.hook_resid_post")

    def test_rows(self, llama, prompts):
        with pytest.raises(InputError, match="are fewer than one batch of 512; give more rows"):
            train_sae(llama, prompts, hook=HOOK)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"k": 99, "width": 64}, "k 99 is more than the 64 features there are; lower k or raise width"),
            ({"k": 257, "width": None}, "k 257 is more than the 256 features there are"),
            ({"batch_size": 0}, "3200 samples in batches of 0 with k 4 and lr 0.01 train nothing"),
            ({"lr": math.nan}, "lr nan train nothing; give .* a positive, finite lr"),
            ({"samples": 3}, "3 samples in batches of 32 with k 4 and lr 0.01 train nothing"),
            ({"seed": -1}, "seed -1, l1 2.0 and width 64 cannot all be meant; give a seed and an l1"),
            ({"width": 0}, "l1 2.0 and width 0 cannot all be meant"),
            ({"lr": -1.0}, "lr -1.0 train nothing"),
            ({"delta": -1.0}, "delta -1.0 weighs nothing; give a finite weight of at least 0, such as 1"),
            ({"delta": math.nan}, "delta nan weighs nothing"),
        ],
    )
    def test_recipe(self, llama, prompts, change, said):
        with pytest.raises(InputError, match=said):
            train_sae(llama, prompts, hook=HOOK, recipe=dataclasses.replace(SMALL, **change))

    def test_models(self, llama, prompts, tiny, moved_tables):
        other = load_model(tiny("llama", seed=1)[0], tokenizer=llama.tokenizer, name="other")
        with pytest.raises(InputError, match="no model to read; pass one, or several of one start"):
            train_sae([], prompts, hook=HOOK, recipe=SMALL)
        with pytest.raises(
            InputError, match=r"other descends from \w+ and llama from \w+, .*; pass models of one"
        ):
            train_sae([llama, other], prompts, hook=HOOK, recipe=SMALL)
        with pytest.raises(InputError, match="base and base have identical weights"):
            train_sae([moved_tables[0], moved_tables[0]], every_token(100), hook=HOOK, recipe=SMALL)

    def test_loss(self, llama, prompts, tmp_path):
        cache = Cache(tmp_path)
        with pytest.raises(InputError, match=r"the loss of the dictionary is (nan|inf) at step \d+; lower"):
            train_sae(llama, prompts, hook=HOOK, recipe=dataclasses.replace(SMALL, lr=1e30), cache=cache)
        assert not list((tmp_path / "v1" / "sae").iterdir())
