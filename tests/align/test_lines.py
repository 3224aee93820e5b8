"""Lines from labels to answers: against numpy, against what the numbers were made of, and what has none."""

from __future__ import annotations

import numpy as np
import pytest

from pix2score.align.lines import Line, Method, Rows, fit, line, pooled


def rows_of(seed: int, slope: float, offset: float, num: int = 4000, noise: float = 0.5) -> Rows:
    """Answers that know something of what the labels were made of, by ``slope`` and ``offset``."""
    rng = np.random.default_rng(seed)
    true = rng.normal(2, 1.5, num)
    said = 0.6 * true + 0.8 + rng.normal(0, noise, num)  # a model draws to the mean, and errs
    return Rows((true - offset) / slope, said, rng.integers(0, num // 4, num))


def test_the_line_of_regression_is_that_of_least_squares() -> None:
    rows = rows_of(0, 2.0, 1.0)
    found = fit({"a": rows}, "regression")["a"]
    k, b = np.polyfit(rows.label, rows.said, 1)
    assert found.line == pytest.approx((k, b))
    best = ((k * rows.label + b - rows.said) ** 2).mean()
    assert found.mse_after == pytest.approx(best)
    assert found.mse_before == pytest.approx(((rows.label - rows.said) ** 2).mean())
    assert found.mse_constant == pytest.approx(rows.said.var())
    assert found.pearson == pytest.approx(np.corrcoef(rows.label, rows.said)[0, 1])


def test_moments_give_labels_the_mean_and_deviation_of_the_answers() -> None:
    rows = rows_of(0, 2.0, 1.0)
    moved = fit({"a": rows}, "moments")["a"].line.of(rows.label)
    assert (moved.mean(), moved.std()) == pytest.approx((rows.said.mean(), rows.said.std()))
    steeper, flatter = (fit({"a": rows}, m)["a"].line.k for m in ("moments", "regression"))
    assert flatter == pytest.approx(steeper * np.corrcoef(rows.label, rows.said)[0, 1])


@pytest.mark.parametrize("method", ["moments", "regression"])
def test_onto_a_reference_labels_find_the_scale_that_they_were_made_from(method: Method) -> None:
    sources = {"club": rows_of(0, 1.0, 0.0), "web": rows_of(1, 0.25, -3.0)}
    found = fit(sources, method, "club")
    assert found["club"].line == (1.0, 0.0)
    assert found["web"].line == pytest.approx((0.25, -3.0), abs=0.15)
    for interval, true in ((found["web"].k_interval, 0.25), (found["web"].b_interval, -3.0)):
        assert interval is not None
        assert interval.low < true < interval.high
        assert interval.high - interval.low < 0.3
    alone = fit(sources, method)["web"].line
    assert alone.k < 0.8 * 0.25  # the scale of the answers, which spread less


def test_weights_are_repeats() -> None:
    rows, weight = rows_of(3, 2.0, 1.0, num=40), np.arange(40) % 3
    often = np.repeat(np.arange(40), weight)
    repeated = Rows(rows.label[often], rows.said[often], rows.group[often])
    for method in ("moments", "regression"):
        found = line(rows, weight.astype(float), method)
        assert found == pytest.approx(line(repeated, np.ones(len(often)), method))


def test_whole_groups_are_drawn_for_the_intervals() -> None:
    rows = rows_of(0, 2.0, 1.0, num=400)
    copies = Rows(*(np.repeat(part, 9) for part in (rows.label, rows.said, rows.group)))
    width, of_copies = (
        np.diff(fit({"a": one}, "moments")["a"].k_interval or (0, 0))[0] for one in (rows, copies)
    )
    assert of_copies == pytest.approx(width, rel=0.05)


def test_lines_one_after_the_other() -> None:
    first, second = Line(2.0, 1.0), Line(-0.5, 3.0)
    x = np.array([0.0, 1.0, 5.0])
    np.testing.assert_allclose(second.after(first).of(x), second.of(first.of(x)))
    np.testing.assert_allclose(first.inverse().of(first.of(x)), x)


def test_together_sources_go_better_with_the_answers_on_their_lines() -> None:
    sources = {"club": rows_of(0, 1.0, 0.0), "web": rows_of(1, 0.25, -3.0)}
    lines = {name: found.line for name, found in fit(sources, "regression").items()}
    before, after = pooled(sources, dict.fromkeys(sources, Line(1.0, 0.0))), pooled(sources, lines)
    assert after[0] < 0.1 * before[0]
    assert after[1] is not None
    assert before[1] is not None
    assert after[1] > before[1] + 0.2


@pytest.mark.parametrize(
    ("label", "said"),
    [([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), ([1.0, 2.0, 3.0], [5.0] * 3), ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0])],
)
def test_a_source_without_a_line_is_named(label: list[float], said: list[float]) -> None:
    rows = Rows(np.array(label), np.array(said), np.arange(3))
    with pytest.raises(ValueError, match="web"):
        fit({"club": rows_of(0, 1.0, 0.0, num=40), "web": rows}, "moments")
