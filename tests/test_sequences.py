"""Whatever an object was asked before, it gives what a new one gives.

JAX traces a function, and the derivative rules in it, once for each pattern of what is differentiated, and
keeps what it traced; so an answer may depend on earlier questions. Hypothesis invents sequences of questions
to one object: derivatives of the first and second order in some of (x, σ, args), by jit, scan, checkpoint or
vmap, of two calls in one program, vjps kept and pulled back later, forward mode, which some objects refuse.
Answers are compared with derivatives in *all* inputs by new objects, each of a package imported anew and
asked nothing else.

Here 80 sequences of five questions run, five on each kind of object. `python tests/test_sequences.py 2000`
runs so many, and prints those that fail, as short as they can be; `--seed` invents others, `--kinds` names
some of the objects.
"""

import argparse
import contextlib
import importlib
import sys
import tempfile
import time
import traceback
import warnings

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sequences import (
    DIRECTION,
    FIRST,
    KEPT,
    KEYS,
    KINDS,
    OVER,
    POINTS,
    SECOND,
    SUBSETS,
    get_key,
    linearized,
    mapped,
    new_gradient,
    new_hessian,
    new_loss,
    new_mapped,
    new_recurrent,
    recurrent,
    second_derivatives,
    some,
    some_of,
    two_calls,
)

FIVE = settings(
    max_examples=5,
    stateful_step_count=5,
    derandomize=True,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)
SHRUNK = settings(FIVE, phases=[Phase.generate, Phase.shrink])

IMPLS = st.sampled_from(list(KEYS))
NAMES = st.sampled_from(SUBSETS)


class Sequence(RuleBasedStateMachine):
    """Asks one object, and compares each answer with that of a new one."""

    kind: str
    kept = Bundle("kept")

    def __init__(self):
        super().__init__()
        self.loss = new_loss(self.kind)
        self.all_kept = []

    @initialize(impl=IMPLS)
    def begin(self, impl):
        self.impl = impl

    @rule(impl=IMPLS)
    def change_keys(self, impl):
        self.impl = impl

    def known(self, names):
        """Returns those of the inputs in which the object has derivatives, or x."""
        return tuple(name for name in names if name in KINDS[self.kind].inputs) or ("x",)

    def asked(self, names):
        """Returns what a transformation takes."""
        return self.loss, get_key(self.impl), some(POINTS[0], self.known(names)), POINTS[0]

    def gradient(self, names, *which):
        return some_of(new_gradient(self.kind, self.impl, *which), self.known(names))

    def along_direction(self, how, names):
        return second_derivatives(how, new_hessian(self.kind, self.impl), self.known(names))

    @rule(how=st.sampled_from(list(FIRST)), names=NAMES)
    def differentiate(self, how, names):
        loss, *inputs = self.asked(names)
        _assert_same(FIRST[how](loss)(*inputs), self.gradient(names))

    @rule(how=st.sampled_from(list(SECOND)), names=NAMES)
    def differentiate_the_gradient(self, how, names):
        _assert_same(SECOND[how](*self.asked(names)), self.along_direction(how, names))

    @rule(over=st.sampled_from(list(OVER)), names=NAMES)
    def map_over(self, over, names):
        names = self.known(names)
        _assert_same(mapped(self.loss, self.impl, over, names), new_mapped(self.kind, self.impl, over, names))

    @rule(names=NAMES, others=NAMES)
    def call_twice(self, names, others):
        found = two_calls(self.loss, self.impl, self.known(names), self.known(others))
        _assert_same(found, (self.gradient(names)[1], self.gradient(others, 1, 1)[1]))

    @rule(names=NAMES, compiled=st.booleans())
    def recur(self, names, compiled):
        chosen = some(POINTS[0], self.known(names))
        right = some_of(new_recurrent(self.kind, self.impl), chosen)
        _assert_same(recurrent(self.loss, self.impl, chosen, compiled=compiled), right)

    @rule(target=kept, how=st.sampled_from(list(KEPT)), names=NAMES)
    def keep(self, how, names):
        right = self.gradient(names)[1]
        return self.remembered(KEPT[how](*self.asked(names)), right)

    @rule(target=kept, names=NAMES)
    def keep_linearized(self, names):
        function = linearized(*self.asked(names))
        direction = some(DIRECTION, self.known(names))
        return self.remembered(lambda: function(direction), self.along_direction("linearize", names))

    def remembered(self, call, right):
        self.all_kept.append((call, right))
        return call, right

    @rule(which=kept)
    def use_what_was_kept(self, which):
        call, right = which
        _assert_same(call(), right)

    @rule(names=NAMES)
    def ask_for_forward_mode(self, names):
        loss, key, chosen, rest = self.asked(names)
        directions = some(DIRECTION, chosen)

        def value_dot():
            return jax.jvp(lambda chosen: loss(key, chosen, rest)[0], (chosen,), (directions,))[1]

        if KINDS[self.kind].has_forward_mode:
            gradients = self.gradient(names)[1]
            _assert_same(value_dot(), sum(np.vdot(directions[name], gradients[name]) for name in chosen))
        else:
            with pytest.raises(TypeError, match="no forward mode"):
                value_dot()

    @precondition(lambda self: self.kind == "host.wrap")
    @rule()
    def ask_for_a_gradient_in_args(self):
        self.pull_back()  # after a rule that raised, JAX cannot, in a plain custom_vjp neither: "Store empty"
        with pytest.raises(ValueError, match="has no gradient"):
            jax.grad(self.loss, 1, has_aux=True)(
                get_key(self.impl), some(POINTS[0], ("x", "args")), POINTS[0]
            )

    def pull_back(self):
        while self.all_kept:
            call, right = self.all_kept.pop()
            _assert_same(call(), right)

    def teardown(self):
        self.pull_back()


def _assert_same(found, right):
    chex.assert_trees_all_close(found, right, rtol=1e-4, atol=1e-4)


def _run(kind, number, settings):
    """Runs sequences of questions, which the number decides, on objects of one kind."""
    machine = hypothesis.seed(number)(type("Sequence", (Sequence,), {"kind": kind}))
    with jax.debug_key_reuse(False):  # a checkpoint that is not compiled fails it, whatever is in it
        run_state_machine_as_test(machine, settings=settings)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_asked_before_changes_nothing(kind):
    _run(kind, 0, FIVE)


def main():
    """Runs as many sequences as the arguments say; returns for how many kinds one went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    arguments = parser.parse_args()
    importlib.import_module("conftest")  # the compiler's flags, before the first program
    warnings.simplefilter("error")
    each = -(-arguments.count // len(arguments.kinds))
    with tempfile.TemporaryDirectory() as folder, _strict_and_quick(folder):
        return sum([not _is_right(kind, each, arguments.seed) for kind in arguments.kinds])


@contextlib.contextmanager
def _strict_and_quick(folder):
    """Compiles each program once, whichever object it is of."""
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def _is_right(kind, count, number):
    start, is_right = time.perf_counter(), True
    try:
        _run(kind, number, settings(SHRUNK, max_examples=count))
    except Exception:
        traceback.print_exc()
        is_right = False
    seconds = time.perf_counter() - start
    print(f"{kind}: {count} sequences, {'right' if is_right else 'WRONG'}, {seconds:.0f} s", flush=True)
    jax.clear_caches()
    return is_right


if __name__ == "__main__":
    sys.exit(main())
