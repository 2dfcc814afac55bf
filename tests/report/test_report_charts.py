"""Charts and figures: marks stand where their values are, and what could mislead is said."""

import itertools
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refusal_plugin.report import render
from refusal_plugin.report.charts import Dot, Lane, Row, row_chart, scatter_chart
from refusal_plugin.report.charts.lines import Curve, line_chart
from refusal_plugin.report.figures.gap import gap_figure
from refusal_plugin.report.figures.heads_circuit import WIDEST, circuit_figure
from refusal_plugin.report.filling import fill
from refusal_plugin.report.numbers_in_words import change, counted, percent, points, sample
from refusal_plugin.report.records import Rate, at, by_layer, finite, mapping, records, sequence
from refusal_plugin.report.svg import Axis, spread

from .fixture import HOSTILE, fake_results

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "value", "low", "n"]), inner),
    max_leaves=12,
)


def chart_of(key: str, page: str) -> str:
    """One figure of a page."""
    return page[page.index(f'<figure id="{key}"') :].split("</figure>")[0]


def numbers(pattern: str, drawn: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, drawn)]


@given(JSON)
def test_reading_what_is_not_there_gives_nothing(found: Any) -> None:
    rate = Rate.of(found, "a")
    assert rate.value is None or rate.value == at(found, "a", "value") or rate.value == at(found, "a")
    assert (rate.low is None) == (rate.high is None)
    assert finite(found, "a", "value") is None or mapping(found, "a")
    assert all(isinstance(row, dict) for row in records(found, "a"))
    assert len(by_layer(found, "a")) == len(sequence(found, "a"))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=6))
def test_labels_keep_their_order_and_their_distance(heights: list[float]) -> None:
    placed = spread(heights, 15.0, 0.0, 200.0)
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    assert all(placed[b] - placed[a] >= 15 - 1e-9 for a, b in itertools.pairwise(order))
    assert min(placed) >= 0 and max(placed) <= 200


def test_a_mark_stands_at_its_value_between_the_ends_of_its_interval() -> None:
    rows = [Row("text", [Lane(Rate(0.25, 0.0, 0.5), "red", "a quarter")])]
    drawn = str(row_chart("t", rows, Axis.shares(), left=20, right=200))  # 20 to 220 user units
    (mark,), (low, high) = (
        numbers(r'cx="([\d.]+)"', drawn),
        (numbers(rf'{k}="([\d.]+)"[^>]*whisker', drawn)[0] for k in ("x1", "x2")),
    )
    assert (mark, low, high) == (70.0, 20.0, 120.0)
    assert "a quarter" in drawn


def test_a_row_without_values_says_that_it_was_not_measured() -> None:
    drawn = str(row_chart("t", [Row("text", [Lane(Rate(None), "red", "x")])], Axis.shares()))
    assert "not measured" in drawn and "<circle" not in drawn


def test_a_bar_reaches_from_zero_to_its_value_on_either_side() -> None:
    rows = [Row("a", [Lane(Rate(v), "red", "b", "bar", size=8.0)]) for v in (0.5, -0.25)]
    axis = Axis(-1.0, 1.0, (), percent)
    drawn = str(row_chart("t", rows, axis, left=20, right=200))
    assert numbers(r'<rect x="([\d.]+)"', drawn) == [120, 95] and numbers(r' width="([\d.]+)"', drawn) == [50, 25]


def test_columns_of_one_chart_have_scales_of_their_own() -> None:
    lanes = [Lane(Rate(1.0), "red", "one"), Lane(Rate(1.0), "red", "other", column=1)]
    axes = Axis(0, 1, (), percent), Axis(0, 2, (), percent)
    drawn = str(row_chart("t", [Row("a", lanes)], *axes, left=20, right=168))  # two of 100 units, 32 apart
    assert numbers(r'cx="([\d.]+)"', drawn) == [120, 202]
    assert len(set(numbers(r'cy="([\d.]+)"', drawn))) == 1


