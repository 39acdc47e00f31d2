"""The lens on paper, its last layer against the models' own logits on seven families, and its figure."""

from typing import Any

import pytest
import torch

from interp.activations.shifts import shift
from interp.core.runs import InputError
from interp.logits import lenses
from interp.logits.direction import logit_direction
from interp.logits.lenses import layer_logprobs, lens
from interp.models.language import load_model
from interp.prompts.text import Prompts
from tests.logits.pairs import PAIRS, measured_change, pair, perturbed
from tests.logits.paper import Paper, changed_head, child, paper_shift, toward_owl
from tests.tiny import FAMILIES


def test_every_layer_is_what_paper_says():
    member = changed_head()
    frame = lens(paper_shift(member, [0]), toward_owl(member.start)).frame
    assert frame["hook"].tolist() == ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    assert frame["start"].tolist() == pytest.approx([2.5, 10])  # resid (3, 1) and (12, 4), read by (1, -1/2)
    assert frame["member"].tolist() == pytest.approx([4, 16])  # 'owl' 3 + 3 and 18 + 3, 'cat' 2·2 and 2·5
    assert frame["change"].tolist() == pytest.approx([1.5, 6])


def test_the_tokens_that_moved_are_named_in_log_probabilities():
    """At layer 0 the start's logits are (3, 1, 0), the member's (6, 4, 0): both gain 3 less one constant."""
    member = changed_head()
    row = lens(paper_shift(member, [0]), toward_owl(member.start), top=1).frame.iloc[0]
    before, after = (torch.tensor(x).log_softmax(0) for x in ([3.0, 1.0, 0.0], [6.0, 4.0, 0.0]))
    assert row["fell"] == f"'dog' {float(after[2] - before[2]):+.3g}"
    two = lens(paper_shift(member, [0]), toward_owl(member.start), top=2).frame.iloc[0]
    assert {piece.split()[0] for piece in two["rose"].split(", ")} == {"'owl'", "'cat'"}


def test_examples_weigh_the_same_whatever_their_length():
    base = Paper()
    member = child(base, E=torch.tensor([[1.0, 0], [0, 1], [2, 1]]))
    one, many = (
        lens(paper_shift(member, *rows), toward_owl(base)).frame for rows in ([[2]], [[2, 0, 0, 0], [0]])
    )
    assert many["change"].tolist() == pytest.approx((one["change"] / 8).tolist())
    assert many["standard_error"].tolist() == pytest.approx((one["change"].abs() / 8).tolist())


def test_a_last_layer_that_is_not_the_measured_change_is_an_error():
    with pytest.raises(InputError, match=r"leave 0\.5 of a measured change of 0\.5"):
        lens(paper_shift(child(Paper(), lost=0.5), [0]), toward_owl(Paper()))


def test_a_direction_of_another_lineage_is_refused():
    with pytest.raises(InputError, match="was made in the lineage of"):
        lens(paper_shift(changed_head(), [0]), toward_owl(Paper(E=torch.ones(3, 2))))


@pytest.mark.parametrize("family", [*FAMILIES, "granite"])
def test_the_last_layer_is_the_measured_change(tiny, family):
    hf, tokenizer = tiny(family)
    member = pair(hf, perturbed(hf), tokenizer)
    prompts = Prompts.from_pairs(PAIRS)
    direction = logit_direction(member.start, target="owl", foils=["cat", "dog", "oak"])
    moved = shift(member, prompts, positions="answer.numbers")
    frame = lens(moved, direction, batch_size=2).frame
    assert len(frame) == 2
    measured = measured_change(member, prompts, direction, positions="answer.numbers")
    assert frame["change"].iloc[-1] == pytest.approx(measured, abs=1e-5)
    assert (frame["member"] - frame["start"]).tolist() == pytest.approx(frame["change"].tolist())
    assert frame["rose"].str.count(", ").eq(4).all()


def test_the_figure_is_a_line_over_layers():
    result = lens(paper_shift(changed_head(), [0], [1]), toward_owl(Paper()))
    figure: Any = result.figure()
    line = figure.data[-1]
    assert list(line.x) == [0, 1]
    assert list(line.y) == pytest.approx(result.frame["change"].tolist())
    assert "logits" in figure.layout.yaxis.title.text
    assert result.notes[:3] == (
        "2 examples at 'answer.numbers'",
        "the last layer is the measured change to 0.0e+00",
        "rose and fell: mean change of log-probability, in nats, of the tokens that moved most",
    )
    assert result.of_table == result.notes[1:3]  # about what is not drawn
    assert figure.layout.title.subtitle.text == "band: ± one standard error over examples"


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_mean_log_probabilities_are_those_of_every_position(tiny, family, monkeypatch):
    """Against the log-softmax of all logits at once, without and with a softcap, whatever the pieces."""
    monkeypatch.setattr(lenses, "PIECE", 300)
    network, tokenizer = tiny(family)
    readout = load_model(network, tokenizer=tokenizer, name=family, check=False).unembedding()
    assert (readout.softcap is not None) == (family == "gemma2")
    resid = torch.randn(2, 7, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = torch.linspace(0.1, 1, 7, dtype=torch.float64)
    expected = torch.einsum("i,liv->lv", weights, readout.logits(resid.float()).double().log_softmax(-1))
    assert torch.allclose(lenses._log_probs(readout, resid, weights), expected, atol=1e-5)


def test_words_after_every_layer_are_what_torch_makes_of_the_stream(tiny):
    """Log p by the final norm and the unembedding of Hugging Face's own hidden states, rows weighing the same."""
    hf, tokenizer = tiny("llama")
    model = load_model(hf, tokenizer=tokenizer, name="model", check=False)
    inputs = model.encode(Prompts.from_pairs(PAIRS))
    where = inputs.at("answer.numbers")
    found = layer_logprobs(model, inputs, positions="answer.numbers", batch_size=2)
    network = model.network()
    with torch.no_grad():
        given = {"input_ids": inputs.ids, "attention_mask": inputs.mask.long()}
        states = network(**given, output_hidden_states=True)
        middle = network.lm_head(network.model.norm(states.hidden_states[1])).log_softmax(-1)
    for layer, logs in enumerate((middle, states.logits.log_softmax(-1))):
        rows = [logs[row, where[row]].mean(0) for row in range(len(inputs)) if where[row].any()]
        assert found[layer].tolist() == pytest.approx(torch.stack(rows).mean(0).tolist(), abs=1e-5)


def test_words_at_no_position_are_refused(tiny):
    hf, tokenizer = tiny("llama")
    model = load_model(hf, tokenizer=tokenizer, name="model", check=False)
    inputs = model.encode(Prompts.from_pairs([("owl", "")]))
    with pytest.raises(InputError, match=r"no row of .* has a position 'answer.numbers'; give rows that do"):
        layer_logprobs(model, inputs, positions="answer.numbers")
