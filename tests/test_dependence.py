"""What programs read: random programs against changes of single inputs, and patterns known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import sparse

from esjax._jaxpr.dependence import reads

SHAPE = (2, 3)
SIZE = 6


def _pattern(function, *args, of=None, **options):
    jaxpr = jax.make_jaxpr(function)(*args)
    found = reads(jaxpr, of or [True] * len(jaxpr.jaxpr.invars), **options)
    assert found.unknown == ()
    return found.pattern.toarray()


# --- random programs ---------------------------------------------------------------------------------
# Each operation takes two arrays a, b of `SHAPE` (which may read x), weights w of `SHAPE` with zeros, and a
# traced index k; its result is made to have `SHAPE` again, so that each is compiled only once.


@jax.custom_jvp
def _rounded(a):
    return jnp.round(a)


_rounded.defjvp(lambda primals, tangents: (_rounded(*primals), tangents[0]))


@jax.custom_vjp
def _hard(a):
    return jnp.where(a > 0, 1.0, -1.0)


_hard.defvjp(lambda a: (_hard(a), None), lambda saved, cotangent: (cotangent,))


@jax.jit
def _inner(a, b):
    return jnp.where(a[0] > b[1], a[1], b[0])


def _step(carry, row):
    moved = jnp.concatenate([carry[2:], carry[:2]]) + row
    return moved, jnp.sign(moved[:2])


def _counted(i, carry):
    return carry.at[i % 3].add(carry[(i + 1) % 3])


def _halved(state):
    return state[0] + 1, jnp.where(state[1] > 1, state[1] / 2, state[1]), state[2]


def _doubled(a, b):
    return lax.while_loop(lambda s: (s > 0) & (s < b), lambda s: s * 2, a)


def _indices(a, most):
    return jnp.mod(jnp.abs(jnp.round(jnp.clip(a, -100, 100))).astype(jnp.int32), most)


KNOWN = np.array([2, 0, 1])
FILTER = np.array([[[[1.0, 0.0, -1.0]]]], np.float32)
POOL = dict(window_dimensions=(1, 2), window_strides=(1, 1), padding=((0, 0), (1, 0)))
WEIGHTS = np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 3.0]], np.float32)


def _gradient_of_pool(a, w):
    return jax.grad(lambda a: jnp.sum(w * lax.reduce_window(a, -jnp.inf, lax.max, *POOL.values())))(a)


OPERATIONS = {
    "add": lambda a, b, w, k: a + b,
    "mul": lambda a, b, w, k: jnp.sin(a) * jnp.cos(b),
    "mul known": lambda a, b, w, k: a * WEIGHTS + w,
    "div": lambda a, b, w, k: a / (1 + b * b),
    "power": lambda a, b, w, k: jnp.tanh(a) ** 3 + jnp.exp(jnp.tanh(b)),
    "max": lambda a, b, w, k: jnp.maximum(a, b) - jnp.minimum(a[0, 0], b),
    "less": lambda a, b, w, k: (a < b).astype(jnp.float32),
    "logic": lambda a, b, w, k: ((a > 0) & (b > 0) | ~(a > b)).astype(jnp.float32),
    "logic known": lambda a, b, w, k: ((a > 0) & (WEIGHTS > 1) | (WEIGHTS[::-1] > 2)).astype(jnp.float32),
    "floor": lambda a, b, w, k: jnp.floor(a) + jnp.ceil(b),
    "sign": lambda a, b, w, k: jnp.sign(a) * w,
    "clamp": lambda a, b, w, k: lax.clamp(b[0, 0], a, jnp.float32(3)),
    "select": lambda a, b, w, k: jnp.where(a > 0, b, w),
    "select known": lambda a, b, w, k: jnp.where(WEIGHTS > 0, a, b),
    "select scalar": lambda a, b, w, k: lax.select(a[0, 1] > 0, b, w),
    "integers": lambda a, b, w, k: (_indices(a, 7) // 2 + _indices(b, 5)).astype(jnp.float32),
    "finite": lambda a, b, w, k: jnp.where(jnp.isfinite(a), a, b),
    "bits": lambda a, b, w, k: (lax.bitcast_convert_type(a, jnp.int32) & 255).astype(jnp.float32),
    "bytes": lambda a, b, w, k: lax.bitcast_convert_type(a, jnp.uint8).astype(jnp.float32)[..., 3],
    "stop": lambda a, b, w, k: lax.stop_gradient(a) + lax.optimization_barrier((a, b))[1],
    "reshape": lambda a, b, w, k: a.reshape(3, 2).T + b,
    "transpose": lambda a, b, w, k: a.T,
    "flip": lambda a, b, w, k: a[::-1, ::-1],
    "slice": lambda a, b, w, k: jnp.concatenate([a[:, ::2], b[:, 1:2]], axis=1),
    "pad": lambda a, b, w, k: lax.pad(a, b[1, 1], ((-1, 1, 0), (1, -1, 1))),
    "stack": lambda a, b, w, k: jnp.stack([a[0], b[1]], axis=1),
    "split": lambda a, b, w, k: jnp.split(a, 3, axis=1)[1] + b,
    "broadcast": lambda a, b, w, k: jnp.broadcast_to(a[:, 1:2], SHAPE) + jnp.tile(b[0], (2, 1)),
    "sum": lambda a, b, w, k: a.sum(axis=0) + b[1],
    "max over": lambda a, b, w, k: a.max(axis=1, keepdims=True) + b,
    "prod": lambda a, b, w, k: jnp.tanh(a).prod(axis=1),
    "any": lambda a, b, w, k: (a > 1).any(axis=0).astype(jnp.float32) + jnp.float32((b > 0).all()),
    "argmax": lambda a, b, w, k: jnp.argmax(a, axis=1).astype(jnp.float32)[:, None] + b,
    "reduce": lambda a, b, w, k: lax.reduce((a, b), (0.0, 1.0), lambda x, y: (x[0] + y[1], y[0]), (0,))[0],
    "cumsum": lambda a, b, w, k: jnp.cumsum(a, axis=1) + lax.cummax(b, axis=0, reverse=True),
    "cumprod": lambda a, b, w, k: lax.cumprod(jnp.tanh(a).ravel(), reverse=True),
    "cumlogsumexp": lambda a, b, w, k: lax.cumlogsumexp(jnp.clip(a, -9, 9), axis=1),
    "sort": lambda a, b, w, k: jnp.sort(a, axis=1),
    "argsort": lambda a, b, w, k: jnp.argsort(a, axis=0).astype(jnp.float32),
    "sort pairs": lambda a, b, w, k: lax.sort((a, b), dimension=1, num_keys=1)[1],
    "top_k": lambda a, b, w, k: lax.top_k(a, 2)[0] + lax.top_k(b, 2)[1].astype(jnp.float32),
    "median": lambda a, b, w, k: jnp.median(a, axis=1),
    "dot": lambda a, b, w, k: jnp.clip(a, -9, 9) @ jnp.clip(b, -9, 9).T,
    "dot known": lambda a, b, w, k: WEIGHTS.T @ a,
    "dot known, right": lambda a, b, w, k: a @ WEIGHTS.T,
    "dot batched": lambda a, b, w, k: jnp.einsum("bi,bj->bj", jnp.clip(a, -9, 9), w),
    "outer": lambda a, b, w, k: jnp.outer(jnp.sin(a[0, :2]), jnp.cos(b[1])),
    "conv": lambda a, b, w, k: lax.conv_general_dilated(a[None, None], FILTER, (1, 1), "SAME")[0, 0],
    "conv groups": lambda a, b, w, k: lax.conv_general_dilated(
        a[None], jnp.stack([w, w])[..., :2, None][..., 0], (1,), [(1, 0)], feature_group_count=1
    )[0],
    "conv by itself": lambda a, b, w, k: jnp.convolve(jnp.tanh(a[0]), jnp.tanh(b[1])),
    "conv dilated": lambda a, b, w, k: lax.conv_general_dilated(
        a[:, None], w[:2, :2].reshape(2, 1, 2), (2,), [(1, 2)], (2,), (2,), batch_group_count=2
    ),
    "pool": lambda a, b, w, k: lax.reduce_window(a, -jnp.inf, lax.max, (2, 2), (1, 1), "SAME"),
    "pool sum": lambda a, b, w, k: lax.reduce_window(
        a, 0.0, lax.add, (1, 2), (1, 2), ((0, 0), (1, 1)), (1, 2), (1, 2)
    ),
    "pool any": lambda a, b, w, k: lax.reduce_window(a, 0.0, lambda x, y: x - y, (1, 2), (1, 1), "VALID"),
    "grad of pool": lambda a, b, w, k: _gradient_of_pool(a, w + b),
    "hessian of pool": lambda a, b, w, k: jax.jvp(
        lambda a: lax.reduce_window(a, -jnp.inf, lax.max, *POOL.values()), (a,), (b,)
    )[1],
    "gather known": lambda a, b, w, k: a[:, KNOWN],
    "gather two": lambda a, b, w, k: a[np.array([0, 1, 1]), KNOWN],
    "gather fill": lambda a, b, w, k: jnp.take(a, np.array([0, 5, 2]), axis=1, mode="fill", fill_value=7.0),
    "gather traced": lambda a, b, w, k: a[k] + b[:, k].sum(),
    "gather by x": lambda a, b, w, k: a[:, _indices(b[0], 3)],
    "gather along": lambda a, b, w, k: jnp.take_along_axis(a, _indices(b, 3), axis=1),
    "gather windows": lambda a, b, w, k: jax.vmap(lambda i: lax.dynamic_slice(a, (0, i), (2, 2)))(
        _indices(b[0], 3)
    ),
    "scatter known": lambda a, b, w, k: a.at[:, KNOWN[:2]].set(b[:, :2]),
    "scatter twice": lambda a, b, w, k: a.at[:, np.array([1, 1])].add(b[:, 1:]),
    "scatter fixed": lambda a, b, w, k: a.at[0].set(0.0),
    "scatter apply": lambda a, b, w, k: a.at[0].apply(jnp.sin),
    "scatter traced": lambda a, b, w, k: a.at[k].set(b[0]),
    "scatter by x": lambda a, b, w, k: a.at[:, _indices(b[1], 3)].max(b),
    "scatter along": lambda a, b, w, k: jax.vmap(lambda r, i, u: r.at[i].set(u))(
        a, _indices(b[:, 0], 3), b[:, 1]
    ),
    "scatter constants": lambda a, b, w, k: w.at[0, _indices(b[1], 3)].set(9.0),
    "segments": lambda a, b, w, k: jax.ops.segment_sum(a.ravel(), np.array([0, 2, 2, 1, 0, 1]), 3) + b[0],
    "slice at": lambda a, b, w, k: lax.dynamic_slice(a, (0, 5), (2, 2)),
    "slice at k": lambda a, b, w, k: lax.dynamic_slice(a, (0, k), (2, 2)),
    "slice at x": lambda a, b, w, k: lax.dynamic_slice(a, (0, _indices(b[0, 0], 3)), (2, 2)),
    "update at": lambda a, b, w, k: lax.dynamic_update_slice(a, b[:, :2], (0, 1)),
    "update at k": lambda a, b, w, k: lax.dynamic_update_slice(a, b[:1], (k, 0)),
    "update at x": lambda a, b, w, k: lax.dynamic_update_slice(w, a[:, :1], (0, _indices(b[0, 2], 3))),
    "cond": lambda a, b, w, k: lax.cond(a[0, 0] > 0, lambda a, b: a, lambda a, b: b * 2, a, b),
    "switch": lambda a, b, w, k: lax.switch(k, [lambda a: a, lambda a: a.sum(keepdims=True) + a], b),
    "switch known": lambda a, b, w, k: lax.switch(1, [lambda a: a.sum() + a, lambda a: a[::-1]], b),
    "scan": lambda a, b, w, k: jnp.concatenate([*map(jnp.ravel, lax.scan(_step, b[0], a))])[1:7],
    "scan back": lambda a, b, w, k: lax.scan(_step, b[0], a, reverse=True)[1],
    "loop": lambda a, b, w, k: lax.fori_loop(0, 2, _counted, a[1]),
    "loop to k": lambda a, b, w, k: lax.fori_loop(0, k, _counted, a[0]) + b[1],
    "while": lambda a, b, w, k: lax.while_loop(
        lambda s: (s[1] > 1).any() & (s[0] < 9), _halved, (jnp.int32(0), a[0], b[1])
    )[1],
    "while, batched": lambda a, b, w, k: jax.vmap(
        lambda row: lax.while_loop(lambda s: s[0] > 1, lambda s: jnp.floor(s / 2), row)
    )(a @ jnp.eye(3)),
    "while, batched twice": lambda a, b, w, k: jax.vmap(jax.vmap(_doubled))(a, b),
    "map": lambda a, b, w, k: lax.map(lambda row: jnp.sort(row) * row[0], a),
    "jit": lambda a, b, w, k: _inner(a, b),
    "custom_jvp": lambda a, b, w, k: _rounded(a) + jax.nn.relu(b),
    "custom_vjp": lambda a, b, w, k: _hard(a) * b,
    "remat": lambda a, b, w, k: jax.checkpoint(lambda a: jnp.sin(a[::-1]))(a),
    "vmap": lambda a, b, w, k: jax.vmap(lambda r, s: jnp.where(r[0] > s, r, s))(a, b),
    "fft": lambda a, b, w, k: jnp.abs(jnp.fft.fft(a)) + jnp.real(jnp.fft.ifft(b)),
    "cholesky": lambda a, b, w, k: jnp.linalg.cholesky(
        jnp.tanh(a[:, :2, None]) * jnp.tanh(a[:, None, :2]) + 4 * jnp.eye(2)[None]
    ),
    "solve": lambda a, b, w, k: jnp.linalg.solve(jnp.tanh(a[:, :2]) + 4 * jnp.eye(2), b),
    "softmax": lambda a, b, w, k: jax.nn.softmax(jnp.clip(a, -9, 9)),
    "interp": lambda a, b, w, k: jnp.interp(a[0], jnp.arange(3.0), b[1]),
    "search": lambda a, b, w, k: jnp.searchsorted(jnp.sort(a[0]), b).astype(jnp.float32),
    "random": lambda a, b, w, k: a + jax.random.normal(jax.random.key(0), SHAPE),
    "callback": lambda a, b, w, k: jax.pure_callback(np.flip, jax.ShapeDtypeStruct(SHAPE, a.dtype), a),
}


def _fitted(operation):
    """The operation, its result made finite and of `SHAPE`, compiled once."""

    @jax.jit
    def call(*args):
        flat = jnp.ravel(operation(*args))
        flat = flat[:SIZE] if flat.size >= SIZE else jnp.pad(flat, (0, SIZE - flat.size))
        return jnp.clip(jnp.nan_to_num(flat.reshape(SHAPE)), -1e4, 1e4)

    return call


FITTED = {name: _fitted(operation) for name, operation in OPERATIONS.items()}


def _program(steps):
    def program(x, w, k):
        values = [x]
        for name, left, right in steps:
            values.append(FITTED[name](values[left], values[right], w, k))
        return values[-1], values[-2]

    return program


def _changes(rng, x):
    """Pairs of an element's number and x with that element changed: a little, by much, into a tie, to 0."""
    for i in range(SIZE):
        others = np.delete(x.ravel(), i)
        for new in (x.flat[i] + 0.3, -x.flat[i], 50.0, -300.0, 0.0, rng.choice(others)):
            changed = x.copy()
            changed.flat[i] = new
            yield i, changed


