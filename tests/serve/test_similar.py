"""Neighbours on the command line: by id, and by a picture that is not in the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pix2score
from pix2score.errors import ConfigError, DataError
from pix2score.neighbours.config import IndexConfig, SimilarConfig
from pix2score.neighbours.index import index
from pix2score.serve.model import Answer, Model
from pix2score.serve.similar import show_similar
from tests.neighbours.made import cosines, night
from tests.support.builders import Key
from tests.support.models import save_settled
from tests.support.torch_helpers import pixels

NUM = 12


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model, pictures, and a snapshot of what it makes of all but the last."""
    root = tmp_path_factory.mktemp("similar")
    place = save_settled(root)
    paths = [str(root / f"{i}.png") for i in range(NUM)]
    for path, image in zip(paths, pixels(NUM, size=96), strict=True):
        Image.fromarray(image).save(path)
    model = Model.load(place)
    answers = [answer for answer in model.predict(paths) if isinstance(answer, Answer)]
    model.close()
    rows = [answer.embedding.astype(np.float16) for answer in answers]
    vectors: dict[Key, Any] = {(100 + i, i % 2): row for i, row in enumerate(rows[:-1])}
    night(str(root / "scores"), {"run-1": vectors}, trunk=model.card.trunk_version)
    return {"root": root, "model": place, "images": paths, "vectors": vectors, "last": rows[-1]}


def shown(world: Any, **settings: Any) -> tuple[list[str], dict[str, Any]]:
    lines: list[str] = []
    summary = show_similar(SimilarConfig(scores=str(world["root"] / "scores"), **settings), lines.append)
    return lines, {**summary}


@pytest.mark.parametrize("indexed", [False, True])
def test_a_picture_that_is_not_in_the_table_is_answered(world: Any, indexed: bool) -> None:
    if indexed:
        index(IndexConfig(scores=str(world["root"] / "scores")))
    (line,), summary = shown(world, image=(world["images"][-1],), model=world["model"], num=4, json=True)
    found = json.loads(line)
    assert found["of_image"] == world["images"][-1]
    wanted = cosines(world["vectors"], world["last"], 4)
    assert [(row["illust_id"], row["page"]) for row in found["neighbours"]] == [key for key, _ in wanted]
    np.testing.assert_allclose(
        [r["similarity"] for r in found["neighbours"]], [s for _, s in wanted], atol=1e-3
    )
    assert (summary["questions"], summary["indexed"], summary["failed"]) == (1, indexed, 0)


def test_ids_are_shown_in_a_table_for_people(world: Any) -> None:
    lines, summary = shown(world, id=("100", "101/1"), num=2)
    assert lines[0] == "100"
    assert lines[1].split() == ["illust_id", "page", "similarity"]
    first = pix2score.similar(str(world["root"] / "scores"), (100, 0), 1).to_pylist()[0]
    assert lines[2].split() == [str(first["illust_id"]), str(first["page"]), f"{first['similarity']:.4f}"]
    assert lines[4] == "101/1"
    assert summary["questions"] == 2


def test_a_model_of_another_trunk_is_refused_in_one_line(world: Any, tmp_path: Path) -> None:
    night(str(tmp_path / "scores"), {"run-1": world["vectors"]}, trunk="0" * 12)
    config = SimilarConfig(scores=str(tmp_path / "scores"), image=(world["images"][0],), model=world["model"])
    with pytest.raises(ConfigError, match="of trunk 000000000000: they cannot be compared"):
        show_similar(config, lambda _: None)


def test_a_bad_image_is_named_after_the_others(world: Any, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    lines: list[str] = []
    config = SimilarConfig(
        scores=str(world["root"] / "scores"),
        image=(str(bad), world["images"][0]),
        model=world["model"],
        json=True,
    )
    with pytest.raises(DataError, match=f"1 of 2 images gave no answer: {bad}"):
        show_similar(config, lines.append)
    assert len(lines) == 1


def test_what_is_asked_is_checked(world: Any) -> None:
    with pytest.raises(ConfigError, match="give --id or --image"):
        SimilarConfig(scores="s")
    with pytest.raises(ConfigError, match="--image and --model go together"):
        SimilarConfig(scores="s", image=("x.png",))
    with pytest.raises(ConfigError, match="--id x: the ids are int64"):
        shown(world, id=("x",))
    with pytest.raises(DataError, match="999, page 0, has no embedding"):
        shown(world, id=("999",))
