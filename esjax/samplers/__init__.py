"""Samplers: how the N perturbations of one gradient are drawn together.

A sampler draws in *groups*. Samples of one group may depend on each other (that is where variance is
saved); each sample by itself has the distribution of the noise (so every estimate stays unbiased), and
groups are independent (so a group may be compared with the others, see `esjax.baselines`).
Group g of a call is drawn from `jax.random.fold_in(key, g)`: the draws do not depend on the chunking.
"""

from esjax.samplers.choice import auto
from esjax.samplers.groups import Groups, Sampler
from esjax.samplers.independent import antithetic, iid
from esjax.samplers.points import sobol
from esjax.samplers.rotations import orthogonal
from esjax.samplers.strata import latin_hypercube

__all__ = [
    "Groups",
    "Sampler",
    "antithetic",
    "auto",
    "iid",
    "latin_hypercube",
    "orthogonal",
    "sobol",
]
