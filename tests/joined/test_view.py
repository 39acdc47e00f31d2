"""The figure of a joined trace: tokens as text, one number as colour, everything on hover, nothing unescaped."""

import math

import pandas as pd
import pytest

from interp.core.runs import InputError
from interp.figures import Result
from interp.joined import joined_figure
from interp.joined.view import signed_or_dash


def lines(tokens, **columns):
    """A row of one prompt token and these answer tokens."""
    count = len(tokens)
    frame = pd.DataFrame(
        {
            "row": 7,
            "position": range(1, count + 2),
            "token": ["ask", *tokens],
            "role": ["prompt"] + ["number"] * count,
            "delta_logprob": 0.25,
            "delta_direction": -0.5,
            "features": "3 +0.2, 9 −0.1",
            "score": [math.nan] + [0.1] * count,
            "score:0.mlp.up_proj": [math.nan] + [0.3] * count,
            "score:1.mlp.up_proj": [math.nan] + [-0.2] * count,
            "row_share": 0.03,
        }
    )
    return Result("joined", frame.assign(**columns), "nats")


def test_a_cell_is_an_answer_token_and_hovering_tells_all_four():
    (trace,) = joined_figure(lines([" 12", " ,"])).data
    assert [list(row) for row in trace.text] == [["12", ","]]
    assert [list(row) for row in trace.z] == [[0.1, 0.1]]
    assert trace.customdata[0][0] == (
        "<b>12</b>: row 7, position 2, number<br>teacher − base: log-probability +0.25 nats, "
        "trait −0.5 logits<br>features, teacher − base: 3 +0.2, 9 −0.1<br>"
        "gradient score along the teacher's update +0.1 nats: 0.mlp.up_proj +0.3, 1.mlp.up_proj −0.2<br>"
        "the row's share of the student's margin +0.03 nats"
    )


def test_another_column_colours_and_an_unknown_one_is_refused():
    result = lines(["1", "2"], delta_logprob=[0.0, -3.0, 1.0])
    (trace,) = joined_figure(result, colour="delta_logprob").data
    assert [list(row) for row in trace.z] == [[-3.0, 1.0]]
    assert -trace.zmin == trace.zmax == pytest.approx(1.0 + 0.98 * 2.0)
    with pytest.raises(InputError, match="column 'scor' is unknown; nearest: score"):
        joined_figure(result, colour="scor")


def test_text_is_escaped_and_rows_of_other_lengths_are_filled():
    result = lines(["<b>x</b>", "2"])
    short = lines(["<i>"]).frame.assign(row=8)
    figure = joined_figure(Result("joined", pd.concat([result.frame, short]), "nats"))
    (trace,) = figure.data
    assert trace.text[0][0] == "&lt;b&gt;x&lt;/b&gt;"
    assert "<i>" not in trace.customdata[1][0]
    assert (trace.text[1][1], trace.customdata[1][1]) == ("", "")
    assert math.isnan(trace.z[1][1])
    assert list(figure.layout.yaxis.ticktext) == ["7 (+0.03)", "8 (+0.03)"]


def test_a_missing_share_is_a_dash():
    figure = joined_figure(lines(["1"], row_share=math.nan))
    assert figure.layout.yaxis.ticktext == ("7 (–)",)
    assert (signed_or_dash(0.123), signed_or_dash(-2.0), signed_or_dash(math.nan)) == ("+0.12", "−2", "–")
