"""`smooth_decisions` against enumeration of all outcomes in NumPy, with chances from SciPy."""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import esjax
from esjax import decisions
from esjax.decisions import _laws

NOISES = {
    "normal": stats.norm(),
    "logistic": stats.logistic(),
    "gumbel": stats.gumbel_r(loc=-np.euler_gamma),
}
LAWS = [
    ("argmax", "normal"),
    ("argmax", "gumbel"),
    ("threshold", "normal"),
    ("threshold", "logistic"),
    ("threshold", "gumbel"),
    ("ranking", "gumbel"),
    ("two_best", "gumbel"),
]
SHAPES = {"argmax": (3, 3), "threshold": (4,), "ranking": (2, 3), "two_best": (2, 4)}
DECISIONS = {name: getattr(decisions, name) for name in ("argmax", "threshold", "ranking")}
DECISIONS["two_best"] = partial(decisions.ranking, k=2)
SIGMA, WEIGHT = 0.8, 0.4
X = {name: np.random.default_rng(3).normal(size=shape) * 0.5 for name, shape in SHAPES.items()}
ESTIMATORS = {
    "score": (decisions.score, 8),
    "local_expectation": (decisions.local_expectation, 2),
    "two_coordinates": (partial(decisions.local_expectation, coordinates=2), 2),
    "enumeration": (decisions.enumeration, None),
}


def _block(chosen, weight):
    """A block that couples all decisions, and is neither even nor monotonous in any."""
    places = np.arange(1, chosen.size + 1, dtype=np.float32).reshape(chosen.shape)
    heights = (chosen.astype(np.float32) * places * 0.3 - weight) ** 2
    ones = (chosen == 1).astype(np.float32).sum()
    return heights.sum() + (ones - 1 - weight) ** 2


# --- the oracle --------------------------------------------------------------------------------------


def _argmax_probs(scores, noise):
    """P(the c-th of `scores` (K,) wins): over its own noise, what the others let through."""
    eps = np.linspace(-12, 40, 5001)
    below = noise.cdf(scores[:, None, None] - scores[None, :, None] + eps)
    below[np.arange(len(scores)), np.arange(len(scores))] = noise.pdf(eps)
    return below.prod(1).sum(-1) * (eps[1] - eps[0])


def _plackett_luce(scores, k):
    """Chances of all beginnings of permutations, by adding up those of the permutations."""
    weights = np.exp(scores)
    chances = {}
    for order in itertools.permutations(range(len(scores))):
        chance = np.prod([weights[order[i]] / weights[list(order[i:])].sum() for i in range(len(order))])
        chances[order[:k]] = chances.get(order[:k], 0) + chance
    return chances


def _choices(name, noise, x, sigma):
    """For each independent decision, its alternatives and their chances."""
    s = x / sigma
    if name == "argmax":
        return [dict(enumerate(_argmax_probs(row, NOISES[noise]))) for row in s]
    if name == "threshold":
        return [{0: NOISES[noise].cdf(-a), 1: NOISES[noise].sf(-a)} for a in s]
    return [_plackett_luce(row, 2 if name == "two_best" else None) for row in s]


def _smoothed_exactly(name, noise, point):
    """F at `point`: x, σ and the block's weight in one vector."""
    x = point[:-2].reshape(SHAPES[name])
    choices = _choices(name, noise, x, point[-2])
    total = 0.0
    for outcome in itertools.product(*choices):
        chance = np.prod([choices[i][alternative] for i, alternative in enumerate(outcome)])
        total += chance * float(_block(np.array(outcome), point[-1]))
    return total


def _differences(function, point, h):
    axes = np.eye(len(point)) * h
    return np.stack([(function(point + axis) - function(point - axis)) / (2 * h) for axis in axes])


