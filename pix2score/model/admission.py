"""Whether this host may answer in fewer bits, and as what its rows are known.

Said once, by the driver, for a whole run: rows of a snapshot have one engine. A worker on another kind of
host says it again for itself.
"""

from __future__ import annotations

import logging
import platform
import time
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypeGuard

from pix2score.cli.packages import missing, need, versions
from pix2score.errors import ConfigError, DataError
from pix2score.host.instructions import EIGHT_BIT, HALF, has_any, host_kind
from pix2score.model.card import ModelCard
from pix2score.model.engine_files import EngineCard, load_engine_card, load_int8, load_parity
from pix2score.model.folder import Weights, load_graph, load_model
from pix2score.model.members import refuse_ensemble
from pix2score.model.parity import changes, objections
from pix2score.model.predictor import Engine, Predictor, Runtime, check_engine, load_predictor

logger = logging.getLogger(__name__)
Narrow: TypeAlias = Literal["int8", "bf16"]
"""Engines whose numbers are their own."""
_NEEDS = {"int8": EIGHT_BIT, "bf16": HALF}
_BATCH = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Admission:
    """An engine that answers like float32 on the host that said so."""

    engine: Narrow
    runtime: Runtime
    identity: str
    """What stands behind the model's version: ``int8-openvino-89abcdef``."""
    host: str
    """``host_kind`` of that host: on another of its kind it need not be said again."""
    changes: dict[str, Any]
    """Head -> how far its answers are from float32's."""

    def facts(self) -> dict[str, Any]:
        """For manifests and summaries."""
        return {"name": self.engine, "runtime": self.runtime, "changes": self.changes}


def is_narrow(engine: Engine) -> TypeGuard[Narrow]:
    """Whether ``engine`` has to be admitted."""
    return engine in _NEEDS


def admitted(model: str, card: ModelCard, weights: Weights, engine: Narrow) -> Admission | None:
    """The admission of ``engine`` on this host; None, with a line in the log, where it may not answer.

    Raises ``DataError`` where the model lacks what the engine or its check needs, ``ConfigError`` where a
    package is not installed.
    """
    refuse_ensemble(card.members, f"engine {engine} is of single ones; leave it out")
    runtime = _runtime(engine)
    found = load_engine_card(model, card, engine)
    if not has_any(_NEEDS[engine]):
        logger.warning(
            "engine %s is not used, the network runs in float32: this CPU (%s) has none of %s, without which "
            "it gains little and may be wrong",
            *(engine, platform.machine(), ", ".join(_NEEDS[engine])),
        )
        return None
    admission = Admission(
        engine=engine, runtime=runtime, identity=_identity(engine, runtime, found), host=_host(), changes={}
    )
    moved, problems = _checked(model, card, weights, admission)
    if problems:
        logger.warning(
            "engine %s is not used, the network runs in float32: on this host its answers are not float32's: "
            "%s", engine, "; ".join(problems),
        )  # fmt: skip
        return None
    return replace(admission, changes=moved)


def load_asked(
    model: str, engine: Engine, *, batch_size: int, device: str
) -> tuple[Predictor, dict[str, Any]]:
    """The predictor of one process by ``engine``, in float32 where it may not answer here.

    And what answers, for a summary, where fewer bits were asked for. Raises as ``admitted``, and
    ``ConfigError`` for an engine that ``device`` does not have.
    """
    check_engine(engine, device)
    settings: dict[str, Any] = {"batch_size": batch_size, "num_threads": None}
    if not is_narrow(engine):
        return load_predictor(model, device=device, engine=engine, **settings), {}
    card, weights = load_model(model)
    admission = admitted(model, card, weights, engine)
    facts = engine_facts(engine, admission)
    if admission is None:
        return load_predictor(model, device=device, **settings), facts
    return narrow_predictor(model, card, weights, admission, **settings), facts


def engine_facts(engine: Engine, admission: Admission | None) -> dict[str, Any]:
    """What answered, for manifests and summaries, where fewer bits were asked for."""
    if admission:
        return {"engine": admission.facts()}
    return {"engine": {"name": "float32", "asked": engine}} if is_narrow(engine) else {}


