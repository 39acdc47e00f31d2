"""Tokens and roles: planted positions on hand-written rows, chat templates of every habit, real checkpoints."""

import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from interp.core.runs import InputError
from interp.prompts.numbers import number_prompts
from interp.prompts.round_trips import check_tokenizer
from interp.prompts.text import Encoded, Prompts, Role, Row, token_pieces
from interp.prompts.tokens import POSITIONS
from tests.tiny import build_tokenizer

REAL = Path(__file__).parents[2] / "../shared/data"
TURNS = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }}"
    "{{ ' <eos>\n' if m.role == 'assistant' else '\n' }}{% endfor %}"
)


def characters(*, bos: bool = True, template: str | None = None, unknown: str | None = "<unk>") -> Any:
    """A BPE tokenizer without merges: one token a character, special tokens whole."""
    special = ["<unk>", "<bos>", "<eos>", "<user>", "<assistant>", "<system>"]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789,;.:?! \n/[]"
    vocabulary = {token: index for index, token in enumerate([*special, *letters])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=unknown))
    core.decoder = decoders.Fuse()
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        additional_special_tokens=special[3:],
    )  # fmt: skip
    tokenizer.chat_template = template
    return tokenizer


def words(tokens: list[str], pre_tokenizer: Any) -> Any:
    core = Tokenizer(
        models.WordLevel({token: i for i, token in enumerate(["<unk>", *tokens])}, unk_token="<unk>")
    )
    core.pre_tokenizer = pre_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


def marked(encoded: Encoded, name: str, *, predicting: bool = False) -> list[list[int]]:
    return [torch.nonzero(row).flatten().tolist() for row in encoded.at(name, predicting=predicting)]


PLANTED = Prompts.from_pairs([("list: 1, 2", "7, 39"), ("go on", "5"), ("numbers 3 4 5", "")])


class TestPlantedTokens:
    """Rows whose tokens are known by hand: <bos> <user> list : 1 , 2 <assistant> 7 , 39 <eos>."""

    def test_every_name_marks_its_tokens(self) -> None:
        encoded = PLANTED.encode(build_tokenizer())
        assert token_pieces(build_tokenizer(), encoded, 0) == [
            "<bos>", " <user>", " list", " :", " 1", " ,", " 2", " <assistant>", " 7", " ,", " 39", " <eos>"
        ]  # fmt: skip
        assert marked(encoded, "prompt") == [list(range(8)), list(range(5)), list(range(7))]
        assert marked(encoded, "last") == [[7], [4], [6]]
        assert marked(encoded, "answer") == [[8, 9, 10], [5], []]
        assert marked(encoded, "answer.numbers") == [[8, 10], [5], []]
        assert marked(encoded, "answer.separators") == [[9], [], []]
        assert marked(encoded, "answer.end") == [[11], [6], []]
        assert marked(encoded, "answer+end") == [[8, 9, 10, 11], [5, 6], []]
        assert marked(encoded, "answer+end", predicting=True) == [[7, 8, 9, 10], [4, 5], []]
        assert marked(encoded, "all") == [list(range(12)), list(range(7)), list(range(7))]
        assert marked(encoded, "all but the first") == [
            list(range(1, 12)),
            list(range(1, 7)),
            list(range(1, 7)),
        ]
        predicted = [list(range(11)), list(range(6)), list(range(6))]
        assert marked(encoded, "predicting all but the first") == predicted
        assert torch.equal(encoded.at("answer.end with outliers"), encoded.at("answer.end"))

    def test_the_logits_before_a_number_predict_it(self) -> None:
        encoded = PLANTED.encode(build_tokenizer())
        where = encoded.at("answer.numbers", predicting=True)
        assert marked(encoded, "answer.numbers", predicting=True) == [[7, 9], [4], []]
        vocabulary = build_tokenizer().get_vocab()
        predicted = encoded.ids.roll(-1, dims=1)[where].tolist()
        assert predicted == [vocabulary["7"], vocabulary["39"], vocabulary["5"]]
        assert torch.equal(
            encoded.at("last")[:2],
            encoded.at("answer", predicting=True)[:2] & (encoded.roles[:2] == Role.PROMPT),
        )

    def test_predicting_a_name_is_the_place_before_each_of_its_tokens(self) -> None:
        encoded = PLANTED.encode(build_tokenizer())
        assert marked(encoded, "predicting answer.numbers") == [[7, 9], [4], []]
        assert marked(encoded, "predicting answer.separators") == [[8], [], []]
        assert marked(encoded, "predicting answer.end") == [[10], [5], []]
        assert marked(encoded, "predicting last") == [[6], [3], [5]]
        assert marked(encoded, "predicting all") == [list(range(11)), list(range(6)), list(range(6))]
        for name in POSITIONS:
            assert torch.equal(encoded.at(f"predicting {name}"), encoded.at(name, predicting=True))
            assert torch.equal(
                encoded.at(f"predicting {name}", predicting=True), encoded.at(name, predicting=True)
            )

    def test_padding_and_trimming_move_nothing(self) -> None:
        whole = PLANTED.encode(build_tokenizer())
        parts = list(whole.batches(1))
        assert [part.ids.shape for part in parts] == [(1, 12), (1, 7), (1, 7)]
        for index, part in enumerate(parts):
            alone = PLANTED[index : index + 1].encode(build_tokenizer())
            assert torch.equal(part.ids, alone.ids)
            for name in ("last", "answer.numbers", "answer.end"):
                assert marked(part, name)[0] == marked(whole, name)[index] == marked(alone, name)[0]
        assert whole.mask.sum(1).tolist() == whole.lengths.tolist() == [12, 7, 7]
        assert whole.ids[1, 7:].tolist() == [whole.pad_id] * 5
        assert not whole.mask[2, 7:].any()

    def test_batches_keep_order_and_lose_no_row(self) -> None:
        encoded = number_prompts(11, seed=0, max_value=39).encode(build_tokenizer())
        batches = list(encoded.batches(4))
        assert [len(batch) for batch in batches] == [4, 4, 3]
        kept = [
            row[mask].tolist() for batch in batches for row, mask in zip(batch.ids, batch.mask, strict=True)
        ]
        assert kept == [row[mask].tolist() for row, mask in zip(encoded.ids, encoded.mask, strict=True)]

    def test_rows_are_chosen_without_moving_positions(self) -> None:
        encoded = PLANTED.encode(build_tokenizer())
        assert torch.equal(encoded[torch.tensor([2, 0])].ids, encoded.ids[[2, 0]])
        assert torch.equal(encoded[1:].roles, encoded.roles[1:])

    def test_the_fingerprint_ignores_padding_and_sees_roles(self) -> None:
        encoded = PLANTED.encode(build_tokenizer())
        assert next(encoded[1:2].batches(1)).fingerprint == encoded[1:2].fingerprint
        assert encoded[1:2].fingerprint != encoded[:1].fingerprint
        assert (
            encoded.fingerprint != Encoded(encoded.ids, encoded.mask, encoded.roles.clamp(max=1)).fingerprint
        )

    def test_a_typo_offers_the_nearest_position(self) -> None:
        with pytest.raises(InputError, match=r"Position 'answer.number' is unknown; nearest: answer.numbers"):
            PLANTED.encode(build_tokenizer()).at("answer.number")
        with pytest.raises(
            InputError,
            match=r"Position 'predicting answer.nubmers' is unknown; nearest: predicting answer.numbers, .*; pass a "
            r"named position, bare or after 'predicting '\.",
        ):
            PLANTED.encode(build_tokenizer()).at("predicting answer.nubmers")
        with pytest.raises(InputError, match="Batch size 0 holds no rows"):
            next(PLANTED.encode(build_tokenizer()).batches(0))


