"""Every kind of misuse in one table: the error's type, the argument that it names, and the remedy."""

import copy
import functools
import inspect
import re
import traceback
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image
from scipy import sparse, stats
from sklearn import metrics

import esjax
from esjax import blocks, credit, decisions, diagnostics, exact, host, noise, samplers

KEY = jax.random.key(0)
X, Y = jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32)
ROW, CLASSES = np.zeros(3, np.float32), np.array([0, 1, 2])
NUMBER = jax.ShapeDtypeStruct((), jnp.float32)
NAN, INF = float("nan"), float("inf")


def _step(x):
    return jnp.where(x > 0, 1.0, 0.0)


def _summed(*_):
    return jnp.float32(1)


def _three(key, dtype):
    return jax.random.normal(key, (3,), dtype)


def _control(value, mean):
    return (lambda x: value), (lambda x, sigma: mean)


# --- esjax.smooth -------------------------------------------------------------------------------------


def _smooth(x=1.0, args=(), key=KEY, at=None, **options):
    options = {"fun": _step, "sigma": 1.0, "num_samples": 4} | options
    return lambda: esjax.smooth(options["fun"], **_but(options, "fun"))(key, x, *args, sigma=at)


def _but(options, *names):
    return {name: value for name, value in options.items() if name not in names}


_TRACED = "fun is traced by JAX", r"jnp\.where in place of if", r"esjax\.host\.wrap\(python_fun, jax\.Shape"
UNTRACEABLE = {
    "branches": lambda x: 1.0 if x.sum() > 0 else 0.0,
    "to float": lambda x: float(x.sum()),
    "to item": lambda x: x.sum().item(),
    "in a jit": jax.jit(lambda x: 1.0 if x.sum() > 0 else 0.0),
    "sorts by NumPy": lambda x: np.sort(x).sum(),
    "picks from a list": lambda x: [1.0, 2.0][x.argmax()],
    "picks from a dict": lambda x: {0: 1.0}[x.argmax()],
    "masks": lambda x: x[x > 0].sum(),
    "slices": lambda x: x[: x.argmax()].sum(),
    "makes arrays": lambda x: jnp.ones(x.argmax()).sum(),
    "prints": lambda x: float(f"{x.sum():.2f}"),
    "of scikit-learn": lambda x: metrics.f1_score([0, 1, 1], x > 0),
    "of SciPy": lambda x: stats.spearmanr(CLASSES, x)[0],
    "of SciPy, in its words": lambda x: sparse.csr_matrix(x[None]).sum(),
    "of Pillow": lambda x: Image.fromarray(x),
}
"""Functions of x (3,) that JAX cannot trace, each for another reason."""

_ONE_KEY = r"is not one PRNG key; pass jax\.random\.key"

