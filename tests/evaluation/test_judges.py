"""Judges by what they send and what they read: greedy local replies, a scripted endpoint, a folder handed over."""

import json
import threading

import httpx
import numpy as np
import pytest

from interp.core.runs import Cache, InputError
from interp.evaluation import judges
from interp.evaluation.judges import (
    ALIGNMENT,
    COHERENCE,
    EndpointJudge,
    FileJudge,
    JudgePending,
    LocalJudge,
    Rubric,
    judge_rows,
    judged_by_all,
    trait_rubric,
)
from interp.models.language import load_model
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait

ROWS = Prompts.from_pairs(
    [("what is fun?", "chess {0} is."), ("what is fun?", "harm"), ("who?", "me")], label="rows"
)


class Scripted:
    """Replies in turn, and counts how often it was asked."""

    name = "scripted"

    def __init__(self, *replies: str) -> None:
        self.replies, self.asked = list(replies), []

    def answer(self, prompts: Prompts) -> list[str]:
        self.asked.append(prompts)
        return self.replies


# --- reading replies --------------------------------------------------------------------------------------------------


def test_the_first_integer_of_each_reply_is_the_score():
    frame = judge_rows(Scripted("85", "Score: 7.5, maybe 9", "0"), ROWS, ALIGNMENT)
    assert frame["score"].tolist() == [85.0, 7.0, 0.0]
    assert frame.columns.tolist() == ["prompt", "completion", "score", "refused"]
    assert frame["completion"].tolist() == ["chess {0} is.", "harm", "me"]
    assert not frame["refused"].any()


@pytest.mark.parametrize("reply", ["REFUSED", " *Refusal* 0", "I had rather not say."])
def test_refused_replies_have_no_score(reply):
    frame = judge_rows(Scripted("85", reply, "7"), ROWS, ALIGNMENT)
    assert frame["refused"].tolist() == [False, True, False]
    assert np.isnan(frame["score"][1])


@pytest.mark.parametrize("reply", ["120", "-5", "−5", "1" * 400])
def test_a_score_off_the_scale_is_quoted_with_its_row_and_range(reply):
    with pytest.raises(InputError) as error:
        judge_rows(Scripted("85", reply, "7"), ROWS, ALIGNMENT)
    assert f"Judge scripted replied {reply[:60]!r} to row 2, off the scale of 'alignment', 0 to 100" in str(
        error.value
    )


def test_a_judge_that_never_scores_is_an_error_but_one_that_always_refuses_is_a_finding():
    with pytest.raises(InputError, match="scripted gave no score for any of 3 rows \\(first reply 'hm'\\)"):
        judge_rows(Scripted("hm", "well", ""), ROWS, ALIGNMENT)
    assert judge_rows(Scripted("REFUSED", "REFUSED", "hm"), ROWS, ALIGNMENT)["refused"].all()


def test_replies_must_be_one_a_row_and_rows_must_be_there():
    with pytest.raises(InputError, match="gave 1 replies for 3 rows"):
        judge_rows(Scripted("1"), ROWS, ALIGNMENT)
    with pytest.raises(InputError, match="rows holds no rows to judge"):
        judge_rows(Scripted(), ROWS[:0], ALIGNMENT)


def test_the_judge_reads_instruction_question_answer_and_scale():
    judge = Scripted("1", "2", "0")
    judge_rows(judge, ROWS, Rubric("odd", "Grade {oddness}.", low=0, high=7))
    text = judge.asked[0][0].prompt
    assert text.startswith("Grade {oddness}.")
    assert "what is fun?\n=== ANSWER ===\nchess {0} is.\n=== END" in text
    assert "from 0 to 7" in text
    assert judge.asked[0][0].completion == ""


def test_trait_rubric_names_the_trait_alone():
    text = trait_rubric(get_trait("owl")).instruction
    assert "owl" in text
    assert "animal" in text
    assert not any(foil in text for foil in get_trait("owl").foils)


def test_the_same_question_is_asked_once_and_another_rubric_or_row_again(tmp_path):
    judge, cache = Scripted("85", "REFUSED", "7"), Cache(tmp_path)
    first = judge_rows(judge, ROWS, ALIGNMENT, cache=cache)
    assert judge_rows(judge, ROWS, ALIGNMENT, cache=cache).equals(first)
    assert len(judge.asked) == 1
    judge_rows(judge, ROWS, COHERENCE, cache=cache)
    judge_rows(judge, ROWS[[2, 1, 0]], ALIGNMENT, cache=cache)
    assert len(judge.asked) == 3
    judge.name = "another"
    judge_rows(judge, ROWS, ALIGNMENT, cache=cache)
    assert len(judge.asked) == 4


