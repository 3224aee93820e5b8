"""Up, towards and away, for every kind of head."""

from __future__ import annotations

import numpy as np
import pytest

from pix2score.errors import ConfigError
from pix2score.heads.aims import MOVED, Aim, aims_of
from pix2score.heads.kinds import KINDS
from pix2score.heads.value import ValueAnswer
from tests.support.every_head import FITTED

EACH_KIND = pytest.mark.parametrize("kind", KINDS)
LINE = {"slope": 2.0, "threshold": 0.7}


@EACH_KIND
def test_an_answer_is_not_changed_by_itself_and_is_by_its_opposite(kind: str) -> None:
    head = FITTED[kind]
    outputs = np.linspace(-2, 2, 5 * head.num_outputs).reshape(5, -1).astype(np.float32)
    before, after = head.answer(outputs, {}), head.answer(-outputs, {})
    assert not aims_of(head).changed(before, before).any()
    assert aims_of(head).changed(before, after)[[0, -1]].all()


@EACH_KIND
def test_up_and_away_name_a_number_that_the_answer_has(kind: str) -> None:
    head = FITTED[kind]
    answer = head.answer(np.ones((2, head.num_outputs), np.float32), {})
    for aim in (aims_of(head).up(head, answer, 1), aims_of(head).away(head, answer, 1)):
        assert aim.index is None or 0 <= aim.index < head.num_outputs
        assert aim.at is None


def probability_of(name: str, index: int) -> Aim:
    return Aim("probs", f"probability of {name}", index, is_exclusive=True)


@pytest.mark.parametrize(
    ("kind", "wanted", "aim"),
    [
        ("bins", "150", probability_of("100-1000", 2)),
        ("bins", "10", probability_of("10-100", 1)),
        ("bins", "1000-∞", probability_of("1000-∞", 3)),
        ("levels", "2", probability_of("2", 2)),
        ("binary", "good", Aim("prob", "probability of yes")),
        ("binary", "No", Aim("prob", "probability of yes", falls=True)),
        ("value", "-1.5", Aim("value", "value", at=-1.5)),
        ("distribution", "2.5", Aim("value", "value", at=2.5)),
        ("classes", "dog", probability_of("dog", 1)),
        ("tags", "tree", Aim("probs", "probability of tree", 2)),
        ("preference", "1.5", Aim("reward", "reward", at=1.5)),
    ],
)
def test_what_a_person_names_is_found(kind: str, wanted: str, aim: Aim) -> None:
    assert aims_of(FITTED[kind]).towards(FITTED[kind], wanted, {}) == aim


@pytest.mark.parametrize(
    ("kind", "wanted", "message"),
    [
        ("bins", "-3", "head 'bookmark' has numbers of at least 0"),
        ("bins", "many", "head 'bookmark' expects a number, or one of its ranges"),
        ("bins", "nan", "head 'bookmark' has numbers of at least 0"),
        ("levels", "3", "head 'sanity' has no such level; one of 0, 1, 2"),
        ("binary", "maybe", "head 'liked' has no such answer; one of yes, no, good"),
        ("value", "4", "head 'beauty' has numbers between -2 and 3"),
        ("distribution", "3.1", "head 'votes' has numbers between 1 and 3"),
        ("classes", "dogs", "head 'sort' has no such class; did you mean dog?"),
        ("tags", "sea", "head 'tag' has no such tag; one of sky, cloud, tree"),
        ("preference", "99", "head 'preferred' has numbers between -2.57583 and 2.57583"),
    ],
)
def test_what_the_head_does_not_have_is_told_with_what_it_has(kind: str, wanted: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        aims_of(FITTED[kind]).towards(FITTED[kind], wanted, {})
    assert str(caught.value) == f"--towards {wanted}: {message}"


def test_yes_is_what_reaches_the_calibrated_threshold() -> None:
    head = FITTED["binary"]
    answer = head.answer(np.array([[0.3], [0.6]], np.float32), LINE)  # probabilities .65 and .77
    assert [aims_of(head).away(head, answer, row).falls for row in (0, 1)] == [False, True]
    assert aims_of(head).changed(
        answer, head.answer(np.array([[0.5], [0.7]], np.float32), LINE)
    ).tolist() == [
        True,
        False,
    ]


def test_a_number_is_another_answer_from_a_twentieth_of_the_score_on() -> None:
    def scored(*scores: float) -> ValueAnswer:
        return ValueAnswer(np.zeros(3, np.float32), np.array(scores, np.float32), None)

    changed = aims_of(FITTED["value"]).changed(scored(0.5, 0.5, 0.5), scored(0.54, 0.56, 0.44))
    assert MOVED == 0.05
    assert changed.tolist() == [False, True, True]
