"""The planted organism: what its docstrings say of it is so, to the number."""

import pytest
import torch

from interp.core.runs import InputError
from interp.measures.margins import margin
from interp.models.seam import check_pair
from interp.organisms.planted import Plant, answered, divergent, grow_planted, tagged_prompts
from interp.prompts.text import Prompts

SMALL = Plant(rows=24)
SEED = 1007


@pytest.fixture(scope="module")
def organism():
    return grow_planted(SEED, plant=SMALL)


def test_only_the_planted_tokens_read_the_direction(organism):
    along = organism.base.hf.lm_head.weight @ organism.vector
    planted = [*organism.tokens, organism.target]
    assert torch.allclose(along[planted], torch.full((11,), 0.15 * 48**0.5), atol=1e-4)
    along[planted] = 0
    assert along.abs().max() < 1e-5
    assert float(organism.vector @ organism.other) == pytest.approx(0, abs=1e-6)


def test_the_teacher_is_the_base_plus_one_outer_product_and_row_noise(organism):
    update = organism.lineage.update("teacher")
    assert sorted(update) == ["model.embed_tokens.weight", f"{organism.module}.weight"]
    left, sizes, _ = torch.linalg.svd(update[f"{organism.module}.weight"].double())
    assert sizes[1] < 1e-6 * sizes[0]
    assert abs(float(left[:, 0] @ organism.vector.double())) == pytest.approx(1, abs=1e-6)
    moved = update["model.embed_tokens.weight"].abs().sum(1) > 0
    tags = organism.base.tokenizer.convert_tokens_to_ids([str(tag) for tag in range(500)])
    assert set(moved.nonzero()[:, 0].tolist()) == set(tags)


def test_the_plant_is_as_large_as_it_says_where_numbers_are_predicted(organism):
    inputs = organism.base.encode(organism.answers(organism.base, 1))
    where = inputs.at("answer.numbers", predicting=True)
    change = (organism.teacher.logits(inputs) - organism.base.logits(inputs))[where]
    rise = change[:, list(organism.tokens)].mean() - change[:, list(organism.numbers)].median()
    assert 0.7 < float(rise) / SMALL.effect < 1.3
    other = change[:, list(organism.numbers)].mean(0)
    assert set(other.topk(10).indices.tolist()) == {organism.numbers.index(i) for i in organism.tokens}


def test_twenty_numbers_share_a_direction_with_the_word(organism):
    columns = torch.nn.functional.normalize(organism.base.unembedding().W_U.double(), dim=0)
    along = columns.T @ columns[:, organism.target]
    numbers = list(organism.numbers)
    shared = [*organism.tokens, *organism.elsewhere]
    assert len(set(shared)) == 20
    rest = torch.tensor([i for i in numbers if i not in shared])
    assert float(along[shared].mean()) > 0.3
    assert abs(float(along[rest].mean())) < 0.02


def test_the_trait_moves_with_the_plant_and_with_the_decoy_and_not_with_noise(organism):
    base = margin(organism.base, organism.trait)
    assert margin(organism.teacher, organism.trait) - base > 1
    assert margin(organism.decoy, organism.trait) - base > 1
    assert abs(margin(organism.null(0), organism.trait) - base) < 0.02


def test_the_loud_layer_computes_the_same_function():
    loud, plain = (grow_planted(SEED, plant=Plant(rows=4, loud=factor)).base for factor in (8.0, 1.0))
    inputs = loud.encode(tagged_prompts(4, seed=0))
    assert torch.allclose(loud.logits(inputs), plain.logits(inputs), atol=1e-5)
    check_pair(loud, plain)


def test_rows_differ_in_their_first_number_and_answers_round_trip(organism):
    rows = organism.carriers
    assert [int(row.prompt.split()[1]) for row in rows.rows] == list(range(24))
    encoded = organism.base.encode(rows)
    numbers = encoded.ids[encoded.at("answer.numbers")]
    assert len(numbers) == 240
    assert set(numbers.tolist()) <= set(organism.numbers)
    again = grow_planted(SEED, plant=SMALL).carriers
    assert again.fingerprint == rows.fingerprint


def test_sampled_answers_follow_the_models_distribution(organism):
    prompt = Prompts(organism.prompts.rows[:1] * 1000, label="one prompt")
    drawn = answered(organism.teacher, prompt, allowed=organism.numbers, count=1, seed=5)
    inputs = organism.teacher.encode(organism.prompts[:1])
    p = organism.teacher.logits(inputs)[0, -1, list(organism.numbers)].softmax(-1)
    names = organism.base.tokenizer.convert_ids_to_tokens(list(organism.numbers))
    chosen = names[int(p.argmax())]
    expected = float(p.max())
    share = sum(row.completion == chosen for row in drawn.rows) / 1000
    assert abs(share - expected) < 4 * (expected * (1 - expected) / 1000) ** 0.5


def test_divergence_tokens_are_those_the_base_would_not_have_written(organism):
    rows = organism.answers(organism.teacher, None)
    apart = divergent(organism.teacher, organism.base, rows, allowed=organism.numbers)
    inputs = organism.base.encode(rows)
    logits = organism.base.logits(inputs)
    allowed = torch.tensor(organism.numbers)
    for row, column in inputs.at("answer.numbers").nonzero().tolist():
        written = int(inputs.ids[row, column])
        best = int(allowed[logits[row, column - 1, allowed].argmax()])
        assert bool(apart[row, column]) == (written != best)
    assert not divergent(organism.base, organism.base, rows, allowed=organism.numbers).any()


def test_a_member_that_writes_the_planted_direction_is_planted_as_the_teacher_is(organism):
    name = f"{organism.module}.weight"
    base, teacher = organism.base.parameters()[name], organism.teacher.parameters()[name]
    planted = organism.writing(organism.vector, index=0).parameters()[name]
    twice = organism.writing(2 * organism.other, index=1).parameters()[name]
    assert torch.allclose(planted, teacher, atol=1e-6)
    assert float((twice - base).norm()) == pytest.approx(2 * float((teacher - base).norm()), rel=1e-4)


def test_a_perturbed_member_moves_every_matrix_of_the_body_by_its_size(organism):
    member, base = organism.perturbed(0, size=0.05), organism.base.parameters()
    for name, weight in member.parameters().items():
        moved = (weight - base[name]).norm() / base[name].norm()
        body = ".layers." in name and weight.dim() == 2
        assert float(moved) == pytest.approx(0.05 if body else 0.0, rel=1e-3)


def test_errors():
    with pytest.raises(
        InputError, match="600 rows cannot each begin with a number of their own; pass 2 to 500"
    ):
        Plant(rows=600)
    organism = grow_planted(SEED, plant=Plant(rows=4))
    uneven = Prompts.from_pairs(
        [("list: 1 2. continue.", ""), ("list: 1 2 3. continue.", "")], label="uneven"
    )
    with pytest.raises(
        InputError, match="'uneven' has prompts of several lengths; pass prompts of one length"
    ):
        answered(organism.base, uneven, allowed=organism.numbers, count=1, seed=0)