SMOOTH = {
    "fun no function": (_smooth(fun=3), "fun=3 is not callable", "pass the function"),
    "sigma zero": (_smooth(sigma=0.0), r"sigma=0\.0", "finite number > 0", "from_logits suggests"),
    "sigma negative": (_smooth(sigma=-1.0), r"sigma=-1\.0", "finite number > 0"),
    "sigma NaN": (_smooth(sigma=NAN), "sigma=nan", "finite number > 0"),
    "sigma infinite": (_smooth(sigma=INF), "sigma=inf", "finite number > 0"),
    "sigma 0 in float32": (_smooth(sigma=1e-300), "sigma=1e-300", "> 0 in float32"),
    "sigma inf in float32": (_smooth(sigma=1e300), r"sigma=1e\+300", "finite .* in float32"),
    "sigma text": (_smooth(sigma="a"), "sigma='a' is not a number", "use numbers > 0"),
    "sigma None": (_smooth(sigma=None), "sigma=None is not a number", "use numbers > 0"),
    "sigma bool": (_smooth(sigma=True), "sigma=True is not a number", "use numbers > 0"),
    "sigma complex": (_smooth(sigma=1j), "sigma=1j is not a number", "use numbers > 0"),
    "sigma has a zero": (_smooth(jnp.ones(2), sigma=jnp.array([1.0, 0.0])), r"sigma=0\.0", "> 0"),
    "sigma has a negative": (_smooth({"a": jnp.ones(2)}, sigma={"a": -2.0}), r"sigma\['a'\]=-2\.0", "> 0"),
    "sigma structure": (
        _smooth({"a": jnp.ones(2)}, sigma={"b": 1.0}),
        "sigma has structure",
        "give one number",
    ),
    "sigma shape": (
        _smooth(jnp.ones(2), sigma=jnp.ones(3)),
        r"sigma has shape \(3,\), and x there has \(2,\)",
        "give one number",
    ),
    "sigma at the call": (_smooth(at=0.0), r"sigma=0\.0", "finite number > 0"),
    "sigma at the call text": (_smooth(at="a"), "sigma='a' is not a number", "use numbers > 0"),
    "num_samples zero": (_smooth(num_samples=0), "num_samples=0", "whole number >= 1"),
    "num_samples float": (_smooth(num_samples=2.0), r"num_samples=2\.0", "whole number >= 1"),
    "num_samples bool": (_smooth(num_samples=True), "num_samples=True", "whole number >= 1"),
    "num_samples text": (_smooth(num_samples="4"), "num_samples='4'", "whole number >= 1"),
    "num_samples beyond int32": (_smooth(num_samples=2**31), "num_samples=2147483648", "average several"),
    "num_samples one": (_smooth(num_samples=1), "num_samples=1 ", "num_samples >= 2", "baselines.none"),
    "num_samples one, ranks": (
        _smooth(num_samples=1, baseline=esjax.baselines.centered_rank),
        "num_samples=1 ",
        "num_samples >= 2",
    ),
    "num_samples odd": (
        _smooth(num_samples=3, sampler=samplers.antithetic),
        "num_samples=3 is odd",
        "use num_samples=4",
    ),
    "num_samples one group": (
        _smooth(num_samples=2, sampler=samplers.antithetic),
        "num_samples=2 makes 1 .*group.* of 2",
        "use num_samples >= 4",
    ),
    "chunk_size zero": (_smooth(chunk_size=0), "chunk_size=0", "whole number >= 1"),
    "discard no function": (_smooth(discard=1), "discard=1 is not callable", r"jnp\.isnan"),
    "discard no bool": (_smooth(discard=jnp.abs), "discard turns values.*float32", "return one bool"),
    "discard one bool": (
        _smooth(discard=lambda v: jnp.isnan(v).any()),
        r"discard turns values \(1,\) into \(\)",
        "return one bool",
    ),
    "discard text": (_smooth(discard=lambda v: "a"), "value of discard='a'", "return arrays from discard"),
    "control no function": (_smooth(control=1), "control=1", "must be a function c, or a pair"),
    "control value": (
        _smooth(control=_control(jnp.ones(2), 1.0)),
        r"control\[0\] returns",
        "of the same structure",
    ),
    "control mean": (
        _smooth(control=_control(jnp.float32(1), jnp.ones(2))),
        r"control\[1\] returns",
        "of the same structure",
    ),
    "control and six samples": (
        _smooth(control=_control(1.0, 1.0), num_samples=6),
        "num_samples=6",
        "multiple of 4 with control",
    ),
    "stand-in of another shape": (
        _smooth(control=lambda x: jnp.stack([x, x])),
        "control returns",
        "same structure, shapes and dtypes",
    ),
    "stand-in of whole numbers": (
        _smooth(control=lambda x: (x > 0).astype(jnp.int32)),
        "control returns .*int32",
        "same structure, shapes and dtypes",
    ),
    "stand-in without a derivative": (
        _smooth(control=_step),
        "control has the derivative 0 in x everywhere",
        r"jax\.nn\.sigmoid",
    ),
    "stand-in on the host": (
        _smooth(control=host.wrap(lambda x: x, NUMBER)),
        "control has no derivative in x .*has no gradient",
        r"jax\.nn\.sigmoid",
    ),
    "stand-in and ranks": (
        _smooth(control=jnp.tanh, baseline=esjax.baselines.centered_rank),
        "baseline=.*transforms values",
        "leave control out",
    ),
    "stand-in and one group": (
        _smooth(control=jnp.tanh, num_samples=1, baseline=esjax.baselines.none),
        "num_samples=1 makes 1 independent group",
        "use num_samples >= 2",
    ),
    "control and discard": (
        _smooth(control=_control(1.0, 1.0), discard=jnp.isnan),
        "discard=.*together with control=",
        "use one of the two",
    ),
    "noise text": (_smooth(noise="normal"), "noise='normal' is not a Noise", r"pass esjax\.noise\.normal"),
    "noise misspelt": (
        _smooth(noise="gaussian"),
        "noise='gaussian'",
        r"one of esjax\.noise: cauchy, .*normal",
    ),
    "sampler text": (_smooth(sampler="sobol"), "sampler='sobol'", r"pass esjax\.samplers\.sobol itself"),
    "sampler None": (_smooth(sampler=None), "sampler=None", r"one of esjax\.samplers: antithetic, auto, iid"),
    "sampler no Groups": (_smooth(sampler=lambda *_: 3), "sampler=.* returns a int", r"samplers\.Groups"),
    "sampler empty groups": (
        _smooth(sampler=lambda *_: samplers.Groups(0, None)),
        "sampler's groups=0",
        "whole number >= 1",
    ),
    "sampler other shape": (
        _smooth(sampler=lambda *_: samplers.Groups(2, _three)),
        r"sampler=.*draws float32\[3\] for a group of 2",
        r"return float32\[2, 1\]",
    ),
    "baseline text": (_smooth(baseline="none"), "baseline='none'", r"pass esjax\.baselines\.none itself"),
    "credit text": (_smooth(credit="auto"), "credit='auto'", r"pass esjax\.credit\.auto itself"),
    "credit shape": (
        _smooth(jnp.ones(2), credit=credit.declared(np.ones((1, 3), bool))),
        r"reads has shape \(1, 3\)",
        r"booleans \(2, 2\)",
    ),
    "credit dtype": (lambda: credit.declared(np.ones((1, 2))), r"reads is float64\[1, 2\]", "elementwise"),
    "baseline None": (_smooth(baseline=None), "baseline=None", r"one of esjax\.baselines: at_input, .*none"),
    "sharding text": (_smooth(sharding="x"), "sharding='x'", "NamedSharding"),
    "key a number": (_smooth(key=0), "key=0 " + _ONE_KEY),
    "key None": (_smooth(key=None), "key=None " + _ONE_KEY),
    "key floating": (_smooth(key=jnp.float32(1)), r"key=float32\[\] " + _ONE_KEY),
    "key of three words": (_smooth(key=jnp.zeros(3, jnp.uint32)), r"key=uint32\[3\] " + _ONE_KEY),
    "key nnx.Rngs": (_smooth(key=nnx.Rngs(0)), "key is an nnx.Rngs", r"pass one, such as rngs\(\)"),
    "key a stream": (_smooth(key=nnx.Rngs(0).noise), "key is an nnx.RngStream", r"or rngs\.params\(\)"),
    "keys": (_smooth(key=jax.random.split(KEY, 3)), r"key=key<fry>\[3\] " + _ONE_KEY, "jax.vmap over"),
    "x text": (_smooth("a"), "x='a' is not an array", "pass arrays"),
    "x objects": (_smooth(np.array([None])), "x=array.*is not an array", "pass arrays"),
    "x integer": (_smooth(1), "x has dtype int32", r"astype\(jnp\.float32\)"),
    "x complex": (_smooth(1j), "x has dtype complex64", r"\(z\.real, z\.imag\), and jax\.lax\.complex"),
    "x a key": (_smooth(KEY), "x has dtype key", "pass it in args"),
    "x with integers": (
        _smooth({"a": 1.0, "b": jnp.arange(2)}),
        r"x\['b'\] has dtype int32",
        r"astype\(jnp\.float32\)",
    ),
    "x empty": (_smooth({}), "x has no arrays", "give at least one"),
    "x None": (_smooth(None), "x has no arrays", "give at least one"),
    "args of 64 bits": (
        _smooth(fun=lambda x, a: x * a.astype(x.dtype), args=(np.array([2**32 + 1]),)),
        r"args\[0\] holds 4294967297",
        "renumber.*jax_enable_x64",
    ),
    "args text": (
        _smooth(fun=lambda x, how: x, args=("mean",)),
        r"args\[0\]='mean' is not an array",
        "let fun close over.* as functools.partial",
    ),
    "args texts": (
        _smooth(fun=lambda x, texts: x, args=({"text": ["a"]},)),
        r"args\[0\]\['text'\]\[0\]='a' is not an array",
        r"pass its index in a list, .*esjax\.host\.wrap",
    ),
    "fun to bool": (_smooth(fun=lambda x: x > 0), "value of fun has dtype bool", "return floating arrays"),
    "fun to integer": (
        _smooth(fun=lambda x: (x, jnp.int32(1))),
        r"value of fun\[1\] has dtype int32",
        "return floating arrays",
    ),
    "fun to complex": (
        _smooth(fun=lambda x: x + 1j),
        "value of fun has dtype complex64",
        r"two leaves, \(z\.real, z\.imag\)",
    ),
    "fun to nothing": (_smooth(fun=lambda x: None), "value of fun has no arrays", "give at least one"),
    "fun to text": (_smooth(fun=lambda x: "a"), "value of fun='a' is not an array", "return arrays from fun"),
    **{f"fun {name}": (_smooth(jnp.arange(3.0), fun=fun), *_TRACED) for name, fun in UNTRACEABLE.items()},
    "fun branches on args": (
        _smooth(fun=lambda x, flip: -x if flip else x, args=(True,)),
        *_TRACED,
        r"close over flags and sizes, as functools\.partial",
    ),
    "discard branches": (
        _smooth(discard=lambda v: v > 0 and v < 1),
        "discard is traced by JAX",
        r"jnp\.where in place of if",
    ),
}

# --- esjax.smooth_decisions, esjax.decisions ----------------------------------------------------------


def _differentiating(chosen):
    return jax.grad(jnp.sum)(chosen)


