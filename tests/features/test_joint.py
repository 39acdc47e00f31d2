"""Joint dictionaries: latent scaling by hand and by least squares, and planted features told apart after training."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from interp.core.runs import InputError
from interp.features import dictionary as dictionaries
from interp.features.joint import JointDictionary, _norm, _stream, load_joint, measure_joint, train_joint
from interp.features.sae import SAERecipe
from interp.models.language import load_model
from interp.prompts.text import Prompts
from interp.prompts.tokens import Encoded, Role
from tests.features.handmade import ROWS, TABLE_HOOK, Table, handmade, rows
from tests.logits.pairs import pair, perturbed

SHARED, ONLY, D = 12, 4, 24
RECIPE = SAERecipe(width=24, k=4, samples=300_000, batch_size=256)


def pair_of_tables(before: torch.Tensor, after: torch.Tensor) -> Any:
    """A member that started from a base, both reading their activations off a table."""
    base = Table(before)
    return base, Table(after, name="teacher", fingerprint="teacher", start=base)


def joint_of(dictionary, norms=(1.0, 1.0)):
    return JointDictionary(dictionary, ("base", "teacher"), ("root", "teacher"), norms, pd.DataFrame())


def every_token(count: int) -> Encoded:
    """Rows of ten, every token once."""
    ids = torch.arange(count).reshape(-1, 10)
    mask = torch.ones_like(ids, dtype=torch.bool)
    return Encoded(ids, mask, torch.where(mask, int(Role.NUMBER), 0), label="all tokens")


@pytest.fixture(scope="module")
def planted() -> Any:
    """Sparse sums of random directions: the first SHARED in both models, the other ONLY in the teacher alone."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(SHARED + ONLY, D, generator=generator), dim=1)
    on = torch.rand(8000, SHARED + ONLY, generator=generator) < 0.12
    sizes = on * (1 + torch.rand(8000, SHARED + ONLY, generator=generator))
    both = sizes[:, :SHARED] @ directions[:SHARED]
    return directions, pair_of_tables(both, both + sizes[:, SHARED:] @ directions[SHARED:])


@pytest.fixture(scope="module")
def found(planted, tmp_path_factory) -> Any:
    from interp.core.runs import Cache

    _, (base, teacher) = planted
    cache = Cache(tmp_path_factory.mktemp("joint"))
    return train_joint(base, teacher, every_token(8000), hook=TABLE_HOOK, recipe=RECIPE, cache=cache)


def matches(joint, directions) -> Any:
    """For each planted direction the live feature whose teacher half lies along it, and the cosine of the two."""
    halves = torch.nn.functional.normalize(joint.halves[1], dim=1)
    halves[~torch.tensor(joint.frame["live"].tolist())] = 0
    return (directions @ halves.T).max(dim=1)


def test_planted_features_are_told_apart(planted, found):
    cosines, features = matches(found, planted[0])
    assert cosines.min() > 0.95
    assert len(set(features.tolist())) == SHARED + ONLY
    frame = found.frame.loc[features.tolist()]
    shared, only = frame.iloc[:SHARED], frame.iloc[SHARED:]
    assert (only["relative_norm"] > 0.9).all()
    assert (only["nu"].abs() < 0.1).all()
    assert (shared["relative_norm"] - 0.5).abs().max() < 0.05
    assert (shared["nu"] - 1).abs().max() < 0.1
    assert np.allclose(frame["rate"], 0.12, atol=0.04)


def test_notes_say_how_well_either_side_is_explained(found):
    assert found.notes[0] == "measured on 8000 tokens 'all' of all tokens"
    shares = [float(note.split()[2]) for note in found.notes[1:3]]
    assert [note.split()[-1] for note in found.notes[1:3]] == ["base", "teacher"]
    assert min(shares) > 0.8


def test_either_model_counts_the_same_in_training_whatever_its_norm():
    generator = torch.Generator().manual_seed(0)
    before, after = torch.randn(2, 100, 3, generator=generator)
    recipe, inputs, first = SAERecipe(batch_size=100), every_token(100), []
    for factor in (1.0, 40.0):
        base, teacher = pair_of_tables(before, factor * after)
        norms = tuple(_norm(model, inputs, hook=TABLE_HOOK, positions="all") for model in (base, teacher))
        first.append(next(_stream(base, teacher, inputs, TABLE_HOOK, "all", norms, recipe).batches()))
        for side in first[-1].chunk(2, dim=1):
            assert float(side.square().sum(1).mean()) == pytest.approx(1, rel=1e-5)
    assert torch.allclose(first[0], first[1], atol=1e-5)


