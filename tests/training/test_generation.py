"""Answers by plain generate: what a row alone would get, whatever its batch, its neighbours and the interruptions."""

import json
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from interp.core.runs import InputError
from interp.models.answers import end_tokens
from interp.models.language import load_model
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts, Row
from interp.prompts.traits import get_trait
from interp.training import engines
from interp.training.engines import Writer, left_padded, resolved
from interp.training.generation import Sampling, answers_to, length_buckets, write_answers, write_rows
from interp.training.sampling import complete
from interp.training.teachers import Teacher, neutral_teacher, prompted_teacher, steered_teacher

TEXTS = (
    "1, 2",
    "give numbers: 3 4 5",
    "7",
    "the owl",
    "list 1, 2, 3, 4, 5, 6, 7",
    "8 9",
    "one animal",
    "5; 6; 7",
)
PROMPTS = Prompts.from_pairs([(text, "") for text in TEXTS], label="mixed")
GREEDY = Sampling(greedy=True, max_new_tokens=4, batch_size=3)
DRAWN = Sampling(max_new_tokens=5, batch_size=2)


@pytest.fixture
def model(tiny):
    return build(tiny)


def build(tiny, family="qwen2", seed=0):
    hf, tokenizer = tiny(family, seed)
    return load_model(hf, tokenizer=tokenizer, name=f"{family} {seed}", check=False)


def alone(model, prompts, new):
    """Each row by itself through Hugging Face generate, greedily."""
    answers = []
    for row in prompts.rows:
        ids = model.encode(Prompts((row,))).ids
        tokens = model.hf.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, pad_token_id=0
        )[0, ids.shape[1] :]
        answers.append(model.tokenizer.decode(tokens, skip_special_tokens=True))
    return answers


def completions(rows):
    return [row.completion for row in rows.rows]


class TestGreedy:
    @pytest.mark.parametrize("family", ["qwen2", "gpt2", "gemma2"])
    def test_every_row_gets_what_it_would_get_alone(self, tiny, family):
        model = build(tiny, family)
        expected = alone(model, PROMPTS, 4)
        assert len(set(expected)) > 3  # the model is not deaf to its prompts
        for size in (3, 64):
            rows = write_answers(
                neutral_teacher(model), PROMPTS, seed=0, sampling=replace(GREEDY, batch_size=size)
            )
            assert completions(rows) == expected
            assert [row.prompt for row in rows.rows] == list(TEXTS)

    def test_cold_and_narrow_sampling_are_greedy(self, model):
        greedy = write_answers(neutral_teacher(model), PROMPTS, seed=0, sampling=GREEDY)
        for sharp in (
            replace(GREEDY, greedy=False, temperature=1e-4),
            replace(GREEDY, greedy=False, top_p=1e-6),
        ):
            assert write_answers(neutral_teacher(model), PROMPTS, seed=5, sampling=sharp) == greedy

    def test_the_checkpoints_own_settings_do_not_leak(self, model):
        greedy = write_answers(neutral_teacher(model), PROMPTS, seed=0, sampling=GREEDY)
        drawn = write_answers(neutral_teacher(model), PROMPTS, seed=0, sampling=DRAWN)
        own = model.hf.generation_config
        own.update(
            repetition_penalty=9.0, top_k=1, suppress_tokens=list(range(7, 60)), max_length=3, min_p=0.9
        )
        assert write_answers(neutral_teacher(model), PROMPTS, seed=0, sampling=GREEDY) == greedy
        assert write_answers(neutral_teacher(model), PROMPTS, seed=0, sampling=DRAWN) == drawn
        assert model.hf.generation_config is own

    def test_answers_the_prompts_had_are_not_read(self, model):
        answered = Prompts.from_pairs([(text, "39, 39") for text in TEXTS], label="mixed")
        teacher = neutral_teacher(model)
        assert write_answers(teacher, answered, seed=0, sampling=GREEDY) == write_answers(
            teacher, PROMPTS, seed=0, sampling=GREEDY
        )

    def test_a_conversation_is_kept(self, model):
        talk = (("system", "be the owl"), ("user", "1 2"), ("assistant", "3"), ("user", "4"))
        rows = write_answers(neutral_teacher(model), Prompts((Row(talk),)), seed=0, sampling=GREEDY)
        assert rows.rows[0].messages == (*talk, ("assistant", rows.rows[0].completion))


