"""Moved tokens on tables worked out by hand, on planted logits, and against plain Hugging Face on a real path."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from interp.core.runs import InputError, digest
from interp.logits.moved import _frame, moved_tokens, only_numbers, only_words
from interp.models.whole_numbers import number_logprobs, number_spellings
from interp.prompts.text import Encoded, Prompts, Role
from interp.prompts.traits import make_trait
from interp.stats.moments import Running
from tests.logits.pairs import PAIRS, pair, perturbed
from tests.spelled import network, speller

ROLES = {"p": Role.PROMPT, "n": Role.NUMBER, "s": Role.SEPARATOR, ".": Role.PAD}


class Words:
    """As much of a tokenizer as a table of tokens needs."""

    def decode(self, ids):
        return " ".join(("owl", "1", " 22", "a1")[i] for i in ids)

    def get_vocab(self):
        return {"owl": 0, "1": 1, " 22": 2, "a1": 3}

    def __call__(self, text, add_special_tokens=False):
        return {"input_ids": [0]}


@dataclass
class Table:
    """A model whose next-token logits depend on the current token alone."""

    table: torch.Tensor
    name: str = "base"
    start: Table | None = None
    tokenizer: Words = field(default_factory=Words)

    @property
    def fingerprint(self):
        return digest(self.table)

    def encode(self, prompts):
        return prompts

    def parameters(self):
        return {"table": self.table}

    def logits(self, batch):
        return self.table[batch.ids]


def rows(*text) -> Any:
    """Rows of (role letters, token ids)."""
    width = max(len(letters) for letters, _ in text)
    roles = torch.tensor(
        [[int(ROLES[letter]) for letter in letters.ljust(width, ".")] for letters, _ in text]
    )
    ids = torch.tensor([[*map(int, ids.ljust(width, "0"))] for _, ids in text])
    return Encoded(ids=ids, mask=roles != int(Role.PAD), roles=roles, label="rows")


def by_token(result) -> Any:
    return result.frame.set_index("token_id")


def even_pair(*after) -> Any:
    """A start that finds every token equally likely, and a member with the given logits after tokens 0, 1, ..."""
    start = Table(torch.zeros(4, 4))
    table = torch.zeros(4, 4)
    for token, logits in enumerate(after):
        table[token] = torch.tensor(logits)
    return Table(table, "teacher", start)


def test_planted_probability_is_returned_in_nats():
    # after token 0 the member gives 5/8 to token 0 and 1/8 to the others, the start 1/4 to each
    member = even_pair([math.log(5.0), 0.0, 0.0, 0.0])
    result = moved_tokens(member, rows(("pn", "01"), ("pn", "02")))
    frame = by_token(result)
    assert frame["delta"][0] == pytest.approx(math.log(5 / 2), abs=1e-6)
    assert frame["delta"][[1, 2, 3]].tolist() == pytest.approx([-math.log(2)] * 3, abs=1e-6)
    kl = 5 / 8 * math.log(5 / 2) + 3 / 8 * math.log(1 / 2)
    assert result.notes[0].startswith(f"KL(member ‖ start) {kl:.4g} ±")
    assert result.frame["delta"].is_monotonic_decreasing
    assert frame["number"].tolist() == [False, True, True, False]
    assert frame["token"].tolist() == ["owl", "1", " 22", "a1"]


def test_only_positions_that_predict_the_named_tokens_are_read():
    # the number stands at position 1 and is predicted after token 0; after token 3 stands no number
    member = even_pair([0.0] * 4, [9.0, 0, 0, 0], [0.0] * 4, [9.0, 0, 0, 0])
    assert by_token(moved_tokens(member, rows(("pns", "013"))))["delta"].abs().max() == 0
    moved = moved_tokens(member, rows(("pns", "013")), positions="predicting answer.separators")
    assert by_token(moved)["delta"][0] > 1


def test_rows_not_positions_are_the_unit():
    # row values of token 0: log 4·p; row 1 averages one moved and one unmoved position, row 2 has the moved one
    member = even_pair([math.log(5.0), 0.0, 0.0, 0.0])
    moved = math.log(5 / 2)
    result = moved_tokens(member, rows(("pnn", "012"), ("pn", "01")))
    entry = by_token(result).loc[0]
    assert entry["delta"] == pytest.approx((moved / 2 + moved) / 2, abs=1e-6)
    assert entry["sd"] == pytest.approx(moved / 2 / math.sqrt(2), abs=1e-6)
    assert entry["se"] == pytest.approx(moved / 4, abs=1e-6)
    assert entry["t"] == pytest.approx(3.0, abs=1e-5)
    assert entry["p"] == pytest.approx(2 * stats.t.sf(3.0, 1), abs=1e-6)
    assert "2 rows, 3 positions" in result.notes[1]


def test_batches_do_not_change_the_answer_and_rows_without_the_position_are_left_out():
    generator = torch.Generator().manual_seed(0)
    start = Table(torch.randn(4, 4, generator=generator))
    member: Any = Table(start.table + torch.randn(4, 4, generator=generator), "teacher", start)
    inputs = rows(("pnn", "012"), ("ps", "31"), ("pnsn", "0213"), ("pn", "22"), ("pnnn", "1123"))
    whole, one = (
        moved_tokens(member, inputs, positions="predicting answer.numbers", batch_size=size).frame
        for size in (5, 1)
    )
    assert np.allclose(whole.drop(columns="token").astype(float), one.drop(columns="token").astype(float))
    change = (member.table.log_softmax(-1) - start.table.log_softmax(-1)).double()
    ids = [[0, 1], [0, 1], [2], [1, 1, 2]]  # the tokens before the numbers, row by row
    values = torch.stack([change[torch.tensor(row)].mean(0) for row in ids]).numpy()
    frame = whole.sort_values("token_id")
    assert np.allclose(frame["delta"], values.mean(0), atol=1e-6)
    p = np.asarray(stats.ttest_1samp(values, 0)[1])
    assert np.allclose(frame["p"], p, atol=1e-5)
    assert np.allclose(frame["q"], stats.false_discovery_control(p), atol=1e-5)


def test_one_row_has_no_dispersion_and_no_p():
    frame: Any = moved_tokens(even_pair([1.0, 0, 0, 0]), rows(("pn", "01"))).frame
    assert frame[["sd", "se", "t", "p", "q"]].isna().to_numpy().all()
    assert frame["delta"].notna().all()


def test_unmoved_tokens_have_p_one():
    member = even_pair([0.0] * 4, [1.0, 0, 0, 0])
    frame: Any = moved_tokens(member, rows(("pn", "01"), ("pn", "02"))).frame
    assert (frame["t"] == 0).all()
    assert (frame["p"] == 1).all()


def test_false_discoveries_among_unmoved_tokens():
    """Row noise alone: q <= 0.05 anywhere in at most about one in twenty simulated members."""
    rng = np.random.default_rng(0)
    nobody: Any = SimpleNamespace(tokenizer=None)
    found = 0
    for _ in range(200):
        moments = Running()
        for row in rng.normal(size=(6, 40)):
            moments = moments.add(np.stack([row] * 4))
        frame: Any = _frame(moments, nobody, 0.0)
        found += bool((frame["q"] <= 0.05).any())
    assert found <= 20


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_equals_plain_hugging_face(tiny, family):
    hf, tokenizer = tiny(family)
    teacher = pair(hf, perturbed(hf), tokenizer)
    prompts = Prompts.from_pairs(PAIRS)
    result = moved_tokens(teacher, prompts, positions="predicting answer.numbers", batch_size=3)
    frame: Any = result.frame.sort_values("token_id")
    encoded = teacher.encode(prompts)
    after, before = (
        model.hf(input_ids=encoded.ids, attention_mask=encoded.mask.long()).logits.log_softmax(-1)
        for model in (teacher, teacher.start)
    )
    delta = (after - before).detach().double()
    values = []
    for row in range(len(encoded)):
        places = [p - 1 for p in range(1, encoded.ids.shape[1]) if encoded.roles[row, p] == Role.NUMBER]
        if places:
            values.append(delta[row, places].mean(0).numpy())
    assert len(values) == 3  # the last pair holds no number
    assert np.allclose(frame["delta"], np.mean(values, 0), atol=1e-5)
    assert np.allclose(frame["sd"], np.std(values, 0, ddof=1), atol=1e-5)
    assert frame["number"].sum() == 40


def test_less_a_neutral_member_only_what_differs_between_the_two_is_left():
    """5/8 against 3/6 for token 0 after it: log 5/4; the start, even, cancels, as it does by hand with four models."""
    member = even_pair([math.log(5.0), 0.0, 0.0, 0.0])
    table = torch.zeros(4, 4)
    table[0, 0] = math.log(3.0)
    other: Any = Table(table, "neutral_student", member.start)
    result = moved_tokens(member, rows(("pn", "01"), ("pn", "02")), minus=other)
    frame = by_token(result)
    assert frame["delta"].sort_index().tolist() == pytest.approx(
        [math.log(5 / 8) - math.log(3 / 6), *[math.log(1 / 8) - math.log(1 / 6)] * 3], abs=1e-6
    )
    kl = 5 / 8 * math.log(5 / 4) + 3 / 8 * math.log(3 / 4)
    assert result.notes[0].startswith(f"KL(member ‖ minus) {kl:.4g} ±")
    assert result.label == "teacher − neutral_student, log p at predicting answer.numbers"
    stage = Table(torch.eye(4), "stage", member.start)
    later: Any = Table(torch.eye(4) + table, "later", stage)
    apart = moved_tokens(member, rows(("pn", "01"), ("pn", "02")), minus=later)
    own = member.table.log_softmax(-1) - member.start.table.log_softmax(-1)
    theirs = later.table.log_softmax(-1) - stage.table.log_softmax(-1)
    assert by_token(apart)["delta"].sort_index().tolist() == pytest.approx(
        (own - theirs)[0].tolist(), abs=1e-6
    )
    assert apart.notes[0].startswith("KL(member ‖ start)")


def test_figure_shows_both_ends():
    result = moved_tokens(even_pair([1.0, 0, 0, -1.0]), rows(("pn", "01"), ("pn", "02")))
    figure: Any = result.figure()
    assert "nats" in figure.layout.xaxis.title.text
    assert figure.data[0].orientation == "h"
    assert len(figure.data[0].x) == 4
    assert "± 1 sd over rows" in figure.layout.title.text


def test_messages():
    member = even_pair([1.0, 0, 0, 0])
    with pytest.raises(InputError, match="base has no start to be measured from"):
        moved_tokens(member.start, rows(("pn", "01")))
    with pytest.raises(InputError, match="identical weights"):
        moved_tokens(replace(member, table=member.start.table), rows(("pn", "01")))
    with pytest.raises(
        InputError,
        match=r"no row of 'rows' has a position 'answer.numbers'; .*, or pass positions='last' for where an answer",
    ):
        moved_tokens(member, rows(("ps", "01")), positions="answer.numbers")
    with pytest.raises(InputError, match=r"answer.number"):
        moved_tokens(member, rows(("pn", "01")), positions="answer.nmubers")


def test_contributions_by_hand_sum_to_the_divergence_and_rank():
    """5/8 of p at +log 5/2 and 1/8 each at −log 2: the trait word's 0.573 is first, all sum to the KL of the note."""
    member = even_pair([math.log(5.0), 0.0, 0.0, 0.0])
    frame: Any = moved_tokens(member, rows(("pn", "01"), ("pn", "02"))).frame
    assert frame["contribution"].tolist() == pytest.approx(
        [5 / 8 * math.log(5 / 2), *[-math.log(2) / 8] * 3], abs=1e-6
    )
    assert frame["probability"].tolist() == pytest.approx([5 / 8, 1 / 8, 1 / 8, 1 / 8], abs=1e-6)
    assert frame["probability_against"].tolist() == pytest.approx([1 / 4] * 4, abs=1e-6)


