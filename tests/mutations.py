"""Breaks the estimators in named ways, one at a time, in a copy; the tests must turn red each time.

    python tests/mutations.py                    # all of them
    python tests/mutations.py "no 1/σ" "..."     # some

It prints a line for each, and fails if one went unseen, or if the tests are red without any.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutation(NamedTuple):
    """A break, and the tests that should see it.

    Attributes:
        name: what is wrong.
        file: of the package.
        old: text that is there once.
        new: what takes its place.
        tests: arguments to pytest.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = [
    Mutation(
        "no 1/σ",
        "smoothing/_sums.py",
        "jnp.where(jnp.isinf(x), 0, in_x / sigma)",
        "jnp.where(jnp.isinf(x), 0, in_x * jnp.ones_like(sigma))",
        "test_smoothing.py",
    ),
    Mutation(
        "σ's gradient without the density's normaliser",
        "smoothing/_perturbing.py",
        "in_sigma = (in_x * eps - 1) *",
        "in_sigma = (in_x * eps) *",
        "test_smoothing.py test_unbiased.py",
    ),
    Mutation(
        "leave-one-out with the mean of all",
        "baselines.py",
        "return -1.0 / (in_all - in_group), 1.0 / (in_all - in_group)",
        "return 0.0 * in_group, 1.0 / in_all",
        "test_baselines.py test_unbiased.py",
    ),
    Mutation(
        "the same draws for every group",
        "smoothing/_samples.py",
        "return problem.perturbing.draw(inputs[2:], jax.random.fold_in(key, group))",
        "return problem.perturbing.draw(inputs[2:], jax.random.fold_in(key, 0 * group))",
        "test_smoothing.py test_samplers.py",
    ),
    Mutation(
        "N − 1 in place of N",
        "smoothing/_sums.py",
        "in_x, in_sigma = jax.tree.map(lambda sums: sums / count, score_sums)",
        "in_x, in_sigma = jax.tree.map(lambda sums: sums / (count - 1), score_sums)",
        "test_smoothing.py test_unbiased.py",
    ),
    Mutation(
        "the last chunk dropped",
        "smoothing/_folding.py",
        "    if rest:\n        sums, out = step(sums, first + jnp.int32(full * size), rest)",
        "    if rest:\n        _, out = step(sums, first + jnp.int32(full * size), rest)",
        "test_estimator.py test_smoothing.py",
    ),
    Mutation(
        "pairs of equal signs",
        "samplers/independent.py",
        "return jnp.concatenate([eps, -eps])",
        "return jnp.concatenate([eps, eps])",
        "test_samplers.py",
    ),
    Mutation(
        "orthogonal directions of one length",
        "samplers/rotations.py",
        "return jnp.linalg.norm(rows, axis=1, keepdims=True) * _rotation(rows)",
        "return dim**0.5 * _rotation(rows)",
        "test_samplers.py",
    ),
    Mutation(
        "half the logistic score",
        "noise.py",
        "return jnp.tanh(eps / 2)",
        "return jnp.tanh(eps / 2) / 2",
        "test_noise.py",
    ),
    Mutation(
        "Gumbel noise off its centre",
        "noise.py",
        "return -jnp.expm1(-eps - np.euler_gamma)",
        "return -jnp.expm1(-eps)",
        "test_noise.py",
    ),
    Mutation(
        "discarded samples counted",
        "smoothing/_weights.py",
        "return saved.values.sum(0) / saved.kept.sum()",
        "return saved.values.sum(0) / saved.kept.size",
        "test_discard.py",
    ),
    Mutation(
        "second derivatives without the box",
        "smoothing/_surrogate.py",
        "jnp.where(counts, terms, 0) * box + jnp.where(counts, own_baselines, 0) * (1 - box)",
        "terms * jax.lax.stop_gradient(box) + 0 * own_baselines",
        "test_smoothing.py test_unbiased.py",
    ),
    Mutation(
        "decisions compared with their own value",
        "decisions/estimators.py",
        "(values.sum(0, keepdims=True) - values) / (count - 1)",
        "values.mean(0, keepdims=True)",
        "test_decisions.py",
    ),
    Mutation(
        "some coordinates in place of all, not scaled",
        "decisions/estimators.py",
        "probs = law.probs(outcome)[chosen] * (law.num_coordinates / chosen_count)",
        "probs = law.probs(outcome)[chosen]",
        "test_decisions.py",
    ),
    Mutation(
        "the first places of a ranking, without those left",
        "decisions/_laws.py",
        "if k < size:",
        "if k < 0:",
        "test_decisions.py",
    ),
    Mutation(
        "the closed form's gradient 1 % too small",
        "exact/_argmax_integrals.py",
        'return -einsum("...k,...k->...", slopes, t_dot)',
        'return -0.99 * einsum("...k,...k->...", slopes, t_dot)',
        "test_exact.py",
    ),
    Mutation(
        "a control variate scaled on its own half",
        "smoothing/_control.py",
        "for own, other, size in ((first, second, sizes[0]), (second, first, sizes[1]))",
        "for own, other, size in ((first, first, sizes[0]), (second, second, sizes[1]))",
        "test_control.py",
    ),
    Mutation(
        "the same samples on every device",
        "smoothing/_folding.py",
        "first = jax.lax.axis_index(axes) * samples_of_device(problem)",
        "first = jnp.int32(0)",
        "test_sharding.py",
    ),
    Mutation(
        "another rotation in threefry",
        "_core/random.py",
        "(13, 15, 26, 6)",
        "(13, 15, 26, 7)",
        "test_random.py",
    ),
    Mutation(
        "standard errors of samples, not of groups",
        "smoothing/_report.py",
        "1 / jnp.where(several, 1 - (shares**2).sum(), 1)",
        "1 / jnp.where(several, 1 / (shares**2).sum() - 1, 1)",
        "test_diagnostics.py",
    ),
    Mutation(
        "one key for both halves of a control variate",
        "smoothing/_control.py",
        "keys = jax.random.split(as_key(data))",
        "keys = [as_key(data)] * 2",
        "test_control.py",
    ),
    Mutation(
        "the first coordinate of independent draws larger",
        "samplers/independent.py",
        "lambda key, dtype: noise.sample(key, (1, dim), dtype)",
        "lambda key, dtype: noise.sample(key, (1, dim), dtype).at[0, 0].multiply(1.1)",
        "test_laws.py",
    ),
    Mutation(
        "one σ for all coordinates in its gradient",
        "smoothing/_sums.py",
        "in_sigma = (in_sigma if sigma.ndim else in_sigma.sum()) / sigma",
        "in_sigma = (in_sigma if sigma.ndim else in_sigma.sum()) / sigma.mean()",
        "test_smoothing.py",
    ),
    Mutation(
        "a lone group compared with nothing",
        "smoothing/_weights.py",
        "(jnp.where(alone, 0, c) for c in",
        "(c for c in",
        "test_discard.py",
    ),
    Mutation(
        "derivatives of 0 where all is discarded",
        "smoothing/_surrogate.py",
        "    is_none = num_kept == 0 ",
        "    is_none = num_kept < 0 ",
        "test_discard.py",
    ),
    Mutation(
        "second derivatives with what was discarded",
        "smoothing/_surrogate.py",
        "jnp.where((kept[:, None] > 0) | is_none, boxed, 0).sum(0)",
        "terms.sum(0)",
        "test_discard.py",
    ),
    Mutation(
        "the bias of many blocks added up",
        "diagnostics.py",
        "bias=root_of_sum(reports.bias)",
        "bias=reports.bias.sum(axis)",
        "test_diagnostics.py",
    ),
    Mutation(
        "one structure of residuals for each pattern",
        "smoothing/_derivatives.py",
        "saved = jax.tree.map(lambda leaf: _NOTHING if leaf is None else leaf, saved, is_leaf=_is_none)",
        "saved = tuple(saved)",
        "test_estimator.py",
    ),
    Mutation(
        "replicated inputs of shard_map as they come",
        "_core/chunks.py",
        'return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf',
        "return leaf",
        "test_placed.py",
    ),
    Mutation(
        "gradients summed over devices before their cotangent",
        "smoothing/_sums.py",
        "and affine and problem.is_uniform and",
        "and affine and",
        "test_placed.py",
    ),
    Mutation(
        "placements inside of types",
        "_core/placement.py",
        "    mesh = explicit_mesh(args)\n    if mesh is None:",
        "    mesh = None\n    if mesh is None:",
        "test_placed.py",
    ),
    Mutation(
        "keys that are never used up",
        "_core/random.py",
        "        jax.random.split(key)\n",
        "        pass\n",
        "test_numerics.py",
    ),
    Mutation(
        "keys that gradients do not use up",
        "smoothing/_smooth.py",
        "        random.consume(key)\n        return result",
        "        return result",
        "test_numerics.py",
    ),
    Mutation(
        "no tangent of the value",
        "smoothing/_derivatives.py",
        "return jax.jvp(value_of, (chosen,), (directions,))[1]",
        "return 0 * jax.jvp(value_of, (chosen,), (directions,))[1]",
        "test_estimator.py",
    ),
    Mutation(
        "no tangent through rules of others",
        "smoothing/_derivatives.py",
        "return sum((jnp.real(each).astype",
        "return sum((0 * jnp.real(each).astype",
        "test_higher_orders.py",
    ),
    Mutation(
        "a gradient that misses other examples",
        "smoothing/_derivatives.py",
        "    refuse_axes_of_vmap(jax.make_jaxpr(problem.fun)(inputs[0], inputs[2:]))\n    value",
        "    value",
        "test_smoothing.py",
    ),
    Mutation(
        "a silent 0 in what the noise closes over",
        "smoothing/_derivatives.py",
        "    if any(moved[number] for number in problem.constant_args):",
        "    if False:",
        "test_smoothing.py",
    ),
    Mutation(
        "a silent 0 in what discard closes over",
        "smoothing/_vectors.py",
        'for name in ("draw", "score", "discard", "transform"):',
        'for name in ("draw", "score", "transform"):',
        "test_smoothing.py",
    ),
    Mutation(
        "the score closes over a tracer",
        "_jaxpr/hoisting.py",
        "    if not consts:",
        "    if True:",
        "test_smoothing.py",
    ),
    Mutation(
        "infinite coordinates move",
        "smoothing/_perturbing.py",
        "is_fixed = jnp.isinf(x0)",
        "is_fixed = jnp.isnan(x0)",
        "test_estimator.py",
    ),
    Mutation(
        "noise of infinite coordinates in σ's gradient",
        "smoothing/_perturbing.py",
        "(~jnp.isinf(x)[None])",
        "(~jnp.isnan(x)[None])",
        "test_estimator.py",
    ),
    Mutation(
        "discarded samples ranked beside infinite ones",
        "baselines.py",
        "jnp.minimum(jnp.searchsorted(ordered, values, side=side).astype(values.dtype), count)",
        "jnp.searchsorted(ordered, values, side=side).astype(values.dtype)",
        "test_baselines.py",
    ),
    Mutation(
        "f(x) left over beside a mean of others",
        "smoothing/_weights.py",
        "return 1 - problem.at_input(inputs[2:]) - own * in_group - total * in_all",
        "return 1 - problem.at_input(inputs[2:]) + 0 * own",
        "test_baselines.py",
    ),
    Mutation(
        "slopes of terms forgotten in two passes",
        "smoothing/_sums.py",
        "_scaled(_weights.weights(problem, inputs, saved), of_terms)",
        "_weights.weights(problem, inputs, saved)",
        "test_credit.py",
    ),
    Mutation(
        "the sum of all not credited",
        "smoothing/_weights.py",
        "credited(shift * num_samples - centred_sum) * sums[1]",
        "(shift * num_samples - centred_sum).sum() * sums[1]",
        "test_credit.py",
    ),
    Mutation(
        "discard looks at terms",
        "smoothing/_weights.py",
        "(combined(problem, inputs, terms))",
        "(terms)",
        "test_credit.py",
    ),
    Mutation(
        "terms gathered past a row's end",
        "smoothing/_credit.py",
        "is_there = by_column[jnp.asarray(np.maximum(at, 0))], at >= 0",
        "is_there = by_column[jnp.asarray(np.maximum(at, 0))], at >= -1",
        "test_credit.py",
    ),
    Mutation(
        "a report without the slopes of terms",
        "smoothing/_report.py",
        "jnp.where(slopes == 0, 0, weights[:, None] * slopes)",
        "weights[:, None] * jnp.ones_like(slopes)",
        "test_credit.py",
    ),
    Mutation(
        "causal rewards without their own step",
        "credit.py",
        "np.tril(np.ones((num_values, num_values), bool))",
        "np.tril(np.ones((num_values, num_values), bool), -1)",
        "test_credit.py",
    ),
    Mutation(
        "credit that is never found",
        "credit.py",
        "    return found if few else None",
        "    return None",
        "test_credit.py",
    ),
    Mutation(
        "weights of NaN times slopes of 0",
        "smoothing/_sums.py",
        "return jnp.where(slopes == 0, 0, weights * slopes)",
        "return weights * slopes",
        "test_credit.py",
    ),
    Mutation(
        "credit to coordinates that a term does not read",
        "smoothing/_credit.py",
        "return Readers(_adding(pattern.T.tocsr()), _adding(pattern.tocsr()), int(pattern.nnz), pairs)",
        "return Readers(_adding(pattern.T.tocsr()[::-1]), _adding(pattern.tocsr()), int(pattern.nnz), pairs)",
        "test_credit.py",
    ),
    Mutation(
        "credit without the slopes of terms",
        "smoothing/_sums.py",
        "return lambda weights: problem.readers.by_coordinate(_scaled(weights, of_terms))",
        "return lambda weights: problem.readers.by_coordinate(weights)",
        "test_credit.py",
    ),
    Mutation(
        "diagonals past a row's end",
        "smoothing/_credit.py",
        "(shifted if at.all() else jnp.where(jnp.asarray(at), shifted, 0))",
        "shifted",
        "test_credit.py",
    ),
    Mutation(
        "second derivatives of terms that a mask leaves out",
        "smoothing/_surrogate.py",
        "jnp.where(counts, terms, 0) * box",
        "terms * box",
        "test_credit.py",
    ),
    Mutation(
        "samples that carry the gradient without the slopes of terms",
        "smoothing/_report.py",
        "weights**2 * (slopes**2).sum(0)[None]",
        "weights**2",
        "test_credit.py",
    ),
    Mutation(
        "one box for all terms",
        "smoothing/_surrogate.py",
        "box = jnp.exp(problem.readers.by_term(log_ratio))",
        "box = jnp.exp(log_ratio.sum(-1, keepdims=True))",
        "test_credit.py",
    ),
    Mutation(
        "the offset of each device kept",
        "smoothing/_weights.py",
        "return sums[0] + credited(shift * num_samples - centred_sum) * sums[1]",
        "return sums[0] - credited(centred_sum) * sums[1]",
        "test_weights.py",
    ),
    Mutation(
        "derivatives of the block at faulty samples",
        "smoothing/_weights.py",
        "    return jax.tree.map(where_kept, drawn, saved.sound)",
        "    return drawn",
        "test_discard.py",
    ),
    Mutation(
        "standard errors as if groups were of one size",
        "smoothing/_report.py",
        "sums.squares - 2 * (total * shared).sum() + sums.square_shares * (total**2).sum()",
        "sums.squares - (total**2).sum() * size / problem.num_samples",
        "test_diagnostics.py",
    ),
    Mutation(
        "noise pickled by its closures",
        "noise.py",
        "return name or (Noise, tuple(self))",
        "return (Noise, tuple(self))",
        "test_noise.py",
    ),
    Mutation(
        "raw keys of one generator only",
        "_core/check.py",
        "shape == _raw_shape(config.jax_default_prng_impl)",
        "shape == (2,)",
        "test_smoothing.py",
    ),
    Mutation(
        "narrow x perturbed as it is",
        "smoothing/_vectors.py",
        "wide = jax.tree.map(trees.widen, x)",
        "wide = x",
        "test_smoothing.py",
    ),
    Mutation(
        "orthogonal directions of nothing",
        "samplers/rotations.py",
        "    if dim == 0:\n        return iid",
        "    if dim < 0:\n        return iid",
        "test_smoothing.py",
    ),
    Mutation(
        "an infinite score in Gumbel's distribution",
        "decisions/_laws.py",
        "_chance_below(-x, jnp.zeros_like(x), sigma)",
        "_gumbel_cdf(-x / sigma)",
        "test_numerics.py",
    ),
    Mutation(
        "a simulator's memory not copied",
        "host/_evaluation.py",
        "return jax.tree.map(_copied_leaf, fun(*args))",
        "return fun(*args)",
        "test_host.py",
    ),
    Mutation(
        "copied when all samples are there",
        "host/_evaluation.py",
        "fun = task.fun if pickles else partial(_copied, task.fun)",
        "fun = task.fun",
        "test_host.py",
    ),
    Mutation(
        "on_error's memory not copied",
        "host/_evaluation.py",
        "substitute = _copied(task.on_error, value, *args)",
        "substitute = task.on_error(value, *args)",
        "test_host.py",
    ),
    Mutation(
        "calls without an executor at once",
        "host/_evaluation.py",
        "with self._task.turn:",
        "with threading.Lock():",
        "test_host.py",
    ),
    Mutation(
        "masks forgotten",
        "host/_evaluation.py",
        "if np.ma.is_masked(leaf):",
        "if False:",
        "test_host.py",
    ),
    Mutation(
        "exceptions that cannot be copied",
        "host/faults.py",
        "except Exception:  # its class",
        "except KeyError:  # its class",
        "test_host.py",
    ),
    Mutation(
        "exceptions that cannot be sent",
        "host/executors.py",
        "raise RuntimeError(described(error)) from None",
        "raise",
        "test_host.py",
    ),
    Mutation(
        "JAX's calls before the cause",
        "host/wrapping.py",
        "raise error.with_traceback(TracebackType(None, frame, frame.f_lasti, frame.f_lineno))",
        "raise error",
        "test_host.py",
    ),
    Mutation(
        "labels of 64 bits wrapped",
        "_core/check.py",
        "        return np.asarray(given)\n",
        "        return as_array(name, given)\n",
        "test_exact.py",
    ),
    Mutation(
        "traced labels of 64 bits wrapped",
        "_core/check.py",
        "given = given.clip(max(own.min, wanted.min), wanted.max)",
        "pass",
        "test_exact.py",
    ),
    Mutation(
        "labels in their own few bits",
        "_core/check.py",
        "return [as_array(name, to_int32(given)) for name, given in arrays.items()]",
        "return [as_array(name, given) for name, given in arrays.items()]",
        "test_exact.py",
    ),
    Mutation(
        "every class but 0 is positive",
        "blocks/_counts.py",
        "return classes[0] == 1, classes[1] == 1",
        "return classes[0] != 0, classes[1] != 0",
        "test_blocks.py",
    ),
    Mutation(
        "a correlation of what has no class",
        "blocks/_counts.py",
        "(has_class | ~counted).all()",
        "(has_class | True).all()",
        "test_blocks.py",
    ),
    Mutation(
        "integers in the order of float32",
        "_core/arrays.py",
        "return given.astype(jnp.int32) if given.dtype.itemsize < 4 else given",
        "return as_floating(name, given)",
        "test_blocks.py",
    ),
    Mutation(
        "float64 and int64 in the order of float32",
        "_core/arrays.py",
        "    if isinstance(given, np.ndarray):\n        ranks",
        "    if False:\n        ranks",
        "test_blocks.py",
    ),
    Mutation(
        "the least integer negated",
        "blocks/ranking.py",
        "else ~scores",
        "else -scores",
        "test_blocks.py",
    ),
    Mutation(
        "gains overflow",
        "_core/arrays.py",
        "grades.max() - 64",
        "0 * grades.max() - 64",
        "test_blocks.py",
    ),
    Mutation(
        "a masked score that is not the lowest",
        "blocks/ranking.py",
        "np.iinfo(scores.dtype).min",
        "0",
        "test_blocks.py",
    ),
    Mutation(
        "ties that the area counts whole",
        "blocks/pairs.py",
        "in_order = 0.5 * (below + up_to)",
        "in_order = 1.0 * up_to",
        "test_blocks.py",
    ),
    Mutation(
        "masked negatives tied with an infinite score",
        "blocks/pairs.py",
        "jnp.minimum(up_to, among.sum(dtype=jnp.int32))",
        "up_to",
        "test_blocks.py",
    ),
    Mutation(
        "a rank correlation that leaves ties in its divisor",
        "blocks/pairs.py",
        "jnp.sqrt(total(jnp.abs(each))) for each",
        "jnp.sqrt(total(0 * each + 1)) for each",
        "test_blocks.py",
    ),
    Mutation(
        "absent classes in the balanced accuracy",
        "blocks/sets.py",
        "how_many(num_actual > 0)",
        "how_many(num_actual >= 0)",
        "test_blocks.py",
    ),
    Mutation(
        "beta not squared",
        "blocks/sets.py",
        "1 / (1 + inverse * inverse)",
        "1 / (1 + inverse)",
        "test_blocks.py",
    ),
    Mutation(
        "precision over the items that are there",
        "blocks/ranking.py",
        "/ float(k)",
        "/ float(min(k, in_order.size))",
        "test_blocks.py",
    ),
    Mutation(
        "tokens wrapped",
        "blocks/sequences.py",
        "if isinstance(given, np.ndarray) and (given != to_int32(given)).any()",
        "if False",
        "test_blocks.py",
    ),
    Mutation(
        "tokens equal by their bits alone",
        "blocks/sequences.py",
        " | ((predicted < 0) != (token < 0))",
        "",
        "test_blocks.py",
    ),
    Mutation(
        "refusals of JAX's own as they come",
        "_core/traceable.py",
        "if _WRAP in str(error) or not _needs_numbers(error):",
        "if True:",
        "test_misuse.py",
    ),
    Mutation(
        "errors of the block's own blamed on tracing",
        "_core/traceable.py",
        "if _WRAP in str(error) or not _needs_numbers(error):",
        "if _WRAP in str(error):",
        "test_misuse.py",
    ),
    Mutation(
        "a library's error in place of JAX's",
        "_core/traceable.py",
        "return bool(is_jax) or _needs_numbers(error.__cause__)",
        "return bool(is_jax)",
        "test_misuse.py",
    ),
    Mutation(
        "the imaginary part dropped",
        "_core/trees.py",
        "                remedy = _COMPLEX",
        "                pass",
        "test_misuse.py",
    ),
    Mutation(
        "integers of 64 bits wrapped",
        "_core/trees.py",
        "        if wrapped is not None:",
        "        if False:",
        "test_misuse.py",
    ),
    Mutation(
        "a decision that cannot be traced",
        "decisions/smoothing.py",
        'law = traceable("decision", decision)(x, sigma, noise)',
        "law = decision(x, sigma, noise)",
        "test_misuse.py",
    ),
    Mutation(
        "a signature that flax.nnx cannot call",
        "smoothing/_smooth.py",
        "    __signature__ = SIGNATURE\n",
        "",
        "test_misuse.py",
    ),
    Mutation(
        "too few samples named",
        "smoothing/_options.py",
        "use num_samples >= {least * size}, twice",
        "use num_samples >= {(least - 1) * size + 1}, twice",
        "test_misuse.py",
    ),
    Mutation(
        "a stream of keys taken for a key",
        "_core/check.py",
        'in ("Rngs", "RngStream")',
        "in ()",
        "test_misuse.py",
    ),
    Mutation(
        "rules that are lost after one use",
        "_core/rules.py",
        "    found = _with_rule.bind(*primals, rule=rule, num_values=num_values)\n    moved",
        "    found = list(primals[:num_values])\n    moved",
        "test_higher_orders.py",
    ),
    Mutation(
        "rules that vmap loses",
        "_core/rules.py",
        "    return found, [0] * num_values",
        "    return values, [0] * num_values",
        "test_higher_orders.py",
    ),
    Mutation(
        "slopes of accuracy without slopes",
        "exact/_argmax_integrals.py",
        "    slopes = with_rule(slopes, partial(_slopes_dot, num_nodes), t)\n",
        "    del num_nodes, t\n",
        "test_higher_orders.py",
    ),
    Mutation(
        "noise with a kink has second derivatives",
        "noise.py",
        "return lambda eps: with_rule(score(jax.lax.stop_gradient(eps)), refuse, eps)",
        "return score",
        "test_higher_orders.py",
    ),
    Mutation(
        "images of 0 and 1 in bytes",
        "train/images.py",
        "if images.dtype == np.uint8 and high < _LEAST_WHITE:",
        "if False:",
        "test_train_reading.py",
    ),
    Mutation(
        "channels first taken for rows",
        "train/images.py",
        "shape[1] in (1, 3, 4) and shape[3] > 4:",
        "shape[1] in (1,) and shape[3] > 4:",
        "test_train_reading.py",
    ),
    Mutation(
        "images that are all the same",
        "train/images.py",
        "if len(images) > 1 and all(",
        "if False and all(",
        "test_train_reading.py",
    ),
    Mutation(
        "labels of classes without images",
        "train/images.py",
        "if 2 * len(classes) < classes[-1] + 1:",
        "if False:",
        "test_train_reading.py",
    ),
    Mutation(
        "two kinds of names in one file",
        "train/sources.py",
        "if all(kinds):",
        "if False:",
        "test_train_reading.py",
    ),
    Mutation(
        "batches of one",
        "train/models.py",
        "if batch_size < 2:",
        "if batch_size < 1:",
        "test_train_misuse.py",
    ),
    Mutation(
        "traces kept after a refusal",
        "smoothing/_smooth.py",
        "            self._forget()\n            if not",
        "            if not",
        "test_host.py",
    ),
    Mutation(
        "Orbax sees every path as it is",
        "train/checkpoint.py",
        "    if _PLAIN.fullmatch(path.relative_to(path.anchor).as_posix()):",
        "    if path:",
        "test_train_faults.py",
    ),
    Mutation(
        "checkpoints that are not read back",
        "train/checkpoint.py",
        "_check_same_bytes(arrays, checkpointer.restore(plain / _ARRAYS, args=_like_these(arrays)))",
        "pass",
        "test_train_faults.py",
    ),
    Mutation(
        "a folder that nobody locks",
        "train/folder.py",
        "        lock.acquire()\n",
        "        pass\n",
        "test_train_faults.py",
    ),
    Mutation(
        "a folder that cannot be made, found after the work",
        "train/folder.py",
        "        _part(path, next(parent for parent in parents if parent.exists())).rmdir()",
        "        pass",
        "test_train_cli.py",
    ),
    Mutation(
        "a new run that others may go on with",
        "train/cli.py",
        "        held.enter_context(folder.locked(path))\n        if folder.num_logged(path):",
        "        if folder.num_logged(path):",
        "test_train_faults.py",
    ),
    Mutation(
        "a lock that ends before the training",
        "train/cli.py",
        "_train, run.resume(path, data=data), path, held.pop_all())",
        "_train, run.resume(path, data=data), path, ExitStack())",
        "test_train_faults.py",
    ),
    Mutation(
        "commands that nobody may mean",
        "train/cli.py",
        "    near = difflib.get_close_matches(name, known, n=1)",
        "    near: list[str] = []",
        "test_train_cli.py",
    ),
    Mutation(
        "options that a resumed run does not hear",
        "train/cli.py",
        "        _check_resume(args)\n",
        "",
        "test_train_cli.py",
    ),
    Mutation(
        "the default data as if nobody had named them",
        "train/cli.py",
        "None if isinstance(config.data, _Unnamed) else config.data",
        "None if config.data == TrainConfig.data else config.data",
        "test_train_faults.py",
    ),
    Mutation(
        "a run that goes on with other data",
        "train/run.py",
        "    record.check(path, found)\n",
        "",
        "test_train_faults.py",
    ),
    Mutation(
        "data that moved are not written down",
        "train/run.py",
        "        folder.write_config(path, run.config)",
        "        pass",
        "test_train_faults.py",
    ),
    Mutation(
        "data that were never recorded stay so",
        "train/run.py",
        "    record.write(path, run.data)\n    if",
        "    if",
        "test_train_faults.py",
    ),
    Mutation(
        "other data of the same shapes",
        "train/record.py",
        "        if known[name] != value:",
        '        if name.startswith("shape") and known[name] != value:',
        "test_train_faults.py",
    ),
    Mutation(
        "an interrupt that Python is to raise",
        "__main__.py",
        "        with interrupts.watched():",
        "        if interrupts:",
        "test_train_process.py",
    ),
    Mutation(
        "an interrupt while packages are imported",
        "__main__.py",
        "    signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))",
        "    pass",
        "test_train_process.py",
    ),
    Mutation(
        "half of what was written is left by an interrupt",
        "train/interrupts.py",
        "                action()",
        "                pass",
        "test_train_process.py",
    ),
    Mutation(
        "training that ends when nobody reads it",
        "train/screen.py",
        "        self.quiet = True\n        silence()",
        "        super().on_broken_pipe()",
        "test_train_process.py",
    ),
    Mutation(
        "a traceback where nobody reads",
        "train/screen.py",
        "        silence()\n        sys.exit(_UNREAD)",
        "        raise",
        "test_train_process.py",
    ),
    Mutation(
        "workers that an interrupt ends as they start",
        "host/executors.py",
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})",
        "signal.pthread_sigmask(signal.SIG_BLOCK, set())",
        "test_train_rl.py",
    ),
    Mutation(
        "workers that an interrupt ends as they wait",
        "host/executors.py",
        "    signal.signal(signal.SIGINT, _ignore)  #",
        "    pass  #",
        "test_train_rl.py",
    ),
    Mutation(
        "calls in workers that no interrupt ends",
        "host/executors.py",
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n",
        "",
        "test_train_rl.py",
    ),
    Mutation(
        "a policy learnt from its beginning again",
        "train/rl.py",
        "= since or initial(config)",
        "= initial(config)",
        "test_train_rl.py",
    ),
    Mutation(
        "finished splits again",
        "train/cli_task.py",
        "            for seed in range(len(results), seeds):",
        "            for seed in range(seeds):",
        "test_tasks.py",
    ),
    Mutation(
        "a task that goes on with other data",
        "train/cli_task.py",
        '    if checksum != wanted["checksum"]:',
        "    if not path:",
        "test_tasks.py",
    ),
    Mutation(
        "a bar that stands still within a split",
        "tasks/survival.py",
        "            on_fit()\n",
        "",
        "test_tasks.py",
    ),
    Mutation(
        "one set of images black beside the other",
        "train/images.py",
        "if others_high > _MAX_RATIO * high:",
        "if others_high > 1000 * high:",
        "test_train_reading.py",
    ),
    Mutation(
        "few rows taken for channels",
        "train/images.py",
        "shape[1] in (1, 3, 4) and shape[3] > 4:",
        "shape[1] in (1, 3, 4):",
        "test_train_reading.py",
    ),
    Mutation(
        "NaN pixels",
        "train/images.py",
        "    if faulty.any():",
        "    if False:",
        "test_train_reading.py",
    ),
    Mutation(
        "one axis of labels taken for the other",
        "train/images.py",
        "axis = 1 if array.shape[1] == 1 else 0",
        "axis = 0",
        "test_train_reading.py",
    ),
    Mutation(
        "labels between two classes",
        "train/images.py",
        "np.isfinite(array) & (array == np.round(array))",
        "array == array",
        "test_train_reading.py",
    ),
    Mutation(
        "names that would do in one spelling only",
        "train/sources.py",
        "_role(member) == _role(name)",
        "member == name",
        "test_train_reading.py",
    ),
    Mutation(
        "a folder one level down",
        "train/sources.py",
        'for inner in (entry, entry / "raw")',
        "for inner in (entry,)",
        "test_train_reading.py",
    ),
    Mutation(
        "files of another prefix",
        "train/sources.py",
        '"idx" in entry.name and _role',
        '"idy" in entry.name and _role',
        "test_train_reading.py",
    ),
    Mutation(
        "labels of text without a remedy",
        "train/files.py",
        'if dtype.kind in "OSU" else ""',
        'if dtype.kind in "O" else ""',
        "test_train_reading.py",
    ),
    Mutation(
        "classes in the test set only",
        "train/data.py",
        "(train == 0) & (test > 0)",
        "(train == 1) & (test > 0)",
        "test_train_reading.py",
    ),
    Mutation(
        "classes without any image",
        "train/data.py",
        "(train == 0) & (test == 0)",
        "(train == 0) & (test < 0)",
        "test_train_reading.py",
    ),
    Mutation(
        "dark images",
        "train/data.py",
        "    if high >= _LEAST_WHITE:",
        "    if high >= 0:",
        "test_train_reading.py",
    ),
    Mutation(
        "a checksum of shapes alone",
        "train/data.py",
        "        digest.update(np.ascontiguousarray(array).data)",
        "        pass",
        "test_train_reading.py",
    ),
    Mutation(
        "a summary of labels after their noise",
        "train/data.py",
        "return data._replace(train_labels=labels, read_labels=read)",
        "return data._replace(train_labels=labels)",
        "test_train_reading.py",
    ),
    Mutation(
        "batches of one in a network of one's own",
        "train/models.py",
        "        require_batch(len(logits))\n",
        "",
        "test_train_misuse.py",
    ),
    Mutation(
        "a larger σ for classes without training images",
        "train/loop.py",
        "if norm is not None and norm <= limit]",
        "if (norm or 0) <= limit]",
        "test_train_cli.py",
    ),
    Mutation(
        "models that the bar does not count",
        "tasks/shortest_path.py",
        "        on_fit()\n",
        "",
        "test_tasks.py",
    ),
    Mutation(
        "a policy that two processes learn",
        "train/cli_rl.py",
        "        held.enter_context(folder.locked(path))\n",
        "",
        "test_train_rl.py",
    ),
    Mutation(
        "a task that two processes go on with",
        "train/cli_task.py",
        "        held.enter_context(folder.locked(path))\n",
        "",
        "test_tasks.py",
    ),
    Mutation(
        "the slope of a ratio without its own bit's term",
        "exact/_ratios.py",
        "    return (product * total).sum(-1), in_weights, weights * in_own - in_all",
        "    return (product * total).sum(-1), in_weights, -in_all",
        "test_exact_sets.py",
    ),
    Mutation(
        "a count's law around its rounded mean",
        "exact/_count_laws.py",
        "    return _Window(mean, part - whole, ",
        "    return _Window(mean, jnp.zeros_like(part), ",
        "test_exact_sets.py",
    ),
    Mutation(
        "the slope of a count's phases without that of the mean",
        "exact/_count_laws.py",
        "(jnp.sin(w) * inverse - w) * p_dot",
        "jnp.sin(w) * inverse * p_dot",
        "test_exact_sets.py",
    ),
    Mutation(
        "kappa without chance agreement crosswise",
        "exact/_counting.py",
        "    return divided(2 * gain, s * (count - num_actual) + (count - s) * num_actual).sum()",
        "    return divided(2 * gain, s * num_actual + (count - s) * (count - num_actual)).sum()",
        "test_exact_sets.py",
    ),
    Mutation(
        "micro averages of labels as macro averages",
        "exact/_counting.py",
        'shape = (1, -1) if average == "micro" or probs.ndim == 1 else',
        "shape = (1, -1) if probs.ndim == 1 else",
        "test_exact_sets.py",
    ),
    Mutation(
        "an item among its own rivals",
        "exact/_places.py",
        "return product * long_sum(gains * pdf / factors, 0)",
        "return product * long_sum(gains * pdf, 0)",
        "test_exact_ranks.py",
    ),
    Mutation(
        "average precision that counts an item twice",
        "exact/_places.py",
        "        return product * ((1 + long_sum(share, 0)) * long_sum(one, 0) - long_sum(one * share, 0))",
        "        return product * (1 + long_sum(share, 0)) * long_sum(one, 0)",
        "test_exact_ranks.py",
    ),
    Mutation(
        "discounts of the next place",
        "exact/ranks.py",
        "[1 / math.log2(1 + rank) for rank in range(1, k + 1)]",
        "[1 / math.log2(2 + rank) for rank in range(1, k + 1)]",
        "test_exact_ranks.py",
    ),
    Mutation(
        "an ideal ranking without k",
        "exact/ranks.py",
        "matmul(jnp.sort(gains, descending=True)[:k], discounts)",
        "matmul(jnp.sort(gains, descending=True), 1 / jnp.log2(jnp.arange(2.0, 2 + gains.size)))",
        "test_exact_ranks.py",
    ),
    Mutation(
        "nodes no finer for long lists",
        "exact/_places.py",
        "    spacing = _step(is_smooth, dtype) / jnp.sqrt(1 + sharpest)",
        "    spacing = _step(is_smooth, dtype) / jnp.sqrt(1 + 0 * sharpest)",
        "test_exact_ranks.py",
    ),
    Mutation(
        "tails of the noise cut at half their digits",
        "exact/_grid.py",
        "    log_mass = _LOG_NEGLIGIBLE[dtype] - math.log(size)",
        "    log_mass = _LOG_NEGLIGIBLE[dtype] / 2",
        "test_exact_ranks.py",
    ),
    Mutation(
        "the slope of pairs with the wrong sign",
        "exact/_pair_integrals.py",
        "return found + 2 * (at * long_sum(v * pdf * z_dot, 0)",
        "return found - 2 * (at * long_sum(v * pdf * z_dot, 0)",
        "test_exact_pairs.py",
    ),
    Mutation(
        "a Fenchel–Young gradient without the target",
        "losses/sampled.py",
        "answer, inputs.target)\n    worth",
        "answer, jax.tree.map(lambda y: 0 * y, inputs.target))\n    worth",
        "test_losses.py",
    ),
    Mutation(
        "a Hessian of zero, from answers held constant",
        "losses/sampled.py",
        "slopes = with_rule(slopes, partial(_slopes_dot, means_of), inputs)",
        "slopes = with_rule(slopes, lambda inputs, moved: jax.tree.map(jnp.zeros_like, slopes), inputs)",
        "test_losses.py",
    ),
    Mutation(
        "slopes that a scan forgets",
        "losses/sampled.py",
        "return with_rule(value, partial(_loss_dot, means_of), (inputs, slopes))",
        "return value + 0 * trees.flatten(wide, value.dtype).sum()",
        "test_losses.py",
    ),
    Mutation(
        "noise that does not follow θ in derivatives of the slopes",
        "losses/sampled.py",
        "location = perturbation.location(theta)\n",
        "location = jax.lax.stop_gradient(perturbation.location(theta))\n",
        "test_losses.py",
    ),
    Mutation(
        "a factor with a mean above 1",
        "losses/perturbations.py",
        "jnp.exp(sigma * eps - sigma**2 / 2)",
        "jnp.exp(sigma * eps)",
        "test_losses.py",
    ),
    Mutation(
        "a masked entry of which NaN is taken",
        "losses/sampled.py",
        "jnp.where(each == 0, 0, z * each).sum()",
        "(z * each).sum()",
        "test_losses.py",
    ),
    Mutation(
        "others above u of the wrong side",
        "losses/_excess.py",
        "lambda lag: _tail(z - lag), lags[k:]",
        "lambda lag: _tail(lag - z), lags[k:]",
        "test_losses.py",
    ),
    Mutation(
        "the gap to the best answer left out",
        "losses/closed_forms.py",
        "value = gap + beyond(held)",
        "value = 0 * gap + beyond(held)",
        "test_losses.py",
    ),
    Mutation(
        "a Gumbel threshold whose noise has a mean",
        "losses/_excess.py",
        "return jnp.where(rate < 1, _entire(jnp.minimum(rate, 1)) - a,",
        "return jnp.where(rate < 1, _entire(jnp.minimum(rate, 1)) - a + 0.5,",
        "test_losses.py",
    ),
    Mutation(
        "a cached value for arrays of another shape",
        "host/_cache.py",
        "tuple((array.shape, array.dtype.str, array.tobytes()) for array in arrays)",
        "tuple((array.dtype.str, array.tobytes()) for array in arrays)",
        "test_host.py",
    ),
    Mutation(
        "the value asked for last makes room",
        "host/_cache.py",
        "self._values.move_to_end(name)",
        "self._values.move_to_end(name, last=False)",
        "test_host.py",
    ),
    Mutation(
        "a substitute that is kept",
        "host/_evaluation.py",
        '_checked(task, substitute, f"the value that on_error gave for {name_of(index)}")',
        '_kept(task, args, _checked(task, substitute, f"the value given for {name_of(index)}"))',
        "test_host.py",
    ),
    Mutation(
        "SPO+ without the true costs",
        "tasks/assignment.py",
        "reflected = 2 * predicted - costs",
        "reflected = 2 * predicted",
        "test_tasks_assignment.py",
    ),
    Mutation(
        "a black box that looks the other way",
        "tasks/assignment.py",
        "_answer(predicted + step * costs)",
        "_answer(predicted - step * costs)",
        "test_tasks_assignment.py",
    ),
    Mutation(
        "best routes of predicted costs",
        "tasks/shortest_path.py",
        "jax.vmap(_best_route)(costs)",
        "jax.vmap(_best_route)(predicted)",
        "test_tasks_path.py",
    ),
]


