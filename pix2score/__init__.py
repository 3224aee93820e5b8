"""pix2score: score millions of illustrations every night, and train the model that does it, on Ray.

Every job is a function of its config: ``score(ScoreConfig(...))`` does what ``python -m jobs.score`` does,
and returns its summary, of which ``summaries`` has the types, or raises what ``errors`` has. It sets up no
logging and ends no process. A Ray that is connected is used and goes on afterwards; one that the job starts
ends with it.

``read_scores`` and ``read_embeddings`` open what the last night published, ``read_changes`` says what is new
in it, ``similar`` and ``Neighbours`` find neighbours in it, ``tag_vectors`` computes all probabilities of
tags from it, ``Model`` scores single pictures.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pix2score.align.config import AlignConfig as AlignConfig
    from pix2score.align.job import align as align
    from pix2score.ascend.config import AscendConfig as AscendConfig
    from pix2score.ascend.job import ascend as ascend
    from pix2score.catalog.catalog import Columns as Columns
    from pix2score.compare.config import CompareConfig as CompareConfig
    from pix2score.compare.job import compare as compare
    from pix2score.ensemble.config import EnsembleConfig as EnsembleConfig
    from pix2score.ensemble.job import ensemble as ensemble
    from pix2score.errors import AccessError as AccessError
    from pix2score.errors import ConfigError as ConfigError
    from pix2score.errors import ConflictError as ConflictError
    from pix2score.errors import DataError as DataError
    from pix2score.errors import ImageFailure as ImageFailure
    from pix2score.errors import LimitError as LimitError
    from pix2score.errors import NotBetterError as NotBetterError
    from pix2score.errors import Pix2ScoreError as Pix2ScoreError
    from pix2score.errors import StorageError as StorageError
    from pix2score.errors import TrainingError as TrainingError
    from pix2score.errors import UserError as UserError
    from pix2score.errors import VerifyError as VerifyError
    from pix2score.errors import VersionSkewError as VersionSkewError
    from pix2score.evaluate.config import EvaluateConfig as EvaluateConfig
    from pix2score.evaluate.job import evaluate as evaluate
    from pix2score.kpi.config import KpiConfig as KpiConfig
    from pix2score.kpi.job import kpi as kpi
    from pix2score.model.tag_vectors import tag_vectors as tag_vectors
    from pix2score.neighbours.config import DuplicatesConfig as DuplicatesConfig
    from pix2score.neighbours.config import IndexConfig as IndexConfig
    from pix2score.neighbours.config import SimilarConfig as SimilarConfig
    from pix2score.neighbours.duplicates import duplicates as duplicates
    from pix2score.neighbours.index import index as index
    from pix2score.neighbours.similar import Neighbours as Neighbours
    from pix2score.neighbours.similar import similar as similar
    from pix2score.prepare.config import PrepareConfig as PrepareConfig
    from pix2score.prepare.job import prepare as prepare
    from pix2score.pseudo.config import PseudoConfig as PseudoConfig
    from pix2score.pseudo.job import pseudo as pseudo
    from pix2score.refit.config import RefitConfig as RefitConfig
    from pix2score.refit.job import refit as refit
    from pix2score.report.config import ReportConfig as ReportConfig
    from pix2score.report.job import report as report
    from pix2score.score.config import ScoreConfig as ScoreConfig
    from pix2score.score.job import score as score
    from pix2score.serve.config import ExportConfig as ExportConfig
    from pix2score.serve.export import export as export
    from pix2score.serve.model import Answer as Answer
    from pix2score.serve.model import Model as Model
    from pix2score.service.config import ServeConfig as ServeConfig
    from pix2score.service.job import serve as serve
    from pix2score.snapshots.changes import read_changes as read_changes
    from pix2score.snapshots.config import HistoryConfig as HistoryConfig
    from pix2score.snapshots.config import PublishConfig as PublishConfig
    from pix2score.snapshots.config import VacuumConfig as VacuumConfig
    from pix2score.snapshots.config import VerifyConfig as VerifyConfig
    from pix2score.snapshots.history import history as history
    from pix2score.snapshots.read import read_embeddings as read_embeddings
    from pix2score.snapshots.read import read_scores as read_scores
    from pix2score.snapshots.restore import publish_snapshot as publish
    from pix2score.snapshots.vacuum import vacuum as vacuum
    from pix2score.snapshots.verify import verify as verify
    from pix2score.summaries import AlignSummary as AlignSummary
    from pix2score.summaries import AscendSummary as AscendSummary
    from pix2score.summaries import CompareSummary as CompareSummary
    from pix2score.summaries import DuplicatesSummary as DuplicatesSummary
    from pix2score.summaries import EnsembleSummary as EnsembleSummary
    from pix2score.summaries import EvaluateSummary as EvaluateSummary
    from pix2score.summaries import ExportSummary as ExportSummary
    from pix2score.summaries import HistorySummary as HistorySummary
    from pix2score.summaries import IndexSummary as IndexSummary
    from pix2score.summaries import KpiSummary as KpiSummary
    from pix2score.summaries import PrepareSummary as PrepareSummary
    from pix2score.summaries import PseudoSummary as PseudoSummary
    from pix2score.summaries import PublishSummary as PublishSummary
    from pix2score.summaries import RefitSummary as RefitSummary
    from pix2score.summaries import RepairSummary as RepairSummary
    from pix2score.summaries import ReportSummary as ReportSummary
    from pix2score.summaries import ScoreSummary as ScoreSummary
    from pix2score.summaries import ServeSummary as ServeSummary
    from pix2score.summaries import SimilarSummary as SimilarSummary
    from pix2score.summaries import TrainSummary as TrainSummary
    from pix2score.summaries import VacuumSummary as VacuumSummary
    from pix2score.summaries import VerifySummary as VerifySummary
    from pix2score.train.config import TrainConfig as TrainConfig
    from pix2score.train.job import train as train
    from pix2score.train.repair import repair as repair
    from pix2score.train.repair_config import RepairConfig as RepairConfig

__version__ = "0.1.0"
__all__ = [
    "AccessError",
    "AlignConfig",
    "AlignSummary",
    "Answer",
    "AscendConfig",
    "AscendSummary",
    "Columns",
    "CompareConfig",
    "CompareSummary",
    "ConfigError",
    "ConflictError",
    "DataError",
    "DuplicatesConfig",
    "DuplicatesSummary",
    "EnsembleConfig",
    "EnsembleSummary",
    "EvaluateConfig",
    "EvaluateSummary",
    "ExportConfig",
    "ExportSummary",
    "HistoryConfig",
    "HistorySummary",
    "ImageFailure",
    "IndexConfig",
    "IndexSummary",
    "KpiConfig",
    "KpiSummary",
    "LimitError",
    "Model",
    "Neighbours",
    "NotBetterError",
    "Pix2ScoreError",
    "PrepareConfig",
    "PrepareSummary",
    "PseudoConfig",
    "PseudoSummary",
    "PublishConfig",
    "PublishSummary",
    "RefitConfig",
    "RefitSummary",
    "RepairConfig",
    "RepairSummary",
    "ReportConfig",
    "ReportSummary",
    "ScoreConfig",
    "ScoreSummary",
    "ServeConfig",
    "ServeSummary",
    "SimilarConfig",
    "SimilarSummary",
    "StorageError",
    "TrainConfig",
    "TrainSummary",
    "TrainingError",
    "UserError",
    "VacuumConfig",
    "VacuumSummary",
    "VerifyConfig",
    "VerifyError",
    "VerifySummary",
    "VersionSkewError",
    "__version__",
    "align",
    "ascend",
    "compare",
    "duplicates",
    "ensemble",
    "evaluate",
    "export",
    "history",
    "index",
    "kpi",
    "prepare",
    "pseudo",
    "publish",
    "read_changes",
    "read_embeddings",
    "read_scores",
    "refit",
    "repair",
    "report",
    "score",
    "serve",
    "similar",
    "tag_vectors",
    "train",
    "vacuum",
    "verify",
]

_MODULES = {
    "AccessError": "errors",
    "AlignConfig": "align.config",
    "AlignSummary": "summaries",
    "Answer": "serve.model",
    "AscendConfig": "ascend.config",
    "AscendSummary": "summaries",
    "Columns": "catalog.catalog",
    "CompareConfig": "compare.config",
    "CompareSummary": "summaries",
    "ConfigError": "errors",
    "ConflictError": "errors",
    "DataError": "errors",
    "DuplicatesConfig": "neighbours.config",
    "DuplicatesSummary": "summaries",
    "EnsembleConfig": "ensemble.config",
    "EnsembleSummary": "summaries",
    "EvaluateConfig": "evaluate.config",
    "EvaluateSummary": "summaries",
    "ExportConfig": "serve.config",
    "ExportSummary": "summaries",
    "HistoryConfig": "snapshots.config",
    "HistorySummary": "summaries",
    "ImageFailure": "errors",
    "IndexConfig": "neighbours.config",
    "IndexSummary": "summaries",
    "KpiConfig": "kpi.config",
    "KpiSummary": "summaries",
    "LimitError": "errors",
    "Model": "serve.model",
    "Neighbours": "neighbours.similar",
    "NotBetterError": "errors",
    "Pix2ScoreError": "errors",
    "PrepareConfig": "prepare.config",
    "PrepareSummary": "summaries",
    "PseudoConfig": "pseudo.config",
    "PseudoSummary": "summaries",
    "PublishConfig": "snapshots.config",
    "PublishSummary": "summaries",
    "RefitConfig": "refit.config",
    "RefitSummary": "summaries",
    "RepairConfig": "train.repair_config",
    "RepairSummary": "summaries",
    "ReportConfig": "report.config",
    "ReportSummary": "summaries",
    "ScoreConfig": "score.config",
    "ScoreSummary": "summaries",
    "ServeConfig": "service.config",
    "ServeSummary": "summaries",
    "SimilarConfig": "neighbours.config",
    "SimilarSummary": "summaries",
    "StorageError": "errors",
    "TrainConfig": "train.config",
    "TrainSummary": "summaries",
    "TrainingError": "errors",
    "UserError": "errors",
    "VacuumConfig": "snapshots.config",
    "VacuumSummary": "summaries",
    "VerifyConfig": "snapshots.config",
    "VerifyError": "errors",
    "VerifySummary": "summaries",
    "VersionSkewError": "errors",
    "duplicates": "neighbours.duplicates",
    "export": "serve.export",
    "history": "snapshots.history",
    "index": "neighbours.index",
    "publish": "snapshots.restore:publish_snapshot",
    "read_changes": "snapshots.changes",
    "read_embeddings": "snapshots.read",
    "read_scores": "snapshots.read",
    "repair": "train.repair",
    "similar": "neighbours.similar",
    "tag_vectors": "model.tag_vectors",
    "vacuum": "snapshots.vacuum",
    "verify": "snapshots.verify",
}
_JOBS = (
    "align",
    "ascend",
    "compare",
    "ensemble",
    "evaluate",
    "kpi",
    "prepare",
    "pseudo",
    "refit",
    "report",
    "score",
    "serve",
    "train",
)
"""Rooms of modules that are called like functions."""


def __getattr__(name: str) -> Any:
    # Loaded on use: a decode child imports this package for Pillow alone.
    if name in _JOBS:
        return import_module(f"pix2score.{name}")
    if name in _MODULES:
        module, _, other_name = _MODULES[name].partition(":")
        return getattr(import_module(f"pix2score.{module}"), other_name or name)
    raise AttributeError(f"module 'pix2score' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