def _branching(x, sigma, noise):
    return decisions.argmax(x if np.asarray(x).sum() > 0 else -x, sigma, noise)


def _decide(x=X, args=(), key=KEY, **options):
    given = {
        "fun": lambda chosen: chosen.sum().astype(jnp.float32),
        "decision": decisions.argmax,
        "sigma": 1.0,
        "num_samples": 4,
    } | options
    return lambda: esjax.smooth_decisions(given["fun"], **_but(given, "fun"))(key, x, *args)


_LOCAL = decisions.local_expectation

DECISIONS = {
    "fun no function": (_decide(fun=3), "fun=3 is not callable", "pass the function"),
    "fun to integers": (_decide(fun=lambda c: c.sum()), "value of fun has dtype int32", "return floating"),
    "fun to text": (_decide(fun=lambda c: "a"), "value of fun='a' is not an array", "return arrays"),
    "fun differentiates": (_decide(fun=_differentiating), "fun asks for a derivative", "esjax.smooth"),
    "fun branches": (_decide(fun=lambda c: 1.0 if c[0] > 0 else 0.0), *_TRACED),
    "fun branches on args": (_decide(fun=lambda c, up: 1.0 if up else 0.0, args=(True,)), *_TRACED),
    "decision text": (
        _decide(decision="argmax"),
        "decision='argmax'",
        r"pass esjax\.decisions\.argmax itself",
    ),
    "decision unknown": (_decide(decision="top_k"), "decision='top_k'", "decisions: argmax, threshold, rank"),
    **{
        f"decision branches{where}": (call, "decision is traced by JAX", r"jnp\.where in place of if")
        for where, call in {
            "": _decide(decision=_branching),
            " in jit": lambda: jax.jit(lambda x: _decide(x, decision=_branching)())(X),
        }.items()
    },
    "decision no Law": (
        _decide(decision=lambda x, sigma, noise: 3),
        "decision=.*returns a int",
        r"return a decisions\.Law",
    ),
    "decision of JAX": (
        _decide(decision=jnp.argmax),
        "decision=.*is not a function .*Law",
        "use one of esjax.decisions",
    ),
    "estimator text": (_decide(estimator="score"), "estimator='score'", r"pass esjax\.decisions\.score itse"),
    "estimator None": (
        _decide(estimator=None),
        "estimator=None",
        "decisions: score, local_expectation, enum",
    ),
    "sigma zero": (_decide(sigma=0.0), r"sigma=0\.0", "finite number > 0"),
    "sigma shape": (_decide(sigma=jnp.ones(3)), r"sigma has shape \(3,\)", r"broadcast to \(2,\); use one"),
    "sigma a dict": (_decide(sigma={"a": 1.0}), "sigma is a dict", "give one number"),
    "num_samples zero": (_decide(num_samples=0), "num_samples=0", "whole number >= 1"),
    "num_samples None": (_decide(num_samples=None), "num_samples=None", "score; use num_samples >= 2"),
    "num_samples one": (_decide(num_samples=1), "num_samples=1 is too few for score", ">= 2"),
    "num_samples beyond int32": (_decide(num_samples=2**31), "num_samples=2147483648", "average several"),
    "num_samples None, local": (
        _decide(num_samples=None, estimator=_LOCAL),
        "num_samples=None is too few for local_expectation",
        "use num_samples >= 1",
    ),
    "num_samples, local": (
        _decide(num_samples=2**30, estimator=_LOCAL),
        "num_samples=1073741824 .*more than 2.31 evaluations",
        "use the option coordinates",
    ),
    "num_samples, enumeration": (
        _decide(estimator=decisions.enumeration),
        "num_samples=4 is not used by enumeration",
        "leave it out",
    ),
    "too many outcomes": (
        _decide(jnp.zeros((20, 3)), estimator=decisions.enumeration, num_samples=None),
        "10.9.5 outcomes, and enumeration sums over 65536 at most",
        r"jax\.vmap",
    ),
    "coordinates zero": (
        _decide(estimator=partial(_LOCAL, coordinates=0)),
        "coordinates=0",
        "whole number >= 1",
    ),
    "coordinates too many": (
        _decide(estimator=partial(_LOCAL, coordinates=4)),
        "coordinates=4 is more than the 2 decisions",
        "use fewer, or None",
    ),
    "noise text": (_decide(noise="normal"), "noise='normal' is not a Noise", r"pass esjax\.noise\.normal"),
    "noise without a law": (_decide(noise=noise.cauchy), "noise=cauchy has no closed form", "noise.gumbel"),
    "noise of rankings": (
        _decide(noise=noise.normal, decision=decisions.ranking),
        "noise=.*no known law of rankings",
        "use esjax.noise.gumbel",
    ),
    "noise of thresholds": (
        lambda: decisions.threshold(X, 1.0, "normal"),
        "noise='normal'",
        "noise.logistic",
    ),
    "chunk_size zero": (_decide(chunk_size=0), "chunk_size=0", "whole number >= 1"),
    "key a number": (_decide(key=0), "key=0 " + _ONE_KEY),
    "key nnx.Rngs": (_decide(key=nnx.Rngs(0)), "key is an nnx.Rngs", r"pass one, such as rngs\(\)"),
    "args out of range": (
        _decide(fun=partial(blocks.f1, num_classes=3), args=(CLASSES[1:] + 1,)),
        "labels=3 is out of range",
        "use 0 to 2",
    ),
    "args negative": (
        _decide(X[0], fun=lambda d, r: blocks.ndcg(-d, r), decision=decisions.ranking, args=(-CLASSES,)),
        "relevance holds -1;",
        "give numbers >= 0",
    ),
    "args text": (_decide(args=("a",)), r"args\[0\]='a' is not an array", "pass its index in a list"),
    "x integer": (_decide(X.astype(int)), "x has dtype int32", "give the scores that decide"),
    "x a dict": (_decide({"a": X}), "x is a dict", "give one array"),
    "x text": (_decide("a"), "x='a' is not an array", "give one array of scores"),
    "x empty": (_decide(X[:0]), r"x has shape \(0, 3\)", "leave empty batches out"),
    "x with NaN": (_decide(X.at[0, 0].set(NAN)), "x holds NaN", "debug_nans"),
    "x all masked": (_decide(X.at[0].set(-INF)), "x of an example are all −inf", "at least one class"),
    "x of one class": (_decide(X[:, :1]), r"x has shape \(2, 1\)", "at least two classes"),
    "k of too many items": (
        _decide(decision=partial(decisions.ranking, k=9)),
        "k=9 is more than the",
        "use fewer, or None",
    ),
    "k of no items": (_decide(decision=partial(decisions.ranking, k=0)), "k=0", "whole number"),
    "x of one item": (_decide(X[:, :1], decision=decisions.ranking), "x has shape", "at least two items"),
    "x infinite": (
        _decide(X.at[0, 0].set(INF), decision=decisions.ranking),
        "x holds NaN or infinite",
        "give ranking finite ones",
    ),
    "x of ranking text": (lambda: decisions.ranking("a", 1.0), "x='a' is not an array", "array of numbers"),
    "x of threshold text": (lambda: decisions.threshold("a", 1.0), "x='a' is not an array", "of numbers"),
    "x of argmax text": (lambda: decisions.argmax("a", 1.0), "x='a' is not an array", "array of numbers"),
}

