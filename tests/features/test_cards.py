"""Feature cards: peaks and their contexts by hand, logit effects against the model itself, escaped text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
import torch

from interp.activations.interventions import steer
from interp.core.runs import InputError
from interp.features.cards import feature_card, feature_cards, logit_effects
from interp.features.reading import feature_statistics
from interp.models.language import load_model
from interp.prompts.text import Prompts
from tests.features.handmade import ROWS, Table, handmade, mirrored, rows

HOOK = "blocks.1.hook_resid_post"
PROMPTS = Prompts.from_pairs(ROWS)
# features x, y, −x, −y after tokens 0 .. 3
TABLE = torch.tensor([[1.0, 0.0], [2.0, 3.0], [0.0, 5.0], [4.0, 0.0]])


class Words:
    """Decodes token i to the i-th of four texts, some of them markup."""

    def decode(self, ids, **_):
        return "".join(("<b>", "one ", "&two\n", "</section>")[i] for i in ids)


def plane(**options):
    return handmade(mirrored(2), mirrored(2).T.contiguous(), **options)


def exact(model, hook=HOOK, **options):
    return handmade(mirrored(32), mirrored(32).T.contiguous(), hook=hook, model=model, **options)


def table(**options) -> Any:
    network: Any = Table(TABLE, torch.tensor([[1.0, 2.0, 3.0, 6.0], [0.0, 0.0, 0.0, 4.0]]), **options)
    network.tokenizer = Words()
    return network


INPUTS = rows(("pnsn", "0123"), ("pss", "022"), ("pnn", "211"))


def test_peaks_by_hand():
    card = feature_card(plane(), table(), INPUTS, 1)
    # y is 0 3 5 0 in the first row, 0 5 5 in the second and 5 3 3 in the third: the first of equals is the peak
    assert card.frame["row"].tolist() == [0, 1, 2]
    assert card.frame["position"].tolist() == [2, 1, 0]
    assert card.frame["activation"].tolist() == [5.0, 5.0, 5.0]
    assert card.frame["token"].tolist() == ["&two\n"] * 3
    assert (card.rate, card.maximum) == (pytest.approx(7 / 10), 5.0)
    assert card.mean == pytest.approx(29 / 10)
    assert (card.feature, card.norm, card.link) == (1, 1.0, "")


def test_only_named_tokens_can_be_peaks_and_contexts_show_the_others_too():
    card = feature_card(plane(), table(), INPUTS, 1, positions="answer.numbers", context=1)
    assert card.frame["row"].tolist() == [0, 2]
    assert card.frame["position"].tolist() == [1, 1]
    assert card.contexts[0].pieces == ("<b>", "one ", "&two\n")
    assert card.contexts[0].values == (0.0, 3.0, 5.0)
    assert card.contexts[0].peak == 1
    assert card.contexts[1].values == (5.0, 3.0, 3.0)
    assert (card.rate, card.mean) == (pytest.approx(3 / 4), pytest.approx(9 / 4))
    assert card.notes[0] == "4 tokens 'answer.numbers' read"


def test_contexts_end_where_rows_do():
    card = feature_card(plane(), table(), INPUTS, 0, top=1, context=2)
    assert card.frame[["row", "position"]].to_numpy().tolist() == [[0, 3]]  # 4 after token 3
    assert card.contexts[0].pieces == ("one ", "&two\n", "</section>")
    assert card.contexts[0].peak == 2


def test_logit_effects_by_hand():
    # feature 1 writes y: logits 0 0 0 4, less their mean of 1
    frame = feature_card(plane(), table(), INPUTS, 1).logits
    assert frame["token_id"].tolist() == [3, 0, 1, 2]
    assert frame["effect"].tolist() == [3.0, -1.0, -1.0, -1.0]
    assert logit_effects(plane(hook="blocks.0.mlp.hook_post"), table(), 3).empty


def test_controls_stand_beside_the_feature():
    dictionary = plane()
    statistics = feature_statistics(dictionary, table(), INPUTS, positions="all")
    card = feature_card(dictionary, table(), INPUTS, 1)
    assert card.controls["feature"].tolist() == [1, 0]  # −x and −y never fire
    assert card.controls["control"].tolist() == [False, True]
    assert card.controls["mean"].tolist() == pytest.approx(statistics["mean"][[1, 0]].tolist())
    lone = statistics.assign(live=statistics["feature"] == 1)
    given = feature_card(dictionary, table(), INPUTS, 1, statistics=lone)
    assert given.controls["feature"].tolist() == [1]


@pytest.fixture(params=["llama", "gpt2", "gemma2"])
def model(tiny, request) -> Any:
    hf, tokenizer = tiny(request.param)
    return load_model(hf, tokenizer=tokenizer, name="base")


def test_effects_are_those_of_the_last_residual_stream(model):
    """The raw logits change by effect / scale when the norm's scale is held: the derivative along d at fixed scale."""
    dictionary = exact(model)
    head, feature = model.unembedding(), 5
    encoded = model.encode(PROMPTS)
    resid = model.run(encoded, hooks=[HOOK])[HOOK][0, 2]
    scale = head.scale(resid)

    def raw(x):
        return (head.centred(x) / scale * head.weight + head.bias) @ head.W_U + head.b_U

    change = raw(resid + 3.0 * dictionary.decoder[feature]) - raw(resid)
    effect = logit_effects(dictionary, model, feature).sort_values("token_id")["effect"].tolist()
    assert torch.allclose((change - change.mean()) * scale / 3.0, torch.tensor(effect), atol=1e-4)


