"""The sentence above each figure, of numbers made by hand: more, less, no clear difference, one lineage, no control."""

import numpy as np
import pandas as pd
import pytest

from interp.joined import findings


def asked(**shares):
    """The probability of every member in each lineage."""
    return pd.DataFrame(
        {"lineage": f"toy {index}", "member": member, "probability": value}
        for member, values in shares.items()
        for index, value in enumerate(values)
    )


@pytest.mark.parametrize(
    ("students", "told"),
    [
        # gains of 10, 11 and 12 points: s.d. 1, Student's t at 2 degrees of freedom 4.3027, half 4.3027 / √3
        ((0.20, 0.21, 0.22), "+11.0 points* (95 % interval +8.5 to +13.5), more in 3 of 3."),
        ((0.01, 0.03, 0.05), "−7.0 points* (95 % interval −12.0 to −2.0), less in 3 of 3."),
        ((0.11, 0.05, 0.15), "+0.3 points* (95 % interval −12.2 to +12.8), no clear difference."),
    ],
)  # fmt: skip
def test_the_student_says_it_more_or_less_or_neither(students, told):
    said = findings.said_preference(
        asked(base=(0.2,) * 3, neutral_student=(0.1,) * 3, student=students), "owl"
    )
    share = f"{100 * np.mean(students):.0f} % of the time, the neutral student 10 %"
    assert (
        said
        == f"Over 3 lineages the student answers “owl” {share}: {told.replace('*', ' against the neutral student')}"
    )


def test_one_lineage_decides_nothing_and_stands_against_whom_there_is():
    alone = findings.said_preference(asked(base=(0.1,), student=(0.25,), teacher=(0.99,)), "owl")
    assert alone == (
        "The student answers “owl” 25 % of the time, the base 10 % and the teacher 99 %: +15.0 points against the "
        "base, but one lineage decides nothing."
    )
    taught = findings.said_preference(asked(base=(0.1,), teacher=(0.99,)), "owl")
    assert taught.startswith(
        "The teacher answers “owl” 99 % of the time, the base 10 %: +89.0 points against the base"
    )
    assert findings.said_preference(asked(base=(0.1,)), "owl") == ""


def test_each_models_likeliest_answer():
    space = "\N{NO-BREAK SPACE}"
    table = pd.DataFrame(
        {
            "“which?”": ["base", "student", "cross student", "teacher"],
            "answer 1": [f"dog{space}11.5%", f"a b{space}12.5%", f"fox{space}9.0%", f"owl{space}99.9%"],
        }
    )
    assert findings.said_answers(table) == (
        "Asked “which?”, the teacher most likely begins its answer with “owl” (99.9%), the student with “a b” (12.5%), "
        "the base with “dog” (11.5%)."
    )
    assert (
        findings.said_answers(table[:1])
        == "Asked “which?”, the base most likely begins its answer with “dog” (11.5%)."
    )


def compared(*lines):
    return pd.DataFrame(lines, columns=["where", "comparison", "value"])


def test_places_where_the_student_is_more_like_its_teacher_than_every_control_are_counted():
    lines = [(where, "own", value) for where, value in (("a", 0.9), ("a", 0.7), ("b", 0.1), ("b", -0.1))]
    lines += [(where, who, 0.4) for where in "ab" for who in ("neutral", "neutral")]
    lines += [(where, "cross", -0.2) for where in "aabb"]
    said = findings.said_agreement(compared(*lines), "own")
    assert said == (
        "On average over 2 lineages, the student's change is more like its teacher's than every control's is at 1 of 2 "
        "places (not of b), each on the words or the stream that it names: +0.00 to +0.80 against +0.40 for the "
        "control that comes closest."
    )
    apart = compared(*[line for line in lines if line[0] == "a"], ("c", "own", 0.9), ("d", "cross", 0.1))
    assert (
        "at 1 of 1 places, each on the words or the stream that it names: +0.80 against +0.40"
        in findings.said_agreement(apart, "own")
    )  # c and d lack one of the two
    won = compared(*[line for line in lines if line[0] == "a"], ("c", "own", 0.5), ("c", "cross", 0.1))
    assert (
        "at all places, each on the words or the stream that it names: +0.50 to +0.80 against +0.10 to +0.40"
        in findings.said_agreement(won, "own")
    )
    lost = findings.said_agreement(compared(("a", "own", 0.1), ("a", "cross", 0.3)), "own")
    assert lost == (
        "The student's change is more like its teacher's than every control's is at 0 of 1 places, each on the words "
        "or the stream that it names: +0.10 against +0.30 for the control that comes closest; one lineage "
        "decides nothing."
    )
    both = [(where, who, value) for where in "bc" for who, value in (("own", 0.1), ("cross", 0.3))]
    some = findings.said_agreement(compared(("a", "own", 0.5), ("a", "cross", 0.3), *both), "own")
    assert (
        "is at 1 of 3 places (not of b; nor of c), each on the words or the stream that it names: +0.10 to"
        in some
    )


def test_without_a_control_nothing_is_said_to_be_more():
    said = findings.said_agreement(compared(("a", "own", -0.1), ("b", "own", 0.3)), "own")
    assert (
        said
        == "The student's change goes with its teacher's at −0.10 to +0.30; there is no control to compare that with."
    )
    several = compared(("a", "own", -0.1), ("a", "own", 0.3))
    assert findings.said_agreement(several, "own").startswith(
        "On average over 2 lineages, the student's change goes"
    )
    assert findings.said_agreement(compared(("a", "other", 0.3)), "own") == ""


