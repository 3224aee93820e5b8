"""similar: the exact cosine neighbours among the live embeddings, whatever files they lie in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pix2score
from pix2score.errors import ConfigError, DataError
from pix2score.neighbours import similar as neighbours
from pix2score.neighbours import vectors
from pix2score.neighbours.similar import check_trunk, is_same_trunk
from pix2score.snapshots.tables import Layout
from tests.support.builders import HEADS, LAYOUT, Key, embeddings_table, publish_night

KEYS: list[Key] = [(number, page) for number in range(40, 70) for page in range(2)]


def expected(keys: list[Key], of: Key, k: int, layout: Layout = LAYOUT) -> list[tuple[Key, float]]:
    """Neighbours by the textbook formula, in float64."""
    vectors = {
        key: np.array(row, np.float64)
        for key, row in zip(keys, embeddings_table(keys, layout).column("embedding").to_pylist(), strict=True)
    }
    q = vectors[of]
    cosine = {key: float(v @ q / np.sqrt((v @ v) * (q @ q))) for key, v in vectors.items() if key != of}
    return sorted(cosine.items(), key=lambda item: -item[1])[:k]


def pairs(table: pa.Table) -> list[tuple[Key, float]]:
    return [((row["illust_id"], row["page"]), row["similarity"]) for row in table.to_pylist()]


@pytest.mark.parametrize("num_pieces", [1, 7])
@pytest.mark.parametrize("k", [1, 5, 1000])
def test_neighbours_are_those_of_the_plain_formula(tmp_path: Path, num_pieces: int, k: int) -> None:
    publish_night(str(tmp_path), KEYS, num_pieces=num_pieces)
    found, wanted = pairs(pix2score.similar(str(tmp_path), (50, 1), k)), expected(KEYS, (50, 1), k)
    np.testing.assert_allclose([s for _, s in found], [s for _, s in wanted], atol=1e-6)
    assert len({key for key, _ in found}) == min(k, len(KEYS) - 1)
    assert (50, 1) not in {key for key, _ in found}


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=60), st.integers(1, 9), st.integers(1, 20))
@settings(max_examples=100)
def test_the_best_of_all_blocks_are_kept_however_they_are_cut(
    values: list[float], size: int, block: int
) -> None:
    nearest = neighbours.Nearest(size)
    for start in range(0, len(values), block):
        part = np.array(values[start : start + block], np.float32)
        ids = pa.array(range(start, start + len(part)))
        nearest.add(ids, pa.array([0] * len(part), pa.int32()), part)
    found = nearest.table((-1, 0), size, pa.int64()).column("similarity").to_pylist()
    assert found == sorted(np.array(values, np.float32).tolist(), reverse=True)[:size]


def test_many_keys_are_answered_in_the_order_asked(tmp_path: Path) -> None:
    publish_night(str(tmp_path), KEYS)
    table = pix2score.similar(str(tmp_path), [(51, 0), 60], 3)
    assert table.column("of_illust_id").to_pylist() == [51] * 3 + [60] * 3
    assert pairs(table.slice(3)) == pairs(pix2score.similar(str(tmp_path), 60, 3))


def test_string_ids_and_float32_embeddings(tmp_path: Path) -> None:
    layout = Layout(pa.string(), HEADS, 6, "float32")
    keys: list[Key] = [(f"work-{number}", 0) for number in range(20)]
    publish_night(str(tmp_path), keys, layout=layout)
    found = pairs(pix2score.similar(str(tmp_path), "work-3", 4))
    np.testing.assert_allclose(
        [s for _, s in found], [s for _, s in expected(keys, ("work-3", 0), 4, layout)], atol=1e-6
    )


def test_an_illustration_that_failed_or_is_unknown_is_named(tmp_path: Path) -> None:
    publish_night(str(tmp_path), KEYS, failed=[(45, 0)])
    with pytest.raises(DataError, match="45, page 0, has no embedding"):
        pix2score.similar(str(tmp_path), 45)
    with pytest.raises(DataError, match="999, page 0, has no embedding"):
        pix2score.similar(str(tmp_path), [50, 999])
    with pytest.raises(DataError, match="'x': the ids of .* are int64"):
        pix2score.similar(str(tmp_path), "x")
    with pytest.raises(ConfigError, match="k 0"):
        pix2score.similar(str(tmp_path), 50, 0)


def test_a_row_of_zeros_has_a_length_to_divide_by() -> None:
    length = vectors.length(np.array([[0, 0], [3, 4]], np.float32))
    assert length[0] > 0
    assert length[1] == 5


def test_every_finite_half_is_widened_to_the_same_number() -> None:
    halves = np.arange(65_536, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    assert np.array_equal(vectors.widened(halves), halves.astype(np.float32))


def test_a_place_without_scores_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no scores"):
        pix2score.similar(str(tmp_path), 1)


def test_embeddings_of_one_trunk_compare_whichever_engine_made_them() -> None:
    trunk, other = "a" * 12, "b" * 12
    for theirs in (trunk, f"{trunk}+int8-openvino-89abcdef", f"{trunk}+bf16-openvino"):
        check_trunk("the model", trunk, "scores", 1, theirs)
    for theirs_ in (other, f"{other}+int8-openvino-89abcdef", None):
        with pytest.raises(ConfigError, match="they cannot be compared"):
            check_trunk("the model", trunk, "scores", 1, theirs_)
    assert not is_same_trunk(None, None)
