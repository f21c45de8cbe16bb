"""Closed forms: what a decision on perturbed scores is worth on average, with no samples and no key.

    P(argmax(logits + σ ε) = c),  P(c among the k largest of logits + σ ε),  P(x + σ ε > threshold)

All are differentiable in the scores and in σ, to any order, by forward and reverse mode. For normal noise
they are integrals over one number, however many classes there are, computed by the trapezoidal rule:
relative errors (of a vector, relative to its norm) are below 1e-5 in float32 and 1e-9 in float64, where that
norm exceeds 1e-20 (for top-k: absolute errors). Leading axes are a batch, computed a few examples at a time;
prefer them to `jax.vmap`.

NaN logits are refused where they are known (not traced); traced ones give NaN, as does a traced label that
is out of range.
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
