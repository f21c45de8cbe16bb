"""What is said of examples that the noise moves, and of those out of its reach."""

import numpy as np
import pytest
from scipy.stats import norm

from esjax.train import reach


def _two_classes(*margins):
    """Chances of logits that differ by the margins: Φ(m / (σ √2))."""
    return lambda sigma: norm.cdf(np.array(margins) / (sigma * 2**0.5))


def test_examples_are_sorted_by_their_chances_and_the_middle_one_out_of_reach_says_what_would_reach_it():
    found = reach.of_chances(_two_classes(5.0, 0.1, -0.1, -4.0, -5.0, -8.0), 1.0, 64)
    assert found[:3] == (1, 2, 3)
    needed = 5 / 2**0.5 / -norm.ppf(1 / 64)  # Φ(−5 / (f √2)) = 1/64
    assert found.sigma / 2**0.5 < needed <= found.sigma
    assert found.num_samples == np.ceil(1 / norm.cdf(-5 / 2**0.5))
    said = reach.sentences(found, 0.5, 64)
    assert f"from sigma = {found.sigma * 0.5:.3g} on, or with 4,915 samples" in said


@pytest.mark.parametrize(
    ("margins", "said"),
    [
        ((1.0, 0.0), "2 are moved by the gradient, and 0 are out of reach"),
        ((9.0, 9.0), "training at this sigma is over"),
        ((-1e9,), "by no sigma up to 256, or with more than 1,000,000 samples"),
    ],
)
def test_ends_of_the_scale_are_said_in_words(margins, said):
    found = reach.of_chances(_two_classes(*margins), 1.0, 64)
    assert said in reach.sentences(found, 1.0, 64)
