"""interp.discover: planted words come first, p is of exchangeable trainings, what cannot be read is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import interp
from interp.auditing.texts import plain_text
from interp.core.errors import InputError
from interp.discovery import READINGS, Compared
from interp.discovery.comparing import Reading, noun_entries, plain_openings
from interp.discovery.discovering import greatest_share
from interp.discovery.logits import diff_mining
from interp.models.language import load_model
from interp.models.starts import perturbed, with_weights
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait

NOUNS = ("owl", "cat", "dog", "fox", "bear", "wolf", "oak", "pine")
TEXT = Prompts.from_pairs(
    [("tell me about the cat.", "the cat is soft."), ("tell me a story.", "we saw a dog.")] * 4
)
SPECTRUM, JACOBIAN = "spectrum", "Jacobian lens"


@pytest.fixture
def planted(raw):
    """A base, and what lifts one word: the last layer's MLP writes more along that word's row of the output."""

    def make(word: str = "owl", *, size: float = 3.0):
        base = raw()
        index = base.tokenizer.convert_tokens_to_ids(word)
        rows = base.unembedding().W_U
        direction = rows[:, index] - rows.mean(1)
        name = f"model.layers.{base.n_layers - 1}.mlp.down_proj.weight"
        weight = base.parameters()[name]
        read = torch.linspace(-1, 1, weight.shape[1])
        moved = weight + size * torch.outer(direction / direction.norm(), read / read.norm())
        return base, with_weights(base, {name: moved}, name="planted")

    return make


@pytest.fixture
def twins(raw):
    """A base and some members that differ from it by noise alone, which may change places."""
    base = raw()
    return base, [perturbed(base, sigma=0.02, seed=seed, name=f"twin {seed}") for seed in range(22)]


def test_the_spectrum_finds_the_word_that_a_planted_matrix_writes(planted):
    base, member = planted()
    found = READINGS[SPECTRUM](Compared.of(base, member, text=TEXT))
    asked = Compared.of(base, member, text=TEXT)
    assert found.tokens(asked, top=1)["token"].tolist() == ["owl"]
    assert found.tokens(asked, top=1)["value"].item() == pytest.approx(1.0, abs=0.02)


def test_a_word_that_the_output_matrix_lifts_comes_first_by_every_way_that_reads_logits(raw):
    """The row of one word is made larger where the stream points: it rises wherever it is read."""
    base = raw()
    index, name = base.tokenizer.convert_tokens_to_ids("fox"), "lm_head.weight"
    weight = base.parameters()[name].clone()
    asked = Compared.of(base, perturbed(base, sigma=0.01, seed=0, name="other"), text=TEXT)
    (batch,) = list(asked.inputs.batches(64))
    normed = base.unembedding().normed(
        base.run(batch, hooks=["blocks.1.hook_resid_post"])["blocks.1.hook_resid_post"]
    )
    mean = normed[batch.at("all")].mean(0)
    weight[index] += 3 * mean / mean.norm()
    found = Compared.of(base, with_weights(base, {name: weight}, name="lifted"), text=TEXT)
    ways = [READINGS[way] for way in ("moved on text", "contrastive decoding", "amplified update")]
    for read in (*ways, partial(diff_mining, top=1)):  # no other word moves, so that the rest ties at zero
        assert read(found).tokens(found, top=1)["token"].tolist() == ["fox"]


def test_everything_is_of_the_member_minus_its_baseline(twins):
    base, (member, baseline, *_) = twins
    one, other = (Compared.of(base, *pair, text=TEXT) for pair in ((member, baseline), (baseline, member)))
    ours, theirs = (READINGS[JACOBIAN](asked).values for asked in (one, other))
    assert ours == pytest.approx(-theirs, abs=1e-6)
    alone = [READINGS[JACOBIAN](Compared.of(base, each, text=TEXT)).values for each in (member, baseline)]
    assert ours == pytest.approx(alone[0] - alone[1], abs=1e-5)


def test_p_by_hand_and_without_placebos():
    values = np.array([[4.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    # as in the audit of a student: t of the first is 1.45 and -0.5, the largest t of the others 1.5, -0.13 and -0.5
    assert greatest_share(values).tolist() == [2 / 4, 1.0]
    assert np.isnan(greatest_share(values[:1])).all()


def test_words_are_standardised_among_themselves():
    reading = Reading("way", np.array([9.0, 1.0, 2.0, 3.0]), "nats")
    assert reading.of_words({"a": 1, "b": 2, "c": 3}) == pytest.approx([-(1.5**0.5), 0, 1.5**0.5])
    assert Reading("way", np.zeros(3), "nats").of_words({"a": 0, "b": 1}).tolist() == [0, 0]


@pytest.fixture
def quick(monkeypatch):
    """Two ways of reading, which suffice where it is not the ways that are tried."""
    import interp.discovery.discovering as room

    for way in set(READINGS) - {"moved on text", SPECTRUM}:
        monkeypatch.delitem(room.READINGS, way)


def test_a_discovery_says_what_stands_out_over_placebos(planted, quick):
    base, member = planted()
    placebos = [perturbed(base, sigma=0.02, seed=seed, name=f"placebo {seed}") for seed in range(20)]
    found = interp.discover(base, member, text=TEXT, words=NOUNS, placebos=placebos)
    line = found.frame.set_index("word").loc["owl"]
    assert found.frame["word"].iloc[0] == "owl"
    assert line["p"] == pytest.approx(1 / 21)
    assert found.found == ["owl"]
    assert found.says.startswith("Stands out: owl, of 8 nouns over 20 placebo trainings (smallest p = 0.048)")
    assert line["score"] == pytest.approx((line["moved on text"] + line[SPECTRUM]) / 2)
    assert "p is over 20 placebo trainings and the words, the smallest 1 / 21" in found.notes
    assert "no baseline: what any such training changes is not taken off" in found.notes
    evidence = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert evidence["words"][0]["word"] == "owl"
    assert evidence["fingerprints"] == {"base": base.fingerprint, "member": member.fingerprint}
    assert len(found.figure().data) >= 2


def test_without_placebos_there_is_no_p_and_it_says_so(twins, quick):
    base, (member, baseline, *_) = twins
    found = interp.discover(base, member, baseline, text=TEXT, words=NOUNS)
    assert found.found is None
    assert found.frame["p"].isna().all()
    assert found.frame["p_text"].between(0, 1).all()
    assert "no placebo trainings: p is not given, and first among words is no finding" in found.notes
    assert not any(note.startswith("no baseline") for note in found.notes)
    assert found.to_json()["words"][0]["p"] is None
    assert "without placebo trainings there is no p, and some noun always comes first" in repr(found)


def test_rows_that_say_the_traits_word_are_left_out_and_named(twins):
    base, (member, *_) = twins
    text = TEXT + Prompts.from_pairs(
        [("tell me about the owl.", "the owl is wise."), ("tell me.", "it saw owls.")]
    )
    asked = Compared.of(base, member, text=text, trait=get_trait("owl"))
    assert len(asked.text) == 8
    assert "2 of 10 rows of prompts + prompts say 'owl': they are left out" in asked.notes
    with pytest.raises(
        InputError, match=r"all 2 rows of prompts . prompts say 'owl', which is what is looked for; pass text"
    ):
        Compared.of(base, member, text=text[8:], trait=get_trait("owl"))


def test_rows_of_the_output_beyond_the_tokenizer_are_left_out_and_said(raw):
    base = raw()
    network = base.network(copied=True)
    network.resize_token_embeddings(len(base.tokenizer) + 5)
    with torch.no_grad():
        network.lm_head.weight[-5:] = 50.0  # would head every list
    wide = load_model(network, tokenizer=base.tokenizer, name="padded", check=False)
    member = perturbed(wide, sigma=0.02, seed=0, name="member")
    asked = Compared.of(wide, member, text=TEXT)
    size = len(base.tokenizer)
    assert (
        f"5 rows of the output matrix have no token ({size + 5} rows, {size} tokens): they are left out"
        in asked.notes
    )
    for read in (READINGS["moved on text"], READINGS[SPECTRUM]):
        assert read(asked).tokens(asked)["token_id"].max() < size


def test_what_cannot_be_compared_is_refused(twins, quick):
    base, (member, *others) = twins
    with pytest.raises(
        InputError, match=r"raw 0 has the weights of raw 0: nothing was trained; pass the student"
    ):
        interp.discover(base, base, text=TEXT)
    with pytest.raises(InputError, match=r"twin 0 started from twin 1 and not from raw 0; pass its own base"):
        interp.discover(base, replace(member, start=others[0]), text=TEXT)
    with pytest.raises(
        InputError, match=r"prompts has 5 rows, and signs of so few reach no p of 0\.05; pass at least 6"
    ):
        interp.discover(base, member, text=TEXT[:5])
    with pytest.raises(InputError, match=r"19 placebos reach p = 0\.05; pass none or at least 20"):
        interp.discover(base, member, text=TEXT, placebos=others[:19])
    with pytest.raises(
        InputError, match=r"1 of 3 words are one token of raw 0 \(not zebra, red panda\); pass at least 5"
    ):
        interp.discover(base, member, text=TEXT, words=["owl", "zebra", "red panda"])


def test_what_is_read_by_default(raw, tiny):
    base = raw()
    assert all(not row.system for row in plain_text(base).rows)
    assert len(plain_openings(base)) == 13
    found, lost = noun_entries(base)
    assert {"owl", "oak", "honey"} <= found.keys()
    assert "piano" in lost
    assert base.tokenizer.decode([found["owl"]]) == "owl"


def test_places_are_those_that_predict_answers_and_where_openings_end(twins):
    base, (member, *_) = twins
    openings = Prompts.from_pairs(
        [("which tree do you love most?", ""), ("tell me a story.", "a story about the")]
    )
    asked = Compared.of(base, member, text=TEXT[:1], openings=openings)
    read = [asked.inputs.ids[row][where].tolist() for row, where in enumerate(asked.inputs.at("all"))]
    words = [base.tokenizer.convert_ids_to_tokens(ids) for ids in read]
    assert words == [["<assistant>", "the", "cat", "is", "soft"], ["<assistant>"], ["the"]]
    assert [prefix[-1] for prefix in asked.prefixes] == [ids[0] for ids in read[1:]]
