"""Ready-made blocks: metrics that people report, to be smoothed.

Those that score one example or one list by its scores are for `esjax.smooth` and `jax.vmap`. Those that score
a batch by its decisions are for `esjax.smooth_decisions`. Edit distances are to be minimised, all others to
be maximised. A `mask` leaves out padding: what it hides changes nothing.
"""

from esjax.blocks.classification import accuracy, top_k_accuracy
from esjax.blocks.pairs import auc, concordance, kendall_tau, spearman_rho
from esjax.blocks.ranking import average_precision, ndcg, precision_at_k, recall_at_k, reciprocal_rank
from esjax.blocks.sequences import edit_distance, word_error_rate
from esjax.blocks.sets import (
    balanced_accuracy,
    cohen_kappa,
    dice,
    f1,
    fbeta,
    jaccard,
    matthews,
    precision,
    recall,
)

__all__ = [
    "accuracy",
    "auc",
    "average_precision",
    "balanced_accuracy",
    "cohen_kappa",
    "concordance",
    "dice",
    "edit_distance",
    "f1",
    "fbeta",
    "jaccard",
    "kendall_tau",
    "matthews",
    "ndcg",
    "precision",
    "precision_at_k",
    "recall",
    "recall_at_k",
    "reciprocal_rank",
    "spearman_rho",
    "top_k_accuracy",
    "word_error_rate",
]
