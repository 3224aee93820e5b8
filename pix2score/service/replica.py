"""One replica of the service: a model, its decode children, and a snapshot.

Ray Serve makes as many as are asked for. Everything that takes long is done in threads and children: the
event loop passes bytes and answers on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from PIL import Image

from pix2score.errors import ConfigError, DataError, ImageFailure
from pix2score.heads.spec import HeadSpec
from pix2score.images.encode import encode
from pix2score.images.preprocess import Preprocess
from pix2score.model.folder import load_graph
from pix2score.model.predictor import Predictor, load_predictor
from pix2score.serve.model import Answer, Model, torch_device
from pix2score.serve.predict import answer_json, answer_ranges
from pix2score.service.admission import Queue
from pix2score.service.config import AppConfig
from pix2score.service.decoders import RGB, Decoders
from pix2score.service.explain import Explainer
from pix2score.service.forward import Forward
from pix2score.service.library import Library
from pix2score.service.numbers import Numbers, joined

logger = logging.getLogger(__name__)
THUMBNAIL = Preprocess(size=256, resize="pad")
"""Of pictures of the catalog: whole, on white."""
THUMBNAIL_DECODERS = 2
SPARE_DECODERS = 2
"""Beyond one for each core: a picture that takes its 30 s holds up no other."""
GPU_BATCH = 32
GPU_PASSES = 2
_NO_PIXELS: RGB = np.zeros((0, 0, 3), np.uint8)
GATHER_S = 5.0
"""For the numbers of other replicas."""


class Replica:
    """What ``/predict``, ``/similar`` and ``/picture`` ask; ``service.deployed`` has the routes before it."""

    async def __init__(self, config: AppConfig, version: str) -> None:  # type: ignore[misc]
        """Load the model, and warm it; ``version``: of the model that the deployment is of.

        Raises ``DataError`` if another model has come to lie there.
        """
        from ray import serve

        self.config, self._name = config, serve.get_replica_context().replica_id.unique_id
        self.numbers = Numbers(self._name)
        self.queue = Queue(config, self.numbers)
        cores = _num_cpus()
        self.version = version
        predictors, explainer, library = await asyncio.to_thread(_load, config, version, cores)
        self.card, self.explainer, self.library = predictors[0].card, explainer, library
        self._ranges = answer_ranges(self.card)
        self._decoders = Decoders(self.card.preprocess, config.decoders or cores + SPARE_DECODERS)
        self._thumbnails = Decoders(THUMBNAIL, THUMBNAIL_DECODERS)
        self._forward = _forward(predictors, cores, self.numbers.count_batch)
        await self._warm()
        if library:
            library.start()
        self.numbers.show_model(version)

    async def answer(
        self, name: str, data: bytes, *, explained: Sequence[HeadSpec] = (), with_embedding: bool = False
    ) -> dict[str, Any] | ImageFailure:
        """What ``jobs.predict --json`` says of a picture, and what else is asked for; or why there is
        none."""
        found, pixels = await self._answered(data)
        if isinstance(found, ImageFailure):
            return found
        content = answer_json(name, found, self._ranges)
        if with_embedding:
            content["embedding"] = [float(number) for number in found.embedding]
        return content | await self.explainer.shown(explained, pixels)

    async def embedded(self, data: bytes) -> npt.NDArray[np.float32] | ImageFailure:
        """The embedding of a picture, [D]."""
        found, _ = await self._answered(data)
        return found if isinstance(found, ImageFailure) else found.embedding

    async def _answered(self, data: bytes) -> tuple[Answer | ImageFailure, RGB]:
        """What the model says of a picture, and its pixels, of which a failure has none."""
        pixels = await self._decoders.pixels(data)
        found = pixels if isinstance(pixels, ImageFailure) else await self._forward(pixels)
        self.numbers.count_picture(found.code if isinstance(found, ImageFailure) else "ok")
        return found, _NO_PIXELS if isinstance(pixels, ImageFailure) else pixels

    async def thumbnail(self, data: bytes, size: int) -> bytes | ImageFailure:
        """JPEG of a picture, ``size`` px square at most."""
        pixels = await self._thumbnails.pixels(data)
        if isinstance(pixels, ImageFailure):
            return pixels
        image = Image.fromarray(pixels)
        image.thumbnail((size, size))
        return encode(image, quality=80)

    async def numbers_text(self) -> str:
        """Of this replica, in Prometheus' format: what the one that is asked asks the others for."""
        return self.numbers.text()

    async def all_numbers(self) -> str:
        """Of all replicas of the deployment; those that do not answer in time are left out."""
        from ray import serve

        context = serve.get_replica_context()
        handle = serve.get_deployment_handle(context.deployment, context.app_name)
        try:
            found = await handle.broadcast("numbers_text").results_async(
                timeout_s=GATHER_S, return_exceptions=True
            )
        except (TimeoutError, ray.exceptions.RayError) as exc:
            logger.warning("numbers of this replica alone: %s", exc)
            found = [self.numbers.text()]
        return joined([text for text in found if isinstance(text, str)])

    def check_health(self) -> None:
        """Asked by Ray Serve; a replica that does not answer in time is replaced."""

    async def _warm(self) -> None:
        """Start children and the first forward pass, which are slower than the next."""
        grey = encode(Image.new("RGB", (64, 64), (128, 128, 128)), "PNG")
        found = await asyncio.gather(*(self._decoders.pixels(grey) for _ in range(_num_cpus())))
        for pixels in found:
            if not isinstance(pixels, ImageFailure):
                await self._forward(pixels)

    async def __del__(self) -> None:
        """Children end with the replica."""
        for name in ("_decoders", "_thumbnails", "_forward", "explainer", "library"):
            if part := getattr(self, name, None):
                part.close()


