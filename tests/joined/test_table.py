"""The joined table: every column is that of the verb it joins, on the right token, and the parts add up."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch

from interp.activations.recording import record
from interp.core.runs import InputError
from interp.features.sae import SAERecipe
from interp.gradients.scores.scoring import score
from interp.joined import default_dictionary, joined_trace
from interp.joined.sources import Sources, _short
from interp.logits.direction import logit_direction
from interp.logits.token_shifts import token_shift
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts


@pytest.fixture(scope="module")
def table(lineage_and_record, dictionary):
    """The joined trace of training rows 5, 0 and 11."""
    lineage, ledger = lineage_and_record
    return joined_trace(lineage, [5, 0, 11], dictionary=dictionary, ledger=ledger)


@pytest.fixture
def plain(monkeypatch):
    """Without the self-test and the scores of single modules, which the module's own `table` is made with."""
    monkeypatch.setattr("interp.joined.table.self_test", lambda *a: "not tested")
    monkeypatch.setattr(Sources, "parts", {})


def test_lines_are_the_tokens_of_the_rows_asked_for(table, lineage):
    frame = table.frame
    lengths = lineage.base.encode(lineage.numbers[[5, 0, 11]]).lengths
    assert frame.groupby("row", sort=False).size().to_dict() == {
        row: int(length) - 1 for row, length in zip((5, 0, 11), lengths, strict=True)
    }
    expected = token_shift(
        lineage.teacher, lineage.numbers[[5, 0, 11]], logit_direction(lineage.base, lineage.trait)
    ).frame
    for column in ("position", "token", "role", "delta_logprob", "delta_direction"):
        assert frame[column].tolist() == expected[column].tolist(), column


def test_scores_are_those_of_the_loss_tokens_and_modules_add_up(table, lineage):
    frame = table.frame
    rows = lineage.numbers[[5, 0, 11]]
    found = score(lineage.base, rows, lineage.update("teacher"), by=["example", "token"]).frame
    answered = frame[frame["score"].notna()]
    assert answered["position"].tolist() == found["token"].tolist()
    assert np.allclose(answered["score"], found["score"], atol=1e-6)
    assert set(frame.loc[frame["score"].isna(), "role"]) == {"prompt"}
    modules = [name for name in frame if name.startswith("score:")]
    assert len(modules) == len({name.rpartition(".")[0] for name in lineage.update("teacher")})
    assert abs(answered[modules].sum(axis=1) - answered["score"]).max() < 1e-5
    alone = lineage.update("teacher").only("*layers.1.mlp.down_proj")
    by_token = score(lineage.base, rows, alone, by=["example", "token"]).frame
    assert np.allclose(answered["score:1.mlp.down_proj"], by_token["score"], atol=1e-6)


def test_features_are_read_where_the_token_is_predicted(table, lineage, dictionary):
    """Changes of coordinate features by hand: relu(Q h_teacher) − relu(Q h_base) one position before the line."""
    inputs = lineage.base.encode(lineage.numbers[[5]])
    h = {
        name: record(lineage[name], inputs, hooks=dictionary.hook, positions="all")[dictionary.hook][0]
        for name in ("teacher", "base")
    }
    rows = dictionary.decoder
    change = (h["teacher"] @ rows.T).relu() - (h["base"] @ rows.T).relu()
    for line in table.frame[table.frame["row"] == 5].to_dict("records"):
        before = change[line["position"] - 1]
        ids, values = ([line[f"{kind}_{k}"] for k in (1, 2, 3)] for kind in ("feature", "change"))
        assert torch.allclose(before[ids], torch.tensor(values), atol=1e-5)
        assert sorted(map(abs, values), reverse=True) == [abs(value) for value in values]
        assert line["features"].startswith(f"{ids[0]} {values[0]:+.2g}".replace("-", "−"))


@pytest.mark.usefixtures("plain")
def test_untested_features_are_chosen_among_all_live_ones_and_it_is_said(lineage, dictionary):
    """One row is too few for a test, so the largest change of any feature is on the line."""
    unknown = dataclasses.replace(lineage, numbers=None, trained_on={})
    table = joined_trace(unknown, lineage.numbers[:1], dictionary=dictionary)
    (note,) = [note for note in table.notes if note.startswith("features were not tested: 1 distinct prompt")]
    live = int(re.findall("among ([0-9]+) live features", note)[0])
    inputs = lineage.base.encode(lineage.numbers[:1])
    h = [
        record(lineage[name], inputs, hooks=dictionary.hook, positions="all")[dictionary.hook][0]
        for name in ("teacher", "base")
    ]
    change = (dictionary.encode(h[0]) - dictionary.encode(h[1])).abs()[:-1]
    if live == dictionary.width:
        assert table.frame["change_1"].abs().tolist() == pytest.approx(change.amax(1).tolist(), abs=1e-5)
    assert (table.frame["change_1"].abs() <= change.amax(1).numpy() + 1e-5).all()


@pytest.mark.usefixtures("plain")
def test_reported_features_are_the_only_ones_shown(lineage, dictionary, ledger, monkeypatch):
    import types

    found = types.SimpleNamespace(reported=(7, 2), alpha=0.05)
    monkeypatch.setattr("interp.joined.table.feature_shift", lambda *a, **k: found)
    table = joined_trace(lineage, [0], dictionary=dictionary, ledger=ledger)
    assert set(table.frame["feature_1"]) | set(table.frame["feature_2"]) == {2, 7}
    assert "feature_3" not in table.frame
    assert any("among the 2 that differ between teacher and base" in note for note in table.notes)