def _wrongly_free(program, pattern, rng):
    """The pairs (output, input) that the pattern denies, and a change shows; and how many pairs it denies."""
    x = rng.normal(size=SHAPE).astype(np.float32) * rng.choice([1.0, 4.0]).astype(np.float32)
    if rng.random() < 0.3:
        x = np.round(x)
    w, k = rng.normal(size=SHAPE).astype(np.float32), np.int32(rng.integers(2))
    before = np.concatenate([np.ravel(v) for v in program(x, w, k)])
    found = set()
    for i, changed in _changes(rng, x):
        after = np.concatenate([np.ravel(v) for v in program(changed, w, k)])
        moved = ~((before == after) | (np.isnan(before) & np.isnan(after)))
        found |= {(int(o), i) for o in np.flatnonzero(moved & ~pattern[:, i])}
    return found


def _reads_of_program(program):
    x, k = jnp.zeros(SHAPE), jnp.int32(0)
    return reads(jax.make_jaxpr(program)(x, x, k), [True, False, False])


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_operation_reads_what_is_denied(name):
    program = _program([(name, 0, 0)])
    found = _reads_of_program(program)
    assert found.unknown == (("pure_callback",) if name == "callback" else ())
    assert not _wrongly_free(program, found.pattern.toarray(), np.random.default_rng(0))