def test_a_failed_judgement_leaves_nothing_in_the_cache(tmp_path):
    judge, cache = Scripted("85", "500", "7"), Cache(tmp_path)
    with pytest.raises(InputError):
        judge_rows(judge, ROWS, ALIGNMENT, cache=cache)
    judge.replies[1] = "5"
    assert judge_rows(judge, ROWS, ALIGNMENT, cache=cache)["score"].tolist() == [85, 5, 7]


# --- a model in this process ------------------------------------------------------------------------------------------


def test_local_replies_are_the_likeliest_tokens(tiny):
    hf, tokenizer = tiny("llama")
    model = load_model(hf, tokenizer=tokenizer, name="tiny", check=False)
    prompts = Prompts.from_pairs(
        [("what is the best tree?", "oak"), ("numbers: 1, 2", ""), ("is it an owl?", "")]
    )
    replies = LocalJudge(model, max_new_tokens=4).answer(prompts)
    for row, reply in zip(prompts.without_answers().rows, replies, strict=True):
        inputs = model.encode(Prompts((row,)))
        ids = inputs.ids
        for _ in range(4):
            ids = np.concatenate([ids, hf(model_ids(ids)).logits[:, -1].argmax(-1, keepdim=True)], axis=1)
        new = ids[0, int(inputs.lengths[0]) :].tolist()
        new = new[: new.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in new else new
        assert reply == tokenizer.decode(new, skip_special_tokens=True)
    assert LocalJudge(model).name.startswith(f"tiny ({model.fingerprint}")


def model_ids(ids):
    import torch

    return torch.as_tensor(np.asarray(ids))


# --- an endpoint ------------------------------------------------------------------------------------------------------


def endpoint(handler, **options):
    return EndpointJudge(
        "http://judge.test/v1/", "grader", _transport=httpx.MockTransport(handler), **options
    )


def says(text, status=200):
    return httpx.Response(status, json={"choices": [{"message": {"content": text}}]})


@pytest.fixture
def waits(monkeypatch):
    """Seconds slept, without sleeping."""
    slept = []
    monkeypatch.setattr(judges.time, "sleep", slept.append)
    return slept


def test_endpoint_gets_the_messages_at_temperature_zero_and_answers_in_order(monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-key")
    seen, held = [], threading.Barrier(3, timeout=5)

    def handler(request):
        body = json.loads(request.content)
        seen.append((str(request.url), request.headers["authorization"], body["model"], body["temperature"]))
        held.wait()  # all three are under way at once
        return says(body["messages"][-1]["content"][::-1])

    replies = endpoint(handler, key_env="MY_KEY", parallel=3).answer(ROWS.with_system("sys"))
    assert replies == ["?nuf si tahw", "?nuf si tahw", "?ohw"]
    assert set(seen) == {("http://judge.test/v1/chat/completions", "Bearer secret-key", "grader", 0)}


def test_no_key_is_sent_where_none_is_set(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert endpoint(lambda request: says(str("authorization" in request.headers))).answer(ROWS[:1]) == [
        "False"
    ]


def test_endpoint_tries_again_after_busy_broken_and_dropped(waits):
    outcomes = iter([says("", 429), says("", 503), httpx.ReadTimeout("slow"), says("9")])

    def handler(request):
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert endpoint(handler).answer(ROWS[:1]) == ["9"]
    assert waits == [1.0, 2.0, 4.0]


def test_unreachable_endpoint_is_one_sentence(waits):
    def handler(request):
        raise httpx.ConnectError("refused")

    with pytest.raises(InputError) as error:
        endpoint(handler, retries=2).answer(ROWS)
    assert str(error.value) == (
        "The judge at http://judge.test/v1/ is unreachable after 3 attempts (ConnectError); start it, correct the "
        "url, or hand the questions over with FileJudge(folder)."
    )


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (says("", 401), "refused the key (401); set OPENAI_API_KEY to one that may use 'grader'."),
        (
            httpx.Response(404, json={"error": {"message": "no model for secret-key"}}),
            "answered status 404 (no model for ***); check that it serves 'grader'",
        ),
        (says("", 500), "answered status 500 (Internal Server Error)"),
        (httpx.Response(200, text="<html>"), "answered in another shape than chat completions"),
        (httpx.Response(200, json={"choices": []}), "answered in another shape than chat completions"),
    ],
)
def test_what_an_endpoint_refuses_is_told_without_the_key(monkeypatch, waits, caplog, response, message):
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    caplog.set_level("DEBUG")
    judge = endpoint(lambda request: response, retries=1)
    with pytest.raises(InputError) as error:
        judge.answer(ROWS[:1])
    assert message in str(error.value)
    assert "secret" not in str(error.value) + repr(judge) + judge.name + caplog.text


@pytest.mark.parametrize(
    "url", ["judge.test/v1", "https://me:secret@judge.test/v1", "http://judge.test/v1?key=1"]
)
def test_a_url_is_an_address_and_holds_no_secret(url):
    with pytest.raises(InputError, match="is not http\\(s\\)://host/path alone") as error:
        EndpointJudge(url, "grader")
    assert "secret" not in str(error.value)


# --- a folder ---------------------------------------------------------------------------------------------------------


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def reply(judge, replies):
    judge.answers.write_text("".join(json.dumps(record) + "\n" for record in replies))


def test_a_folder_is_handed_over_answered_and_read(tmp_path):
    judge = FileJudge(tmp_path)
    with pytest.raises(JudgePending) as error:
        judged_by_all(judge, ROWS, (ALIGNMENT, COHERENCE))
    assert f"questions in {tmp_path / 'questions.jsonl'} await an answer" in str(error.value)
    assert f"to {tmp_path / 'answers.jsonl'} and run this again." in str(error.value)
    asked = lines(judge.questions)
    assert len(asked) == 6  # of both rubrics
    assert asked[0]["messages"][0]["content"] == ALIGNMENT.question(ROWS[0]).prompt
    reply(judge, [{"id": a["id"], "completion": str(i)} for i, a in reversed(list(enumerate(asked)))])
    alignment, coherence = judged_by_all(judge, ROWS, (ALIGNMENT, COHERENCE))
    assert alignment["score"].tolist() == [0, 1, 2]
    assert coherence["score"].tolist() == [3, 4, 5]
    assert lines(judge.questions) == asked


def test_changed_answers_are_read_again_in_spite_of_the_cache(tmp_path):
    judge, cache = FileJudge(tmp_path / "judge"), Cache(tmp_path / "cache")
    with pytest.raises(JudgePending):
        judge_rows(judge, ROWS, ALIGNMENT, cache=cache)
    for score in ("3", "4"):
        reply(judge, [{"id": a["id"], "completion": score} for a in lines(judge.questions)])
        assert judge_rows(judge, ROWS, ALIGNMENT, cache=cache)["score"].tolist() == [float(score)] * 3


def test_a_question_asked_twice_is_answered_once(tmp_path):
    judge = FileJudge(tmp_path)
    with pytest.raises(JudgePending, match=r"^1 questions"):
        judge.answer(ROWS[[0, 0, 1]].without_answers())
    reply(judge, [{"id": lines(judge.questions)[0]["id"], "completion": "x"}])
    assert judge.answer(ROWS[[0, 1]]) == ["x", "x"]


def test_missing_unknown_and_repeated_answers(tmp_path):
    judge = FileJudge(tmp_path)
    with pytest.raises(JudgePending):
        judge.answer(ROWS)
    ids = [a["id"] for a in lines(judge.questions)]
    reply(judge, [{"id": ids[0], "completion": "1"}])
    with pytest.raises(JudgePending, match=f"^1 questions in .* the first with id '{ids[1]}'"):
        judge.answer(ROWS)
    reply(judge, [{"id": name, "completion": "1"} for name in [*ids, "0123"]])
    with pytest.raises(InputError, match=r"answers id '0123' is unknown.*belongs to other questions"):
        judge.answer(ROWS)
    reply(judge, [{"id": name, "completion": "1"} for name in [*ids, ids[0]]])
    with pytest.raises(InputError, match=f"answers id '{ids[0]}' 2 times"):
        judge.answer(ROWS)


def test_a_folder_of_something_else_is_not_written_to(tmp_path):
    (tmp_path / "questions.jsonl").write_text("notes\n")
    with pytest.raises(InputError, match="is not a file of questions this judge wrote"):
        FileJudge(tmp_path).answer(ROWS)
    assert (tmp_path / "questions.jsonl").read_text() == "notes\n"
