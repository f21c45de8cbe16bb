"""`exact` against dense quadrature in NumPy, closed forms, enumeration, simulation, and wrong arguments."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import esjax
import esjax.exact
from esjax import exact

NORMAL, GUMBEL, LOGISTIC = esjax.noise.normal, esjax.noise.gumbel, esjax.noise.logistic


def _oracle(logits, label, sigma=1.0, num_nodes=400):
    """P(label wins) and its gradient, by a dense midpoint rule in float64; no code in common with `exact`."""
    s = np.asarray(logits, np.float64) / sigma
    s = np.clip(s - s[label], -45, 45)
    rivals = np.delete(s, label)
    best = rivals.max()
    lower = max(min(0, best / 2, best) - 9, -46)
    upper = min(max(0, best) + 10 + np.sqrt(2 * np.log(s.size)), 46)
    step = (upper - lower) / num_nodes
    win, lose, slopes = 0.0, 0.0, np.zeros(rivals.size)
    nodes = lower + step * (np.arange(num_nodes) + 0.5)
    for u in np.array_split(nodes, -(-num_nodes * rivals.size // 2**18)):
        z = u[:, None] - rivals
        log_cdf = special.log_ndtr(z)
        hazard = np.exp(-z * z / 2 - log_cdf) / np.sqrt(2 * np.pi)
        product = np.exp(log_cdf.sum(1))
        pdf = np.exp(-u * u / 2) / np.sqrt(2 * np.pi)
        win += step * (pdf @ product)
        lose += step * (special.ndtr(u) * product * hazard.sum(1)).sum()
        slopes -= step * ((pdf * product) @ hazard)
    return (win if win < lose else 1 - lose), np.insert(slopes, label, -slopes.sum()) / sigma


def _crowd(size, label_at, leader_at=0.0, crowd_at=0.0):
    logits = np.full(size, crowd_at)
    logits[:2] = label_at, leader_at
    return logits, 0


def _cases(size):
    rng = np.random.default_rng(size)
    for scale in (0.01, 1.0, 10.0, 100.0):
        logits = rng.normal(size=size) * scale
        order = np.argsort(-logits)
        yield from ((logits, order[i]) for i in (0, 1, size // 2))
    yield np.zeros(size), size // 2
    for lead in (-9.0, -6.0, -3.0, 3.0, 6.0, 9.0):
        yield _crowd(size, lead)
        yield _crowd(size, lead, crowd_at=-2.5)
    yield _crowd(size, -13.0, crowd_at=-40.0)
    yield _crowd(size, 13.0, crowd_at=-40.0)


def _error(found, exact):
    return np.linalg.norm(np.asarray(found, np.float64) - exact) / np.linalg.norm(exact)


_accuracy_and_gradient = jax.jit(jax.value_and_grad(exact.accuracy))


@pytest.mark.parametrize("size", [2, 10, 1000])
def test_accuracy_and_the_gradient_of_each_probability_are_those_of_dense_quadrature(size):
    of_probs = jax.jit(jax.value_and_grad(lambda x, label: exact.argmax_probs(x, 1.0)[label]))
    for logits, label in _cases(size):
        logits = logits.astype(np.float32)
        value, gradient = _oracle(logits, label)
        for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-9)):
            with jax.enable_x64(dtype == np.float64):
                x, y = jnp.asarray(logits, dtype), np.int32(label)
                for found, found_gradient in (_accuracy_and_gradient(x, y, 1.0), of_probs(x, y)):
                    assert found.dtype == found_gradient.dtype == dtype
                    if np.linalg.norm(gradient) > 1e-20:
                        assert _error(found_gradient, gradient) < tolerance, (logits[:3], label)
                    if value > 1e-20:
                        assert abs(found - value) < tolerance * value, (logits[:3], label)


@pytest.mark.large
@pytest.mark.parametrize("size", [32768, 262144])
def test_long_logits_vectors_are_right(size):
    for scale, label in ((0.01, 5), (10.0, 7)):
        logits = (np.random.default_rng(0).normal(size=size) * scale).astype(np.float32)
        logits[label] = logits.max()
        value, gradient = _accuracy_and_gradient(logits, np.int32(label), 1.0)
        u = np.linspace(-6, 14, 161)  # where the label is the leader, up to 20 spacings per unit will do
        top = np.sort(logits.astype(np.float64))[::-1] - float(logits[label])
        near = top[: int((top > -12).sum())]
        z = u[:, None] - near[None, 1:] if near.size < 5000 else None
        if z is not None:
            log_cdf = special.log_ndtr(z).sum(1)
        else:
            log_cdf = np.array([np.log1p(-special.ndtr(near[1:] - v)).sum() for v in u])
        truth = np.exp(-u * u / 2 + log_cdf).sum() * (u[1] - u[0]) / np.sqrt(2 * np.pi)
        assert abs(value - truth) < 1e-5 * truth
        assert abs(np.asarray(gradient, np.float64).sum()) < 1e-5 * np.linalg.norm(gradient)


@pytest.mark.large
@pytest.mark.parametrize("size", [32768, 262144])
def test_gradients_of_long_logits_vectors_are_right(size):
    logits = (3 * np.random.default_rng(0).normal(size=size)).astype(np.float32)
    label = np.argsort(-logits)[2]
    value, gradient = _oracle(logits, label, num_nodes=200)

    def prob_and_all(x):
        probs = exact.argmax_probs(x, 1.0)
        return probs[label], probs

    for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-9)):
        with jax.enable_x64(dtype == np.float64):
            x = jnp.asarray(logits, dtype)
            of_label = _accuracy_and_gradient(x, np.int32(label), 1.0)
            (prob, probs), of_prob = jax.jit(jax.value_and_grad(prob_and_all, has_aux=True))(x)
            for found, found_gradient in (of_label, (prob, of_prob)):
                assert abs(found - value) < tolerance * value
                assert _error(found_gradient, gradient) < tolerance
            assert abs(np.asarray(probs, np.float64).sum() - 1) < 1e-6


def test_two_classes_are_the_known_closed_form_in_everything():
    with jax.enable_x64(True):
        x, y = jnp.array([0.3, -0.4]), jnp.asarray(0)

        def closed(x, sigma):
            return jax.scipy.stats.norm.cdf((x[0] - x[1]) / (sigma * jnp.sqrt(2.0)))

        def ours(x, sigma):
            return exact.accuracy(x, y, sigma)

        def of_probs(x, sigma):
            return exact.argmax_probs(x, sigma)[0]

        def of_top(x, sigma):
            return exact.top_k_accuracy(x, y, 1, sigma)

        @jax.jit
        def derivatives(x, sigma):
            wanted = (
                lambda f: jax.value_and_grad(f, (0, 1)),
                lambda f: jax.hessian(f, (0, 1)),
                lambda f: jax.jacfwd(f, (0, 1)),
            )
            orders = {closed: 3, ours: 3, of_probs: 3, of_top: 1}
            return [[each(f)(x, sigma) for each in wanted[:order]] for f, order in orders.items()]

        truth, *found = derivatives(x, 0.7)
        for of_function in found:
            exact_ones = jax.tree.leaves(truth[: len(of_function)])
            for a, b in zip(jax.tree.leaves(of_function), exact_ones, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


def test_gradients_in_sigma_and_second_order_are_finite_differences_of_the_oracle():
    logits, label, sigma, h = np.array([0.3, 1.0, -0.2, 0.5]), 2, 0.8, 1e-5
    with jax.enable_x64(True):
        y = jnp.asarray(label)
        in_sigma = (_oracle(logits, label, sigma + h)[0] - _oracle(logits, label, sigma - h)[0]) / (2 * h)
        rows = []
        for axis in np.eye(4) * h:
            rows.append(
                (_oracle(logits + axis, label, sigma)[1] - _oracle(logits - axis, label, sigma)[1]) / (2 * h)
            )
        for f in (lambda x, s: exact.accuracy(x, y, s), lambda x, s: exact.argmax_probs(x, s)[label]):
            wanted = jax.grad(f, 1), jax.hessian(f), jax.jacrev(jax.jacrev(f))
            slope, *seconds = jax.jit(lambda *given, wanted=wanted: [each(*given) for each in wanted])(
                jnp.asarray(logits), sigma
            )
            np.testing.assert_allclose(slope, in_sigma, rtol=1e-8)
            for found in seconds:
                np.testing.assert_allclose(found, np.array(rows), atol=1e-8)


@pytest.mark.parametrize("noise", [NORMAL, GUMBEL])
def test_probabilities_sum_to_one_follow_permutations_and_ignore_shifts(noise):
    logits = 3 * np.asarray(jax.random.normal(jax.random.key(0), (5, 40)))
    compiled = jax.jit(partial(exact.argmax_probs, noise=noise))

    def argmax_probs(logits, sigma):
        return np.asarray(compiled(logits, sigma))

    probs = argmax_probs(logits, 1.0)
    np.testing.assert_allclose(np.asarray(probs, np.float64).sum(-1), 1, atol=1e-6)
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_allclose(argmax_probs(logits[:, order], 1.0), probs[:, order], rtol=1e-5)
    np.testing.assert_allclose(argmax_probs(logits + 8.0, 1.0), probs, rtol=2e-5)
    np.testing.assert_allclose(argmax_probs(2 * logits, 2.0), probs, rtol=1e-6)
    labels = np.arange(5)
    hits, pull = jax.vjp(jax.jit(lambda x: exact.accuracy(x, labels, 1.0, noise=noise)), logits)
    np.testing.assert_allclose(hits, probs[labels, labels], rtol=1e-5)
    (gradient,) = pull(np.ones(5, np.float32))
    np.testing.assert_allclose(np.asarray(gradient).sum(-1), 0, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_top_k_is_the_sum_over_rankings_of_simulated_scores(k):
    logits, draws = np.array([0.5, 0.2, -1.0, 0.0, 2.0]), 200_000
    scores = logits + 0.7 * np.random.default_rng(k).normal(size=(draws, 5))
    hits = (scores.argsort(1).argsort(1) >= 5 - k).mean(0)
    probs = exact.top_k_probs(jnp.asarray(logits, jnp.float32), k, 0.7)
    standard_error = np.sqrt(hits * (1 - hits) / draws) + 1e-7
    assert (abs(np.asarray(probs) - hits) < 4 * standard_error + 1e-6).all()
    np.testing.assert_allclose(probs.sum(), k, rtol=1e-6)
    for label in range(5):
        alone = exact.top_k_accuracy(jnp.asarray(logits, jnp.float32), jnp.asarray(label), k, 0.7)
        np.testing.assert_allclose(alone, probs[label], rtol=1e-5)


def test_top_k_is_the_enumeration_of_who_is_above():
    logits, k, label = np.array([0.5, 0.2, -1.0, 0.0, 1.3, 0.4]), 3, 1
    rivals = np.delete(logits, label) - logits[label]

    def enumerated(rivals):
        u = np.linspace(-9, 9, 250)
        above = special.ndtr(rivals[:, None] - u)
        fewer = np.zeros(u.size)
        for bits in itertools.product([False, True], repeat=5):
            if sum(bits) < k:
                fewer += np.prod(np.where(np.array(bits)[:, None], above, 1 - above), 0)
        return (np.exp(-u * u / 2) * fewer).sum() * (u[1] - u[0]) / np.sqrt(2 * np.pi)

    slopes = [(enumerated(rivals + axis) - enumerated(rivals - axis)) / 2e-5 for axis in np.eye(5) * 1e-5]
    gradient = np.insert(slopes, label, -np.sum(slopes))
    with jax.enable_x64(True):
        x, y = jnp.asarray(logits), jnp.asarray(label)
        for f in (
            lambda x: exact.top_k_accuracy(x, y, k, 1.0),
            lambda x: exact.top_k_probs(x, k, 1.0)[label],
        ):
            value, found = jax.jit(jax.value_and_grad(f))(x)
            np.testing.assert_allclose(value, enumerated(rivals), rtol=1e-9)
            np.testing.assert_allclose(found, gradient, rtol=1e-7, atol=1e-9)


def test_top_one_of_many_is_the_argmax():
    logits = 2 * jax.random.normal(jax.random.key(0), (3, 300))
    np.testing.assert_allclose(exact.top_k_probs(logits, 1, 1.0), exact.argmax_probs(logits, 1.0), atol=1e-6)
    np.testing.assert_allclose(exact.top_k_probs(logits, 8, 1.0).sum(-1), 8, rtol=1e-5)


def _probs_and_slopes(logits, noise):
    """P(c wins) (K,), and ∂P(c wins) / ∂logits (K, K), in float64."""
    if noise is GUMBEL:
        probs = special.softmax(logits)
        return probs, np.diag(probs) - np.outer(probs, probs)
    of_each = [_oracle(logits, label) for label in range(logits.size)]
    return tuple(np.array(each) for each in zip(*of_each, strict=True))


def test_masked_classes_have_no_probability_and_no_gradient():
    logits = np.float32([0.2, -np.inf, 1.0, -np.inf, 0.7])
    kept = np.array([0, 2, 4])
    few = logits[kept].astype(np.float64)
    of_argmax = {noise: _probs_and_slopes(few, noise) for noise in (NORMAL, GUMBEL)}
    last, slopes_of_last = _probs_and_slopes(-few, NORMAL)  # the two best of three are all but the last
    cases = [(partial(exact.argmax_probs, noise=noise), truth) for noise, truth in of_argmax.items()]
    cases += [(lambda x, s: exact.top_k_probs(x, 2, s), (1 - last, slopes_of_last))]
    cases += [
        (
            lambda x, s, noise=noise: exact.accuracy(
                jnp.broadcast_to(x, (x.size, x.size)), jnp.arange(x.size), s, noise=noise
            ),
            truth,
        )
        for noise, truth in of_argmax.items()
    ]
    weights = np.arange(1, 6, dtype=np.float32)

    @jax.jit
    def all_of_them(x, s):
        def weighed(f):
            def function(x, s):
                probs = f(x, s)
                return probs @ weights, probs

            return function

        return [jax.value_and_grad(weighed(f), (0, 1), has_aux=True)(x, s) for f, _ in cases]

    found = jax.device_get(all_of_them(logits, 1.0))
    for ((value, probs), (gradient, in_sigma)), (_, (of_kept, slopes)) in zip(found, cases, strict=True):
        in_kept = weights[kept] @ slopes
        np.testing.assert_allclose(value, weights[kept] @ of_kept, rtol=1e-5)
        np.testing.assert_allclose(gradient[kept], in_kept, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(in_sigma, -few @ in_kept, rtol=1e-4, atol=1e-6)  # of degree 0 in both
        assert (probs[[1, 3]] == 0).all() and (gradient[[1, 3]] == 0).all()


def test_infinite_logits_win_and_share():
    inf = jnp.inf
    logits = jnp.array([[1.0, inf, 0.0], [inf, inf, -inf], [-inf, 3.0, -inf]])
    truth = np.array([[0, 1, 0], [0.5, 0.5, 0], [0, 1, 0]])
    np.testing.assert_array_equal(exact.argmax_probs(logits, 1.0), truth)
    np.testing.assert_array_equal(exact.argmax_probs(logits, 1.0, noise=GUMBEL), truth)
    for label in range(3):
        labels = jnp.full(3, label)
        np.testing.assert_allclose(exact.accuracy(logits, labels, 1.0), truth[:, label], atol=1e-7)
        top = exact.top_k_accuracy(logits, labels, 2, 1.0)
        np.testing.assert_allclose(top, exact.top_k_probs(logits, 2, 1.0)[:, label], atol=1e-6)
        gradient = jax.grad(lambda x, y=labels: exact.accuracy(x, y, 1.0).sum())(logits)
        assert (gradient == 0).all()


@pytest.mark.parametrize("noise", [NORMAL, LOGISTIC, GUMBEL])
def test_thresholds_are_the_noises_own_tail(noise):
    p = np.linspace(0.05, 0.95, 7)
    quantiles = np.asarray(jax.jit(noise.icdf)(p.astype(np.float32)), np.float64)
    x = jnp.asarray(1.5 - 0.6 * quantiles, jnp.float32)  # x + 0.6 ε > 1.5 where ε > its quantile
    found = exact.threshold_probs(x, 0.6, threshold=1.5, noise=noise)
    np.testing.assert_allclose(found, 1 - p, atol=1e-5)
    far = np.float32([-np.inf, -1e3, 1e3, np.inf])
    both = jax.value_and_grad(lambda x, s: exact.threshold_probs(x, s, noise=noise).sum(), (0, 1))
    value, (gradient, in_sigma) = jax.jit(both)(far, 1.0)
    assert value == 2 and (gradient == 0).all() and in_sigma == 0


@pytest.mark.parametrize(("noise", "law"), [(LOGISTIC, stats.logistic), (GUMBEL, stats.gumbel_r)])
def test_slopes_and_curvatures_of_thresholds_are_precise_where_the_decision_is_made(noise, law):
    last, centre = (40.0, 0.0) if noise is LOGISTIC else (4.5, -np.euler_gamma)
    a = np.linspace(-40, last, 61).astype(np.float32)
    z = -a.astype(np.float64) - centre
    slope, h = law.pdf(z), 1e-4
    near, far = (law.pdf(z - i * h) - law.pdf(z + i * h) for i in (1, 2))
    curvature = (8 * near - far) / (12 * h)
    for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-9)):
        with jax.enable_x64(dtype == np.float64):

            def f(x):
                return exact.threshold_probs(x, 1.0, noise=noise)

            @jax.jit
            def derivatives(x, f=f):
                firsts = jax.grad(f), jax.jacfwd(f)
                seconds = [second(first) for first in firsts for second in (jax.grad, jax.jacfwd)]
                return f(x), *([jax.vmap(each)(x) for each in order] for order in (firsts, seconds))

            values, firsts, seconds = jax.device_get(derivatives(jnp.asarray(a, dtype)))
            np.testing.assert_allclose(values, law.sf(z), rtol=tolerance)
            for found in firsts:
                np.testing.assert_allclose(found, slope, rtol=tolerance)
            for found in seconds:
                assert (abs(found - curvature) < tolerance * (slope + abs(curvature))).all()


@jax.jit
def _softmax_derivatives(x):
    """The first and second derivatives of two closed forms, by each mode and by each pair of modes."""
    functions = (
        lambda x: exact.argmax_probs(x, 1.0, noise=GUMBEL),
        lambda x: exact.accuracy(
            jnp.broadcast_to(x[None], (3, 3)), np.arange(3, dtype=np.int32), 1.0, noise=GUMBEL
        ),
    )
    firsts = [first(f) for f in functions for first in (jax.jacrev, jax.jacfwd)]
    seconds = [second(first) for first in firsts for second in (jax.jacrev, jax.jacfwd)]
    return [first(x) for first in firsts], [second(x) for second in seconds]


@pytest.mark.parametrize("lead", [0.5, 8.0, 20.0, 40.0])
def test_slopes_of_a_softmax_are_precise_where_one_class_has_all_of_it(lead):
    s = np.array([lead, 0.25, -0.5])

    def slopes(s):
        """∂p_c / ∂s_j with p_0's row by that of the others, in which nothing cancels."""
        odds = np.exp(s[1:] - s[0])
        p = np.concatenate([[1], odds]) / (1 + odds.sum())
        found = -np.outer(p, p)
        found[np.diag_indices(3)] = p * np.array([p[1:].sum(), p[0] + p[2], p[0] + p[1]])
        return found

    h, axes = 1e-3, np.eye(3) * 1e-3
    curvatures = np.stack(
        [
            (8 * (slopes(s + e) - slopes(s - e)) - (slopes(s + 2 * e) - slopes(s - 2 * e))) / (12 * h)
            for e in axes
        ],
        -1,
    )
    for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-9)):
        with jax.enable_x64(dtype == np.float64):
            firsts, seconds = _softmax_derivatives(jnp.asarray(s, dtype))
            assert len(firsts) == 4 and len(seconds) == 8
            for rows, exact_rows in (*((e, slopes(s)) for e in firsts), *((e, curvatures) for e in seconds)):
                for found, truth in zip(rows, exact_rows, strict=True):
                    assert _error(found, truth) < tolerance


