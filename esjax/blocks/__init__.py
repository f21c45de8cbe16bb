"""Ready-made blocks: metrics that people report, to be smoothed.

Those that score one example or one list by its scores are for `esjax.smooth` and `jax.vmap`. Those that score
a batch by its decisions are for `esjax.smooth_decisions`. Edit distances are to be minimised, all others to
be maximised. A `mask` leaves out padding: what it hides changes nothing.
"""

from esjax.blocks.classification import (
    accuracy,
    cohen_kappa,
    dice,
    f1,
    jaccard,
    matthews,
    top_k_accuracy,
)
from esjax.blocks.ranking import average_precision, concordance, ndcg, reciprocal_rank
from esjax.blocks.sequences import edit_distance, word_error_rate

__all__ = [
    "accuracy",
    "average_precision",
    "cohen_kappa",
    "concordance",
    "dice",
    "edit_distance",
    "f1",
    "jaccard",
    "matthews",
    "ndcg",
    "reciprocal_rank",
    "top_k_accuracy",
    "word_error_rate",
]