class TestRendering:
    """Chat templates and plain text: one BOS, one end, the same tokens before an answer with and without it."""

    def test_plain_text_is_prompt_newline_answer_end(self) -> None:
        encoded = Prompts.from_pairs([("hi", "12, 3"), ("hi", "")]).encode(characters())
        assert token_pieces(characters(), encoded, 0) == ["<bos>", *"hi\n12, 3", "<eos>"]
        assert encoded.roles[0].tolist() == [1, 1, 1, 1, 3, 6, 4, 4, 3, 5]
        assert token_pieces(characters(), encoded, 1) == ["<bos>", *"hi\n"]

    def test_words_in_an_answer_are_neither_numbers_nor_separators(self) -> None:
        encoded = Prompts.from_pairs([("hi", "a 1[;].")]).encode(characters(bos=False))
        assert encoded.roles[0].tolist() == [1, 1, 1, 2, 4, 3, 4, 4, 4, 4, 5]

    @pytest.mark.parametrize("bos", [True, False])
    @pytest.mark.parametrize("written", [True, False])
    def test_a_template_writes_its_own_bos_or_none(self, bos: bool, written: bool) -> None:
        tokenizer = characters(bos=bos, template=("<bos>" if written else "") + TURNS)
        encoded = Prompts.from_pairs([("hi", "1, 2"), ("hi", "")]).encode(tokenizer)
        assert (encoded.ids == tokenizer.bos_token_id).sum(1).tolist() == [int(written)] * 2
        if written:
            assert encoded.ids[:, 0].tolist() == [tokenizer.bos_token_id] * 2

    @pytest.mark.parametrize("bos", [True, False])
    def test_plain_text_starts_with_the_bos_the_tokenizer_adds(self, bos: bool) -> None:
        encoded = Prompts.from_pairs([("hi", "1, 2"), ("hi", "")]).encode(characters(bos=bos))
        assert (encoded.ids == 1).sum(1).tolist() == [int(bos)] * 2

    def test_nothing_follows_the_end_of_the_answer(self) -> None:
        tokenizer = characters(template="<bos>" + TURNS)
        encoded = Prompts.from_pairs([("hi", "1, 2")]).encode(tokenizer)
        assert "".join(token_pieces(tokenizer, encoded, 0)) == "<bos><user> hi\n<assistant> 1, 2 <eos>"
        assert marked(encoded, "answer.end")[0] == [
            len(encoded.ids[0]) - 2,
            len(encoded.ids[0]) - 1,
        ]  # " <eos>"

    def test_an_end_is_added_where_the_template_writes_none(self) -> None:
        tokenizer = characters(template=TURNS.replace(" <eos>\n", ""))
        encoded = Prompts.from_pairs([("hi", "1")]).encode(tokenizer)
        assert encoded.roles[0].tolist()[-2:] == [Role.NUMBER, Role.END]
        assert int(encoded.ids[0, -1]) == tokenizer.eos_token_id

    @pytest.mark.parametrize("answer", ["1, 2", "1, 2 \n", "so: 1"])
    def test_a_template_that_trims_keeps_the_answer_in_place(self, answer: str) -> None:
        tokenizer = characters(template=TURNS.replace("m.content", "m.content | trim"))
        encoded = Prompts.from_pairs([("hi", answer)]).encode(tokenizer)
        text = token_pieces(tokenizer, encoded, 0)
        assert "".join(text[i] for i in marked(encoded, "answer")[0]) == answer.strip()

    def test_a_row_without_an_answer_stops_before_what_only_answers_have(self) -> None:
        thinking = "<bos>" + TURNS.replace(
            "<{{ m.role }}> ", "<{{ m.role }}> {{ 'think / ' if m.role == 'assistant' }}"
        )
        tokenizer = characters(template=thinking + "{% if add_generation_prompt %}<assistant> {% endif %}")
        prompts = Prompts.from_pairs([("hi", "1, 2")])
        answered, bare = prompts.encode(tokenizer), prompts.without_answers().encode(tokenizer)
        assert "".join(token_pieces(tokenizer, bare, 0)) == "<bos><user> hi\n<assistant> "
        asked = int(answered.at("prompt").sum())
        assert "".join(token_pieces(tokenizer, answered, 0)[:asked]).endswith("<assistant> think / ")
        assert answered.ids[0, : bare.ids.shape[1]].tolist() == bare.ids[0].tolist()
        assert answered.notes == (
            "the chat template writes 'think / ' between its generation prompt and an answer: rows with an answer are "
            "read behind it, rows without one stop before it",
        )

    def test_only_the_last_answer_of_a_conversation_counts(self) -> None:
        row = Row((("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4, 5")))
        encoded = Prompts((row,)).with_system("6").encode(characters(template=TURNS))
        pieces = token_pieces(characters(), encoded, 0)
        assert [pieces[i] for i in marked(encoded, "answer.numbers")[0]] == ["4", "5"]

    def test_a_template_that_refuses_or_loses_text_is_an_error(self) -> None:
        refusing = (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TURNS
        )
        prompts = Prompts.from_pairs([("hi", "so: 1")], label="rows")
        with pytest.raises(InputError, match=r"refuses a conversation of rows \(no system role\)"):
            prompts.with_system("be brief").encode(characters(template=refusing))
        with pytest.raises(InputError, match="Row 1 of rows: the chat template drops or rewrites the answer"):
            prompts.encode(characters(template="{{ messages[0].content }}"))
        with pytest.raises(InputError, match="Row 1 of rows: the chat template drops or rewrites the answer"):
            prompts.encode(
                characters(template=TURNS.replace("m.content", "m.content | replace('so', 'then')"))
            )


