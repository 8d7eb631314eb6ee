"""Influence of training examples on language models and other PyTorch networks.

    run = trace(model, dataset)
    TracIn().fit(run).explain(queries).proponents(k=10)

Names are imported on first use.
"""

from typing import TYPE_CHECKING

from influence.lazy import exports

__all__ = [
    "LESS",
    "PCA",
    "TRAK",
    "Checkpoint",
    "CheckpointRun",
    "Dense",
    "Identity",
    "Kronecker",
    "Margin",
    "Mixture",
    "TokenInfluence",
    "TracIn",
    "TrackStar",
    "encode",
    "retrainer",
    "select",
    "trace",
]

if TYPE_CHECKING:
    from llm_influence.checkpoints import Checkpoint
    from llm_influence.encoding import encode
    from llm_influence.learned import PCA
    from llm_influence.less import LESS, select
    from llm_influence.projection import Dense, Identity, Kronecker
    from llm_influence.retrain import retrainer
    from llm_influence.run import CheckpointRun, trace
    from llm_influence.token_influence import TokenInfluence
    from llm_influence.tracin import TracIn
    from llm_influence.trackstar import Mixture, TrackStar
    from llm_influence.trak import TRAK, Margin
else:
    __getattr__, __dir__ = exports(
        __name__,
        {
            "llm_influence.checkpoints": ["Checkpoint"],
            "llm_influence.encoding": ["encode"],
            "llm_influence.learned": ["PCA"],
            "llm_influence.projection": ["Dense", "Identity", "Kronecker"],
            "llm_influence.retrain": ["retrainer"],
            "llm_influence.less": ["LESS", "select"],
            "llm_influence.trak": ["TRAK", "Margin"],
            "llm_influence.trackstar": ["TrackStar", "Mixture"],
            "llm_influence.run": ["CheckpointRun", "trace"],
            "llm_influence.token_influence": ["TokenInfluence"],
            "llm_influence.tracin": ["TracIn"],
        },
    )
