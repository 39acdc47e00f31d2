"""Where a sampled answer ends: every end that tokenizer, template or checkpoint name, for every way of sampling."""

import logging
from typing import Any

import pytest
import torch

from interp.core.runs import InputError
from interp.evaluation.elicitation import sampled_measures
from interp.gradients.nulls.controls import base_samples
from interp.models.answers import answer_texts, cut
from interp.models.language import load_model
from interp.prompts.text import Prompts, Role
from interp.prompts.tokens import template_end
from interp.prompts.traits import get_trait
from interp.training.generation import Sampling, write_answers
from interp.training.sampling import complete, sample_tokens
from interp.training.teachers import neutral_teacher

PROMPTS = Prompts.from_pairs([("list 1, 2", ""), ("which animal do you love?", "")], label="asked")
TURN = (
    "<bos>{% for m in messages %} <{{ m.role }}> {{ m.content }} {{ '<turn>' }}{% endfor %}"
    "{% if add_generation_prompt %} <assistant> {% endif %}"
)


@pytest.fixture
def model(tiny: Any) -> Any:
    """A chain of tokens whatever is asked: cat, end of turn, then owl for ever; the tokenizer's own end never comes."""
    network, tokenizer = tiny("llama")
    tokenizer.chat_template = TURN
    tokenizer.add_tokens(["<turn>"], special_tokens=True)
    network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    network.generation_config.eos_token_id = None
    after = dict.fromkeys(range(len(tokenizer)), "cat") | {ids(tokenizer, "cat"): "<turn>"}
    after |= dict.fromkeys((ids(tokenizer, "<turn>"), ids(tokenizer, "owl")), "owl")
    size = network.config.hidden_size
    code = torch.linalg.qr(
        torch.randn(len(tokenizer), len(tokenizer), generator=torch.Generator().manual_seed(0))
    )[0]
    code = torch.nn.functional.normalize(code[:, :size], dim=1)
    with torch.no_grad():
        for layer in network.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        network.model.norm.weight.fill_(1)
        network.model.embed_tokens.weight.copy_(code)
        head = torch.zeros(len(tokenizer), size)
        for token, following in after.items():
            head[ids(tokenizer, following)] += code[token] * (0 if following == "cat" else 1)
        network.lm_head.weight.copy_(60 * head)
        network.lm_head.weight[ids(tokenizer, "cat")] = 0
    return load_model(_cats(network, tokenizer), tokenizer=tokenizer, name="turns", check=False)


def _cats(network: Any, tokenizer: Any) -> Any:
    """The prompt's last token, <assistant>, is followed by cat."""
    code = network.model.embed_tokens.weight[ids(tokenizer, "<assistant>")]
    with torch.no_grad():
        network.lm_head.weight[ids(tokenizer, "cat")] = 60 * code
    return network


def ids(tokenizer: Any, token: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(token))


def test_plain_generate_runs_on_without_that_end_and_stops_at_it(model: Any) -> None:
    asked = model.encode(PROMPTS[:1])
    given = {"attention_mask": asked.mask.long(), "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    on = model.hf.generate(asked.ids, **given)[0, asked.ids.shape[1] :]
    assert model.tokenizer.convert_ids_to_tokens(on.tolist()) == ["cat", "<turn>", "owl", "owl", "owl"]
    stop = model.hf.generate(asked.ids, eos_token_id=list(model.ends), **given)[0, asked.ids.shape[1] :]
    assert model.tokenizer.convert_ids_to_tokens(stop.tolist()) == ["cat", "<turn>"]


def test_no_way_of_sampling_reads_on_into_the_next_turn(model: Any) -> None:
    teacher = neutral_teacher(model)
    written = write_answers(teacher, PROMPTS, seed=0, sampling=Sampling(max_new_tokens=6))
    assert [row.completion for row in written.rows] == ["cat", "cat"]
    assert [row.completion for row in complete(teacher, PROMPTS, seed=0, max_new_tokens=6).rows] == [
        "cat",
        "cat",
    ]
    frame = sampled_measures(model, get_trait("owl"), prompts=PROMPTS, samples=3, seed=0, max_new_tokens=6)
    assert frame["value"].tolist() == [0.0] * 4
    drawn = base_samples(model, PROMPTS, seed=0, max_new_tokens=6)
    ends = drawn.ids[drawn.roles == Role.END].tolist()
    assert ends == [ids(model.tokenizer, "<turn>")] * 2
    assert (drawn.roles == Role.OTHER).sum(1).tolist() == [1, 1]


def test_sampling_stops_at_whichever_end_comes(model: Any) -> None:
    asked = model.encode(PROMPTS[:1])
    uniforms = torch.full((6, 1), 0.5)
    assert sample_tokens(model, asked.ids, uniforms=uniforms).shape == (1, 2)
    model.hf.generation_config.eos_token_id = [ids(model.tokenizer, "cat")]
    assert sample_tokens(model, asked.ids, uniforms=uniforms).shape == (1, 1)


def test_a_tokenizer_without_an_end_is_fine_where_the_template_writes_one(model: Any) -> None:
    turn = ids(model.tokenizer, "<turn>")
    assert model.ends == (3, turn)
    model.tokenizer.eos_token = None
    assert model.ends == (turn,)
    assert template_end(model.tokenizer) == turn
    answers = write_answers(neutral_teacher(model), PROMPTS, seed=0, sampling=Sampling(max_new_tokens=6))
    assert [row.completion for row in answers.rows] == ["cat", "cat"]
    model.tokenizer.chat_template = "{{ raise_exception('no') if messages[0].role != 'system' }}" + TURN
    assert template_end(model.tokenizer) == turn, "a template that wants a system line is probed with one"
    model.tokenizer.chat_template = None
    assert template_end(model.tokenizer) is None
    with pytest.raises(
        InputError, match=r"^turns has no end token, so its answers would never end; set tokenizer"
    ):
        _ = model.ends


def test_an_end_the_checkpoint_declares_counts_as_it_does_in_transformers(model: Any, caplog) -> None:
    owl = ids(model.tokenizer, "owl")
    model.hf.generation_config.eos_token_id = [owl, 10_000]
    with caplog.at_level(logging.WARNING):
        assert model.ends == (3, owl, ids(model.tokenizer, "<turn>"))
    assert "turns declares 'owl', an ordinary token, to end an answer" in caplog.text


def test_rows_are_cut_at_their_first_end_and_lose_the_templates_space(model: Any) -> None:
    assert cut([[5, 3, 6, 2], [2, 5], [5, 6]], (2, 3)) == [[5], [], [5, 6]]
    from tests.prompts.test_templates import SPACE, byte_level, with_chat

    tokenizer = with_chat(byte_level(), SPACE)
    row = Prompts.from_pairs([("Which animal?", "The owl sat.")])
    encoded = row.encode(tokenizer)
    written = encoded.ids[encoded.roles >= Role.OTHER].tolist()
    assert tokenizer.decode(written) == " The owl sat.</s>"
    assert answer_texts(tokenizer, [written], (tokenizer.eos_token_id,)) == ["The owl sat."]