def _load(config: AppConfig, version: str, cores: int) -> tuple[list[Predictor], Explainer, Library | None]:
    """One predictor for passes on a core or a GPU, and on several cores one for passes on all of them; and
    the rest."""
    device = _device(config)
    predictor = load_predictor(
        config.model,
        batch_size=config.batch_size or (1 if device == "cpu" else GPU_BATCH),
        device=device,
        num_threads=1 if device == "cpu" else None,
    )
    card = predictor.card
    if card.version != version:
        raise DataError(f"{config.model} is model {card.version} by now, it was {version}: deploy it again")
    predictors = [predictor]
    if device == "cpu" and cores > 1:
        weights, size, graph = predictor.weights, predictor.batch_size, load_graph(config.model, card)
        predictors.append(Predictor(card, weights, batch_size=size, num_threads=cores, graph=graph))
    library = Library(config.scores, card.trunk_version, config.pictures) if config.scores else None
    explainer = Explainer.of(predictor, config.explain, cores)
    return predictors, explainer, library


def _forward(predictors: list[Predictor], cores: int, seen: Callable[[int], None]) -> Forward:
    """Passes on a core each or on all of them; on a GPU the next is prepared while one runs."""
    single, *spread = predictors
    return Forward(
        Model(single).answers,
        Model(spread[0]).answers if spread else None,
        batch_size=single.batch_size,
        num_seats=cores if single.device == "cpu" else GPU_PASSES,
        seen=seen,
    )


def _device(config: AppConfig) -> str:
    """A GPU only where Ray has given one: a replica sees those of others too."""
    has_gpu = bool(ray.get_runtime_context().get_accelerator_ids().get("GPU"))
    if config.device == "gpu" and not has_gpu:
        raise ConfigError("device gpu, but Ray gave this replica none: ray_actor_options: {num_gpus: 1}")
    return torch_device("gpu") if has_gpu and config.device != "cpu" else "cpu"


def _num_cpus() -> int:
    """Cores that Ray has given this replica; at least 1."""
    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))
