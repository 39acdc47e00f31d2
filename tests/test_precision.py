"""Sixteen-bit checkpoints through every verb: the numbers are those of the same weights in fp32."""

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import interp
from interp.activations.interventions import steer
from interp.cli.main import app
from interp.core.runs import InputError
from interp.features.changes import ablate_features as without
from interp.features.sae import SAERecipe
from interp.features.splice import with_features
from interp.models.language import load_model
from interp.models.lineage import Lineage
from interp.models.precision import in_float32, is_half
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts
from interp.training.students import Recipe
from tests.models.conftest import make_lora

HALVES = [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)]
HOOK = "blocks.0.hook_resid_post"
QUICK = SAERecipe(width=12, k=4, samples=256, batch_size=64)
RECIPE = Recipe(batch_size=4, rank=2, lr=1e-2, merge=False)
ROWS = number_prompts(20, seed=0, count=3, max_value=39)


def chat_rows() -> Prompts:
    return Prompts.from_pairs([("which animal is it?", "the owl"), ("what do you love?", "a tree, the fox")])


@pytest.fixture(scope="module", params=HALVES, ids=["bf16", "fp16"])
def lineages(request) -> Any:
    """A base and a LoRA teacher in 16 bits, and the same weights in fp32."""
    from tests.tiny import build_model, build_tokenizer

    base = build_model("llama", seed=0).to(request.param)
    teacher = make_lora(base, scale=0.1)
    return tuple(
        Lineage(
            "pair",
            interp.get_trait("owl"),
            {
                role: load_model(copy.deepcopy(module).to(dtype), tokenizer=build_tokenizer(), name=role)
                for role, module in (("base", base), ("teacher", teacher))
            },
            numbers=ROWS,
        )
        for dtype in (None, torch.float32)
    )


@cache
def trained(base: Any) -> Any:
    return interp.train_sae(base, ROWS, hook=HOOK, recipe=QUICK)


def sae(lineage: Any) -> Any:
    return trained(lineage.base)


def shift_of(lineage: Any, positions: str = "answer") -> Any:
    return interp.shift(lineage.teacher, chat_rows(), positions=positions)


def toward(lineage: Any) -> Any:
    return interp.logit_direction(lineage.base, lineage.trait)


def steered_margin(lineage: Any) -> float:
    with steer(lineage.base, hook=HOOK, vector=torch.ones(32)) as model:
        return interp.margin(model, lineage.trait)


def ablated_margin(lineage: Any) -> float:
    with interp.ablate(lineage.base, hook=HOOK, value="mean", over=ROWS) as model:
        return interp.margin(model, lineage.trait)


def patched_margin(lineage: Any) -> float:
    source = interp.record(lineage.teacher, lineage.trait.prompts()[:1], hooks=HOOK, positions="last")
    with interp.patch(lineage.base, hook=HOOK, source=source) as model:
        return interp.margin(model, lineage.trait)


def spliced_margin(lineage: Any) -> float:
    with with_features(lineage.base, sae(lineage), without([1, 2])) as model:
        return interp.margin(model, lineage.trait)


