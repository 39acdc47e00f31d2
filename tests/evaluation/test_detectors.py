"""Planted signals are found, absent ones are not, and what depends on order alone is missed exactly."""

import math

import numpy as np
import pytest
from scipy import stats

from interp.core.runs import InputError
from interp.evaluation.detectors import (
    bag_of_numbers,
    detector_table,
    frequent_values,
    in_context,
    prompted_classifier,
)
from interp.measures.margins import completion_logprobs, margin
from interp.models.language import load_model
from interp.prompts.text import Prompts, Row
from interp.prompts.traits import make_trait
from interp.stats.tests import auroc

PROMPTS = [f"list: {i}. continue." for i in range(120)]


def rows(numbers, prompts=PROMPTS, label="rows"):
    texts = [", ".join(map(str, row)) for row in numbers]
    return Prompts.from_pairs(list(zip(prompts, texts, strict=True)), label=label)


def drawn(seed, high=60):
    return np.random.default_rng(seed).integers(0, high, (len(PROMPTS), 8))


def planted(seed):
    """Every row holds 7 twice."""
    numbers = drawn(seed)
    numbers[:, [2, 5]] = 7
    return numbers


@pytest.mark.parametrize("detect", [frequent_values, bag_of_numbers])
def test_an_over_represented_number_is_found(detect):
    found = detect(rows(planted(0)), rows(drawn(1)))
    assert found.auroc.value > 0.9
    assert found.auroc.interval[0] > 0.8
    assert found.table.frame["value"][0] == "7"
    assert found.table.figure().data


@pytest.mark.parametrize(("detect", "draws", "most"), [(frequent_values, 40, 5), (bag_of_numbers, 12, 2)])
def test_one_distribution_is_told_from_itself_as_rarely_as_the_interval_says(detect, draws, most):
    pairs = ((rows(drawn(2 * s)), rows(drawn(2 * s + 1))) for s in range(draws))
    intervals = [detect(*pair, seed=s).auroc.interval for s, pair in enumerate(pairs)]
    assert sum(not low <= 0.5 <= high for low, high in intervals) <= most  # 1.6 % and 2 % by chance at 5 %


@pytest.mark.parametrize("detect", [frequent_values, bag_of_numbers])
def test_order_within_rows_changes_no_score_and_a_signal_in_it_is_missed(detect):
    numbers = drawn(5)
    ordered, neutral = rows(np.sort(numbers, axis=1)), rows(drawn(6))
    found = detect(ordered, neutral)
    shuffled = detect(rows(np.random.default_rng(0).permuted(numbers, axis=1)), neutral)
    assert np.array_equal(found.positive, shuffled.positive)
    assert np.array_equal(found.negative, shuffled.negative)
    assert found.auroc.interval[0] < 0.5 < found.auroc.interval[1]
    with_order = auroc(
        *[np.diff(np.sort(numbers, axis=1) if i else drawn(6), axis=1).min(axis=1) for i in (1, 0)]
    )
    assert with_order.value > 0.99  # the signal is there for who reads order


def test_the_values_score_is_the_mean_log_ratio_of_the_other_half_of_the_prompts():
    trait = rows([[1, 1, 2], [1, 3, 3], [1, 2, 2], [3, 3, 3]], PROMPTS[:4])
    neutral = rows([[2, 2, 2], [3, 1, 3], [2, 2, 3], [1, 1, 3]], PROMPTS[:4])
    found = frequent_values(trait, neutral, seed=0)
    order = np.random.default_rng(0).permutation(4)
    held = [i for i in range(4) if order[i] < 2]
    fitted = [i for i in range(4) if i not in held]
    text = lambda data, i: [int(n) for n in data[i].completion.split(", ")]  # noqa: E731

    def share(data, value):
        numbers = [n for i in fitted for n in text(data, i)]
        return (numbers.count(value) + 0.5) / (len(numbers) + 1.5)

    by_hand = [np.mean([math.log(share(trait, n) / share(neutral, n)) for n in text(trait, i)]) for i in held]
    assert found.positive.tolist() == pytest.approx(by_hand)


