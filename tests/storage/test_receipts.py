"""A receipt counts once: the first one stays, what another try wrote beside it is removed."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

import pytest

from pix2score.storage.folder import Folder
from pix2score.storage.receipts import publish_receipt, read_receipts


@dataclass(frozen=True)
class Proof:
    piece: str
    files: tuple[str, ...]


def read(data: bytes) -> Proof:
    plain = json.loads(data)
    return Proof(plain["piece"], tuple(plain["files"]))


def written(folder: Folder, name: str) -> Proof:
    folder.publish(f"data/{name}", name.encode())
    proof = Proof("one", (f"data/{name}",))
    return publish_receipt(folder, "staged/one.json", proof, proof.files, read)


def test_of_two_receipts_of_a_piece_the_first_stays_and_the_files_of_the_other_go(place: str) -> None:
    folder = Folder(place)
    first = written(folder, "first")
    assert written(folder, "second") == first == Proof("one", ("data/first",))
    assert [entry.path for entry in folder.entries()] == ["data/first", "staged/one.json"]


def test_what_is_no_receipt_is_left_out_with_a_warning(place: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = Folder(place)
    proof = written(folder, "first")
    contents = {"a": b"", "b": b"\xff", "c": b"[]", "d": b'{"piece": 1}', "e": b"[" * 100_000, "f": b"null"}
    for name, data in contents.items():
        folder.publish(f"staged/{name}.json", data)
    paths = [f"staged/{name}.json" for name in (*contents, "one", "missing")]
    with caplog.at_level(logging.WARNING):
        assert read_receipts(folder, paths, lambda _, data: read(data)) == [proof]
    lines = [line for line in caplog.messages if "is not a receipt of this version and is left alone" in line]
    assert len(lines) == len(contents)
