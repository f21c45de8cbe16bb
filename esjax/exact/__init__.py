"""Closed forms: what a decision of perturbed scores is worth on average, without a sample and without a key.

    P(argmax(logits + σ ε) = c),  P(c among the k largest of logits + σ ε),  P(x + σ ε > threshold)

All are differentiable in the scores and in σ, to any order, by forward and reverse mode. For normal noise
they are integrals over one number, however many classes there are, and a trapezoid finds them: relative
errors (of a vector, to its norm) are below 1e-5 in float32 and 1e-9 in float64, where that norm exceeds
1e-20 (for top-k: absolute errors). Leading axes are a batch, worked on a few examples at a time; prefer
them to `jax.vmap`.

Where they are known (not traced), NaN logits are refused; traced ones give NaN, as does a traced label
that is out of range.
"""

from esjax.exact.choices import accuracy, argmax_probs, threshold_probs
from esjax.exact.top_k import top_k_accuracy, top_k_probs

__all__ = [
    "accuracy",
    "argmax_probs",
    "threshold_probs",
    "top_k_accuracy",
    "top_k_probs",
]
