"""Run by test_placed.py, with two devices: prints what `jax.shard_map` and meshes of explicit axes change.

python placed.py

For each program: its largest error beside one device's, or the exception; and collectives of compiled ones.
"""

import gc
import json
import os
import re

gc.disable()  # it looks through all that JAX keeps, again and again
given = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = f"{given} --xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"  # of which there are several devices

import jax  # noqa: E402  # after its flags
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import esjax  # noqa: E402

P = jax.sharding.PartitionSpec
KEYS = jax.random.split(jax.random.PRNGKey(0), 2)
X = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)
LOGITS = jax.random.normal(jax.random.PRNGKey(1), (8, 5))
LABELS = jnp.arange(8, dtype=jnp.int32) % 5


def error(found, wanted):
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    return max(
        float(np.abs(np.asarray(f) - np.asarray(w)).max() / (1e-3 + np.abs(w).max())) for f, w in pairs
    )


def attempt(call):
    try:
        return call()
    except Exception as failure:  # whatever it is, the test shows it
        return f"{type(failure).__name__}: {failure}"


def decided(estimator, **options):
    return esjax.smooth_decisions(
        lambda decisions, labels, w: jnp.mean(decisions == labels) * w,
        decision=esjax.decisions.argmax,
        sigma=1.0,
        estimator=estimator,
        **options,
    )


# --- jax.shard_map -----------------------------------------------------------------------------------


def smoothed(fun=lambda x, w: w * jnp.sum(jnp.sign(x)), **options):
    return esjax.smooth(fun, **{"sigma": 0.5, "num_samples": 16} | options)


ONE, SEVERAL = smoothed(), smoothed(lambda x, w: w * jnp.sign(x))
SCORE, LOCAL = (
    decided(esjax.decisions.score, num_samples=4),
    decided(esjax.decisions.local_expectation, num_samples=2),
)


def metrics(x, labels):
    """Of counts, of places and of pairs: x (n,), labels (n,) 0 and 1."""
    listed = esjax.exact.ndcg(x, labels, 1.0, k=2) + esjax.exact.average_precision(x, labels, 1.0)
    counted = esjax.exact.f1(x, labels, 1.0) + esjax.exact.matthews(x, labels, 1.0)
    return listed + counted + esjax.exact.auc(x, labels, 1.0)


ESTIMATORS = {  # (key, x (2, 3), w) -> a number
    "one value": ONE,
    "chunks of independent draws": smoothed(sampler=esjax.samplers.iid, chunk_size=4),
    "several values": lambda *args: SEVERAL(*args).sum(),
    "discard, stand-in": smoothed(
        discard=lambda values: values > 4, control=lambda x, w: w * jnp.tanh(x).sum()
    ),
    "long": lambda key, x, w: ONE(key, jnp.resize(x, 400), w),
    "closed over": lambda key, x, w: smoothed(lambda x: w * jnp.sum(jnp.sign(x)))(key, x) ** 2,
    "control": smoothed(control=(lambda x, w: w * x.sum(), lambda x, sigma, w: w * x.sum())),
    "hessian": lambda key, x, w: (jax.hessian(ONE, 1)(key, x[0], w) ** 2).sum(),
    "score": lambda key, x, w: SCORE(key, x, LABELS[:2], w),
    "local expectation": lambda key, x, w: LOCAL(key, x, LABELS[:2], w),
    "exact": lambda key, x, w: w * esjax.exact.argmax_probs(x, 1.0)[:, 0].sum(),
    "exact, many classes": lambda key, x, w: w * esjax.exact.argmax_probs(jnp.resize(x, 40_000), 1.0)[0],
    "exact metrics": lambda key, x, w: w * metrics(x[0], jnp.array([1, 0, 1])),
    "plain": lambda key, x, w: w * jnp.sin(x).sum() * jax.random.uniform(key),
}


# A gradient in what all have is the sum over devices, so a Hessian's square is no sum; exact takes no key.
PATTERNS = {"hessian": ("x", "key x w"), "exact": ("x", "w"), "exact, many classes": ("x", "w")}
PATTERNS["exact metrics"] = ("x", "w")
ALONE = {name: jax.jit(jax.value_and_grad(function, (1, 2))) for name, function in ESTIMATORS.items()}


