"""What those who run the service see: health, numbers, interface, files, and its limits under load."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pix2score.serve.model import Model
from pix2score.service.config import AppConfig
from tests.support.chain import Chain
from tests.support.pictures import encode, smooth
from tests.support.services import client, deploy, deployed, giant, parts, picture

PREFIX = "pix2score_service_"


@pytest.fixture(scope="module")
def small(serving: str, chain: Chain) -> Iterator[httpx.Client]:
    """A service below /small that takes little, on two replicas."""
    config = AppConfig(model=chain.model, max_images=2, max_queue=2, max_body_mb=1, explain=False)
    deploy(config, "small", "/small", num_replicas=2)
    with client(f"{serving}/small") as found:
        yield found


def samples(service: httpx.Client) -> list[tuple[str, dict[str, str], float]]:
    text = service.get("/metrics").text
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def total(service: httpx.Client, name: str, **labels: str) -> float:
    return sum(
        value
        for found, said, value in samples(service)
        if found == PREFIX + name and labels.items() <= said.items()
    )


def test_health_and_the_model_are_told(service: httpx.Client, model: Model, chain: Chain) -> None:
    assert service.get("/healthz").text == "ok"
    assert service.get("/readyz").json() == {"ready": True, "model_version": model.card.version}
    about = service.get("/model").json()
    assert about["model_version"] == model.card.version
    assert [head["name"] for head in about["heads"]] == ["bookmark", "view", "sanity"]
    assert about["heads"][0]["bins"][0] == "0-10"
    assert about["similar"]["snapshot"] == chain.scored["snapshot"]
    assert about["limits"] == {"body_bytes": 8 * 2**20, "images": 8, "image_bytes": 8 * 2**20}
    assert about["explains"]


def test_requests_and_pictures_are_counted(service: httpx.Client) -> None:
    def counted() -> list[float]:
        return [
            total(service, "requests_total", route="/predict", status="200"),
            total(service, "pictures_total", outcome="ok"),
            total(service, "pictures_total", outcome="UNSUPPORTED"),
            total(service, "request_seconds_count", route="/predict"),
            total(service, "batch_pictures_sum"),
        ]

    before = counted()
    service.post("/predict", files=parts({"a": picture(1), "b": b"nothing", "c": picture(2)}))
    after = counted()
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 2, 1, 1, 2]
    assert total(service, "queue") == 0


def test_numbers_are_of_all_replicas(small: httpx.Client) -> None:
    for _ in range(6):
        small.post("/predict", files=parts({"a": picture(1)}))
    replicas = {labels["replica"] for name, labels, _ in samples(small) if name == PREFIX + "model"}
    assert len(replicas) == 2
    assert total(small, "pictures_total", outcome="ok") == 6


def test_the_interface_needs_no_other_host(service: httpx.Client) -> None:
    routes = service.get("/openapi.json").json()["paths"]
    assert {"/predict", "/similar", "/picture", "/model", "/healthz", "/readyz", "/metrics"} <= set(routes)
    page = service.get("/docs").text
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert all(path in page for path in routes)


@pytest.mark.parametrize(
    "path", ["/../config.py", "/%2e%2e/config.py", "/..%2fconfig.py", "/config.py", "/__init__.py"]
)
def test_no_other_file_is_given_away(service: httpx.Client, path: str) -> None:
    assert service.get(path).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/a/b", 404, "/a/b is not here; /docs says what is"),
        ("GET", "/similar/1", 404, "/similar/1 is not here"),
        ("GET", "/predict", 405, "/predict takes POST, not GET"),
        ("OPTIONS", "/similar", 405, "takes GET.*not OPTIONS"),
    ],
)
def test_what_is_no_route_is_one_line_as_other_refusals_are(
    service: httpx.Client, method: str, path: str, status: int, words: str
) -> None:
    response = service.request(method, path)
    assert (response.status_code, set(response.json())) == (status, {"error"})
    assert re.search(words, response.json()["error"]["detail"])
    assert ("allow" in response.headers) == (status == 405)


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz"])
def test_who_asks_for_the_head_alone_sees_that_it_lives(service: httpx.Client, path: str) -> None:
    response = service.head(path)
    assert (response.status_code, response.content) == (200, b"")


def test_a_full_queue_is_told_to_come_back_and_others_are_answered(small: httpx.Client) -> None:
    data = encode(smooth(400, 400), "JPEG")

    def ask(_: int) -> httpx.Response:
        return small.post("/predict", files=parts({"a": data, "b": data}))

    for number in range(8):  # of both replicas every decoder runs
        ask(number)
    with ThreadPoolExecutor(24) as pool:
        responses = list(pool.map(ask, range(72)))
    counts = Counter(response.status_code for response in responses)
    assert set(counts) == {200, 429}, counts
    refused = next(response for response in responses if response.status_code == 429)
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "BUSY"


def test_a_picture_that_takes_too_long_is_a_timeout_and_the_next_is_answered(
    serving: str, chain: Chain
) -> None:
    """Of a service of its own: it still decodes when the test is over."""
    config = AppConfig(model=chain.model, max_seconds=1, explain=False)
    with deployed(config, serving, "hurried") as url, client(url) as hurried:
        response = hurried.post("/predict", files=parts({"giant.png": giant(), "b": giant()}))
        assert (response.status_code, response.json()["error"]["code"]) == (504, "TIMEOUT")
        assert hurried.get("/healthz").text == "ok"


def test_without_scores_neighbours_are_a_conflict(small: httpx.Client) -> None:
    for response in (
        small.get("/similar?id=1"),
        small.get("/picture?id=1"),
        small.post("/similar", files=parts({"a": picture(0)})),
    ):
        assert (response.status_code, response.json()["error"]["code"]) == (409, "CONFLICT")
    said = small.post("/predict?where=view", files=parts({"a": picture(0)})).json()["answers"][0]
    assert "where" not in said
    assert "explain" in said["where_error"]