def stale(mutation: Mutation) -> str | None:
    """Says why a break does not apply to the package as it is; None: it does."""
    name, file, old, *_ = mutation
    count = (ROOT / "esjax" / file).read_text("utf-8").count(old)
    return None if count == 1 else f"{name}: {file} holds {old!r} {count} times; give text that is there once"


def main(names: list[str]) -> int:
    """Makes the breaks of those names, or all; returns how many of them went unseen."""
    unknown = set(names) - {mutation.name for mutation in MUTATIONS}
    if unknown:
        raise SystemExit(f"no such break: {sorted(unknown)}; there are {[m.name for m in MUTATIONS]}")
    chosen = [mutation for mutation in MUTATIONS if not names or mutation.name in names]
    if complaints := list(filter(None, map(stale, chosen))):
        raise SystemExit("\n".join(complaints))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("esjax", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        everything = sorted({test for mutation in chosen for test in mutation.tests.split()})
        if _is_red(copy, " ".join(everything)):
            raise SystemExit("the tests are red without any break")
        unseen = [mutation.name for mutation in chosen if not _is_seen(copy, mutation)]
    print(f"{len(chosen) - len(unseen)} of {len(chosen)} breaks seen", *unseen, sep="\n  unseen: ")
    return len(unseen)


def _is_seen(copy: Path, mutation: Mutation) -> bool:
    path = copy / "esjax" / mutation.file
    sound = path.read_text("utf-8")
    path.write_text(sound.replace(mutation.old, mutation.new), "utf-8")
    found = _is_red(copy, mutation.tests)
    path.write_text(sound, "utf-8")
    print("seen  " if found else "UNSEEN", mutation.name, flush=True)
    return found


def _is_red(copy: Path, tests: str) -> bool:
    """Runs the tests in the copy, until the first that fails; raises where they cannot be run."""
    files = [str(copy / "tests" / name) for name in tests.split()]
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *files]
    done = subprocess.run(
        command, cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)}, capture_output=True, text=True
    )
    last = (done.stdout.splitlines() or [""])[-1]
    if done.returncode != 0 and (" failed" not in last or " error" in last):
        raise SystemExit(f"pytest could not run:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    return done.returncode != 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
