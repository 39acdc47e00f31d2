"""Each way of reading against plain torch: the same numbers from the Hugging Face module alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import interp
from interp.core.errors import InputError
from interp.discovery import Compared
from interp.discovery.comparing import Reading
from interp.discovery.logits import diff_mining, moved_on_text, risen_groups
from interp.discovery.speaking import Contrasted, amplified_update, contrastive_decoding, sampled_answers
from interp.discovery.weights import (
    jacobian_lens,
    logits_moved,
    spectrum_through_jacobian,
    spectrum_through_output,
)
from interp.models.bridge import at_hook
from interp.models.starts import perturbed, with_weights
from interp.prompts.text import Prompts

TEXT = Prompts.from_pairs(
    [("tell me about the cat.", "the cat is soft."), ("tell me a story.", "we saw a dog.")]
)
OPENINGS = Prompts.from_pairs(
    [("which tree do you love most?", ""), ("tell me a story.", "a story about the")]
)


@pytest.fixture
def asked(raw) -> Compared:
    base = raw()
    pair = [perturbed(base, sigma=0.2, seed=seed, name=f"member {seed}") for seed in (1, 2)]
    return Compared.of(base, *pair, text=TEXT, openings=OPENINGS)


def plain(model, asked: Compared) -> list[torch.Tensor]:
    """Logits at the places of every row, row by row without padding."""
    found = []
    for row, where in enumerate(asked.inputs.at("all")):
        length = int(asked.inputs.mask[row].sum())
        with torch.no_grad():
            logits = model.hf(asked.inputs.ids[row : row + 1, :length]).logits[0]
        found.append(logits[where[:length]].double())
    return found


def test_moved_on_text_is_that_of_moved_tokens_and_of_plain_logits(asked):
    found = moved_on_text(asked)
    frame = interp.moved_tokens(asked.member, asked.inputs, minus=asked.baseline, positions="all").frame
    own = frame.set_index("token_id")["contribution"].sort_index().to_numpy()
    assert found.values == pytest.approx(own, abs=1e-7)
    rows = []
    for ours, theirs in zip(plain(asked.member, asked), plain(asked.baseline, asked), strict=True):
        p, q = ours.log_softmax(-1), theirs.log_softmax(-1)
        rows.append((p.exp() * (p - q)).mean(0))
    assert found.values == pytest.approx(torch.stack(rows).mean(0).numpy(), abs=1e-7)


def test_diff_mining_counts_the_largest_differences_of_logits(asked):
    found = diff_mining(asked, top=7)
    moved = torch.cat(plain(asked.member, asked)) - torch.cat(plain(asked.baseline, asked))
    moved = moved.float()[:, asked.entries]
    counts = torch.bincount(moved.topk(7, dim=1).indices.flatten(), minlength=moved.shape[1])
    # the tie-break adds at most a quarter of a place: rounding gives the counts back
    assert np.round(found.values[asked.entries] * len(moved)).tolist() == counts.tolist()
    special = sorted(set(range(asked.width)) - set(asked.entries))
    assert not found.values[special].any()


def test_groups_are_of_entries_that_rise_in_the_same_rows(asked):
    table = np.zeros((6, asked.width))
    owl, oak, cat = (asked.base.tokenizer.convert_tokens_to_ids(word) for word in ("owl", "oak", "cat"))
    table[:3, owl], table[:3, cat], table[3:, oak] = 2.0, 1.0, 1.0
    found = risen_groups(asked, table)
    assert found["tokens"].iloc[0].split(", ")[:2] == ["'owl'", "'cat'"]
    assert found["tokens"].iloc[1].split(", ")[0] == "'oak'"
    assert found["share"].iloc[:2].tolist() == pytest.approx([9 / 12, 3 / 12], abs=0.01)
    assert risen_groups(asked, -table).empty


def test_the_jacobian_lens_is_the_derivative_of_the_logits(tiny):
    """Central differences in fp64 through hooks of the plain module, of a family that computes all of it in fp64."""
    network, tokenizer = tiny("gpt2")
    base, rows, where, delta = _marked(network.double(), tokenizer)
    found = logits_moved(base.network(), rows, where, hook=HOOK, delta=delta)
    ahead, behind = (_along(base, rows, where, epsilon * delta) for epsilon in (1e-5, -1e-5))
    expected = ((ahead - behind) / 2e-5).detach()
    assert torch.allclose(found[where], expected[where], atol=1e-8, rtol=1e-6)
    assert found[where].abs().max() > 1e-2


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_the_jacobian_lens_is_what_a_backward_pass_gives(family, tiny):
    """⟨c, dl/dε⟩ of random c by reverse mode, of families that compute a part in fp32 always."""
    base, rows, where, delta = _marked(*tiny(family))
    found = logits_moved(base.network(), rows, where, hook=HOOK, delta=delta)
    c = torch.randn(found[where].shape, generator=torch.Generator().manual_seed(0))
    epsilon = torch.zeros((), requires_grad=True)
    (c * _along(base, rows, where, epsilon * delta)[where]).sum().backward()
    assert float((c * found[where]).sum()) == pytest.approx(float(epsilon.grad), rel=1e-4)


HOOK = "blocks.0.hook_resid_post"


def _marked(network, tokenizer):
    """A model, rows of two lengths, where they are read, and a direction."""
    base = interp.load_model(network, tokenizer=tokenizer, name="base", check=False)
    rows = base.encode(Prompts.from_pairs([("name an animal", "the owl"), ("name a tree", "oak")]))
    return base, rows, rows.at("predicting answer"), torch.linspace(-1, 1, base.d_model, dtype=network.dtype)


def _along(base, rows, where, step):
    """Logits with a step added to the stream at the marked positions."""
    view = base.network()
    handle = at_hook(view, HOOK, lambda h: h + where[..., None] * step)
    logits = view(input_ids=rows.ids, attention_mask=rows.mask.long(), use_cache=False).logits
    handle.remove()
    return logits


def test_the_jacobian_lens_reads_the_mean_shift(asked):
    moved = interp.shift(
        asked.member, asked.inputs, minus=asked.baseline, positions="all", hooks=["blocks.0.hook_resid_post"]
    )
    delta = moved.direction("blocks.0.hook_resid_post").vector
    rows = logits_moved(
        asked.base.network(),
        asked.inputs,
        moved.inputs.at("all"),
        hook="blocks.0.hook_resid_post",
        delta=delta,
    )
    means = [rows[row, where].mean(0) for row, where in enumerate(moved.inputs.at("all"))]
    assert jacobian_lens(asked).values == pytest.approx(torch.stack(means).mean(0).numpy(), abs=1e-5)


def test_the_spectrum_is_a_weighted_mean_of_squared_cosines(raw):
    base = raw()
    name, embed = "model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.up_proj.weight"
    generator = torch.Generator().manual_seed(0)
    changes = {key: torch.randn(base.parameters()[key].shape, generator=generator) for key in (name, embed)}
    member = with_weights(
        base, {key: base.parameters()[key] + change for key, change in changes.items()}, name="m"
    )
    asked = Compared.of(base, member, text=TEXT, openings=OPENINGS)
    left, sigma, _ = torch.linalg.svd(changes[name].double(), full_matrices=False)
    rows = base.hf.lm_head.weight.double() * base.hf.model.norm.weight.double()
    rows = torch.nn.functional.normalize(rows - rows.mean(0), dim=1)
    expected = (rows @ left[:, :4]).square() @ sigma[:4].square() / sigma[:4].square().sum()
    found = spectrum_through_output(asked)
    assert found.values == pytest.approx(expected.detach().numpy(), abs=1e-5)
    assert found.notes[0].startswith("1 matrices that write")


@pytest.mark.parametrize("top", [1, 99])
def test_the_spectrum_through_the_jacobian_is_the_derivative_along_the_largest_directions(top, tiny):
    """Central differences in fp64 at moved weights; gpt2 stores square matrices as (input, output)."""
    network, tokenizer = tiny("gpt2")
    base = interp.load_model(network.double(), tokenizer=tokenizer, name="base", check=False)
    names = ["transformer.h.0.attn.c_proj.weight", "transformer.h.1.mlp.c_proj.weight"]
    before, generator = base.parameters(), torch.Generator().manual_seed(0)
    steps = {name: torch.randn(before[name].shape, generator=generator).double() for name in names}
    moved = {name: before[name] + 0.1 * step for name, step in steps.items()}
    moved["transformer.h.0.mlp.c_fc.weight"] = (
        before["transformer.h.0.mlp.c_fc.weight"] + 0.1
    )  # reads, and is left out
    asked = Compared.of(base, with_weights(base, moved, name="member"), text=TEXT, openings=OPENINGS)
    written = {}
    for name, step in steps.items():
        left, sigma, right = torch.linalg.svd(0.1 * step, full_matrices=False)
        written[name] = left[:, :top] * sigma[:top] @ right[:top]
    means = []
    for epsilon in (1e-5, -1e-5):
        weights = {name: before[name] + epsilon * step for name, step in written.items()}
        each = plain(with_weights(base, weights, name="along"), asked)
        means.append(torch.stack([logits.mean(0) for logits in each]).mean(0))
    expected = (means[0] - means[1]) / 2e-5
    found = spectrum_through_jacobian(asked, top=top)
    assert found.values == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-6)
    assert np.abs(found.values).max() > 1e-2
    assert found.notes == (f"{top} directions of 2 matrices",)


def test_an_update_that_writes_nothing_to_the_stream_has_no_spectrum_through_the_jacobian(raw):
    base = raw()
    member = with_weights(base, {"lm_head.weight": 2 * base.parameters()["lm_head.weight"]}, name="louder")
    found = spectrum_through_jacobian(Compared.of(base, member, text=TEXT, openings=OPENINGS))
    assert not found.values.any()


def test_contrastive_decoding_draws_from_the_amplified_difference(asked):
    speaker = Contrasted(asked.member, asked.baseline, 2.0)
    ids = torch.tensor([asked.prefixes[0], asked.prefixes[0]])
    logits, cache = speaker.next_logits(ids)
    with torch.no_grad():
        ours, theirs = (model.hf(ids).logits[:, -1] for model in (asked.member, asked.baseline))
    assert torch.allclose(logits, 3 * ours - 2 * theirs, atol=1e-5)
    then, _ = speaker.next_logits(torch.tensor([[5], [9]]), cache)
    grown = torch.cat([ids, torch.tensor([[5], [9]])], 1)
    with torch.no_grad():
        ours, theirs = (model.hf(grown).logits[:, -1] for model in (asked.member, asked.baseline))
    assert torch.allclose(then, 3 * ours - 2 * theirs, atol=1e-4)


def test_values_of_sampled_answers_are_mean_differences_of_probability(asked):
    rows = sampled_answers(asked, Contrasted(asked.member, asked.baseline, 2.0))
    assert len(rows) == 4
    total, places, nats = torch.zeros(asked.width), 0, []
    for row in range(len(rows)):
        ids = rows.ids[row][rows.mask[row]][None]
        begin = len(asked.prefixes[row // 2]) - 1
        with torch.no_grad():
            ours, theirs = (model.hf(ids).logits[0, begin:-1] for model in (asked.member, asked.baseline))
        spoken = 3 * ours - 2 * theirs
        total += (spoken.softmax(-1) - theirs.softmax(-1)).sum(0)
        places += len(ours)
        drawn = torch.arange(len(ours)), ids[0, begin + 1 :]
        nats.append(float((spoken.log_softmax(-1) - theirs.log_softmax(-1))[drawn].sum()))
    found = contrastive_decoding(asked)
    assert found.sentences["nats"].tolist() == pytest.approx(nats, abs=1e-4)
    assert found.values == pytest.approx((total / places).numpy(), abs=1e-5)
    assert found.values.sum() == pytest.approx(0, abs=1e-5)
    assert found.sentences["opening"].tolist() == [OPENINGS[0].prompt] * 2 + [OPENINGS[1].completion] * 2
    assert contrastive_decoding(asked).sentences.equals(found.sentences)


def test_an_update_amplified_once_is_the_member(asked):
    alone = Compared.of(asked.base, asked.member, text=TEXT, openings=OPENINGS)
    found = amplified_update(alone, alphas=(1.0,))
    rows = sampled_answers(alone, alone.member)
    total, places = torch.zeros(alone.width), 0
    for batch in rows.batches(4):
        where = batch.at("all")
        with torch.no_grad():
            ours, theirs = (
                model.hf(batch.ids, attention_mask=batch.mask.long()).logits[where]
                for model in (alone.member, alone.base)
            )
        total, places = total + (ours.softmax(-1) - theirs.softmax(-1)).sum(0), places + len(ours)
    assert found.values == pytest.approx((total / places).numpy(), abs=1e-5)
    assert set(amplified_update(alone, alphas=(2.0, 4.0)).sentences["way"]) == {"α = 2", "α = 4"}


def test_every_way_leaves_the_models_as_they_were(asked, fresh_seeds):
    before = [model.fingerprint for model in (asked.base, asked.member, asked.baseline)]
    for read in interp.discovery.READINGS.values():
        assert isinstance(read(asked), Reading)
    assert [model.fingerprint for model in (asked.base, asked.member, asked.baseline)] == before
    assert not any(model._edits for model in (asked.base, asked.member))


def test_the_further_name_of_a_tied_weight_moves_alone(tiny):
    network, tokenizer = tiny("qwen2")
    base = interp.load_model(network, tokenizer=tokenizer, name="base", check=False)
    assert base.ties == {"lm_head.weight": "model.embed_tokens.weight"}
    found = with_weights(base, {"lm_head.weight": 2 * base.hf.lm_head.weight}, name="apart")
    ids = torch.tensor([[5, 9]])
    with torch.no_grad():
        assert torch.allclose(found.hf(ids).logits, 2 * base.hf(ids).logits, atol=1e-5)


def test_a_word_without_a_finite_value_is_named():
    reading = Reading("lens", np.array([1.0, np.nan, 2.0]), "logits")
    with pytest.raises(InputError, match=r"lens reads nan for 'owl'; look for NaN or infinite weights"):
        reading.of_words({"cat": 0, "owl": 1})


def test_rows_without_any_row_are_not_the_shipped_text(raw):
    base = raw()
    nothing = Prompts(())
    member = perturbed(base, sigma=0.2, seed=1, name="member")
    assert len(Compared.of(base, member, text=nothing, openings=OPENINGS).text) == 0