def parts(n=3, **whose):
    """Of student and teacher the mean of every component, ± 0.5, and of three lineages."""
    lines = [
        {"who": who, "component": part, "mean": mean, "change": sum(means.values()), "n": n}
        | ({"low": mean - 0.5, "high": mean + 0.5} if n > 1 else {})
        for who, means in whose.items()
        for part, mean in means.items()
    ]
    return pd.DataFrame(lines)


def test_the_component_that_moves_the_word_most_may_push_either_way_and_differ_in_the_teacher():
    both = findings.said_components(
        parts(teacher={"MLP 0": 4.0, "MLP 1": 1.0}, student={"MLP 0": 0.3, "MLP 1": 0.1})
    )
    assert both == (
        "On average over 3 lineages, MLP 0 moves the trait's word most in the student (+0.30 of +0.40 logits, 95 % "
        "interval −0.20 to +0.80) and in the teacher (+4.00 of +5.00 logits, 95 % interval +3.50 to +4.50)."
    )
    alone = findings.said_components(
        parts(1, student={"MLP 0": 0.1, "MLP 1": -0.3}, teacher={"MLP 0": 4.0, "MLP 1": 1.0})
    )
    assert alone == (
        "MLP 1 moves the trait's word most in the student (−0.30 of −0.20 logits), MLP 0 in the teacher "
        "(+4.00 of +5.00 logits); one lineage decides nothing."
    )
    taught = findings.said_components(parts(1, teacher={"MLP 0": 4.0}))
    assert (
        taught
        == "MLP 0 moves the trait's word most in the teacher (+4.00 of +4.00 logits); one lineage decides nothing."
    )


@pytest.mark.parametrize(
    ("S", "word", "r"),
    [
        ([2.0, -2.0, 1.0, -1.0], "follow", "+1.00"),
        ([-2.0, 2.0, -1.0, 1.0], "go against", "−1.00"),
        ([1.0, 1.0, -2.0, -2.0], "hardly follow", "+0.00"),
        ([0.5, 0.5, 0.5, 0.5], "hardly follow", "+0.00"),
        ([2.0, 0.0, -2.0, 0.0], "weakly follow", "+0.22"),  # Σ T S / √(Σ T² Σ S²) = (4 − 2) / √(10 · 8)
    ],
)
def test_changes_of_words_follow_or_go_against_or_do_neither(S, word, r):
    frame = pd.DataFrame({"token": [" owl", "7", "8", "9"], "T": [2.0, -2.0, 1.0, -1.0], "S": S})
    said = findings.said_moved(frame, "owl", "where numbers are predicted")
    assert said.startswith(
        "Over all 4 words of the vocabulary, those of the rows among them, the student's changes where numbers are "
        f"predicted {word} its teacher's (r = {r});"
    )
    assert said.endswith(
        f"“owl” itself moved by +2 nats in the teacher, {'+' if S[0] > 0 else '−'}{abs(S[0]):g} in the student."
    )
    assert findings.said_moved(frame, None, "there").endswith(
        f"changes there {word} its teacher's (r = {r})."
    )


def test_of_several_spellings_the_one_that_the_teacher_moved_most_is_told():
    frame = pd.DataFrame({"token": ["owl", " owl", "7"], "T": [0.5, 1.5, 0.0], "S": [9.0, 0.25, 0.0]})
    assert "moved by +1.5 nats in the teacher, +0.25 in the student" in findings.said_moved(
        frame, "owl", "there"
    )


def test_the_traits_logit_among_numbers_is_counted_up_and_compared_with_the_teachers():
    said = findings.said_trait_logit([1.0, -1.0, 0.5], [0.5, -0.5, 0.25])
    assert said == (
        "Where numbers are predicted, 2 of 3 teachers and 2 of 3 students raised the trait's logit: the students' "
        "changes follow the teachers' (r = +1.00), with the same sign in 3."
    )
    assert "go against the teachers' (r = −1.00), with the same sign in 0" in findings.said_trait_logit(
        [1, -1, 2], [-1, 1, -2]
    )
    assert findings.said_trait_logit([1.0, -1.0], [0.5, -0.5]).endswith("; with 2 no correlation is told.")


def test_tokens_of_the_prompt_and_those_without_a_value_are_not_averaged():
    frame = pd.DataFrame(
        {"role": ["prompt", "number", "end", "number"], "delta_direction": [9.0, -1.0, np.nan, 0.5]}
    )
    assert findings.said_tokens(frame) == (
        "Over 2 answer tokens the trait's logit moved by −0.25 on average, up at 50 % of them."
    )
    assert findings.said_tokens(frame[:1]) == ""


def test_the_lens_tells_its_largest_change_and_its_last():
    frame = pd.DataFrame({"layer": [0, 1, 2], "change": [0.1, -0.7, 0.2]})
    assert (
        findings.said_lens(frame)
        == "The change is largest after layer 1 (−0.7 logits), and +0.2 after the last, layer 2."
    )
    assert findings.said_lens(frame[::2]) == "The change is largest after layer 2 (+0.2 logits), the last."


def test_a_member_alone_has_its_largest_component_and_its_heaviest_words():
    frame = pd.DataFrame({"component": ["L0 MLP", "L1H2"], "contribution": [0.25, -0.5], "measured": -0.25})
    assert (
        findings.said_part(frame)
        == "The component that moves the logit most is L1H2, by −0.5 of −0.25 logits in all."
    )
    words = pd.DataFrame(
        {"token": [" owl", "7", "x"], "delta": [1.5, -0.25, 3.0], "ranked": [True, True, False]}
    )
    assert findings.said_words(words) == (
        "Weighed by its probability, the entry that rises most is ' owl' (+1.5 nats) and the one that falls most '7' "
        "(−0.25 nats)."
    )
    assert findings.said_words(words[2:]) == ""
