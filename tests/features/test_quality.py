"""The quality card: every number worked out by hand on a table, and its limits on real architectures."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from interp.activations.recording import Selection, moments
from interp.core.runs import InputError
from interp.features import dictionary as dictionaries
from interp.features.quality import fit_of, quality_card
from interp.features.reading import read_tokens
from interp.models.language import load_model
from interp.models.lineage import Lineage
from interp.prompts.text import Prompts
from interp.prompts.tokens import Role
from tests.features.handmade import ROWS, Table, handmade, mirrored, rows
from tests.logits.pairs import perturbed

HOOK = "blocks.0.hook_resid_post"
PROMPTS = Prompts.from_pairs(ROWS)
# activations after tokens 0, 1, 2; of them a dictionary that forgets y makes the first coordinate
TABLE = torch.tensor([[1.0, 2.0], [3.0, -2.0], [-1.0, 0.0]])


def forgetful():
    encoder = mirrored(2)
    decoder = encoder.T.clone()
    decoder[[1, 3]] = 0.0
    return handmade(encoder, decoder)


def exact(model, hook=HOOK, **options):
    d = 32
    return handmade(mirrored(d), mirrored(d).T.contiguous(), hook=hook, model=model, **options)


@pytest.fixture
def pair(tiny) -> Any:
    """A base and a member that started from it."""
    hf, tokenizer = tiny("llama")
    base = load_model(hf, tokenizer=tokenizer, name="base")
    teacher = load_model(perturbed(hf), tokenizer=tokenizer, name="teacher")
    return base, replace(teacher, start=base)


def test_every_number_by_hand():
    # the logits are the activation itself, over a vocabulary of two
    result = quality_card(forgetful(), {"base": Table(TABLE)}, rows(("pnn", "010"), ("pne", "211")))
    line = result.frame.iloc[0]
    # tokens 0 1 0 2 1 1: features fire 2 2 2 1 2 2 times; y is lost, so Σ e² = 4 + 4 + 4 + 0 + 4 + 4
    assert line["L0"] == 11 / 6
    assert line["dead_share"] == 0
    h = TABLE[[0, 1, 0, 2, 1, 1]]
    spread = float((h - h.mean(0)).square().sum())
    assert line["explained_variance"] == pytest.approx(1 - 20 / spread)
    # answers 1 and 0 of the first row are read after 0 and 1, answer 1 of the second after 2 and its end 1 after 1
    places, written = TABLE[[0, 1, 2, 1]], torch.tensor([1, 0, 1, 1])
    spliced, mean = places * torch.tensor([1.0, 0.0]), h.mean(0).expand(4, 2)
    losses = [
        -float(logits.double().log_softmax(-1)[range(4), written].mean())
        for logits in (places, spliced, mean)
    ]
    assert result.unit == "losses in nats per answer token, end token counted; the rest shares and counts"
    assert line[["loss", "loss_spliced", "loss_ablated"]].tolist() == pytest.approx(losses, abs=1e-6)
    recovered = (losses[2] - losses[1]) / (losses[2] - losses[0])
    assert line["loss_recovered"] == pytest.approx(recovered, abs=1e-6)


def test_a_feature_that_never_fires_is_dead_on_these_tokens():
    inputs = rows(("pn", "00"))
    frame = quality_card(forgetful(), {"base": Table(TABLE)}, inputs).frame
    assert frame["dead_share"][0] == 0.5  # x and y are positive after token 0
    assert math.isnan(frame["explained_variance"][0])  # one and the same activation twice
    assert math.isnan(frame["loss_recovered"][0])


def test_what_stands_out_is_in_no_number():
    """A first token of a thousand times the norm: the same sums as by hand without it, and neither edit touches it."""
    table = torch.cat([TABLE, torch.tensor([[1000.0, -2000.0]])])
    inputs = rows(("pnn", "310"), ("pnne", "3211"), ("pnnnn", "30121"))
    wide = Table(table, torch.eye(2, 3))  # a vocabulary of three, the last with a logit of zero
    result = quality_card(forgetful(), {"base": wide}, inputs)
    line = result.frame.iloc[0]
    h = TABLE[[1, 0, 2, 1, 1, 0, 1, 2, 1]]
    assert line["L0"] == 16 / 9  # token 2 fires one feature, the others two
    lost = h[:, 1].square().sum()
    spread = (h - h.mean(0)).square().sum()
    assert line["explained_variance"] == pytest.approx(float(1 - lost / spread))
    # every answer and end is read at the token before it; the first at the sink, which stays
    before = [3, 1, 3, 2, 1, 3, 0, 1, 2]
    written = torch.tensor([1, 0, 2, 1, 1, 0, 1, 2, 1])
    places = torch.cat([table, torch.zeros(4, 1)], 1)[before]
    sink = (torch.tensor(before) == 3)[:, None]
    mean = torch.cat([h.mean(0), torch.zeros(1)])
    versions = (
        places,
        torch.where(sink, places, places * torch.tensor([1.0, 0.0, 0.0])),
        torch.where(sink, places, mean),
    )
    losses = [-float(each.double().log_softmax(-1)[range(9), written].mean()) for each in versions]
    assert line[["loss", "loss_spliced", "loss_ablated"]].tolist() == pytest.approx(losses, rel=1e-6)
    said = "base: 3 of 12 tokens left out, whose norm is over 10 times the median of 3.606 at blocks.0.hook_mlp_out"
    assert any(note.startswith(said) for note in result.notes)
    kept = quality_card(forgetful(), {"base": wide}, inputs, positions="all with outliers")
    assert kept.frame["explained_variance"][0] < 0.3  # of y, which is lost, the sinks hold nearly all
    assert not any("left out" in note for note in kept.notes)


def test_a_dictionary_whose_limit_nothing_meets_is_refused():
    narrow = replace(forgetful(), limit=1e-3)
    with pytest.raises(InputError, match="every token at 'all' has a norm beyond"):
        quality_card(narrow, {"base": Table(TABLE)}, rows(("pn", "01")))


def test_no_loss_to_recover_is_said():
    result = quality_card(forgetful(), {"base": Table(TABLE)}, rows(("pn", "00")))
    assert "ablating the hook does not raise the loss of base, so no loss can be recovered" in result.notes


def test_fit_does_not_depend_on_batches_or_blocks(pair, monkeypatch):
    base, _ = pair
    dictionary = exact(base, b_enc=-0.3)
    selection = Selection.of(base, PROMPTS, "all")
    whole = fit_of(dictionary, base, selection)
    monkeypatch.setattr(dictionaries, "BLOCK", 64 * 5)
    parts = fit_of(dictionary, base, selection, batch_size=1)
    assert parts.moments.count == whole.moments.count == int(selection.chosen.sum())
    assert parts.active == whole.active
    assert parts.moments.squares == pytest.approx(whole.moments.squares)
    assert parts.error == pytest.approx(whole.error)
    reference = moments(base, PROMPTS, hooks=HOOK)[HOOK]
    assert torch.allclose(parts.moments.mean.float(), reference.mean, atol=1e-5)
    assert parts.moments.squares == pytest.approx(
        float(reference.covariance.trace()) * (whole.moments.count - 1), rel=1e-5
    )


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("hook", [HOOK, "blocks.0.attn.hook_z"])
def test_an_exact_dictionary_recovers_everything(tiny, family, hook):
    hf, tokenizer = tiny(family)
    base = load_model(hf, tokenizer=tokenizer, name="base")
    line = quality_card(exact(base, hook), {"base": base}, PROMPTS).frame.iloc[0]
    assert line["explained_variance"] == pytest.approx(1, abs=1e-6)
    assert line["L0"] == 32  # one of each mirrored pair
    assert line["loss_spliced"] == pytest.approx(line["loss"], abs=1e-5)
    with torch.no_grad():
        encoded = base.encode(PROMPTS)
        logits = hf(input_ids=encoded.ids, attention_mask=encoded.mask.long()).logits[:, :-1].log_softmax(-1)
    taken = logits.gather(-1, encoded.ids[:, 1:, None])[..., 0][(encoded.roles >= Role.OTHER)[:, 1:]]
    assert line["loss"] == pytest.approx(-float(taken.mean()), abs=1e-5)


def test_a_dictionary_of_zeros_leaves_what_ablation_leaves(pair):
    """Its reconstruction is its bias; with the base's mean for a bias, splicing is ablating."""
    base, _ = pair
    mean = moments(base, PROMPTS, hooks=HOOK)[HOOK].mean
    zeros = handmade(torch.zeros(32, 4), torch.zeros(4, 32), hook=HOOK, model=base, b_dec=mean)
    line = quality_card(zeros, {"base": base}, PROMPTS).frame.iloc[0]
    assert line["explained_variance"] == pytest.approx(0, abs=1e-5)
    assert (line["L0"], line["dead_share"]) == (0, 1)
    assert line["loss_spliced"] == pytest.approx(line["loss_ablated"], abs=1e-5)