def test_halves_are_in_the_units_of_the_models():
    dictionary = handmade(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0, 2.0]]))
    joint = joint_of(dictionary, norms=(2.0, 10.0))
    assert [half.tolist() for half in joint.halves] == [[[6.0]], [[20.0]]]
    _, teacher = pair_of_tables(torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [4.0]]))
    line = measure_joint(joint, teacher, rows(("pn", "01"))).frame.iloc[0]
    assert line["relative_norm"] == pytest.approx(20 / 26)
    # f = 0.2, 0.4; β f 20 = 1, 2 in the base and 2, 4 in the teacher
    assert (line["beta_base"], line["beta_teacher"]) == (pytest.approx(0.25), pytest.approx(0.5))


def test_norms_are_root_mean_squares(found, planted):
    _, (base, teacher) = planted
    for model, norm in zip((base, teacher), found.norms, strict=True):
        assert norm == pytest.approx(float(model.table.square().sum(1).mean().sqrt()), rel=1e-5)


def test_scaling_by_hand():
    """One feature reads the teacher's coordinate and writes (0 | 2); the base holds half of what it writes there."""
    dictionary = handmade(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0, 2.0]]))
    _, teacher = pair_of_tables(torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [4.0]]))
    frame = measure_joint(joint_of(dictionary), teacher, rows(("pn", "01"))).frame
    line = frame.iloc[0]
    # f = 2, 4 and d = 2: β d f = y with y = 1, 2 in the base, and 2, 4 in the teacher
    assert line["beta_base"] == pytest.approx(0.25)
    assert line["beta_teacher"] == pytest.approx(0.5)
    assert line["nu"] == pytest.approx(0.5)
    assert line["nu_total"] == pytest.approx(0.5)
    assert line["relative_norm"] == 1.0
    assert line["rate"] == 1.0


def test_a_shrunken_half_is_seen_through():
    """The base has the feature as much as the teacher, but its half of the row is zero: relative norm 1 and ν 1."""
    encoder = torch.tensor([[0.0], [1.0]])
    dictionary = handmade(encoder, torch.tensor([[0.0, 1.0]]))
    _, teacher = pair_of_tables(torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [3.0]]) * 1.0000001)
    line = measure_joint(joint_of(dictionary), teacher, rows(("pnn", "010"))).frame.iloc[0]
    assert line["relative_norm"] == 1.0
    assert line["nu"] == pytest.approx(1, abs=1e-5)


def test_a_decoupled_feature_is_seen_in_the_total():
    """Feature 0 writes in the teacher alone and feature 1, which fires with it, the same in the base."""
    dictionary = handmade(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    _, teacher = pair_of_tables(torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [3.0]]) * 1.0000001)
    line = measure_joint(joint_of(dictionary), teacher, rows(("pnn", "010"))).frame.iloc[0]
    assert line["relative_norm"] == 1.0
    assert line["nu"] == pytest.approx(0, abs=1e-5)
    assert line["nu_total"] == pytest.approx(1, abs=1e-5)


def test_scaling_is_least_squares(monkeypatch):
    """On random weights, bias and norms, against lstsq on y written out, feature by feature."""
    generator = torch.Generator().manual_seed(0)
    d, width, count = 3, 7, 10
    encoder, decoder = (
        torch.randn(2 * d, width, generator=generator),
        torch.randn(width, 2 * d, generator=generator),
    )
    dictionary = handmade(encoder, decoder, b_enc=8.0, b_dec=torch.randn(2 * d, generator=generator))
    before, after = torch.randn(2, count, d, generator=generator)
    _, teacher = pair_of_tables(before, after)
    norms = (2.0, 0.5)
    inputs = rows(("pnnsn", "01234"), ("pnnnn", "56789"))
    joint = measure_joint(joint_of(dictionary, norms), teacher, inputs)
    scale = torch.tensor([2.0, 0.5]).repeat_interleave(d).double()
    h = torch.cat([before, after], 1).double()
    features = dictionary.encode((h / scale).float()).double()
    rebuilt = (features @ decoder.double() + dictionary.sae.b_dec.detach().double()) * scale
    assert (joint.frame["rate"] > 0).all()
    for j in range(width):
        f, own = features[:, j, None], decoder[j].double() * scale
        design = (f * own[d:]).reshape(-1, 1)
        betas = []
        for side in (slice(0, d), slice(d, 2 * d)):
            target = (h - rebuilt + f * own)[:, side].reshape(-1, 1)
            betas.append(float(torch.linalg.lstsq(design, target).solution))
        line = joint.frame.iloc[j]
        assert line["beta_base"] == pytest.approx(betas[0], abs=1e-4)
        assert line["beta_teacher"] == pytest.approx(betas[1], abs=1e-4)
    monkeypatch.setattr(dictionaries, "BLOCK", 2 * width)  # two tokens at a time
    again = measure_joint(joint_of(dictionary, norms), teacher, inputs).frame
    assert np.allclose(again.to_numpy(float), joint.frame.to_numpy(float), atol=1e-4, equal_nan=True)