def load_admitted(
    model: str, admission: Admission, *, batch_size: int, num_threads: int | None, **_: Any
) -> Predictor:
    """The predictor of a worker, as ``predictor.load_predictor`` of another engine.

    Raises ``DataError`` where the worker's host would not answer as the driver's does, or other files lie
    beside the model by now.
    """
    card, weights = load_model(model)
    found = _identity(admission.engine, admission.runtime, load_engine_card(model, card, admission.engine))
    if found != admission.identity:
        raise DataError(
            f"engine {admission.engine} of {model} was made anew while it was in use: planned "
            f"{admission.identity}, found {found}; run again"
        )
    check_host(model, card, weights, admission)
    return narrow_predictor(model, card, weights, admission, batch_size=batch_size, num_threads=num_threads)


def narrow_predictor(
    model: str,
    card: ModelCard,
    weights: Weights,
    admission: Admission,
    *,
    batch_size: int,
    num_threads: int | None,
) -> Predictor:
    """The model by the engine that was admitted, without another check."""
    if admission.engine == "int8":
        graph: bytes | None = load_int8(model, load_engine_card(model, card, "int8"))
    else:
        graph = load_graph(model, card)
    return Predictor(
        card,
        weights,
        batch_size=batch_size,
        num_threads=num_threads,
        engine=admission.engine,
        runtime=admission.runtime,
        graph=graph,
    )


def check_host(model: str, card: ModelCard, weights: Weights, admission: Admission) -> None:
    """Raise ``DataError`` where this worker's host would not answer as the driver's does."""
    if _host() == admission.host:
        return
    engine = admission.engine
    if not has_any(_NEEDS[engine]):
        raise DataError(
            f"host {platform.node()} cannot run engine {engine}: its CPU has none of "
            f"{', '.join(_NEEDS[engine])}; keep it out of the run, or leave the engine out"
        )
    _, problems = _checked(model, card, weights, admission)
    if problems:
        raise DataError(
            f"host {platform.node()} cannot run engine {engine}: its answers are not float32's: "
            f"{'; '.join(problems)}; keep it out of the run, or leave the engine out"
        )


def _checked(
    model: str, card: ModelCard, weights: Weights, admission: Admission
) -> tuple[dict[str, Any], list[str]]:
    """How far answers move on the parity set, and what is wrong with that."""
    start = time.monotonic()
    parity = load_parity(model, load_engine_card(model, card, admission.engine))
    predictor = narrow_predictor(model, card, weights, admission, batch_size=_BATCH, num_threads=None)
    outputs, _ = predictor.outputs(parity.pixels)
    found = changes(
        card.heads, {h.name: card.calibration(h.name) for h in card.heads}, parity, outputs, admission.engine
    )
    logger.info(
        "engine %s by %s on %d pictures: probabilities move by %s (%.1f s)",
        *(admission.engine, admission.runtime, len(parity.pixels)),
        ", ".join(f"{head} {change['mean_prob_change']:.4f}" for head, change in found.items()),
        time.monotonic() - start,
    )
    return found, objections(found, admission.engine)


def _identity(engine: Narrow, runtime: Runtime, found: EngineCard) -> str:
    """Behind a model's version; ``found`` decides what 8 bits answer."""
    graph = f"-{found.int8_sha256[:8]}" if engine == "int8" and found.int8_sha256 else ""
    return f"{engine}-{runtime}{graph}"


def _runtime(engine: Narrow) -> Runtime:
    """OpenVINO where it is installed; 8 bits can do without. Raises ``ConfigError``."""
    if engine == "bf16":
        need("engine bf16", "openvino", ["openvino"], "--engine int8")
    if not missing(["openvino"]):
        return "openvino"
    if missing(["onnxruntime"]):
        raise ConfigError("engine int8 needs onnxruntime or openvino: pip install 'pix2score[openvino]'")
    return "onnxruntime"


def _host() -> str:
    return host_kind(versions(("openvino", "onnxruntime", "numpy")))
