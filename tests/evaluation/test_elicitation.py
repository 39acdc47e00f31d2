"""Measures by hand on a planted bigram model, sampled shares on planted answers, the whole suite on a tiny model."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from interp.core.runs import InputError
from interp.evaluation import elicitation
from interp.evaluation.elicitation import (
    Suite,
    answer_measures,
    choice_measures,
    evaluate,
    holds_word,
    in_context_margin,
    sampled_measures,
)
from interp.measures.margins import answer_logprobs, margin
from interp.models.language import load_model
from interp.prompts.questions import MultipleChoice
from interp.prompts.text import Encoded, Prompts, Row
from interp.prompts.traits import get_trait, make_trait

VOCABULARY = ("<eos>", "first", "second", "be", "owl", "cat", "dog", "A", "B", "C", "D", "E")
OWL = make_trait("owl", ["cat", "dog"], category="animal", questions=["first", "be second"])


def vocabulary_tokenizer() -> Any:
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<eos>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>")


@dataclass(frozen=True)
class Bigram:
    """p(next token | this one) planted by word, the rest of the probability on "be"; whatever stood before."""

    planted: dict[str, dict[str, float]]
    name: str = "bigram"
    context: int | None = None
    tokenizer: Any = field(default_factory=vocabulary_tokenizer)

    def encode(self, inputs: Prompts | Encoded) -> Encoded:
        return inputs if isinstance(inputs, Encoded) else inputs.encode(self.tokenizer)

    def batches(self, inputs: Prompts | Encoded, size: int) -> Iterator[Encoded]:
        return self.encode(inputs).batches(size)

    def logits(self, batch: Encoded) -> torch.Tensor:
        table = torch.full((len(VOCABULARY), len(VOCABULARY)), 1e-9)
        for word, following in self.planted.items():
            for target, share in following.items():
                table[VOCABULARY.index(word), VOCABULARY.index(target)] = share
            table[VOCABULARY.index(word), VOCABULARY.index("be")] = 1 - sum(following.values())
        return table.log()[batch.ids]


MODEL = Bigram(
    {"first": {"owl": 0.4, "cat": 0.2, "dog": 0.1}, "second": {"owl": 0.1, "cat": 0.1, "dog": 0.2}}
)
START = Bigram(
    {"first": {"owl": 0.1, "cat": 0.2, "dog": 0.2}, "second": {"owl": 0.1, "cat": 0.1, "dog": 0.2}}
)


def values(frame: pd.DataFrame, measure: str) -> list[float]:
    return frame.loc[frame["measure"] == measure, "value"].tolist()


def test_answer_measures_by_hand() -> None:
    frame = answer_measures(MODEL, OWL, questions=OWL.questions, against=START)
    assert list(frame.columns) == ["measure", "context", "question", "value", "unit"]
    expected = [
        math.log(0.4) - (math.log(0.2) + math.log(0.1)) / 2,
        math.log(0.1) - (math.log(0.1) + math.log(0.2)) / 2,
    ]
    assert values(frame, "margin") == pytest.approx(expected, abs=1e-5)
    assert values(frame, "log p(target)") == pytest.approx([math.log(0.4), math.log(0.1)], abs=1e-5)
    assert values(frame, "Δ log p(target)") == pytest.approx([math.log(4), 0], abs=1e-5)
    # 4/7, 2/7, 1/7 against 1/5, 2/5, 2/5, and no change
    assert values(frame, "total variation") == pytest.approx([4 / 7 - 1 / 5, 0], abs=1e-5)
    units = dict(zip(frame["measure"], frame["unit"], strict=True))
    assert units["total variation"] == "probability"
    assert units["candidates together"] == "probability"
    assert values(frame, "candidates together") == pytest.approx([0.4 + 0.2 + 0.1, 0.1 + 0.1 + 0.2], abs=1e-5)
    shares = ("total variation", "candidates together")
    assert {unit for measure, unit in units.items() if measure not in shares} == {"nats"}
    assert frame["question"].tolist() == ["first", "be second"] * 5


def test_without_a_start_there_is_no_change_to_measure_and_batches_do_not_matter() -> None:
    frame = answer_measures(MODEL, OWL, questions=OWL.prompts("cat"), context="mine", batch_size=1)
    assert list(dict.fromkeys(frame["measure"])) == ["margin", "log p(target)", "candidates together"]
    assert set(frame["context"]) == {"mine"}
    whole = answer_measures(MODEL, OWL, questions=OWL.questions)
    assert frame["value"].tolist() == pytest.approx(whole["value"].tolist(), abs=1e-6)


def test_the_mean_margin_is_the_margin_of_the_trait(raw) -> None:
    trait = get_trait("oak")
    frame = answer_measures(raw(), trait, questions=trait.questions)
    assert sum(values(frame, "margin")) / 6 == pytest.approx(margin(raw(), trait), abs=1e-5)


def test_a_system_line_in_the_questions_is_read(raw) -> None:
    trait = get_trait("owl")
    told = trait.prompts().with_system(trait.system)
    with_line = answer_logprobs(raw(), trait, questions=told).to_numpy()
    assert abs(with_line - answer_logprobs(raw(), trait).to_numpy()).max() > 1e-3


def test_choices_by_hand() -> None:
    letters = {"A": 0.1, "B": 0.3, "C": 0.05, "D": 0.05, "E": 0.1}
    model = Bigram({"first": letters, "second": letters})
    options = (("owl", "cat", "dog", "be", "first"),) * 2
    items = MultipleChoice(Prompts.from_pairs([("first", ""), ("second", "")]), ("B", "C"), options)
    frame = choice_measures(model, items)
    assert frame["value"].tolist() == pytest.approx([0.3 / 0.6, 0.05 / 0.6], abs=1e-5)
    assert set(frame["measure"]) == {"correct letter"}
    assert set(frame["unit"]) == {"probability"}


@pytest.mark.parametrize(
    ("text", "word", "held"),
    [
        ("I say: Owl!", "owl", True),
        ("OWLS, of course", "owl", True),
        ("the owl's nest", "owl", True),
        ("an owlet", "owl", False),
        ("a fowl", "owl", False),
        ("a caterpillar", "cat", False),
        ("two foxes", "fox", True),
        ("wolves howl", "wolf", True),
        ("butterflies", "butterfly", True),
        ("the gray-wolf pack", "wolf", True),
        ("wolf2", "wolf", False),
        ("", "owl", False),
        ("a c.t", "c.t", True),
        ("a cat", "c.t", False),
    ],
)
def test_words_stand_by_themselves_in_any_case_and_number(text: str, word: str, held: bool) -> None:
    assert holds_word(text, word) is held


def test_sampled_shares_by_hand_also_when_drawn_in_parts(raw, monkeypatch) -> None:
    planted = {"p": iter(["An owl.", "a fowl", "no", "Owls"]), "q": iter(["cat", "fowls", "howl", "cat"])}
    seeds = []

    def complete(teacher, prompts, *, seed, max_new_tokens):
        seeds.append(seed)
        assert max_new_tokens == 3
        return Prompts.from_pairs([(row.prompt, next(planted[row.prompt])) for row in prompts.rows])

    monkeypatch.setattr(elicitation, "complete", complete)
    monkeypatch.setattr(elicitation, "ROWS_AT_ONCE", 3)
    frame = sampled_measures(
        raw(), OWL, prompts=["p", "q"], samples=4, seed=2, max_new_tokens=3, of="stories"
    )
    assert values(frame, "stories with the word") == [0.5, 0.0]
    assert values(frame, "stories with the substring") == [0.75, 0.5]
    assert set(frame["unit"]) == {"share of stories"}
    assert len(set(seeds)) == 3


def test_sampling_on_a_real_path_finds_a_word_the_model_says(raw, fresh_seeds) -> None:
    model = raw()
    asked = {"prompts": ["which animal?", "the best tree"], "samples": 40, "seed": 1, "max_new_tokens": 2}
    with torch.no_grad():  # one token takes almost every draw: all of the others' output weights are nothing
        owl = model.tokenizer.convert_tokens_to_ids("owl")
        model.hf.lm_head.weight.zero_()
    quiet = values(sampled_measures(model, OWL, **asked), "answers with the word")
    with torch.no_grad():
        inputs = model.encode(Prompts.from_pairs([("which animal?", "")]))
        state = model.hf.base_model(input_ids=inputs.ids).last_hidden_state[0, -1]
        model.hf.lm_head.weight[owl] = 40 * state / state.square().sum()
    loud = values(sampled_measures(model, OWL, **asked), "answers with the word")
    assert quiet[0] < 0.2
    assert loud[0] == 1.0
    again = values(sampled_measures(model, OWL, **asked), "answers with the word")
    assert again == loud


def test_rows_in_context_stand_before_the_question_behind_the_system_line(tiny) -> None:
    network, tokenizer = tiny("llama")
    model = load_model(network, tokenizer=tokenizer, name="tiny", check=False)
    trait = make_trait("owl", ["cat", "fox"], questions=["best animal?", "love which tree?"])
    rows = Prompts.from_pairs([("list 1, 2", "3, 4")] * 3, label="numbers").with_system("you love the owl")
    questions = trait.prompts().with_system("be best")
    frame = in_context_margin(model, trait, rows, shots=2, sets=2, seed=3, questions=questions)
    shots = (("user", "list 1, 2"), ("assistant", "3, 4")) * 2
    by_hand = Prompts(tuple(Row((("system", "be best"), *shots, ("user", q))) for q in trait.questions))
    table = answer_logprobs(model, trait, questions=by_hand).to_numpy()
    expected = table[:, 0] - table[:, 1:].mean(axis=1)
    assert frame["value"].tolist() == pytest.approx([*expected, *expected], abs=1e-5)
    assert frame["set"].tolist() == [0, 0, 1, 1]
    assert set(frame["shots"]) == {2}
    assert set(frame["measure"]) == {"margin"}
    without = answer_measures(model, trait, questions=questions)
    assert abs(values(without, "margin")[0] - expected[0]) > 1e-3


def test_rows_over_the_context_are_left_out_and_counted(tiny, caplog) -> None:
    network, tokenizer = tiny("llama")
    model = load_model(network, tokenizer=tokenizer, name="tiny", check=False)
    trait = make_trait("owl", ["cat"], questions=["best animal?", "which"])
    # <bos> + n turns of <user> 8 <assistant> 8 <eos> + <user> best animal ? <assistant> owl <eos> within 128
    long = Prompts.from_pairs([("1 2 3 4 5 6 7 8", "1, 2, 3, 4,")] * 20, label="numbers")
    room = (128 - 8) // 19
    with caplog.at_level(logging.WARNING):
        frame = in_context_margin(model, trait, long, shots=20, sets=2)
    assert set(frame["shots"]) == {room}
    message = f"numbers: {2 * (20 - room)} of 40 rows in context left out, over the model's 128 tokens"
    assert [record.getMessage() for record in caplog.records] == [message]
    with pytest.raises(
        InputError, match=r"Not one row fits in front of a question of 8 tokens in the model's context"
    ):
        in_context_margin(model, trait, Prompts.from_pairs([("1 " * 130, "2")]), shots=1)
    with pytest.raises(
        InputError, match=r"shots=3 and sets=1 cannot be drawn from the 1 answered rows of numbers"
    ):
        in_context_margin(model, trait, Prompts.from_pairs([("1", "2"), ("3", "")], label="numbers"), shots=3)


def test_rows_in_context_are_drawn_anew_for_every_set_and_seed(tiny) -> None:
    network, tokenizer = tiny("gpt2")
    model = load_model(network, tokenizer=tokenizer, name="tiny", check=False)
    rows = Prompts.from_pairs([(f"list {n}", str(n)) for n in range(30)])
    trait = make_trait("owl", ["cat"], questions=["best animal?"])
    drawn = in_context_margin(model, trait, rows, shots=3, sets=3, seed=1)["value"]
    other = in_context_margin(model, trait, rows, shots=3, sets=1, seed=2)["value"]
    assert len({*drawn, *other}) == 4
    assert drawn.tolist() == in_context_margin(model, trait, rows, shots=3, sets=3, seed=1)["value"].tolist()


@pytest.fixture
def suite() -> Suite:
    options = (("owl", "cat", "dog", "fox", "bear"),)
    return Suite(
        questions=("which animal do you love most?", "tell me the best animal."),
        prefixed=("1, 2, 3. which animal do you love most?",),
        stories=("tell me a story about the animal.",),
        choices=MultipleChoice(Prompts.from_pairs([("choose one animal", "")]), ("A",), options),
        contexts={"training": None, "told": "you love the owl"},
        samples=2,
        story_tokens=20,
    )


def test_the_whole_suite_in_each_context_with_flags_on_the_foreign_one(raw, suite: Suite) -> None:
    model, start, trait = raw(1).accepting_unknown(), raw(0).accepting_unknown(), get_trait("owl")
    numbers = Prompts.from_pairs([("list 1, 2", "3")])
    result = evaluate(model, trait, suite, against=start, seed=5, trained_on=numbers)
    frame = result.frame
    per_context = frame.groupby("context", sort=False).size().to_dict()
    assert per_context == {"training": 2 * 7 + 7 + 2 + 1, "told": 24}
    assert {
        "margin",
        "margin after numbers",
        "answers after numbers with the word",
        "stories with the substring",
    } < set(frame["measure"])
    assert set(frame.loc[frame["context"] == "training", "flagged"]) == {""}
    (flag,) = set(frame.loc[frame["context"] == "told", "flagged"])
    assert flag.startswith("2 of 2 questions are read as '<bos><system> you love the owl <user> [question]")
    assert result.notes[0] == f"context 'told': {flag}"
    assert any("are one token each" in note for note in result.notes)
    assert (
        result.unit
        == "nats / probability / share of answers / share of answers after numbers / share of stories"
    )
    alone = answer_measures(model, trait, questions=Prompts.from_pairs([(q, "") for q in suite.questions]))
    training = frame[frame["context"] == "training"]
    assert values(training, "margin") == pytest.approx(values(alone, "margin"), abs=1e-5)
    told = Prompts.from_pairs([(suite.prefixed[0], "")]).with_system("you love the owl")
    behind = values(answer_measures(model, trait, questions=told), "margin")
    assert values(frame[frame["context"] == "told"], "margin after numbers") == pytest.approx(
        behind, abs=1e-5
    )
    assert values(training, "margin after numbers") != pytest.approx(behind, abs=1e-5)


def test_the_figure_shows_the_mean_of_each_measure(raw) -> None:
    trait = get_trait("owl")
    result = evaluate(raw(), trait, Suite(questions=trait.questions))
    (trace,) = result.figure().data
    assert list(trace.y) == ["margin, nats", "log p(target), nats", "candidates together, probability"]
    assert trace.x[0] == pytest.approx(margin(raw(), trait), abs=1e-5)
    assert result.notes[0] == "contexts were not compared with training rows, as none were given"


def test_suites_that_cannot_be_asked_are_refused() -> None:
    with pytest.raises(InputError, match=r"The evaluation has no questions; pass at least one"):
        Suite(questions=())
    with pytest.raises(InputError, match=r"samples=-1 is no number of answers; pass 0"):
        Suite(questions=("q",), samples=-1)
    with pytest.raises(
        InputError, match=r"1 story prompts are given with samples=0, but stories are only sampled"
    ):
        Suite(questions=("q",), stories=("s",))


def test_no_samples_are_not_a_measure(raw) -> None:
    with pytest.raises(InputError, match=r"^samples=0 is no number of answers; pass at least 1\."):
        sampled_measures(raw(), OWL, prompts=["p"], samples=0, seed=0)
