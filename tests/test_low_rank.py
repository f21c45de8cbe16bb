"""Programs evaluated with weights in parts: each sample's result is that of its weights as matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esjax._jaxpr import cuts, low_rank, splitting
from esjax._jaxpr.low_rank import Sampled, Weight

COUNT, RANK = 3, 2
KEY = jax.random.key(0)
SAMPLED = "differs between samples"


def _normal(number, *shape):
    return jax.random.normal(jax.random.fold_in(KEY, number), shape)


def _weight(number, array, rows, rank=RANK):
    """Returns a weight whose first `rows` axes are rows."""
    left = [size if axis < rows else 1 for axis, size in enumerate(array.shape)]
    right = [1 if axis < rows else size for axis, size in enumerate(array.shape)]
    a, b = _normal(number, COUNT, *left, rank), _normal(number + 100, COUNT, *right, rank)
    return Weight(array, a, b, f"w{number}")


def _evaluated(function, arrays, kinds, rank=RANK):
    """Returns the results found, those wanted, one for each sample, and what became a matrix."""
    inputs, dense, axes = [], [], []
    for number, (array, kind) in enumerate(zip(arrays, kinds, strict=True)):
        value = array
        if kind == SAMPLED:
            value = Sampled(array[None] + _normal(number, COUNT, *array.shape).astype(array.dtype))
        elif kind is not None:
            value = _weight(number, array, kind, rank)
        inputs.append(value)
        axes.append(None if kind is None else 0)
        if isinstance(value, Weight):
            value = np.asarray(array)[None] + np.sum(np.asarray(value.left) * np.asarray(value.right), -1)
        dense.append(value.array if isinstance(value, Sampled) else value)
    notes = []
    program = jax.make_jaxpr(function)(*arrays)

    @jax.jit
    def both(inputs, dense):
        (found,) = low_rank.evaluate(program, inputs, COUNT, notes.append)
        return found.array, jax.vmap(function, in_axes=axes)(*dense)

    return *both(inputs, dense), notes


def _assert_same(found, wanted):
    scale = np.max(np.abs(wanted))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * scale)


X, W = _normal(50, 5, 4), _normal(51, 4, 6)
STACK, SQUARES = _normal(52, 3, 4, 6), _normal(53, 6, 4, 4)
TABLE = _normal(54, 7, 4)


def _cell(h, w):
    return jnp.tanh(h @ w), h.sum()


@jax.custom_vjp
def _own_rule(x, w):
    return x @ w


_own_rule.defvjp(lambda x, w: (x @ w, (x, w)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))

IN_PARTS = {
    "product": (lambda x, w: x @ w, (X, W), 1),
    "on the left, transposed": (lambda x, w: w.T @ x.T, (X, W), 1),
    "batch axes": (
        lambda x, w: jnp.einsum("bhd,hde->bhe", x, w),
        (_normal(1, 2, 3, 4), _normal(2, 3, 4, 5)),
        1,
    ),
    "two axes contracted": (
        lambda x, w: jnp.einsum("bhd,hde->be", x, w),
        (_normal(1, 2, 3, 4), _normal(2, 3, 4, 5)),
        2,
    ),
    "heads": (lambda x, w: jnp.einsum("bd,dhe->bhe", x, w), (X, _normal(2, 4, 3, 5)), 1),
    "scaled and cast": (lambda x, w: x @ (-w * 0.5 / jnp.sqrt(3.0)).astype(jnp.float32), (X, W), 1),
    "columns scaled": (lambda x, w: x @ (w * jnp.arange(6.0)[None]), (X, W), 1),
    "rows scaled": (lambda x, w: x @ (w / jnp.arange(1.0, 5.0)[:, None]), (X, W), 1),
    "shifted": (lambda x, w: x @ (1.0 - w), (X, W), 1),
    "axes joined": (lambda x, w: x @ w.reshape(4, 6), (X, _normal(2, 4, 2, 3)), 1),
    "axes joined across the cut": (lambda x, w: x @ w.reshape(4, 6), (X, _normal(2, 2, 2, 6)), 1),
    "parted": (lambda x, w: sum(x @ part for part in jnp.split(w, 3, 1)), (X, W), 1),
    "sliced, reversed": (lambda x, w: x @ w[:, ::-1][:, 1:4], (X, W), 1),
    "one of a stack": (lambda x, w: x @ w[1], (X, STACK), 2),
    "one of a stack, in a loop": (
        lambda x, w: jax.lax.fori_loop(0, 6, lambda i, h: jnp.tanh(h @ w[i]), x),
        (X, SQUARES),
        2,
    ),
    "scan over layers": (lambda x, w: jax.lax.scan(_cell, x, w)[0], (X, SQUARES), 2),
    "scan over layers, backwards": (lambda x, w: jax.lax.scan(_cell, x, w, reverse=True)[1], (X, SQUARES), 1),
    "constant in a scan": (
        lambda x, w: jax.lax.scan(lambda h, _: (jnp.tanh(h @ w), None), x, None, length=3)[0],
        (X, SQUARES[0]),
        1,
    ),
    "remat and jit": (jax.checkpoint(lambda x, w: jax.jit(jnp.matmul)(x, w)), (X, W), 1),
    "a derivative rule": (_own_rule, (X, W), 1),
    "used twice": (lambda x, w: jnp.tanh(x @ w) @ w.T, (X, W), 1),
}


@pytest.mark.parametrize("x_kind", [None, SAMPLED], ids=["x the same", "x sampled"])
@pytest.mark.parametrize("name", IN_PARTS)
def test_a_weight_stays_in_parts_until_a_product(name, x_kind):
    function, arrays, rows = IN_PARTS[name]
    found, wanted, notes = _evaluated(function, arrays, (x_kind, rows))
    _assert_same(found, wanted)
    assert notes == []


@pytest.mark.parametrize("rank", [1, 6])
def test_products_are_right_at_ranks_that_are_summed_in_other_ways(rank):
    for x_kind in (None, SAMPLED):
        found, wanted, _ = _evaluated(jnp.matmul, (X, W), (x_kind, 1), rank)
        _assert_same(found, wanted)


@pytest.mark.parametrize("x_kind", [None, SAMPLED], ids=["x the same", "x sampled"])
@pytest.mark.parametrize(
    ("strides", "padding", "dilation", "dilated"),
    [
        ((1, 1), "SAME", (1, 1), (1, 1)),
        ((2, 2), "VALID", (1, 2), (1, 1)),
        ((2, 1), ((1, 0), (2, 1)), (1, 1), (1, 1)),
        ((1, 2), ((-1, 2), (0, -2)), (2, 1), (3, 2)),
    ],
)
@pytest.mark.parametrize(
    ("layout", "x_shape", "kernel_shape", "rows"),
    [
        (("NHWC", "HWIO", "NHWC"), (2, 7, 8, 3), (3, 2, 3, 5), 3),
        (("NCHW", "OIHW", "NCHW"), (2, 3, 7, 8), (5, 3, 3, 2), 1),
        (("NHWC", "HWIO", "NCHW"), (2, 7, 8, 3), (3, 2, 3, 5), 3),
    ],
)
def test_convolutions_share_their_kernel(
    layout, x_shape, kernel_shape, rows, strides, padding, dilation, dilated, x_kind
):
    def convolved(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, strides, padding, dilated, rhs_dilation=dilation, dimension_numbers=layout
        )

    arrays = _normal(1, *x_shape), _normal(2, *kernel_shape)
    found, wanted, notes = _evaluated(convolved, arrays, (x_kind, rows))
    _assert_same(found, wanted)
    assert notes == []


@pytest.mark.parametrize("tokens", [np.array([1, 3, 2]), np.array([[1, 3, 2], [0, -1, 6]])])
def test_rows_of_a_table_and_its_transpose_are_tied(tokens):
    for look_up in (lambda table, at: table[at], lambda table, at: jnp.take(table, at, axis=0, mode="clip")):
        found, wanted, notes = _evaluated(
            lambda table, at, look_up=look_up: jnp.tanh(look_up(table, at)) @ table.T,
            (TABLE, tokens),
            (1, None),
        )
        _assert_same(found, wanted)
        assert notes == []


@pytest.mark.parametrize("kind", [None, SAMPLED], ids=["one branch", "a branch for each sample"])
def test_branches_are_entered(kind):
    def chosen(x, w, p):
        return jax.lax.cond(p > 0, lambda x, w: x @ w, lambda x, w: 2 * x @ w, x, w)

    for p in (0.1, -0.1):
        found, wanted, notes = _evaluated(chosen, (X, W, jnp.float32(p)), (None, 1, kind))
        _assert_same(found, wanted)
        assert notes == []


BECOME_MATRICES = {
    "sin": (lambda x, w: x @ jnp.sin(w), (X, W), 1),
    "while": (
        lambda x, w: jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.tanh(c[1] @ w)), (0, x))[
            1
        ],
        (X, SQUARES[0]),
        1,
    ),
    "dot_general": (lambda x, w: x @ (w @ w.T), (X, W), 1),
    "conv_general_dilated": (
        lambda x, w: jax.lax.conv_general_dilated(x, w, (1,), "SAME", feature_group_count=3),
        (_normal(1, 2, 3, 8), _normal(2, 6, 1, 3)),
        1,
    ),
    "mul": (lambda x, w: x @ (w * x[:4, :1]), (X, W), 1),
    "the value of fun": (lambda x, w: w.T, (X, W), 1),
}


@pytest.mark.parametrize("name", BECOME_MATRICES)
def test_whatever_else_a_weight_meets_makes_it_a_matrix_and_is_noted(name):
    function, arrays, rows = BECOME_MATRICES[name]
    found, wanted, notes = _evaluated(function, arrays, (SAMPLED, rows))
    _assert_same(found, wanted)
    assert notes and all(note.startswith("w1 [") and f"in {name}" in note for note in notes)
    assert name == "the value of fun" or all("test_low_rank.py" in note for note in notes)


def test_what_no_noise_reaches_is_computed_once():
    def function(x, w):
        return jnp.tanh(jnp.sin(x) @ w) @ w.T

    weight = _weight(1, W, 1)
    program = jax.make_jaxpr(function)(X, W)

    def results(count):
        def of(left, right, base, x):
            (found,) = low_rank.evaluate(program, [x, Weight(base, left, right, "w")], count, lambda _: None)
            return found.array

        return jax.make_jaxpr(of)(weight.left[:count], weight.right[:count], W, X)

    known = [False, False, True, True]
    split = splitting.split(results(2), known, splitting.known_equations(results(2), known, results(3)))
    first, second = ([eqn.primitive.name for eqn in part.jaxpr.eqns] for part in (split.first, split.second))
    assert first.count("sin") == 1 and first.count("dot_general") == 1 and "sin" not in second
    shared = splitting.run(split.first, W, X)
    (found,) = splitting.run(split.second, weight.left[:2], weight.right[:2], *shared)
    dense = W[None] + (weight.left * weight.right).sum(-1)[:2]
    _assert_same(found, jax.vmap(function, in_axes=(None, 0))(X, dense))
    assert splitting.growth(results(2).jaxpr, results(3).jaxpr) == 5 * 6


def _conv(x, w):
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


CUTS = {  # the rows and the columns of w
    "product": (lambda x, w: x @ w, (X, W), ((0,), (1,))),
    "transposed": (lambda x, w: x @ w.T, (X, TABLE), ((1,), (0,))),
    "kernel": (_conv, (_normal(1, 2, 8, 8, 3), _normal(2, 5, 5, 3, 4)), ((0, 1, 2), (3,))),
    "table": (lambda at, w: w[at], (np.array([1, 2]), TABLE), ((0,), (1,))),
    "heads": (lambda x, w: jnp.einsum("bd,dhe->bhe", x, w), (X, _normal(2, 4, 3, 5)), ((0,), (1, 2))),
    "joined": (lambda x, w: x @ w.reshape(4, 6), (X, _normal(2, 2, 2, 6)), ((0, 1), (2,))),
    "layers": (lambda x, w: jax.lax.scan(_cell, x, w)[0], (X, SQUARES), ((0, 1), (0, 2))),
    "one of a stack": (lambda x, w: x @ (0.5 * w[1]), (X, STACK), ((0, 1), (0, 2))),
    "batch": (
        lambda x, w: jnp.einsum("bhd,hde->bhe", x, w),
        (_normal(1, 2, 3, 4), _normal(2, 3, 4, 5)),
        ((0, 1), (0, 2)),
    ),
}


@pytest.mark.parametrize("name", CUTS)
def test_rows_and_columns_are_what_the_first_product_makes_of_them(name):
    function, arrays, (rows, columns) = CUTS[name]
    (cut,) = cuts.cuts(jax.make_jaxpr(function)(*arrays), [False, True])
    assert tuple(np.flatnonzero(cut.left)) == rows and tuple(np.flatnonzero(cut.right)) == columns


def test_what_no_product_takes_has_no_cut():
    """A scale or a bias reaches a product, as part of an activation, but is not what it takes."""
    scale = jax.make_jaxpr(lambda x, w: (x[:, None] * w[None]) @ jnp.ones((4, 2)))(X, _normal(1, 3, 4))
    bias = jax.make_jaxpr(lambda x, w: (x[:, None] + w[None]) @ jnp.ones((4, 2)))(X, _normal(1, 3, 4))
    assert cuts.cuts(scale, [False, True]) == cuts.cuts(bias, [False, True]) == [None]


@pytest.mark.parametrize("rank", [1, 8])
def test_an_axis_of_size_0_is_kept(rank):
    """No examples, no inputs or no weights: products and sums of nothing, of the shapes that they have."""
    wide = jnp.zeros((0, 6))
    for function, arrays, kinds in (
        (lambda x, w: x @ w, (jnp.zeros((0, 4)), W), (None, 1)),
        (lambda x, w: x @ jnp.sin(w), (jnp.zeros((5, 0)), wide), (None, 1)),
        (lambda x, w: w @ x.T, (jnp.zeros((0, 6)), W), (None, 1)),
    ):
        found, wanted, _ = _evaluated(function, arrays, kinds, rank)
        assert found.shape == wanted.shape
        np.testing.assert_array_equal(found, wanted)
