"""Runs one job: its config in, one JSON summary line and an exit code out."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from pix2score.cli.flags import resolve
from pix2score.cli.settings import Config
from pix2score.errors import JobFailed, Pix2ScoreError
from pix2score.host import termination

logger = logging.getLogger(__name__)


def main(
    job: str, config_class: type[Config], function: Callable[[Config], Mapping[str, Any]], about: str | None
) -> None:
    """Run ``function`` on the resolved config, print its summary as the last line of output, and exit.

    Exit codes are those of ``errors``; a user's mistake is one line on standard error without a traceback.
    """
    tell_in_any_encoding()
    termination.install()
    sys.exit(run(job, config_class, function, about or "", sys.argv[1:]))


def tell_in_any_encoding() -> None:
    """Let output and error write what their encoding lacks as an escape: no character ends a job."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run(
    job: str,
    config_class: type[Config],
    function: Callable[[Config], Mapping[str, Any]],
    about: str,
    argv: Sequence[str],
) -> int:
    """As ``main``, but return the exit code."""
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
    )
    try:
        summary = function(resolve(config_class, argv, prog=_command(job), about=about))
    except BaseException as exc:
        if isinstance(exc, SystemExit) and not exc.code:
            raise  # --help
        termination.acknowledge(exc)
        failed = JobFailed.of(exc, {"job": job})
        _tell(job, failed)
        _print_json(failed.report())
        return failed.exit_code
    return 0 if _print_json(summary) else 1


def _command(job: str) -> str:
    """What a person wrote to run this."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    is_installed = spec is not None and spec.name.startswith("pix2score.")
    return f"pix2score {job}" if is_installed else f"python -m jobs.{job}"


def module_of(job: str) -> str:
    """For ``python -m``: of the installed package, else of the checkout."""
    return f"pix2score.jobs.{job}" if find_spec("pix2score.jobs") else f"jobs.{job}"


def _tell(job: str, failed: JobFailed) -> None:
    """On standard error: one line for what was foreseen, a traceback for the rest."""
    if isinstance(failed.cause, Pix2ScoreError):
        print(f"jobs.{job}: {failed.message}", file=sys.stderr, flush=True)
    elif isinstance(failed.cause, (KeyboardInterrupt, SystemExit)):  # Ctrl-C or SIGTERM
        print(f"jobs.{job}: interrupted; the same command again is safe", file=sys.stderr, flush=True)
    else:
        logger.error("jobs.%s failed", job, exc_info=failed.cause)


def _print_json(content: Mapping[str, Any]) -> bool:
    """As ASCII where the stream is not UTF-8, or holds half a character of a file name: it stays valid
    JSON.

    False where standard output takes nothing any more: a full disk, a reader that has gone.
    """
    line = json.dumps(content, ensure_ascii=False)
    encoding = (getattr(sys.stdout, "encoding", None) or "").lower()
    try:
        line.encode("utf-8" if encoding.replace("-", "").replace("_", "") == "utf8" else "ascii")
    except UnicodeEncodeError:
        line = json.dumps(content)
    try:
        print(line, flush=True)
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # flushed once more at the end
        print(f"standard output does not take the summary: {exc.strerror}", file=sys.stderr, flush=True)
        return False
    return True
