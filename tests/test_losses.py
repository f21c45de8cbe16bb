"""Fenchel–Young losses against cross-entropy, quadrature, enumeration and the libraries that have them."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate, special, stats
from scipy.optimize import linear_sum_assignment

import esjax
from esjax import exact, losses

GUMBEL, NORMAL, LOGISTIC = esjax.noise.gumbel, esjax.noise.normal, esjax.noise.logistic
THETA, TARGET = jnp.array([1.0, 0.2, -0.3]), jnp.array([0.0, 1.0, 0.0])
SIGMA = 0.7
KEY = jax.random.PRNGKey(0)  # a raw one, which tests may use twice


def _largest(theta):
    return jax.nn.one_hot(theta.argmax(), theta.size)


def _cross_entropy(theta, sigma, target=TARGET):
    return sigma * jax.nn.logsumexp(theta / sigma) - (theta * target).sum()


def _check_means(draws, expected, most=4.5):
    """Draws (n, ...) of an unbiased estimate of what is expected."""
    draws = np.asarray(draws, np.float64)
    error = draws.std(0) / len(draws) ** 0.5
    assert (np.abs(draws.mean(0) - expected) < most * error + 1e-6).all(), (draws.mean(0), expected, error)


def _many(function, count):
    return jax.device_get(jax.jit(jax.vmap(function))(jax.random.split(KEY, count)))


# --- sampled: value and derivatives -------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [esjax.samplers.iid, esjax.samplers.latin_hypercube])
def test_an_argmax_under_gumbel_noise_costs_cross_entropy_with_derivatives_in_all_inputs(sampler):
    loss = losses.fenchel_young(_largest, sigma=SIGMA, num_samples=8, noise=GUMBEL, sampler=sampler)

    def both(key):
        return jax.value_and_grad(
            lambda theta, sigma, target: loss(key, theta, target, sigma=sigma), argnums=(0, 1, 2)
        )(THETA, SIGMA, TARGET)

    value, gradients = _many(both, 4000)
    exact_ones = jax.jit(jax.value_and_grad(_cross_entropy, argnums=(0, 1, 2)))(THETA, SIGMA, TARGET)
    exact_value, exact_gradients = exact_ones
    _check_means(value, exact_value)
    for found, expected in zip(gradients, exact_gradients, strict=True):
        _check_means(found, expected)


@jax.jit
def _hessian_of_cross_entropy(x):
    return jax.hessian(lambda x: _cross_entropy(x[:3], x[3]))(x)


@pytest.mark.parametrize("first", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize("second", [jax.jacfwd, jax.jacrev])
def test_second_derivatives_are_those_of_cross_entropy_by_each_pair_of_modes(first, second):
    loss = losses.fenchel_young(_largest, sigma=SIGMA, num_samples=6, noise=GUMBEL)

    at = jnp.append(THETA, SIGMA)
    found = _many(lambda key: second(first(lambda x: loss(key, x[:3], TARGET, sigma=x[3])))(at), 8000)
    expected = np.asarray(_hessian_of_cross_entropy(at))
    _check_means(found, expected)
    assert np.abs(expected).min() > 0.01  # each of them would be seen to be 0


def test_third_derivatives_and_those_inside_a_scan_are_those_of_cross_entropy():
    loss = losses.fenchel_young(_largest, sigma=SIGMA, num_samples=6, noise=GUMBEL)

    def along(function, t):
        return function(THETA + t * jnp.array([0.3, -1.0, 1.0]))

    def in_scan(key, t):
        step = partial(along, lambda theta: loss(key, theta, TARGET))
        return jax.lax.scan(lambda total, _: (total + step(t), None), 0.0, None, length=1)[0]

    def third_and_second(function):
        def second(t):
            curvature = jax.grad(jax.grad(function))(t)
            return curvature, curvature

        return jax.grad(second, has_aux=True)(0.1)

    expected = jax.jit(lambda: third_and_second(partial(along, lambda theta: _cross_entropy(theta, SIGMA))))()
    found = _many(lambda key: third_and_second(partial(in_scan, key)), 8000)
    for draws, each in zip(found, expected, strict=True):
        _check_means(draws, each)
    assert abs(expected[0]) > 0.05 and abs(expected[1]) > 0.05


def test_value_and_gradient_come_from_the_same_samples_each_asked_once():
    """Of degree 1 in θ and σ together, so that L = ⟨θ, ∂L/∂θ⟩ + σ ∂L/∂σ holds sample by sample."""
    solver = esjax.host.wrap(lambda theta: np.eye(3, dtype=np.float32)[theta.argmax()], THETA)
    loss = losses.fenchel_young(solver, sigma=SIGMA, num_samples=16)
    value, (in_theta, in_sigma) = jax.value_and_grad(
        lambda theta, sigma: loss(KEY, theta, TARGET, sigma=sigma), argnums=(0, 1)
    )(THETA, SIGMA)
    assert solver.log.evaluations == 16
    np.testing.assert_allclose(value, (THETA * in_theta).sum() + SIGMA * in_sigma, rtol=1e-5)
    counts = (in_theta + TARGET) * 16
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-5)  # a mean of 16 answers


def _assignment(worth):
    rows, columns = linear_sum_assignment(worth, maximize=True)
    answer = np.zeros(worth.shape, np.float32)
    answer[rows, columns] = 1
    return answer


def test_the_loss_of_an_assignment_is_that_of_all_answers_enumerated():
    rng = np.random.default_rng(0)
    theta = jnp.asarray(rng.normal(size=(3, 3)), jnp.float32)
    answers = np.stack(
        [np.eye(3, dtype=np.float32)[list(order)] for order in itertools.permutations(range(3))]
    )
    target = jnp.asarray(answers[2])
    draws = rng.normal(size=(400_000, 3, 3))
    chosen = (np.asarray(theta) + 0.5 * draws).reshape(-1, 9) @ answers.reshape(-1, 9).T
    best = answers[chosen.argmax(1)]
    solver = esjax.host.wrap(_assignment, jax.ShapeDtypeStruct((3, 3), jnp.float32))
    loss = losses.fenchel_young(solver, sigma=0.5, num_samples=8)
    value, gradient = _many(lambda key: jax.value_and_grad(loss, argnums=1)(key, theta, target), 1500)
    _check_means(value, chosen.max(1).mean() - (theta * target).sum(), 5)
    _check_means(gradient, best.mean(0) - answers[2], 5)


def test_the_gradient_has_far_less_error_than_a_score_gives_the_same_loss():
    rng = np.random.default_rng(0)
    theta = jnp.asarray(rng.normal(size=(5, 5)), jnp.float32)
    target = jnp.asarray(_assignment(rng.normal(size=(5, 5))))
    solver = esjax.host.wrap(_assignment, theta)

    def lost(z):
        return (jax.lax.stop_gradient(z) * (solver(jax.lax.stop_gradient(z)) - target)).sum()

    options = {"sigma": 0.5, "num_samples": 64}
    loss, smoothed = losses.fenchel_young(solver, **options), esjax.smooth(lost, **options)
    ours = _many(lambda key: jax.grad(loss, argnums=1)(key, theta, target), 60)
    by_score = _many(lambda key: jax.grad(smoothed, argnums=1)(key, theta), 60)
    _check_means(ours - by_score, 0)
    assert by_score.var(0).sum() > 10 * ours.var(0).sum()


def test_no_sample_is_below_zero_and_zero_is_reached_where_the_answer_is_known():
    loss = losses.fenchel_young(_largest, sigma=1.0, num_samples=1)
    values = _many(lambda key: loss(key, THETA, TARGET), 2000)
    assert (values >= 0).all() and (values == 0).any() and (values > 0).any()
    value, gradient = jax.value_and_grad(loss, argnums=1)(KEY, 30 * TARGET, TARGET)
    assert value == 0 and not gradient.any()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_trees_with_a_scale_for_each_leaf_are_the_sum_of_their_losses(dtype):
    theta = {"a": THETA.astype(dtype), "b": jnp.array([[0.5, -0.2]], dtype)}
    target = {"a": np.array([False, True, False]), "b": np.array([[1, 0]])}
    sigma = {"a": SIGMA, "b": jnp.array([[0.3, 2.0]])}
    loss = losses.fenchel_young(
        lambda theta: {"a": _largest(theta["a"]) > 0, "b": (theta["b"] > 0).astype(jnp.int32)},
        sigma=sigma,
        num_samples=8,
    )
    value, gradient = _many(lambda key: jax.value_and_grad(loss, argnums=1)(key, theta, target), 4000)

    @jax.jit
    def exactly(a, b):
        of_b = jax.value_and_grad(lambda b: losses.fenchel_young_threshold(b, target["b"], sigma["b"]).sum())
        return jax.value_and_grad(losses.fenchel_young_argmax)(a, TARGET, SIGMA), of_b(b)

    of_a, (value_b, gradient_b) = exactly(THETA, theta["b"].astype(jnp.float32))
    assert gradient["a"].dtype == dtype and value.dtype == jnp.float32
    _check_means(value, of_a[0] + value_b, 4.5 if dtype == jnp.float32 else 6)
    if dtype == jnp.float32:
        _check_means(gradient["a"], of_a[1])
        _check_means(gradient["b"], gradient_b)


def test_batches_pass_arguments_to_the_solver_which_are_constants():
    def best(theta, allowed):
        return _largest(jnp.where(allowed, theta, -jnp.inf))

    loss = losses.fenchel_young(best, sigma=SIGMA, num_samples=512, noise=GUMBEL)
    keys, allowed = (
        jax.random.split(KEY, 2),
        jnp.array([[True, True, False], [True, True, True]]),
    )

    def total(theta):
        return jax.vmap(lambda key, allowed: loss(key, theta, TARGET, allowed))(keys, allowed).sum()

    first = jax.jit(lambda x, y: _cross_entropy(x[:2], SIGMA, y[:2]) + _cross_entropy(x, SIGMA))
    value, gradient = jax.jit(jax.value_and_grad(total))(THETA)
    assert abs(value - first(THETA, TARGET)) < 0.15
    assert np.asarray(gradient)[2] > 0.02  # from the second example alone
    weights = jnp.ones(3)
    scaled = losses.fenchel_young(lambda theta, w: _largest(theta * w), sigma=SIGMA, num_samples=4)
    with pytest.raises(ValueError, match="no derivative in args"):
        jax.grad(lambda w: scaled(keys[0], THETA, TARGET, w))(weights)

    def closed_over(theta, w):
        of_w = losses.fenchel_young(lambda theta: _largest(theta * w), sigma=SIGMA, num_samples=4)
        return of_w(keys[0], theta, TARGET)

    hessian = jax.jit(jax.vmap(jax.hessian(closed_over), (None, 0)))(THETA, jnp.ones((2, 3)))
    assert jnp.isfinite(hessian).all() and hessian.any()
    with pytest.raises(ValueError, match="no derivative in args"):
        jax.grad(closed_over, argnums=1)(THETA, weights)


def test_a_masked_entry_stays_masked():
    theta = jnp.append(THETA, -jnp.inf)
    loss = losses.fenchel_young(_largest, sigma=SIGMA, num_samples=8, noise=GUMBEL)
    function = partial(loss, target=jnp.append(TARGET, 0.0))

    def with_derivatives(function, theta):
        def slopes(theta):
            value, gradient = jax.value_and_grad(function)(theta)
            return gradient, (value, gradient)

        return jax.jacfwd(slopes, has_aux=True)(theta)

    hessian, (value, gradient) = _many(lambda key: with_derivatives(partial(function, key), theta), 3000)
    exactly = jax.jit(lambda theta: with_derivatives(lambda theta: _cross_entropy(theta, SIGMA), theta))
    exact_hessian, (exact_value, exact_gradient) = exactly(THETA)
    _check_means(value, exact_value)
    _check_means(gradient, np.append(exact_gradient, 0.0))
    _check_means(hessian[:, :3, :3], exact_hessian)
    assert not hessian[:, 3].any() and not hessian[:, :, 3].any()


@pytest.mark.parametrize(
    "sampler", [esjax.samplers.iid, esjax.samplers.antithetic, esjax.samplers.orthogonal]
)
def test_few_samples_are_unbiased_with_and_without_others_to_compare(sampler):
    num_samples = 1 + (sampler is esjax.samplers.antithetic)
    loss = losses.fenchel_young(_largest, sigma=1.0, num_samples=num_samples, sampler=sampler)
    found = _many(lambda key: jax.hessian(loss, argnums=1)(key, THETA, TARGET), 20_000)
    _check_means(found, _hessian_of_argmax())


@jax.jit
def _hessian_of_argmax():
    return jax.hessian(losses.fenchel_young_argmax)(THETA, TARGET, 1.0)


# --- noise as a factor --------------------------------------------------------------------------------


def test_noise_as_a_factor_keeps_costs_positive_and_has_the_gradient_of_quadrature():
    """Two costs, of which the smaller is taken: E[max(−c₁, −c₂)] in closed form (Margrabe 1978)."""
    seen = []

    def cheaper(negated):
        seen.append(negated.copy())
        return np.eye(2, dtype=np.float32)[negated.argmax()]

    solver = esjax.host.wrap(cheaper, jnp.zeros(2))
    loss = losses.fenchel_young(solver, sigma=0.8, num_samples=8, perturbation=losses.multiplicative)
    costs, target = jnp.array([1.0, 1.5]), jnp.array([0.0, 1.0])

    def margrabe(costs, sigma):
        spread = sigma * 2**0.5
        ratio = jnp.log(costs[0] / costs[1]) / spread
        exchanged = costs[0] * jax.scipy.special.ndtr(ratio + spread / 2)
        exchanged = exchanged - costs[1] * jax.scipy.special.ndtr(ratio - spread / 2)
        return -costs[0] + exchanged + (costs * target).sum()

    def estimate(key):
        def function(costs, sigma):
            return loss(key, -costs, target, sigma=sigma)

        return (
            jax.value_and_grad(function, argnums=(0, 1))(costs, 0.8),
            jax.hessian(function, argnums=(0, 1))(costs, 0.8),
        )

    found = _many(estimate, 4000)
    expected = jax.jit(
        lambda *given: (
            jax.value_and_grad(margrabe, argnums=(0, 1))(*given),
            jax.hessian(margrabe, argnums=(0, 1))(*given),
        )
    )(costs, 0.8)
    for draws, each in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        _check_means(draws, each)
    assert (np.stack(seen) < 0).all()


# --- closed forms -------------------------------------------------------------------------------------


def _of_the_top(s, k):
    """E[sum of the k largest of s + ε] less that of s itself, by a dense rule in float64 over counts."""
    u = np.arange(s.min() - 12, s.max() + 12, 0.05)
    law = np.zeros((k + 1, u.size))
    law[0] = 1
    for score in s:
        above = special.ndtr(score - u)
        moved = law[:-1] * above
        law[:-1] -= moved
        law[1:] += moved
    top = np.sort(s)[-k:]
    count = (np.arange(k + 1)[:, None] * law).sum(0) - special.ndtr(top[:, None] - u).sum(0)
    return np.trapezoid(count, u)


@pytest.mark.parametrize(("size", "k"), [(2, 1), (6, 1), (6, 4), (200, 1), (200, 30), (5, 5)])
def test_losses_of_the_largest_are_those_of_dense_quadrature(size, k):
    rng = np.random.default_rng(size + k)
    scores = np.float32([0.1, 1, 3, 40])[:, None] * rng.normal(size=(4, size)).astype(np.float32)
    target = np.zeros((4, size))
    for row in target:
        row[rng.permutation(size)[:k]] = 1
    ordered = np.sort(scores.astype(float), 1)
    expected = [
        _of_the_top(s.astype(float), k) + top[-k:].sum() - s @ y
        for s, top, y in zip(scores, ordered, target, strict=True)
    ]

    @jax.jit
    def all_of_them(x, y):
        found = [losses.fenchel_young_top_k(x, y, k, 2.0)]
        return [*found, losses.fenchel_young_argmax(x, y, 2.0)] if k == 1 else found

    for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-8)):
        with jax.enable_x64(dtype == np.float64):
            for found in all_of_them(jnp.asarray(2 * scores, dtype), jnp.asarray(target, dtype)):
                assert found.dtype == dtype
                np.testing.assert_allclose(found, 2 * np.array(expected), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["argmax, normal", "argmax, gumbel", "top 2", "threshold"])
def test_derivatives_of_closed_forms_are_chances_less_the_target_at_every_order(name):
    target, sigma = jnp.array([0.0, 1.0, 1.0 if name == "top 2" else 0.0]), 0.6
    loss, probs = {
        "argmax, normal": (losses.fenchel_young_argmax, exact.argmax_probs),
        "argmax, gumbel": (
            partial(losses.fenchel_young_argmax, noise=GUMBEL),
            partial(exact.argmax_probs, noise=GUMBEL),
        ),
        "top 2": (
            lambda x, y, sigma: losses.fenchel_young_top_k(x, y, 2, sigma),
            lambda x, sigma: exact.top_k_probs(x, 2, sigma),
        ),
        "threshold": (
            lambda x, y, sigma: losses.fenchel_young_threshold(x, y, sigma, noise=LOGISTIC).sum(),
            partial(exact.threshold_probs, noise=LOGISTIC),
        ),
    }[name]

    @jax.jit
    def derivatives(x, y, sigma):
        def slopes(x):
            value, (in_x, *others) = jax.value_and_grad(loss, argnums=(0, 1, 2))(x, y, sigma)
            return in_x, (value, in_x, *others)

        forward, found = jax.jacfwd(slopes, has_aux=True)(x)
        return found, (forward, jax.jacrev(jax.grad(loss))(x, y, sigma))

    (value, in_x, in_y, in_sigma), seconds = jax.device_get(derivatives(THETA, target, sigma))
    chances, slopes = jax.jit(lambda x, sigma: (probs(x, sigma), jax.jacfwd(probs)(x, sigma)))(THETA, sigma)
    np.testing.assert_allclose(in_x, chances - target, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(in_y, -THETA, rtol=1e-5)
    np.testing.assert_allclose((THETA * in_x).sum() + sigma * in_sigma, value, rtol=1e-4)
    for found in seconds:
        np.testing.assert_allclose(found, slopes, rtol=1e-4, atol=1e-5)
    step = 1e-2
    (above, *_), _ = derivatives(THETA, target, sigma + step)
    (below, *_), _ = derivatives(THETA, target, sigma - step)
    np.testing.assert_allclose(in_sigma, (above - below) / (2 * step), rtol=2e-3)


@pytest.mark.parametrize("noise", [NORMAL, LOGISTIC, GUMBEL])
def test_losses_of_thresholds_are_integrals_of_their_chances(noise):
    law = {NORMAL: stats.norm, LOGISTIC: stats.logistic, GUMBEL: stats.gumbel_r(loc=-np.euler_gamma)}[noise]
    x, target = np.repeat(np.float32([-9, -3, -0.5, 0.6, 1, 4, 12]), 3), np.tile(np.float32([0, 0.3, 1]), 7)

    def expected(x, target):
        a = (x - 1.0) / 2.0
        options = {"limit": 400, "epsabs": 1e-12}
        above, _ = integrate.quad(lambda u: law.sf(u - a), 0, 60, points=[max(a, 0)], **options)
        below, _ = integrate.quad(lambda u: law.cdf(-u - a), 0, 60, points=[max(-a, 0)], **options)
        return 2 * ((1 - target) * above + target * below)

    loss = jax.jit(partial(losses.fenchel_young_threshold, threshold=1.0, noise=noise))
    found = loss(x, target, 2.0)
    np.testing.assert_allclose(found, np.vectorize(expected)(x, target), rtol=2e-5, atol=2e-6)


@pytest.mark.filterwarnings("ignore:JAXopt is no longer maintained")
def test_cross_entropy_is_the_loss_that_optax_and_jaxopt_make_of_a_log_sum_exp():
    import jaxopt

    logits = jnp.array([[1.0, 0.2, -0.3], [4.0, -2.0, 0.0]])
    target = jnp.array([[0.0, 1.0, 0.0], [0.2, 0.5, 0.3]])
    found = losses.fenchel_young_argmax(logits, target, 1.0, noise=GUMBEL)
    of_optax = optax.losses.make_fenchel_young_loss(jax.nn.logsumexp)
    np.testing.assert_allclose(found, jax.jit(jax.vmap(of_optax))(logits, target), rtol=1e-5)
    of_jaxopt = jaxopt.loss.make_fenchel_young_loss(jax.nn.logsumexp)
    np.testing.assert_allclose(found, jax.jit(jax.vmap(of_jaxopt))(target, logits), rtol=1e-5)


def test_a_masked_class_takes_no_part_in_a_closed_form():
    closed = losses.fenchel_young_argmax, lambda x, y, sigma: losses.fenchel_young_top_k(x, y, 1, sigma)
    all_of_them = jax.jit(lambda *given: [jax.value_and_grad(loss)(*given) for loss in closed])
    of_more = all_of_them(np.append(THETA, np.float32(-np.inf)), np.append(TARGET, np.float32(0)), SIGMA)
    for (value, gradient), whole in zip(of_more, all_of_them(THETA, TARGET, SIGMA), strict=True):
        np.testing.assert_allclose(value, whole[0], rtol=1e-5)
        np.testing.assert_allclose(gradient, np.append(whole[1], 0.0), rtol=1e-5, atol=1e-7)


# --- refusals -----------------------------------------------------------------------------------------


def _loss(solver=_largest, theta=THETA, target=TARGET, args=(), key=KEY, **options):
    options = {"sigma": 1.0, "num_samples": 4} | options
    return lambda: losses.fenchel_young(solver, **options)(key, theta, target, *args)


X2 = jnp.array([[0.0, 1.0]])
MISUSE = {
    "no function": (_loss("solve"), "solver='solve' is not callable"),
    "no samples": (_loss(num_samples=0), "num_samples=0 must be"),
    "no scale": (_loss(sigma=0.0), "sigma=0.0 must be a finite number > 0"),
    "a noise by name": (_loss(noise="normal"), "pass esjax.noise.normal itself"),
    "no mean": (_loss(noise=esjax.noise.cauchy), "noise=cauchy has no mean"),
    "a perturbation by name": (
        _loss(perturbation="additive"),
        "is not a Perturbation; use additive or mult",
    ),
    "another noise as a factor": (
        _loss(perturbation=losses.multiplicative, noise=GUMBEL),
        "keeps the mean of theta with one noise only",
    ),
    "a cost of 0": (
        _loss(theta=jnp.zeros(3), perturbation=losses.multiplicative),
        "theta holds 0, which perturbation=multiplicative never moves",
    ),
    "an answer of another shape": (
        _loss(lambda theta: theta.argmax()),
        r"answer of solver has shape \(\), and theta there has \(3,\)",
    ),
    "an answer of another structure": (_loss(lambda theta: (theta,)), "answer of solver has structure"),
    "a target of another shape": (
        _loss(target=jnp.ones(2)),
        r"target has shape \(2,\), and theta there has \(3,\)",
    ),
    "a target of another structure": (_loss(target=(TARGET,)), "target has structure"),
    "a target outside": (_loss(target=5 * TARGET, theta=3 * TARGET), "is worth more to theta"),
    "a minimiser": (_loss(lambda theta: jax.nn.one_hot(theta.argmin(), 3)), "or solver minimises; .*negate"),
    "integers": (_loss(theta=jnp.arange(3), target=TARGET), "theta has dtype int32"),
    "no key": (_loss(key=0), "key=0 is not one PRNG key"),
    "Python on traced numbers": (_loss(lambda theta: np.eye(3)[int(theta[0])]), r"esjax\.host\.wrap"),
    "labels": (lambda: losses.fenchel_young_argmax(THETA, 1, 1.0), r"target has shape \(\).*one_hot"),
    "another sum": (lambda: losses.fenchel_young_argmax(THETA, jnp.ones(3), 1.0), "target has the sum 3.0"),
    "no chances": (lambda: losses.fenchel_young_argmax(THETA, 2 * TARGET - 1, 1.0), "target holds -1.0"),
    "fewer than k": (lambda: losses.fenchel_young_top_k(THETA, TARGET, 2, 1.0), "an answer has 2"),
    "k too large": (
        lambda: losses.fenchel_young_top_k(THETA, TARGET, 4, 1.0),
        "k=4 is more than the 3 classes",
    ),
    "another noise": (
        lambda: losses.fenchel_young_argmax(X2, X2, 1.0, noise=LOGISTIC),
        "noise=logistic has no closed",
    ),
    "beyond 1": (lambda: losses.fenchel_young_threshold(THETA, 2 * TARGET, 1.0), "target holds 2.0"),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_is_said(name):
    call, message = MISUSE[name]
    with pytest.raises(ValueError, match=message):
        call()
