"""jobs/monitoring: the alerts fire when they should, and whatever they and the dashboard ask for is there."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pix2score.cluster.counters import METRICS
from tests.conftest import free_port
from tests.support.drivers import Ray, await_file, started_node
from tests.support.models import catalog_of_pictures, save_settled
from tests.support.paths import ROOT

PLACE = ROOT / "jobs" / "monitoring"
NAME = re.compile(r"\bray_pix2score_(\w+)(?:\{([^}]*)\})?")
needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="needs Debian's prometheus")


def rules() -> dict[str, dict[str, Any]]:
    """Alerts by name."""
    (group,) = yaml.safe_load((PLACE / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((PLACE / "dashboard.json").read_text())["panels"]
    return found


def dashboard_queries() -> list[str]:
    """With every variable set as it is by default."""
    return [target["expr"].replace("$scores", ".*") for panel in panels() for target in panel["targets"]]


def promtool(*words: str) -> str:
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_whatever_alerts_and_dashboard_name_is_a_metric_of_ours_with_those_labels() -> None:
    for query in [*(rule["expr"] for rule in rules().values()), *dashboard_queries()]:
        found = NAME.findall(query)
        assert found, query
        for name, matchers in found:
            labels = {word.split("=")[0].rstrip("!").strip() for word in matchers.split(",") if word}
            assert labels <= {*METRICS[name].labels}, query


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for query in dashboard_queries() for name, _ in NAME.findall(query)}
    assert shown == METRICS.keys()


def test_counters_are_called_totals_and_gauges_are_not() -> None:
    assert {name for name, spec in METRICS.items() if spec.kind == "Counter"} == {
        name for name in METRICS if name.endswith("_total")
    }


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in panels()
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels()}) == len(panels())


@needs_promtool
def test_rules_configuration_and_queries_are_what_prometheus_takes(tmp_path: Path) -> None:
    assert "4 rules found" in promtool("check", "rules", str(PLACE / "alerts.yml"))
    assert "SUCCESS" in promtool("check", "config", str(PLACE / "prometheus.yml"))
    queries = [{"record": f"panel:{i}", "expr": query} for i, query in enumerate(dashboard_queries())]
    place = tmp_path / "queries.yml"
    place.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": queries}]}))
    assert f"{len(queries)} rules found" in promtool("check", "rules", str(place))


def alert(name: str, at: str, *fired: tuple[dict[str, str], str]) -> dict[str, Any]:
    """A check that at this time exactly these have fired: their labels, and the summary."""
    rule = rules()[name]
    return {
        "eval_time": at,
        "alertname": name,
        "exp_alerts": [
            {
                "exp_labels": {**labels, **rule["labels"]},
                "exp_annotations": {
                    "summary": summary,
                    "description": rule["annotations"]["description"],
                },
            }
            for labels, summary in fired
        ],
    }


def series(name: str, values: str, **labels: str) -> dict[str, str]:
    assert {*labels} <= {*METRICS[name].labels, "WorkerId"}
    text = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return {"series": f"ray_pix2score_{name}{{{text}}}", "values": values}


SHOP, ART = {"scores": "s3://shop"}, {"scores": "s3://art"}


@needs_promtool
def test_alerts_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    late = "No night has been published into s3://art for 1d 3h 0m 0s"
    failing = {**ART, "WorkerId": "2"}
    drifted = "Head bookmark of s3://art drifted: PSI 0.31"
    moved = "Head view of s3://art moved: PSI 0.15"
    tests = [
        {  # seen for a moment at 1 h; the other folder's again a day later
            "interval": "30m",
            "input_series": [
                series("up_to_date_time_seconds", "_ _ 3600 _x200", **ART),
                series("up_to_date_time_seconds", "_ _ 3600 _x46 90000 _x200", **SHOP),
            ],
            "alert_rule_test": [
                alert("Pix2ScoreNoPublication", "26h"),
                alert("Pix2ScoreNoPublication", "28h", (ART, late)),
            ],
        },
        {  # 4 % of 10,000 fail, 20 % of 1,000, and 60 % of 100
            "interval": "1m",
            "input_series": [
                series("night_images", "9600x30", **SHOP, outcome="ok", WorkerId="1"),
                series("night_images", "400x30", **SHOP, outcome="NOT_FOUND", WorkerId="1"),
                series("night_images", "800x30", **ART, outcome="ok", WorkerId="2"),
                series("night_images", "150x30", **ART, outcome="NOT_FOUND", WorkerId="2"),
                series("night_images", "50x30", **ART, outcome="CORRUPT", WorkerId="2"),
                series("night_images", "40x30", scores="new", outcome="ok", WorkerId="3"),
                series("night_images", "60x30", scores="new", outcome="FETCH", WorkerId="3"),
            ],
            "alert_rule_test": [
                alert("Pix2ScoreFailedShare", "5m", (failing, "20% of tonight's images for s3://art fail")),
                alert("Pix2ScoreFailedShare", "50m"),
            ],
        },
        {
            "interval": "10m",
            "input_series": [
                series("drift", "_x2 0.31 _x100", **ART, head="bookmark"),
                series("drift", "_x2 0.15 _x100", **ART, head="view"),
                series("drift", "_x2 0.01 _x100", **ART, head="sanity"),
            ],
            "alert_rule_test": [
                alert("Pix2ScoreDrift", "10m"),
                alert("Pix2ScoreDrift", "3h", ({**ART, "head": "bookmark"}, drifted)),
                alert("Pix2ScoreDriftIsNear", "3h", ({**ART, "head": "view"}, moved)),
                alert("Pix2ScoreDrift", "7h"),
            ],
        },
    ]
    place = tmp_path / "tests.yml"
    rule_files = [str(PLACE / "alerts.yml")]
    place.write_text(json.dumps({"rule_files": rule_files, "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", str(place))


@contextlib.contextmanager
def scraped_ray() -> Iterator[tuple[Ray, int, Path]]:
    """A head, the port of its metrics, and the file that tells Prometheus of both."""
    with tempfile.TemporaryDirectory(prefix="m", dir="/tmp", ignore_cleanup_errors=True) as temp:
        port, metrics = free_port(), free_port()
        head = (
            "--head",
            "--num-cpus=4",
            f"--port={port}",
            f"--dashboard-port={free_port()}",
            f"--metrics-export-port={metrics}",
            f"--temp-dir={temp}",
        )
        with started_node(*head, settings={}) as process:
            await_file(Path(temp), "prom_metrics_service_discovery.json")
            yield (
                Ray(f"127.0.0.1:{port}", process.pid, {}, temp),
                metrics,
                Path(temp) / "prom_metrics_service_discovery.json",
            )


@contextlib.contextmanager
def prometheus(discovery: Path, folder: Path) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """A Prometheus with our configuration and rules that sees a node; gives what a query finds."""
    text = (PLACE / "prometheus.yml").read_text()
    assert "/tmp/ray/prom_metrics_service_discovery.json" in text
    text = text.replace("/tmp/ray/prom_metrics_service_discovery.json", str(discovery))
    (folder / "prometheus.yml").write_text(text)
    shutil.copy(PLACE / "alerts.yml", folder)
    port = free_port()
    words = [
        "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(words, stdout=quiet, stderr=quiet)

    def found(query: str) -> list[dict[str, Any]]:
        words = urllib.parse.urlencode({"query": query})
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{words}", timeout=10) as answer:
            rows: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return rows

    def sees_a_node() -> Any:
        with contextlib.suppress(OSError):
            return found("up == 1")
        return None

    try:
        until(sees_a_node)
        yield found
    finally:
        process.terminate()
        process.wait(timeout=30)


def exported(port: int) -> dict[str, float]:
    """Our metrics at a node's endpoint, summed: ``name{our labels}`` -> value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found: dict[str, float] = {}
    for line in lines:
        if not line.startswith("ray_pix2score_"):
            continue
        name, labels, value = re.fullmatch(r"ray_pix2score_(\w+)\{(.*)\} (\S+)", line).groups()  # type: ignore[union-attr]
        ours = [f"{k}={v}" for k, v in re.findall(r'(\w+)="([^"]*)"', labels) if k in METRICS[name].labels]
        key = f"{name}{{{','.join(ours)}}}"
        found[key] = found.get(key, 0) + float(value)
    return found


