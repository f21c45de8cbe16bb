"""Closed forms: what decisions on perturbed scores are worth on average, with no samples and no key.

    E[metric(scores + σ ε)]

Of one example: the chances of an argmax, of the k largest and of a threshold, and the accuracies made of
them. Of a batch of decisions, or of a list: the metrics of `esjax.blocks`, by the same names and with the
same arguments, scores in place of decisions, and `sigma` after them. Of chances that come from a model of
your own: `from_probs`.

All are differentiable in the scores and in σ, to any order, by forward and reverse mode. They are integrals
over one number, computed by quadrature: relative errors of value and gradient (as a vector, relative to its
norm) are below 1e-5 in float32 and 1e-9 in float64, where that norm exceeds 1e-20 (for top-k and places in a
ranking: absolute errors). Functions of examples take leading axes as a batch, computed a few examples at a
time; prefer them to `jax.vmap`. Metrics are of one batch or one list; use `jax.vmap` over others.

NaN scores are refused where they are known (not traced); traced ones give NaN, in value and gradient, as does
a traced label that is out of range.
"""

from esjax.exact import from_probs
from esjax.exact.choices import accuracy, argmax_probs, threshold_probs
from esjax.exact.pairs import auc, concordance, kendall_tau, spearman_rho
from esjax.exact.ranks import (
    average_precision,
    ndcg,
    precision_at_k,
    rank_probs,
    recall_at_k,
    reciprocal_rank,
)
from esjax.exact.sets import (
    balanced_accuracy,
    cohen_kappa,
    count_probs,
    dice,
    f1,
    fbeta,
    jaccard,
    matthews,
    of_confusion,
    precision,
    recall,
)
from esjax.exact.top_k import top_k_accuracy, top_k_probs

__all__ = [
    "accuracy",
    "argmax_probs",
    "auc",
    "average_precision",
    "balanced_accuracy",
    "cohen_kappa",
    "concordance",
    "count_probs",
    "dice",
    "f1",
    "fbeta",
    "from_probs",
    "jaccard",
    "kendall_tau",
    "matthews",
    "ndcg",
    "of_confusion",
    "precision",
    "precision_at_k",
    "rank_probs",
    "recall",
    "recall_at_k",
    "reciprocal_rank",
    "spearman_rho",
    "threshold_probs",
    "top_k_accuracy",
    "top_k_probs",
]