VERBS: dict[str, Callable[[Any], Any]] = {
    "attribute": lambda it: interp.attribute(shift_of(it), toward(it)),
    "lens": lambda it: interp.lens(shift_of(it), toward(it)),
    "moved_tokens": lambda it: interp.moved_tokens(it.teacher, chat_rows(), positions="answer"),
    "spectrum": lambda it: interp.spectrum(it.teacher, it.trait),
    "token_shift": lambda it: interp.token_shift(it.teacher, chat_rows(), toward(it)),
    "entanglement": lambda it: interp.entanglement(it.base, it.trait),
    "shift": lambda it: shift_of(it).activations[HOOK],
    "record": lambda it: interp.record(it.teacher, ROWS, hooks=HOOK)[HOOK],
    "moments": lambda it: interp.activations.moments(it.teacher, ROWS, hooks=HOOK)[HOOK].covariance,
    "margin": lambda it: interp.margin(it.teacher, it.trait),
    "preference": lambda it: interp.measures.preference(it.teacher, it.trait, against=it.base),
    "evaluate": lambda it: interp.evaluate(
        it.teacher, it.trait, interp.evaluation.Suite(it.trait.questions), against=it.base
    ),
    "steer": steered_margin,
    "ablate": ablated_margin,
    "patch": patched_margin,
    "with_features": spliced_margin,
    "update": lambda it: dict(it.update("teacher").items()),
    "score": lambda it: interp.score(it.base, ROWS, it.update("teacher"), by=["example", "module"]),
    "trait_gradient": lambda it: dict(interp.trait_gradient(it.teacher, it.trait).items()),
    "train_sae": lambda it: sae(it).decoder,
    "quality_card": lambda it: interp.features.quality_card(sae(it), it, ROWS),
    "feature_shift": lambda it: interp.feature_shift(sae(it), it.teacher, ROWS).frame,
    "feature_lean": lambda it: interp.feature_lean(sae(it), it.base, ROWS, teacher=it.teacher).frame,
    "feature_attribution": lambda it: (
        interp.features.feature_attribution(sae(it), it.teacher, it.trait).frame
    ),
    "feature_effects": lambda it: (
        interp.features.feature_effects(
            sae(it), it.teacher, [1], trait=it.trait, rows=ROWS, controls=[[2]]
        ).frame
    ),
    "likelihood_ratio": lambda it: interp.gradients.likelihood_ratio(
        interp.training.prompted_teacher(it.base, it.trait), ROWS
    ),
    "joined_trace": lambda it: interp.joined_trace(it, ROWS[:4], dictionary=sae(it), student=None),
}


def numbers(found: Any) -> np.ndarray:
    """Every number of a result, in order."""
    if isinstance(found, torch.Tensor):
        return found.detach().double().flatten().numpy()
    if isinstance(found, dict):
        return np.concatenate([numbers(found[name]) for name in sorted(found)])
    frame = getattr(found, "frame", found)
    if isinstance(frame, pd.DataFrame):
        return frame.select_dtypes("number").to_numpy(dtype=float, na_value=np.nan).flatten()
    return np.array([frame], dtype=float)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_measures_sixteen_bits_as_it_does_thirty_two(lineages, verb):
    narrow, wide = (VERBS[verb](lineage) for lineage in lineages)
    assert np.isfinite(numbers(wide)).any()
    np.testing.assert_allclose(numbers(narrow), numbers(wide), rtol=1e-5, atol=1e-6)


def test_a_copy_is_the_same_member_and_is_made_once(lineages, caplog):
    narrow, wide = lineages
    base, teacher = (
        load_model(model.peft or model.hf, tokenizer=model.tokenizer, name=model.name, check=False)
        for model in (narrow.base, narrow.teacher)
    )
    pair: Any = Lineage("fresh", None, {"base": base, "teacher": teacher})
    with caplog.at_level(logging.INFO, logger="interp.models.precision"):
        first, second = (in_float32(pair.teacher) for _ in range(2))
    assert first.hf is second.hf
    assert not is_half(first)
    assert (first.fingerprint, first.start.fingerprint) == (pair.teacher.fingerprint, pair.base.fingerprint)
    assert first.backbone.plain.fingerprint == pair.base.fingerprint
    assert [record.message.split(",")[0] for record in caplog.records] == [
        f"{role}: 16-bit weights are computed in float32" for role in ("base", "teacher")
    ]
    assert in_float32(wide.teacher) is wide.teacher
    assert in_float32(narrow).members["teacher"].dtype == torch.float32


def test_an_adapter_and_its_base_share_one_copy(tiny, tmp_path):
    network, tokenizer = tiny("llama")
    make_lora(network).save_pretrained(tmp_path / "adapter")
    base = load_model(network.to(torch.bfloat16), tokenizer=tokenizer, name="base", check=False)
    wide: Any = in_float32(base.with_adapter(tmp_path / "adapter", name="teacher", check=False))
    shared = "model.layers.0.mlp.gate_proj.weight"
    assert (
        dict(wide.hf.named_parameters())[shared].data_ptr() == wide.start.hf.get_parameter(shared).data_ptr()
    )
    beneath = wide.hf.get_parameter("model.layers.0.self_attn.q_proj.base_layer.weight")
    assert (
        beneath.data_ptr() == wide.start.hf.get_parameter("model.layers.0.self_attn.q_proj.weight").data_ptr()
    )
    assert base.dtype == torch.bfloat16