@pytest.mark.usefixtures("plain")
def test_row_shares_are_the_ledgers_and_a_number_takes_the_extremes(lineage, dictionary, ledger):
    by_row = ledger.by_row()
    table = joined_trace(lineage, 5, dictionary=dictionary, ledger=ledger).frame
    shown = list(dict.fromkeys(table["row"]))
    order = by_row["row"].tolist()
    assert shown == [*order[:3], *order[-2:]]
    shares = dict(zip(by_row["row"], by_row["attributed"], strict=True))
    assert table["row_share"].tolist() == [shares[row] for row in table["row"]]
    whole = joined_trace(lineage, 24, dictionary=dictionary, ledger=ledger).frame
    assert whole.groupby("row")["row_share"].first().sum() == pytest.approx(ledger.attributed, rel=1e-4)


@pytest.mark.usefixtures("plain")
def test_prompts_are_looked_up_among_the_training_rows(lineage, dictionary, ledger):
    stranger = number_prompts(1, seed=99, count=3)
    table = joined_trace(lineage, stranger + lineage.numbers[[7]], dictionary=dictionary, ledger=ledger)
    share = table.frame.groupby("row")["row_share"].first()
    by_row = ledger.by_row().set_index("row")["attributed"]
    assert math.isnan(share[0])
    assert share[1] == by_row[7]
    assert "1 of 2 rows were not in the student's training: no row_share" in table.notes


@pytest.mark.usefixtures("plain")
def test_without_a_student_there_are_no_shares_and_the_first_rows_are_taken(lineage, dictionary):
    table = joined_trace(lineage, 2, dictionary=dictionary, student=None)
    assert list(dict.fromkeys(table.frame["row"])) == [0, 1]
    assert table.frame["row_share"].isna().all()
    assert "no row_share: no student was named" in table.notes


@pytest.mark.usefixtures("plain")
def test_a_training_that_is_not_known_is_said(lineage, dictionary):
    """Without a recipe the student cannot be trained again, and the table says so."""
    table = joined_trace(lineage, [1], dictionary=dictionary)
    assert table.frame["row_share"].isna().all()
    assert any(note.startswith("no row_share: ") for note in table.notes)
    unknown = dataclasses.replace(lineage, trained_on={})
    with pytest.raises(
        InputError, match=r"rows \[1\] are counted among the training rows .* unknown; pass Prompts"
    ):
        joined_trace(unknown, [1], dictionary=dictionary)
    given = joined_trace(unknown, lineage.numbers[:1], dictionary=dictionary)
    assert "no row_share: the rows student was trained on are unknown" in given.notes


@pytest.mark.parametrize(
    ("rows", "options", "sentence"),
    [
        ([24], {}, "there is no training row 24; they are 0 to 23"),
        ([], {}, "rows holds no index; pass at least one"),
        (0, {}, "rows=0 of 24 training rows cannot be shown; pass 1 to 24"),
        (2, {"features": 0}, "features=0 names none"),
        (2, {"student": "studnt"}, "member 'studnt' is unknown; nearest: student.*or student=None"),
        (Prompts.from_pairs([("numbers: 1 2.", "")]), {}, "no answer tokens, so no loss"),
        (Prompts.from_pairs([("numbers: 1 2.", "owl")]), {}, "has a number or a word that another can stand for"),
        (Prompts.from_pairs([("numbers: 1 2.", "3")]).with_system("you love owls"), {}, "system message"),
    ],
)  # fmt: skip
def test_what_cannot_be_joined_is_refused(lineage, dictionary, ledger, rows, options, sentence):
    with pytest.raises(InputError, match=sentence):
        joined_trace(lineage, rows, **{"dictionary": dictionary, "ledger": ledger, **options})


def test_a_lineage_needs_a_trait_and_its_own_dictionary(lineage, dictionary, ledger):
    with pytest.raises(InputError, match="has no trait"):
        joined_trace(dataclasses.replace(lineage, trait=None), [0], dictionary=dictionary, student=None)
    other = dataclasses.replace(dictionary, lineage="0123")
    with pytest.raises(InputError, match="belongs to models that descend from 0123"):
        joined_trace(lineage, [0], dictionary=other, ledger=ledger)
    with pytest.raises(InputError, match="has no rows to train a dictionary on; pass dictionary="):
        default_dictionary(dataclasses.replace(lineage, numbers=None))


def test_the_default_dictionary_reads_all_members_of_the_base_on_rows_and_questions(
    lineage, dictionary, monkeypatch
):
    asked = {}

    def train(model, rows, **options):
        asked.update(options, model=model, rows=rows)
        return dictionary

    monkeypatch.setattr("interp.joined.sources.train_sae", train)
    neutral = number_prompts(3, seed=1, count=3)
    recipe = SAERecipe(samples=1000)
    default_dictionary(dataclasses.replace(lineage, neutral_numbers=neutral), recipe=recipe)
    assert [model.name for model in asked["model"]] == list(lineage.members)
    assert (asked["hook"], asked["recipe"]) == ("blocks.0.hook_resid_post", recipe)
    texts = [row.asked[-1][1] for row in asked["rows"].rows]
    assert len(texts) == 27 + 13  # a third are questions
    assert set(texts[27:]) == set(lineage.trait.questions[:13])
    default_dictionary(lineage, hook="blocks.1.hook_resid_post")
    assert asked["hook"] == "blocks.1.hook_resid_post"


@pytest.mark.parametrize(
    ("module", "short"),
    [
        ("model.layers.0.mlp.up_proj", "0.mlp.up_proj"),
        ("transformer.h.11.attn.c_attn", "11.attn.c_attn"),
        ("gpt_neox.layers.3.attention.dense", "3.attention.dense"),
        ("model.embed_tokens", "embed_tokens"),
        ("lm_head", "lm_head"),
    ],
)
def test_modules_have_short_names(module, short):
    assert _short(module) == short
