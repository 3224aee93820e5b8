"""The predict job: images by name, an answer for each."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pix2score.errors import DataError, ImageFailure, JobFailed
from pix2score.serve.config import PredictConfig
from pix2score.serve.model import Answer, Model

if TYPE_CHECKING:
    from pix2score.model.card import ModelCard


def predict(config: PredictConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """Pass every answer to ``say``, name bad images on standard error; return the summary.

    Raises ``DataError`` after doing all others, if an image gave no answer.
    """
    model = Model.load(config.model, device=config.device, engine=config.engine)
    ranges = answer_ranges(model.card)
    failed: dict[str, str] = {}
    for path in config.images:
        (answer,) = model.predict([path])
        if isinstance(answer, ImageFailure):
            failed[path] = str(answer)
            print(f"jobs.predict: {path}: {answer}", file=sys.stderr, flush=True)
        else:
            say(
                _json_line(answer_json(path, answer, ranges))
                if config.json
                else _printable(answer_text(path, answer, model.card))
            )
    model.close()
    summary = {
        "job": "predict",
        "model_version": model.card.version,
        "images": len(config.images),
        "failed": len(failed),
        **model.engine_facts,
    }
    if failed:
        error = DataError(f"{len(failed)} of {len(config.images)} images gave no answer: {', '.join(failed)}")
        JobFailed(summary, error).attach()
        raise error
    return summary


def _json_line(content: dict[str, Any]) -> str:
    """In characters where standard output takes them, else with escapes: the same content."""
    line = json.dumps(content, ensure_ascii=False)
    return line if _printable(line) == line else json.dumps(content)


def _printable(text: str) -> str:
    """``text`` with escapes for what standard output's encoding lacks: a name must not end the run."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def answer_ranges(card: ModelCard) -> dict[str, dict[str, str]]:
    """What is the same in each answer, as the reference system has it: ``<h>_predict`` -> bin -> range."""
    legends = {f"{head.name}_predict": head.legend() for head in card.heads}
    return {name: legend for name, legend in legends.items() if legend}


def answer_json(path: str, answer: Answer, ranges: Mapping[str, dict[str, str]]) -> dict[str, Any]:
    """One image as JSON: ``answer_ranges`` of the model, and beside them each head's answer under ``<h>``."""
    return {"image": path, **ranges, **answer.heads}


def answer_text(path: str, answer: Answer, card: ModelCard) -> str:
    """A few lines for a person: what each head says."""
    width = max(len(head.name) for head in card.heads)
    return "\n".join([path, *(f"  {h.name:<{width}}  {h.text(answer.heads[h.name])}" for h in card.heads)])