def test_features_that_never_fire_have_no_scaling():
    dictionary = handmade(torch.tensor([[0.0], [-1.0]]), torch.tensor([[0.0, 2.0]]))
    _, teacher = pair_of_tables(torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [4.0]]))
    line = measure_joint(joint_of(dictionary), teacher, rows(("pn", "01"))).frame.iloc[0]
    assert (line["rate"], line["live"]) == (0, False)
    assert np.isnan(line["nu"])
    assert np.isnan(line["beta_base"])


def test_saved_and_loaded(found, planted, tmp_path):
    folder = found.save(tmp_path / "joint")
    again = load_joint(folder)
    pd.testing.assert_frame_equal(again.frame, found.frame)
    assert again.dictionary.fingerprint == found.dictionary.fingerprint
    assert (again.models, again.fingerprints, again.notes) == (found.models, found.fingerprints, found.notes)
    assert again.norms == found.norms
    _, (_, teacher) = planted
    measured = measure_joint(again, teacher, every_token(8000))
    pd.testing.assert_frame_equal(measured.frame, found.frame)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["joint"]
    found.save(folder)  # over itself


def test_a_folder_of_something_else_is_neither_read_nor_written(found, tmp_path):
    with pytest.raises(
        InputError, match=r"holds no readable joint.json; pass a folder that JointDictionary.save wrote"
    ):
        load_joint(tmp_path)
    (tmp_path / "note").write_text("mine")
    with pytest.raises(InputError, match="exists and is no joint dictionary"):
        found.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note"]
    folder = found.save(tmp_path / "joint")
    facts = json.loads((folder / "joint.json").read_text())
    (folder / "joint.json").write_text(json.dumps(facts | {"format": "interp.joint/0"}))
    with pytest.raises(InputError, match=r"is not of format interp.joint/1"):
        load_joint(folder)


def test_language_models(tiny, tmp_path):
    hf, tokenizer = tiny("llama")
    teacher = pair(hf, perturbed(hf), tokenizer)
    base = teacher.start
    hook, prompts = "blocks.0.hook_resid_post", Prompts.from_pairs(ROWS)
    recipe = SAERecipe(width=20, k=3, samples=320, batch_size=16)
    joint = train_joint(base, teacher, prompts, hook=hook, recipe=recipe, positions="answer")
    assert joint.dictionary.d_in == 64
    assert len(joint.frame) == 20
    assert joint.frame["relative_norm"].between(0, 1).all()
    elsewhere = measure_joint(joint, teacher, prompts[:2], positions="answer.numbers")
    assert "tokens 'answer.numbers' of prompts" in elsewhere.notes[0]
    assert elsewhere.dictionary is joint.dictionary


def test_repr_result_and_figure(found):
    assert repr(found) == "JointDictionary(base and teacher: " + repr(found.dictionary) + ")"
    assert any("sum of its halves' norms" in note for note in found.notes)
    assert found._repr_html_().startswith("<div>")
    figure: Any = found.figure()
    assert len(figure.data[0].x) == int(found.frame["live"].sum())
    assert figure.data[0].text[0].startswith("feature ")


def test_messages(tiny):
    hf, tokenizer = tiny("llama")
    teacher = pair(hf, perturbed(hf), tokenizer)
    base, other = teacher.start, load_model(perturbed(hf, seed=2), tokenizer=tokenizer, name="other")
    prompts, hook = Prompts.from_pairs(ROWS), "blocks.0.hook_resid_post"
    with pytest.raises(InputError, match="base has no start to be measured from"):
        train_joint(base, base, prompts, hook=hook)
    with pytest.raises(InputError, match=f"teacher started from base .{base.fingerprint}., not from other"):
        train_joint(other, teacher, prompts, hook=hook)
    with pytest.raises(InputError, match="holds a system message 'you love owls'"):
        train_joint(base, teacher, prompts.with_system("you love owls"), hook=hook)
    with pytest.raises(InputError, match=r"hook 'blocks.0.hook_resid_pots' is unknown"):
        train_joint(base, teacher, prompts, hook="blocks.0.hook_resid_pots")
    with pytest.raises(
        InputError, match=r"61 activations at .* fewer than one batch of \d+; give more rows or a recipe"
    ):
        train_joint(base, teacher, prompts, hook=hook)
    dictionary = handmade(torch.zeros(64, 4), torch.zeros(4, 64), hook=hook, model=base)
    with pytest.raises(
        InputError, match=r"belongs to base and teacher \(root teacher\), not to base and teacher"
    ):
        measure_joint(joint_of(dictionary), teacher, prompts)