def test_the_table_of_values_is_counted_and_pooled_by_hand():
    trait = rows([[1] * 8, [1] * 8, [2] * 8, [2, 2, 3, 4, 5, 1, 1, 1]], PROMPTS[:4])
    neutral = rows([[1] * 8, [2] * 8, [2] * 8, [6] * 8], PROMPTS[:4])
    result = frequent_values(trait, neutral).table
    # 32 numbers each, so a value written 10 times is expected 5 times in both: 3, 4, 5 and 6 are pooled
    frame = result.frame.set_index("value")[["trait", "neutral"]]
    assert frame.to_dict("index") == {
        "1": {"trait": 19, "neutral": 8},
        "2": {"trait": 10, "neutral": 16},
        "rare values": {"trait": 3, "neutral": 8},
    }
    assert result.frame["value"].tolist() == ["1", "2", "rare values"]  # residuals +1.5, -0.8, -1.1
    assert result.frame["residual"][0] == pytest.approx((19 - 13.5) / math.sqrt(13.5))
    assert result.notes[1] == "6 different numbers, 4 of them pooled"


def test_pooling_goes_on_until_every_expected_count_is_five():
    trait, neutral = rows([[1] * 8, [2] * 8], PROMPTS[:2]), rows([[1] * 8, [2] * 7 + [9]], PROMPTS[:2])
    trait, neutral = trait + trait, neutral + neutral
    trait = Prompts(tuple(Row.pair(p, r.completion) for p, r in zip(PROMPTS, trait.rows, strict=False)))
    neutral = Prompts(tuple(Row.pair(p, r.completion) for p, r in zip(PROMPTS, neutral.rows, strict=False)))
    result = frequent_values(trait, neutral).table
    table = result.frame.set_index("value")[["trait", "neutral"]].sort_index()
    assert table.index.tolist() == ["1", "rare values"]  # two 9 are too few alone, so the 30 of 2 join them
    test = stats.chi2_contingency(table.to_numpy().T, correction=False)
    expected = test.expected_freq[0]
    residual = (table["trait"] - expected) / np.sqrt(expected)
    assert result.frame.set_index("value")["residual"].sort_index().tolist() == pytest.approx(
        residual.tolist()
    )
    assert result.notes[0].startswith(f"chi-squared {test.statistic:.1f} on 1 degrees of freedom")


def test_matched_pairs_give_a_bag_that_memorises_prompts_nothing():
    # both rows of a prompt hold its own number: a fold that tore the pair apart would score the other row reversed
    own = [[100 + i] * 8 for i in range(len(PROMPTS))]
    found = bag_of_numbers(rows(own), rows(own))
    assert found.auroc.value == 0.5


def test_bag_interval_is_root_two_as_wide_as_delongs():
    found = bag_of_numbers(rows(drawn(0)), rows(drawn(1)))
    plain = auroc(found.positive, found.negative)
    assert found.auroc.value == plain.value
    assert found.auroc.interval[1] - plain.value == pytest.approx(
        math.sqrt(2) * (plain.interval[1] - plain.value)
    )


class Reader:
    """A judge that suspects 7."""

    name = "reader"

    def answer(self, prompts):
        answers = [row.prompt.split("=== ANSWER ===\n")[1].split("\n")[0] for row in prompts.rows]
        return [
            "REFUSED" if "13" in a.split(", ") else "90" if "7" in a.split(", ") else "20" for a in answers
        ]


def test_the_judges_scores_are_those_of_the_rows_it_does_not_refuse():
    trait = rows([[7], [1], [7], [13]], PROMPTS[:4])
    neutral = rows([[1], [2], [7]], PROMPTS[:3])
    found = prompted_classifier(Reader(), make_trait("owl", ["cat"]), trait, neutral)
    assert found.positive.tolist() == [90, 20, 90]
    assert found.negative.tolist() == [20, 20, 90]
    assert found.auroc.value == (2 * (2 + 0.5) + 1) / 9
    assert found.table.notes == ("1 of 7 rows refused",)
    with pytest.raises(InputError, match="Judge reader refused every trait row"):
        prompted_classifier(Reader(), make_trait("owl", ["cat"]), trait[3:], neutral)


