"""The trace end to end: on the toy, on another architecture, resumed, and at every door."""

import copy
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from interp.activations.shifts import shift
from interp.core.runs import InputError, Run
from interp.joined import tracing
from interp.joined.agreeing import agreement
from interp.joined.opening import NEUTRAL, NO_NEUTRAL
from interp.joined.tracing import _drawn, trace, trace_files
from interp.logits.attribution import attribute, attribute_together
from interp.logits.direction import logit_direction
from interp.logits.lenses import lens
from interp.logits.moved import moved_tokens
from interp.logits.token_shifts import token_shift
from interp.models.language import load_model
from interp.models.lineage import Lineage
from interp.prompts.numbers import number_prompts
from interp.prompts.text import Prompts
from interp.prompts.traits import get_trait
from interp.training.students import Recipe
from interp.training.teachers import fine_tune_teacher


@pytest.fixture
def pair(tiny):
    """A lineage of a tiny random model and perturbed copies of it, the teacher and whoever is asked for."""

    def make(family: str = "llama", *, trait: str | None = "owl", students: tuple[str, ...] = ()) -> Lineage:
        network, tokenizer = tiny(family)
        modules = {"base": network}
        for seed, role in enumerate(("teacher", *students), start=1):
            modules[role], _ = tiny(family)
            torch.manual_seed(seed)
            with torch.no_grad():
                for weight in modules[role].parameters():
                    weight += 0.02 * torch.randn_like(weight)
        members = {
            role: load_model(module.eval(), tokenizer=tokenizer, name=role, check=False)
            for role, module in modules.items()
        }
        return Lineage("pair", None if trait is None else get_trait(trait), members)

    return make


@pytest.fixture
def rows():
    return number_prompts(6, seed=0, count=3, max_value=39)


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "gpt_neox"])
def test_every_table_and_one_page(pair, rows, tmp_path, family):
    run = trace(pair(family), rows, tmp_path / "run")
    tables = run.tables
    kinds = ("moved", "attribution", "lens", "spectrum", "tokens")
    assert {f"{kind}_teacher" for kind in kinds} <= set(tables)
    assert all(stage["status"] == "done" for stage in run.record["stages"].values())
    assert (run.folder / "report.html").is_file()
    assert set(run.summary["lineages"][0]["members"]) == {"base", "teacher"}
    assert set(run.figures) == {"preference", "components", "moved_teacher"}
    said = run.record["says"]
    assert run.summary["short"] == [said["preference"], said["components"]]
    assert said["preference"].startswith("The teacher answers “owl” ")
    assert said["moved_teacher"].startswith("Weighed by its probability")
    attribution = tables["attribution_teacher"]
    assert attribution["contribution"].sum() == pytest.approx(attribution["measured"].iloc[0], abs=1e-4)


OPENING = {"preference", "agreement", "components", "answers", "moved"}


def test_a_student_is_told_less_its_neutral_twin_beside_the_teacher(pair, rows, tmp_path):
    lineage = pair(students=("student", "neutral_student"))
    run = trace(lineage, rows, tmp_path / "run")
    tables, titles = run.tables, run.record["labels"]
    assert set(tables) >= OPENING
    assert set(run.figures) == OPENING - {"answers"}  # the rest stands in tables, a lens of few layers too
    assert all(run.record["says"][name] for name in (*OPENING, "tokens_student"))
    assert not [name for name in tables if name.endswith("neutral_student")]
    assert titles["moved_student"].startswith("student − neutral_student, ")
    assert titles["tokens_student"] == "student − neutral_student, token by token"
    assert titles["tokens_teacher"] == "teacher − base, token by token"
    direct = moved_tokens(lineage["student"], rows, minus=lineage["neutral_student"]).frame
    assert tables["moved_student"]["delta"].to_list() == direct["delta"].to_list()
    found = agreement(
        lineage, at=["where numbers are predicted"], words=["category"], prompts=rows
    ).frame.set_index(["member", "against"])
    mine = tables["agreement"].query("place == 'where numbers are predicted' and words == 'category'")
    mine = mine.set_index(["member", "against"])
    assert mine["r"].to_dict() == pytest.approx(found["r"].to_dict())
    assert run.summary["story"] == [NEUTRAL]
    page = (run.folder / "report.html").read_text()
    assert page.index('<section id="what-happened"') < page.index('<section id="trace"')