def test_what_is_nan_has_nan_derivatives():
    x, labels = jnp.array([[0.0, jnp.nan], [0.5, 1.0]]), jnp.array([0, 0])
    functions = (
        lambda x, y: exact.argmax_probs(x, 1.0)[:, 0],
        lambda x, y: exact.argmax_probs(x, 1.0, noise=GUMBEL)[:, 0],
        lambda x, y: exact.accuracy(x, y, 1.0),
        lambda x, y: exact.top_k_probs(x, 1, 1.0)[:, 0],
        lambda x, y: exact.top_k_accuracy(x, y, 1, 1.0),
    )
    derivatives = jax.jit(lambda x, y: [(jax.jacrev(f)(x, y), jax.jacfwd(f)(x, y)) for f in functions])
    found = derivatives(x, labels), derivatives(jnp.zeros((2, 2)), labels + 2)
    for of_nan, of_no_class, f in zip(*jax.device_get(found), functions, strict=True):
        for slopes, without in zip(of_nan, of_no_class, strict=True):
            assert np.isnan(slopes[0, 0]).all() and np.isfinite(slopes[1, 1]).all()
            if f.__code__.co_names[-1] in ("accuracy", "top_k_accuracy"):
                assert np.isnan(without[1, 1]).all()
    slopes = jax.jit(jax.grad(lambda x: exact.threshold_probs(x, 1.0).sum()))(x)
    np.testing.assert_array_equal(np.isnan(slopes), np.isnan(x))