@cache
def _exact(name, noise):
    """F, its gradient, and its Hessian times a vector, in x, σ and the weight."""
    point = np.concatenate([X[name].ravel(), [SIGMA, WEIGHT]])
    vector = np.cos(np.arange(len(point)))
    function = partial(_smoothed_exactly, name, noise)

    def slope(point):
        return (function(point + 1e-3 * vector) - function(point - 1e-3 * vector)) / 2e-3

    gradient, product = _differences(function, point, 1e-4), _differences(slope, point, 1e-3)
    return point, vector, function(point), gradient, product


def _estimates(name, noise, estimator, num_keys):
    """Value, gradient and Hessian times vector for each of `num_keys` keys, reverse over reverse."""
    point, vector, *_ = _exact(name, noise)
    function, num_samples = ESTIMATORS[estimator]
    smoothed = esjax.smooth_decisions(
        _block,
        decision=DECISIONS[name],
        sigma=1.0,
        num_samples=num_samples,
        estimator=function,
        noise=getattr(esjax.noise, noise),
    )

    def value(point, key):
        return smoothed(jax.random.clone(key), point[:-2].reshape(SHAPES[name]), point[-1], sigma=point[-2])

    def all_of(key):
        def slope(at):
            found, gradient = jax.value_and_grad(value)(at, key)
            return gradient @ vector.astype(np.float32), (found, gradient)

        product, (found, gradient) = jax.grad(slope, has_aux=True)(jnp.asarray(point, jnp.float32))
        return found, gradient, product

    keys = jax.random.split(jax.random.key(5), num_keys)
    return [np.asarray(found, np.float64) for found in jax.jit(jax.vmap(all_of))(keys)]


@pytest.mark.parametrize(
    ("name", "noise", "estimator"),
    [
        *((*law, estimator) for law in LAWS for estimator in ("score", "local_expectation")),
        ("argmax", "gumbel", "two_coordinates"),
        ("ranking", "gumbel", "two_coordinates"),
    ],
)
def test_value_gradient_and_hessian_are_unbiased(name, noise, estimator):
    for found, truth in zip(_estimates(name, noise, estimator, 10_000), _exact(name, noise)[2:], strict=True):
        error = np.maximum(found.std(0) / len(found) ** 0.5, 2e-6)
        z = (found.mean(0) - truth) / error
        assert np.abs(z).max() < 4, z


@pytest.mark.parametrize(("name", "noise"), LAWS)
def test_enumeration_is_exact_in_every_order(name, noise):
    for found, truth in zip(_estimates(name, noise, "enumeration", 2), _exact(name, noise)[2:], strict=True):
        np.testing.assert_allclose(found[0], truth, rtol=2e-4, atol=2e-5)
        np.testing.assert_array_equal(found[0], found[1])


# --- what each estimator promises --------------------------------------------------------------------


def _smooth(fun, name, estimator, **options):
    function, num_samples = ESTIMATORS[estimator]
    options = {"sigma": SIGMA, "num_samples": num_samples, "estimator": function, **options}
    return esjax.smooth_decisions(fun, decision=DECISIONS[name], **options)


@pytest.mark.parametrize(
    ("estimator", "evaluations"),
    [
        ("score", 8),
        ("local_expectation", 2 * (1 + 6)),
        ("two_coordinates", 2 * (1 + 4)),
        ("enumeration", 27),
    ],
)
def test_python_blocks_are_evaluated_as_often_as_promised(estimator, evaluations):
    seen = []

    def python(chosen):
        seen.append(np.asarray(chosen))
        return np.float32(seen[-1].sum())

    def fun(chosen):
        like = jax.ShapeDtypeStruct((), jnp.float32)
        return jax.pure_callback(python, like, chosen, vmap_method="sequential")

    smoothed = _smooth(fun, "argmax", estimator)
    x = jnp.asarray(X["argmax"], jnp.float32)
    value, gradient = jax.jit(jax.value_and_grad(smoothed, 1))(jax.random.key(0), x)
    assert np.isfinite(value) and np.abs(gradient).max() > 0
    assert len(seen) == evaluations
    assert all(chosen.dtype == np.int32 and chosen.shape == (3,) for chosen in seen)