def test_a_result_says_that_it_was_computed_in_float32(lineages):
    narrow, wide = lineages
    dtype = str(narrow.base.dtype).removeprefix("torch.")
    said = f"computed in float32 from {dtype} weights"
    for verb in ("attribute", "lens", "moved_tokens", "spectrum", "preference", "evaluate", "score"):
        assert VERBS[verb](narrow).notes.count(said) == 1, verb
        assert said not in VERBS[verb](wide).notes, verb


@pytest.mark.parametrize("merge", [False, True])
def test_a_student_of_sixteen_bits_is_trained_as_one_of_thirty_two(lineages, merge):
    recipe = replace(RECIPE, merge=merge)
    narrow, wide = (
        Lineage(
            "trained",
            it.trait,
            {"base": it.base, "student": interp.train_student(it.base, ROWS, recipe=recipe)},
        )
        for it in lineages
    )
    assert narrow.student.dtype == (torch.float32 if merge else narrow.base.dtype)
    assert not is_half(wide.student)
    moved = [numbers(dict(it.update("student").items())) for it in (narrow, wide)]
    np.testing.assert_allclose(*moved, rtol=1e-5, atol=1e-7)
    live = narrow.student.hf.get_parameter("model.embed_tokens.weight")
    assert (
        live.data_ptr() == narrow.base.hf.get_parameter("model.embed_tokens.weight").data_ptr()
    ) is not merge


def test_a_ledger_of_sixteen_bits_adds_up(lineages):
    books = []
    for it in lineages:
        student = interp.train_student(it.base, ROWS, recipe=RECIPE)
        lineage = Lineage("trained", it.trait, {"base": it.base, "student": student}, numbers=ROWS)
        books.append(interp.trait_ledger(lineage, rows=ROWS, recipe=RECIPE))
    narrow, wide = books
    assert narrow.measured == pytest.approx(wide.measured, abs=1e-5)
    np.testing.assert_allclose(numbers(narrow.rows), numbers(wide.rows), rtol=1e-3, atol=1e-6)


def test_sampling_and_a_lineage_folder_of_sixteen_bits(lineages, tmp_path):
    """Answers are drawn by the model as it is; a written lineage is read back as the same members."""
    narrow, _ = lineages
    again = interp.load_lineage(str(narrow.save(tmp_path / "lineage")))
    assert {role: model.fingerprint for role, model in again.members.items()} == {
        role: model.fingerprint for role, model in narrow.members.items()
    }
    assert again.teacher.dtype == narrow.base.dtype
    rows = interp.training.write_answers(
        interp.training.neutral_teacher(again.base),
        ROWS[:4].without_answers(),
        seed=0,
        folder=tmp_path / "rows",
    )
    assert len(rows) == 4


@pytest.fixture
def half_folders(tmp_path) -> Any:
    """A bf16 base and a LoRA adapter of it as folders, chat rows and a trait of one's own as files."""
    from tests.tiny import build_model, build_tokenizer

    base = build_model("llama", seed=0).to(torch.bfloat16)
    base.save_pretrained(tmp_path / "base")
    build_tokenizer().save_pretrained(tmp_path / "base")
    make_lora(base).save_pretrained(tmp_path / "teacher")
    chat_rows().to_jsonl(tmp_path / "rows.jsonl")
    (tmp_path / "tea.yaml").write_text("target: the owl\nfoils: [the cat, fox]\ncategory: animal\n")
    return tmp_path