def test_ratios_that_overflow_are_decided_and_have_no_slope():
    x = jnp.array([[1e30, -1e30, 0.0]])

    def slopes(f, x, s):
        found = jax.grad(f, (0, 1))(x, s)
        return found, found

    for noise in (NORMAL, GUMBEL, LOGISTIC):
        functions = [lambda x, s, n=noise: exact.threshold_probs(x, s, noise=n).sum()]
        if noise is not LOGISTIC:
            functions += [
                lambda x, s, n=noise: exact.argmax_probs(x, s, noise=n)[0, 0],
                lambda x, s, n=noise: exact.accuracy(x, jnp.array([1]), s, noise=n).sum(),
            ]

        @jax.jit
        def derivatives(x, s, functions=tuple(functions), noise=noise):
            tiny = jax.grad(lambda s: exact.threshold_probs(x[:, :2], s, noise=noise).sum())(1e-20)
            return [jax.jacfwd(partial(slopes, f), (0, 1), has_aux=True)(x, s) for f in functions], tiny

        of_functions, of_tiny_sigma = jax.device_get(derivatives(x, 1e-6))
        for hessian, (in_x, in_sigma) in of_functions:
            assert in_sigma == 0 and (1e-6 * abs(in_x[0, :2]) < 1e-20).all()
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(hessian))
        assert of_tiny_sigma == 0