@pytest.mark.parametrize(
    ("name", "estimator"),
    [
        ("argmax", "score"),
        ("argmax", "enumeration"),
        ("threshold", "two_coordinates"),
        ("ranking", "local_expectation"),
    ],
)
def test_a_constant_has_no_gradient(name, estimator):
    smoothed = _smooth(lambda chosen: jnp.float32(3), name, estimator)
    x = jnp.asarray(X[name], jnp.float32)
    value, gradient = jax.jit(jax.value_and_grad(smoothed, 1))(jax.random.key(0), x)
    np.testing.assert_allclose(value, 3, rtol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "estimator"),
    [("argmax", "score"), ("threshold", "two_coordinates"), ("ranking", "local_expectation")],
)
def test_chunks_jit_and_scan_change_nothing_and_vmap_is_a_loop(name, estimator):
    x = X[name].astype(np.float32)
    keys = np.asarray(jax.random.split(jax.random.PRNGKey(1), 3))

    def gradient(key, **options):
        return jax.grad(_smooth(_block, name, estimator, **options), 1)(key, x, jnp.float32(WEIGHT))

    jitted = jax.jit(gradient)
    each = np.stack([jitted(key) for key in keys])
    np.testing.assert_allclose(gradient(keys[0]), each[0], rtol=1e-4, atol=1e-5)
    for chunk_size in (1, 3):
        chunked = jax.jit(partial(gradient, chunk_size=chunk_size))
        np.testing.assert_allclose(chunked(keys[0]), each[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.vmap(gradient))(keys), each, rtol=1e-4, atol=1e-5)
    _, scanned = jax.lax.scan(lambda carry, key: (carry, gradient(key)), 0, keys)
    np.testing.assert_allclose(scanned, each, rtol=1e-4, atol=1e-5)


def test_outside_jit_it_is_compiled_once(compiled):
    x, y = jnp.asarray(X["argmax"], jnp.float32), jnp.ones(3)
    smoothed = _smooth(lambda chosen, y: y[chosen].sum(), "argmax", "score")
    gradient = jax.grad(smoothed, argnums=1)
    keys = jax.random.PRNGKey(0), jax.random.PRNGKey(1)
    gradient(keys[0], x, y)
    count = len(compiled)
    gradient(keys[1], x, y)
    assert len(compiled) == count > 0
    gradient(keys[1], x, jnp.ones(4))
    assert len(compiled) > count


@pytest.mark.parametrize("estimator", ["score", "local_expectation"])
def test_forward_mode_is_reverse_mode(estimator):
    smoothed = partial(_smooth(_block, "argmax", estimator), jax.random.PRNGKey(2))
    x, direction = jnp.asarray(X["argmax"], jnp.float32), jax.random.normal(jax.random.key(0), (3, 3))

    @jax.jit
    def both(x, direction):
        forward = jax.jvp(lambda x: smoothed(x, jnp.float32(WEIGHT)), (x,), (direction,))[1]
        return forward, (jax.grad(smoothed)(x, jnp.float32(WEIGHT)) * direction).sum()

    forward, backward = both(x, direction)
    np.testing.assert_allclose(forward, backward, rtol=1e-5)


def test_categorical_draws_are_as_likely_as_they_should_be_and_never_impossible():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(50, 10)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.3] = -np.inf
    law = decisions.argmax(jnp.asarray(scores), jnp.float32(1))
    draws = np.asarray(jax.jit(jax.vmap(law.draw))(jax.random.split(jax.random.key(0), 20_000)))
    counts = (draws[..., None] == np.arange(10)).sum(0)
    probs = np.asarray(esjax.exact.argmax_probs(scores, 1.0), np.float64)
    expected = len(draws) * probs
    assert not counts[probs == 0].any()
    z = ((counts - expected) / np.sqrt(np.maximum(expected * (1 - probs), 1e-9)))[expected > 10]
    assert np.abs(z).max() < 4.5 and abs((z**2).mean() - 1) < 4 * (2 / z.size) ** 0.5