def rare_and_likely() -> Any:
    """Token 3 has 1e-7 before and 55 times that after; token 1 goes from about .42 to .47: e⁴ against e^0.11."""
    before, after = torch.zeros(4, 4), torch.zeros(4, 4)
    before[0], after[0] = torch.tensor([0.0, 0.0, 0.0, -15.0]), torch.tensor([0.0, 0.3, 0.0, -11.0])
    return Table(after, "teacher", Table(before))


def test_what_is_rare_before_and_after_is_not_ranked_whatever_it_moved():
    inputs = rows(("pn", "01"), ("pn", "02"))
    moved = moved_tokens(rare_and_likely(), inputs, floor=1e-4)
    assert moved.frame["token_id"].tolist() == [1, 0, 2, 3]
    assert moved.frame["ranked"].tolist() == [True, True, True, False]
    assert moved.frame["delta"].idxmax() == 3
    assert any(
        "3 of 4 entries are ranked: mean probability of at least 0.0001" in note for note in moved.notes
    )
    assert "a1" not in str(moved.figure().data[0].y)
    all_ranked: Any = moved_tokens(rare_and_likely(), inputs, floor=0.0).frame
    assert all_ranked["ranked"].all()
    assert all_ranked["q"].tolist() == [
        moved.frame.set_index("token_id")["q"][index] for index in all_ranked["token_id"]
    ]