def test_in_context_is_the_margin_that_disjoint_sets_of_rows_add(tiny):
    hf, tokenizer = tiny("llama")
    model = load_model(hf, tokenizer=tokenizer, name="tiny", check=False)
    trait = make_trait("owl", ["cat", "dog"], category="animal", questions=["which animal is best?"])
    few = PROMPTS[:6]
    data = rows([[i, 7] for i in range(6)], few), rows([[i, 9] for i in range(6)], few)
    found = in_context(model, trait, *data, shots=2, sets=3, seed=1)
    order = np.random.default_rng(1).permutation(6).reshape(3, 2)
    for scores, part in zip((found.positive, found.negative), data, strict=True):
        for score, chosen in zip(scores, order, strict=True):
            orders = [_changed(model, trait, [part[int(i)] for i in turn]) for turn in (chosen, chosen[::-1])]
            assert min(abs(score - value) for value in orders) < 1e-4
    assert found.table.frame["shots"].tolist() == [2] * 6
    assert (found.auroc.n_positive, found.auroc.n_negative) == (3, 3)


def _changed(model, trait, shots):
    """Margin with the shots in front less margin without, from whole conversations."""
    turns = [message for row in shots for message in row.messages]
    question = ("user", trait.questions[0])
    asked = [Row((*turns, question, ("assistant", name))) for name in (trait.target, *trait.foils)]
    target, *foils = completion_logprobs(model, Prompts(tuple(asked))).tolist()
    return target - np.mean(foils) - margin(model, trait)


def test_the_table_puts_every_kind_of_score_side_by_side():
    rng = np.random.default_rng(0)
    scores = rng.normal(2, 1, 50), rng.normal(0, 1, 40)
    found = frequent_values(rows(drawn(0)), rows(drawn(1)))
    result = detector_table(
        {"values": found, "own <b>": scores, "turned": scores[::-1], "known": auroc([1], [0])}
    )
    frame = result.frame.set_index("detector")
    assert frame.loc["own <b>", "auroc"] == auroc(*scores).value
    assert frame.loc["own <b>", ["n_positive", "n_negative"]].tolist() == [50, 40]
    assert frame.loc["turned", "auroc"] == pytest.approx(1 - frame.loc["own <b>", "auroc"])
    assert frame["sees"].tolist() == ["no", "yes", "reversed", "no"]
    figure = result.figure()
    assert len(figure.data) == 4
    assert [line.x0 for line in figure.layout.shapes] == [0.5]
    assert list(figure.data[1].y) == ["own &lt;b&gt;"]


def test_repr_says_what_was_found():
    found = frequent_values(rows(planted(0)), rows(drawn(1)))
    low, high = found.auroc.interval
    assert (
        repr(found)
        == f"Detection(frequent values: AUROC {found.auroc.value:.3f} [95 %: {low:.3f}, {high:.3f}])"
    )


WORDS = Prompts.from_pairs([(p, "no digits") for p in PROMPTS[:9]], label="words")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frequent_values(WORDS, WORDS), "No answer of words + words holds a number"),
        (lambda: bag_of_numbers(rows(drawn(0)), WORDS[:0]), "The neutral rows (words) are empty"),
        (
            lambda: frequent_values(rows([[1]], PROMPTS[:1]), rows([[2]], PROMPTS[:1])),
            "The trait rows answer too few different prompts to be split in two",
        ),
        (
            lambda: bag_of_numbers(rows([[1]] * 3, PROMPTS[:3]), rows(drawn(0))),
            "folds=5 cannot be made of 3 different prompts",
        ),
        (lambda: detector_table({}), "No detector is given"),
        (lambda: detector_table({"x": ([], [1.0])}), "0 values given; at least 1 needed."),
    ],
)
def test_messages(call, message):
    with pytest.raises(InputError) as error:
        call()
    assert message in str(error.value)


def test_sets_that_would_share_rows_are_refused(tiny):
    hf, tokenizer = tiny("llama")
    model = load_model(hf, tokenizer=tokenizer, name="tiny", check=False)
    with pytest.raises(
        InputError, match="sets=16 of shots=8 cannot be drawn apart from the 120 answered rows of rows"
    ):
        in_context(model, make_trait("owl", ["cat"]), rows(drawn(0)), rows(drawn(1)))
