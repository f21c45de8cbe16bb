"""A network evaluated for many samples at once, in two parts: what no noise reaches, and the rest."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from esjax._core import chunks
from esjax._jaxpr import low_rank, splitting
from esjax.smoothing import _low_rank
from esjax.smoothing._low_rank import Factors, Layout

Array = jax.Array


class SampledNetwork:
    """A block's program, and the same for many samples of noise, in two parts; static.

    Attributes:
        program: `(*params, *args and consts) -> values` (num_values,).
        layout: of the noise.
        num_values: length of the values.
        matrices: weights that became matrices, and where.
        width: the most numbers of one array that a sample adds.
    """

    def __init__(self, program: Any, layout: Layout, dtypes: list[Any], dtype: Any):
        self.program, self.layout, self.dtypes, self.dtype = program, layout, dtypes, dtype
        (self.num_values,) = program.out_avals[0].shape
        notes: dict[str, None] = {}
        two, three = self._traced(2, notes), self._traced(3, {})
        self.is_first = splitting.known_equations(two, self._known(two), three)
        self.width = splitting.growth(two.jaxpr, three.jaxpr)
        self.matrices = tuple(notes)
        self.at = lru_cache(self._at)
        self.traced = {2: two}

    def _traced(self, count: int, notes: dict[str, None]) -> Any:
        """Returns `(odd, even, *params, scales, *rest) -> values (count, num_values)` as a program."""
        num_weights = len(self.dtypes)

        def values_of(drawn: Factors, given: list[Array], scales: list[Array], rest: list[Array]) -> Array:
            own = [scale.astype(dtype) for scale, dtype in zip(scales, self.dtypes, strict=True)]
            inputs = _low_rank.perturbed(self.layout, given, own, drawn)
            (found,) = low_rank.evaluate(self.program, [*inputs, *rest], count, lambda s: notes.setdefault(s))
            return (
                found.array
                if isinstance(found, low_rank.Sampled)
                else jnp.broadcast_to(found, (count, *found.shape))
            )

        avals = self.program.in_avals

        def like_weights(weight: Array) -> tuple[Array, ...]:
            shapes = ((), (count, self.layout.dim_odd), (count, self.layout.dim_even))
            return tuple(chunks.varying_like(jnp.zeros(shape, self.dtype), weight) for shape in shapes)

        scale, *drawn = jax.make_jaxpr(like_weights)(avals[0]).out_avals
        scales, drawn = [scale] * num_weights, Factors(*drawn)
        return jax.make_jaxpr(values_of)(drawn, avals[:num_weights], scales, avals[num_weights:])

    def _known(self, traced: Any) -> list[bool]:
        return [number >= len(Factors._fields) for number in range(len(traced.in_avals))]

    def _at(self, count: int) -> splitting.Split:
        traced = self.traced.get(count) or self._traced(count, {})
        return splitting.split(traced, self._known(traced), self.is_first)

    def shared(self, x: Array, sigma: Array, rest: Sequence[Array], count: int) -> list[Array]:
        """Returns all that no noise reaches, for `values`, from x (dim,) and the block's other inputs."""
        return splitting.run(
            self.at(count).first, *self.weights(x), *_low_rank.scales_of(self.layout, sigma), *rest
        )

    def weights(self, x: Array) -> list[Array]:
        """Returns the arrays of a vector (dim,)."""
        leaves = zip(self.layout.leaves, self.dtypes, strict=True)
        return [
            x[leaf.start : leaf.start + leaf.size].reshape(leaf.shape).astype(dtype) for leaf, dtype in leaves
        ]

    def values(self, drawn: Factors, shared: Sequence[Array]) -> Array:
        """Returns the values (count, num_values) of samples."""
        (found,) = splitting.run(self.at(drawn.odd.shape[0]).second, *drawn, *shared)
        return found
