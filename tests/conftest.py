"""Fixtures that several test files share: a real S3 server, and places on both kinds of storage."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.support.chain import Chain
    from tests.support.stores import AzureServer, GoogleServer

# Before anything imports Ray: it reads them once, and hands them to its workers.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_DATA_PARQUET_FOOTER_NUM_ACTORS"] = "1"
# What one process compiles the next need not: tests start hundreds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if "PYTEST_XDIST_WORKER" in os.environ:  # a process of tests for each core: threads that spin take turns
    os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("pix2score", deadline=None)  # a loaded machine is slow, and no fault
settings.load_profile("pix2score")

SECRET = secrets.token_hex(20)  # made anew, so that finding it anywhere means that it leaked
BUCKET = "pix2score-tests"


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--part 1/3``: the first of three parts of all files, so that long tests can take turns in CI."""
    parser.addoption("--part", default="1/1", help="N/M: of M parts of all test files the Nth")


def _of_part(item: pytest.Item, part: str) -> bool:
    number, parts = map(int, part.split("/"))
    return zlib.crc32(item.nodeid.partition("::")[0].encode()) % parts == number - 1


def _mark_second_forms(items: list[pytest.Item]) -> None:
    """A night on S3 is the second form of one on disk, and so are a test's further cases on S3: slow."""
    on_s3: set[str] = set()
    for item in items:
        case, room = getattr(item, "callspec", None), item.path.parent.name
        if room == "storage" or case is None or case.params.get("place") != "s3":
            continue
        test = item.nodeid.partition("[")[0]
        if room in ("nightly", "snapshots") or test in on_s3:
            item.add_marker(pytest.mark.slow)
        on_s3.add(test)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that use a Ray, and long ones, run one after the other in one process; other files beside them.

    A file stays in one process, so that what it sets up is set up once.
    """
    items[:] = [item for item in items if _of_part(item, config.getoption("--part"))]
    _mark_second_forms(items)
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        uses_ray = "ray_session" in getattr(item, "fixturenames", ())
        is_in_turn = uses_ray or marks & {"starts_ray", "slow", "endurance"}
        item.add_marker(pytest.mark.xdist_group("ray" if is_in_turn else item.path.stem))


@pytest.fixture(autouse=True)
def torch_threads() -> Iterator[None]:
    """Give torch back the number of threads that it had: rounding depends on it, and with it which of two
    equal pixels a pooling takes."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    yield
    if torch and torch.get_num_threads() != before:
        torch.set_num_threads(before)


def free_port() -> int:
    """A TCP port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    """Endpoint of an S3 server in its own process; the standard AWS variables point to it. Has one bucket,
    ``BUCKET``."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    endpoint = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "moto")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        try:
            _await_listening(port, server)
            _client().create_bucket(Bucket=BUCKET)
            yield endpoint
        finally:
            server.terminate()
            server.wait(timeout=10)


def _await_listening(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, "the moto server ended by itself"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the moto server did not start within 60 s")


def _client() -> Any:
    import boto3

    return boto3.client("s3")


@pytest.fixture(scope="session")
def s3(moto_server: str) -> Any:
    """A plain boto3 client of the S3 server: what a user's own tools see."""
    return _client()


@pytest.fixture
def s3_place(moto_server: str) -> str:
    """A fresh, empty s3://bucket/prefix."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def google_server() -> Iterator[GoogleServer]:
    """A Google Cloud Storage; the variable of its emulators points to it."""
    from tests.support import stores  # 0.2 s, which most tests do not need

    with stores.google() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", server.endpoint)
        yield server


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureServer]:
    """An Azure Blob; the standard connection string points to it."""
    from tests.support import stores

    with stores.azure(tmp_path_factory.mktemp("azurite")) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AZURE_STORAGE_CONNECTION_STRING", server.connection_string)
        yield server


@pytest.fixture
def gs_place(google_server: GoogleServer) -> str:
    """A fresh, empty gs://bucket/prefix."""
    return f"gs://{BUCKET}/{uuid.uuid4().hex[:12]}"


@pytest.fixture
def az_place(azure_server: AzureServer) -> str:
    """A fresh, empty az://container/prefix."""
    return f"az://{BUCKET}/{uuid.uuid4().hex[:12]}"


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty place of either kind."""
    return place_of(request, tmp_path)


def place_of(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty place of the kind that the parameter names: ``local``, ``s3``, ``gs`` or ``az``."""
    if request.param == "local":
        return str(tmp_path / "place")
    return str(request.getfixturevalue(f"{request.param}_place"))


@pytest.fixture(scope="session")
def ray_session(moto_server: str) -> Iterator[None]:
    """One local Ray for all tests that need it; its workers reach the S3 server. A pipeline that stands still
    ends by itself."""
    from ray.data import DataContext

    from pix2score.cluster.session import session

    with session():
        DataContext.get_current().execution_no_progress_timeout_s = 120
        yield


@pytest.fixture(scope="session")
def chain(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A drawn catalog that went through prepare, train and score, in local folders."""
    from tests.support.chain import local_chain

    return local_chain(tmp_path_factory.mktemp("chain"))
