"""What the operands of a `lax.scan` are, as the JAX at hand says it; imports nothing."""

from typing import Any

PARAMS = ({"num_consts", "num_carry"}, {"ft_in"})
"""The parameters that say it: before JAX 0.11, and since."""


def num_fixed_and_carried(params: dict[str, Any]) -> tuple[int, int]:
    """Returns how many operands stay the same and how many are carried; a row of all others is taken."""
    if "ft_in" in params:
        fixed, carried, _ = params["ft_in"].unpack()
        return len(fixed), len(carried)
    return params["num_consts"], params["num_carry"]
