"""The similar job: neighbours of illustrations by id, and of pictures by what a model makes of them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
import pyarrow.types as pt

from pix2score.catalog.keys import Id, Key
from pix2score.cli.tables import aligned
from pix2score.errors import ConfigError, DataError, ImageFailure, JobFailed
from pix2score.neighbours.config import SimilarConfig
from pix2score.neighbours.similar import Neighbours, check_trunk
from pix2score.summaries import SimilarSummary


def show_similar(config: SimilarConfig, say: Callable[[str], None]) -> SimilarSummary:
    """Pass a table of each question's neighbours to ``say``, or its line of JSON; return the summary.

    Raises:
        ConfigError: the model's trunk is not that of the snapshot's embeddings.
        DataError: no snapshot or model there, an id without an embedding; or, after doing all others, an
            image that gave no answer.
    """
    started = time.monotonic()
    asked = Neighbours(config.scores)
    keys = [_key(text, asked.id_type) for text in config.id]
    for text, key in zip(config.id, keys, strict=True):
        _tell(config, say, {"of": text}, asked.of([key], config.num))
    failed: dict[str, str] = {}
    for image, found in _of_images(config, asked):
        if isinstance(found, ImageFailure):
            failed[image] = str(found)
            print(f"jobs.similar: {image}: {found}", file=sys.stderr, flush=True)
        else:
            _tell(config, say, {"of_image": image}, found)
    summary: SimilarSummary = {
        "job": "similar",
        "snapshot": asked.snapshot,
        "questions": len(keys) + len(config.image),
        "indexed": asked.is_indexed,
        "failed": len(failed),
        "seconds": round(time.monotonic() - started, 3),
    }
    if failed:
        error = DataError(f"{len(failed)} of {len(config.image)} images gave no answer: {', '.join(failed)}")
        JobFailed({**summary}, error).attach()
        raise error
    return summary


def _of_images(config: SimilarConfig, asked: Neighbours) -> Iterator[tuple[str, pa.Table | ImageFailure]]:
    if config.model is None:
        return
    from pix2score.serve.model import Model  # loads what decodes and answers

    model = Model.load(config.model)
    try:
        check_trunk(
            f"--model {config.model}",
            model.card.trunk_version,
            config.scores,
            asked.snapshot,
            asked.trunk_version,
        )
        for image in config.image:
            (answer,) = model.predict([image])
            yield (
                image,
                answer if isinstance(answer, ImageFailure) else asked.like(answer.embedding, config.num),
            )
    finally:
        model.close()


def _key(text: str, id_type: pa.DataType) -> Key:
    """``id`` or ``id/page``; an id of text may hold slashes before its page."""
    head, slash, tail = text.rpartition("/")
    if slash and tail.isdecimal():
        return _id(head, id_type), int(tail)
    return _id(text, id_type), 0


def _id(text: str, id_type: pa.DataType) -> Id:
    if not pt.is_integer(id_type):
        return text
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"--id {text}: the ids are {id_type}; expected ID or ID/PAGE") from None


def _tell(config: SimilarConfig, say: Callable[[str], None], of: dict[str, str], found: pa.Table) -> None:
    rows = found.select(["illust_id", "page", "similarity"]).to_pylist()
    if config.json:
        say(json.dumps({**of, "neighbours": rows}))
        return
    for line in _lines(next(iter(of.values())), rows):
        say(line)


def _lines(of: str, rows: Sequence[dict[str, Id | float]]) -> list[str]:
    cells = [[str(row["illust_id"]), str(row["page"]), f"{row['similarity']:.4f}"] for row in rows]
    table = aligned([["illust_id", "page", "similarity"], *cells])
    return [of, *(f"  {line}" for line in table.splitlines())]
