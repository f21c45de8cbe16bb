"""Blocks that see scores only through decisions: an argmax, a threshold, a ranking.

Such a block's smoothed value depends on x only through the chances of its decisions, and these are known.
So only the decisions have to be sampled, not the noise behind them: conditioning on the decision removes
the noise's share of the gradient's variance (Rao–Blackwell), and where evaluations are cheap, summing over
one decision's alternatives removes that decision's share, too.

A decision is a function `(x, sigma, noise) -> Law`; an estimator a function of that law and the block.
"""

from esjax.decisions._laws import Law
from esjax.decisions.choices import argmax, ranking, threshold
from esjax.decisions.estimators import Block, Estimator, enumeration, local_expectation, score
from esjax.decisions.smoothing import Decision, smooth_decisions

__all__ = [
    "Block",
    "Decision",
    "Estimator",
    "Law",
    "argmax",
    "enumeration",
    "local_expectation",
    "ranking",
    "score",
    "smooth_decisions",
    "threshold",
]