def test_leading_axes_vmap_and_chunks_are_a_loop(monkeypatch):
    logits = np.asarray(jax.random.normal(jax.random.key(0), (6, 30)))
    labels = np.arange(6, dtype=np.int32) * 3
    sigmas = np.linspace(0.5, 2.0, 6, dtype=np.float32)
    both = jax.jit(jax.value_and_grad(exact.accuracy, (0, 2)))
    each = jax.device_get([both(*one) for one in zip(logits, labels, sigmas, strict=True)])
    mapped = jax.jit(jax.vmap(both))(logits, labels, sigmas)
    loop = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    for found, of_loop in zip(mapped[1], loop[1], strict=True):
        np.testing.assert_allclose(found, of_loop, rtol=1e-4, atol=1e-7)
    for block, few in ((2**18, 6), (1, 4)):  # as many as have not been traced with other blocks
        monkeypatch.setattr(esjax.exact._batches, "BLOCK_FLOATS", block)
        x, y, s = logits[:few], labels[:few], sigmas[:few]
        values, gradients = jax.tree.map(lambda leaf, few=few: leaf[:few], loop)
        together = jax.jit(jax.value_and_grad(lambda x, s, y=y: exact.accuracy(x, y, s).sum(), (0, 1)))
        value, found = together(x, s)
        np.testing.assert_allclose(value, values.sum(), rtol=1e-6)
        for of_all, of_loop in zip(found, gradients, strict=True):
            np.testing.assert_allclose(of_all, of_loop, rtol=1e-4, atol=1e-7)
        probs = np.asarray(exact.argmax_probs(x.reshape(2, -1, 30), s.reshape(2, -1)))
        np.testing.assert_allclose(probs.reshape(few, 30)[np.arange(few), y], values, rtol=1e-5)


