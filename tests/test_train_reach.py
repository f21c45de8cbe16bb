"""What is said of examples that the noise moves, and of those out of its reach."""

import jax
import numpy as np
import pytest
from flax import nnx
from scipy.stats import norm

import esjax
from esjax.train import config, diagnosis, reach, run


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


@pytest.mark.parametrize(("logits", "same"), [("raw", False), ("standardised", True)])
def test_only_standardised_logits_are_seen_alike_at_any_scale(logits, same):
    started = run.set_up(config.TrainConfig(data="digits", network="mlp", num_samples=4, logits=logits))
    layers = started.state.params
    larger = jax.tree.map(lambda leaf: 50 * leaf, layers["logits"])
    grown = started._replace(
        state=started.state._replace(params=nnx.merge_state(layers, nnx.State({"logits": larger})))
    )
    found = [diagnosis.diagnose(each, num_examples=40)[0].report.signal_to_noise for each in (started, grown)]
    moved = [reach.look(each, num_examples=40).moved for each in (started, grown)]
    assert np.allclose(found[0], found[1], rtol=1e-4) == (moved[0] == moved[1]) == same
    assert (started.config.sigma == esjax.sigma.for_standardised(10)) == same