@pytest.mark.parametrize("block", range(6))
def test_no_random_program_reads_what_is_denied(block):
    rng = np.random.default_rng(block)
    denied = 0
    for _ in range(50):
        steps = []
        for i in range(rng.integers(2, 6)):
            left, right = rng.integers(max(i - 1, 0), i + 1), rng.integers(0, i + 1)
            steps.append((str(rng.choice(list(OPERATIONS))), int(left), int(right)))
        program = _program(steps)
        pattern = _reads_of_program(program).pattern.toarray()
        assert not _wrongly_free(program, pattern, rng), steps
        denied += (~pattern).sum()
    assert denied > 50 * 12  # of 72 pairs each: there was something to refute


# --- patterns that are known -------------------------------------------------------------------------


def _near(size, reach):
    return abs(np.subtract.outer(np.arange(size), np.arange(size))) <= reach


def _light_cone(speeds):
    def step(carry, row):
        place, speed = carry
        speed = jnp.clip(speed + row, -1, 1)
        return (place + speed, speed), (place > 0).astype(jnp.float32)

    return lax.scan(step, (jnp.float32(0), jnp.float32(0)), speeds)[1]


def _rewards(actions):
    """The action of a step moves what the next steps see, until the episode's third step resets it."""

    def step(i, carry):
        state, rewards = carry
        state = jnp.where(i % 3 == 0, 0.0, state) + actions[i]
        return state, rewards.at[i].set(jnp.round(state))

    return lax.fori_loop(0, 6, step, (jnp.float32(0), jnp.zeros(6)))[1]