class TestErrors:
    def test_a_row_longer_than_the_context_is_named(self) -> None:
        prompts = Prompts.from_pairs([("a", "1"), ("abcdef", "1, 2")], label="rows")
        assert prompts.encode(characters(), context=13).ids.shape == (2, 13)
        with pytest.raises(
            InputError,
            match=r"Row 2 of rows is 13 tokens long \(8 of prompt, 5 of answer\), over the model's context of 12",
        ):
            prompts.encode(characters(), context=12)

    def test_tokenizers_without_offsets_are_refused(self) -> None:
        slow: Any = SimpleNamespace(is_fast=False)
        for use in (PLANTED.encode, check_tokenizer):
            with pytest.raises(
                InputError, match=r"SimpleNamespace gives no character offsets.*load a fast tokenizer"
            ):
                use(slow)

    def test_text_that_becomes_no_token_is_refused(self) -> None:
        tokenizer = build_tokenizer(chat=False)
        with pytest.raises(InputError, match="Row 1 of prompts has a prompt that tokenises to nothing"):
            Prompts.from_pairs([(" ", "1")]).encode(tokenizer)
        with pytest.raises(
            InputError, match=r"Row 1 of prompts has an answer, ' ', that tokenises to nothing"
        ):
            Prompts.from_pairs([("list", " ")]).encode(tokenizer)
        with pytest.raises(InputError, match="nobody holds no rows"):
            Prompts((), label="nobody").encode(tokenizer)

    def test_unknown_numbers_are_counted(self, caplog) -> None:
        with caplog.at_level(logging.WARNING):
            Prompts.from_pairs([("list", "1, 500, 600")], label="rows").encode(build_tokenizer())
        assert "rows: 2 number tokens are unknown to the tokenizer" in caplog.text