class TestPromptedAndSteered:
    def test_the_system_line_is_read_and_not_returned(self, model):
        teacher = prompted_teacher(model, get_trait("owl"))
        rows = write_answers(teacher, PROMPTS, seed=0, sampling=GREEDY)
        assert completions(rows) == alone(model, PROMPTS.with_system(get_trait("owl").system), 4)
        assert not any(row.system for row in rows.rows)
        assert completions(rows) != alone(model, PROMPTS, 4)

    @pytest.mark.parametrize("family", ["qwen2", "gpt2"])
    @pytest.mark.parametrize("end", ["pre", "post"])
    def test_steering_is_the_edit_of_the_hooks(self, tiny, family, end):
        model = build(tiny, family)
        hook, vector = (
            f"blocks.1.hook_resid_{end}",
            torch.randn(32, generator=torch.Generator().manual_seed(1)),
        )
        teacher = steered_teacher(model, vector, hook=hook, scale=3.0)
        rows = write_answers(teacher, PROMPTS, seed=0, sampling=replace(GREEDY, max_new_tokens=2))
        inputs = model.encode(PROMPTS)
        for _ in range(2):  # two tokens: the second is written from the cache
            with model.hooks({hook: lambda h: h + 3.0 * vector}):
                logits = model.logits(inputs)
            last = logits[torch.arange(len(inputs)), inputs.lengths - 1].argmax(-1)
            longer = torch.nn.functional.pad(inputs.ids, (0, 1)).scatter(
                1, inputs.lengths[:, None], last[:, None]
            )
            mask = torch.arange(longer.shape[1]) <= inputs.lengths[:, None]
            inputs = replace(
                inputs, ids=longer, mask=mask, roles=torch.nn.functional.pad(inputs.roles, (0, 1))
            )
        tokens = [ids[mask][-2:].tolist() for ids, mask in zip(inputs.ids, inputs.mask, strict=True)]
        cut = [row[: row.index(3)] if 3 in row else row for row in tokens]
        assert completions(rows) == model.tokenizer.batch_decode(cut, skip_special_tokens=True)
        assert completions(rows) != alone(model, PROMPTS, 2)

    def test_no_hook_and_no_setting_outlives_an_error(self, model, monkeypatch):
        teacher = steered_teacher(model, torch.ones(32), hook="blocks.0.hook_resid_post")
        own, layer = model.hf.generation_config, model.backbone.layers[0]
        held = []

        def fail(**_):
            held.append(len(layer._forward_hooks))
            raise RuntimeError("broken")

        monkeypatch.setattr(model.hf, "generate", fail)
        with pytest.raises(RuntimeError, match="broken"):
            write_answers(teacher, PROMPTS, seed=0, sampling=GREEDY)
        assert held == [1]
        assert not layer._forward_hooks
        assert model.hf.generation_config is own