@pytest.mark.parametrize("vmapped", [False, True])
def test_memory_does_not_grow_with_nodes_times_examples(vmapped):
    function = jax.vmap(exact.accuracy, (0, 0, None)) if vmapped else exact.accuracy
    compiled = (
        jax.jit(jax.value_and_grad(lambda x, y: function(x, y, 1.0).mean()))
        .lower(jax.ShapeDtypeStruct((8, 262144), jnp.float32), jax.ShapeDtypeStruct((8,), jnp.int32))
        .compile()
    )
    assert compiled.memory_analysis().temp_size_in_bytes < 1e9


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_narrow_floats_come_back_in_their_dtype(dtype):
    logits = jnp.array([0.5, 0.0, -1.0], dtype)
    probs = exact.argmax_probs(logits, 1.0)
    assert probs.dtype == dtype and jax.grad(lambda x: exact.accuracy(x, 0, 1.0))(logits).dtype == dtype
    np.testing.assert_allclose(
        probs.astype(jnp.float32), exact.argmax_probs(logits.astype(jnp.float32), 1.0), rtol=1e-2
    )


def test_what_cannot_be_seen_under_jit_is_nan():
    logits = jnp.array([[0.0, jnp.nan], [-jnp.inf, -jnp.inf], [0.0, 1.0]])
    labels = jnp.array([0, 0, 0])
    functions = (
        lambda x: exact.argmax_probs(x, 1.0)[:, 0],
        lambda x: exact.accuracy(x, labels, 1.0),
        lambda x: exact.top_k_probs(x, 1, 1.0)[:, 0],
        lambda x: exact.top_k_accuracy(x, labels, 1, 1.0),
        lambda x: exact.argmax_probs(x, 1.0, noise=GUMBEL)[:, 0],
    )
    for found in jax.jit(lambda x: [f(x) for f in functions])(logits):
        np.testing.assert_array_equal(np.isnan(found), [True, True, False])
    out = jax.jit(lambda y: exact.accuracy(jnp.zeros((3, 2)), y, 1.0))(jnp.array([-1, 2, 1]))
    np.testing.assert_array_equal(np.isnan(out), [True, True, False])
    assert np.isnan(jax.jit(lambda x: exact.threshold_probs(x, 1.0))(jnp.nan))


