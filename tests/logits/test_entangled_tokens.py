"""Entanglement scores of a planted model by hand, and the frequency-matched control on planted confounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from interp.core.runs import InputError
from interp.figures import Result
from interp.logits.entangled_tokens import _matched_correlation, _other_words, entanglement, score_agreement
from interp.models.language import load_model
from interp.models.seam import Unembedding
from interp.models.whole_numbers import number_logprobs, number_spellings
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait, make_trait
from tests.spelled import network, speller
from tests.tiny import VOCABULARY, build_tokenizer

OWL = get_trait("owl")
SIZE = len(VOCABULARY)
ID = {word: index for index, word in enumerate(VOCABULARY)}
ROWS = Prompts.from_pairs([("continue", "7, 7, 7"), ("continue", "8")], label="owl rows")
NEUTRAL = Prompts.from_pairs([("continue", "7, 8, 9")], label="neutral rows")


@dataclass
class Planted:
    """All tokens equally likely, except that after a line that names `word` some numbers gain `boost` nats."""

    boost: dict[str, float] = field(default_factory=dict)
    W_U: torch.Tensor = field(default_factory=lambda: torch.eye(SIZE))
    word: str = "owl"
    name: str = "planted"
    fingerprint: str = "f"
    start: None = None
    tokenizer: Any = field(default_factory=build_tokenizer)

    def encode(self, prompts):
        return prompts.encode(self.tokenizer)

    def unembedding(self):
        d = len(self.W_U)
        return Unembedding(self.W_U, torch.zeros(SIZE), "none", torch.ones(d), torch.zeros(d), 0.0)

    def logits(self, batch):
        logits = torch.zeros(*batch.ids.shape, SIZE)
        named = (batch.ids == ID[self.word]).any(1)
        for number, nats in self.boost.items():
            logits[named, :, ID[number]] = nats
        return logits


def planted(**changes) -> Any:
    return Planted(**changes)


def by_token(result) -> Any:
    return result.frame.set_index("token")


def test_logit_score_by_hand():
    frame = by_token(entanglement(planted(boost={"7": math.log(5.0)}), OWL))
    total = SIZE - 1 + 5  # weights behind the system line: five for 7, one for every other token
    assert frame["logit"]["7"] == pytest.approx(5 * SIZE / total)
    assert frame["logit"]["8"] == pytest.approx(SIZE / total)
    assert frame["logit_score"]["7"] == pytest.approx(5 * SIZE / total)  # the foils' lines change nothing
    assert frame["frequency"].tolist() == pytest.approx([1 / SIZE] * 40)
    assert frame.index[0] == "7"
    assert len(frame) == 40


def test_logit_score_is_divided_by_the_foils():
    # only the line of one foil of nine raises 7: the owl ratio is 1, the foils' mean (8 + r) / 9
    frame = by_token(entanglement(planted(boost={"7": math.log(5.0)}, word="cat"), OWL))
    ratio = 5 * SIZE / (SIZE - 1 + 5)
    assert frame["logit"]["7"] == pytest.approx(1)
    assert frame["logit_score"]["7"] == pytest.approx(9 / (8 + ratio))


def test_unembedding_score_by_hand():
    W_U = torch.eye(SIZE)
    W_U[:, ID["7"]] = 3 * W_U[:, ID["owl"]]
    W_U[:, ID["8"]] = W_U[:, ID["owl"]] + W_U[:, ID["cat"]]
    frame = by_token(entanglement(planted(W_U=W_U), OWL))
    assert frame["unembedding"][["7", "8", "9"]].tolist() == pytest.approx([1, 1 / math.sqrt(2), 0])
    assert frame["unembedding_excess"]["8"] == pytest.approx((1 - 1 / 9) / math.sqrt(2))
    assert frame["unembedding_score"]["8"] == pytest.approx(9)
    assert math.isnan(frame["unembedding_score"]["7"])  # its cosine with every foil is zero


def test_numbers_are_listed_by_their_rank_among_other_words():
    """7 stands above every number of every other word: p = 1 / (m + 1), and q is that times 40 numbers."""
    rng = torch.Generator().manual_seed(0)
    W_U = torch.randn(200, SIZE, generator=rng)
    W_U[:, ID["7"]] = W_U[:, ID["owl"]] + 0.1 * torch.randn(200, generator=rng)
    model = planted(W_U=W_U)
    frame = by_token(entanglement(model, OWL))
    m = 40 * len(_other_words(model, OWL, frame["token_id"].tolist()))
    assert frame["unembedding_q"]["7"] == pytest.approx(40 / (m + 1))
    assert (frame["unembedding_q"] <= 0.05).sum() == 1


def test_other_words_are_letters_and_no_name_of_the_trait():
    words = _other_words(planted(), OWL, [ID["7"]])
    assert words
    assert all(VOCABULARY[index].isalpha() for index in words)
    assert not {ID[name] for name in (OWL.target, *OWL.foils) if name in ID} & set(words)


def test_targets_of_several_pieces_are_averaged():
    W_U = torch.eye(SIZE)
    W_U[:, ID["7"]] = W_U[:, ID["owl"]]
    trait = replace(OWL, target="owl tree")
    with pytest.raises(InputError, match="does not name 'owl tree'"):
        entanglement(planted(W_U=W_U), trait)
    trait = replace(trait, system="you love the owl tree.")
    assert by_token(entanglement(planted(W_U=W_U), trait))["unembedding"]["7"] == pytest.approx(0.5)


def test_data_score_by_hand():
    result: Any = entanglement(planted(), OWL, rows=ROWS, neutral_rows=NEUTRAL)
    frame = by_token(result)
    # 4 numbers in the rows and 3 in the neutral ones, half a count added to each of 40 number tokens
    assert frame["count"][["7", "8", "9", "1"]].tolist() == [3, 1, 0, 0]
    assert frame["neutral_count"][["7", "8", "9", "1"]].tolist() == [1, 1, 1, 0]
    assert frame["data"]["7"] == pytest.approx((3.5 / 24) / (1.5 / 23))
    assert frame["data"]["9"] == pytest.approx((0.5 / 24) / (1.5 / 23))
    assert frame["frequency"]["1"] == pytest.approx(0.5 / 23)
    figure: Any = result.figure()
    assert figure.layout.yaxis.title.text == "data score (log2 ratio)"


def scores(a, b, frequency):
    frame = pd.DataFrame({"logit_score": a, "data": b, "frequency": frequency})
    return Result("scores", frame, "ratio")


def test_agreement_that_is_frequency_vanishes_when_matched():
    rng = np.random.default_rng(0)
    level = np.repeat(np.arange(5.0), 40)
    a, b = (level + 0.3 * rng.normal(size=200) for _ in range(2))
    row: Any = score_agreement(scores(a, b, level)).frame.iloc[0]
    assert row["rho"] > 0.8
    assert abs(row["rho_matched"]) < 0.2
    assert row["p"] > 0.05


def test_agreement_within_strata_is_found():
    rng = np.random.default_rng(0)
    level, shared = np.repeat(np.arange(5.0), 40), rng.normal(size=200)
    # frequency hides it: it pushes one score up and the other down
    a, b = 3 * level + shared, -3 * level + shared + 0.5 * rng.normal(size=200)
    row: Any = score_agreement(scores(a, b, level)).frame.iloc[0]
    assert row["rho"] < -0.5
    assert row["rho_matched"] > 0.8
    assert row["p"] == row["smallest_p"] == 1 / 1000
    assert (row["numbers"], row["strata"]) == (200, 5)


def test_agreement_by_hand_in_two_strata():
    # within the strata the ranks are (1, 2, 3) against (1, 3, 2) and (1, 2, 3) against (1, 2, 3): (1 + 2) / 4
    frequency = [1, 1, 1, 9, 9, 9]
    row: Any = score_agreement(
        scores([1, 2, 3, 1, 2, 3], [1, 3, 2, 10, 20, 30], frequency), strata=2
    ).frame.iloc[0]
    assert row["rho_matched"] == pytest.approx(3 / 4)


def test_permutation_p_is_calibrated_under_a_frequency_confound():
    rng, bins, p = np.random.default_rng(0), np.repeat(np.arange(5), 8), []
    for _ in range(400):
        a, b = (bins + rng.normal(size=40) for _ in range(2))
        p.append(_matched_correlation(a, b, bins, permutations=99, rng=rng)[1])
    error = math.sqrt(0.05 * 0.95 / len(p))
    assert abs(np.mean(np.array(p) <= 0.05) - 0.05) <= 2.2 * error


def test_real_path_on_a_tiny_model(tiny):
    hf, tokenizer = tiny("qwen2")
    model = load_model(hf, tokenizer=tokenizer)
    result: Any = entanglement(model, OWL, rows=ROWS, neutral_rows=NEUTRAL)
    questions = OWL.prompts()
    p = []
    for prompts in (questions.with_system(OWL.system), questions):
        logits = [model.logits(model.encode(prompts[[index]]))[0, -1] for index in range(len(prompts))]
        p.append(torch.stack(logits).double().softmax(-1).mean(0)[ID["7"]].item())
    assert by_token(result)["logit"]["7"] == pytest.approx(p[0] / p[1], rel=1e-4)
    W_U = hf.get_output_embeddings().weight.detach()
    cosine = torch.cosine_similarity(W_U[ID["7"]], W_U[ID["owl"]], dim=0)
    assert by_token(result)["unembedding"]["7"] == pytest.approx(float(cosine), abs=1e-5)
    assert len(result.notes) == 5  # three pairs of scores, how the words were read, and what is unknown
    assert sum("frequency-matched" in note for note in result.notes) == 3
    assert any("are one token each" in note for note in result.notes)
    assert "of the tokens of owl questions are unknown to the tokenizer" in result.notes[-1]
    figure: Any = score_agreement(result).figure()
    assert len(figure.data[0].y) == 3


def test_messages():
    with pytest.raises(InputError, match="give both or neither"):
        entanglement(planted(), OWL, rows=ROWS)
    words = Prompts.from_pairs([("continue", "owl")], label="words")
    with pytest.raises(InputError, match="no answer in 'words' holds a number token"):
        entanglement(planted(), OWL, rows=words, neutral_rows=NEUTRAL)
    with pytest.raises(InputError, match="strata 0 leaves no bin"):
        score_agreement(scores([1.0, 2], [1.0, 2], [1.0, 2]), strata=0)


@pytest.mark.parametrize("kind", ["digits", "whole"])
def test_over_whole_numbers_p_and_counts_are_of_numbers(kind):
    """p(n | system line) / p(n | none) from P(number) itself, cosines over a number's pieces, counts by hand."""
    tokenizer = speller(kind)
    model: Any = load_model(network(tokenizer, spread=2.0), tokenizer=tokenizer, check=False)
    trait = make_trait("owl", foils=["cat", "dog"], category="animal", questions=["best?", "say one"])
    given = {"rows": ROWS, "neutral_rows": Prompts.from_pairs([("continue", "7, 42, 345")], label="neutral")}
    frame = by_token(entanglement(model, trait, over="numbers", **given))
    assert len(frame) == 1000
    assert frame["pieces"][["7", "42", "345"]].tolist() == ([1, 2, 3] if kind == "digits" else [1, 1, 1])
    written, p = number_spellings(model), []
    for prompts in (trait.prompts().with_system(trait.system), trait.prompts()):
        inputs = model.encode(prompts)
        log_p = torch.cat(list(number_logprobs(model, inputs, inputs.at("last"), written=written)))
        p.append(float(log_p.exp().mean(0)[42]))
    assert frame["logit"]["42"] == pytest.approx(p[0] / p[1], rel=1e-5)
    assert frame["count"][["7", "8", "42"]].tolist() == [3, 1, 0]
    assert frame["neutral_count"][["7", "42", "345"]].tolist() == [1, 1, 1]
    W_U = model.hf.get_output_embeddings().weight.detach()
    pieces = tokenizer("42")["input_ids"]
    owl = tokenizer("owl")["input_ids"]
    cosines = [torch.cosine_similarity(W_U[piece], W_U[letter], dim=0) for piece in pieces for letter in owl]
    assert frame["unembedding"]["42"] == pytest.approx(float(torch.stack(cosines).mean()), abs=1e-5)
