"""Labels of two catalogs are brought onto one scale by a frozen model, and prepared on it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.dataset as pds
import pytest
from PIL import Image

from pix2score.align.config import AlignConfig
from pix2score.align.job import align
from pix2score.catalog.columns import Columns
from pix2score.errors import ConfigError
from pix2score.heads.distribution import DistributionHead
from pix2score.heads.ordered import OrderedHead
from pix2score.heads.value import ValueHead
from pix2score.model.graph import graph_or_none
from pix2score.model.predictor import load_predictor
from pix2score.prepare.config import PrepareConfig
from pix2score.prepare.job import prepare
from tests.support.builders import write_catalog
from tests.support.torch_helpers import pixels, save_network, settled_model

pytestmark = pytest.mark.usefixtures("ray_session")

NUM = 70
SLOPE, OFFSET = 0.25, -3.0
BEAUTY = ValueHead(name="beauty", column="beauty", mean=1.0, std=2.0, quantiles=(-9.0, 1.0, 9.0))
LIKES = OrderedHead(name="likes", column="likes", edges=(10, 20), counts=(5, 5, 5), typical=(5.0, 15.0, 25.0))
SORT = OrderedHead(name="sort", column="sort", kind="levels", size=2, counts=(5, 5), typical=(0.0, 1.0))
VOTES = DistributionHead(name="votes", column="votes", values=(1.0, 2.0, 3.0))
HEADS = (BEAUTY, LIKES, SORT, VOTES)


class World(NamedTuple):
    """A model, a dataset of two sources, and by source what the model says beside the labels."""

    model: str
    catalogs: list[str]
    data: str
    said: dict[str, npt.NDArray[np.float64]]
    label: dict[str, npt.NDArray[np.float64]]


def saved(place: Path) -> str:
    """A model whose answers vary with the picture."""
    model = settled_model(HEADS, backbone="resnet18")  # type: ignore[arg-type]
    save_network(str(place), model, heads=HEADS, backbone="resnet18", graph=graph_or_none)
    return str(place)


def tables() -> list[dict[str, Any]]:
    """``[[heads]]`` as a person writes them."""
    keys = {"name", "column", "kind", "edges", "size", "values"}
    plain = [{k: v for k, v in head.to_dict().items() if k in keys and v is not None} for head in HEADS]
    return [{k: list(v) if isinstance(v, tuple) else v for k, v in table.items()} for table in plain]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("align")
    model, images = saved(root / "model"), pixels(2 * NUM, seed=4)
    predictor = load_predictor(model, batch_size=16, device="cpu", num_threads=1)
    answer = predictor.predict(images).heads["beauty"]
    all_said = BEAUTY.columns(answer)["beauty_value"].to_numpy().astype(np.float64)
    rng, catalogs, said, label = np.random.default_rng(1), [], {}, {}
    for source, part in (("0", slice(0, NUM)), ("1", slice(NUM, 2 * NUM))):
        folder = root / f"catalog{source}"
        folder.mkdir()
        for i, image in enumerate(images[part]):
            Image.fromarray(image).save(folder / f"{i}.png")
        said[source] = all_said[part]
        true = said[source] + rng.normal(0, 0.3 * said[source].std(), NUM)
        label[source] = true if source == "0" else (true - OFFSET) / SLOPE
        catalogs.append(
            write_catalog(
                str(folder),
                {
                    "illust_id": [f"{source}/{i}" for i in range(NUM)],
                    "uri": [f"{i}.png" for i in range(NUM)],
                    "beauty": label[source],
                    "likes": rng.integers(1, 30, NUM),
                    "sort": rng.integers(0, 2, NUM),
                    "votes": rng.integers(1, 9, (NUM, 3)).tolist(),
                    "set": ["train", "val", "test"] + ["val", "test"] * (NUM // 2 - 2) + ["val"],
                },
            )
        )
    data = str(root / "dataset")
    prepare(config(catalogs, data))
    return World(model, catalogs, data, said, label)


def config(catalogs: list[str], out: str, **settings: Any) -> PrepareConfig:
    given = {"catalog": tuple(catalogs), "image_size": 32, "heads": tuple(tables()), **settings}
    return PrepareConfig(out=out, columns=Columns(split="set"), **given)


def measured(world: World, out: Path, **settings: Any) -> dict[str, Any]:
    given = {"model": world.model, "data": world.data, "head": "beauty", **settings}
    return align(AlignConfig(out=str(out), device="cpu", **given))


@pytest.mark.slow
def test_the_line_is_that_of_the_rows_of_val_and_test(world: World, tmp_path: Path) -> None:
    found = measured(world, tmp_path, method="regression")
    for source in ("0", "1"):
        label, said = world.label[source][1:], world.said[source][1:]  # the first row is of train
        k, b = np.polyfit(label, said, 1)
        of_source = found["sources"][source]
        assert (of_source["k"], of_source["b"]) == pytest.approx((k, b), rel=1e-3, abs=1e-3)
        assert of_source["labelled"] == of_source["groups"] == NUM - 1
        assert of_source["mse_after"] == pytest.approx(((k * label + b - said) ** 2).mean(), rel=1e-3)
    written = json.loads((tmp_path / "align.json").read_text())
    assert written["sources"] == json.loads(json.dumps(found["sources"]))


@pytest.mark.slow
def test_what_is_written_prepares_labels_onto_the_scale_of_the_reference(
    world: World, tmp_path: Path
) -> None:
    found = measured(world, tmp_path, reference="0")
    line = found["sources"]["1"]
    assert (line["k"], line["b"]) == pytest.approx((SLOPE, OFFSET), abs=0.4)
    assert line["k_interval"][0] < SLOPE < line["k_interval"][1]
    assert found["all"]["mse_after"] < 0.1 * found["all"]["mse_before"]
    written = tomllib.loads((tmp_path / "align.toml").read_text())
    assert written == {"sources": {"1": {"relabel": {"beauty": [line["k"], line["b"]]}}}}
    data = str(tmp_path / "moved")
    prepare(config(world.catalogs, data, sources=written["sources"]))
    rows = pds.dataset(data, format="parquet", exclude_invalid_files=True).to_table().to_pylist()
    labels = {row["illust_id"]: row["beauty_label"] for row in rows}
    for source, (k, b) in {"0": (1, 0), "1": (line["k"], line["b"])}.items():
        for i in range(NUM):
            assert labels[f"{source}/{i}"] == pytest.approx(k * world.label[source][i] + b)
    again = align(
        AlignConfig(
            model=world.model, data=data, out=str(tmp_path / "again"), head="beauty", reference="0",
            device="cpu",
        )
    )  # fmt: skip
    assert again["sources"]["1"]["k"] == pytest.approx(line["k"], rel=1e-4)  # of the catalog's own labels
    assert again["sources"]["1"]["b"] == pytest.approx(line["b"], rel=1e-4)


def test_a_head_without_a_number_names_those_that_have_one(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'sort' .* of kind levels; .* unit: beauty, likes, votes"):
        measured(world, tmp_path, head="sort")


@pytest.mark.slow
def test_a_reference_that_is_no_source_names_the_sources(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"reference '2': .*sources: 0, 1"):
        measured(world, tmp_path, reference="2")
