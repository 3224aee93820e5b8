"""Storage: whole objects, created once, listed without temporaries, alike on disk and on S3."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pix2score.errors import AccessError, ConfigError, DataError
from pix2score.storage import objects
from pix2score.storage.folder import Entry, Folder, read_place
from pix2score.storage.objects import delete_s3
from pix2score.storage.places import normalise
from tests.support import flaky_proxy
from tests.support.paths import ROOT

NUM_RACES = 100
RACER = f"""
import sys
import threading
from pix2score.storage.folder import Folder
place, me = sys.argv[1:]
folder = Folder(place)
folder.publish(f"ready-{{me}}", b"")
print("ready", flush=True)
sys.stdin.readline()
for i in range({NUM_RACES}):
    try:
        folder.publish(f"{{i}}.json", me.encode() * 1000)
        print(i, "won")
    except FileExistsError:
        print(i, "lost")
"""


def test_what_is_published_is_read_back(place: str) -> None:
    folder = Folder(place)
    assert folder.publish("a/b.bin", b"hello") == 5
    assert folder.read("a/b.bin") == b"hello"
    assert read_place(f"{place}/a/b.bin") == b"hello"
    with folder.open("a/b.bin") as stream:
        stream.seek(1)
        assert stream.read() == b"ello"


@pytest.mark.parametrize(
    "name", ["plain.txt", "with space.txt", "plus+and%41.txt", "ünïcødé-絵.txt", "q?#&=.txt", "star[0]*.txt"]
)
def test_odd_names_are_taken_verbatim(place: str, name: str) -> None:
    folder = Folder(place)
    folder.publish(f"sub/{name}", name.encode())
    assert folder.read(f"sub/{name}") == name.encode()
    assert [entry.path for entry in folder.entries()] == [f"sub/{name}"]
    assert folder.is_file(f"sub/{name}")


def test_an_existing_object_is_not_overwritten_unless_asked(place: str) -> None:
    folder = Folder(place)
    folder.publish("x", b"first")
    with pytest.raises(FileExistsError):
        folder.publish("x", b"second")
    assert folder.read("x") == b"first"
    folder.publish("x", b"third", replace=True)
    assert folder.read("x") == b"third"


def test_an_empty_object_can_be_published_and_guards_its_name(place: str) -> None:
    folder = Folder(place)
    folder.publish("marker", b"")
    assert folder.read("marker") == b""
    with pytest.raises(FileExistsError):
        folder.publish("marker", b"x")


def test_entries_go_down_and_top_entries_do_not(place: str) -> None:
    folder = Folder(place)
    for path in ("b.json", "a.json", "c.txt", "sub/d.json", "sub/sub/e.json"):
        folder.publish(path, b"12")
    assert [e.path for e in folder.entries()] == ["a.json", "b.json", "c.txt", "sub/d.json", "sub/sub/e.json"]
    assert [e.path for e in folder.entries(suffix=".json")] == [
        "a.json",
        "b.json",
        "sub/d.json",
        "sub/sub/e.json",
    ]
    assert [e.path for e in folder.entries("sub")] == ["sub/d.json", "sub/sub/e.json"]
    assert [e.path for e in folder.top_entries(suffix=".json")] == ["a.json", "b.json"]
    assert [e.path for e in (folder / "sub").top_entries()] == ["d.json"]
    assert {e.size for e in folder.entries()} == {2}


def test_a_sibling_with_the_same_prefix_is_another_folder(place: str) -> None:
    Folder(place + "-old").publish("x.json", b"1")
    Folder(place).publish("y.json", b"1")
    assert [e.path for e in Folder(place).entries()] == ["y.json"]
    assert [e.path for e in Folder(place).top_entries()] == ["y.json"]


def test_a_folder_that_is_not_there_has_no_entries(place: str) -> None:
    folder = Folder(place) / "nowhere"
    assert folder.entries() == []
    assert folder.top_entries() == []
    assert not folder.is_file("x")


def test_the_tag_of_an_entry_changes_with_the_content(place: str) -> None:
    folder = Folder(place)
    folder.publish("x", b"one")
    before = folder.entry("x")
    folder.publish("x", b"two", replace=True)
    after = folder.entry("x")
    assert isinstance(before, Entry)
    assert (before.path, before.size) == ("x", 3)
    assert after.etag != before.etag
    assert folder.entries() == [after]


def test_reading_what_is_not_there_says_so(place: str) -> None:
    folder = Folder(place)
    folder.publish("other", b"1")
    for read in (folder.read, folder.entry):
        with pytest.raises(FileNotFoundError):
            read("absent")
    with pytest.raises(FileNotFoundError):
        folder.open("absent").read()


def test_deleting_is_done_when_nothing_is_left_even_twice(place: str) -> None:
    folder = Folder(place)
    for path in ("a", "b", "c"):
        folder.publish(path, b"1")
    folder.delete(["a", "never-there", "b"])
    folder.delete(["a"])
    assert [e.path for e in folder.entries()] == ["c"]
    folder.publish("a", b"again")
    assert folder.read("a") == b"again"


def test_a_folder_can_be_sent_to_another_process(place: str) -> None:
    Folder(place).publish("x", b"1")
    copy = pickle.loads(pickle.dumps(Folder(place)))
    assert copy.read("x") == b"1"


@pytest.mark.slow
def test_of_two_processes_that_create_one_name_exactly_one_succeeds(place: str) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, place, me],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path.cwd(),
        )
        for me in ("a", "b")
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    outputs = [racer.communicate(timeout=60)[0] for racer in racers]
    results = [dict(line.split() for line in output.splitlines()) for output in outputs]
    folder = Folder(place)
    for i in map(str, range(NUM_RACES)):
        winners = [me for me, result in zip("ab", results, strict=True) if result[i] == "won"]
        assert len(winners) == 1, f"object {i} was created by {winners}"
        assert folder.read(f"{i}.json") == winners[0].encode() * 1000


def test_temporary_files_of_a_writer_that_died_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for path in (".tmp-abc", "sub/.tmp-def", "sub/part.parquet"):
        (tmp_path / path).write_bytes(b"half")
    folder = Folder(str(tmp_path))
    assert [e.path for e in folder.entries()] == ["sub/part.parquet"]
    assert folder.top_entries() == []


def test_a_refused_publish_leaves_no_temporary_file(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.publish("x", b"1")
    with pytest.raises(FileExistsError):
        folder.publish("x", b"2")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_published_files_have_the_permissions_of_ordinary_ones(tmp_path: Path) -> None:
    Folder(str(tmp_path)).publish("x", b"1")
    (tmp_path / "y").write_bytes(b"1")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "y").stat().st_mode


def test_a_bucket_that_does_not_exist_is_named(moto_server: str) -> None:
    folder = Folder("s3://no-such-bucket-here/prefix")
    for act in (
        lambda: folder.publish("x", b"1"),
        lambda: folder.read("x"),
        folder.entries,
        folder.top_entries,
    ):
        with pytest.raises(DataError, match="bucket 'no-such-bucket-here' does not exist"):
            act()


@pytest.mark.parametrize(
    "place", ["", "hdfs://bucket/x", "http://host/x", "file:///x", "s3://", "s3:///key", "gs://", "az:///key"]
)
def test_a_place_that_is_neither_local_nor_s3_is_refused(place: str) -> None:
    with pytest.raises(ConfigError, match="place"):
        normalise(place)


def test_places_are_normalised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert normalise("a/../b/") == str(tmp_path / "b")
    assert normalise("~/x") == "/home/someone/x"
    assert normalise("s3://bucket/prefix//") == "s3://bucket/prefix"
    assert normalise("s3://bucket/") == "s3://bucket"
    assert normalise("s3://bucket/a/../b") == "s3://bucket/a/../b"


def test_a_whole_bucket_is_a_folder(s3: object) -> None:
    s3.create_bucket(Bucket="whole-bucket")  # type: ignore[attr-defined]
    folder = Folder("s3://whole-bucket")
    folder.publish("a/x", b"1")
    assert [e.path for e in folder.entries()] == ["a/x"]
    assert (folder.read("a/x"), (folder / "a").parent.uri) == (b"1", "s3://whole-bucket")


def test_a_place_below_a_plain_file_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for place in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(DataError, match="a file stands in its place"):
            Folder(str(place)).publish("object", b"data")


def test_publishing_the_same_bytes_again_is_harmless_and_others_are_refused(place: str) -> None:
    folder = Folder(place)
    folder.publish("receipt.json", b"mine")
    folder.publish("receipt.json", b"mine")  # as a retry does whose first answer was lost
    with pytest.raises(FileExistsError):
        folder.publish("receipt.json", b"another's")
    assert folder.read("receipt.json") == b"mine"


@pytest.mark.parametrize(
    "top", ["scores[12]", "what?", "a*z", "[circle] title (c99)", "50%", "a#b", "~x", "{a,b}"]
)
def test_a_folder_of_any_name_reads_lists_and_deletes_its_own_objects_only(place: str, top: str) -> None:
    names = ["scores1", "scores2", "whatx", "a-prod-z", "c", "a", "b", top]
    for name in names:
        Folder(f"{place}/{name}").publish("staged/r/x.json", name.encode())
    folder = Folder(f"{place}/{top}")
    assert folder.read_many(["staged/r/x.json", "staged/r/gone.json"]) == {"staged/r/x.json": top.encode()}
    assert [entry.path for entry in folder.entries("staged")] == ["staged/r/x.json"]
    assert folder.entry("staged/r/x.json").size == len(top)
    folder.delete(["staged/r/x.json"])
    assert folder.entries() == []
    left = {entry.path.partition("/")[0] for entry in Folder(place).entries()}
    assert left == {name for name in names if name != top}


def test_objects_are_deleted_in_the_order_given_a_thousand_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[list[str]] = []

    class Store:
        def call_s3(self, method: str, *, Bucket: str, Delete: dict[str, Any]) -> dict[str, Any]:
            requests.append([entry["Key"] for entry in Delete["Objects"]])
            if "x/1500" in requests[-1]:
                return {
                    "Errors": [
                        {"Key": "x/1500", "Code": "AccessDenied"},
                        {"Key": "x/gone", "Code": "NoSuchKey"},
                    ]
                }
            return {}

    with pytest.raises(
        AccessError, match=r"1 or more of 2500 objects were not removed: AccessDenied for 'x/1500'"
    ):
        delete_s3(Store(), [f"s3://b/x/{i}" for i in range(2500)])
    assert [len(keys) for keys in requests] == [1000, 1000], "nothing is deleted after a refusal"
    assert requests[0] == [f"x/{i}" for i in range(1000)]


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_files_cannot_be_linked_one_creator_still_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def link(source: str, target: Any) -> None:
        raise OSError(code, os.strerror(code), source, None, str(target))

    monkeypatch.setattr(os, "link", link)
    folder = Folder(str(tmp_path / "x"))
    folder.publish("a.json", b"first")
    folder.publish("a.json", b"first")
    with pytest.raises(FileExistsError):
        folder.publish("a.json", b"second")
    assert folder.read("a.json") == b"first"
    assert folder.entries(temporary=True) == []
    folder.prove_exclusive()
    assert [entry.path for entry in folder.entries()] == ["a.json"]


def test_a_file_system_that_can_neither_link_nor_rename_exclusively_is_told_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*names: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(objects, "_rename_exclusive", refuse)
    with pytest.raises(DataError, match="neither link nor rename.*two runs could publish"):
        Folder(str(tmp_path / "x")).prove_exclusive()


def test_the_exclusive_rename_keeps_a_second_creator_out_and_moves_whole_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    with pytest.raises(FileExistsError):
        objects._rename_exclusive(str(tmp_path / "a"), str(tmp_path / "b"))
    objects._rename_exclusive(str(tmp_path / "a"), str(tmp_path / "c"))
    assert ((tmp_path / "b").read_bytes(), (tmp_path / "c").read_bytes()) == (b"2", b"1")


def test_publishing_beside_a_process_that_removes_emptied_folders_never_fails(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pix2score.storage.folder import Folder; f = Folder(sys.argv[1])\n"
        "print('ready', flush=True); end = time.time() + 1.5\n"
        "while time.time() < end: f.publish('staged/other/x', b''); f.delete(['staged/other/x'])"
    )
    folder = Folder(str(tmp_path))
    other = subprocess.Popen([sys.executable, "-c", code, folder.uri], stdout=subprocess.PIPE, cwd=ROOT)
    assert other.stdout is not None and other.stdout.readline() == b"ready\n"
    while other.poll() is None:
        folder.publish("staged/mine/x", b"")
        folder.delete(["staged/mine/x"])
    assert other.returncode == 0


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ("ignored", "does not keep a second creator out"),
        pytest.param("refused", "If-None-Match", marks=pytest.mark.slow),
    ],
)
def test_a_store_that_cannot_refuse_a_second_creator_is_told(
    moto_server: str, s3_place: str, tmp_path: Path, conditions: str, message: str
) -> None:
    process, store = flaky_proxy.start(moto_server, tmp_path / "control.json")
    code = "import sys; from pix2score.storage.folder import Folder; Folder(sys.argv[1]).prove_exclusive()"
    environment = {**os.environ, "AWS_ENDPOINT_URL": store.endpoint}
    try:
        for faults, returns in ((flaky_proxy.Faults(), 0), (flaky_proxy.Faults(conditions=conditions), 1)):
            store.behave(faults)
            done = subprocess.run(
                [sys.executable, "-c", code, s3_place],
                check=False,
                env=environment,
                capture_output=True,
                text=True,
                cwd=ROOT,
            )
            assert done.returncode == returns, done.stderr
        assert "DataError" in done.stderr and message in done.stderr
    finally:
        process.terminate()
        process.wait(timeout=10)
    assert Folder(s3_place).entries() == []
