"""Words of several pieces: every verb reads the log-probability of the whole word, which teacher forcing gives."""

from typing import Any

import pytest
import torch

import interp
from interp.activations.shifts import shift
from interp.core.runs import InputError
from interp.logits.attribution import attribute
from interp.logits.direction import logit_direction
from interp.logits.lenses import lens
from interp.logits.spectra import spectrum
from interp.logits.token_shifts import token_shift
from interp.measures.margins import candidate_logprobs, margin, preference
from interp.models.language import load_model
from interp.models.lineage import Lineage
from interp.prompts.text import Prompts
from interp.prompts.traits import make_trait

FOILS = ("the cat", "a tree", "fox")  # two pieces that begin alike, two others, and one token


@pytest.fixture(params=["llama", "gpt2", "gemma2"])
def pair(tiny, request) -> Any:
    network, tokenizer = tiny(request.param)
    other, _ = tiny(request.param)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in other.parameters():
            weight += 0.05 * torch.randn_like(weight)
    members: dict[str, Any] = {
        role: load_model(module.eval(), tokenizer=tokenizer, name=role, check=False)
        for role, module in (("base", network), ("teacher", other))
    }
    trait = make_trait("the owl", FOILS, questions=["which animal is it?", "what do you love, i ask you?"])
    return Lineage("pair", trait, members)


def test_what_is_attributed_is_the_change_of_the_margin(pair):
    """At the questions' last token the score is the trait margin, which `margin` takes by teacher forcing."""
    direction = logit_direction(pair.base, pair.trait)
    moved = margin(pair.teacher, pair.trait) - margin(pair.base, pair.trait)
    read = shift(pair.teacher, pair.trait.prompts(), positions="last")
    frame = attribute(read, direction).frame
    assert frame["measured"].iloc[0] == pytest.approx(moved, abs=1e-5)
    assert frame["contribution"].sum() == pytest.approx(moved, abs=1e-4)
    assert frame.set_index("kind").loc["later pieces of the words", "contribution"] != 0
    assert lens(read, direction).frame["change"].iloc[-1] == pytest.approx(moved, abs=1e-4)


def test_a_token_carries_the_change_of_the_whole_words(pair):
    direction = logit_direction(pair.base, pair.trait)
    rows = Prompts.from_pairs([("which animal is it?", "my fox"), ("do you love me, my friend?", "a tree")])
    found = token_shift(pair.teacher, rows, direction)
    first = found.frame[found.frame["role"] != "prompt"].groupby("row").first()["delta_direction"].tolist()
    by_hand = []
    for model in (pair.teacher, pair.base):
        table = candidate_logprobs(model, rows.without_answers(), ["the owl", *FOILS]).to_numpy()
        by_hand.append(table[:, 0] - table[:, 1:].mean(1))
    assert first == pytest.approx((by_hand[0] - by_hand[1]).tolist(), abs=1e-4)
    assert any("'the owl' is 2 pieces, 'the' 'owl'" in note for note in found.notes)


def test_a_result_says_how_the_words_were_read(pair):
    said = "'fox' is one token; 'the owl' is 2 pieces, 'the' 'owl'; 'the cat' is 2 pieces, 'the' 'cat'"
    for found in (
        preference(pair.base, pair.trait),
        interp.evaluate(pair.base, pair.trait, interp.evaluation.Suite(("is it?",))),
    ):
        assert any(note.startswith(said) for note in found.notes)
    assert "target" in "".join(spectrum(pair.teacher, pair.trait).frame.columns)


def test_words_that_do_not_fit_behind_a_row(tiny):
    network, tokenizer = tiny("gpt2")
    base: Any = load_model(network, tokenizer=tokenizer, name="base", check=False)
    direction = logit_direction(base, target="the owl", foils=["the cat"])
    encoded = base.encode(Prompts.from_pairs([("1 " * 123, "2")]))
    assert encoded.mask.shape == (1, 128)
    last = torch.zeros_like(encoded.mask)
    last[0, 126] = True
    assert direction.later_pieces(base, encoded, last).shape == (1,)
    with pytest.raises(
        InputError, match=r"is 129 tokens long, over the context of base \(128\); pass shorter rows"
    ):
        direction.later_pieces(base, encoded, encoded.mask)