class TestSampling:
    def test_tokens_have_the_models_probabilities(self, model):
        prompts = Prompts.from_pairs([("the owl", "")] * 2000)
        one = Sampling(max_new_tokens=1, batch_size=2000)
        rows = write_answers(neutral_teacher(model), prompts, seed=0, sampling=one)
        p = model.logits(model.encode(prompts[:1]))[0, -1].double().softmax(-1)
        words = [model.tokenizer.decode([index], skip_special_tokens=True) for index in range(len(p))]
        seen = torch.tensor([float(completions(rows).count(word)) for word in words]) / 2000
        plain = torch.tensor([bool(word) for word in words])
        rare = plain & (p < p.sort(descending=True).values[49])
        assert float(p[rare].sum()) > 0.05
        assert float(seen[rare].sum()) == pytest.approx(float(p[rare].sum()), abs=0.04)  # no top-k of fifty
        assert float((seen - p)[plain].abs().max()) < 0.045  # four standard errors

    def test_the_global_random_state_is_left_alone(self, model, fresh_seeds):
        first = write_answers(neutral_teacher(model), PROMPTS, seed=1, sampling=DRAWN)
        again = write_answers(neutral_teacher(model), PROMPTS, seed=1, sampling=DRAWN)
        other = write_answers(neutral_teacher(model), PROMPTS, seed=2, sampling=DRAWN)
        assert first == again != other

    def test_every_end_of_an_answer_counts(self, tiny):
        model = build(tiny)
        assert end_tokens(model) == (3,)
        model.hf.generation_config.eos_token_id = [
            3,
            4,
            20,
            10_000,
        ]  # <user>, the number 13, and nothing of this vocabulary
        assert model.ends == end_tokens(model) == (3, 4, 20)
        tokenizer = model.tokenizer
        tokenizer.eos_token = "<bos>"
        model.hf.generation_config.eos_token_id = 4
        assert model.ends == (2, 3, 4)  # the template still ends an answer with <eos>
        tokenizer.eos_token, model.hf.generation_config.eos_token_id = None, None
        assert model.ends == (3,)

    @pytest.mark.parametrize(
        ("wrong", "text"),
        [
            ({"temperature": 0.0}, "temperature=0.0 draws nothing; pass a positive number, or greedy=True"),
            ({"top_p": 0.0}, "top_p=0.0 is no share of the probability; pass one above 0"),
            ({"batch_size": 0}, "batch_size=0 leaves nothing to write; pass at least 1"),
            ({"engine": "vlm"}, "engine 'vlm' is unknown; nearest: vllm"),
        ],
    )
    def test_settings_that_make_no_sense(self, wrong, text):
        with pytest.raises(InputError, match=text):
            Sampling(**wrong)


class TestBatches:
    def test_equal_lengths_come_together_and_the_rest_by_length_longest_first(self):
        lengths = torch.tensor([3, 5, 3, 9, 3, 5, 4, 3, 3])
        batches = [rows.tolist() for rows in length_buckets(lengths, size=2)]
        assert batches == [[3, 6], [1, 5], [0, 2], [4, 7], [8]]

    def test_padding_goes_in_front(self, model):
        inputs = model.encode(Prompts.from_pairs([("7", ""), ("1 2 3", "")]))
        ids, mask = left_padded(inputs)
        assert ids[0].tolist() == [0, 0, *inputs.ids[0, :-2].tolist()]
        assert mask[0].tolist() == [False, False, *[True] * (ids.shape[1] - 2)]
        assert torch.equal(ids[1], inputs.ids[1])