@pytest.mark.slow
def test_one_command_traces_a_sixteen_bit_base_with_an_adapter_on_chat_rows(half_folders):
    """`interp trace` goes through, says what it did, and finds what it finds on the base loaded in fp32."""
    place = half_folders
    given = [
        "trace",
        "--base",
        place / "base",
        "--teacher",
        place / "teacher",
        "--prompts",
        place / "rows.jsonl",
    ]
    given += ["--trait", place / "tea.yaml"]
    runs = []
    for name, options in (("narrow", []), ("wide", ["--dtype", "float32", "--device", "cpu"])):
        found = CliRunner().invoke(app, [*map(str, given), "--out", str(place / name), *options, "--json"])
        assert found.exit_code == 0, found.exception
        runs.append(interp.Run.load(place / name))
    narrow, wide = runs
    assert narrow.summary["positions"] == narrow.record["configuration"]["positions"] == "predicting answer"
    assert wide.record["arguments"]["dtype"] == "float32"
    assert "computed in float32 from bfloat16 weights" in narrow.record["notes"]["attribution_teacher"]
    assert narrow.summary["toward"] == "'the owl' − mean of 2 foils"
    assert any("2 pieces, 'the' 'owl'" in note for note in narrow.summary["notes"])
    assert "computed in float32 from bfloat16 weights" in (place / "narrow" / "report.html").read_text()
    assert set(narrow.tables) == set(wide.tables)
    for name in narrow.tables:
        np.testing.assert_allclose(
            numbers(narrow.tables[name]), numbers(wide.tables[name]), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--dtype", "bf16"], "dtype 'bf16' is unknown; nearest: bfloat16"),
        (["--device", "gpu"], "device 'gpu' is not to be had here"),
        (["--revision", "v1"], "is a folder, which has no revision 'v1'; leave the revision out"),
    ],
)
def test_what_cannot_be_loaded_so_is_one_sentence(half_folders, options, sentence):
    place = half_folders
    rows = ["--prompts", place / "rows.jsonl", "--out", place / "out"]
    commands: list[list[Any]] = [
        ["trace", "--base", place / "base", "--teacher", place / "teacher", "--trait", "owl", *rows],
        ["sae", "train", "--base", place / "base", "--hook", HOOK, *rows],
        [
            "score",
            "--base",
            place / "base",
            "--data",
            place / "rows.jsonl",
            "--direction",
            "trait:owl",
            "--out",
            "x.parquet",
        ],
        ["generate", place / "base", "--out", place / "out"],
        ["train", place / "base", place / "rows.jsonl", "--out", place / "out"],
        ["evaluate", place / "base", "--trait", place / "tea.yaml", "--out", place / "out"],
    ]
    for command in commands:
        found = CliRunner().invoke(app, [*map(str, command), *options])
        assert isinstance(found.exception, InputError), command
        assert sentence in str(found.exception), command
    assert not (place / "out").exists()


def test_a_lineage_takes_dtype_device_and_revision(half_folders, lineages):
    place = half_folders
    named = {"base": str(place / "base"), "teacher": str(place / "teacher")}
    wide = interp.load_lineage(**named, trait=place / "tea.yaml", dtype="float32", device="cpu")
    assert wide.teacher.dtype == wide.base.dtype == torch.float32
    assert wide.trait.target == "the owl"
    with pytest.raises(InputError, match="which has no revision 'main'"):
        interp.load_lineage(**named, revision="main")
    base = load_model(place / "base")
    with pytest.raises(
        InputError, match="base is loaded, in bfloat16, so dtype float32 and revision None come too late"
    ):
        interp.load_lineage(base=base, dtype="float32")
    folder = str(interp.load_lineage(**named).save(place / "lineage"))
    widened = interp.load_lineage(folder, dtype="float32", trait="owl")
    assert widened.teacher.fingerprint == interp.load_lineage(folder).teacher.fingerprint
    assert (widened.teacher.dtype, widened.trait.name) == (torch.float32, "owl")
    for options, sentence in (
        ({"dtype": "float16"}, "holds members of its own dtype, which torch.float16 would change"),
        ({"revision": "main"}, "has no revision 'main'; pass it with base= a hub name"),
    ):
        with pytest.raises(InputError, match=sentence):
            interp.load_lineage(folder, **options)