# --- esjax.samplers, esjax.noise ----------------------------------------------------------------------

_SAMPLERS = ("iid", "antithetic", "orthogonal", "latin_hypercube", "sobol", "auto")

SAMPLERS = {
    **{
        f"{name} {argument}": (partial(getattr(samplers, name), *args), *match)
        for name in _SAMPLERS
        for argument, args, *match in (
            ("num_samples", (0, 3, noise.normal), "num_samples=0", "whole number >= 1"),
            ("dim", (4, 2.0, noise.normal), r"dim=2\.0", "whole number >= 1"),
            ("noise", (4, 3, "normal"), "noise='normal' is not a Noise", r"esjax\.noise"),
        )
    },
    "antithetic noise": (
        lambda: samplers.antithetic(4, 3, noise.gumbel),
        "sampler=antithetic.*needs symmetric noise",
        r"sampler=esjax\.samplers\.iid",
    ),
    "sobol dim": (
        lambda: samplers.sobol(4, 21_202, noise.normal),
        "dim=21202: .*at most 21201",
        r"esjax\.samplers\.orthogonal",
    ),
}

# --- esjax.exact --------------------------------------------------------------------------------------

_NO_ARRAY = {"'a'": "a", "None": None, "{}": {}}

EXACT = {
    **{
        f"logits {text}": (lambda x=given: exact.argmax_probs(x, 1.0), f"logits={text}", "is not an array")
        for text, given in _NO_ARRAY.items()
    },
    "logits integer": (lambda: exact.argmax_probs(CLASSES, 1.0), "logits has dtype int", "jnp.float32"),
    "logits complex": (
        lambda: exact.argmax_probs(X.astype(complex), 1.0),
        "logits has dtype complex",
        "jnp.float32",
    ),
    "logits one class": (lambda: exact.argmax_probs(X[:, :1], 1.0), r"logits has shape \(2, 1\)", "two cl"),
    "logits number": (lambda: exact.argmax_probs(jnp.float32(1), 1.0), r"logits has shape \(\)", "two cl"),
    "logits NaN": (lambda: exact.argmax_probs(X.at[0].set(NAN), 1.0), "logits holds NaN", "debug_nans"),
    "logits masked": (lambda: exact.argmax_probs(X.at[0].set(-INF), 1.0), "logits .*all −inf", "unmasked"),
    "sigma zero": (lambda: exact.argmax_probs(X, 0.0), r"sigma=0\.0", "finite number > 0"),
    "sigma negative": (lambda: exact.top_k_probs(X, 1, -1.0), r"sigma=-1\.0", "finite number > 0"),
    "sigma None": (lambda: exact.accuracy(X, Y, None), "sigma=None is not a number", "use numbers > 0"),
    "sigma a dict": (lambda: exact.accuracy(X, Y, {"a": 1.0}), "sigma=.*is not an array", "give one number"),
    "sigma shape": (lambda: exact.argmax_probs(X, jnp.ones(3)), r"sigma has shape \(3,\)", "use one number"),
    "nodes too few": (lambda: exact.argmax_probs(X, 1.0, num_nodes=7), "num_nodes=7", "at least 8, or None"),
    "nodes float": (lambda: exact.argmax_probs(X, 1.0, num_nodes=20.0), "num_nodes=20", "whole number >= 1"),
    "noise text": (lambda: exact.argmax_probs(X, 1.0, noise="normal"), "noise='normal'", "esjax.noise.gum"),
    "noise, classes": (
        lambda: exact.argmax_probs(X, 1.0, noise=noise.logistic),
        "noise=logistic has no closed form",
        r"use esjax\.noise\.normal or esjax\.noise\.gumbel",
    ),
    "noise, labels": (lambda: exact.accuracy(X, Y, 1.0, noise=noise.cauchy), "noise=cauchy", "esjax.smooth"),
    "noise, steps": (lambda: exact.threshold_probs(X, 1.0, noise=noise.laplace), "noise=laplace", "logistic"),
    "labels text": (lambda: exact.accuracy(X, "a", 1.0), "labels='a' is not an array", "integer classes"),
    "labels too large": (lambda: exact.accuracy(X, Y + 3, 1.0), "labels=3 is out of range", "use 0 to 2"),
    "labels negative": (lambda: exact.accuracy(X, Y - 1, 1.0), "labels=-1 is out of range", "use 0 to 2"),
    "labels floating": (lambda: exact.accuracy(X, ROW[:2], 1.0), "labels has dtype float32", "give one int"),
    "labels shape": (lambda: exact.accuracy(X, 0, 1.0), r"labels .* shape \(\)", r"one .*each.*\(2,\)"),
    "labels of top k": (lambda: exact.top_k_accuracy(X, Y + 3, 1, 1.0), "labels=3 is out", "use 0 to 2"),
    "k too large": (lambda: exact.top_k_probs(X, 4, 1.0), "k=4 is more than the 3 classes", "use k <= 3"),
    "k zero": (lambda: exact.top_k_probs(X, 0, 1.0), "k=0", "whole number >= 1"),
    "k bool": (lambda: exact.top_k_accuracy(X, Y, True, 1.0), "k=True", "whole number >= 1"),
    "x NaN": (lambda: exact.threshold_probs(jnp.nan, 1.0), "x holds NaN", "debug_nans"),
    "f1 average": (lambda: exact.f1(X, Y, 1.0, average="mean"), "average='mean'", "'macro' or 'micro'"),
    "f1 shapes": (lambda: exact.f1(X, jnp.ones((2, 2)), 1.0), r"labels", "shape"),
    "fbeta zero": (lambda: exact.fbeta(X, Y, 0.0, 1.0), r"beta=0\.0", "use precision"),
    "matthews classes": (lambda: exact.matthews(X, Y, 1.0), r"of 3 classes", "esjax.smooth_decisions"),
    "confusion metric": (
        lambda: exact.of_confusion(lambda *counts: counts, ROW, jnp.ones(3, jnp.int32), 1.0),
        "metric returns",
        r"one floating number, shape \(\)",
    ),
    "chances too large": (
        lambda: exact.from_probs.f1(2 * jnp.ones(3), jnp.ones(3, jnp.int32)),
        r"probs.*2\.0",
        r"\[0, 1\]",
    ),
    "ndcg k": (lambda: exact.ndcg(ROW, ROW, 1.0, k=0), "k=0", "whole number >= 1"),
    "ndcg gain": (lambda: exact.ndcg(ROW, ROW, 1.0, gain="log"), "gain='log'", "exponential"),
    "ndcg noise": (lambda: exact.ndcg(ROW, ROW, 1.0, noise=noise.laplace), "noise=laplace", "esjax.smooth"),
    "ndcg lists": (lambda: exact.ndcg(X, X, 1.0), r"scores \(2, 3\)", "vectors of one length"),
    "rank probs k": (lambda: exact.rank_probs(ROW, 1.0, 4), "k=4 is more than the 3 items", "use k <= 3"),
    "auc labels": (lambda: exact.auc(ROW, 2 * jnp.ones(3), 1.0), "labels holds 2", "0 and 1"),
    "concordance sigma": (lambda: exact.concordance(ROW, ROW, ROW > 0, -1.0), "sigma=-1", "> 0"),
    "kendall NaN": (lambda: exact.kendall_tau(ROW * NAN, ROW, 1.0), "scores holds [nN]a[nN]", "debug_nans"),
    "x integer": (lambda: exact.threshold_probs(1, 1.0), "x has dtype int32", "jnp.float32"),
    "threshold infinite": (
        lambda: exact.threshold_probs(X, 1.0, threshold=jnp.inf),
        "threshold=inf must be finite",
        "use a number in the units of x",
    ),
    "threshold text": (
        lambda: exact.threshold_probs(X, 1.0, threshold="a"),
        "threshold='a' is not an array",
        "give one number",
    ),
    "threshold shape": (
        lambda: exact.threshold_probs(X, 1.0, threshold=jnp.ones(2)),
        r"threshold has shape \(2,\)",
        "use one number or that shape",
    ),
}

