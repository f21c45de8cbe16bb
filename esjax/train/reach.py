"""Which examples the noise of a run still moves, which are out of its reach, and what would reach them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from esjax.train import objectives, step
from esjax.train.run import Run

_FACTORS = 2.0 ** np.arange(0.5, 8.1, 0.5)
"""Multiples of σ that are tried."""
_MOST_SAMPLES = 1e6


class Reach(NamedTuple):
    """What N samples of the noise see of a network's decisions, by the chance p that an example is right.

    Attributes:
        settled: examples with p > 1 − 1/N, which hardly a sample gets wrong.
        moved: examples with p between 1/N and 1 − 1/N, whose gradient N samples can find.
        out_of_reach: examples with p < 1/N, which hardly a sample gets right.
        sigma: the least multiple of σ tried that brings half of those to p ≥ 1/N, in units of σ; ∞ if none.
        num_samples: the number of samples with which half of those have p ≥ 1/N at the present σ.
    """

    settled: int
    moved: int
    out_of_reach: int
    sigma: float
    num_samples: float


def look(run: Run, *, num_examples: int) -> Reach:
    """Computes the chances of the run's first training examples, in closed form, at its newest parameters.

    Args:
        run: a run on accuracy or top-k.
        num_examples: how many, >= 1; all, if there are fewer.
    """
    config = run.config
    assert config.sigma is not None
    images, labels = run.data.train_images[:num_examples], run.data.train_labels[:num_examples]
    chances = jax.jit(objectives.CHANCES[config.objective](config))
    logits = step.logits_of(run.trainer, run.state, images)
    of_logits = partial(chances, objectives.seen(config)(logits), labels)
    return of_chances(lambda sigma: np.asarray(of_logits(sigma=sigma)), config.sigma, config.num_samples)


def of_chances(chances: Callable[[float], NDArray[Any]], sigma: float, num_samples: int) -> Reach:
    """Sorts examples by `chances(sigma)` (B,), that each is right, and looks for what reaches the others."""
    least, now = 1 / num_samples, chances(sigma)
    is_out, is_settled = now < least, now > 1 - least
    num_out, num_settled = int(is_out.sum()), int(is_settled.sum())
    if not num_out:
        return Reach(num_settled, len(now) - num_settled, 0, 1.0, float(num_samples))
    tried = ((factor, chances(factor * sigma)[is_out]) for factor in _FACTORS)
    found = next((factor for factor, p in tried if np.median(p) >= least), np.inf)
    middle = float(np.median(now[is_out]))
    needed = np.inf if middle < 1 / _MOST_SAMPLES else float(np.ceil(1 / middle))
    return Reach(num_settled, len(now) - num_settled - num_out, num_out, float(found), needed)


def sentences(reach: Reach, sigma: float, num_samples: int) -> str:
    """Says it in words."""
    count = reach.settled + reach.moved + reach.out_of_reach
    said = (
        f"Of {count} examples, {reach.settled} are settled (wrong in fewer than 1 of {num_samples} samples), "
        f"{reach.moved} are moved by the gradient, and {reach.out_of_reach} are out of reach (right in fewer "
        f"than 1 of {num_samples})."
    )
    if not reach.moved:
        said += " Nothing moves any more: training at this sigma is over."
    if not reach.out_of_reach:
        return said
    by_sigma = (
        f"from sigma = {reach.sigma * sigma:.3g} on"
        if np.isfinite(reach.sigma)
        else f"by no sigma up to {_FACTORS[-1] * sigma:.3g}"
    )
    by_samples = (
        f"{reach.num_samples:,.0f} samples"
        if np.isfinite(reach.num_samples)
        else f"more than {_MOST_SAMPLES:,.0f} samples"
    )
    return f"{said} Half of those would be reached {by_sigma}, or with {by_samples}."
