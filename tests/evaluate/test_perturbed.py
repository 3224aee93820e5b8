"""Numbers under perturbation: every copy is answered, and numbers are those of the copies in any order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from pix2score.dataset.card import PreparedDataset
from pix2score.evaluate.answers import AnswerRows
from pix2score.evaluate.perturbations import perturbations
from pix2score.evaluate.perturbed import (
    COPY,
    affordable_rows,
    decode_perturbed,
    gathered,
    measured,
    sampled_parts,
)
from pix2score.evaluate.sample import draw_of
from pix2score.heads.binary import BinaryHead
from pix2score.images.decode import open_upright, picture_to_rgb
from pix2score.metrics.perturbed import Copy, Perturbed, head_perturbed
from pix2score.metrics.protocol import Answers
from pix2score.model.folder import load_model
from pix2score.model.predictor import Predictor
from pix2score.storage.arrow import matrix
from pix2score.storage.folder import Folder
from tests.evaluate import test_sets
from tests.evaluate.test_stages import NUM, shard_rows
from tests.support.models import save_settled
from tests.support.torch_helpers import HEADS, PREPROCESS

WAYS = perturbations(["blur=1..6", "noise=.02...3"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_settled(tmp_path_factory.mktemp("saved"))


@pytest.fixture(scope="module")
def rows(place: str) -> pa.Table:
    return answered(place)


def answered(place: str, share: float = 1.0) -> pa.Table:
    tables = decode_perturbed(
        shard_rows(), heads=HEADS, preprocess=PREPROCESS, perturbations=WAYS, share=share
    )
    decoded = pa.concat_tables(tables)
    answer = AnswerRows([place], [0], batch_size=16, device="cpu", num_threads=1)
    mixed = decoded.take(np.random.default_rng(0).permutation(decoded.num_rows))
    return gathered((answer(mixed.slice(i, 100)) for i in range(0, mixed.num_rows, 100)), HEADS)


def numbers(place: str, rows: pa.Table) -> Perturbed:
    return measured(rows, load_model(place)[0], HEADS, WAYS)


def test_every_copy_is_answered_as_the_predictor_answers_the_altered_picture(
    place: str, rows: pa.Table
) -> None:
    assert rows.num_rows == NUM * (1 + len(WAYS))
    assert rows.column(COPY).to_pylist() == list(range(1 + len(WAYS))) * NUM
    card, weights = load_model(place)
    image = open_upright(shard_rows().column("image")[11].as_py())
    copies = [image, *(alter(image, (11, 0)) for alter in WAYS)]
    wanted = Predictor(card, weights, batch_size=16).predict(
        np.stack([picture_to_rgb(copy, PREPROCESS) for copy in copies])
    )
    of_row = rows.slice(11 * len(copies), len(copies))
    for head in HEADS:
        probs = np.exp(matrix(of_row.column(f"{head.name}_outputs_0")))
        np.testing.assert_allclose(probs, wanted.heads[head.name].probs, atol=1e-4)


def test_answers_move_further_the_stronger_the_alteration(place: str, rows: pa.Table) -> None:
    for head in numbers(place, rows).heads.values():
        assert head.num_labelled == NUM - 1
        assert set(head.altered) == {"blur", "noise"}
        for strengths in head.altered.values():
            moved = [at.change["mean_prob_change"] for at in strengths if at.change]
            assert len(moved) == 4
            assert moved == sorted(moved)
            assert moved[-1] > 1.5 * moved[0] > 0


def test_the_sample_is_of_the_key_alone(place: str, rows: pa.Table) -> None:
    some = answered(place, share=0.4)
    chosen = [i for i in range(NUM) if draw_of((i, 0)) < 0.4]
    assert some.column("illust_id").unique().to_pylist() == chosen
    assert numbers(place, some).num_rows == len(chosen) < NUM


def test_numbers_are_those_of_the_altered_copies_with_paired_differences() -> None:
    head = BinaryHead(name="liked", column="c", counts=(70, 30), positive=("good",))
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 400)
    clean = (2 * truth + rng.normal(size=400))[:, None]

    def copy(noise: float) -> Copy:
        outputs = clean + noise * np.random.default_rng(1).normal(size=(400, 1))
        return Copy(outputs, Answers(head, outputs, truth, truth.astype(float), np.arange(400) // 2))

    found = head_perturbed(copy(0), {"noise": {noise: copy(noise) for noise in (0.1, 1.0, 5.0)}})
    assert found.main == "auc"
    assert found.plain.numbers["auc"] == pytest.approx(roc_auc_score(truth, clean[:, 0]))
    aucs = []
    for at in found.altered["noise"]:
        assert at.strength is not None and at.difference is not None and at.difference_interval is not None
        said = copy(at.strength).outputs[:, 0]
        assert at.numbers["auc"] == pytest.approx(roc_auc_score(truth, said))
        assert at.numbers["ap"] == pytest.approx(average_precision_score(truth, said))
        assert at.numbers["accuracy"] == pytest.approx(((said >= 0) == truth).mean())
        assert at.difference == pytest.approx(at.numbers["auc"] - found.plain.numbers["auc"])  # type: ignore[operator]
        assert at.difference_interval.low <= at.difference <= at.difference_interval.high
        aucs.append(at.numbers["auc"])
    assert aucs == sorted(aucs, reverse=True)
    first, _, last = found.altered["noise"]
    assert last.difference_interval is not None and last.difference_interval.high < 0
    assert first.difference_interval is not None and first.interval is not None
    width = first.difference_interval.high - first.difference_interval.low
    assert width < 0.4 * (first.interval.high - first.interval.low)  # paired: the images' own spread is gone


def test_few_labels_have_numbers_without_intervals_and_none_have_neither() -> None:
    head = BinaryHead(name="liked", column="c", counts=(70, 30), positive=("good",))
    outputs, truth = np.linspace(-1, 1, 20)[:, None], np.arange(20) % 2

    def copy(num: int) -> Copy:
        labelled = Answers(head, outputs[:num], truth[:num], truth[:num].astype(float), np.arange(num))
        return Copy(outputs, labelled)

    few, none = (head_perturbed(copy(num), {"blur": {1.0: copy(num)}}) for num in (20, 0))
    assert few.altered["blur"][0].numbers["auc"] is not None
    assert few.altered["blur"][0].interval is few.altered["blur"][0].difference_interval is None
    assert (none.num_labelled, none.plain.numbers) == (0, {})
    assert none.to_dict()["blur"][0]["mean_prob_change"] == 0


def test_of_a_set_every_image_is_altered() -> None:
    few = perturbations(["noise=.1"])
    settings = {"heads": test_sets.HEADS, "preprocess": PREPROCESS, "perturbations": few, "share": 1.0}
    (with_set,) = decode_perturbed(test_sets.shard().slice(1, 1), **settings)  # type: ignore[arg-type]
    plain, noisy = with_set.column("others_0").to_pylist()
    assert len(plain) == len(noisy) == test_sets.SIZES[1] - 1
    assert plain[0] != noisy[0]
    (alone,) = decode_perturbed(test_sets.shard().slice(0, 1), **settings)  # type: ignore[arg-type]
    assert alone.column("others_0").null_count == 2


def test_few_shards_are_read_for_few_rows(tmp_path: Path) -> None:
    shards = [{"path": f"{name}", "rows": 100, "split": "test"} for name in "dacb"]
    dataset = PreparedDataset(Folder(str(tmp_path)), (), {"shards": shards, "rows": {"test": 400}}, "d")
    parts, share = sampled_parts(dataset, "test", 150)
    assert [part.path for part in parts] == ["a", "b"]
    assert share == 0.75
    parts, share = sampled_parts(dataset, "test", 400)
    assert (len(parts), share) == (4, 1.0)


def test_thousands_of_outputs_are_of_fewer_rows() -> None:
    wide = BinaryHead(name="liked", column="c", counts=(70, 30), positive=("good",))
    assert affordable_rows(2000, [wide], 12) == 2000
    assert affordable_rows(10**9, [wide], 12) == 512 * 2**20 // (4 * 13)
