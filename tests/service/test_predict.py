"""Pictures sent to the service get the numbers of the batch job; hostile ones their code, and cost nobody."""

from __future__ import annotations

import base64
import dataclasses
import io
import socket
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import pix2score
from pix2score.errors import ImageFailure
from pix2score.model.predictor import load_predictor
from pix2score.serve.model import Answer, Model
from pix2score.serve.predict import answer_json, answer_ranges
from pix2score.service.explain import Explainer
from tests.support.chain import Chain
from tests.support.services import hostile, parts, picture

CLOSE = 1e-5


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def answer_of(model: Model, data: bytes) -> Answer:
    (answer,) = model.predict([data])
    assert isinstance(answer, Answer), answer
    return answer


def close(said: Any, wanted: Any) -> bool:
    """Whether both are the same but for rounding of another batch."""
    if isinstance(wanted, Mapping):
        return said.keys() == wanted.keys() and all(close(said[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(said) == len(wanted) and all(map(close, said, wanted))
    if isinstance(wanted, float):
        return abs(said - wanted) <= CLOSE * max(1, abs(wanted))
    return bool(said == wanted)


def test_files_of_a_form_are_answered_as_predict_answers_them(service: httpx.Client, model: Model) -> None:
    pictures = {f"{seed}.png": picture(seed) for seed in range(5)}
    response = service.post("/predict", files=parts(pictures))
    assert response.status_code == 200, response.text
    content = response.json()
    assert content["model_version"] == model.card.version
    for (name, data), said in zip(pictures.items(), content["answers"], strict=True):
        assert close(said, answer_json(name, answer_of(model, data), answer_ranges(model.card)))


def test_the_reference_form_is_one_answer_with_its_ranges(service: httpx.Client, model: Model) -> None:
    response = service.post("/predict", json={"image": base64_of(picture(3))})
    assert response.status_code == 200
    said = response.json()
    assert close(said, answer_json("image", answer_of(model, picture(3)), answer_ranges(model.card)))
    assert said["bookmark_predict"]["0"] == "0-10"


def test_numbers_are_those_of_the_scores_table(service: httpx.Client, chain: Chain) -> None:
    uris = {(r["illust_id"], r["page"]): r["uri"] for r in chain.catalog_rows().to_pylist()}
    rows = [r for r in pix2score.read_scores(chain.scores).to_table().to_pylist() if r["status"] == "ok"][:8]
    pictures = {
        str(number): (Path(chain.catalog) / uris[row["illust_id"], row["page"]]).read_bytes()
        for number, row in enumerate(rows)
    }
    answers = service.post("/predict", files=parts(pictures)).json()["answers"]
    assert len(answers) == 8
    for row, said in zip(rows, answers, strict=True):
        for head in ("bookmark", "view", "sanity"):
            np.testing.assert_allclose(said[head]["probs"], row[f"{head}_probs"], atol=CLOSE)
            assert abs(said[head]["score"] - row[f"{head}_score"]) <= CLOSE


def test_base64_may_be_a_list_data_urls_and_broken_into_lines(service: httpx.Client, model: Model) -> None:
    plain = base64_of(picture(1))
    lines = "\n".join(plain[i : i + 76] for i in range(0, len(plain), 76))
    images = [plain, f"data:image/png;base64,{plain}", lines]
    answers = service.post("/predict", json={"images": images}).json()["answers"]
    wanted = answer_of(model, picture(1)).heads
    assert [said["image"] for said in answers] == ["images[0]", "images[1]", "images[2]"]
    assert all(close({name: said[name] for name in wanted}, wanted) for said in answers)


def test_an_embedding_comes_when_asked_for(service: httpx.Client, model: Model) -> None:
    said = service.post("/predict?embedding=true", files=parts({"a": picture(2)})).json()["answers"][0]
    np.testing.assert_allclose(said["embedding"], answer_of(model, picture(2)).embedding, atol=CLOSE)


def test_where_a_head_looks_is_a_picture_of_the_input_size(service: httpx.Client, model: Model) -> None:
    response = service.post("/predict?where=bookmark&where=view", files=parts({"a": picture(2)}))
    (said,) = response.json()["answers"]
    assert list(said["where"]) == ["bookmark", "view"]
    kind, _, data = said["where"]["bookmark"].partition(",")
    assert kind == "data:image/jpeg;base64"
    size = model.card.preprocess.size
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (size, size)


@pytest.mark.parametrize("name", hostile())
def test_a_hostile_file_gets_its_code_and_status(service: httpx.Client, model: Model, name: str) -> None:
    data, code, status = hostile()[name]
    response = service.post("/predict", files=parts({name: data}))
    (said,) = response.json()["answers"]
    assert (response.status_code, said["image"], said["error"]["code"]) == (status, name, code)
    (failure,) = model.predict([data])
    assert isinstance(failure, ImageFailure)
    assert said["error"] == {"code": failure.code, "detail": failure.detail}


def test_hostile_files_among_others_change_no_other_answer(service: httpx.Client, model: Model) -> None:
    wanted = {seed: answer_of(model, picture(seed)).heads for seed in range(8)}
    stop = threading.Event()

    def attack() -> int:
        count = 0
        while not stop.is_set():
            for name, (data, _, status) in hostile().items():
                assert service.post("/predict", files=parts({name: data})).status_code == status
                count += 1
        return count

    def ask(seed: int) -> bool:
        (said,) = service.post("/predict", files=parts({"a": picture(seed)})).json()["answers"]
        return close({name: said[name] for name in wanted[seed]}, wanted[seed])

    with ThreadPoolExecutor(6) as pool:
        attacks = [pool.submit(attack) for _ in range(2)]
        try:
            assert all(pool.map(ask, [*range(8)] * 5))
        finally:
            stop.set()
        assert all(attack.result() > 0 for attack in attacks)


def test_a_request_with_a_good_picture_is_200_with_the_failures_named(service: httpx.Client) -> None:
    response = service.post("/predict", files=parts({"bad": b"nothing", "good": picture(0)}))
    bad, good = response.json()["answers"]
    assert response.status_code == 200
    assert (bad["error"]["code"], "bookmark" in good) == ("UNSUPPORTED", True)


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({"content": b"{"}, 400, "BAD_REQUEST"),
        ({"content": b"[" * 100_000}, 400, "BAD_REQUEST"),
        ({"json": {}}, 400, "BAD_REQUEST"),
        ({"json": ["x"]}, 400, "BAD_REQUEST"),
        ({"json": {"images": []}}, 400, "BAD_REQUEST"),
        ({"json": {"image": 7}}, 400, "BAD_REQUEST"),
        ({"json": {"image": "no base64!"}}, 400, "BAD_REQUEST"),
        ({"data": {"image": "a field"}, "files": []}, 400, "BAD_REQUEST"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "BAD_REQUEST"),
        ({"json": {"images": [""] * 9}}, 413, "TOO_MANY"),
        ({"files": [("image", (str(i), b"")) for i in range(9)]}, 413, "TOO_MANY"),
        ({"content": b"x" * (9 * 2**20)}, 413, "TOO_LARGE"),
    ],
)
def test_a_request_that_is_none_is_one_line(
    service: httpx.Client, sent: dict[str, Any], status: int, code: str
) -> None:
    response = service.post("/predict", **sent)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert error["detail"]
    assert "\n" not in error["detail"]


def test_an_unknown_head_is_named_with_those_that_there_are(service: httpx.Client) -> None:
    response = service.post("/predict?where=likes", files=parts({"a": picture(0)}))
    assert response.status_code == 400
    assert response.json()["error"]["detail"] == "where=likes: the heads are bookmark, view, sanity"


def test_a_large_body_is_refused_before_it_is_sent(service: httpx.Client) -> None:
    url = service.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=30) as connection:
        head = f"POST /predict HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {10 * 2**30}\r\n\r\n"
        connection.sendall(head.encode() + b"{")
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_large_body_of_unknown_length_is_refused_while_it_comes(service: httpx.Client) -> None:
    response = service.post("/predict", content=iter([b"x" * 2**20] * 16))
    assert response.status_code == 413
    assert service.post("/predict", files=parts({"a": picture(0)})).status_code == 200


def test_a_model_whose_backbone_is_not_known_here_is_answered_without_where_it_looks(chain: Chain) -> None:
    predictor = load_predictor(chain.model, batch_size=1, device="cpu", num_threads=1)
    predictor.card = dataclasses.replace(predictor.card, backbone="nobodys_net")
    explainer = Explainer.of(predictor, True, 1)
    assert not explainer.is_able
    assert "nobodys_net" in explainer.why_not
