"""The service as it is run: a process with flags and signals, Ray Serve's own command and file, a new model
under load."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from pix2score.errors import ConfigError, DataError
from pix2score.model.card import load_card
from pix2score.service.app import build
from pix2score.service.config import AppConfig, ServeConfig
from pix2score.service.job import check_port, serve
from pix2score.service.replica import SPARE_DECODERS
from tests.conftest import free_port
from tests.support.chain import Chain
from tests.support.drivers import command_line, descendants
from tests.support.models import cheap_model
from tests.support.paths import ROOT
from tests.support.services import client, deploy, deployed, hostile, parts, picture

EXAMPLE = ROOT / "jobs/examples/serve.yaml"


class Load:
    """Requests from some threads until told to stop; what each came to."""

    def __init__(self, url: str, num_threads: int = 4) -> None:
        self.url, self.statuses, self.versions = url, Counter[int | str](), Counter[str]()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(num_threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def _ask(self, number: int) -> None:
        with client(self.url) as service:
            while not self._stop.is_set():
                try:
                    response = service.post("/predict", files=parts({"a": picture(number)}))
                    self.versions[response.json()["model_version"]] += 1
                    self.statuses[response.status_code] += 1
                except (httpx.HTTPError, ValueError) as exc:
                    self.statuses[type(exc).__name__] += 1


def until(happened: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.1)


def version_at(url: str) -> str | None:
    try:
        with client(url) as service:
            response = service.get("/readyz")
            return str(response.json()["model_version"]) if response.status_code == 200 else None
    except (httpx.HTTPError, ValueError):
        return None


@contextmanager
def process(*words: str, log: Path) -> Iterator[subprocess.Popen[str]]:
    """A command whose errors go to ``log``, killed if it still runs when the block ends.

    Ctrl-C reaches it also where the tests run in the background of a shell, which ignores it.
    """
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment["PYTHONPATH"] = str(ROOT)
    with log.open("w") as err:
        started = subprocess.Popen(
            ["env", "--default-signal=INT", *words],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=err,
        )
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.communicate(timeout=60)


def test_a_service_without_a_model_scores_or_port_is_one_line(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a model: no model\.json there"):
        serve(ServeConfig(model=str(tmp_path)))
    with pytest.raises(DataError, match="no scores at"):
        serve(ServeConfig(model=chain.model, scores=str(tmp_path)))
    with pytest.raises(ConfigError, match="unknown key 'modle'; did you mean"):
        build({"modle": chain.model})
    port = free_port()
    check_port("127.0.0.1", port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(ConfigError, match=rf"--port {port}: Address already in use; is another"):
            serve(ServeConfig(model=chain.model, port=port))
    with pytest.raises(ConfigError, match=r"--host 256\.1\.1\.1 --port \d+: [\w ]+$"):
        serve(ServeConfig(model=chain.model, host="256.1.1.1", port=port))
    assert ServeConfig(model="m", host="::1").url == "http://[::1]:8000"


def test_the_example_for_ray_serve_is_one_that_it_takes() -> None:
    from ray.serve.schema import ServeDeploySchema

    content = yaml.safe_load(EXAMPLE.read_text())
    parsed = ServeDeploySchema.model_validate(content)
    (application,) = parsed.applications
    assert application.import_path == "pix2score.service.app:build"
    AppConfig(**application.args)
    (options,) = application.deployments
    known = set(type(options).model_fields)
    assert set(content["applications"][0]["deployments"][0]) <= known
    assert (options.name, options.num_replicas) == ("pix2score", 2)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_another_model_takes_over_under_load_without_a_failed_request(serving: str, tmp_path: Path) -> None:
    first, second = cheap_model(tmp_path / "1"), cheap_model(tmp_path / "2", seed=1)
    versions = [load_card(place).version for place in (first, second)]
    with deployed(AppConfig(model=first, explain=False), serving, "rolled") as url:
        with Load(url) as load:
            until(lambda: load.versions[versions[0]] > 20)
            deploy(AppConfig(model=second, explain=False), "rolled", "/rolled")
            until(lambda: load.versions[versions[1]] > 20)
            time.sleep(3)  # while the first one ends
        assert set(load.statuses) == {200}, load.statuses
        assert set(load.versions) == set(versions)
        assert version_at(url) == versions[1]


@pytest.mark.slow
@pytest.mark.starts_ray
@pytest.mark.timeout(300)
def test_the_job_takes_up_another_model_by_sighup_and_ends_by_sigterm(tmp_path: Path) -> None:
    first, second = cheap_model(tmp_path / "1"), cheap_model(tmp_path / "2", seed=1)
    config, port = tmp_path / "serve.toml", free_port()
    url = f"http://127.0.0.1:{port}"
    config.write_text(f'model = "{first}"\nport = {port}\nexplain = false\n')
    log = tmp_path / "log"
    with process(sys.executable, "-m", "jobs.serve", "--config", str(config), log=log) as job:
        until(lambda: version_at(url) == load_card(first).version or job.poll() is not None)
        with Load(url, 2) as load:
            until(lambda: load.statuses[200] > 10)
            config.write_text(f'model = "{tmp_path}/3"\nport = {port}\nexplain = false\n')
            job.send_signal(signal.SIGHUP)  # no model there: all stays
            time.sleep(2)
            damaged = Path(cheap_model(tmp_path / "4", seed=2))
            os.truncate(damaged / "model.safetensors", 1_000)
            config.write_text(f'model = "{damaged}"\nport = {port}\nexplain = false\n')
            job.send_signal(signal.SIGHUP)
            until(lambda: "model.safetensors was altered" in log.read_text())
            config.write_text(f'model = "{second}"\nport = {port}\nexplain = false\n')
            job.send_signal(signal.SIGHUP)
            until(lambda: load.versions[load_card(second).version] > 10)
            until(lambda: f"model {load_card(second).version} answers" in log.read_text())
        assert set(load.statuses) == {200}, load.statuses
        children = descendants(job.pid)
        assert children
        job.send_signal(signal.SIGTERM)
        out, _ = job.communicate(timeout=60)
    assert job.returncode == 0, log.read_text()
    summary = json.loads(out.splitlines()[-1])
    assert summary["job"] == "serve"
    assert (summary["model_version"], summary["deployments"]) == (load_card(second).version, 2)
    assert "not deployed again: " in log.read_text()
    assert re.search(r"did not start: .* was altered: .*; the one before goes on", log.read_text())
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 30)


@pytest.mark.slow
@pytest.mark.starts_ray
@pytest.mark.timeout(300)
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_service_that_is_told_to_end_while_it_starts_ends_as_later(
    tmp_path: Path, signum: signal.Signals
) -> None:
    log, model = tmp_path / "log", cheap_model(tmp_path / "1")
    command = (sys.executable, "-m", "jobs.serve", "--model", model, "--port", str(free_port()))
    with process(*command, log=log) as job:
        until(lambda: "starting Ray" in log.read_text() and len(descendants(job.pid)) > 3)
        job.send_signal(signum)
        out, _ = job.communicate(timeout=60)
    assert job.returncode == 0, log.read_text()
    assert json.loads(out.splitlines()[-1])["deployments"] == 0


@pytest.mark.slow
@pytest.mark.starts_ray
@pytest.mark.timeout(300)
def test_ray_serves_own_command_runs_the_example(tmp_path: Path) -> None:
    model, port = cheap_model(tmp_path / "1"), free_port()
    content: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    content["http_options"] |= {"host": "127.0.0.1", "port": port}
    (application,) = content["applications"]
    application["args"] = {"model": model, "explain": False}
    application["deployments"][0]["ray_actor_options"] = {"num_cpus": 0.5}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(content))
    command = shutil.which("serve")
    assert command, "Ray Serve's command is not installed"
    log = tmp_path / "log"
    with process(command, "run", str(tmp_path / "serve.yaml"), log=log) as job:
        url = f"http://127.0.0.1:{port}"
        until(lambda: version_at(url) is not None or job.poll() is not None, 120)
        assert job.poll() is None, log.read_text()
        with client(url) as service:
            response = service.post("/predict", files=parts({"a": picture(1), "b": b""}))
            assert response.status_code == 200
            until(lambda: service.get("/metrics").text.count("pix2score_service_model{") == 2)
        job.send_signal(signal.SIGINT)
        job.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_hostile_load_fails_no_good_request_and_leaves_no_process(serving: str, tmp_path: Path) -> None:
    model, before = cheap_model(tmp_path / "1"), _decode_children()
    config = AppConfig(model=model, explain=False)
    with deployed(config, serving, "hostile") as url, client(url) as service:
        for _ in range(2):
            for name, (data, _, status) in hostile().items():
                assert service.post("/predict", files=parts({name: data})).status_code == status
        with Load(url) as load:
            for _ in range(30):
                for name, (data, _, status) in hostile().items():
                    assert service.post("/predict", files=parts({name: data})).status_code == status
        assert set(load.statuses) == {200}
        assert load.statuses[200] > 100
        begun = _decode_children() - before
        assert 0 < len(begun) <= 1 + SPARE_DECODERS  # of a replica with one CPU


def _decode_children() -> set[int]:
    """Decode children below this process, also those that tests before have left."""
    return {pid for pid in descendants(os.getpid()) if "pix2score.images.decoder" in command_line(pid)}
