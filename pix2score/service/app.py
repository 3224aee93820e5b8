"""The application as Ray Serve takes it: ``build`` of ``args``, for its config file, and its deployment.

``import_path: pix2score.service.app:build`` (``jobs/examples/serve.yaml``). The deployment is ``pix2score``;
replicas, GPUs and cores of each are its options there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pix2score.cli.flags import config_of
from pix2score.cli.packages import need
from pix2score.model.card import load_card
from pix2score.service.config import RETRY_AFTER_S, AppConfig
from pix2score.service.library import check_scores

NAME = "pix2score"
SPARE_REQUESTS = 64
"""Beyond those with pictures: /healthz and /metrics answer while the queue is full, and so does the refusal
of the request after it."""
START_TRIES = 3
STOP_S = 60.0
"""For a replica that is replaced to finish what it has begun."""


def build(args: dict[str, Any]) -> Any:
    """The application of ``args``, keys as in ``AppConfig``, for Ray Serve.

    Raises ``ConfigError`` for an unknown key or a refused value, ``DataError`` if there is no model or no
    snapshot.
    """
    return application(config_of(AppConfig, args, "args: "))


def application(config: AppConfig, options: Mapping[str, Any] | None = None) -> Any:
    """The application; ``options`` of its deployment win over ours.

    Raises as ``build``.
    """
    need_packages()
    version = check(config)
    from ray import serve

    from pix2score.service.deployed import Deployed

    deployment = serve.deployment(serve.ingress()(Deployed), name=NAME, **_options(config))
    if options:
        deployment = deployment.options(**options)
    return deployment.bind(config, version)


def need_packages() -> None:
    """Raise ``ConfigError`` with the command that installs what is missing."""
    need("jobs.serve", "serve", ("fastapi", "starlette", "uvicorn", "python_multipart", "prometheus_client"))


def check(config: AppConfig) -> str:
    """Version of the model; model and scores are there and fit together, seen without loading them.

    Raises as ``build``.
    """
    card = load_card(config.model)
    if config.scores:
        check_scores(config.scores, card.trunk_version)
    return card.version


def _options(config: AppConfig) -> dict[str, Any]:
    most = config.max_queue + SPARE_REQUESTS
    return {
        "max_ongoing_requests": most,
        "max_queued_requests": most,
        "backpressure_config": {"status_code": 429, "retry_after_s": RETRY_AFTER_S},
        "max_surge_percent": 100,  # a new model is there before the old one goes
        "max_constructor_retry_count": START_TRIES,
        "graceful_shutdown_timeout_s": max(STOP_S, config.max_seconds),
        "graceful_shutdown_wait_loop_s": 0.5,
        "health_check_timeout_s": 60.0,
    }
