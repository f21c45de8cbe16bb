"""σ for a classifier's standardised logits, from the number of classes."""

import math

from esjax._core.check import check_count


def for_standardised(num_classes: int) -> float:
    """Returns σ for logits less their mean and over their standard deviation, an example at a time.

        σ = K / sqrt(K − 1),   3.33 for K = 10

    This is the most by which one of K standardised logits can lead the next: that of a network with all
    confidence in one class. Where that class is a wrong one, the example is still right in 18 % of the
    samples for K = 3, in 7.3 % for K = 10, in 0.9 % for K = 100: of some 64 samples, several still have a
    gradient to find for ten classes, and one or none for a hundred. With half of that σ it would be 3.6 %
    for K = 10, with a quarter 0.2 %, with an eighth one in a hundred million; a larger σ could bring it to
    10 % at most, that of guessing. This holds at any time of training and for any initial weights: accuracy
    does not depend on the scale of the logits, which can be taken out (`jax.nn.standardize`).

    Wrong labels do not get out of reach either, and are learned in the end: choose the epoch by labels that
    are held out, and may be as wrong as the others.

    Args:
        num_classes: K, at least 3. Two standardised logits are 1 and −1, whatever they were, and have no
            gradient; there, take `from_logits` and the logits as they are.

    Raises:
        ValueError: `num_classes` is not a whole number, or less than 3.

    Examples:
        >>> import esjax
        >>> round(esjax.sigma.for_standardised(10), 2)
        3.33
    """
    num_classes = check_count("num_classes", num_classes)
    if num_classes < 3:
        raise ValueError(
            f"num_classes={num_classes} must be at least 3: two standardised logits are 1 and −1, whatever "
            "they were, and have no gradient; use esjax.sigma.from_logits and the logits as they are"
        )
    return num_classes / math.sqrt(num_classes - 1)