def test_steering_by_a_little_moves_the_logits_by_the_effects_and_the_scale(tiny):
    """With the part along the residual stream taken out, the scale holds to first order and the model must agree."""
    hf, tokenizer = tiny("llama")
    base: Any = load_model(hf.double(), tokenizer=tokenizer, name="base")
    encoded = base.encode(PROMPTS[:1])
    resid = base.run(encoded, hooks=[HOOK])[HOOK][0, 2].float()
    d = torch.randn(32, generator=torch.Generator().manual_seed(0))
    d = d - (d @ resid) / (resid @ resid) * resid
    dictionary = handmade(d[:, None].clone(), d[None].clone(), hook=HOOK, model=base)
    moved = []
    for step in (0.01, -0.01):
        with steer(base, hook=HOOK, vector=step * d.double()):
            moved.append(base.logits(encoded)[0, 2])
    change = (moved[0] - moved[1]) / 0.02
    effect = logit_effects(dictionary, base, 0).sort_values("token_id")["effect"].tolist()
    expected = (change - change.mean()) * base.unembedding().scale(resid.double())
    assert torch.allclose(expected.float(), torch.tensor(effect), atol=1e-3)


def test_features_of_heads_write_through_W_O(tiny):
    hf, tokenizer = tiny("llama")
    base = load_model(hf, tokenizer=tokenizer, name="base")
    heads, residual = exact(base, "blocks.1.attn.hook_z"), exact(base)
    W_O, _ = base.attention_output(1)
    written = handmade(mirrored(32), W_O.flatten(0, 1).repeat(2, 1), hook=HOOK, model=base)
    assert logit_effects(heads, base, 9)["effect"].to_numpy() == pytest.approx(
        logit_effects(written, base, 9)["effect"].to_numpy(), abs=1e-5
    )
    assert (
        logit_effects(residual, base, 9)["token"].tolist() != logit_effects(heads, base, 9)["token"].tolist()
    )


def test_a_real_model_shows_the_tokens_it_read(model):
    dictionary = exact(model)
    encoded = model.encode(PROMPTS)
    full = model.run(encoded, hooks=[HOOK])[HOOK]
    for card in feature_cards(dictionary, model, PROMPTS, [3, 40], top=2):
        column = (full[..., 3] if card.feature == 3 else -full[..., 8]).masked_fill(~encoded.mask, -1)
        assert card.maximum == pytest.approx(float(column.max()), abs=1e-5)
        for line, context in zip(card.frame.itertuples(), card.contexts, strict=True):
            assert line.activation == pytest.approx(float(column[line.row].max()), abs=1e-5)
            assert context.pieces[context.peak] == line.token
            assert context.values[context.peak] == line.activation
            word = model.tokenizer.decode([int(encoded.ids[line.row, line.position])])
            assert line.token.strip() == word
    one, several = (
        feature_card(dictionary, model, PROMPTS, 3, top=2),
        feature_cards(dictionary, model, PROMPTS, [40, 3], top=2),
    )
    assert one.frame.equals(several[1].frame)
    assert one.logits.equals(several[1].logits)


class Reader(HTMLParser):
    """Collects tags and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.written = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.written += data


def test_html_shows_everything_and_escapes_it():
    dictionary = plane(label="<script>alert(1)</script>", neuronpedia="m/<i>")
    dictionary = replace(dictionary, notes=("trained on <another> model",))
    page = feature_card(dictionary, table(name="<u>base"), INPUTS, 0).to_html()
    reader = Reader(page)
    assert not {"script", "b", "u", "i", "another", "link", "img"} & set(reader.tags)
    assert reader.tags.count("section") == page.count("</section>") == 1
    for text in ("<script>alert(1)</script>", "<u>base", "trained on <another> model", "</section>", "&two⏎"):
        assert text in reader.written
    assert 'href="https://neuronpedia.org/m/&lt;i&gt;/0"' in page
    assert "http" not in re.sub(r'href="[^"]*"', "", page)
    assert feature_card(dictionary, table(), INPUTS, 0)._repr_html_().startswith("<section")


def test_repr_and_figure():
    card = feature_card(plane(), table(), INPUTS, 1)
    assert repr(card) == "FeatureCard(1 of by hand in base: rate 0.7, maximum 5, 3 rows)"
    figure: Any = card.figure()
    assert len(figure.data[0].x) == 4
    assert "logits per unit of the feature" in figure.layout.xaxis.title.text
    with pytest.raises(ValueError, match="has no logit effects"):
        replace(card, logits=card.logits.head(0)).figure()


def test_scaled_dictionaries_say_what_their_unit_is():
    card = feature_card(plane(normalise="constant_norm_rescale"), table(), INPUTS, 1)
    assert "a unit of the feature is one of the normalised activation" in card.notes


def test_messages():
    with pytest.raises(InputError, match=r"feature 2 of by hand never fires on these rows \(10 tokens\)"):
        feature_card(plane(), table(), INPUTS, 2)
    with pytest.raises(InputError, match=r"feature 0 of by hand never fires on these rows \(1 tokens\)"):
        feature_card(plane(), table(), rows(("pn", "32")), 0, positions="answer.numbers")
    with pytest.raises(InputError, match="there is no feature 4; by hand has features 0 to 3"):
        feature_card(plane(), table(), INPUTS, 4)
    with pytest.raises(InputError, match=r"no row of 'rows' has a position 'answer.end'"):
        feature_card(plane(), table(), INPUTS, 0, positions="answer.end")
    with pytest.raises(InputError, match="a card of 0 rows"):
        feature_card(plane(), table(), INPUTS, 0, top=0)
    with pytest.raises(InputError, match="descends from root"):
        feature_card(replace(plane(), lineage="other"), table(), INPUTS, 0)
