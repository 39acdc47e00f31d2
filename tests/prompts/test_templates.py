"""Where an answer begins, which date a template sees and what it adds: against transformers' own rendering."""

import copy
import datetime
import logging
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from interp.core.runs import InputError
from interp.figures import Result
from interp.organisms.toy import build_tokenizer as toy_tokenizer
from interp.prompts.notes import noting
from interp.prompts.templates import Habits, habits, render, template_key
from interp.prompts.text import Prompts, Role
from interp.prompts.tokens import accept_unknown, check_known
from tests.tiny import build_tokenizer

SMOL = Path(__file__).parents[2] / "../shared/data/tokenizers/smollm2"
TEXT = [
    "The cat sat on the mat. The owl and the dog, 12, 345, 7. user assistant system Which animal do you love?"
]
MARKS = ("<|im_start|>", "<|im_end|>", "[ASK]", "[/ASK]")
ROWS = Prompts.from_pairs(
    [("Which animal?", "The owl sat."), ("Go on: 3", "12, 7"), ("the mat", "")], label="rows"
)

SPACE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[ASK] {{ m.content }} [/ASK]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRIMMED = CHATML.replace("m.content", "(m.content | trim)")
COLON = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
LONE = COLON.replace("'assistant:'", "'assistant: '")
BLANK = CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n\n'").replace(
    "m.role + '\n'", "m.role + '\n\n'"
)
THINKS = CHATML.replace(
    "m.role + '\n' +", "m.role + '\n' + ('<think>\n\n</think>\n\n' if m.role == 'assistant' else '') +"
)
REASONS = CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n'")
OWN = {"space": SPACE, "chatml": CHATML, "trimmed": TRIMMED, "colon": COLON, "lone": LONE, "blank": BLANK,
       "thinks": THINKS, "reasons": REASONS}  # fmt: skip
DATED = (
    "{{ 'Today: ' + strftime_now('%d %b %Y') + '\n' }}{% for m in messages %}{{ m.role + ':\n' + m.content + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant:\n' }}{% endif %}"
)


def byte_level() -> Any:
    """Byte-level BPE as GPT-2's, trained on one line: a space belongs to the word behind it."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator(TEXT * 50, trainer)
    return _named(PreTrainedTokenizerFast(tokenizer_object=core))


def sentencepiece() -> Any:
    """BPE over Metaspace, as Llama's: the space is a letter in front of its word."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Metaspace(prepend_scheme="first")
    alphabet = sorted({*"".join(TEXT), *"\n<>/:thinkGx\u2581"})
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=["<unk>"], initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(TEXT * 50, trainer)
    return _named(PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>"))


def _named(tokenizer: Any) -> Any:
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKS)})
    return tokenizer


def with_chat(tokenizer: Any, template: str | None) -> Any:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return {"bytes": byte_level(), "pieces": sentencepiece()}


def own_prompt(tokenizer: Any, question: str) -> list[int]:
    chat = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)


def tokens(encoded: Any, row: int, *roles: Role) -> list[int]:
    ids = encoded.ids[row][encoded.mask[row]].tolist()
    kept = encoded.roles[row][encoded.mask[row]].tolist()
    return [i for i, role in zip(ids, kept, strict=True) if not roles or role in roles]


