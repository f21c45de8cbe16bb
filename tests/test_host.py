"""Python black boxes: the gradients of JAX blocks, each evaluation once, every fault accounted for."""

import contextlib
import copy
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache, partial

import chex
import host_functions
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import esjax

NUMBER = jax.ShapeDtypeStruct((), jnp.float32)
X = jnp.array([0.3, -0.2, 0.1])
REFILLED = {
    "number": NUMBER,
    "rows": [jax.ShapeDtypeStruct((3,), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.float32)],
}


def _count(x):
    return jnp.sum(x > 0, dtype=jnp.float32)


@pytest.fixture(scope="module")
def pool():
    with esjax.host.ProcessPool(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def threads():
    with ThreadPoolExecutor(2) as pool:
        yield pool


# --- the same as a JAX block -------------------------------------------------------------------------


@cache
def _of_count(num_samples):
    """Returns value and gradient of `_count`, smoothed in JAX."""
    smoothed = esjax.smooth(_count, sigma=0.5, num_samples=num_samples, credit=esjax.credit.none)
    return jax.jit(jax.value_and_grad(smoothed, argnums=1))(jax.random.PRNGKey(0), X)


@pytest.mark.parametrize("executor", [None, "threads", "pool"])
def test_value_and_gradient_are_those_of_the_same_block_in_jax(executor, request):
    executor = executor and request.getfixturevalue(executor)
    block = esjax.host.wrap(host_functions.count, NUMBER, executor)
    smoothed = esjax.smooth(block, sigma=0.5, num_samples=32, credit=esjax.credit.none)
    found = jax.jit(jax.value_and_grad(smoothed, argnums=1))(jax.random.PRNGKey(0), X)
    chex.assert_trees_all_close(found, _of_count(32), rtol=1e-6)
    assert block.log.evaluations == 32


def test_every_sample_is_evaluated_once_under_vmap_scan_and_chunks():
    block = esjax.host.wrap(host_functions.count, NUMBER)
    smoothed = esjax.smooth(block, sigma=0.5, num_samples=10, chunk_size=4)

    @jax.jit
    def train(x, keys):
        def step(x, key):
            grads = jax.vmap(jax.grad(smoothed, argnums=1), (0, None))(jax.random.split(key, 3), x)
            return x + grads.mean(0), None

        return jax.lax.scan(step, x, keys)[0]

    assert np.isfinite(train(X, jax.random.split(jax.random.key(0), 5))).all()
    assert block.log.evaluations == 5 * 3 * 10


def test_all_samples_of_a_chunk_come_in_one_callback(threads):
    together = threading.Barrier(2, timeout=30)  # passes only where two calls are made at once

    def meet(x):
        together.wait()
        return host_functions.count(x)

    smoothed = esjax.smooth(esjax.host.wrap(meet, NUMBER, threads), sigma=0.5, num_samples=8)
    assert np.isfinite(jax.jit(smoothed)(jax.random.key(0), X))


def test_trees_scalars_and_nested_vmap_arrive_as_they_are():
    seen = []

    def fun(tree, scale):
        seen.append((tree["a"].shape, tree["b"].shape, np.shape(scale), tree["a"].flags.writeable))
        return {"sum": scale * tree["a"].sum(), "rows": tree["b"] + tree["a"][:2]}

    result = {"sum": np.float32(0), "rows": jnp.zeros(2)}
    block = esjax.host.wrap(fun, result)
    rng = np.random.default_rng(0)
    a, b = (
        jnp.asarray(rng.normal(size=(4, 3)), jnp.float32),
        jnp.asarray(rng.normal(size=(5, 2)), jnp.float32),
    )
    each = jax.vmap(lambda a: jax.vmap(lambda b: block({"a": a, "b": b}, 2.0))(b))
    for call in (each, jax.jit(each)):
        found = call(a)
        np.testing.assert_allclose(found["sum"], np.broadcast_to(2 * a.sum(1)[:, None], (4, 5)), rtol=1e-6)
        np.testing.assert_allclose(found["rows"], b[None] + a[:, None, :2], rtol=1e-6)
    assert set(seen) == {((3,), (2,), (), False)} and len(seen) == 2 * 20


@pytest.mark.parametrize("executor", [None, "threads", "pool"])
def test_memory_that_a_function_fills_again_is_copied_at_once(executor, request):
    executor = executor and request.getfixturevalue(executor)
    xs = jnp.arange(48.0).reshape(16, 3)
    block = esjax.host.wrap(host_functions.refill, REFILLED, executor)
    _is_refilled(jax.jit(jax.vmap(block))(xs), xs)
    first, second = block(xs[0]), block(xs[1])
    _is_refilled(jax.tree.map(lambda *leaves: np.stack(leaves), first, second), xs[:2])


@pytest.mark.parametrize("executor", [None, "threads"])
def test_memory_that_on_error_fills_again_is_copied_at_once(executor, request):
    executor = executor and request.getfixturevalue(executor)
    xs = jnp.arange(12.0).reshape(4, 3)
    instead = {"on_error": host_functions.refill_instead}
    block = esjax.host.wrap(host_functions.diverges, REFILLED, executor, **instead)
    _is_refilled(jax.vmap(block)(xs), -xs)
    np.testing.assert_array_equal([fault.args[0] for fault in block.log.faults], xs)


def _is_refilled(found, xs):
    np.testing.assert_array_equal(found["number"], xs[:, 1])
    np.testing.assert_array_equal(found["rows"][0], xs)
    np.testing.assert_array_equal(found["rows"][1], xs[:, ::2])


def test_threads_that_call_at_the_same_time_without_an_executor_take_turns():
    buffer = np.zeros((), np.float32)

    def fill(x):
        buffer[...] = x
        time.sleep(0.005)  # another thread may fill it meanwhile
        return buffer

    block = esjax.host.wrap(fill, NUMBER)
    with ThreadPoolExecutor(4) as callers:
        found = list(callers.map(block, np.arange(16, dtype=np.float32)))
    assert found == list(range(16))


def test_a_wrapped_function_can_be_copied_and_pickled():
    block = esjax.host.wrap(host_functions.count, NUMBER)
    jax.vmap(block)(X[None])
    for again in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert again(X) == 2 and again.log.evaluations == 2 and block.log.evaluations == 1


def test_what_numpy_reads_as_an_array_is_taken():
    values = [
        np.array([[1.0, 2.0]]).view(np.matrix),
        np.ma.array([[1.0, 2.0]]),
        memoryview(np.array([[1.0, 2.0]])),
    ]
    block = esjax.host.wrap(lambda number: values[int(number)], jax.ShapeDtypeStruct((1, 2), jnp.float32))
    for number in range(len(values)):
        np.testing.assert_array_equal(block(jnp.int32(number)), [[1, 2]])


def test_one_object_in_a_random_sequence_gives_what_a_fresh_one_gives():
    key, xs = jax.random.PRNGKey(0), jnp.array([[0.3, -0.2, 0.1], [0.5, 0.2, -0.1]])

    def smoothed(block):
        return esjax.smooth(block, sigma=0.5, num_samples=8)

    ways = [
        lambda block: block(xs),
        lambda block: block(xs[0]),
        lambda block: jax.jit(block)(xs),
        lambda block: jax.vmap(block)(xs),
        lambda block: jax.lax.scan(lambda sum, x: (sum + block(x), None), jnp.float32(0), xs)[0],
        lambda block: jax.grad(smoothed(block), argnums=1)(key, xs[0]),
        lambda block: jax.jit(jax.vmap(jax.grad(smoothed(block), argnums=1), (None, 0)))(key, xs),
    ]
    fresh = [way(esjax.host.wrap(host_functions.count, NUMBER)) for way in ways]
    block = esjax.host.wrap(host_functions.count, NUMBER)
    for number in np.random.default_rng(0).integers(0, len(ways), 24):
        np.testing.assert_array_equal(ways[number](block), fresh[number], str(number))


def test_bfloat16_integers_and_booleans_pass():
    fun = lambda x, label, mask: np.float32(x.astype(np.float32)[mask].sum() + label)  # noqa: E731
    block = esjax.host.wrap(fun, NUMBER)
    args = jnp.array([1.5, 2.0, 4.0], jnp.bfloat16), jnp.int32(7), jnp.array([True, False, True])
    assert jax.jit(block)(*args) == 12.5 == block(*args)


def test_devices_call_back_at_the_same_time_without_a_deadlock():
    script = """
        import os
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"  # it takes longer to run than to compile
        import jax, jax.numpy as jnp, numpy as np, esjax
        block = esjax.host.wrap(lambda x: np.float32(x.sum()), jax.ShapeDtypeStruct((), jnp.float32))
        smoothed = esjax.smooth(block, sigma=0.5, num_samples=8)
        @jax.jit
        def train(x, keys):
            step = lambda x, key: (x - 0.1 * jax.grad(smoothed, argnums=1)(key, x), None)
            return jax.lax.scan(step, x, keys)[0]
        keys = jax.random.split(jax.random.key(0), 5)
        big = jnp.ones(300_000)  # large enough for copies that are made in the background
        put = [jax.device_put((big, keys), device) for device in jax.devices()]
        results = [train(*each) for each in put for _ in range(3)]
        assert all(np.isfinite(result).all() for result in results)
        assert block.log.evaluations == 2 * 3 * 5 * 8, block.log
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=120)


# --- faults -------------------------------------------------------------------------------------------


def test_an_exception_names_the_sample_and_keeps_its_input():
    block = esjax.host.wrap(host_functions.raises_if_large, NUMBER)
    xs = jnp.array([[0.5, 1.0], [2.5, 1.0], [0.1, 1.0]])
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"sample 1: ArithmeticError: too large: 2.500"):
        jax.block_until_ready(jax.jit(jax.vmap(block))(xs))
    (fault,) = block.log.faults
    assert (fault.kind, fault.sample, block.log.exceptions) == ("exception", (1,), 1)
    with pytest.raises(ArithmeticError, match="too large"):
        host_functions.raises_if_large(*fault.args)
    with pytest.raises(RuntimeError, match="on_error may substitute a value"):  # outside jit: as it is
        block(xs[1])


def test_inside_jit_exception_sample_and_input_come_first():
    block = esjax.host.wrap(host_functions.raises_if_large, NUMBER)
    smoothed = esjax.smooth(lambda x: block(x * 1000), sigma=0.5, num_samples=8)
    calls = {
        r"sample 1: ArithmeticError: too large: 2\.000; its input args\[0\]=\[2\. 1\.\] ": lambda: jax.vmap(
            block
        )(jnp.array([[0.5, 1.0], [2.0, 1.0]])),
        r"sample \d: ArithmeticError: too large: \d": lambda: jax.jit(jax.grad(smoothed, argnums=1))(
            jax.random.key(0), X
        ),
    }
    for wanted, call in calls.items():
        with pytest.raises(jax.errors.JaxRuntimeError) as caught:
            jax.block_until_ready(call())
        place = re.search(wanted, str(caught.value))
        assert place and place.start() < 160, str(caught.value)


def test_long_inputs_are_shown_by_shape_and_first_numbers():
    def fail(x, tree):
        raise KeyError("parameter")

    x = jnp.arange(224.0 * 224).reshape(224, 224)
    tree = {"a": jnp.int32(3), "b": jnp.ones((2, 2)), "rest": [jnp.zeros(1)] * 8}
    with pytest.raises(RuntimeError) as caught:
        esjax.host.wrap(fail, NUMBER)(x, tree)
    assert str(caught.value).startswith(
        "the only sample: KeyError: 'parameter'; its input args[0]=float32[224, 224] [0.0000e+00 1.0000e+00 "
        "2.0000e+00 ... 5.0173e+04 5.0174e+04 5.0175e+04], args[1]['a']=3, args[1]['b']=[[1. 1.] [1. 1.]], "
        "args[1]['rest'][0]=[0.], and 7 more arrays is kept in log.faults[-1].args"
    )


@pytest.mark.parametrize("executor", [None, "pool"])
def test_an_exception_that_cannot_be_copied_or_sent_is_one_like_any(executor, request):
    executor = executor and request.getfixturevalue(executor)
    block = esjax.host.wrap(host_functions.diverges, NUMBER, executor, retries=2)
    with pytest.raises(RuntimeError, match=r"Diverged: step 3: no flow; its input"):
        block(jnp.array([3.0]))
    (fault,) = block.log.faults
    assert fault.kind == "exception" and "step 3: no flow" in str(fault.error)


def test_worker_processes_start_without_jax():
    script = "import sys, esjax.host.executors; raise SystemExit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_on_error_substitutes_and_discard_leaves_out(pool):
    block = esjax.host.wrap(host_functions.raises_if_large, NUMBER, pool, on_error=host_functions.nan)
    smoothed = esjax.smooth(block, sigma=1.0, num_samples=64, discard=jnp.isnan)
    value, report = jax.jit(smoothed.with_info)(jax.random.key(1), X)
    assert 0 < report.num_discarded == block.log.exceptions == block.log.substituted < 40
    assert np.isfinite(value) and block.log.evaluations == 65


def test_a_hung_call_is_cut_off_and_the_others_go_on(pool):
    block = esjax.host.wrap(host_functions.faulty, NUMBER, pool, timeout=0.5, on_error=host_functions.nan)
    luck = jnp.array([0.5, 0.037, 0.9, 0.032, 0.01, 0.7])
    start = time.monotonic()
    values = jax.jit(jax.vmap(block, (None, 0)))(X, luck)
    np.testing.assert_array_equal(values, [2, np.nan, 2, np.nan, np.nan, 2])
    assert time.monotonic() - start < 30  # the call itself sleeps a minute
    log = block.log
    assert (log.timeouts, log.deaths, log.exceptions, log.substituted) == (1, 1, 1, 3)
    assert [(fault.kind, fault.sample) for fault in log.faults] == [
        ("timeout", (1,)),
        ("death", (3,)),
        ("exception", (4,)),
    ]


def test_samples_of_a_dead_worker_are_evaluated_again(pool, tmp_path):
    folder = jnp.array([ord(letter) for letter in str(tmp_path)])
    xs = jnp.arange(4.0)
    again = esjax.host.wrap(host_functions.dies_once, NUMBER, pool, retries=1)
    np.testing.assert_array_equal(jax.vmap(again, (0, None))(xs, folder), xs)
    assert (again.log.deaths, again.log.retries, again.log.evaluations) == (4, 4, 8)
    never = esjax.host.wrap(host_functions.dies_once, NUMBER, pool)
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"WorkerDied: process .* ended"):
        jax.block_until_ready(jax.vmap(never, (0, None))(xs + 10, folder))


def test_training_outlives_a_hundred_faults_and_its_gradient_stays_unbiased(pool):
    """z-scores of the mean gradient of 200 steps against that of the block without faults, by quadrature."""
    block = esjax.host.wrap(host_functions.faulty, NUMBER, pool, timeout=0.2, on_error=host_functions.nan)
    num_samples, sigma = 14, 0.5

    def with_luck(z):
        x, luck = z[:3], jax.scipy.stats.norm.cdf((z[3]) / sigma)  # uniform, and independent of x's noise
        return block(x, luck)

    smoothed = esjax.smooth(
        with_luck, sigma=sigma, num_samples=num_samples, sampler=esjax.samplers.iid, discard=jnp.isnan
    )

    @jax.jit
    def train(keys):
        def step(moved, key):
            gradient = jax.grad(smoothed, argnums=1)(key, jnp.append(X, 0.0))
            return moved + 0.1 * gradient[:3], gradient[:3]

        return jax.lax.scan(step, X, keys)[1]

    gradients = np.asarray(train(jax.random.split(jax.random.key(0), 200)))
    log = block.log
    assert log.exceptions + log.timeouts + log.deaths == log.substituted >= 100
    assert min(log.exceptions, log.timeouts, log.deaths) >= 15 and log.evaluations == 200 * num_samples
    exact = np.exp(-0.5 * (np.asarray(X) / sigma) ** 2) / np.sqrt(2 * np.pi) / sigma
    error = gradients.std(0, ddof=1) / np.sqrt(len(gradients))
    assert np.all(np.abs(gradients.mean(0) - exact) < 4 * error), (gradients.mean(0), exact, error)
    assert np.all(error < 0.2 * exact)


def _script(folder, source):
    """Writes a script that can import host_functions."""
    path = folder / "script.py"
    path.write_text(
        f"import sys\nsys.path.insert(0, {os.path.dirname(__file__)!r})\n" + textwrap.dedent(source), "utf-8"
    )
    return path


def test_a_script_without_a_guard_says_what_it_needs(tmp_path):
    script = _script(
        tmp_path,
        """
        import jax.numpy as jnp, esjax, host_functions
        pool = esjax.host.ProcessPool(1)
        esjax.host.wrap(host_functions.count, jnp.float32(0), pool, retries=3)(jnp.zeros(3))
        """,
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert "ValueError: a worker process ended while it started" in done.stderr.splitlines()[-1]
    assert 'under if __name__ == "__main__":' in done.stderr.splitlines()[-1]


def test_a_worker_that_dies_while_it_takes_the_place_of_another_is_a_death(tmp_path):
    script = _script(
        tmp_path,
        """
        import os
        import host_functions
        if __name__ == "__main__":
            import jax.numpy as jnp, esjax
            with esjax.host.ProcessPool(1) as pool:
                options = dict(retries=2, on_error=host_functions.nan)
                block = esjax.host.wrap(host_functions.faulty, jnp.float32(0), pool, **options)
                value = block(jnp.zeros(3), jnp.float32(0.032))  # ends its process
                print(float(value), block.log.deaths, block.log.retries)
        elif os.path.exists("started"):
            os._exit(1)
        else:
            open("started", "x")
        """,
    )
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == "nan 3 2\n", done.stderr[-3000:]


def test_ctrl_c_ends_cleanly_and_leaves_no_process(tmp_path):
    script = _script(
        tmp_path,
        """
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        import host_functions
        if __name__ == "__main__":
            import jax, jax.numpy as jnp, esjax
            with esjax.host.ProcessPool(2) as pool:
                block = esjax.host.wrap(host_functions.slow_count, jnp.float32(0), pool)
                smoothed = jax.jit(esjax.smooth(block, sigma=0.5, num_samples=64))
                for number in range(10_000):
                    smoothed(jax.random.key(number), jnp.zeros(3)).block_until_ready()
                    if number == 1:
                        print("ready", flush=True)
        """,
    )
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode != 0 and "KeyboardInterrupt" in errors
        deadline = time.monotonic() + 20
        while _is_alive(process.pid):
            assert time.monotonic() < deadline, "a process is left"
            time.sleep(0.1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _is_alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_arguments_that_a_function_keeps_do_not_change():
    kept = []
    block = esjax.host.wrap(lambda x: kept.append(x) or np.float32(x.sum()), NUMBER)
    call = jax.jit(jax.vmap(lambda x: block(2 * x)))
    for number in range(5):
        call(jnp.full((4, 1000), float(number)))
    assert [float(x[0]) for x in kept] == [2.0 * (number // 4) for number in range(20)]
    assert all((x == x[0]).all() for x in kept)


def test_vmap_outside_jit_compiles_once(compiled):
    block = esjax.host.wrap(host_functions.count, NUMBER)
    jax.vmap(block)(jnp.ones((2, 3)))
    count = len(compiled)
    for _ in range(3):
        jax.vmap(block)(jnp.ones((2, 3)))
    assert len(compiled) == count > 0


def test_a_constant_inside_jit_is_evaluated_at_every_call():
    block = esjax.host.wrap(lambda x: np.float32(block.log.evaluations), NUMBER)
    constant = jnp.ones(3)
    call = jax.jit(lambda y: y + block(constant))
    assert [float(call(jnp.float32(0))) for _ in range(3)] == [1, 2, 3]


def test_sys_exit_in_a_function_is_a_fault_like_any_other():
    block = esjax.host.wrap(lambda x: sys.exit(3), NUMBER, on_error=host_functions.nan)
    assert np.isnan(block(X)) and block.log.exceptions == block.log.substituted == 1


def test_importing_does_not_count_as_the_time_of_a_call(tmp_path, monkeypatch):
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(1.5)\ndef one(x):\n    return 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    import slow_to_import

    with esjax.host.ProcessPool(1) as pool:
        block = esjax.host.wrap(slow_to_import.one, NUMBER, pool, timeout=0.5)
        assert block(X) == 1 and not block.log.timeouts


def test_a_pool_that_is_left_while_it_starts_ends_nothing_but_itself():
    script = """
        import esjax, os, host_functions
        if __name__ == "__main__":
            try:
                with esjax.host.ProcessPool(1) as pool:
                    pool.submit(os.getpid)
                    raise KeyboardInterrupt
            except KeyboardInterrupt:
                print("alive")
    """
    environment = os.environ | {"PYTHONPATH": os.path.dirname(__file__)}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "alive\n", done.stderr


# --- bad input ----------------------------------------------------------------------------------------


class NoArray:
    def __array__(self, *args, **kwargs):
        raise TypeError("on a GPU")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(2, np.float32), r"is float32\[2\] instead of float32\[\]"),
        (np.complex64(1), "is complex64.* instead of float32"),
        ("text", "instead of float32.*correct result"),
        ((1.0, 2.0), "has structure .* instead of"),
        (None, "has structure .* instead of"),
        (np.ma.masked, r"has masked numbers; fill them"),
        (NoArray(), "NumPy cannot turn into an array .on a GPU.; return"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(value, message):
    block = esjax.host.wrap(lambda x: value, NUMBER)
    with pytest.raises(ValueError, match=message):
        block(X)
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        jax.block_until_ready(jax.jit(block)(X))
    nothing = esjax.host.wrap(lambda x: 1 / 0, NUMBER, on_error=lambda error, x: value)
    with pytest.raises(ValueError, match=re.compile("on_error gave.*" + message, re.DOTALL)):
        nothing(X)


def test_a_gradient_that_would_pass_through_is_refused_and_the_remedy_gives_one():
    def cost(x, w):
        return np.float32(np.sum(x * w > 0))

    block = esjax.host.wrap(cost, NUMBER)
    options = {"sigma": 0.5, "num_samples": 8}
    args = jax.random.key(0), X, jnp.float32(1)
    for argnums in (2, (1, 2)):
        with pytest.raises(ValueError, match=r"cost.*has no gradient.*none in args.*make x hold all"):
            jax.grad(esjax.smooth(block, **options), argnums)(*args)
    together = esjax.smooth(lambda both: block(*both), **options)
    in_both = jax.grad(together, argnums=1)(args[0], args[1:])
    assert jax.tree.map(jnp.shape, in_both) == ((3,), ()) and in_both[1] != 0


@pytest.mark.parametrize("value", ["cat", np.array(["cat", "dog"])])
def test_text_is_refused_and_the_remedy_says_what_to_pass(value):
    with pytest.raises(
        ValueError, match=r"args\[1\]=.*cat.* is not an array.*pass an index.*close over the table"
    ):
        esjax.host.wrap(host_functions.count, NUMBER)(X, value)


def test_values_are_cast_within_their_kind_only():
    assert esjax.host.wrap(lambda x: 2.5, NUMBER)(X).dtype == jnp.float32
    assert esjax.host.wrap(lambda x: 3, NUMBER)(X) == 3.0
    with pytest.raises(ValueError, match=r"float64.*instead of int32"):
        esjax.host.wrap(lambda x: 2.5, jax.ShapeDtypeStruct((), jnp.int32))(X)


def test_a_function_that_cannot_be_pickled_is_refused_for_processes(pool):
    with pytest.raises(ValueError, match=r"cannot be sent to another process.*top of a module"):
        esjax.host.wrap(lambda x: 1.0, NUMBER, pool)
    with ProcessPoolExecutor(1) as standard, pytest.raises(ValueError, match="cannot be sent"):
        esjax.host.wrap(lambda x: 1.0, NUMBER, standard)


def test_a_function_that_a_worker_cannot_import_is_no_fault_to_substitute(pool, monkeypatch):
    module = types.ModuleType("only_here")
    exec("def one(x):\n    return 1.0", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    block = esjax.host.wrap(module.one, NUMBER, pool, on_error=host_functions.nan)
    with pytest.raises(ValueError, match=r"a worker process cannot load .*at the top of a module"):
        block(X)
    assert not block.log.substituted


@pytest.mark.parametrize("make", [ThreadPoolExecutor, esjax.host.ProcessPool])
def test_a_closed_executor_is_refused(make):
    executor = make(1)
    executor.shutdown()
    block = esjax.host.wrap(host_functions.count, NUMBER, executor)
    with pytest.raises(ValueError, match=r"takes no more work.*closed"):
        block(X)


# --- executors of others ------------------------------------------------------------------------------


def test_a_standard_pool_works_and_says_that_it_broke():
    import multiprocessing

    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        block = esjax.host.wrap(host_functions.count, NUMBER, executor)
        np.testing.assert_array_equal(jax.jit(jax.vmap(block))(jnp.eye(3)), [1, 1, 1])
        refilled = esjax.host.wrap(host_functions.refill, REFILLED, executor)
        _is_refilled(jax.vmap(refilled)(jnp.eye(3)), jnp.eye(3))
        killer = esjax.host.wrap(host_functions.faulty, NUMBER, executor)
        with pytest.raises(RuntimeError, match=r"is broken.*use esjax.host.ProcessPool"):
            killer(X, jnp.float32(0.032))


def test_dask_workers_evaluate():
    distributed = pytest.importorskip("distributed")
    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),  # else three more workers die
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        _evaluates_as_jax_does(client.get_executor(pure=False))


@pytest.mark.filterwarnings(  # Ray's own: it forks the process that starts it
    "ignore:os.fork:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_ray_workers_evaluate():
    ray = pytest.importorskip("ray")
    with pytest.raises(ValueError, match=r"Ray is not started; call ray.init\(\)"):
        esjax.host.RayExecutor()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=_WITH_TESTS)
    try:
        _evaluates_as_jax_does(esjax.host.RayExecutor())
    finally:
        ray.shutdown()


_WITH_TESTS = {"env_vars": {"PYTHONPATH": os.path.dirname(__file__)}}


def _evaluates_as_jax_does(executor):
    block = esjax.host.wrap(host_functions.count, NUMBER, executor)
    gradient = jax.jit(jax.grad(esjax.smooth(block, sigma=0.5, num_samples=32), argnums=1))
    _, wanted = _of_count(32)
    for _ in range(2):  # the same inputs twice: an executor that remembers values would not call again
        np.testing.assert_allclose(gradient(jax.random.PRNGKey(0), X), wanted, rtol=1e-6)
    assert block.log.evaluations == 64
    xs = jnp.arange(96.0).reshape(32, 3)
    _is_refilled(jax.vmap(esjax.host.wrap(host_functions.refill, REFILLED, executor))(xs), xs)
    raising = esjax.host.wrap(host_functions.raises_if_large, NUMBER, executor, on_error=host_functions.nan)
    np.testing.assert_array_equal(jax.vmap(raising)(jnp.array([[0.5], [2.0]])), [1, np.nan])
    assert raising.log.exceptions == 1
    with pytest.raises(
        RuntimeError, match=r"^the only sample: ArithmeticError: too large: 2\.000; its input"
    ):
        esjax.host.wrap(host_functions.raises_if_large, NUMBER, executor)(jnp.array([2.0]))
    dying = esjax.host.wrap(host_functions.faulty, NUMBER, executor, on_error=host_functions.nan)
    assert np.isnan(dying(X, jnp.float32(0.032)))
    assert dying.log.deaths == 1
    assert block(X) == 2


def test_programs_work(threads):
    def by_program(x):
        program = "import sys; print(sum(float(word) > 0 for word in sys.argv[1:]))"
        command = [sys.executable, "-S", "-c", program, *map(str, x)]
        return np.float32(
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
        )

    smoothed = esjax.smooth(esjax.host.wrap(by_program, NUMBER, threads), sigma=0.5, num_samples=8)
    found = jax.jit(jax.value_and_grad(smoothed, argnums=1))(jax.random.PRNGKey(0), X)
    chex.assert_trees_all_close(found, _of_count(8), rtol=1e-6)


def test_sklearn_metrics_work():
    from sklearn.metrics import f1_score

    labels = jnp.array([0, 1, 1, 0, 1])
    metric = partial(f1_score, zero_division=0.0)
    block = esjax.host.wrap(lambda labels, scores: metric(labels, scores > 0), NUMBER)
    smoothed = esjax.smooth(lambda scores, labels: block(labels, scores), sigma=0.5, num_samples=64)
    scores = jnp.array([-1.0, 0.2, -0.1, 0.3, 0.5])
    gradient = jax.jit(jax.grad(smoothed, argnums=1))(jax.random.key(0), scores, labels)
    assert np.all(np.sign(gradient)[1:] == np.array([1, 1, -1, 1]))


def test_a_whole_number_that_the_result_cannot_hold_is_refused():
    block = esjax.host.wrap(lambda x: np.int64(2**40 + 1), jax.ShapeDtypeStruct((), jnp.int32))
    with pytest.raises(ValueError, match="holds 1099511627777, beyond int32; declare a wider result"):
        block(jnp.zeros(()))
    assert esjax.host.wrap(lambda x: np.int64(7), jnp.int32(0))(jnp.zeros(())) == 7


def test_a_refused_derivative_leaves_the_object_as_it_was():
    """JAX keeps what a rule that raised has left: the next gradient ended in its `StoreException`."""
    block = esjax.host.wrap(
        lambda x, w: np.float32((w * (x > 0)).sum()), jax.ShapeDtypeStruct((), jnp.float32)
    )
    x, w = jnp.array([0.3, -0.2]), jnp.array([1.0, 2.0])

    def new():
        smoothed = esjax.smooth(block, sigma=0.5, num_samples=8)
        return lambda x, w: smoothed(jax.random.PRNGKey(0), x, w)

    function, wanted = new(), jax.grad(new())(x, w)
    for _ in range(2):
        with pytest.raises(TypeError, match="no forward mode"):
            jax.jvp(lambda x: function(x, w), (x,), (x,))
        with pytest.raises(ValueError, match="has no gradient"):
            jax.grad(function, (0, 1))(x, w)
        np.testing.assert_array_equal(jax.grad(function)(x, w), wanted)


# --- the cache ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", [None, "threads"])
def test_the_same_input_has_the_same_answer_without_another_call(executor, request):
    executor = executor and request.getfixturevalue(executor)
    calls = []

    def number(x, tree):
        calls.append(float(x))
        return np.float32(len(calls))

    block = esjax.host.wrap(number, NUMBER, executor, cache_size=100)
    xs = jnp.array([3.0, 1.0, 3.0, -0.0, 0.0])
    found = jax.jit(jax.vmap(block, (0, None)))(xs, {"a": X})
    assert len(calls) == 4 and found[0] == found[2] and len({*map(float, found)}) == 4
    assert (block.log.evaluations, block.log.hits) == (4, 1)
    np.testing.assert_array_equal(jax.jit(jax.vmap(block, (0, None)))(xs[::-1], {"a": X}), found[::-1])
    assert (block.log.evaluations, block.log.hits) == (4, 6)
    for other in ({"a": X + 1}, {"b": X}, {"a": X[None]}, {"a": X.astype(jnp.float16)}):
        assert block(xs[0], other) not in found  # another value, name, shape, dtype
    assert (block.log.evaluations, block.log.hits) == (8, 6)


def test_the_value_asked_for_longest_ago_makes_room():
    block = esjax.host.wrap(lambda x: np.float32(x), NUMBER, cache_size=2)
    for x in (1.0, 2.0, 1.0, 3.0, 1.0, 2.0):  # 3 takes the place of 2
        assert block(jnp.float32(x)) == x
    assert (block.log.evaluations, block.log.hits) == (4, 2)


def test_what_on_error_gave_is_asked_again_and_memory_that_is_filled_again_does_no_harm():
    buffer, fails = np.zeros(2, np.float32), [True, False]

    def fun(x):
        if x < 0 and fails.pop(0):
            raise OSError("no licence")
        buffer[:] = x
        return buffer

    block = esjax.host.wrap(fun, jnp.zeros(2), on_error=lambda error, x: np.full(2, np.nan), cache_size=9)
    assert np.isnan(block(jnp.float32(-1.0))).all() and (block(jnp.float32(-1.0)) == -1).all()
    assert (block(jnp.float32(5.0)) == 5).all() and (block(jnp.float32(-1.0)) == -1).all()
    assert (block.log.substituted, block.log.hits) == (1, 1)


def test_a_copy_of_a_cached_function_starts_with_nothing_found():
    block = esjax.host.wrap(host_functions.count, NUMBER, cache_size=5)
    assert block(X) == block(X) and block.log.hits == 1
    again = pickle.loads(pickle.dumps(block._task))
    assert again.cache.size == 5 and again.cache.find(()) is None and not again.cache._values


@pytest.mark.parametrize("size", [-1, 2.5, True, None])
def test_a_size_of_the_cache_that_is_none_is_refused(size):
    with pytest.raises(ValueError, match=r"cache_size=.* must be a whole number >= 0"):
        esjax.host.wrap(host_functions.count, NUMBER, cache_size=size)