def test_layers_grow_to_the_right_and_values_upwards() -> None:
    curve = Curve.of("text", "red", [(0, Rate(0.0)), (1, Rate(0.5)), (2, Rate(1.0))])
    drawn = str(line_chart("t", [curve], Axis.counts([0, 1, 2], "layer"), Axis.shares()))
    across, down = numbers(r'cx="([\d.]+)"', drawn), numbers(r'cy="([\d.]+)"', drawn)
    assert across == sorted(across) and down == sorted(down, reverse=True) and len(across) == 3
    assert down[1] == pytest.approx((down[0] + down[2]) / 2, abs=0.02)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_written_labels_never_lie_over_each_other(places: list[tuple[float, float]]) -> None:
    dots = [Dot(x, y, "red", f"dot {i}", label=f"label{i}") for i, (x, y) in enumerate(places)]
    drawn = str(scatter_chart("t", dots, Axis.shares(), Axis.shares()))
    found = [(float(x), float(y)) for x, y in re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*>label\d', drawn)]
    assert all(abs(a[1] - b[1]) > 10.9 or abs(a[0] - b[0]) > 37 for i, a in enumerate(found) for b in found[:i])
    assert all(f"dot {i}" in drawn for i in range(len(dots)))


def test_few_items_are_counted_and_many_are_a_share() -> None:
    assert counted(11 / 12, 12) == "11 of 12" and counted(0.91667, 12) == "11 of 12"
    assert counted(0.5, 146) == "50%" and counted(0.5, None) == "50%" and counted(0.33, 7) == "33%"
    assert change(0.666) == "+67 points" and change(-0.004) == "0 points" and points(Rate(None)) == "not measured"


def test_templates_escape_what_they_print_and_want_every_value() -> None:
    table = str(fill("table.html", headers=[(HOSTILE, False)], rows=[[(HOSTILE, False)]], caption=HOSTILE, marked=()))
    assert "<img" not in table and "<s>" not in table and "\x00" not in table and "{{7*7}}" in table
    with pytest.raises(Exception, match="caption"):
        fill("table.html", headers=[], rows=[], marked=())


def test_every_modality_has_its_own_band_of_random_directions() -> None:
    results = fake_results()
    for place, name in enumerate(results["modalities"]):
        for row in results["modalities"][name]["auroc_random_by_layer"]:
            row["low"], row["high"] = 0.4 - 0.05 * place, 0.6
    figure = chart_of("auroc", render(results))
    bands = re.findall(r'<path d="([^"]+)Z" style="fill:var\(--rp-control\)"', figure)
    assert len(bands) == 4 and len(set(bands)) == 4


def test_the_last_ribbon_is_as_broad_as_the_rate() -> None:
    row = {"layer": 1, "head": 2, "modality": "text", "contrast": 10.0, "sources": {"instruction": 10.0}}
    for rate in (1.0, 0.25):
        removal = [{"modality": "text", "refused": {"none": {"value": rate, "low": 0, "high": 1, "n": 40}}}]
        drawn = str(circuit_figure({"norm": 10.0, "top": [row], "removal": removal}))
        widths = numbers(r'<path d="[^"]+" style="[^"]+" stroke-width="([\d.]+)"', drawn)
        assert widths[-1] == pytest.approx(rate * WIDEST, abs=0.01) and widths[0] == pytest.approx(WIDEST)
        assert f"{40 * rate:.0f} of 40" in drawn


def test_a_likeness_is_no_share() -> None:
    gap = {"text": {"reference": "text"}, "image": {"reference": "text", "layer": 3, "cka": {"value": -0.02}}}
    drawn = str(gap_figure({"modality_gap": gap}))
    assert "\u22120.02" in drawn and "\u22122%" not in drawn and "centred" in drawn


def test_what_is_lost_of_the_direction_is_drawn_where_it_was_measured() -> None:
    gap = {"text": {"reference": "text"}, "image": {"reference": "text", "layer": 3, "shift": {"value": 1.0}}}
    panel = "What of text&#39;s direction is lost"
    assert panel not in str(gap_figure({"modality_gap": gap})), "results of an earlier version"
    gap["image"] |= {"lost_magnitude": {"value": 0.375, "low": 0.3, "high": 0.45}, "lost_turn": {"value": 0.125}}
    drawn = str(gap_figure({"modality_gap": gap}))
    assert panel in drawn and "lost in length" in drawn and "0.38" in drawn


def test_two_estimates_of_one_thing_are_set_side_by_side() -> None:
    results = fake_results()
    cell = {"layer": 3, "restored": {"value": 0.6667, "low": 0.5, "high": 0.8, "n": 36}}
    results["transfer"] = {"text": {"image": cell}}
    said = " ".join(chart_of("transfer", render(results)).split())
    assert "Two estimates of one thing" in said and "image +44 points (n = 71) and +67 points (n = 36)" in said
    cell["restored"]["n"] = 71
    assert "Two estimates" not in render(results), "the same items, so one estimate"


def test_a_defence_that_costs_right_answers_is_named() -> None:
    results = fake_results()
    arms = results["modalities"]["text"]["defences"]
    arms["sarsteer"] = arms["addition"] | {"utility": {"value": 0.07, "low": 0.03, "high": 0.11, "n": 60}}
    assert "SARSteer on text, from 96% to 7%" in chart_of("defences", render(results))
    arms["sarsteer"]["utility"] = arms["none"]["utility"]
    assert "Right answers fall" not in chart_of("defences", render(results))


def test_how_many_items_stand_behind_a_figure_is_said() -> None:
    assert sample([Rate(0.5, n=7), Rate(None, n=3), Rate(0.1, n=9)]) == "n = 7 to 9"
    assert sample([Rate(0.5, n=7)]) == "n = 7" and sample([Rate(0.5)]) == ""
    assert "higher is safer, n = 71" in chart_of("rates", render(fake_results(("text",))))


def test_a_defence_has_a_verdict_that_names_its_price() -> None:
    results = fake_results(("text", "image"))
    for modality in results["modalities"].values():
        modality["defences"]["sarsteer"] = modality["defences"]["addition"]
    results["modalities"]["image"]["defences"]["sarsteer"] |= {"utility": {"value": 0.07, "low": 0.03, "high": 0.11}}
    drawn = chart_of("defences", render(results))
    assert "SARSteer refuses more harm (+44 points), but refuses more harmless requests (+2 points)" in drawn
    assert "and answers fewer right (96% to 7%)" in drawn
    assert "SARSteer moves refusal of harm by no more than chance" in drawn, "in text nothing is left to gain"