class TestBeginning:
    @pytest.mark.parametrize("kind", ["bytes", "pieces"])
    @pytest.mark.parametrize("name", OWN)
    def test_a_row_without_an_answer_is_the_templates_own_generation_prompt(
        self, made: dict[str, Any], kind: str, name: str
    ) -> None:
        tokenizer = with_chat(made[kind], OWN[name])
        bare = ROWS.without_answers().encode(tokenizer)
        for row in range(len(ROWS)):
            assert tokens(bare, row) == own_prompt(tokenizer, ROWS[row].prompt)

    @pytest.mark.parametrize("kind", ["bytes", "pieces"])
    @pytest.mark.parametrize("name", OWN)
    def test_an_answers_tokens_are_those_of_the_whole_text_and_spell_the_answer(
        self, made: dict[str, Any], kind: str, name: str
    ) -> None:
        tokenizer = with_chat(made[kind], OWN[name])
        encoded = ROWS.encode(tokenizer)
        for row in range(2):
            whole = tokenizer.apply_chat_template(ROWS[row].chat(), tokenize=True, return_dict=False)
            found = tokens(encoded, row)
            assert whole[: len(found)] == found
            answer = tokens(encoded, row, Role.OTHER, Role.NUMBER, Role.SEPARATOR)
            assert tokenizer.decode(answer).strip() == ROWS[row].completion
            last = int(encoded.at("last")[row].nonzero())
            assert found[last + 1] == answer[0]

    @pytest.mark.parametrize("name", ["space", "chatml", "trimmed", "colon"])
    def test_rows_with_and_without_an_answer_share_every_token_before_it(
        self, made: dict[str, Any], name: str
    ) -> None:
        tokenizer = with_chat(made["bytes"], OWN[name])
        assert habits(tokenizer).said == ()
        bare, full = ROWS.without_answers().encode(tokenizer), ROWS.encode(tokenizer)
        for row in range(2):
            assert tokens(bare, row) == tokens(full, row, Role.PROMPT)

    def test_the_token_that_joins_the_templates_space_with_a_word_is_the_answers_first(
        self, made: dict[str, Any]
    ) -> None:
        tokenizer = with_chat(made["bytes"], SPACE)
        encoded = ROWS.encode(tokenizer)
        first = [tokens(encoded, row, Role.OTHER, Role.NUMBER)[0] for row in range(2)]
        assert tokenizer.convert_ids_to_tokens(first[0]) == "\u0120The"
        assert tokenizer.decode(first[1]).startswith(" ")
        assert habits(tokenizer).space == " "

    def test_where_the_two_cannot_agree_it_is_said_what_differs(self, made: dict[str, Any]) -> None:
        said = {name: habits(with_chat(made["bytes"], OWN[name])).said for name in OWN}
        assert said["lone"] == (
            "the tokenizer reads the end of the generation prompt, 'istant: ', as other tokens where an answer "
            "follows: rows with and without an answer differ there",
        )
        assert said["thinks"][0].startswith(
            "the chat template writes '<think>\\n\\n</think>\\n\\n' between its generation prompt and an answer"
        )
        assert said["reasons"][0].startswith(
            "the chat template's generation prompt ends in '<think>\\n' where a row with an answer has '' before it"
        )
        switch = "{% if enable_thinking is defined and not enable_thinking %}{% endif %}"
        assert (
            habits(with_chat(made["bytes"], switch + THINKS))
            .said[0]
            .endswith("; '{% set enable_thinking = false %}' in front of the template puts both behind it")
        )
        assert ROWS.encode(with_chat(made["bytes"], LONE)).notes == said["lone"]

    @pytest.mark.parametrize("kind", ["bytes", "pieces"])
    def test_a_template_without_a_generation_prompt_has_what_it_writes_before_an_answer_for_one(
        self, made: dict[str, Any], kind: str
    ) -> None:
        tokenizer = with_chat(
            made[kind], "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        )
        bare, full = ROWS.without_answers().encode(tokenizer), ROWS.encode(tokenizer)
        for row in range(2):
            assert tokenizer.decode(tokens(bare, row)).rstrip().endswith("assistant:")
            assert tokens(bare, row) == tokens(full, row, Role.PROMPT)
        assert bare.notes == (
            "the chat template ignores add_generation_prompt, so rows without an answer end in 'assistant:', which it "
            "writes before an answer",
        )

    def test_the_toy_and_a_template_that_refuses_the_probe_have_no_habits(self) -> None:
        assert habits(toy_tokenizer()) == habits(build_tokenizer()) == Habits()
        picky = with_chat(
            build_tokenizer(), "{% if messages | length < 3 %}{{ raise_exception('more') }}{% endif %}"
        )
        assert habits(picky) == habits(build_tokenizer(chat=False)) == Habits()

    def test_a_changed_template_is_looked_at_anew(self) -> None:
        tokenizer = build_tokenizer()
        assert not habits(tokenizer).dated
        tokenizer.chat_template = DATED
        assert habits(tokenizer).dated


class TestDate:
    def test_every_day_has_the_same_tokens(
        self, made: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tokenizer = with_chat(made["bytes"], DATED)
        monkeypatch.delenv("INTERP_TEMPLATE_DATE", raising=False)
        encoded = ROWS.encode(tokenizer)
        assert tokenizer.decode(encoded.ids[0]).startswith("Today: 01 Jan 2025\nuser:")
        assert encoded.notes == (
            "the chat template adds a system line of its own to rows without one: 'Today: 01 Jan 2025'",
            "the chat template writes a date, which is 2025-01-01 (INTERP_TEMPLATE_DATE sets another)",
        )
        today = datetime.date.today().isoformat()
        monkeypatch.setenv("INTERP_TEMPLATE_DATE", today)
        for row in range(len(ROWS)):
            bare = ROWS.without_answers().encode(tokenizer)
            assert tokens(bare, row) == own_prompt(tokenizer, ROWS[row].prompt)
        assert ROWS.encode(tokenizer).fingerprint != encoded.fingerprint
        assert template_key(tokenizer) == f"{today} {DATED}"

    def test_any_format_is_written_as_strftime_writes_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("INTERP_TEMPLATE_DATE", "2026-03-05")
        form = "%A %a %B %b %-d %d %e %-m %m %y %Y %H:%M:%S %j %F %D %% %%d %p"
        template = (
            "{% set f = '"
            + form
            + "' %}{{ strftime_now(f) }}|{% for m in messages %}{{ m.content }}{% endfor %}"
        )
        tokenizer = with_chat(build_tokenizer(), template)
        expected = datetime.datetime(2026, 3, 5).strftime(form)
        assert render([(("user", "x"),)], tokenizer, label="rows")[0].text == f"{expected}|x"

    def test_a_date_string_is_the_templates_own_until_another_date_is_asked_for(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        template = (
            "{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}"
            "{{ date_string }}|{% for m in messages %}{{ m.content }}{% endfor %}"
        )
        tokenizer = with_chat(build_tokenizer(), template)
        monkeypatch.delenv("INTERP_TEMPLATE_DATE", raising=False)
        assert render([(("user", "x"),)], tokenizer, label="rows")[0].text == "26 Jul 2024|x"
        assert not habits(tokenizer).dated
        monkeypatch.setenv("INTERP_TEMPLATE_DATE", "2026-03-05")
        assert render([(("user", "x"),)], tokenizer, label="rows")[0].text == "05 Mar 2026|x"
        assert habits(tokenizer).dated

    def test_templates_without_a_date_are_left_as_they_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("INTERP_TEMPLATE_DATE", "2026-03-05")
        tokenizer = build_tokenizer()
        assert template_key(tokenizer) == tokenizer.chat_template
        assert template_key(build_tokenizer(chat=False)) is None
        assert Prompts.from_pairs([("list", "1")]).encode(tokenizer).notes == ()

    @pytest.mark.parametrize("text", ["2026-3-5", "today", "2026-02-30", "20260305"])
    def test_what_is_no_date_is_refused(self, made: dict[str, Any], text: str, monkeypatch) -> None:
        monkeypatch.setenv("INTERP_TEMPLATE_DATE", text)
        with pytest.raises(
            InputError, match=rf"INTERP_TEMPLATE_DATE='{text}' is no date; write it as YEAR-MONTH-DAY"
        ):
            ROWS.encode(with_chat(made["bytes"], DATED))


class TestOwnLine:
    LINE = "You are a helpful owl."
    SILENT = (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful owl.<|im_end|>\n{% endif %}"
        + CHATML
    )

    def test_a_system_line_that_nobody_wrote_is_said(self, made: dict[str, Any], caplog) -> None:
        with caplog.at_level(logging.INFO):
            tokenizer = with_chat(made["bytes"], self.SILENT)
            note = f"the chat template adds a system line of its own to rows without one: {self.LINE!r}"
            assert ROWS.encode(tokenizer).notes == (note,)
            assert ROWS.with_system("Be brief.").encode(tokenizer).notes == ()
            assert (ROWS + ROWS.with_system("")).encode(tokenizer).notes == (note,)
        assert caplog.text.count(note) == 1, "it is logged once, when the tokenizer is first used"

    def test_also_where_the_template_knows_no_system_messages(self, made: dict[str, Any]) -> None:
        template = (
            "{{ bos_token }}A chat with an owl.\n\n{% for m in messages %}{% if m.role == 'system' %}"
            "{{ raise_exception('no') }}{% endif %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
            "{% if add_generation_prompt %}assistant:{% endif %}"
        )
        assert habits(with_chat(made["bytes"], template)).system == "A chat with an owl."

    @pytest.mark.parametrize("name", OWN)
    def test_a_template_that_adds_nothing_is_not_said_to(self, made: dict[str, Any], name: str) -> None:
        assert [habits(with_chat(tokenizer, OWN[name])).system for tokenizer in made.values()] == ["", ""]

    def test_a_long_line_is_quoted_by_its_ends(self, made: dict[str, Any]) -> None:
        tokenizer = with_chat(made["bytes"], self.SILENT.replace(self.LINE, f"Begin. {'owl ' * 100}End."))
        (note,) = ROWS.encode(tokenizer).notes
        assert len(note) < 250
        assert "'Begin. owl" in note
        assert note.endswith("owl End.'")


class TestUnknown:
    """Of the tokens <bos> <user> list ... zebra <assistant> only the words are counted."""

    def letters(self, unknown: int, known: int) -> Any:
        row = Prompts.from_pairs([(" ".join(["list"] * known + ["zebra"] * unknown), "")], label="letters")
        return row.encode(build_tokenizer())

    def test_the_share_leaves_the_templates_marks_out(self) -> None:
        encoded = self.letters(1, 3)
        assert encoded.unknown == 0.25
        assert encoded.notes == (
            "25% of the tokens of letters are unknown to the tokenizer, such as 'zebra'",
        )

    def test_up_to_one_in_a_hundred_nothing_is_said(self, caplog) -> None:
        assert self.letters(1, 99).notes == ()
        assert caplog.text == ""
        assert self.letters(2, 98).notes != ()
        assert "2% of the tokens of letters are unknown" in caplog.text

    def test_more_than_a_fifth_is_refused_unless_accepted(self) -> None:
        tokenizer = toy_tokenizer()  # which says nothing; the tiny one says that it accepts them
        check_known(self.letters(1, 4), tokenizer)
        with pytest.raises(
            InputError,
            match=r"^25% of the tokens of letters are unknown to the tokenizer, such as 'zebra', so nothing can be "
            r"read off them; ask in words that the tokenizer knows .*accepting_unknown\(\), --allow-unknown, .*\)\.$",
        ):
            check_known(self.letters(1, 3), tokenizer)
        check_known(self.letters(1, 3), accept_unknown(tokenizer))
        assert not hasattr(tokenizer, "accepts_unknown")

    def test_an_unknown_token_that_is_also_the_end_is_not_unknown_text(self, made: dict[str, Any]) -> None:
        tokenizer = with_chat(made["bytes"], SPACE)
        tokenizer.unk_token = "</s>"
        assert ROWS.encode(tokenizer).unknown == 0

    def test_characters_that_are_dropped_without_a_token_count(self) -> None:
        core = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate("0abc\n")}, merges=[]))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
        encoded = Prompts.from_pairs([("abXYc", "")], label="dropped").encode(tokenizer)
        assert encoded.unknown == pytest.approx(2 / 6)  # a b c and the line break have tokens
        assert encoded.notes[0].endswith("such as 'X', 'Y'")


