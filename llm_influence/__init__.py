"""Influence of training examples on language models and other PyTorch networks.

    run = trace(model, dataset)
    TracIn().fit(run).explain(queries).proponents(k=10)

Names are imported on first use.
"""

from typing import TYPE_CHECKING

from influence.lazy import exports

__all__ = [
    "BM25",
    "EKFAC",
    "LESS",
    "PCA",
    "SOURCE",
    "TRAK",
    "AlongTraining",
    "Checkpoint",
    "CheckpointRun",
    "CollectRows",
    "Curriculum",
    "DataInf",
    "Dense",
    "EmbeddingSimilarity",
    "Galerkin",
    "GaussNewton",
    "Identity",
    "Kronecker",
    "Margin",
    "MeanField",
    "Memorisation",
    "Mixture",
    "OptimizerRun",
    "OrderComparison",
    "Pair",
    "Random",
    "RecordTraining",
    "Replay",
    "RepresentationSimilarity",
    "SampleOrder",
    "StoreAt",
    "Taylor",
    "TokenInfluence",
    "TracIn",
    "TrackStar",
    "balanced_orders",
    "compare_orders",
    "curriculum",
    "encode",
    "measured_memorisation",
    "memorisation",
    "order_report",
    "record",
    "report",
    "reranked",
    "retrainer",
    "select",
    "trace",
]

if TYPE_CHECKING:
    from llm_influence.baselines import Random
    from llm_influence.bm25 import BM25
    from llm_influence.checkpoints import Checkpoint
    from llm_influence.datainf import DataInf
    from llm_influence.ekfac import EKFAC
    from llm_influence.encoding import encode
    from llm_influence.gauss_newton import GaussNewton
    from llm_influence.learned import PCA
    from llm_influence.less import LESS, select
    from llm_influence.order.comparison import OrderComparison, compare_orders
    from llm_influence.order.curriculum import Curriculum, curriculum
    from llm_influence.order.galerkin import Galerkin
    from llm_influence.order.mean_field import MeanField
    from llm_influence.order.memorisation import (
        Memorisation,
        balanced_orders,
        measured_memorisation,
        memorisation,
    )
    from llm_influence.order.pair import Pair
    from llm_influence.order.recorder import record
    from llm_influence.order.replay import Replay
    from llm_influence.order.reporting import order_report
    from llm_influence.order.run import OptimizerRun
    from llm_influence.order.sample_order import SampleOrder
    from llm_influence.order.taylor import Taylor
    from llm_influence.order.trainer import RecordTraining
    from llm_influence.projection import Dense, Identity, Kronecker
    from llm_influence.reporting import report
    from llm_influence.representation import EmbeddingSimilarity, RepresentationSimilarity
    from llm_influence.rerank import reranked
    from llm_influence.retrain import retrainer
    from llm_influence.run import CheckpointRun, trace
    from llm_influence.source import SOURCE
    from llm_influence.store_at import StoreAt
    from llm_influence.token_influence import TokenInfluence
    from llm_influence.tracin import TracIn
    from llm_influence.trackstar import Mixture, TrackStar
    from llm_influence.trainer_callback import AlongTraining, CollectRows
    from llm_influence.trak import TRAK, Margin
else:
    __getattr__, __dir__ = exports(
        __name__,
        {
            "llm_influence.checkpoints": ["Checkpoint"],
            "llm_influence.encoding": ["encode"],
            "llm_influence.learned": ["PCA"],
            "llm_influence.order.comparison": ["OrderComparison", "compare_orders"],
            "llm_influence.order.curriculum": ["Curriculum", "curriculum"],
            "llm_influence.order.galerkin": ["Galerkin"],
            "llm_influence.order.mean_field": ["MeanField"],
            "llm_influence.order.recorder": ["record"],
            "llm_influence.order.memorisation": [
                "Memorisation",
                "balanced_orders",
                "measured_memorisation",
                "memorisation",
            ],
            "llm_influence.order.pair": ["Pair"],
            "llm_influence.order.replay": ["Replay"],
            "llm_influence.order.reporting": ["order_report"],
            "llm_influence.order.run": ["OptimizerRun"],
            "llm_influence.order.sample_order": ["SampleOrder"],
            "llm_influence.order.taylor": ["Taylor"],
            "llm_influence.order.trainer": ["RecordTraining"],
            "llm_influence.projection": ["Dense", "Identity", "Kronecker"],
            "llm_influence.retrain": ["retrainer"],
            "llm_influence.less": ["LESS", "select"],
            "llm_influence.trak": ["TRAK", "Margin"],
            "llm_influence.trackstar": ["TrackStar", "Mixture"],
            "llm_influence.baselines": ["Random"],
            "llm_influence.bm25": ["BM25"],
            "llm_influence.datainf": ["DataInf"],
            "llm_influence.representation": ["EmbeddingSimilarity", "RepresentationSimilarity"],
            "llm_influence.reporting": ["report"],
            "llm_influence.rerank": ["reranked"],
            "llm_influence.store_at": ["StoreAt"],
            "llm_influence.trainer_callback": ["AlongTraining", "CollectRows"],
            "llm_influence.ekfac": ["EKFAC"],
            "llm_influence.gauss_newton": ["GaussNewton"],
            "llm_influence.source": ["SOURCE"],
            "llm_influence.run": ["CheckpointRun", "trace"],
            "llm_influence.token_influence": ["TokenInfluence"],
            "llm_influence.tracin": ["TracIn"],
        },
    )