def _stencil(image):
    padded = jnp.pad(image, 1)
    rows = [padded[i : i + 5, j : j + 5] for i in range(3) for j in range(3)]
    return jnp.median(jnp.stack(rows), axis=0) > 0


ROWS = np.kron(np.eye(3), np.ones((4, 4))) > 0
EXACT = {  # a function of x, the shape of x, and which elements of x the results read
    "elementwise": (lambda x: jnp.where(jnp.round(x) > 0, jnp.floor(x), 1.0) * 2, (12,), np.eye(12) > 0),
    "blocks": (lambda x: jnp.argmax(x.reshape(3, 4), axis=1), (12,), ROWS[::4]),
    "rows": (jax.vmap(lambda row: jnp.sort(row) / row.sum()), (3, 4), ROWS),
    "softmax": (jax.nn.softmax, (3, 4), ROWS),
    "rows of solvers": (
        jax.vmap(lambda row: jnp.linalg.solve(row.reshape(2, 2) + jnp.eye(2), row[:2])),
        (3, 4),
        ROWS[[0, 1, 4, 5, 8, 9]],
    ),
    "rows of gathers": (jax.vmap(lambda row: row[jnp.argmax(row)]), (3, 4), ROWS[::4]),
    "rows of scatters": (jax.vmap(lambda row: row.at[jnp.argmax(row)].set(0.0)), (3, 4), ROWS),
    "examples of a network": (
        lambda x: jnp.argmax(jnp.tanh(x @ jnp.ones((4, 5))) @ jnp.ones((5, 2)), 1),
        (3, 4),
        ROWS[::4],
    ),
    "rows of loops": (
        jax.vmap(lambda row: lax.while_loop(lambda s: s[0] > 1, lambda s: jnp.floor(s / 2), row)),
        (4, 4),
        np.kron(np.eye(4), np.eye(4) + np.eye(4)[0]) > 0,
    ),
    "convolution": (lambda x: jnp.convolve(x, jnp.ones(5), mode="same"), (12,), _near(12, 2)),
    "pool": (lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (3,), (1,), "SAME"), (12,), _near(12, 1)),
    "stencil": (_stencil, (5, 5), np.kron(_near(5, 1), _near(5, 1))),
    "differences": (lambda x: jnp.sign(x[1:] - x[:-1]), (12,), _near(12, 1)[1:] & np.tri(11, 12, 1, bool)),
    "cumulative": (jnp.cumsum, (12,), np.tri(12, dtype=bool)),
    "cumulative, back": (lambda x: lax.cummax(x, reverse=True), (12,), np.tri(12, dtype=bool).T),
    "light cone": (_light_cone, (12,), np.tri(12, 12, -1, dtype=bool)),
    "episodes": (_rewards, (6,), np.kron(np.eye(2), np.tri(3)) > 0),
    "known zeros": (lambda x: x * WEIGHTS, SHAPE, np.diag(WEIGHTS.ravel() != 0)),
    "dot with zeros": (lambda x: WEIGHTS @ x, (3,), WEIGHTS != 0),
    "dot with zeros, left": (lambda x: x @ WEIGHTS, (2,), WEIGHTS.T != 0),
    "replaced": (
        lambda x: x.at[2].set(0.0).at[1].add(x[0]),
        (4,),
        np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0] * 4, [0, 0, 0, 1]]) > 0,
    ),
    "a branch that is known": (
        lambda x: lax.cond(True, lambda x: x, lambda x: x[::-1], x),
        (4,),
        np.eye(4) > 0,
    ),
    "random numbers": (lambda x: x + jax.random.normal(jax.random.key(1), (4,)), (4,), np.eye(4) > 0),
    "shape alone": (lambda x: jnp.zeros_like(x) + x.size, (4,), np.zeros((4, 4), bool)),
}