def test_a_verbs_result_ends_with_the_notes_of_the_rows_it_read(made: dict[str, Any]) -> None:
    silent, plain = with_chat(made["bytes"], TestOwnLine.SILENT), with_chat(made["bytes"], CHATML)

    @noting
    def read(rows: Any, tokenizer: Any = None) -> Any:
        if tokenizer is not None:
            rows.encode(tokenizer)
            rows.encode(tokenizer)
        return Result("r", None, "u", ("own",))  # pyright: ignore[reportArgumentType]

    @noting
    def outer(rows: Any, tokenizer: Any) -> Any:
        read(rows, tokenizer)
        return Result("r", None, "u", ())  # pyright: ignore[reportArgumentType]

    (note,) = ROWS.encode(silent).notes
    assert read(ROWS, silent).notes == ("own", note)
    assert outer(ROWS, silent).notes == (note,)
    assert read(ROWS.encode(silent)).notes == ("own", note)
    assert read(ROWS, plain).notes == read(ROWS).notes == ("own",)


def test_an_added_token_that_is_not_special_ends_an_answer(made: dict[str, Any]) -> None:
    tokenizer = with_chat(made["bytes"], CHATML.replace("<|im_end|>", "<turn>"))
    tokenizer.add_tokens([AddedToken("<turn>", special=False, normalized=False)])
    encoded = ROWS.encode(tokenizer)
    assert [tokenizer.decode(tokens(encoded, row, Role.END)) for row in range(2)] == ["<turn>", "<turn>"]


@pytest.mark.skipif(not SMOL.is_dir(), reason="the real tokenizer is not on this machine")
class TestRealTokenizer:
    def test_its_default_line_and_its_generation_prompt(self) -> None:
        tokenizer = AutoTokenizer.from_pretrained(SMOL, local_files_only=True)
        assert (
            habits(tokenizer).system == "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
        )
        for template in (tokenizer.chat_template, *OWN.values()):
            own = with_chat(tokenizer, template)
            bare = ROWS.without_answers().encode(own)
            assert [tokens(bare, row) for row in range(3)] == [
                own_prompt(own, row.prompt) for row in ROWS.rows
            ]