def test_labels_may_count_fewer_classes_than_there_are():
    logits = np.full((1, 300), -9, np.float32)
    logits[0, [0, 256]] = 1.0  # two are ahead, one like the other
    slope = np.exp(-0.0) / np.sqrt(2 * np.pi) / np.sqrt(2)  # φ(0) / √2, of P = Φ((s_0 − s_256) / √2)
    both = jax.jit(jax.value_and_grad(lambda x, y: exact.accuracy(x, y, 1.0).sum()))
    probs = np.asarray(exact.top_k_probs(logits, 1, 1.0))
    for dtype in (np.int32, np.uint8, np.int8):
        value, gradient = both(logits, np.zeros(1, dtype))
        np.testing.assert_allclose(value, 0.5, rtol=1e-6)
        np.testing.assert_allclose(np.asarray(gradient)[0, [0, 256]], [slope, -slope], rtol=1e-5)
        np.testing.assert_allclose(exact.top_k_accuracy(logits, np.zeros(1, dtype), 1, 1.0), 0.5, rtol=1e-6)
        far = exact.top_k_accuracy(logits, np.full(1, 100, dtype), 1, 1.0)
        np.testing.assert_allclose(far, probs[:, 100], atol=1e-7)


def test_numbers_that_int32_would_wrap_are_not_wrapped():
    logits = jnp.array([[0.0, 3.0], [3.0, 0.0]])
    missing = np.array([1.0, -(2.0**63)]).astype(np.int64)  # as NaN becomes
    for labels in (missing, np.array([1, 2**32]), np.array([1, 2**64 - 1], np.uint64)):
        for f in (exact.accuracy, partial(exact.top_k_accuracy, k=1)):
            with pytest.raises(ValueError, match=f"labels={labels[1]} is out of range"):
                f(logits, labels, sigma=1.0)
    with jax.enable_x64(True):
        labels = jnp.array([2**32, 2**32 + 1])
        assert np.isnan(jax.jit(lambda y: exact.accuracy(jnp.zeros((2, 2)), y, 1.0))(labels)).all()
    assert exact.threshold_probs(jnp.float32(3), 1.0, threshold=np.int64(2**32)) == 0
    assert exact.threshold_probs(jnp.float32(1), 2**40) == 0.5
