"""Expected metrics of perturbed lists in float64 NumPy: dense grids, laws of counts by convolution."""

import itertools

import numpy as np
from scipy import integrate, special, stats

LAWS = {"normal": stats.norm, "logistic": stats.logistic, "gumbel": stats.gumbel_r(loc=-np.euler_gamma)}


def _grid(scores, law, step):
    lower, upper = law.ppf(1e-17), law.isf(1e-17)
    return np.arange(scores.min() + lower, scores.max() + upper, step)


def place_probs(scores, sigma, noise="normal", step=0.02, places=None, items=None):
    """P(item at place) (n, places): for each node, the law of the count of others above, by convolution."""
    law, s = LAWS[noise], np.asarray(scores, np.float64) / sigma
    places = places or s.size
    found = np.zeros((s.size, places))
    u = _grid(s, law, step)
    above, density = law.sf(u[:, None] - s), law.pdf(u[:, None] - s)
    for c in range(s.size) if items is None else items:
        counts = np.zeros((u.size, places))
        counts[:, 0] = 1
        for j in range(s.size):
            if j != c:
                counts[:, 1:] = counts[:, 1:] * (1 - above[:, j, None]) + counts[:, :-1] * above[:, j, None]
                counts[:, 0] *= 1 - above[:, j]
        found[c] = density[:, c] @ counts * step
    return found


def _law_of_count(above):
    """P(N = m) (nodes, n + 1) of bits (nodes, n)."""
    counts = np.zeros((above.shape[0], above.shape[1] + 1))
    counts[:, 0] = 1
    for a in above.T:
        counts[:, 1:] = counts[:, 1:] * (1 - a[:, None]) + counts[:, :-1] * a[:, None]
        counts[:, 0] *= 1 - a
    return counts


def ndcg(scores, relevance, sigma, noise="normal", k=None, step=0.02, gain="exponential"):
    gains = 2.0**relevance - 1 if gain == "exponential" else np.asarray(relevance, float)
    k = k or len(gains)
    discounts = 1 / np.log2(np.arange(2, k + 2))
    best = np.sort(gains)[::-1][:k] @ discounts
    return gains @ place_probs(scores, sigma, noise, step, k, np.flatnonzero(gains)) @ discounts / best


def hits(scores, relevant, sigma, noise="normal", k=1, step=0.02):
    return (place_probs(scores, sigma, noise, step, k)[np.asarray(relevant)]).sum()


def reciprocal_rank(scores, relevant, sigma, noise="normal", step=0.02):
    law, s = LAWS[noise], np.asarray(scores, np.float64) / sigma
    u = _grid(s, law, step)
    above, density = law.sf(u[:, None] - s), law.pdf(u[:, None] - s)
    others = _law_of_count(above[:, ~relevant])
    share = others @ (1 / np.arange(1.0, others.shape[1] + 1))
    value = 0.0
    for c in np.flatnonzero(relevant):
        rivals = relevant.copy()
        rivals[c] = False
        value += (density[:, c] * (1 - above[:, rivals]).prod(1) * share).sum() * step
    return value


def average_precision(scores, relevant, sigma, noise="normal", step=0.02):
    law, s = LAWS[noise], np.asarray(scores, np.float64) / sigma
    u = _grid(s, law, step)
    above, density = law.sf(u[:, None] - s), law.pdf(u[:, None] - s)
    others = _law_of_count(above[:, ~relevant])
    value = 0.0
    for c in np.flatnonzero(relevant):
        rivals = relevant.copy()
        rivals[c] = False
        among = _law_of_count(above[:, rivals])
        a, b = np.arange(among.shape[1])[:, None], np.arange(others.shape[1])
        precision = ((among @ ((1 + a) / (1 + a + b))) * others).sum(1)
        value += (density[:, c] * precision).sum() * step
    return value / relevant.sum()


def pair_probs(scores, sigma, noise="normal", step=0.02):
    """P(z_i > z_j) (n, n): Φ, a sigmoid, and for logistic noise the known (e^d (d − 1) + 1) / (e^d − 1)²."""
    d = (np.asarray(scores, np.float64)[:, None] - np.asarray(scores, np.float64)) / sigma
    if noise == "normal":
        return special.ndtr(d / np.sqrt(2))
    if noise == "gumbel":
        return special.expit(d)
    far = abs(d) > 1e-2
    a = abs(np.where(far, d, 1))
    e = np.expm1(-a)
    series = 0.5 - abs(d) / 6 + abs(d) ** 3 / 180 - abs(d) ** 5 / 5040
    below = np.where(far, np.exp(-a) * (a + e) / e**2, series)  # P(the lower one is above)
    return np.where(d > 0, 1 - below, below)


def order_probs(scores, sigma, noise="normal"):
    """Yields every order of a list, best first, and its chance, by integrating from the lowest item up."""
    law, s = LAWS[noise], np.asarray(scores, np.float64) / sigma
    u = _grid(s, law, 0.01)
    for order in itertools.permutations(range(s.size)):
        below = np.ones(u.size)
        for item in order[::-1]:
            below = integrate.cumulative_simpson(law.pdf(u - s[item]) * below, x=u, initial=0)
        yield order, below[-1]


def differences(function, x, step=1e-4):
    """The gradient by central differences of the fourth order."""
    x = np.asarray(x, np.float64)
    flat = []
    for i in range(x.size):
        e = np.zeros(x.size)
        e[i] = step
        e = e.reshape(x.shape)
        flat.append(
            (8 * (function(x + e) - function(x - e)) - (function(x + 2 * e) - function(x - 2 * e)))
            / (12 * step)
        )
    return np.array(flat).reshape(x.shape)