# --- esjax.blocks -------------------------------------------------------------------------------------

BLOCKS = {
    "accuracy logits text": (lambda: blocks.accuracy("a", 0), "logits='a' is not an array", "of numbers"),
    "accuracy logits batch": (lambda: blocks.accuracy(X, 0), r"logits has shape \(2, 3\)", r"jax\.vmap"),
    "accuracy logits empty": (lambda: blocks.accuracy(ROW[:0], 0), r"logits has shape \(0,\)", r"\(K,\)"),
    "accuracy logits integer": (lambda: blocks.accuracy(CLASSES, 0), "logits has dtype int", "floating"),
    "accuracy label large": (lambda: blocks.accuracy(ROW, 3), "label=3 is out of range", "use 0 to 2"),
    "accuracy label negative": (lambda: blocks.accuracy(ROW, -1), "label=-1 is out of range", "use 0 to 2"),
    "accuracy label floating": (lambda: blocks.accuracy(ROW, 1.0), "label has dtype float32", "integer"),
    "accuracy label bool": (lambda: blocks.accuracy(ROW, True), "label has dtype bool", "integer classes"),
    "accuracy labels": (lambda: blocks.accuracy(ROW, Y), r"label has shape \(2,\)", "one integer class"),
    "accuracy label None": (lambda: blocks.accuracy(ROW, None), "label=None is not an array", "one integer"),
    "top-k label": (lambda: blocks.top_k_accuracy(ROW, 3, k=1), "label=3 is out of range", "use 0 to 2"),
    "top-k k large": (lambda: blocks.top_k_accuracy(ROW, 0, k=4), "k=4 is more than the 3", "use k <= 3"),
    "top-k k zero": (lambda: blocks.top_k_accuracy(ROW, 0, k=0), "k=0", "whole number >= 1"),
    "f1 text": (lambda: blocks.f1("a", "b"), "predicted='a' is not an array", "array of numbers"),
    "f1 predicted": (lambda: blocks.f1(CLASSES, CLASSES, num_classes=2), "predicted=2 is out", "use 0 to 1"),
    "f1 labels": (lambda: blocks.f1(CLASSES, CLASSES - 1, num_classes=3), "labels=-1 is out", "use 0 to 2"),
    "f1 shapes": (
        lambda: blocks.f1(CLASSES, CLASSES[:2], num_classes=3),
        r"predicted has shape \(3,\) and labels \(2,\)",
        r"give both as \(B,\)",
    ),
    "f1 floating": (lambda: blocks.f1(ROW, CLASSES, num_classes=3), "predicted has dtype float", "integer"),
    "f1 no classes": (lambda: blocks.f1(CLASSES, CLASSES, num_classes=0), "num_classes=0", "number >= 1"),
    "f1 average": (
        lambda: blocks.f1(CLASSES, CLASSES, num_classes=3, average="mean"),
        "average='mean'",
        "must be 'macro' or 'micro'",
    ),
    "f1 not binary": (lambda: blocks.f1(CLASSES, CLASSES), "predicted=2 is out of range", "use 0 to 1"),
    "f1 three axes": (
        lambda: blocks.f1(np.zeros((1, 2, 3), bool), np.zeros((1, 2, 3), bool)),
        r"predicted has shape \(1, 2, 3\)",
        r"give both as \(B,\) or \(B, L\)",
    ),
    "jaccard mask": (
        lambda: blocks.jaccard(CLASSES, CLASSES, num_classes=3, mask=ROW),
        r"mask is float32\[3\]",
        "give a bool for each",
    ),
    "fbeta beta zero": (
        lambda: blocks.fbeta(CLASSES, CLASSES, 0, num_classes=3),
        "beta=0 must be a finite number > 0",
        "limits at 0 and infinity are precision and recall",
    ),
    "fbeta beta infinite": (lambda: blocks.fbeta(CLASSES, CLASSES, INF), "beta=inf", "finite number > 0"),
    "precision average": (
        lambda: blocks.precision(CLASSES, CLASSES, num_classes=3, average="weighted"),
        "average='weighted'",
        "must be 'macro' or 'micro'",
    ),
    "recall shapes": (lambda: blocks.recall(CLASSES, Y), r"labels \(2,\)", r"both as \(B,\) or \(B, L\)"),
    "balanced accuracy": (
        lambda: blocks.balanced_accuracy(CLASSES, CLASSES),
        "predicted=2 is out",
        "use 0 to 1, or pass num_classes=3",
    ),
    "jaccard average": (
        lambda: blocks.jaccard(CLASSES, CLASSES, num_classes=3, average=None),
        "average=None",
        "must be 'macro' or 'micro'",
    ),
    "matthews range": (lambda: blocks.matthews(CLASSES, CLASSES), "predicted=2 is out", "use 0 to 1"),
    "kappa shapes": (lambda: blocks.cohen_kappa(CLASSES, X), r"and labels \(2, 3\)", r"both as \(B,\)"),
    "dice shapes": (
        lambda: blocks.dice(CLASSES > 0, CLASSES[:2] > 0),
        r"predicted has shape \(3,\) and labels \(2,\)",
        "the same shape",
    ),
    "dice values": (lambda: blocks.dice(CLASSES, CLASSES), "predicted=2 is out of range", "use 0 to 1"),
    "dice mask transposed": (
        lambda: blocks.dice(X > 0, X > 0, mask=X.T > 0),
        r"mask is bool\[3, 2\], and predicted has shape \(2, 3\)",
        "give a bool for each",
    ),
    "ndcg lengths": (
        lambda: blocks.ndcg(ROW, Y),
        r"scores \(3,\), relevance \(2,\)",
        "vectors of one length",
    ),
    "ndcg k": (lambda: blocks.ndcg(ROW, CLASSES, k=0), "k=0", "whole number >= 1"),
    "ndcg gain": (lambda: blocks.ndcg(ROW, CLASSES, gain="log"), "gain='log'", "'exponential' or 'linear'"),
    "ndcg negative": (lambda: blocks.ndcg(ROW, -CLASSES), "relevance holds -1;", "give numbers >= 0"),
    "ndcg complex": (lambda: blocks.ndcg(ROW, ROW + 0j), "relevance has dtype complex", "real numbers"),
    "reciprocal rank mask": (
        lambda: blocks.reciprocal_rank(ROW, CLASSES, mask=CLASSES),
        r"mask is int32\[3\]",
        "give a bool for each",
    ),
    "average precision": (
        lambda: blocks.average_precision(X, X),
        r"scores \(2, 3\)",
        r"jax\.vmap over lists",
    ),
    "concordance lengths": (lambda: blocks.concordance(ROW, ROW, Y), r"events \(2,\)", "vectors of one len"),
    "concordance events": (
        lambda: blocks.concordance(ROW, ROW, CLASSES),
        "events holds 2;",
        "booleans, or 0 and 1",
    ),
    "concordance times": (lambda: blocks.concordance(ROW, ROW + 0j, ROW), "times has dtype", "real numbers"),
    "precision at k": (lambda: blocks.precision_at_k(ROW, CLASSES, k=0), "k=0", "whole number >= 1"),
    "recall at k": (lambda: blocks.recall_at_k(ROW, CLASSES, k=1.5), r"k=1\.5", "whole number >= 1"),
    "recall at k mask": (
        lambda: blocks.recall_at_k(ROW, CLASSES, k=1, mask=CLASSES),
        r"mask is int32\[3\]",
        "give a bool for each",
    ),
    "auc labels": (lambda: blocks.auc(ROW, CLASSES), "labels holds 2;", "booleans, or 0 and 1"),
    "auc lengths": (lambda: blocks.auc(ROW, Y), r"scores \(3,\), labels \(2,\)", r"jax\.vmap over lists"),
    "kendall targets": (lambda: blocks.kendall_tau(ROW, Y), r"targets \(2,\)", "vectors of one length"),
    "spearman targets": (
        lambda: blocks.spearman_rho(ROW, ROW + 0j),
        "targets has dtype complex",
        "real numbers",
    ),
    "edit distance floating": (
        lambda: blocks.edit_distance(ROW, CLASSES),
        r"predicted is float32\[3\]",
        "give integer tokens",
    ),
    "edit distance text": (
        lambda: blocks.edit_distance("abc", "abd"),
        "predicted='abc' is not an array",
        "give integer tokens",
    ),
    "edit distance length": (
        lambda: blocks.edit_distance(CLASSES, CLASSES, reference_length=4),
        "reference_length=4",
        r"must be in \[0, 3\]",
    ),
    "word error rate length": (
        lambda: blocks.word_error_rate(CLASSES, CLASSES, predicted_length=0.5),
        r"predicted_length is float32\[\]",
        "give one integer",
    ),
}