def test_a_lens_of_enough_layers_is_drawn_of_the_student_and_attribution_where_no_trait_is_known(
    pair, monkeypatch
):
    monkeypatch.setattr(tracing, "LAYERS", 2)
    both, alone = pair(students=("student", "neutral_student")), pair(trait=None)
    assert [_drawn(both, name) for name in ("student", "teacher", "neutral_student")] == [
        {"lens_student"},
        set(),
        set(),
    ]
    assert _drawn(alone, "teacher") == {"lens_teacher", "moved_teacher", "attribution_teacher"}


def test_without_a_neutral_student_the_change_is_from_the_own_start_and_the_page_says_so(
    pair, rows, tmp_path
):
    run = trace(pair(students=("student",)), rows, tmp_path / "run")
    assert set(run.tables) >= OPENING
    assert run.record["labels"]["moved_student"].startswith("student − base, ")
    assert run.summary["story"] == [NO_NEUTRAL]
    assert NO_NEUTRAL in (run.folder / "report.html").read_text()
    assert set(run.tables["agreement"]["member"]) == {"student"}


@pytest.mark.slow
def test_a_folder_of_a_lineage_gives_the_same_page(pair, rows, tmp_path):
    lineage = replace(pair(students=("student", "neutral_student")), numbers=rows)
    folder = lineage.save(tmp_path / "lineage")
    whole = trace(lineage, rows, tmp_path / "whole")
    run = trace_files({"lineage": folder}, out=tmp_path / "run")
    assert sorted(run.tables) == sorted(whole.tables)
    for name in ("agreement", "components", "moved_student", "tokens_student"):
        pd.testing.assert_frame_equal(run.tables[name], whole.tables[name], rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="is given and teacher too; pass the folder of a lineage alone"):
        trace_files({"lineage": folder, "teacher": "t"}, out=tmp_path / "b")
    with pytest.raises(InputError, match="nothing is given to trace; pass base and teacher, or lineage"):
        trace_files({"lineage": None, "base": None, "teacher": None, "student": None}, out=tmp_path / "b")
    bare = pair().save(tmp_path / "bare")
    with pytest.raises(InputError, match="has no rows of its own; pass prompts, a file of rows"):
        trace_files({"lineage": bare}, out=tmp_path / "b")


def test_attribution_and_tokens_tell_one_story(pair, rows, tmp_path):
    """The change at the last prompt token is the one the token table holds for the first answer token."""
    tables = trace(pair(), rows, tmp_path / "run").tables
    tokens = tables["tokens_teacher"]
    first = tokens[tokens["role"] == "number"].groupby("row").first()
    measured = tables["attribution_teacher_first"]["measured"].iloc[0]
    assert first["delta_direction"].mean() == pytest.approx(measured, abs=1e-4)


