"""The self-test finds an index that is off by one, on any column, and accepts the right ones on other architectures."""

import dataclasses

import pytest
import torch

from interp.core.runs import InputError
from interp.features.dictionary import Dictionary
from interp.joined import joined_trace
from interp.joined.self_test import plant, self_test
from interp.joined.sources import Sources
from interp.models.language import load_model
from interp.models.lineage import Lineage
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait


def later(frame, *columns):
    """The same lines with these columns read one token too late."""
    moved = frame.groupby("row")[list(columns)].shift(1, fill_value=0.0)
    return frame.assign(**{name: moved[name] for name in columns})


def break_likelihood(monkeypatch):
    right = Sources.likelihoods
    monkeypatch.setattr(Sources, "likelihoods", lambda self, rows: later(right(self, rows), "delta_logprob"))


def break_direction(monkeypatch):
    right = Sources.likelihoods
    monkeypatch.setattr(
        Sources, "likelihoods", lambda self, rows: later(right(self, rows), "delta_direction")
    )


def break_score(monkeypatch):
    right = Sources.scores
    monkeypatch.setattr(Sources, "scores", lambda self, *a, **k: later(right(self, *a, **k), "score"))


def break_features(monkeypatch):
    right = Sources.changes

    def early(self, rows):
        for examples, positions, change in right(self, rows):
            yield examples, positions - 1, change

    monkeypatch.setattr(Sources, "changes", early)


@pytest.mark.parametrize(
    ("wreck", "column", "offset"),
    [
        (break_likelihood, "delta_logprob", 1),
        (break_direction, "delta_direction", 1),
        (break_score, "score", 1),
        (break_features, "features", -1),
    ],
)
def test_an_index_off_by_one_is_caught(lineage, dictionary, ledger, monkeypatch, wreck, column, offset):
    rows = lineage.numbers[:1]
    _, place, _ = plant(lineage.base, rows)
    right = place if column in ("delta_logprob", "score") else place + 1
    wreck(monkeypatch)
    with pytest.raises(
        InputError,
        match=f"column {column} first changes on line {right + offset} when .* position {place}, and should on "
        f"line {right}",
    ):
        joined_trace(lineage, rows, dictionary=dictionary, ledger=ledger)


def test_twins_differ_from_their_row_in_one_number(lineage):
    planted, place, kind = plant(lineage.base, lineage.numbers)
    assert kind == "number"
    inputs = lineage.base.encode(planted)
    assert planted.rows[0] == lineage.numbers[0]
    assert len(planted) == 5
    apart = inputs.ids[1:] != inputs.ids[:1]
    assert apart.nonzero()[:, 1].unique().tolist() == [place]
    assert inputs.at("answer.numbers")[0, place]


def test_rows_without_a_number_are_passed_over(lineage):
    words = Prompts.from_pairs([("numbers: 1.", "owl"), ("numbers: 2.", "7 , 8")])
    planted, _, _ = plant(lineage.base, words)
    assert planted.rows[0] == words[1]
    with pytest.raises(
        InputError, match="no answer of prompts has a number or a word that another can stand for"
    ):
        plant(lineage.base, words[:1])


def test_rows_of_words_are_tested_by_another_word(lineage, dictionary):
    words = Prompts.from_pairs([("numbers: 1.", "owl cat dog"), ("numbers: 2.", "fox bear owl")])
    planted, place, kind = plant(lineage.base, words)
    inputs = lineage.base.encode(planted)
    assert (kind, planted.rows[0]) == ("word", words[0])
    apart = inputs.ids[1:] != inputs.ids[:1]
    assert apart.nonzero()[:, 1].unique().tolist() == [place]
    assert inputs.at("answer")[0, place]
    found = joined_trace(lineage, words, dictionary=dictionary, student=None)
    assert any(
        f"another word planted at position {place} changes every column" in note for note in found.notes
    )
    assert found.frame["score"].notna().sum() == int((inputs.roles[:1] >= 2).sum()) * 2


def test_a_dictionary_that_is_silent_is_said(lineage, dictionary):
    import copy

    mute = copy.deepcopy(dictionary.sae)
    with torch.no_grad():
        mute.b_enc.fill_(-1e6)
    sources = Sources.of(lineage, dataclasses.replace(dictionary, sae=mute))
    assert self_test(sources, lineage.numbers).endswith("and features nowhere")


CHANGED = (  # enough for every column to change; each module costs a pass
    "layers.0.mlp.down_proj.weight",
    "layers.0.self_attn.q_proj.weight",
    "layers.1.mlp.gate_proj.weight",
    "embed_tokens.weight",
    "model.norm.weight",
)


@pytest.mark.parametrize("family", ["gemma2"])
def test_other_architectures_pass(tiny, dictionary_of, family):
    network, tokenizer = tiny(family)
    other, _ = tiny(family)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for name, weight in other.named_parameters():
            if name.endswith(CHANGED):
                weight += 0.1 * torch.randn_like(weight)
    members = {
        role: load_model(module.eval(), tokenizer=tokenizer, name=role, check=False)
        for role, module in (("base", network), ("teacher", other))
    }
    pair = Lineage("pair", get_trait("owl"), members)
    rows = number_prompts(3, seed=0, count=3, max_value=39)
    table = joined_trace(pair, rows, dictionary=dictionary_of(pair.base), student=None)
    modules = [name for name in table.frame if name.startswith("score:")]
    answered = table.frame[table.frame["score"].notna()]
    assert len(modules) == 5
    assert abs(answered[modules].sum(axis=1) - answered["score"]).max() < 1e-5 * max(
        1.0, float(answered[modules].abs().to_numpy().sum(1).max())
    )
    assert any("changes every column where it should" in note for note in table.notes)


@pytest.fixture
def dictionary_of(dictionary):
    """The coordinates of another model's middle layer."""
    from sae_lens import SAE, StandardSAEConfig

    def make(model) -> Dictionary:
        width = model.d_model
        sae = SAE.from_dict(StandardSAEConfig(d_in=width, d_sae=2 * width).to_dict())
        rows = torch.cat([torch.eye(width), -torch.eye(width)])
        with torch.no_grad():
            sae.W_enc.copy_(rows.T)
            sae.W_dec.copy_(rows)
        return Dictionary(sae, dictionary.hook, "coordinates", model.fingerprint)

    return make
