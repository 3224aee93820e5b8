"""ensemble: several models with the same heads made into one model folder, whose answer is their mean."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.cli.flags import as_plain
from pix2score.cli.summary import recorded
from pix2score.cli.tables import aligned
from pix2score.cluster.offer import Offer
from pix2score.cluster.session import session
from pix2score.dataset.card import PreparedDataset, check_heads, open_dataset
from pix2score.ensemble.config import EnsembleConfig
from pix2score.errors import ConfigError, DataError
from pix2score.evaluate.pipeline import EvaluationPipeline
from pix2score.evaluate.sample import Sample
from pix2score.heads.spec import HeadSpec
from pix2score.heads.value import ValueHead
from pix2score.metrics.kinds import calibrations, loss_metric, main_metric, results
from pix2score.metrics.protocol import Accumulator
from pix2score.model.card import CARD, ModelCard
from pix2score.model.folder import load_model, save_model
from pix2score.model.members import Member, refuse_ensemble
from pix2score.storage.arrow import matrix
from pix2score.storage.folder import Folder
from pix2score.summaries import EnsembleSummary

if TYPE_CHECKING:
    from pix2score.ensemble.selection import HeadAnswers

logger = logging.getLogger(__name__)
Weights = Mapping[str, npt.NDArray[Any]]


def ensemble(config: EnsembleConfig) -> EnsembleSummary:
    """Write the ensemble to ``config.out``; return its version and validation numbers beside the members'.

    Raises ``DataError`` where a model is none, or an ensemble itself, or ``out`` holds one already;
    ``ConfigError`` where heads or pixels of two models differ.
    """
    from pix2score.ensemble.selection import chosen_shares  # imports torch

    loaded, dataset, out = (
        [load_model(place) for place in config.models],
        open_dataset(config.data),
        Folder(config.out),
    )
    if out.is_file(CARD):
        raise DataError(f"{out.uri} holds a model already; give another --out")
    cards = [card for card, _ in loaded]
    for place, card in zip(config.models, cards, strict=True):
        refuse_ensemble(card.members, f"give the members of {place} themselves")
        check_heads(place, card.heads, dataset)
    _check_alike(config.models, cards)
    dataset.parts("val")
    with (
        session(gpu_wait_s=config.gpu_wait_s) as offer,
        recorded(out, "summary.json", {"job": "ensemble", "out": out.uri}) as summary,
    ):
        answers = _answers(config, cards, dataset, offer)
        shares = {name: chosen_shares(found) for name, found in answers.items()}
        metrics = [answers[head.name].metrics(shares[head.name]) for head in cards[0].heads]
        _say(config.models, answers, shares, metrics)
        card = _save(config, loaded, shares, metrics)
        summary.update(
            model_version=card.version, shares=shares, val=card.about["val"], config=as_plain(config)
        )
    return cast("EnsembleSummary", summary)


def _check_alike(places: Sequence[str], cards: Sequence[ModelCard]) -> None:
    first, heads = cards[0], {head.name: head for head in cards[0].heads}
    for place, card in zip(places[1:], cards[1:], strict=True):
        theirs = {head.name: head for head in card.heads}
        if theirs.keys() != heads.keys():
            raise ConfigError(
                f"{place} has heads {', '.join(sorted(theirs))}; {places[0]} has {', '.join(sorted(heads))}"
            )
        for name, head in theirs.items():
            differences = _differences(head, heads[name])
            if differences:
                raise ConfigError(
                    f"head {name} of {place} has another {', '.join(differences)} than that of {places[0]}: "
                    "members learn from the same prepared dataset"
                )
        ours, pixels = (replace(c.preprocess, mean=(0.0,) * 3, std=(1.0,) * 3) for c in (first, card))
        if ours != pixels:
            raise ConfigError(
                f"{place} sees pictures of {pixels.size} px ({pixels.resize}), {places[0]} of {ours.size} px "
                f"({ours.resize}): members share their pixels"
            )


def _differences(head: HeadSpec, other: HeadSpec) -> list[str]:
    """What two heads differ in, besides how they were trained."""
    ours, theirs = head.to_dict(), other.to_dict()
    keys = (ours.keys() | theirs.keys()) - {"weight", "loss", "label_noise"}
    return sorted(key for key in keys if ours.get(key) != theirs.get(key))


def _answers(
    config: EnsembleConfig, cards: Sequence[ModelCard], dataset: PreparedDataset, offer: Offer
) -> dict[str, HeadAnswers]:
    """Head -> what all members say of the validation split."""
    pipeline = EvaluationPipeline(
        models=config.models,
        cards=cards,
        dataset=dataset,
        split="val",
        offer=offer,
        use_gpu=offer.wants_gpu(config.device),
    )
    logger.info("%d models answer %d validation rows", len(cards), dataset.num_rows("val"))
    tables = list(pipeline.rows({}, Sample()).iter_batches(batch_format="pyarrow", batch_size=1024))
    rows = pa.concat_tables(tables)
    return {head.name: _of_head(head, rows, len(cards)) for head in cards[0].heads}


def _of_head(head: HeadSpec, rows: pa.Table, number: int) -> HeadAnswers:
    from pix2score.ensemble.selection import HeadAnswers

    labels = head.label_values(rows.column(f"{head.name}_label"))
    return HeadAnswers(
        head=_as_mean(head),
        outputs=[matrix(rows.column(f"{head.name}_outputs_{i}")).astype(np.float32) for i in range(number)],
        targets=head.targets(rows.column(head.target_field().name)),
        labels=np.asarray(labels, dtype=np.float64),
    )


def _as_mean(head: HeadSpec) -> HeadSpec:
    """The head as an ensemble has it: the mean of several numbers is one number."""
    return replace(head, loss="mse") if isinstance(head, ValueHead) else head


def _say(
    places: Sequence[str],
    answers: Mapping[str, HeadAnswers],
    shares: Mapping[str, Sequence[float]],
    metrics: Sequence[Accumulator],
) -> None:
    rows = [["head", "model", "share", "main", "loss (constant)"]]
    for total in metrics:
        found = answers[total.head.name]
        for i, place in enumerate(places):
            alone = found.metrics([float(i == j) for j in range(len(places))])
            rows.append([total.head.name, place, f"{shares[total.head.name][i]:.2f}", *_numbers(alone)])
        rows.append([total.head.name, "ensemble", "", *_numbers(total)])
        for i, j, correlation in found.alike():
            logger.warning(
                "%s: %s and %s err alike (correlation %.3f); other seeds, sizes or backbones add more",
                *(total.head.name, places[i], places[j], correlation),
            )
    logger.info("validation:\n%s", aligned(rows))


def _numbers(metrics: Accumulator) -> list[str]:
    if not metrics.num_labelled:
        return ["no label", ""]
    found, head = metrics.calibrated().result(), metrics.head
    main, loss = main_metric(head), loss_metric(head)
    value = found.get(main)
    shown = "-" if value is None else f"{value:.3f}"
    return [f"{main} {shown}", f"{loss} {found[loss]:.3f} ({found[f'prior_{loss}']:.3f})"]


def _save(
    config: EnsembleConfig,
    loaded: Sequence[tuple[ModelCard, Weights]],
    shares: Mapping[str, Sequence[float]],
    metrics: Sequence[Accumulator],
) -> ModelCard:
    from pix2score.model.graph import graph_or_none  # imports torch

    first = loaded[0][0]
    return save_model(
        config.out,
        {
            f"members.{i}.{name}": tensor
            for i, (_, weights) in enumerate(loaded)
            for name, tensor in weights.items()
        },
        backbone=first.backbone,
        heads=tuple(_as_mean(head) for head in first.heads),
        preprocess=first.preprocess,
        embedding_dim=first.embedding_dim,
        **calibrations(metrics),
        hidden=first.hidden,
        embedding_dtype=first.embedding_dtype,
        members=tuple(member_of(card, i, shares) for i, (card, _) in enumerate(loaded)),
        about={
            "val": results([m.calibrated() for m in metrics]),
            "columns": first.about.get("columns"),
            "config": as_plain(config),
        },
        graph=graph_or_none,
    )


def member_of(card: ModelCard, number: int, shares: Mapping[str, Sequence[float]]) -> Member:
    """The model of ``card`` as number ``number`` of an ensemble with ``shares`` of every member by head."""
    mean, std = ((float(a), float(b), float(c)) for a, b, c in (card.preprocess.mean, card.preprocess.std))
    return Member(
        version=card.version,
        backbone=card.backbone,
        hidden=card.hidden,
        mean=mean,
        std=std,
        losses={head.name: head.loss for head in card.heads},
        calibrations={head.name: dict(card.calibration(head.name)) for head in card.heads},
        shares={name: of_members[number] for name, of_members in shares.items()},
        embedding_dtype=card.embedding_dtype,
    )