@pytest.mark.parametrize("name", EXACT)
def test_patterns_are_exact(name):
    function, shape, pattern = EXACT[name]
    np.testing.assert_array_equal(_pattern(function, jnp.zeros(shape)), pattern)


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((2, 0), (1, 3)), ((-1, 1), (0, -2))])
@pytest.mark.parametrize("dilations", [((1, 1), (1, 1)), ((2, 1), (1, 3)), ((1, 3), (2, 1))])
def test_windows_are_those_of_the_derivative_of_their_sum(strides, padding, dilations):
    def total(x):
        return lax.reduce_window(x, 0.0, lax.add, (2, 3), strides, padding, *dilations)

    def convolved(x):
        kernel = jnp.ones((4, 2, 2, 3))
        options = dict(lhs_dilation=dilations[0], rhs_dilation=dilations[1], feature_group_count=2)
        image = jnp.stack([x, x[::-1], 2 * x, x[:, ::-1]])[None]
        return lax.conv_general_dilated(image, kernel, strides, padding, **options)

    x = jnp.ones((5, 7))
    for function in (total, convolved):
        slopes = np.asarray(jax.jit(jax.jacobian(function))(x)).reshape(-1, x.size)
        np.testing.assert_array_equal(_pattern(function, x), slopes != 0)