def until(happened: Callable[[], Any], timeout_s: float = 60) -> Any:
    """What ``happened`` returned, as soon as it is true."""
    deadline = time.monotonic() + timeout_s
    while not (result := happened()):
        assert time.monotonic() < deadline, f"did not happen in {timeout_s} s"
        time.sleep(0.5)
    return result


@pytest.mark.slow
@pytest.mark.starts_ray
def test_a_night_is_seen_at_the_endpoint_of_its_node_and_a_drifted_one_by_prometheus(
    tmp_path: Path,
) -> None:
    catalog, out = catalog_of_pictures(320, tmp_path / "catalog.parquet"), str(tmp_path / "scores")
    good, permuted = (
        save_settled(
            tmp_path / f"model {name}",
            backbone="test_resnet",
            bias={"bookmark": (1, 0.5, 0, -1)},
            permuted=name,
        )
        for name in ("", "bookmark")
    )
    (tmp_path / "prometheus").mkdir()
    with contextlib.ExitStack() as until_end:
        ray, port, discovery = until_end.enter_context(scraped_ray())
        query = None
        if shutil.which("prometheus"):
            query = until_end.enter_context(prometheus(discovery, tmp_path / "prometheus"))
        words = ("--catalog", catalog, "--out", out)
        first = ray.start("score", *words, "--model", good).done()
        seen = exported(port)
        place = f"scores={out}"
        assert seen[f"snapshot_number{{{place}}}"] == first["snapshot"] == 1
        assert abs(seen[f"published_time_seconds{{{place}}}"] - time.time()) < 300
        assert seen[f"snapshot_rows{{{place},status=ok}}"] == first["scored"] == 320
        assert seen[f"night_images{{outcome=ok,{place}}}"] == 320
        assert seen[f"rows_left{{{place}}}"] == seen[f"rows_staged{{{place}}}"] == 0
        assert seen[f"fetched_bytes_total{{{place}}}"] == first["bytes"] > 0
        assert seen["images_total{outcome=ok}"] == seen["forward_images_total{}"] == 320
        for stage, account in first["stages"].items():
            seconds = seen[f"stage_seconds_total{{{place},stage={stage}}}"]
            assert seconds == pytest.approx(account["busy_s"], abs=0.01)

        assert ray.start("score", *words, "--model", permuted).wait() == 3
        held = exported(port)
        assert held[f"drift{{head=bookmark,{place}}}"] > 0.25
        assert held[f"rows_staged{{{place}}}"] == 320
        if query:
            fired = until(lambda: query('ALERTS{alertname="Pix2ScoreDrift",alertstate="firing"}'), 100)
            assert {row["metric"]["head"] for row in fired} == {"bookmark"}
            names = {name for name in METRICS if not query(f"last_over_time(ray_pix2score_{name}[1h])")}
            assert names == set()
            assert not query('ALERTS{alertname="Pix2ScoreNoPublication"}')