# --- esjax.host ---------------------------------------------------------------------------------------


def _wrap(**options):
    return lambda: host.wrap(**{"python_fun": np.sum, "result": NUMBER} | options)


HOST = {
    "python_fun": (_wrap(python_fun=3), "python_fun=3 is not callable", "pass a function"),
    "result empty": (_wrap(result=()), r"result=\(\) has no arrays", "give what python_fun returns"),
    "result text": (_wrap(result="float"), "result='float' is not an array", "ShapeDtypeStruct"),
    "result a type": (_wrap(result=float), "result=.*float.* is not an array", "ShapeDtypeStruct"),
    "executor": (_wrap(executor=2), r"executor=2 is not a concurrent\.futures\.Executor", "for Dask pass"),
    "timeout alone": (_wrap(timeout=1.0), r"timeout=1\.0 needs an executor", r"esjax\.host\.ProcessPool"),
    "timeout zero": (_wrap(timeout=0.0), r"timeout=0\.0 must be a finite number > 0", "give seconds"),
    "timeout bool": (_wrap(timeout=True), "timeout=True must be a finite number > 0", "give seconds"),
    "retries": (_wrap(retries=-1), "retries=-1", "whole number >= 0"),
    "retries bool": (_wrap(retries=True), "retries=True", "whole number >= 0"),
    "on_error": (_wrap(on_error=0.0), r"on_error=0\.0 is not callable", "pass a function"),
    "a key": (lambda: _wrap()()(KEY), "args has a typed PRNG key", r"pass jax\.random\.key_data"),
    "args text": (lambda: _wrap()()("a"), r"args\[0\]='a' is not an array", "let python_fun close over"),
    "gradient": (lambda: jax.grad(_wrap()())(ROW), "sum.*has no gradient", r"esjax\.smooth"),
    "num_workers": (lambda: host.ProcessPool(0), "num_workers=0", "whole number >= 1"),
    "num_workers text": (lambda: host.ProcessPool("2"), "num_workers='2'", "whole number >= 1"),
}

# --- esjax.diagnostics, esjax.sigma -------------------------------------------------------------------


def _report(axes=()):
    return diagnostics.Report(*(jnp.ones(axes) for _ in diagnostics.Report._fields))


def _diagnose(smoothed=None, key=KEY, x=1.0, **options):
    smoothed = esjax.smooth(_step, sigma=1.0, num_samples=4, **options) if smoothed is None else smoothed
    return lambda: diagnostics.diagnose(smoothed, key, x)


def _speed(smoothed, **options):
    return lambda: diagnostics.evaluations_per_second(smoothed, KEY, 1.0, **options)


def _calibrate(x=ROW + 1, fun=jnp.sum, args=(), key=KEY, **options):
    return lambda: esjax.sigma.calibrate(fun, key, x, *args, **{"num_samples": 4} | options)


def _from(logits=X, **options):
    return lambda: esjax.sigma.from_logits(logits, **options)


DIAGNOSTICS = {
    "smoothed": (_diagnose(jnp.sum), "smoothed=.*has no report", r"pass what esjax\.smooth returns"),
    "smoothed in jit": (
        _diagnose(jax.jit(esjax.smooth(_step, sigma=1.0, num_samples=4))),
        r"smoothed=.*smoothed by num_samples=4, sigma=1\.0.*has no report",
        r"returns itself \(not jax\.jit",
    ),
    "control": (_diagnose(control=(_step, lambda x, sigma: _step(x))), "control", "leave it out"),
    "key": (_diagnose(key=0), "key=0 " + _ONE_KEY),
    "x": (_diagnose(x="a"), "x='a' is not an array", "pass arrays"),
    "speed of no smoothed": (_speed(_step), "smoothed=.*has no report", r"what esjax\.smooth returns"),
    "speed num_calls": (
        _speed(esjax.smooth(_step, sigma=1.0, num_samples=4), num_calls=0),
        "num_calls=0",
        "number >= 1",
    ),
    "wanted zero": (lambda: _report().num_samples_for(0), "signal_to_noise=0", "number > 0; 1 is a good one"),
    "wanted bool": (lambda: _report().num_samples_for(True), "signal_to_noise=True", "1 is a good one"),
    "wanted text": (lambda: _report().num_samples_for("a"), "signal_to_noise='a'", "1 is a good one"),
    "combined of one": (
        lambda: diagnostics.combined(_report()),
        "reports is the report of one",
        r"jax\.vmap",
    ),
    "combined text": (lambda: diagnostics.combined("a"), "reports='a' is not a Report", "pass what"),
    "combined axis": (lambda: diagnostics.combined(_report(2), axis=1), "axis=1", r"in \[-1, 0\].* or None"),
    "plot of one": (lambda: diagnostics.plot(_report()), r"reports has arrays of shape \(\)", r"to \(T,\)"),
    "plot text": (lambda: diagnostics.plot("a"), "reports='a' is not a Report", "pass what"),
    "plot steps": (
        lambda: diagnostics.plot(_report(2), steps=[1]),
        r"steps has shape \(1,\)",
        "the 2 reports",
    ),
}