def test_a_member_that_is_not_reconstructed_is_named(pair):
    """Directions that the base does not use are missing from the dictionary: the member that does is named."""
    base, teacher = pair
    h = read_tokens(exact(base), base, PROMPTS, positions="all").values
    mean, (_, _, right) = h.mean(0), torch.linalg.svd(h - h.mean(0), full_matrices=False)
    kept = right[:20]  # the twenty directions in which the base varies most
    dictionary = handmade(
        torch.cat([kept, -kept]).T.contiguous(), torch.cat([kept, -kept]), hook=HOOK, model=base, b_dec=mean
    )
    result = quality_card(dictionary, {"base": base, "teacher": teacher}, PROMPTS)
    variance = result.frame["explained_variance"]
    assert variance[1] < variance[0] - 0.05
    assert not result.frame["faithful"][1]
    said = f"does not reconstruct teacher: explained variance {variance[1]:.3f}, {variance[0]:.3f} in base"
    assert any(said in note for note in result.notes)
    assert not any("not reconstruct base: explained" in note for note in result.notes)


def test_too_little_loss_recovered_is_said():
    """The first member is judged by its loss: y alone tells the answers, and y is forgotten."""
    table = torch.tensor([[3.0, 1.0], [-3.0, -1.0]])
    W_U = torch.tensor([[0.0, 0.0], [4.0, -4.0]])
    result = quality_card(forgetful(), {"base": Table(table, W_U)}, rows(("pn", "00"), ("pn", "11")))
    line = result.frame.iloc[0]
    assert line["explained_variance"] == pytest.approx(0.9)
    assert line["loss_recovered"] == pytest.approx(0, abs=1e-6)
    assert not line["faithful"]
    said = f"the dictionary does not reconstruct base: {line['loss_recovered']:.3f} of the loss recovered, below 0.8"
    assert said in result.notes


