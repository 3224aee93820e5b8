"""The serve job: a model on Ray Serve until the process is told to end.

SIGHUP deploys again what the settings say by then, without a failed request: another model, or the same place
with another model in it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from pix2score.cluster.local import is_local, num_local_cores
from pix2score.cluster.offer import Offer
from pix2score.cluster.session import session
from pix2score.errors import ConfigError, Pix2ScoreError, UserError
from pix2score.host import termination
from pix2score.service.app import NAME, application, check, need_packages
from pix2score.service.config import ServeConfig
from pix2score.summaries import ServeSummary

logger = logging.getLogger(__name__)
LOOK_S = 5.0
"""Between two looks at whether Ray Serve still says that the application runs."""
BACKSTOP_S = 15.0
"""Ray Serve's own time limit, beyond that of a request."""
PLAIN_LOGS = {"enable_access_log": False}  # /metrics counts requests; a line for each fills a disk
SPARE_SLOTS = 2
"""CPUs in a local Ray's account beyond those of two sets of replicas: one is replaced by the other."""


def serve(config: ServeConfig) -> ServeSummary:
    """Serve until this process is told to end (SIGTERM, Ctrl-C); return what was served.

    Raises ``DataError`` if there is no model or no snapshot, ``ConfigError`` if the port is taken, packages
    are missing or Ray offers no GPU that is asked for.
    """
    return serve_until_told(config, lambda: config)


def serve_until_told(config: ServeConfig, again: Callable[[], ServeConfig]) -> ServeSummary:
    """As ``serve``; ``again``: the settings after a SIGHUP."""
    started = time.monotonic()
    need_packages()
    version = check(config)
    check_port(config.host, config.port)
    deployments = 0
    slots = 2 * num_local_cores() + SPARE_SLOTS
    try:
        with _hup() as hup, session(min_slots=slots) as offer, served(config, offer):
            logger.info("model %s at %s, its page and /docs", version, config.url)
            deployments = 1
            while True:
                _wait(hup)
                hup.clear()
                version, is_new = _deploy_again(again, offer, version)
                deployments += is_new
    except (KeyboardInterrupt, SystemExit) as exc:  # also while it starts: it may answer by then
        if not termination.is_told(exc):
            raise
        termination.acknowledge(exc)
    return {
        "job": "serve",
        "model_version": version,
        "url": config.url,
        "deployments": deployments,
        "seconds": round(time.monotonic() - started, 3),
    }


def check_port(host: str, port: int) -> None:
    """Raise ``ConfigError`` if it cannot be listened on."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Ray Serve listens
            probe.bind((host, port))
    except OSError as exc:
        in_use = exc.errno == errno.EADDRINUSE
        mend = "; is another service there? --port names another one" if in_use else ""
        raise ConfigError(f"--host {host} --port {port}: {exc.strerror or exc}{mend}") from None


@contextlib.contextmanager
def served(config: ServeConfig, offer: Offer) -> Iterator[None]:
    """Inside the block the application answers; what runs of it ends with the block."""
    from ray import serve as ray_serve
    from ray.serve.exceptions import RayServeException

    was_there = bool(ray_serve.status().proxies)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if was_there:
        logger.warning("Ray Serve runs there already: its own host and port are kept")
    try:
        ray_serve.start(
            proxy_location="HeadOnly" if is_local() else "EveryNode",
            http_options={
                "host": config.host,
                "port": config.port,
                "request_timeout_s": config.max_seconds + BACKSTOP_S,
            },
            logging_config=PLAIN_LOGS,
        )
        _deploy(config, offer)
        yield
    except BaseException as exc:
        termination.acknowledge(exc)  # told again, it goes on ending
        raise
    finally:
        with contextlib.suppress(RayServeException):  # it had not started
            ray_serve.delete(NAME)
        if not was_there and not is_local():  # a Ray of this job's own ends with it
            ray_serve.shutdown()


def _deploy(config: ServeConfig, offer: Offer) -> None:
    """Return when the application answers. Raises ``Pix2ScoreError`` if it does not come up."""
    from ray import serve as ray_serve

    app = application(config, _options(config, offer))
    try:
        ray_serve.run(app, name=NAME, route_prefix="/", logging_config=PLAIN_LOGS)
    except RuntimeError as exc:
        raise Pix2ScoreError(f"the service did not start: {_why() or _last_line(str(exc))}") from exc


def _why() -> str:
    """What ended a replica, if Ray Serve says it: the error of ``run`` names the deployment alone."""
    from ray import serve as ray_serve

    about = ray_serve.status().applications.get(NAME)
    told = [one.message for one in about.deployments.values()] if about else []
    return next((_last_line(message) for message in told if "Error" in message), "")


def _options(config: ServeConfig, offer: Offer) -> dict[str, Any]:
    """Of the deployment: a share of a node's cores for each replica, and of a GPU.

    Half a GPU for the only replica, so that its successor finds room beside it.
    """
    use_gpu = offer.wants_gpu(config.device)
    on_a_node = -(-config.replicas // offer.num_nodes)
    cores = max(1, offer.num_cores // offer.num_nodes // on_a_node)
    actor: dict[str, Any] = {"num_cpus": cores}
    if use_gpu:
        actor["num_gpus"] = 0.5 if config.replicas == 1 else 1
    surge = {"max_surge_percent": 0} if use_gpu and config.replicas > 1 else {}
    return {"num_replicas": config.replicas, "ray_actor_options": actor, **surge}


def _deploy_again(again: Callable[[], ServeConfig], offer: Offer, version: str) -> tuple[str, bool]:
    """The model version that answers from now on, and whether something was deployed: what cannot be leaves
    all as it was."""
    try:
        config = again()
        found = check(config)
        logger.info("deploying again: model %s", found)
        _deploy(config, offer)
    except UserError as exc:
        logger.error("not deployed again: %s", exc)
        return version, False
    except Pix2ScoreError as exc:
        logger.error("%s; the one before goes on", exc)
        return version, False
    logger.info("model %s answers", found)
    return found, True


@contextlib.contextmanager
def _hup() -> Iterator[threading.Event]:
    """An event that SIGHUP sets inside the block; in the main thread only, others have no signals."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.signal(signal.SIGHUP, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGHUP, before)


def _wait(hup: threading.Event) -> None:
    """Return after a SIGHUP. Raises ``Pix2ScoreError`` if the application is gone."""
    from ray import serve as ray_serve

    while not hup.wait(LOOK_S):
        if NAME not in ray_serve.status().applications:
            raise Pix2ScoreError("the application is gone from Ray Serve: was it deleted there?")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason was given"
