"""The routes of the service: what each takes, and what it gives. What they ask is ``service.replica``."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import FastAPI, Path, Query
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

import pix2score
from pix2score.catalog.keys import Id
from pix2score.errors import ConfigError, DataError, ImageFailure
from pix2score.heads.spec import HeadSpec
from pix2score.service import numbers
from pix2score.service.bodies import pictures_of
from pix2score.service.interface import BODY, interface_page
from pix2score.service.library import Library
from pix2score.service.pages import page_files
from pix2score.service.refusals import Refused, bad_request, failed, json_response, status_of
from pix2score.service.replica import THUMBNAIL, Replica

MOST_NEIGHBOURS = 100
Where = Annotated[
    list[str] | None, Query(description="Heads whose Grad-CAM is wanted, as a picture; repeatable")
]
Top = Annotated[int | None, Query(ge=1, description="At most so many tags of a head of tags")]
WithEmbedding = Annotated[bool, Query(description="The embedding too")]
AnId = Annotated[str, Query(description="An illust_id")]
Page = Annotated[int, Query(ge=-(2**31), lt=2**31)]
K = Annotated[int, Query(ge=1, le=MOST_NEIGHBOURS, description="How many neighbours")]
Size = Annotated[int, Query(ge=16, le=THUMBNAIL.size, description="Side in px")]


def application(replica: Replica) -> FastAPI:
    """The application of one replica."""
    app = FastAPI(
        title="pix2score", version=pix2score.__version__, docs_url=None, redoc_url=None,
        summary="What a model says of pictures, and pictures like them",
    )  # fmt: skip
    app.add_exception_handler(Refused, lambda _, exc: exc.response())  # type: ignore[attr-defined]
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _no_route)
    _add_answers(app, replica)
    _add_neighbours(app, replica)
    _add_operation(app, replica)
    _add_pages(app)
    return app


async def _not_valid(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError), "handles nothing else"
    first = exc.errors()[0]
    return bad_request(f"{first['loc'][-1]}: {first['msg']}").response()


async def _no_route(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException), "handles nothing else"
    if exc.status_code == 405:
        allowed = (exc.headers or {}).get("Allow", "")
        detail = f"{request.url.path} takes {allowed}, not {request.method}"
        return Refused(405, "METHOD_NOT_ALLOWED", detail, exc.headers).response()
    return Refused(404, "NOT_FOUND", f"{request.url.path} is not here; /docs says what is").response()


def _add_answers(app: FastAPI, replica: Replica) -> None:
    @app.post("/predict", openapi_extra=BODY)
    async def predict(
        request: Request,
        where: Where = None,
        top: Top = None,
        embedding: WithEmbedding = False,
    ) -> Response:
        """What each head says of each picture: the format of the reference system, with all numbers."""
        heads = _heads(replica, where or [])
        asked = await pictures_of(request, replica.config.max_images)
        with replica.queue.pictures(len(asked.pictures)):
            found = await asyncio.gather(
                *(
                    replica.answer(name, data, explained=heads, with_embedding=embedding)
                    for name, data in asked.pictures
                )
            )
        answers = [
            failed(name, answer) if isinstance(answer, ImageFailure) else _cut(answer, top)
            for (name, _), answer in zip(asked.pictures, found, strict=True)
        ]
        failures = [answer for answer in found if isinstance(answer, ImageFailure)]
        status = status_of(failures[0]) if len(failures) == len(found) else 200
        if asked.is_single:
            return json_response(answers[0], status)
        return json_response({"model_version": replica.version, "answers": answers}, status)

    @app.get("/model")
    async def model() -> Response:
        """The model, its heads, and the limits of a request."""
        return json_response(_about(replica))


def _heads(replica: Replica, names: list[str]) -> list[HeadSpec]:
    """Heads by name, each once. Raises ``Refused`` (400) naming one that is not known."""
    known = {head.name: head for head in replica.card.heads}
    for name in names:
        if name not in known:
            raise bad_request(f"where={name}: the heads are {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)]


def _cut(answer: dict[str, Any], top: int | None) -> dict[str, Any]:
    """At most ``top`` tags of each head that says tags."""
    if top is None:
        return answer
    return {
        name: said | {"tags": said["tags"][:top], "probs": said["probs"][:top]}
        if isinstance(said, dict) and "tags" in said
        else said
        for name, said in answer.items()
    }


def _about(replica: Replica) -> dict[str, Any]:
    card, config = replica.card, replica.config
    heads = []
    for head in card.heads:
        tags = head.served_facts(card.calibration(head.name)).get(f"{head.name}_tags")
        heads.append(
            {
                "name": head.name,
                "kind": head.kind,
                "title": None,
                "unit": None,
                "bins": list(head.legend().values()) or None,
                "num_tags": None if tags is None else len(tags),
            }
        )
    return {
        "model_version": replica.version,
        "heads": heads,
        "similar": replica.library.facts() if replica.library else None,
        "limits": {
            "body_bytes": config.max_body_bytes,
            "images": config.max_images,
            "image_bytes": config.max_image_bytes,
        },
        "explains": replica.explainer.is_able,
    }


def _add_neighbours(app: FastAPI, replica: Replica) -> None:
    @app.get("/similar")
    async def similar_to_id(request: Request, id: AnId, page: Page = 0, k: K = 12) -> Response:  # noqa: A002
        """The illustrations most like one of them, best first."""
        library = _library(replica)
        try:
            key = library.key(id, page)
            snapshot, found = await library.of(key, k)
        except ConfigError as exc:
            raise bad_request(str(exc)) from None
        except DataError as exc:
            raise Refused(404, "NOT_FOUND", str(exc)) from None
        of = {"illust_id": key[0], "page": key[1]}
        return _neighbours(request, library, snapshot, of, found)

    @app.post("/similar", openapi_extra=BODY)
    async def similar_to_picture(request: Request, k: K = 12) -> Response:
        """The illustrations most like a picture, best first."""
        library = _library(replica)
        if not library.is_of_model:
            raise Refused(409, "CONFLICT", "the live snapshot is of another model than the one that answers")
        asked = await pictures_of(request, replica.config.max_images)
        if len(asked.pictures) != 1:
            raise bad_request(f"{len(asked.pictures)} pictures: expected one")
        ((name, data),) = asked.pictures
        with replica.queue.pictures(1):
            embedding = await replica.embedded(data)
            if isinstance(embedding, ImageFailure):
                return json_response(failed(name, embedding), status_of(embedding))
            snapshot, found = await library.like(embedding, k)
        return _neighbours(request, library, snapshot, {"image": name}, found)

    @app.get("/picture")
    async def picture(id: AnId, page: Page = 0, size: Size = THUMBNAIL.size) -> Response:  # noqa: A002
        """An illustration of the catalog, small, as JPEG: whole, on white."""
        library = _library(replica)
        try:
            with replica.queue.pictures(1):
                content = await library.image(library.key(id, page))
                if isinstance(content, bytes):
                    content = await replica.thumbnail(content, size)
        except ConfigError as exc:
            raise bad_request(str(exc)) from None
        if not isinstance(content, bytes):
            raise Refused(404, content.code if content else "NOT_FOUND", f"no picture of {id}, page {page}")
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})


def _library(replica: Replica) -> Library:
    """Raises ``Refused`` (409) where the service was started without one."""
    if replica.library is None:
        raise Refused(409, "CONFLICT", "this service was started without a scores folder (scores)")
    return replica.library


def _neighbours(request: Request, library: Library, snapshot: int, of: dict[str, Id], found: Any) -> Response:
    below = request.scope.get("root_path", "") if library.facts()["pictures"] else None
    rows = found.select(["illust_id", "page", "similarity"]).to_pylist()
    for row in rows:
        query = urlencode({"id": row["illust_id"], "page": row["page"]})
        row["picture"] = None if below is None else f"{below}/picture?{query}"
    return json_response({"snapshot": snapshot, "of": of, "neighbours": rows})


def _add_operation(app: FastAPI, replica: Replica) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz")
    async def healthz() -> Response:
        """200 while a replica lives."""
        return PlainTextResponse("ok")

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz")
    async def readyz() -> Response:
        """200 once the model is loaded and warm: a replica is asked nothing before."""
        return json_response({"ready": True, "model_version": replica.version})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Numbers of all replicas for Prometheus."""
        return Response(await replica.all_numbers(), media_type=numbers.CONTENT_TYPE)


def _add_pages(app: FastAPI) -> None:
    files = page_files()

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return interface_page(app.openapi())

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return _file("index.html")

    @app.get("/{name}", include_in_schema=False)
    async def file(name: Annotated[str, Path()]) -> Response:
        return _file(name)

    def _file(name: str) -> Response:
        if any(getattr(route, "path", "") == f"/{name}" for route in app.routes):
            raise HTTPException(405, headers={"Allow": "POST"})  # of those that are asked by GET none is left
        if name not in files:
            raise Refused(404, "NOT_FOUND", f"/{name} is not here; /docs says what is")
        return files[name]