def test_arrays_without_elements_are_read_by_nothing():
    def block(x):
        none = x[:0]
        return jnp.concatenate([none, x]), jnp.pad(none, 1), none.sum(), jnp.sort(none), none[None] @ none

    expected = np.concatenate([np.eye(3), np.zeros((4, 3))]) > 0
    np.testing.assert_array_equal(_pattern(block, jnp.zeros(3)), expected)
    assert _pattern(lambda x: (jnp.sin(x), x.sum()), jnp.zeros(0)).shape == (1, 0)
    assert _pattern(lambda x: 1.0, jnp.zeros(2)).shape == (1, 2)


def test_inputs_are_joined_in_order_and_arguments_are_not_read():
    found = _pattern(
        lambda a, b, c: (b[::-1] * c, a > b.sum()),
        jnp.zeros(1),
        jnp.ones(2),
        jnp.zeros(2),
        of=[True, False, True],
    )
    np.testing.assert_array_equal(found, np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]) > 0)


def test_a_loop_of_a_million_steps_is_followed_until_nothing_changes():
    def far(x):
        def step(carry, _):
            return (carry[0] + carry[1], carry[1], jnp.sin(carry[2])), None

        return lax.scan(step, (x[0], x[1], x[2]), length=10**6)[0]

    np.testing.assert_array_equal(
        _pattern(far, jnp.zeros(4)), np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]) > 0
    )