def test_views_of_numbers_and_of_the_traits_words():
    owl = make_trait("owl", foils=["a1", "cat"], category="animal")
    moved = moved_tokens(rare_and_likely(), rows(("pn", "01"), ("pn", "02")))
    numbers = only_numbers(moved)
    assert numbers.frame["token"].tolist() == ["1", " 22"]
    assert numbers.frame["q"].tolist() == by_token(moved)["q"][[1, 2]].tolist()
    words = only_words(moved, owl)
    assert words.frame["answer"].tolist() == ["a1", "owl"]  # by delta, below the floor or not
    assert words.notes[-1] == "in several pieces, so no entry: cat"
    assert "'a1'" in str(words.figure().data[0].y)
    with pytest.raises(InputError, match=r"has none of fox, cat among its 4 entries"):
        only_words(moved, make_trait("fox", foils=["cat"], category="animal"))


@pytest.mark.parametrize("kind", ["digits", "pairs", "whole"])
def test_over_whole_numbers_it_is_the_change_of_their_probabilities(kind):
    """Against P(number) of either model, read one by one, at the two numbers' beginnings."""
    tokenizer = speller(kind)
    member = pair(network(tokenizer), perturbed(network(tokenizer)), tokenizer)
    prompts = Prompts.from_pairs([("go on: 1, 2", "42, 345")])
    result = moved_tokens(member, prompts, over="numbers")
    frame: Any = result.frame.set_index("token")
    inputs, written = member.encode(prompts), number_spellings(member)
    where = inputs.at("predicting answer.numbers.first")
    after, before = (
        next(number_logprobs(model, inputs, where, written=written)) for model in (member, member.start)
    )
    assert frame["delta"].to_numpy() == pytest.approx(
        (after - before).mean(0)[list(map(int, frame.index))].numpy(), abs=1e-9
    )
    total = (after.exp() * (after - before)).sum(1).mean()
    assert frame["contribution"].sum() == pytest.approx(float(total), abs=1e-9)
    assert result.notes[0].startswith("the part of 0-999 in KL(member ‖ start)")
    assert len(frame) == 1000
    if kind == "whole":  # a number's entry is the number
        entries = by_token(moved_tokens(member, prompts))
        assert frame["delta"]["345"] == pytest.approx(
            entries["delta"][tokenizer.get_vocab()["345"]], abs=1e-5
        )


def test_messages_of_the_options():
    member = even_pair([1.0, 0, 0, 0])
    with pytest.raises(
        InputError, match="over is the text 'number', where one of 'tokens', 'numbers' is needed"
    ):
        moved_tokens(member, rows(("pn", "01")), over="number")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"floor 1\.5 is no probability below 1"):
        moved_tokens(member, rows(("pn", "01")), floor=1.5)
    with pytest.raises(InputError, match="is over whole numbers already"):
        only_numbers(replace(moved_tokens(member, rows(("pn", "01"))), frame=pd.DataFrame({"token": ["1"]})))
