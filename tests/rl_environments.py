"""Small environments, which workers import by names such as `rl_environments:Aim-v0`."""

import os
import time

import gymnasium
import numpy as np
from gymnasium import spaces

MEAN, DEVIATION = np.array([500.0, -3.0, 7.0]), np.array([100.0, 0.01, 0.0])
WANTED = np.array([[0.5, -0.25], [0.0, 0.5], [0.0, 0.0]])

NUMBERS = spaces.Box(-np.inf, np.inf, (3,), np.float64)
REALS = spaces.Box(-1.0, 1.0, (2,), np.float32)


class Aim(gymnasium.Env):
    """Three steps of −‖action − z WANTED‖², where z is the observation in standard units."""

    observation_space, action_space = NUMBERS, REALS

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._draw(), {}

    def _draw(self):
        self.z = self.np_random.uniform(-1.7, 1.7, 3)
        return MEAN + DEVIATION * self.z

    def step(self, action):
        reward, self.steps = -float(np.sum((action - self.z @ WANTED) ** 2)), self.steps + 1
        return self._draw(), reward, False, self.steps == 3, {}


class Dying(Aim):
    """Its process ends in the second step."""

    def step(self, action):
        if self.steps:
            os._exit(3)
        return super().step(action)


class Raising(Aim):
    def step(self, action):
        raise ArithmeticError("a joint\nbroke")


class Endless(Aim):
    def step(self, action):
        print(os.getpid(), flush=True)
        time.sleep(60)


class Infinite(Aim):
    def step(self, action):
        return (*super().step(action)[:1], np.inf, True, False, {})


class Missing(Aim):
    def __init__(self):
        raise gymnasium.error.DependencyNotInstalled("physics is not installed, run `pip install physics`")


class Unfinished(Aim):
    def __init__(self, xml):
        self.xml = xml


def _with(**replaced):
    return type("Replaced", (Aim,), replaced)


_ENVIRONMENTS = {
    "Aim-v0": Aim,
    "Dying-v0": Dying,
    "Raising-v0": Raising,
    "Endless-v0": Endless,
    "Infinite-v0": Infinite,
    "Missing-v0": Missing,
    "Unfinished-v0": Unfinished,
    "Dictionary-v0": _with(observation_space=spaces.Dict(a=NUMBERS, b=NUMBERS)),
    "Tuple-v0": _with(observation_space=spaces.Tuple([NUMBERS])),
    "Image-v0": _with(observation_space=spaces.Box(0, 255, (8, 8, 3), np.uint8)),
    "Table-v0": _with(observation_space=spaces.Discrete(5)),
    "Choices-v0": _with(action_space=spaces.MultiDiscrete([2, 3])),
    "Whole-v0": _with(action_space=spaces.Box(0, 3, (2,), np.int64)),
}
for name, kind in _ENVIRONMENTS.items():
    gymnasium.register(name, kind)