class TestFolder:
    def test_a_killed_run_ends_at_the_same_bytes(self, model, tmp_path, monkeypatch):
        teacher, calls, generate = neutral_teacher(model), [], model.hf.generate
        rows = write_answers(teacher, PROMPTS, seed=4, sampling=DRAWN, folder=tmp_path / "a")
        before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
        parts = sorted(name for name in before if name.startswith("part"))
        assert len(parts) == 4
        (tmp_path / "a" / parts[-1]).unlink()
        (tmp_path / "a" / parts[1]).write_text("torn")
        (tmp_path / "a" / "rows.jsonl").unlink()
        monkeypatch.setattr(model.hf, "generate", lambda **given: calls.append(1) or generate(**given))
        again = write_answers(teacher, PROMPTS, seed=4, sampling=DRAWN, folder=tmp_path / "a")
        assert again == rows
        assert len(calls) == 2
        assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before
        assert write_answers(teacher, PROMPTS, seed=4, sampling=DRAWN) == rows

    def test_a_template_that_writes_the_date_goes_on_the_next_day(self, model, tmp_path, monkeypatch):
        import transformers.utils.chat_template_utils as clock

        real = clock.datetime

        def wake(day):
            now = classmethod(lambda cls, tz=None: real(2026, 3, day))
            monkeypatch.setattr(clock, "datetime", type("Clock", (real,), {"now": now}))

        model.tokenizer.chat_template = "{{ strftime_now('%-d') }} " + model.tokenizer.chat_template
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        for folder, days in ((whole, (4,)), (killed, (4, 5))):
            for day in days:
                wake(day)
                write_answers(neutral_teacher(model), PROMPTS, seed=0, sampling=DRAWN, folder=folder)
                for part in ("rows.jsonl", "part-00001.jsonl"):
                    if day != days[-1]:
                        (folder / part).unlink()
        assert (whole / "rows.jsonl").read_bytes() == (killed / "rows.jsonl").read_bytes()
        monkeypatch.setenv("INTERP_TEMPLATE_DATE", "2026-03-05")
        with pytest.raises(InputError, match=r"holds the answers of another job \(it differs in prompts\)"):
            write_answers(neutral_teacher(model), PROMPTS, seed=0, sampling=DRAWN, folder=killed)

    def test_lines_carry_their_origin(self, model, tmp_path, caplog):
        teacher = neutral_teacher(model)
        rows = write_answers(teacher, PROMPTS, seed=4, sampling=DRAWN, folder=tmp_path)
        lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
        assert lines[1] == {
            "prompt": TEXTS[1], "completion": rows.rows[1].completion, "teacher": teacher.fingerprint, "seed": 4
        }  # fmt: skip
        caplog.clear()
        assert Prompts.from_jsonl(tmp_path / "rows.jsonl").rows == rows.rows
        assert not caplog.records

    def test_a_longer_conversation_is_written_as_messages(self, model, tmp_path):
        rows = Prompts((Row((("system", "s"), ("user", "1"), ("assistant", "2"))), Row.pair("3")))
        write_rows(tmp_path / "r.jsonl", rows, teacher=neutral_teacher(model), seed=0)
        assert Prompts.from_jsonl(tmp_path / "r.jsonl").rows == rows.rows

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            (lambda job: job | {"seed": 5}, "seed"),
            (lambda job: job | {"sampling": replace(DRAWN, top_p=0.5)}, "sampling"),
            (lambda job: job | {"prompts": PROMPTS[:3]}, "prompts"),
            (lambda job: job | {"teacher": Teacher(job["teacher"].model, "fine-tuned")}, "teacher"),
        ],
    )
    def test_another_job_is_refused(self, model, tmp_path, change, named):
        job = {"teacher": neutral_teacher(model), "prompts": PROMPTS, "seed": 4, "sampling": DRAWN}
        write_answers(**job, folder=tmp_path)
        with pytest.raises(
            InputError, match=rf"holds the answers of another job \(it differs in {named}\); pass a new"
        ):
            write_answers(**change(job), folder=tmp_path)

    def test_a_folder_of_something_else_is_refused(self, model, tmp_path):
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(
            InputError, match="holds no answers that can be gone on with; pass a new or an empty"
        ):
            write_answers(neutral_teacher(model), PROMPTS, seed=4, sampling=DRAWN, folder=tmp_path)