def in_shard_map(name, own):
    """Value and gradients on two devices, each of which has its `own` key, x or w."""
    function, varies = ESTIMATORS[name], [each in own for each in ("key", "x", "w")]
    both = KEYS, jnp.stack([X, 1 - X]), jnp.array([2.0, 3.0])
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))

    def step(*args):
        args = [each[0] if has_own else each for each, has_own in zip(args, varies, strict=True)]
        return jax.tree.map(lambda leaf: leaf[None], jax.value_and_grad(function, (1, 2))(*args))

    specs = tuple(P("d") if has_own else P() for has_own in varies)
    args = [each if has_own else each[0] for each, has_own in zip(both, varies, strict=True)]
    found = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=specs, out_specs=P("d")))(*args)
    alone = []
    for device in range(2):
        args = [each[has_own * device] for each, has_own in zip(both, varies, strict=True)]
        alone.append(ALONE[name](*args))
    slopes = [
        np.stack(each if has_own else [sum(each)] * 2)
        for has_own, *each in zip(varies[1:], *(slopes for _, slopes in alone), strict=True)
    ]
    return error(found, (np.stack([value for value, _ in alone]), tuple(slopes)))


# --- meshes of explicit axes -------------------------------------------------------------------------

ACCURACY = esjax.smooth(esjax.blocks.accuracy, sigma=1.0, num_samples=16)
WHOLE = esjax.smooth(lambda x: jnp.sum(jnp.sign(x)), sigma=1.0, num_samples=30)


def mean_accuracy(keys, logits, labels):
    return jax.vmap(ACCURACY)(keys, logits, labels).mean()


PROGRAMS = {  # (keys (8,), logits (8, 5), labels (8,)) -> arrays
    "smooth": lambda k, x, y: jax.value_and_grad(mean_accuracy, 1)(k, x, y),
    "smooth, second order": lambda k, x, y: jax.hessian(mean_accuracy, 1)(k, x, y),
    "report": lambda k, x, y: jax.vmap(ACCURACY.with_info)(k, x, y)[1].gradient_error,
    "one long x": lambda k, x, y: jax.grad(WHOLE, argnums=1)(jax.random.key(3), x),
    "score": lambda k, x, y: jax.grad(SCORE, 1)(jax.random.key(3), x, y, 1.0),
    "local expectation": lambda k, x, y: jax.grad(LOCAL, 1)(jax.random.key(3), x, y, 1.0),
    "accuracy": lambda k, x, y: esjax.exact.accuracy(x, y, 1.0),
    "argmax_probs": lambda k, x, y: esjax.exact.argmax_probs(x, 1.0),
    "top_k_probs": lambda k, x, y: esjax.exact.top_k_probs(x, 2, 1.0),
    "top_k_accuracy": lambda k, x, y: esjax.exact.top_k_accuracy(x, y, 2, 1.0),
    "threshold_probs": lambda k, x, y: esjax.exact.threshold_probs(x, 1.0),
    "accuracy's slope": lambda k, x, y: jax.grad(lambda x: esjax.exact.accuracy(x, y, 1.0).mean())(x),
    "macro-F1's slope": lambda k, x, y: jax.grad(lambda x: esjax.exact.f1(x, y, 1.0))(x),
    "metrics": lambda k, x, y: metrics(x.sum(1), y % 2) + 0 * x,
    "slopes of metrics": lambda k, x, y: jax.grad(lambda x: metrics(x.sum(1), y % 2))(x),
    "vmap of metrics": lambda k, x, y: jax.vmap(lambda x: metrics(x, jnp.arange(5) % 2))(x),
    "vmap of accuracy": lambda k, x, y: jax.vmap(lambda x, y: esjax.exact.accuracy(x, y, 1.0))(x, y),
}
COLLECTIVE = r"\b(all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)\b"


def on_explicit_axes():
    """Without, and then with, that mesh as the one of `jax.set_mesh`."""
    args = jax.random.split(jax.random.PRNGKey(2), 8), LOGITS, LABELS
    alone = {name: jax.jit(program)(*args) for name, program in PROGRAMS.items()}
    mesh, specs = jax.make_mesh((2, 1), ("d", "e")), (P("d"), P("d", "e"), P("d"))
    placed = [jax.device_put(a, jax.NamedSharding(mesh, spec)) for a, spec in zip(args, specs, strict=True)]

    def run(name):
        compiled = jax.jit(PROGRAMS[name]).lower(*placed).compile()
        found = compiled(*placed)
        spec = jax.tree.leaves(found)[-1].sharding.spec
        return error(found, alone[name]), str(spec), sorted(set(re.findall(COLLECTIVE, compiled.as_text())))

    results = {"explicit": {name: attempt(lambda name=name: run(name)) for name in PROGRAMS}}
    jax.set_mesh(mesh)
    return results | {"set_mesh": {name: attempt(lambda name=name: run(name)) for name in PROGRAMS}}


def inside_shard_map():
    return {
        f"{name}, of each device {what}": attempt(
            lambda name=name, what=what: in_shard_map(name, what.split())
        )
        for name in ESTIMATORS
        for what in PATTERNS.get(name, ("key", "x", "key x w"))
    }


print(json.dumps({"shard_map": inside_shard_map()} | on_explicit_axes()))  # whose `set_mesh` comes last