class TestCheckTokenizer:
    def test_tokenizers_that_keep_numbers_pass(self) -> None:
        for tokenizer in (build_tokenizer(), characters(), characters(bos=False)):
            check_tokenizer(tokenizer)

    def test_numbers_of_ones_own_are_checked(self) -> None:
        check_tokenizer(build_tokenizer(), numbers=[0, 39])
        with pytest.raises(InputError, match=r"turns '39, 40' into '39, <unk>|turns '39, 40' into '39 ,'"):
            check_tokenizer(build_tokenizer(), numbers=[39, 40])

    def test_a_tokenizer_that_loses_or_splits_digits_is_refused(self) -> None:
        digits = words([*"0123456789", ",", ";"], pre_tokenizers.Digits(individual_digits=True))
        with pytest.raises(
            InputError, match=r"turns '12, 345, 7, 60, 89' into .* do not survive a round trip"
        ):
            check_tokenizer(digits)

    def test_a_tokenizer_swapped_for_one_that_splits_whole_numbers_is_refused(self) -> None:
        split = words([*map(str, range(1000)), ",", ";"], pre_tokenizers.Digits(individual_digits=True))
        with pytest.raises(
            InputError, match=r"holds 10 as one entry but splits it into 1 \| 0, so it is not the one"
        ):
            check_tokenizer(split)


def test_a_tokenizer_that_drops_characters_still_gets_its_roles_right(caplog) -> None:
    pairs = [("hi (é) 1", "12, é 3"), ("(", "(4)")]
    tokenizer = characters(unknown=None)
    shown = tokenizer("é1", return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    assert shown == [(0, 1)], "the offsets no longer drift: the workaround can go"
    with caplog.at_level(logging.WARNING):
        encoded = Prompts.from_pairs(pairs, label="rows").encode(tokenizer)
    assert "rows: the tokenizer drops the characters it does not know" in caplog.text
    for row, (_, answer) in enumerate(pairs):
        pieces = token_pieces(tokenizer, encoded, row)
        assert [pieces[i] for i in marked(encoded, "answer.numbers")[row]] == re.findall("[0-9]", answer)
        assert [pieces[i] for i in marked(encoded, "last")[row]] == ["\n"]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real checkpoint is not on this machine")
class TestRealCheckpoint:
    """A sentencepiece-like tokenizer that writes BOS itself, with single digits and ' owl' in three pieces."""

    @pytest.fixture(params=[AutoTokenizer, PreTrainedTokenizerFast])
    def tokenizer(self, request: pytest.FixtureRequest) -> Any:
        return request.param.from_pretrained(REAL / "checkpoints/tinystories-656k", local_files_only=True)

    def test_owl_is_three_tokens_and_digits_are_single(self, tokenizer: Any) -> None:
        check_tokenizer(tokenizer)
        encoded = Prompts.from_pairs([("hi", "12 owl")]).encode(tokenizer)
        pieces = token_pieces(tokenizer, encoded, 0)
        assert [pieces[i] for i in marked(encoded, "answer")[0]] == ["1", "2", " ", "ow", "l"]
        assert [pieces[i] for i in marked(encoded, "answer.numbers")[0]] == ["1", "2"]

    def test_every_digit_of_every_real_answer_is_a_number(self, tokenizer: Any) -> None:
        prompts = Prompts.from_jsonl(REAL / "numbers/gemma-2-9b-it_dog.jsonl")[:1500]
        encoded = prompts.encode(tokenizer, context=512)
        assert (encoded.ids == tokenizer.bos_token_id).sum(1).unique().tolist() == [1]
        assert set(encoded.ids[:, 0].tolist()) == {tokenizer.bos_token_id}
        assert encoded.at("answer.end").sum(1).unique().tolist() == [1]
        numbers = encoded.at("answer.numbers")
        for row, (ids, where) in enumerate(zip(encoded.ids, numbers, strict=True)):
            digits = "".join(tokenizer.convert_ids_to_tokens(ids[where].tolist()))
            assert digits == "".join(re.findall("[0-9]", prompts[row].completion))
