"""What `smooth` refuses: each wrong argument is named, with its value and the remedy."""

import jax
import jax.numpy as jnp
import pytest

import esjax


def _step(x):
    return jnp.where(x > 0, 1.0, 0.0)


def _three(key, dtype):
    return jax.random.normal(key, (3,), dtype)


def _control(value, mean):
    return (lambda x: value), (lambda x, sigma: mean)


@pytest.mark.parametrize(
    ("options", "x", "match"),
    [
        ({"fun": 3}, 1.0, "fun=3 is not callable"),
        ({"sigma": 0.0}, 1.0, "sigma=0.0"),
        ({"sigma": -1.0}, 1.0, "sigma=-1.0"),
        ({"sigma": float("nan")}, 1.0, "sigma=nan"),
        ({"sigma": float("inf")}, 1.0, "sigma=inf"),
        ({"sigma": "a"}, 1.0, "sigma='a' is not a number"),
        ({"sigma": None}, 1.0, "sigma=None is not a number"),
        ({"sigma": jnp.array([1.0, 0.0])}, jnp.ones(2), "sigma=0.0"),
        ({"sigma": {"a": -2.0}}, {"a": jnp.ones(2)}, r"sigma\['a'\]=-2.0"),
        ({"sigma": {"b": 1.0}}, {"a": jnp.ones(2)}, "sigma has structure"),
        ({"sigma": jnp.ones(3)}, jnp.ones(2), r"sigma has shape \(3,\), and x there has \(2,\)"),
        ({"num_samples": 0}, 1.0, "num_samples=0 must be"),
        ({"num_samples": 2.0}, 1.0, "num_samples=2.0 must be"),
        ({"num_samples": True}, 1.0, "num_samples=True must be"),
        ({"num_samples": 1}, 1.0, r"num_samples=1 .*num_samples >= 2"),
        ({"num_samples": 1, "baseline": esjax.baselines.centered_rank}, 1.0, r"num_samples=1 .*>= 2"),
        ({"num_samples": 3, "sampler": esjax.samplers.antithetic}, 1.0, "num_samples=3 is odd"),
        ({"num_samples": 2, "sampler": esjax.samplers.antithetic}, 1.0, "use num_samples >= 3"),
        ({"chunk_size": 0}, 1.0, "chunk_size=0 must be"),
        ({"discard": 1}, 1.0, "discard=1 is not callable"),
        ({"discard": jnp.abs}, 1.0, "discard turns values.*float32; return one bool"),
        ({"discard": lambda v: jnp.isnan(v).any()}, 1.0, r"discard turns values \(1,\) into \(\)"),
        ({"control": 1}, 1.0, "control=1 must be a pair"),
        ({"control": _control(jnp.ones(2), 1.0)}, 1.0, r"control\[0\] returns"),
        ({"control": _control(jnp.float32(1), jnp.ones(2))}, 1.0, r"control\[1\] returns"),
        ({"control": _control(1.0, 1.0), "num_samples": 6}, 1.0, "num_samples=6 must be a multiple of 4"),
        ({"control": _control(1.0, 1.0), "discard": jnp.isnan}, 1.0, "together with control"),
        ({"noise": "normal"}, 1.0, "noise='normal' is no Noise"),
        ({"sampler": "sobol"}, 1.0, "sampler='sobol' is not callable"),
        ({"baseline": "none"}, 1.0, "baseline='none' is no Baseline"),
        ({"sampler": lambda *_: esjax.samplers.Groups(0, None)}, 1.0, "sampler's groups=0 must be"),
        (
            {"sampler": lambda *_: esjax.samplers.Groups(2, _three)},
            1.0,
            r"draws float32\[3\] for a group of 2",
        ),
        ({"sigma": True}, 1.0, "sigma=True is not a number"),
        ({}, "a", "x='a' is no array"),
        ({}, 1, "x has dtype int32"),
        ({}, {"a": 1.0, "b": jnp.arange(2)}, r"x\['b'\] has dtype int32"),
        ({}, {}, "x has no arrays"),
        ({"fun": lambda x: x > 0}, 1.0, "value of fun has dtype bool"),
        ({"fun": lambda x: (x, jnp.int32(1))}, 1.0, r"value of fun\[1\] has dtype int32"),
        ({"fun": lambda x: None}, 1.0, "value of fun has no arrays"),
    ],
)
def test_wrong_arguments_name_themselves(options, x, match):
    options = {"fun": _step, "sigma": 1.0, "num_samples": 4} | options
    with pytest.raises(ValueError, match=match):
        esjax.smooth(options.pop("fun"), **options)(jax.random.key(0), x)


def test_an_argument_that_is_no_array_is_refused():
    smoothed = esjax.smooth(lambda x, how: getattr(x, how)(), sigma=1.0, num_samples=4)
    with pytest.raises(ValueError, match=r"args\[0\]='mean' is no array or number; let fun close over"):
        smoothed(jax.random.key(0), jnp.ones(2), "mean")


@pytest.mark.parametrize(
    "key", [0, None, jnp.float32(1), jnp.arange(3, dtype=jnp.uint32), jax.random.split(jax.random.key(0), 3)]
)
def test_a_wrong_key_says_what_to_pass(key):
    with pytest.raises(ValueError, match=r"key=.* is not one PRNG key; pass jax\.random\.key"):
        esjax.smooth(_step, sigma=1.0, num_samples=4)(key, 1.0)


def test_a_wrong_sigma_at_call_time_is_refused():
    with pytest.raises(ValueError, match=r"sigma=0\.0 must be"):
        esjax.smooth(_step, sigma=1.0, num_samples=4)(jax.random.key(0), 1.0, sigma=0.0)


def test_forward_mode_of_the_first_order_says_what_to_call_instead():
    smoothed = esjax.smooth(_step, sigma=1.0, num_samples=4)
    with pytest.raises(TypeError, match=r"no forward mode.*use jax\.grad"):
        jax.jacfwd(lambda x: smoothed(jax.random.key(0), x))(0.5)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(jax.jit(lambda x: smoothed(jax.random.key(0), x)), (0.5,), (1.0,))