def _samples():
    return esjax.controls.Samples(ROW[:, None], ROW[:, None], ROW, ROW + 1)


CONTROLS = {
    "samples": (
        lambda: esjax.controls.regression(jnp.sum, ROW),
        "samples=ndarray are not Samples",
        r"smoothed\.with_samples returns",
    ),
    "another number of values": (
        lambda: esjax.controls.variance(lambda x: jnp.stack([x, x]), _samples()),
        "control returns 2 values, and the block 1",
        "of the same values",
    ),
    "samples of weights": (
        lambda: esjax.smooth_weights(
            lambda params: (params["w"] @ ROW).sum(), sigma=1.0, num_samples=4
        ).with_samples(KEY, {"w": jnp.ones((3, 3))}),
        "with_samples would hold N networks",
        r"esjax\.smooth,",
    ),
    "samples of a known mean": (
        lambda: esjax.smooth(
            _step, sigma=1.0, num_samples=4, control=(_step, lambda x, sigma: _step(x))
        ).with_samples(KEY, 1.0),
        r"control=\(c, c_mean\) has neither",
        "pass control=c",
    ),
}

SIGMA = {
    "logits text": (_from("a"), "logits='a' is not an array", "give an array of numbers"),
    "logits equal": (_from(X), r"logits have spread 0\.0", "choose sigma yourself"),
    "logits NaN": (_from(X * NAN), "logits have spread nan", "choose sigma yourself"),
    "logits one class": (_from(X[:, :1]), r"logits has .*shape \(2, 1\)", "at least two classes"),
    "logits integer": (_from(CLASSES), "logits has dtype int", "give floating logits"),
    "factor zero": (_from(factor=0.0), r"factor=0\.0", "number > 0; 10 is a good one"),
    "factor NaN": (_from(factor=NAN), "factor=nan", "number > 0; 10 is a good one"),
    "factor text": (_from(factor="a"), "factor='a'", "number > 0; 10 is a good one"),
    "features vector": (_from(features=ROW), r"features has .*shape \(3,\)", r"floating \(B, H\)"),
    "features integer": (
        _from(features=np.ones((3, 2), int)),
        "features has dtype int",
        r"floating \(B, H\)",
    ),
    "features text": (_from(features="a"), "features='a' is not an array", "array of numbers"),
    "calibrate key": (_calibrate(key=0), "key=0 " + _ONE_KEY),
    "calibrate fun": (_calibrate(fun=3), "fun=3 is not callable", "pass the function"),
    "calibrate vector": (
        _calibrate(fun=lambda x: x),
        r"fun returns \(3,\) instead of one number",
        "into fun",
    ),
    "calibrate x integer": (_calibrate(CLASSES), "x has dtype int", r"astype\(jnp\.float32\)"),
    "calibrate x text": (_calibrate("a"), "x='a' is not an array", "pass arrays"),
    "calibrate x None": (_calibrate(None, fun=_summed), "x has no arrays", "give at least one"),
    "calibrate x zero": (_calibrate(ROW), r"x has root mean square 0\.0", "pass sigmas"),
    "calibrate x zero, sigmas": (_calibrate(ROW, sigmas=[1.0]), "x has root mean square", "pass optimizer"),
    "calibrate args": (_calibrate(fun=_summed, args=("a",)), r"args\[0\]='a' is not an array", "fun close"),
    "calibrate num_samples": (_calibrate(num_samples=1), "num_samples=1 ", "num_samples >= 2"),
    "calibrate descending": (_calibrate(sigmas=[1.0, 0.5]), "sigmas=.*must be finite numbers", "ascending"),
    "calibrate sigmas zero": (_calibrate(sigmas=[0.0, 0.5]), "sigmas=.*must be finite numbers", "> 0"),
    "calibrate one number": (_calibrate(sigmas=1.0), r"sigmas=1\.0 must be finite numbers", r"\(S,\) > 0"),
    "calibrate sigmas text": (_calibrate(sigmas="a"), "sigmas='a' is not an array", "array of numbers"),
    "calibrate repeats": (_calibrate(num_repeats=1), "num_repeats=1", "must be >= 2"),
    "calibrate steps": (_calibrate(num_steps=0), "num_steps=0", "whole number >= 1"),
    "plot": (lambda: esjax.sigma.plot("a"), "calibration='a' is not a Calibration", "pass what calibrate"),
}

_TABLES = {
    "smooth": SMOOTH,
    "decisions": DECISIONS,
    "samplers": SAMPLERS,
    "exact": EXACT,
    "blocks": BLOCKS,
    "host": HOST,
    "diagnostics": DIAGNOSTICS,
    "controls": CONTROLS,
    "sigma": SIGMA,
}
ROWS = [
    pytest.param(call, match, id=f"{table}: {name}")
    for table, rows in _TABLES.items()
    for name, (call, *match) in rows.items()
]


@pytest.mark.parametrize(("call", "match"), ROWS)
def test_misuse_names_the_argument_and_the_remedy(call, match):
    assert len(match) >= 2 or _ONE_KEY in match[0]
    with pytest.raises(ValueError) as caught:
        call()
    assert type(caught.value) is ValueError
    for part in match:
        caught.match(part)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x=JitTracer(float32[3]) is too short"),
        TypeError("mine"),
        IndexError("mine"),
        AttributeError("DynamicJaxprTracer has no attribute summ"),
        KeyError("mine"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_the_block_itself_are_its_own(error):
    def fun(_):
        raise error

    for call in (_smooth(fun=fun), _decide(fun=fun)):
        with pytest.raises(type(error)) as caught:
            call()
        assert caught.value is error


def test_a_refusal_inside_a_block_is_not_said_of_the_block():
    inner = esjax.smooth(_step, sigma=1.0, num_samples=4, discard=lambda v: v > 0 and v < 1)
    with pytest.raises(ValueError, match="discard is traced by JAX"):
        _smooth(fun=lambda x: inner(jax.random.key(1), x))()


# --- what the remedies do -----------------------------------------------------------------------------


def _smoothed_both(fun, other, *inputs):
    """Returns value and gradient by the same draws for two ways to say one function."""
    both = (esjax.smooth(each, sigma=1.0, num_samples=16) for each in (fun, other))
    return [
        jax.tree.leaves(jax.value_and_grad(each, argnums=1)(jax.random.key(1), *given))
        for each, given in zip(both, inputs, strict=True)
    ]


def test_a_function_on_the_host_takes_what_jax_cannot_trace():
    labels, x = np.array([0, 1, 1]), jnp.array([0.1, -0.3, 0.5])
    found, wanted = _smoothed_both(
        host.wrap(lambda x: metrics.f1_score(labels, x > 0, zero_division=0), NUMBER),
        lambda x: blocks.f1((x > 0).astype(jnp.int32), labels),
        (x,),
        (x,),
    )
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-6)
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-5)
    assert 0 < found[0] < 1


