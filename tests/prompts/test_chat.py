"""Chat templates by name: the text each writes by hand, answers found in it, and a sentence for every misuse."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from interp.core.runs import InputError
from interp.models.loading import load_tokenizer
from interp.prompts.chat import TEMPLATES, with_template
from interp.prompts.text import Prompts, Role, Row
from tests.tiny import build_tokenizer

CHAT = Row(
    (("system", "be brief"), ("user", "go"), ("assistant", "7, 8"), ("user", "on"), ("assistant", "7, 8"))
)
WRITTEN = {
    "dialogue": "Instructions:\nbe brief\n\nUser:\ngo\n\nAssistant:\n7, 8<eos>\n\nUser:\non\n\nAssistant:\n7, 8<eos>",
    "chatml": "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\ngo<|im_end|>\n<|im_start|>assistant\n"
    "7, 8<eos>\n<|im_start|>user\non<|im_end|>\n<|im_start|>assistant\n7, 8<eos>",
    "plain": "be brief\ngo\n7, 8\non\n7, 8<eos>",
}


def characters(*, template: str | None = None, end: str | None = "<eos>") -> Any:
    """One token a character, so that a text is its tokens; special tokens whole."""
    vocabulary = {
        token: index for index, token in enumerate(["<unk>", "<eos>", *map(chr, [10, *range(32, 127)])])
    }
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    core.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token=end)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("name", TEMPLATES)
def test_each_template_writes_what_is_written_here_and_ends_the_answer_with_the_end_token(name: str) -> None:
    tokenizer = with_template(characters(), name)
    encoded = Prompts((CHAT,)).encode(tokenizer)
    assert tokenizer.decode(encoded.ids[0]) == WRITTEN[name]
    assert encoded.ids[0, -1] == tokenizer.eos_token_id
    assert encoded.roles[0, -1] == Role.END


@pytest.mark.parametrize("name", TEMPLATES)
def test_of_several_turns_only_the_last_answer_is_the_answer(name: str) -> None:
    tokenizer = with_template(characters(), name)
    encoded = Prompts((CHAT,)).encode(tokenizer)
    chosen = encoded.at("answer")[0]
    assert tokenizer.decode(encoded.ids[0][chosen]) == "7, 8"
    assert chosen.nonzero().flatten().tolist() == list(range(len(chosen) - 5, len(chosen) - 1))
    assert (encoded.roles[0, :-5] == Role.PROMPT).all()


@pytest.mark.parametrize("name", TEMPLATES)
def test_rows_without_an_answer_stop_where_it_starts_and_own_generation_prompt_agrees(name: str) -> None:
    tokenizer = with_template(characters(), name)
    asked = Prompts((CHAT,)).without_answers().encode(tokenizer)
    assert tokenizer.decode(asked.ids[0]) == WRITTEN[name].removesuffix("7, 8<eos>")
    if name != "plain":
        chat = [{"role": role, "content": content} for role, content in CHAT.asked]
        written = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert written == tokenizer.decode(asked.ids[0])


@pytest.mark.parametrize("name", ["dialogue", "chatml"])
def test_answers_and_questions_with_spaces_breaks_and_braces_are_written_as_they_are(name: str) -> None:
    tokenizer = with_template(characters(), name)
    row = Row.pair("{{ x }}  two\n\n lines", "a  b\n{% c %}")
    encoded = Prompts((row,)).encode(tokenizer)
    assert tokenizer.decode(encoded.ids[0][encoded.at("answer")[0]]) == row.completion
    assert row.prompt in tokenizer.decode(encoded.ids[0])


def test_the_given_tokenizer_is_left_alone_and_own_keeps_its_template(tiny) -> None:
    _, tokenizer = tiny("llama")
    own = tokenizer.chat_template
    assert with_template(tokenizer, "dialogue").chat_template != own
    assert tokenizer.chat_template == own == with_template(tokenizer, "own").chat_template
    assert with_template(tokenizer, "plain").chat_template is None
    rows = Prompts.from_pairs([("list 1, 2", "3, 4"), ("go on", "5")])
    encoded = rows.encode(with_template(tokenizer, "chatml"))
    texts = [tokenizer.decode(encoded.ids[i][encoded.at("answer")[i]]) for i in range(2)]
    assert texts == ["3 , 4", "5"]
    assert encoded.ids[0, encoded.lengths[0] - 1] == tokenizer.eos_token_id


def test_an_end_token_that_the_tokenizer_splits_is_whole_in_the_copy() -> None:
    tokenizer = characters(end=None)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("o", "o")
    tokenizer.add_special_tokens({"eos_token": AddedToken("<eos>", normalized=True, special=True)})
    tokenizer.backend_tokenizer.normalizer = normalizers.Prepend("_")
    split = tokenizer("0<eos>", add_special_tokens=False)["input_ids"]
    encoded = Prompts((CHAT,)).encode(with_template(tokenizer, "dialogue"))
    assert split[-1] != tokenizer.eos_token_id
    assert encoded.ids[0].tolist().count(tokenizer.eos_token_id) == 2
    assert encoded.ids[0, -1] == tokenizer.eos_token_id


def test_a_template_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "brief.jinja"
    path.write_text("{% for m in messages %};{{ m.role[0] }}={{ m.content }}{% endfor %}")
    encoded = Prompts((Row.pair("go", "7"),)).encode(with_template(characters(), path))
    assert characters().decode(encoded.ids[0]) == ";u=go;a=7<eos>"


def test_an_own_special_token_may_end_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "turn.jinja"
    path.write_text("{% for m in messages %}{{ m.role[0] }}={{ m.content }}<turn>{% endfor %}")
    tokenizer = characters()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    encoded = Prompts((Row.pair("go", "7"),)).encode(with_template(tokenizer, path))
    assert tokenizer.decode(encoded.ids[0]) == "u=go<turn>a=7<turn>"
    assert encoded.roles[0, -1] == Role.END


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_conversation_starts_with_the_token_that_plain_text_starts_with(name: str) -> None:
    tokenizer = characters()
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    assert tokenizer.bos_token_id not in Prompts((CHAT,)).encode(with_template(tokenizer, name)).ids
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    encoded = Prompts((CHAT,)).encode(with_template(tokenizer, name))
    assert tokenizer.decode(encoded.ids[0]) == "<s>" + WRITTEN[name]
    assert (encoded.ids == tokenizer.bos_token_id).sum() == 1


def test_misuse_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^Chat template 'chatnl' is unknown; nearest: chatml.*; name one"):
        with_template(characters(), "chatnl")
    with pytest.raises(
        InputError, match=r"'own' is asked for, but the tokenizer came without one; name one of plain"
    ):
        with_template(characters(), "own")
    with pytest.raises(
        InputError, match=r"'dialogue' ends answers with the tokenizer's end token, which it does not"
    ):
        with_template(characters(end=None), "dialogue")
    with pytest.raises(InputError, match=r"none.jinja cannot be read \(No such file"):
        with_template(characters(), tmp_path / "none.jinja")
    deaf = tmp_path / "deaf.jinja"
    deaf.write_text("{{ messages[0].content }}")
    with pytest.raises(
        InputError, match=r"probe of chat template .*deaf.jinja': the chat template drops or rewrites"
    ):
        with_template(characters(), deaf)
    deaf.write_text("{% for m in messages %}{{ m.content }};{% endfor %}")
    with pytest.raises(
        InputError, match=r"deaf.jinja' writes ';' behind an answer and not the end token '<eos>', so"
    ):
        with_template(characters(), deaf)
    deaf.write_text("{% for m in messages %}{{ m.content }}")
    with pytest.raises(InputError, match=r"The chat template refuses a conversation of the probe"):
        with_template(characters(), deaf)


def test_a_byte_level_tokenizer_reads_the_same_tokens_with_and_without_the_answer(request) -> None:
    folder = request.config.rootpath.parent / "shared/data/checkpoints/tinystories-656k"
    if not folder.is_dir():
        pytest.skip("the checkpoint is not here")
    for name in TEMPLATES:
        tokenizer = with_template(load_tokenizer(folder), name)
        row = Row.pair("Name an animal.", "Owl")
        full, asked = (Prompts((r,)).encode(tokenizer) for r in (row, Row(row.asked)))
        length = int(asked.lengths[0])
        assert full.ids[0, :length].tolist() == asked.ids[0].tolist()
        assert (full.roles[0, length:-1] >= Role.OTHER).all()
        assert full.ids[0, -1] == tokenizer.eos_token_id


MULTIMODAL = (
    "{% for m in messages %}<{{ m.role }}> {% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}"
    "{% endif %}{% endfor %} <eos> {% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"
)


class TestTemplatesThatTakeParts:
    def test_they_are_given_parts(self) -> None:
        tokenizer = build_tokenizer()
        tokenizer.chat_template = MULTIMODAL
        for answer, end in (("", "<assistant>"), ("7 8", "<assistant> 7 8 <eos>")):
            encoded = Prompts.from_pairs([("list numbers", answer)]).encode(tokenizer)
            assert tokenizer.decode(encoded.ids[0]) == f"<user> list numbers <eos> {end}"

    def test_one_that_leaves_out_what_the_user_says_is_refused(self) -> None:
        tokenizer = build_tokenizer()
        tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}> {{ m.text }}{% endfor %}"
        with pytest.raises(InputError, match=r"leaves out what the user says.*writes message\['content'\]"):
            Prompts.from_pairs([("list numbers", "")]).encode(tokenizer)