def test_the_running_sum_of_chances_rises_only_where_they_are_above_zero():
    """Sums of a thousand numbers are rounded in blocks: adding a 0 may move them."""
    rng = np.random.default_rng(0)
    probs = rng.random((100, 1000)).astype(np.float32) * (rng.random((100, 1000)) < 0.5)
    probs /= probs.sum(1, keepdims=True)
    up_to = np.asarray(jax.jit(_laws._up_to)(probs))
    np.testing.assert_allclose(up_to, np.cumsum(probs, 1, np.float64), atol=1e-6)
    steps = np.diff(up_to, prepend=0)
    assert steps.min() == 0 and not steps[probs == 0].any()


def test_one_decision_at_a_time_is_the_closed_form():
    logits, labels = jax.random.normal(jax.random.key(0), (6, 5)), np.arange(6) % 5
    keys = jax.random.split(jax.random.PRNGKey(1), 6)
    truth = jax.jit(jax.grad(lambda x: esjax.exact.accuracy(x, labels, SIGMA).mean()))(logits)

    def hit(chosen, label):
        return (chosen == label).astype(jnp.float32)

    for estimator in ("enumeration", "local_expectation"):
        smoothed = jax.vmap(_smooth(hit, "argmax", estimator))
        gradient = jax.jit(jax.grad(lambda x, f=smoothed: f(keys, x, labels).mean()))(logits)
        np.testing.assert_allclose(gradient, truth, rtol=1e-4, atol=1e-6)


