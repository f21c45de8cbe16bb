"""Python functions that worker processes import: NumPy alone, so that a worker starts quickly."""

import os
import threading
import time

import numpy as np


def count(x):
    return np.float32(np.sum(x > 0))


def slow_count(x):
    time.sleep(0.01)
    return count(x)


def raises_if_large(x):
    if x[0] > 1:
        raise ArithmeticError(f"too large: {x[0]:.3f}")
    return count(x)


def faulty(x, luck):
    """Fails for reasons that have nothing to do with x: luck in [0, 1) decides."""
    if luck < 0.03:
        raise ArithmeticError("bad luck")
    if luck < 0.035:  # seldom, as starting another process takes long
        os._exit(7)
    if luck < 0.04:
        time.sleep(60)
    return count(x)


def dies_once(x, folder):
    """Kills its worker the first time that it sees this x."""
    path = os.path.join("".join(map(chr, folder)), f"{float(x):.6f}")
    if not os.path.exists(path):
        open(path, "w").close()
        os._exit(3)
    return np.float32(x)


class Diverged(Exception):
    """As many are: it cannot be copied or read from a pickle, which would call it with its text alone."""

    def __init__(self, step, reason):
        super().__init__(f"step {step}: {reason}")


def diverges(x):
    raise Diverged(int(x[0]), "no flow")


_of_thread = threading.local()


def refill(x):
    """Returns views of one buffer for each thread, which the next call fills with other numbers."""
    buffer = _of_thread.__dict__.setdefault("buffer", np.zeros(3, np.float32))
    buffer[:] = x
    return {"number": buffer[1:2].reshape(()), "rows": [buffer, buffer[::2]]}


def refill_instead(error, x):
    return refill(-x)


def nan(error, *args):
    return np.float32(np.nan)