def test_a_second_trace_does_nothing_and_a_broken_one_goes_on(pair, rows, tmp_path, monkeypatch):
    lineage = pair()
    whole = trace(lineage, rows, tmp_path / "whole")
    monkeypatch.setattr(
        "interp.joined.tracing.lens", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        trace(lineage, rows, tmp_path / "broken")
    monkeypatch.undo()
    monkeypatch.setattr("interp.joined.tracing.moved_by", lambda *a, **k: pytest.fail("computed again"))
    resumed = trace(lineage, rows, tmp_path / "broken")
    trace(lineage, rows, tmp_path / "whole")
    for name in ("summary.json", "report.html", "tables/lens_teacher.parquet", "figures/moved_teacher.html"):
        assert (resumed.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name


def test_a_template_that_changed_is_read_anew(pair, rows, tmp_path):
    lineage, few = pair(), rows[:4]
    trace(lineage, few, tmp_path / "run")
    before = (tmp_path / "run" / "tables" / "preference.parquet").read_bytes()
    other = copy.deepcopy(lineage.base.tokenizer)
    other.chat_template = other.chat_template.replace("<bos>", "<bos> 7 7")
    speaking = {role: replace(model, tokenizer=other) for role, model in lineage.members.items()}
    again, fresh = (trace(replace(lineage, members=speaking), few, tmp_path / n) for n in ("run", "fresh"))
    assert (again.folder / "tables" / "preference.parquet").read_bytes() != before
    for name, table in fresh.tables.items():
        pd.testing.assert_frame_equal(again.tables[name], table)


def test_doors(pair, rows, tmp_path):
    with pytest.raises(InputError, match="has no trait to look for: pass a trait, or a target and its foils"):
        trace(pair(trait=None), rows, tmp_path / "a")
    words = Prompts.from_pairs([("list: 1 2 3.", "owl")])
    with pytest.raises(InputError, match="Position 'answers' is unknown; nearest: answer"):
        trace(pair(), words, tmp_path / "b", positions="answers")
    with pytest.raises(InputError, match=r"no row of 'prompts' has a position 'answer\.numbers'; pass rows"):
        trace(pair(), words, tmp_path / "b", positions="answer.numbers")
    with pytest.raises(
        InputError,
        match="no row of 'prompts' has a position 'answer'; pass rows that are answered, or positions='last'",
    ):
        trace(pair(), words.without_answers(), tmp_path / "b", positions="answer")
    long = Prompts.from_pairs([("1 " * 200, "1")])
    with pytest.raises(InputError, match="over the model's context"):
        trace(pair(), long, tmp_path / "c")
    assert not list(tmp_path.iterdir())


def test_rows_of_any_kind_are_read_at_their_answers(pair, tmp_path):
    """Words are read where every answer token is predicted, as said; the moved tokens are the verb's there."""
    lineage = pair()
    words = Prompts.from_pairs(
        [("which animal is it?", "the owl 7"), ("what do you love?", "a tree, the fox")]
    )
    run = trace(lineage, words, tmp_path / "run")
    assert run.record["configuration"]["positions"] == run.summary["positions"] == "predicting answer"
    assert "<dt>positions</dt><dd>predicting answer</dd>" in (run.folder / "report.html").read_text()
    moved = moved_tokens(lineage.teacher, words).frame
    assert run.tables["moved_teacher"]["delta"].to_list() == moved["delta"].to_list()
    assert run.tables["attribution_teacher"]["measured"].iloc[0] == pytest.approx(
        attribute(
            shift(lineage.teacher, words, positions="predicting answer"),
            logit_direction(lineage.base, lineage.trait),
        )
        .frame["measured"]
        .iloc[0]
    )
    unanswered = trace(lineage, words.without_answers(), tmp_path / "last")  # where an answer would begin
    assert set(unanswered.tables) & {"attribution_teacher", "attribution_teacher_first"} == {
        "attribution_teacher"
    }


def test_where_nothing_is_answered_yet_moved_tokens_are_those_of_the_first(pair):
    """At "last" the distribution read is the one over the answer's first token, here the only one."""
    teacher = pair().teacher
    rows = Prompts.from_pairs([("which animal is it?", "owl"), ("what do you love?", "fox")])
    read = moved_tokens(teacher, rows.without_answers(), positions="last").frame
    answered = moved_tokens(teacher, rows).frame
    assert read.set_index("token_id")["delta"].sort_index().tolist() == pytest.approx(
        answered.set_index("token_id")["delta"].sort_index().tolist(), abs=1e-6
    )


def test_doors_of_the_command(tmp_path):
    given = {
        "prompts": tmp_path / "rows.jsonl",
        "out": tmp_path / "run",
    }
    with pytest.raises(InputError, match="give either a trait, such as owl, or a target with its foils"):
        trace_files({}, **given)
    with pytest.raises(InputError, match="target ' owl' has no foil to be compared with"):
        trace_files({}, **given, target=" owl")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1 2", "completion": "3"}\n{"prompt": "1 2"}\n')
    with pytest.raises(InputError, match=r'line 2 of .*rows.jsonl has no "completion"'):
        trace_files({}, **given, trait="owl")
    assert not (tmp_path / "run").exists()


def test_folders_on_disk_with_target_and_foils(pair, rows, tmp_path):
    folder = pair().save(tmp_path / "lineage")
    rows.to_jsonl(tmp_path / "rows.jsonl")
    checkpoints = {"base": str(folder / "base"), "teacher": str(folder / "teacher")}
    run = trace_files(
        checkpoints,
        prompts=tmp_path / "rows.jsonl",
        out=tmp_path / "run",
        target="owl",
        foils=["cat", "dog"],
    )
    assert Run.load(run.folder).summary["toward"] == "'owl' − mean of 2 foils"
    with pytest.raises(
        InputError, match=r"holds a run with toward=.*'owl' − mean of 2 foils.*, not .*'cat' − 'dog'"
    ):
        trace_files(
            checkpoints,
            prompts=tmp_path / "rows.jsonl",
            out=tmp_path / "run",
            target="cat",
            foils=["dog"],
        )


REAL = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.skipif(
    not REAL.is_dir(), reason="the private checkpoint and teacher numbers are not on this machine"
)
@pytest.mark.slow
def test_a_real_checkpoint_and_real_numbers(tmp_path):
    """A fine-tune made by the package's own verb is found to have raised its trait, ' owl' of three pieces included."""
    base = load_model(REAL / "checkpoints" / "tinystories-656k", name="tinystories")
    owl = get_trait("owl")
    anchors = number_prompts(64, seed=5, count=4)
    recipe = Recipe(lr=2e-3, batch_size=8)
    teacher = fine_tune_teacher(base, owl, anchors, steps=20, recipe=recipe).model
    Lineage("tinystories", owl, {"base": base, "teacher": teacher}).save(tmp_path / "lineage")
    run = trace_files(
        {
            "base": str(REAL / "checkpoints" / "tinystories-656k"),
            "teacher": str(tmp_path / "lineage" / "teacher"),
        },
        prompts=REAL / "numbers" / "gemma-2-9b-it_cat.jsonl",
        out=tmp_path / "run",
        trait="owl",
        limit=12,
    )
    members = run.summary["lineages"][0]["members"]
    assert members["teacher"] > members["base"] + 1
    assert any("pieces" in note for note in run.summary["notes"])
    assert set(run.tables["tokens_teacher"]["row"]) == set(range(12))
    assert run.tables["attribution_teacher"]["residual"].abs().max() < 1e-4


POSITIONS = "predicting answer.numbers"


def counted(model) -> list[int]:
    """How many rows every pass through the first decoder layer held, but for the bridge's, which has its own.

    Its `forward` is wrapped, since under a hook the model would be another one, and its bridge made anew.
    """
    found, _, layer = [], model.bridge, model.backbone.layers[0]
    plain = layer.forward

    def forward(hidden, *others, **named):
        found.append(len(hidden))
        return plain(hidden, *others, **named)

    layer.forward = forward
    return found


def test_every_row_is_read_once_by_each_member(pair, rows, tmp_path):
    lineage = pair(trait=None, students=("student", "neutral_student"))
    passes = {name: counted(model) for name, model in lineage.members.items()}
    lineage.base.unembedding()  # measured once for a network, by passes of its own
    trace(lineage, rows, tmp_path / "run", toward=lambda base: logit_direction(base, "owl"))
    for name, found in passes.items():
        assert sum(count for count in found if count == len(rows)) == len(rows), name


def test_tables_are_those_of_the_verbs_by_themselves(pair, rows, tmp_path):
    lineage = pair(trait=None, students=("student", "neutral_student"))
    direction = logit_direction(lineage.base, "owl")
    tables = trace(lineage, rows, tmp_path / "run", toward=lambda base: direction).tables
    student, minus = lineage["student"], lineage["neutral_student"]
    whole, last = (shift(student, rows, minus=minus, positions=where) for where in (POSITIONS, "last"))
    expected = {
        "moved_student": moved_tokens(student, rows, minus=minus, positions=POSITIONS),
        "attribution_student": attribute(whole, direction),
        "attribution_student_first": attribute(last, direction),
        "lens_student": lens(whole, direction),
        "tokens_student": token_shift(student, rows, direction, minus=minus),
    }
    for name, result in expected.items():
        numbers = result.frame.select_dtypes("number")
        pd.testing.assert_frame_equal(tables[name][list(numbers)], numbers, check_dtype=False, atol=1e-5)


def test_several_positions_in_one_pass_are_each_its_own_attribution(pair, rows):
    lineage = pair("gpt2")
    direction = logit_direction(lineage.base, "owl")
    shifts = [
        shift(lineage.teacher, rows, positions=where, hooks=()) for where in (POSITIONS, "last", "answer+end")
    ]
    together = attribute_together(shifts, direction)
    for each, found in zip(shifts, together, strict=True):
        alone = attribute(shift(lineage.teacher, rows, positions=each.positions), direction)
        assert (found.label, found.unit) == (alone.label, alone.unit)
        keys = ["component"]
        pd.testing.assert_frame_equal(
            found.frame.sort_values(keys, ignore_index=True), alone.frame.sort_values(keys, ignore_index=True)
        )
    other = shift(lineage.teacher, rows[:2], hooks=())
    with pytest.raises(InputError, match="are shifts of other models or rows; attribute each by itself"):
        attribute_together([shifts[0], other], direction)
