"""Workers like the driver: another Pillow on a node silently changes pixels, another torch answers.

Every node is asked at the start of a run, by a task that needs no CPU; workers look themselves when they
start, for nodes that join later.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pix2score.cluster.local import is_local
from pix2score.cluster.ray_patches.services import is_worker
from pix2score.errors import VersionSkewError
from pix2score.host import environment

logger = logging.getLogger(__name__)
ALLOW = "PIX2SCORE_ALLOW_VERSION_SKEW"
ANSWER_S = 60.0
"""For a node to start a process and answer; one that takes longer is found by its own workers."""
MAX_NAMED = 5
_KEY = "pix2score.versions"
"""In Ray Data's context, which goes to every worker of a pipeline."""
_alike: set[tuple[str, str]] = set()
"""(job, node) of those that answered as the driver would."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a worker must run on, by name; ``only_warns`` where the operator lets others pass."""

    versions: Mapping[str, str]
    only_warns: bool

    def check(self) -> None:
        """Raise ``VersionSkewError`` where this process runs on something else."""
        if clause := environment.differences(self.versions, _of_this_process()):
            self.refuse(f"node {_where_here()} has {clause}")

    def refuse(self, what: str) -> None:
        """Raise ``VersionSkewError``, or warn of it."""
        if self.only_warns:
            _warn_once(f"{what}: let pass by {ALLOW}")
            return
        raise VersionSkewError(
            f"{what}: pixels or answers could differ without a word; give all nodes what the driver has (one "
            f"image for all), or set {ALLOW}=1 to be only warned"
        )


def expected() -> Expected | None:
    """What workers of this run must run on; None where they cannot differ."""
    from ray.data import DataContext

    found: Expected | None = DataContext.get_current().get_config(_KEY)
    return found


def check_worker(wanted: Expected | None = None) -> None:
    """Raise ``VersionSkewError`` in a worker that runs on other versions than its driver.

    ``wanted``: as ``expected`` gave it to the driver, for a worker that is not of a pipeline of Ray Data.
    """
    if (wanted := wanted or expected()) is not None:
        wanted.check()


@contextlib.contextmanager
def told_to_workers() -> Iterator[None]:
    """Workers of pipelines that are made inside the block look at their versions when they start."""
    if _cannot_differ():
        yield
        return
    from ray.data import DataContext

    context = DataContext.get_current()
    context.set_config(_KEY, Expected(_of_this_process(), _is_allowed()))
    try:
        yield
    finally:
        context.remove_config(_KEY)


def check_nodes() -> None:
    """Ask every node that can work what it runs on; each once. Raises ``VersionSkewError``."""
    wanted = expected()
    if wanted is None:
        return
    job, start = ray.get_runtime_context().get_job_id(), time.monotonic()
    nodes = [node for node in ray.nodes() if _works(node) and (job, node["NodeID"]) not in _alike]
    answers = _answers(nodes)
    clauses: dict[str, list[str]] = {}
    for node, found in answers:
        clause = environment.differences(wanted.versions, found)
        clauses.setdefault(clause, []).append(_where(node["NodeManagerAddress"], node["NodeID"]))
    num_alike = len(clauses.pop("", ()))
    if clauses:
        wanted.refuse("; ".join(f"{_named(names)} {clause}" for clause, names in clauses.items()))
    _alike.update((job, node["NodeID"]) for node, _ in answers)
    if num_alike:
        seconds = time.monotonic() - start
        logger.info("%d node(s) run on the driver's versions (asked for %.1f s)", num_alike, seconds)


def _cannot_differ() -> bool:
    """Of a Ray that this process started, or is a worker of on its only node, all have one environment."""
    return is_local() or (is_worker() and sum(node["Alive"] for node in ray.nodes()) == 1)


def _is_allowed() -> bool:
    return os.environ.get(ALLOW, "") not in ("", "0")


def _works(node: Mapping[str, Any]) -> bool:
    """Not a head that runs no work."""
    return bool(node["Alive"]) and any(node["Resources"].get(name, 0) for name in ("CPU", "GPU"))


def _answers(nodes: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], dict[str, str]]]:
    """What each node runs on, asked side by side; without nodes that go away or take too long."""
    remote = ray.remote(num_cpus=0, max_retries=1)(environment.environment)
    with _by_value(environment):  # a node may lack this package, or have another one
        asked = {
            remote.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(): node
            for node in nodes
        }
    ready, late = ray.wait([*asked], num_returns=len(asked), timeout=ANSWER_S) if asked else ([], [])
    if late:
        names = [_where(asked[ref]["NodeManagerAddress"], asked[ref]["NodeID"]) for ref in late]
        logger.warning(
            "%s not said in %.0f s what they run on: workers there look themselves", _named(names), ANSWER_S
        )
    found = []
    for ref in ready:
        with contextlib.suppress(ray.exceptions.RayError):  # it went away
            found.append((asked[ref], ray.get(ref)))
    return found


@contextlib.contextmanager
def _by_value(module: Any) -> Iterator[None]:
    """Ray ships the functions of ``module`` whole inside the block, not by name."""
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _named(names: Sequence[str]) -> str:
    """``node A has``, or ``nodes A, B and 7 more have``."""
    if len(names) == 1:
        return f"node {names[0]} has"
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"nodes {', '.join(names[:MAX_NAMED])}{more} have"


def _where(address: str, node_id: str) -> str:
    """The address, with the beginning of Ray's id: a machine may have several nodes."""
    return f"{address} (id {node_id[:8]})"


def _where_here() -> str:
    return _where(ray.util.get_node_ip_address(), ray.get_runtime_context().get_node_id())


@functools.cache
def _of_this_process() -> dict[str, str]:
    return environment.environment()


@functools.cache
def _warn_once(text: str) -> None:
    logger.warning("%s", text)