def test_a_lineage_leaves_out_other_initialisations(pair, tiny):
    base, teacher = pair
    other, _ = tiny("llama", seed=1)
    cross = load_model(other, tokenizer=base.tokenizer, name="cross_base")
    lineage = Lineage("tiny", None, {"base": base, "teacher": teacher, "cross_base": cross})
    result = quality_card(exact(base), lineage, PROMPTS)
    assert result.frame["member"].tolist() == ["base", "teacher"]
    assert result.frame["faithful"].all()
    assert "left out, another initialisation: cross_base" in result.notes
    with pytest.raises(InputError, match="belongs to models that descend from elsewhere"):
        quality_card(replace(exact(base), lineage="elsewhere"), lineage, PROMPTS)


def test_nothing_stays_behind(pair):
    base, _ = pair
    before = base.logits(base.encode(PROMPTS))
    quality_card(exact(base, b_enc=-0.5), {"base": base}, PROMPTS)
    assert torch.equal(base.logits(base.encode(PROMPTS)), before)


def test_notes_and_figure(pair):
    base, teacher = pair
    dictionary = replace(exact(base), notes=("trained on another model",))
    result = quality_card(dictionary, {"base": base, "teacher": teacher}, PROMPTS, positions="answer.numbers")
    assert result.notes[0] == "trained on another model"
    assert result.notes[-1] == "explained variance, L0 and dead share at positions answer.numbers"
    figure: Any = result.figure()
    assert [len(trace.x) for trace in figure.data] == [2, 2]
    assert [trace.name for trace in figure.data] == ["base", "teacher"]
    assert "2 rows" in repr(result)


def test_messages(pair):
    base, _ = pair
    questions = Prompts.from_pairs([("which animal is best ?", "")], label="questions")
    with pytest.raises(InputError, match=r"no row of 'questions' has a position 'answer'; give prompts that"):
        quality_card(exact(base), {"base": base}, questions)
    with pytest.raises(InputError, match="no member to judge the dictionary by"):
        quality_card(exact(base), {}, PROMPTS)
    with pytest.raises(InputError, match="belongs to models that descend from elsewhere"):
        quality_card(replace(exact(base), lineage="elsewhere"), {"base": base}, PROMPTS)
