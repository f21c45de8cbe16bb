"""The options of training: frozen dataclasses, the only place for defaults and limits."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, cast, get_args

from esjax.train.checks import (
    require_at_least,
    require_finite,
    require_one_of,
    require_positive,
    require_share,
)

Objective = Literal[
    "accuracy", "top-k", "macro-f1", "cross-entropy", "label-smoothing", "generalised-cross-entropy"
]
Estimator = Literal["es", "exact"]
Contender = Literal[
    "accuracy",
    "accuracy:exact",
    "top-k",
    "top-k:exact",
    "macro-f1",
    "macro-f1:exact",
    "cross-entropy",
    "label-smoothing",
    "generalised-cross-entropy",
]
"""An objective to compare with others, and its estimator where that is not es."""
Network = Literal["mlp", "cnn"]
Logits = Literal["raw", "standardised"]

CARTPOLES = ("gymnasium", "jax")
"""Names of CartPole, by Gymnasium and in JAX."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every kind of run needs to know.

    Raises:
        ValueError: a number is out of its range.
    """

    data: str = "mnist-5k"
    """'mnist-5k', 'digits', a folder that holds MNIST's four IDX files, or a .npz file."""
    label_noise: float = 0.0
    """Share of the training labels that are replaced by random ones, in [0, 1]."""
    network: Network = "cnn"
    """Two convolutions (cnn) or two hidden layers (mlp)."""
    held_out: float = 0.1
    """Share of the training examples that are kept out of training, labels as they are, to choose the epoch
    whose weights are kept, in the mean of a twentieth of the epochs; in [0, 1). With 0, those of the last
    step are."""
    logits: Logits | None = None
    """What a smoothed metric sees: each example's logits less their mean and over their standard deviation
    (standardised), which cannot outgrow sigma, or as they are (raw); accuracy is the same of both. None:
    standardised, or raw for two classes, whose standardised logits are always 1 and -1."""
    sigma: float | None = None
    """Scale of the perturbations in units of what the metric sees, > 0. None: esjax.sigma.for_standardised,
    which is 3.33 for ten classes; or, if logits are raw, chosen from the initial ones."""
    num_samples: int = 64
    """Evaluations of the block for each example in each step, by es; even, at least 4."""
    k: int = 2
    """The objective top-k counts as right a label among the k largest logits; at least 1."""
    epochs: int = 100
    """Passes over the training set, at least 1."""
    batch_size: int = 128
    """Examples in each step, at least 2, as the batch's mean logits are subtracted; better 4 or more."""
    learning_rate: float = 3e-3
    """Adam's, > 0: the peak, reached after a tenth of the steps; from there it decays to 0 along a cosine."""

    def __post_init__(self) -> None:
        if not isinstance(self.data, str):
            raise ValueError(f"data={self.data!r} must be a name or a path, as text")
        require_one_of("network", self.network, get_args(Network))
        if self.logits is not None:
            require_one_of("logits", self.logits, get_args(Logits))
        require_share("label_noise", self.label_noise)
        require_share("held_out", self.held_out)
        if self.sigma is not None:
            require_positive("sigma", self.sigma)
        require_at_least("num_samples", self.num_samples, 4)
        if self.num_samples % 2:
            raise ValueError(
                f"num_samples={self.num_samples} is odd, and perturbations are drawn in pairs (ε, −ε); "
                f"use {self.num_samples + 1}"
            )
        require_at_least("k", self.k, 1)
        require_at_least("epochs", self.epochs, 1)
        require_at_least("batch_size", self.batch_size, 1)
        require_positive("learning_rate", self.learning_rate)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Options):
    """One training run: a network, what it is trained for, and the seed of everything random."""

    objective: Objective = "accuracy"
    """accuracy, top-k accuracy or macro-f1, smoothed; or a loss with its own gradient: cross-entropy, with
    labels smoothed by 0.1, or generalised with q = 0.7, which is made for wrong labels."""
    estimator: Estimator = "es"
    """How a smoothed objective gets its gradient: by evolution strategies (es), or in closed form (exact).
    The cross-entropies have a gradient of their own."""
    seed: int = 0
    """Seed of the initial weights, the label noise, the batches and the perturbations, >= 0."""
    checkpoint_every: int = 5
    """Epochs from one checkpoint to the next, at least 1; the last epoch always has one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("objective", self.objective, get_args(Objective))
        require_one_of("estimator", self.estimator, get_args(Estimator))
        require_at_least("seed", self.seed, 0)
        require_at_least("checkpoint_every", self.checkpoint_every, 1)


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Options):
    """Several objectives on the same data, initial weights and batches."""

    objectives: tuple[Contender, ...] = ("accuracy", "cross-entropy")
    """What to compare, each once; accuracy:exact is accuracy with --estimator exact."""
    seeds: int = 3
    """Runs of each objective, with seeds 0, 1, ...; at least 2, for a standard error."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_tuple("objectives", self.objectives)
        for objective in self.objectives:
            require_one_of("objectives", objective, get_args(Contender))
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives={self.objectives} must name at least one, and each only once")
        require_at_least("seeds", self.seeds, 2)

    def of_run(self, contender: Contender, seed: int) -> TrainConfig:
        """Returns the options of one of the compared runs."""
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(Options)}
        objective, _, estimator = contender.partition(":")
        return TrainConfig(
            **shared,
            objective=cast(Objective, objective),
            estimator=cast(Estimator, estimator or "es"),
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class SigmaConfig(Options):
    """Trials of several σ with the same data, initial weights and batches."""

    objective: Literal["accuracy", "top-k"] = "accuracy"
    """The metric that is smoothed."""
    factors: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
    """The σ to try, in units of the default σ (or of --sigma): each > 0, ascending."""
    epochs: int = 10
    """Epochs of each trial, at least 1; many fewer than in training itself favour a larger σ."""
    seed: int = 0
    """Seed of everything random, >= 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("objective", self.objective, ("accuracy", "top-k"))
        _require_tuple("factors", self.factors)
        for factor in self.factors:
            require_positive("factors", factor)
        if not self.factors or list(self.factors) != sorted(set(self.factors)):
            raise ValueError(f"factors={self.factors} must hold at least one, ascending, and each only once")
        require_at_least("seed", self.seed, 0)

    def of_run(self, sigma: float | None) -> TrainConfig:
        """Returns the options of a trial; without `sigma`, those of the trial whose σ is the unit."""
        shared = {field.name: getattr(self, field.name) for field in dataclasses.fields(Options)}
        shared["sigma"] = sigma or self.sigma
        return TrainConfig(**shared, objective=self.objective, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class RLConfig:
    """Evolution strategies over a policy's parameters.

    Raises:
        ValueError: a number is out of its range.
    """

    environment: str = "gymnasium"
    """CartPole-v1 of Gymnasium (gymnasium), or the same equations in JAX (jax); or any environment of
    Gymnasium by its id, such as Swimmer-v5, or module:Name-v0 where `module` registers it. Gymnasium's are
    played in worker processes."""
    hidden: int = 16
    """Units of the policy's one hidden layer, at least 0; 0 is a linear policy."""
    normalise: bool | None = None
    """Whether the policy sees observations less their mean, over their standard deviation, of all that there
    were so far. None: yes, but for CartPole as gymnasium or jax, where it cannot be."""
    population: int = 32
    """Perturbed policies in each generation, each for one episode; at least 4."""
    sigma: float = 0.3
    """Scale of the perturbations of the parameters, > 0."""
    learning_rate: float = 0.1
    """Adam's, > 0."""
    baseline: Literal["leave-one-out", "rank"] = "leave-one-out"
    """How returns become weights: less the mean of the others, or as centred ranks (Salimans et al. 2017)."""
    generations: int = 100
    """Steps of Adam at most, at least 1; training ends earlier if the policy is good enough."""
    target: float | None = None
    """Mean return in a test from which on the policy is good enough. None: Gymnasium's own for the
    environment; where there is none, training never ends early."""
    test_every: int | None = None
    """Generations from one test of the policy to the next, at least 1; the last one always has one. None: 1
    for CartPole as gymnasium or jax, 10 for others."""
    test_episodes: int = 100
    """Episodes of a test, at least 2: the same ones each time, and never those of training."""
    workers: int = 2
    """Processes for Gymnasium, at least 1."""
    seed: int = 0
    """Seed of everything random, >= 0."""

    def __post_init__(self) -> None:
        if not isinstance(self.environment, str) or not self.environment:
            raise ValueError(f"environment={self.environment!r} must be gymnasium, jax or an id, as text")
        require_one_of("baseline", self.baseline, ("rank", "leave-one-out"))
        require_at_least("hidden", self.hidden, 0)
        require_at_least("population", self.population, 4)
        require_positive("sigma", self.sigma)
        require_positive("learning_rate", self.learning_rate)
        require_at_least("generations", self.generations, 1)
        if self.target is not None:
            require_finite("target", self.target)
        if self.test_every is not None:
            require_at_least("test_every", self.test_every, 1)
        require_at_least("test_episodes", self.test_episodes, 2)
        require_at_least("workers", self.workers, 1)
        require_at_least("seed", self.seed, 0)
        if self.normalise and self.environment in CARTPOLES:
            raise ValueError(
                f"normalise=True is not for environment={self.environment!r}; use environment='CartPole-v1'"
            )

    def normalises(self) -> bool:
        """Returns whether observations are normalised."""
        return self.environment not in CARTPOLES if self.normalise is None else self.normalise

    def tested_every(self) -> int:
        """Returns the generations from one test to the next."""
        return self.test_every or (1 if self.environment in CARTPOLES else 10)


Config = TypeVar("Config", TrainConfig, RLConfig)


def from_json(values: object, where: Path, kind: type[Config]) -> Config:
    """Makes options from what was read from a file.

    Args:
        values: what `json.load` gave.
        where: the file, for the message.
        kind: the class of the options.

    Raises:
        ValueError: they are not the options of this version, or one is out of range.
    """
    fields = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(values, dict) or set(values) != fields:
        found = sorted(values) if isinstance(values, dict) else values
        raise ValueError(
            f"{where}: has {found!r} instead of the options {sorted(fields)}; "
            "go on with the version of esjax that wrote it, or start a new run"
        )
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}; restore the file, or start a new run") from error


def _require_tuple(name: str, value: object) -> None:
    if not isinstance(value, tuple):
        raise ValueError(f"{name}={value!r} must be a tuple, such as ({value!r},)")