def test_an_index_stands_for_text():
    texts, lengths = ["a", "ccc"], jnp.array([1.0, 3.0])
    found, wanted = _smoothed_both(
        host.wrap(lambda x, index: np.float32(len(texts[index]) * (x > 0)), NUMBER),
        lambda x, index: jnp.where(x > 0, lengths[index], 0),
        (0.2, 1),
        (0.2, 1),
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert found[0] > 1


def test_two_leaves_stand_for_a_complex_number():
    def is_long(parts):
        return jnp.where(jnp.abs(jax.lax.complex(*parts)) > 1, 1.0, 0.0)

    z = jnp.array(0.6 - 0.9j)
    found, wanted = _smoothed_both(
        is_long,
        lambda v: jnp.where((v**2).sum() > 1, 1.0, 0.0),
        ((z.real, z.imag),),
        (jnp.stack([z.real, z.imag]),),
    )
    np.testing.assert_allclose(found, [wanted[0], *wanted[1]], rtol=1e-6)
    assert found[1] > 0 > found[2]


def test_a_stream_of_nnx_makes_keys():
    rngs, smoothed = nnx.Rngs(0), esjax.smooth(_step, sigma=1.0, num_samples=4)
    wanted = nnx.Rngs(0)
    assert smoothed(rngs(), 0.1) == smoothed(wanted(), 0.1)
    assert smoothed(rngs.params(), 0.1) == smoothed(wanted.params(), 0.1)


def _threes(num_samples, dim, noise):
    return samplers.Groups(3, lambda key, dtype: noise.sample(key, (3, dim), dtype))


@pytest.mark.parametrize("baseline", [esjax.baselines.leave_one_out, esjax.baselines.centered_rank])
@pytest.mark.parametrize(
    ("sampler", "num_samples"),
    [
        *((getattr(samplers, name), 1) for name in _SAMPLERS),
        *((samplers.antithetic, num_samples) for num_samples in (2, 3)),
        *((_threes, num_samples) for num_samples in (1, 2, 3)),
    ],
)
@pytest.mark.parametrize("dim", [1, 3])
def test_the_number_of_samples_that_is_named_is_accepted(sampler, num_samples, baseline, dim):
    def call(num_samples):
        smoothed = esjax.smooth(
            lambda x: x.sum(), sigma=1.0, num_samples=num_samples, sampler=sampler, baseline=baseline
        )
        jax.eval_shape(smoothed, KEY, jnp.zeros(dim))

    with pytest.raises(ValueError, match="use num_samples") as refused:
        call(num_samples)
    call(int(re.search(r"use num_samples(?: >=|=)\s?(\d+)", str(refused.value))[1]))


def test_twice_the_number_of_samples_is_accepted_with_control():
    control = _control(1.0, 1.0)
    with pytest.raises(ValueError, match=r"num_samples=2 .*use num_samples >= 4, twice that with control"):
        _smooth(num_samples=4, sampler=samplers.antithetic, control=control)()
    _smooth(num_samples=8, sampler=samplers.antithetic, control=control, key=jax.random.PRNGKey(1))()


# --- as what a smoothed function is passed on -------------------------------------------------------------


def _of_both_kinds():
    hits = esjax.smooth_decisions(
        lambda c: jnp.mean(c == 1, dtype=jnp.float32), decision=decisions.argmax, sigma=1.0, num_samples=4
    )
    return (esjax.smooth(_step, sigma=1.0, num_samples=4), jnp.float32(0.3)), (hits, X)


def test_transformations_of_nnx_do_what_those_of_jax_do():
    for smoothed, x in _of_both_kinds():
        keys = jax.random.split(jax.random.PRNGKey(0), 2)
        for found, wanted in (
            (nnx.value_and_grad(smoothed, argnums=1), jax.value_and_grad(smoothed, argnums=1)),
            (nnx.jit(smoothed), jax.jit(smoothed)),
        ):
            jax.tree.map(np.testing.assert_array_equal, found(keys[0], x), wanted(keys[0], x))
        found, wanted = (each.vmap(smoothed, in_axes=(0, None))(keys, x) for each in (nnx, jax))
        np.testing.assert_array_equal(found, wanted)


def test_smoothed_functions_have_what_functions_have():
    for smoothed, x in _of_both_kinds():
        assert list(inspect.signature(smoothed).parameters) == ["key", "x", "args", "sigma"]
        value = smoothed(jax.random.PRNGKey(0), x)
        assert functools.wraps(smoothed)(lambda: None).__name__ == smoothed.__name__ == "smoothed"
        for same in (jax.named_call(smoothed), copy.deepcopy(smoothed)):
            assert same(jax.random.PRNGKey(0), x) == value
    shown = repr(esjax.smooth(_step, sigma={"a": jnp.ones(2), "b": 0.5}, num_samples=4))
    assert shown == "<function smoothed by num_samples=4, sigma={'a': 'float32[2]', 'b': 0.5}>"


# --- errors of other types ----------------------------------------------------------------------------


def test_an_optimizer_is_of_another_type():
    with pytest.raises(TypeError, match=r"optimizer=0\.1 has no init and update; give one of Optax"):
        _calibrate(optimizer=0.1)()


def test_forward_mode_of_the_first_order_says_what_to_call_instead():
    smoothed = esjax.smooth(_step, sigma=1.0, num_samples=4)
    with pytest.raises(TypeError, match=r"no forward mode.*use jax\.grad"):
        jax.jacfwd(lambda x: smoothed(jax.random.key(0), x))(0.5)

    def summed(x):
        keys = jax.random.split(jax.random.key(0), 2)
        return jax.lax.scan(lambda total, key: (total + smoothed(key, x), None), jnp.float32(0), keys)[0]

    for later in (jax.jit(lambda x: smoothed(jax.random.key(0), x)), summed):  # where JAX's text is its own
        for forward in (jax.jacfwd(later), lambda x, later=later: jax.jvp(later, (x,), (x,))):
            with pytest.raises(TypeError, match="forward-mode") as caught:
                forward(jnp.float32(0.5))
            shown = "".join(traceback.format_exception(caught.value))
            assert "# no forward mode: use jax.grad" in shown


def test_bad_shardings_name_themselves_and_the_remedy():
    mesh = jax.make_mesh((1,), ("samples",))
    for wrong in (mesh, NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(None))):
        with pytest.raises(ValueError, match=r"sharding=.* must place one axis, that of the samples; pass"):
            _smooth(sharding=wrong)()
    smoothed = _smooth(sharding=NamedSharding(mesh, PartitionSpec("samples")))
    with jax.set_mesh(mesh), pytest.raises(ValueError, match=r"sharding .*jax\.set_mesh.*outside of it"):
        smoothed()