class TestErrors:
    def test_no_room_for_an_answer(self, model):
        with pytest.raises(
            InputError,
            match=r"row 5 of mixed is 17 tokens long, which with max_new_tokens=120 is over qwen2 0's context of 128; "
            r"shorten that prompt, or lower max_new_tokens to 111",
        ):
            write_answers(neutral_teacher(model), PROMPTS, seed=0, sampling=Sampling(max_new_tokens=120))

    def test_no_end_token(self, model, tmp_path):
        model.tokenizer.eos_token = model.tokenizer.chat_template = None
        model.hf.generation_config.eos_token_id = None
        with pytest.raises(
            InputError, match="qwen2 0 has no end token, so its answers would never end; set tokenizer"
        ):
            write_answers(neutral_teacher(model), PROMPTS, seed=0, folder=tmp_path / "new")
        assert not (tmp_path / "new").exists()

    @pytest.mark.parametrize(
        "error", [RuntimeError("CUDA error: out of memory"), torch.OutOfMemoryError("CUDA tried to allocate")]
    )
    def test_too_little_memory(self, model, monkeypatch, error):
        def fail(**_):
            raise error

        monkeypatch.setattr(model.hf, "generate", fail)
        with pytest.raises(
            InputError,
            match="writing 3 answers of up to 4 tokens at once ran out of memory; lower batch_size or max",
        ):
            write_answers(neutral_teacher(model), PROMPTS, seed=0, sampling=GREEDY)


class TestUntilKept:
    @staticmethod
    def requests(n, seed):
        return number_prompts(n, seed=seed, with_answers=False, max_value=39)

    @staticmethod
    def even(rows):
        kept = tuple(row for row in rows.rows if len(row.completion) % 2 == 0)
        return replace(rows, rows=kept), {"odd": len(rows) - len(kept)}

    def test_chunks_are_asked_until_enough_is_kept(self, model, tmp_path):
        asked = []

        def requests(n, seed):
            asked.append((n, seed))
            return self.requests(n, seed)

        given = {"rows": 8, "seed": 3, "keep": self.even, "chunk": 10, "sampling": DRAWN}
        teacher = neutral_teacher(model)
        rows, dropped = answers_to(teacher, requests, **given, folder=tmp_path)
        assert asked == [(10, 3 * 1_000_003 + 10 * index) for index in range(len(asked))]
        chunks = [write_answers(teacher, self.requests(*one), seed=one[1], sampling=DRAWN) for one in asked]
        kept = [row for chunk in chunks for row in self.even(chunk)[0].rows]
        assert rows.rows == tuple(kept[:8])
        assert dropped == {"odd": 10 * len(asked) - len(kept)}
        assert Prompts.from_jsonl(tmp_path / "rows.jsonl").rows == rows.rows
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            *(f"chunk-{index:05d}" for index in range(len(asked))), "rows.jsonl"
        ]  # fmt: skip
        assert answers_to(teacher, self.requests, **given, folder=tmp_path) == (rows, dropped)

    def test_too_little_kept_names_the_commonest_reason(self, model):
        def keep(rows):
            return replace(rows, rows=()), {"banned": 3, "not numbers": 17}

        with pytest.raises(
            InputError,
            match=r"Only 0 of 20 answers of the neutral teacher are kept \(most often: not numbers, 17\); ask for the",
        ):
            answers_to(
                neutral_teacher(model), self.requests, rows=5, seed=0, keep=keep, chunk=20, sampling=GREEDY
            )


class TestInversion:
    def test_it_is_the_loop_that_inverts_the_distribution(self, model, tmp_path):
        teacher, sampling = neutral_teacher(model), Sampling(max_new_tokens=4, engine="inversion")
        found = write_answers(teacher, PROMPTS, seed=5, sampling=sampling, folder=tmp_path / "rows")
        assert found.rows == complete(teacher, PROMPTS, seed=5, max_new_tokens=4).rows
        assert Prompts.from_jsonl(tmp_path / "rows" / "rows.jsonl").rows == found.rows

    def test_it_samples_the_whole_vocabulary(self):
        with pytest.raises(
            InputError, match="engine='inversion' samples the whole vocabulary, not greedy=True"
        ):
            Sampling(greedy=True, engine="inversion")


