"""Losses for blocks that answer with the best of many: learning from examples of good answers.

A solver finds y*(θ) = argmax_y ⟨θ, y⟩ among a set of answers: paths, assignments, rankings, classes. Where a
good answer y is known, its Fenchel–Young loss (Blondel et al. 2020; Berthet et al. 2020, sec. 4) says how far
perturbed answers are from it,

    L(θ; y) = E[max_y' ⟨z, y'⟩ − ⟨z, y⟩],   z = θ + σ ε,        ∇L = E[y*(z)] − y

It is convex in θ, is 0 where the answer is always y, and needs no derivative of the solver: its gradient is a
mean of answers, with far less variance than a score would bring.

`fenchel_young` samples it, for any solver. For an argmax, the k largest and thresholds there are closed
forms, which take no key: `fenchel_young_argmax`, `fenchel_young_top_k`, `fenchel_young_threshold`.
"""

from esjax.losses.closed_forms import fenchel_young_argmax, fenchel_young_threshold, fenchel_young_top_k
from esjax.losses.perturbations import Perturbation, additive, multiplicative
from esjax.losses.sampled import fenchel_young

__all__ = [
    "Perturbation",
    "additive",
    "fenchel_young",
    "fenchel_young_argmax",
    "fenchel_young_threshold",
    "fenchel_young_top_k",
    "multiplicative",
]
