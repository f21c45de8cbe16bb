"""The choice of σ against its formula, and against what it must not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esjax


def test_sigma_is_ten_times_the_spread_within_examples():
    logits = np.random.default_rng(0).normal(size=(50, 7)) * 3 + np.arange(50)[:, None]
    spread = np.mean([row.var() for row in logits]) ** 0.5
    assert esjax.sigma.from_logits(jnp.asarray(logits, jnp.float32)) == pytest.approx(10 * spread, rel=1e-5)
    assert esjax.sigma.from_logits(jnp.asarray(logits, jnp.float32), factor=2.5) == pytest.approx(
        2.5 * spread, rel=1e-5
    )


def test_sigma_works_inside_jit_and_needs_no_batch():
    logits = jnp.array([1.0, 2.0, 4.0])
    assert jax.jit(esjax.sigma.from_logits)(logits) == pytest.approx(10 * np.std([1, 2, 4]), rel=1e-5)


@pytest.mark.parametrize(
    ("logits", "factor", "match"),
    [
        (np.zeros((4, 3), np.float32), 10.0, "logits have spread 0.0.*choose sigma yourself"),
        (np.full((4, 3), np.nan, np.float32), 10.0, "logits have spread nan"),
        (np.ones((4, 1), np.float32), 10.0, "at least two classes"),
        (np.ones((4, 3), np.int32), 10.0, "dtype int32"),
        (np.eye(3, dtype=np.float32), 0.0, "factor=0.0 must be"),
        (np.eye(3, dtype=np.float32), float("nan"), "factor=nan must be"),
    ],
)
def test_wrong_arguments_name_themselves(logits, factor, match):
    with pytest.raises(ValueError, match=match):
        esjax.sigma.from_logits(logits, factor=factor)