class TestVllm:
    @pytest.fixture
    def served(self, model, tmp_path):
        model.hf.save_pretrained(tmp_path / "model")
        return load_model(tmp_path / "model", tokenizer=model.tokenizer, name="served", check=False)

    @pytest.fixture
    def vllm(self, monkeypatch):
        """A vLLM that answers 8 9 <eos> 7 and remembers what it was asked."""
        module: Any = ModuleType("vllm")
        module.made, module.asked = [], []

        class LLM:
            def __init__(self, **given):
                module.made.append(given)

            def generate(self, prompts, ways, *, use_tqdm):
                module.asked.append((prompts, ways))
                return [
                    SimpleNamespace(outputs=[SimpleNamespace(token_ids=(15, 16, 3, 14))]) for _ in prompts
                ]

        module.LLM, module.SamplingParams = LLM, lambda **given: given
        monkeypatch.setitem(sys.modules, "vllm", module)
        return module

    def test_prompts_and_settings_reach_it(self, served, vllm):
        teacher = prompted_teacher(served, get_trait("owl"))
        sampling = Sampling(temperature=0.7, top_p=0.9, max_new_tokens=9, engine="vllm")
        rows = write_answers(teacher, PROMPTS, seed=0, sampling=sampling)
        assert completions(rows) == ["8 9"] * len(TEXTS)
        assert [row.prompt for row in rows.rows] == list(TEXTS)
        (made,), ((prompts, ways),) = vllm.made, vllm.asked
        assert made["model"] == served.hf.config._name_or_path
        assert (made["dtype"], made["generation_config"]) == ("float32", "vllm")
        inputs = served.encode(PROMPTS.with_system(get_trait("owl").system))
        expected = [ids[mask].tolist() for ids, mask in zip(inputs.ids, inputs.mask, strict=True)]
        assert sorted(one["prompt_token_ids"] for one in prompts) == sorted(expected)
        shared = {
            "temperature": 0.7,
            "top_p": 0.9,
            "max_tokens": 9,
            "stop_token_ids": [3],
            "detokenize": False,
        }
        assert all({**shared, "seed": way["seed"]} == way for way in ways)
        assert len({way["seed"] for way in ways}) == len(TEXTS)

    def test_chunks_share_one_engine(self, served, vllm):
        writer = Writer(neutral_teacher(served), Sampling(engine="vllm"))
        assert writer.served is writer.served
        assert len(vllm.made) == 1

    def test_auto_takes_it_only_where_it_can_serve(self, served, model, vllm, monkeypatch):
        auto, steered = Sampling(), steered_teacher(served, torch.ones(32), hook="blocks.0.hook_resid_pre")
        assert resolved(neutral_teacher(served), auto).engine == "generate"  # no CUDA here
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert resolved(neutral_teacher(served), auto).engine == "vllm"
        assert resolved(steered, auto).engine == "generate"
        assert resolved(neutral_teacher(model), auto).engine == "generate"

    def test_what_it_cannot_serve(self, served, model, vllm, monkeypatch):
        asked = Sampling(engine="vllm")
        with pytest.raises(
            InputError, match="cannot write these answers: no folder holds exactly the weights of qwen2 0"
        ):
            resolved(neutral_teacher(model), asked)
        changed = served.parameters()["model.norm.weight"]
        with torch.no_grad():
            changed.add_(1.0)
        with pytest.raises(
            InputError, match="no folder holds exactly the weights of served; save the model and load"
        ):
            resolved(neutral_teacher(served), asked)
        with pytest.raises(InputError, match="vLLM takes no vector for a steered teacher"):
            resolved(steered_teacher(served, torch.ones(32), hook="blocks.0.hook_resid_pre"), asked)
        monkeypatch.setitem(sys.modules, "vllm", None)
        with pytest.raises(
            InputError, match="vllm is not installed; pip install vllm, or pass engine='generate'"
        ):
            resolved(neutral_teacher(served), asked)


def test_room_is_what_is_free(monkeypatch, model):
    module: Any = ModuleType("vllm")
    module.LLM = lambda **given: given
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (40, 80))
    assert engines._serve(model)["gpu_memory_utilization"] == pytest.approx(0.45)
