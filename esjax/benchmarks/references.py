"""Jacobians of smoothed hard sorting and ranking, by quadrature, for each noise; NumPy and SciPy only."""

from typing import Any

import numpy as np
from scipy import stats

LAWS: dict[str, Any] = {
    "normal": stats.norm(),
    "logistic": stats.logistic(),
    "laplace": stats.laplace(),
    "gumbel": stats.gumbel_r(loc=-np.euler_gamma),
    "cauchy": stats.cauchy(),
    "triangular": stats.triang(0.5, -1, 2),
}
"""SciPy's distributions for the members of `esjax.noise`."""


def sort_jacobian(x: Any, sigma: float, law: Any, num_nodes: int = 20_000) -> Any:
    """Returns ∂E[sort(x + σ ε)_k] / ∂x_i = P(the k-th smallest is item i), (n, n).

    Given ε_i = u, the other items are below item i independently, so the number below it has a
    Poisson-binomial distribution; it is averaged over u at the midpoints of equally likely strata.
    """
    size = len(x)
    nodes = _nodes(law, num_nodes)
    jacobian = np.empty((size, size))
    for i in range(size):
        num_below = np.zeros((num_nodes, size))
        num_below[:, 0] = 1
        for j in set(range(size)) - {i}:
            below = law.cdf(nodes + (x[i] - x[j]) / sigma)[:, None]
            one_more = np.pad(num_below[:, :-1], [(0, 0), (1, 0)])
            num_below = num_below * (1 - below) + one_more * below
        jacobian[:, i] = num_below.mean(0)
    return jacobian


def rank_jacobian(x: Any, sigma: float, law: Any, num_nodes: int = 20_000) -> Any:
    """Returns ∂E[rank_i] / ∂x_j, (n, n).

    Where i ≠ j it is minus the density of ε_j − ε_i at (x_i − x_j) / σ, over σ; rows sum to 0.
    """
    nodes = _nodes(law, num_nodes)
    differences = (np.subtract.outer(x, x) / sigma)[:, :, None]
    density = law.pdf(nodes + differences).mean(-1) / sigma
    np.fill_diagonal(density, 0)
    return np.diag(density.sum(1)) - density


def _nodes(law: Any, num_nodes: int) -> Any:
    return law.ppf((np.arange(num_nodes) + 0.5) / num_nodes)
