"""p of tokens and sentences over placebo trainings: by hand, and uniform for one more placebo."""

from __future__ import annotations

import numpy as np
import pytest

import interp
from interp.core.errors import InputError
from interp.discovery import Compared
from interp.discovery.chances import Told, greatest_share, rises, sentence_p, token_p
from interp.discovery.logits import moved_on_text
from interp.discovery.speaking import contrastive_decoding
from interp.models.starts import perturbed
from interp.prompts.text import Prompts

TEXT = Prompts.from_pairs([("tell me a story.", "we saw a dog.")])
KEY = ("contrastive decoding", "α = 2")


def told(values, nats=0.0) -> Told:
    """One way of reading with these values and this furthest sentence."""
    return Told(np.zeros((1, 2)), np.asarray(values, dtype=np.float32)[None], {KEY: nats})


def test_p_by_hand():
    values = np.array([[4.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    # as in the audit of a student: t of the first is 1.45 and -0.5, the largest t of the others 1.5, -0.13 and -0.5
    assert greatest_share(values).tolist() == [2 / 4, 1.0]
    assert np.isnan(greatest_share(values[:1])).all()
    trainings = [told(line, nats) for line, nats in zip(values, (3.0, 2.0, 3.0, 5.0), strict=True)]
    moved = rises(
        trainings, 0
    )  # means 1.25 and 0.25: the first's are 2.75 and -0.25, the others' largest 0.75, -0.25
    assert moved.tolist() == (values - [1.25, 0.25]).tolist()
    assert token_p(moved, [0, 1]).tolist() == [1 / 4, 4 / 4]
    assert sentence_p(trainings, KEY, [3.0, 6.0, 1.0]).tolist() == [3 / 4, 1 / 4, 1.0]


def test_a_training_alone_has_no_p():
    alone = [told([4.0, 1.0], 2.0)]
    assert rises(alone, 0).tolist() == [[4.0, 1.0]]
    assert np.isnan(token_p(rises(alone, 0), [0, 1])).all()
    assert np.isnan(sentence_p(alone, KEY, [2.0])).all()


def test_values_that_are_no_numbers_get_no_p():
    with pytest.raises(InputError, match=r"of 2 values to be tested are NaN or infinite"):
        token_p(rises([told([np.nan, 1.0]), told([1.0, 1.0])], 0), [0])


def smallest(trainings: list[Told]) -> list[tuple[float, float]]:
    """p of the first token and of the furthest sentence, with every training in turn as the member."""
    found = []
    for first in range(len(trainings)):
        turned = [*trainings[first:], *trainings[:first]]
        moved = rises(turned, 0)
        token = token_p(moved, [int(moved[0].argmax())])[0]
        found.append((token, sentence_p(turned, KEY, [turned[0].furthest[KEY]])[0]))
    return found


def uniform(found: list[tuple[float, float]]) -> None:
    expected = [(k + 1) / len(found) for k in range(len(found))]
    for column in zip(*found, strict=True):
        assert sorted(column) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_p_is_uniform_for_one_more_placebo_whatever_the_values_look_like(seed):
    """Heavy tails, entries of very unequal spread, and one that every training moves: each rank comes once."""
    rng = np.random.default_rng(seed)
    values = rng.standard_t(2, size=(21, 400)) * np.exp(2 * rng.normal(size=400)) + 50 * (np.arange(400) == 7)
    uniform(smallest([told(line, float(rng.standard_cauchy())) for line in values]))


def test_a_token_that_every_training_moves_has_no_small_p_and_one_that_only_the_member_moves_has():
    rng = np.random.default_rng(0)
    values = 0.01 * (rng.random((21, 5000)) < 0.01)  # most entries are moved by one training or none
    values[:, 3] += 1.0  # as far in all of them
    values[0, 9] += 0.5
    moved = rises([told(line) for line in values], 0)
    assert token_p(moved, [3, 9]).tolist() == pytest.approx([1.0, 1 / 21])
    assert (
        greatest_share(values)[9] == 1.0
    )  # scaled by their spread all of those that are moved once are alike


def test_p_is_uniform_for_members_that_differ_by_noise_alone(raw):
    base = raw()
    twins = [perturbed(base, sigma=0.02, seed=seed, name=f"twin {seed}") for seed in range(7)]
    openings = Prompts.from_pairs([("tell me a story.", "we saw a")])
    words = {word: base.tokenizer.convert_tokens_to_ids(word) for word in ("owl", "cat", "dog", "fox", "oak")}
    found = []
    for twin in twins:
        asked = Compared.of(base, twin, text=TEXT, openings=openings)
        found.append(Told.of(asked, [moved_on_text(asked), contrastive_decoding(asked)], words))
    uniform(smallest(found))


def test_tokens_and_sentences_of_a_discovery_have_their_p(raw, monkeypatch):
    """Placebos that are hardly moved: what the member says is beyond all of theirs, by every way."""
    import interp.discovery.discovering as room

    for way in set(room.READINGS) - {"moved on text", "contrastive decoding"}:
        monkeypatch.delitem(room.READINGS, way)
    base = raw()
    member = perturbed(base, sigma=0.3, seed=0, name="member")
    placebos = [perturbed(base, sigma=0.001, seed=seed, name=f"placebo {seed}") for seed in range(1, 21)]
    asked = {"text": [("tell me.", "we saw a dog.")] * 6, "openings": ["we saw a"]}
    found = interp.discover(base, member, **asked, placebos=placebos)
    assert found.methods["token_p"].tolist() == pytest.approx([1 / 21] * 3)
    first = found.tokens.groupby("method").first()
    assert first["p"].tolist() == pytest.approx([1 / 21] * 3)
    assert found.sentences["p"].min() == pytest.approx(1 / 21)
    assert "or tokens or sentences of one way, the smallest 1 / 21" in " ".join(found.notes)
    assert any(line.endswith("(p 0.048)") and "token" in line for line in found.story)
    alone = interp.discover(base, member, **asked)
    assert alone.tokens["p"].isna().all()
    assert alone.sentences["p"].isna().all()
    assert alone.methods["token_p"].isna().all()
    assert alone.sentences["nats"].tolist() == found.sentences["nats"].tolist()
    assert "no placebo trainings: words, tokens and sentences have no p" in " ".join(alone.notes)
    assert alone.to_json()["tokens"][0]["p"] is None