def test_values_are_trees_and_sigma_is_one_for_each_decision():
    def counts(chosen):
        return {"ones": (chosen == 1).sum().astype(jnp.float32), "each": jax.nn.one_hot(chosen, 3)}

    sigmas = jnp.array([0.3, 1.0, 3.0])
    smoothed = _smooth(counts, "argmax", "enumeration", sigma=sigmas)
    x = jnp.asarray(X["argmax"], jnp.float32)
    value = smoothed(jax.random.key(0), x)
    probs = esjax.exact.argmax_probs(x, sigmas)
    np.testing.assert_allclose(value["each"], probs, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(value["ones"], probs[:, 1].sum(), rtol=1e-5)
    changed = smoothed(jax.random.key(0), x, sigma=2.0)
    np.testing.assert_allclose(changed["each"], esjax.exact.argmax_probs(x, 2.0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_masked_class_is_never_chosen_and_has_no_gradient(estimator):
    def fun(chosen):
        return jnp.where((chosen == 2).any(), jnp.nan, (chosen * jnp.arange(1, 4)).sum().astype(jnp.float32))

    x = jnp.asarray(X["argmax"], jnp.float32).at[:, 2].set(-jnp.inf)
    both = jax.jit(jax.value_and_grad(_smooth(fun, "argmax", estimator), 1))
    value, gradient = both(jax.random.key(0), x)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert (gradient[:, 2] == 0).all() and np.abs(gradient).max() > 0


def test_narrow_scores_come_back_in_their_dtype_and_wide_ones_are_wide():
    x = jnp.asarray(X["argmax"], jnp.float16)
    smoothed = _smooth(lambda chosen: chosen.sum().astype(jnp.float16), "argmax", "score")
    value, gradient = jax.jit(jax.value_and_grad(smoothed, 1))(jax.random.key(0), x)
    assert value.dtype == gradient.dtype == jnp.float16
    with jax.enable_x64(True):
        wide = _smooth(lambda chosen: chosen.sum().astype(jnp.float64), "argmax", "local_expectation")
        gradient = jax.jit(jax.grad(wide, 1))(jax.random.key(0), jnp.asarray(X["argmax"], jnp.float64))
        assert gradient.dtype == jnp.float64


def test_values_wider_than_the_scores_decide_the_dtype_of_the_sums():
    with jax.enable_x64(True):
        x = jnp.asarray(X["argmax"], jnp.float32)
        for estimator in ESTIMATORS:
            smoothed = _smooth(lambda chosen: 0 * chosen[0].astype(jnp.float64) + 1 / 3, "argmax", estimator)
            value, gradient = jax.jit(jax.value_and_grad(smoothed, 1))(jax.random.key(0), x)
            assert value.dtype == jnp.float64 and gradient.dtype == jnp.float32
            assert abs(float(value) - 1 / 3) < 1e-12


@pytest.mark.parametrize(
    ("name", "estimator"), [*(("argmax", each) for each in ESTIMATORS), ("threshold", "enumeration")]
)
def test_nan_scores_that_cannot_be_seen_under_jit_stay_nan(name, estimator):
    x = jnp.asarray(X[name], jnp.float32).at[0].set(jnp.nan)
    smoothed = _smooth(lambda chosen: chosen.sum().astype(jnp.float32), name, estimator)
    assert np.isnan(jax.jit(smoothed)(jax.random.key(0), x))


@pytest.mark.parametrize("estimator", ["score", "enumeration"])
@pytest.mark.parametrize(("name", "x"), [("argmax", [[0.0, 1.0, 14.0]]), ("threshold", [10.0, -12.0, 0.5])])
def test_second_derivatives_of_confident_decisions_are_finite(name, x, estimator):
    smoothed = _smooth(lambda chosen: chosen.sum().astype(jnp.float32) ** 2, name, estimator, sigma=1.0)
    hessian = jax.jit(jax.hessian(smoothed, 1))(jax.random.key(0), jnp.array(x))
    assert np.isfinite(hessian).all()


@pytest.mark.parametrize("estimator", ["score", "local_expectation"])
def test_rbg_keys_draw_the_same_whatever_the_chunks(estimator):
    key, x = jax.random.key(0, impl="rbg"), jnp.asarray(X["argmax"], jnp.float32)
    values = [
        _smooth(_block, "argmax", estimator, chunk_size=size)(jax.random.clone(key), x, WEIGHT)
        for size in (1, 3, None)
    ]
    np.testing.assert_allclose(values, values[0], rtol=1e-5)


def test_numpy_integers_count_as_numbers():
    few = partial(decisions.local_expectation, coordinates=np.int16(150))
    for num_samples in (np.int64(2), np.int16(100)):
        smoothed = esjax.smooth_decisions(
            lambda chosen: chosen.sum().astype(jnp.float32),
            decision=decisions.argmax,
            sigma=1.0,
            num_samples=num_samples,
            estimator=few,
        )
        gradient = jax.jit(jax.grad(smoothed, 1))(jax.random.key(0), jnp.zeros((200, 3)))
        assert (np.abs(gradient).max(1) > 0).sum() >= 150


def test_a_block_may_close_over_traced_values():
    @jax.jit
    def gradient(x, weight):
        def fun(chosen):
            return weight * chosen.sum().astype(jnp.float32)

        return jax.grad(_smooth(fun, "argmax", "local_expectation"), 1)(jax.random.key(0), x)

    x = jnp.asarray(X["argmax"], jnp.float32)
    np.testing.assert_allclose(gradient(x, 2.0), 2 * gradient(x, 1.0), rtol=1e-5)
    assert np.abs(gradient(x, 1.0)).max() > 0


def test_a_collective_over_an_axis_of_vmap_is_refused():
    """Whose gradient in one example's scores would miss the values of the others."""
    smoothed = esjax.smooth_decisions(
        lambda chosen: jax.lax.psum(chosen.sum().astype(jnp.float32), "i") ** 2,
        decision=esjax.decisions.threshold,
        sigma=1.0,
        num_samples=4,
    )
    keys = jax.random.split(jax.random.PRNGKey(0), 2)
    with pytest.raises(ValueError, match=r"collective over the axis 'i' of jax\.vmap.*whole batch"):
        jax.vmap(smoothed, axis_name="i")(keys, jnp.zeros((2, 3)))
