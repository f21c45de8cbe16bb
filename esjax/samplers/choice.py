"""The sampler that is best for a number of samples and of coordinates, as measured."""

from esjax.noise import Noise
from esjax.samplers.groups import Groups, check, log2_half
from esjax.samplers.independent import iid
from esjax.samplers.points import sobol
from esjax.samplers.rotations import orthogonal


def auto(num_samples: int, dim: int, noise: Noise) -> Groups:
    """The sampler with the smallest gradient error for this N and D = `dim`, as measured.

    - `sobol` where its groups have at least D² samples: about N ≥ 2 D², up to D = 32.
    - `orthogonal` where its groups have at least D/8 samples: about N ≥ D/4, up to D = 724.
    - `iid` beyond, where nothing else was measurably better, and all were slower.

    Measured: rank correlation, rounding, counts above a threshold and argmax, with `leave_one_out`; D from
    2 to 10,000, N from 4 to 2048, noise normal, logistic, laplace, gumbel and cauchy.
    """
    check(num_samples, dim, noise)
    if 2 ** log2_half(num_samples, dim) >= dim**2:
        return sobol(num_samples, dim, noise)
    groups = orthogonal(num_samples, dim, noise)
    return groups if 8 * groups.size >= dim else iid(num_samples, dim, noise)