def test_a_loop_that_stops_by_a_value_reads_it_in_all_that_moves():
    def halved(x):
        return lax.while_loop(lambda s: s[0] > 1, lambda s: (s[0] / 2, s[1] + s[2], s[2]), (x[0], x[1], x[2]))

    np.testing.assert_array_equal(
        _pattern(halved, jnp.zeros(3)), np.array([[1, 0, 0], [1, 1, 1], [0, 0, 1]]) > 0
    )


def test_more_pairs_than_allowed_are_given_up():
    jaxpr = jax.make_jaxpr(jnp.cumsum)(jnp.zeros(100))
    assert reads(jaxpr, [True], most_pairs=5000).pattern is None
    assert isinstance(reads(jaxpr, [True], most_pairs=5100).pattern, sparse.csr_array)


def test_what_is_unknown_is_named_and_reads_all_that_it_is_given():
    shape = jax.ShapeDtypeStruct((2,), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda x: (jax.pure_callback(np.sin, shape, x[1:]), x[0]))(jnp.zeros(3))
    found = reads(jaxpr, [True])
    assert found.unknown == ("pure_callback",)
    np.testing.assert_array_equal(found.pattern.toarray(), np.array([[0, 1, 1], [0, 1, 1], [1, 0, 0]]) > 0)


def test_what_may_read_what_was_written_reads_all_of_x():
    shape, kept = jax.ShapeDtypeStruct((), jnp.float32), []

    def block(x):
        jax.experimental.io_callback(kept.append, None, x[0], ordered=True)
        return jax.experimental.io_callback(kept.pop, shape, ordered=True) + x[1]

    found = reads(jax.make_jaxpr(block)(jnp.zeros(3)), [True])
    assert found.pattern.toarray().all() and "io_callback" in found.unknown[0]


def test_references_are_read_as_if_all_was_written():
    def block(x):
        ref = jax.new_ref(jnp.zeros(2))
        ref[...] = x[:2]
        return ref[...]

    assert reads(jax.make_jaxpr(block)(jnp.zeros(3)), [True]).pattern.toarray().all()


def test_inside_a_trace_constants_are_still_known():
    def outer(scale):
        pattern = _pattern(lambda x: (x * WEIGHTS)[:, jnp.array([0, 2, 1])] * scale, jnp.zeros(SHAPE))
        assert pattern.sum() == (WEIGHTS != 0).sum()
        return scale

    jax.jit(jax.vmap(outer))(jnp.ones(2))


def test_numbers_that_are_rounded_are_not_taken_as_known():
    """Compiled, 0.1 * 3 may be anything near: a condition on it may go either way, a zero stays one."""

    def block(x):
        rounded = jnp.float32(0.1) * jnp.array([3.0, 0.0])
        return jnp.where(rounded > jnp.float32(0.3), x[:2], x[2:]), x[:2] * rounded

    found = _pattern(block, jnp.zeros(4))
    np.testing.assert_array_equal(
        found, np.array([[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0]]) > 0
    )
