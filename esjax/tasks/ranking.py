"""NDCG@10 on 86 queries of MSLR-WEB10K, a sample in the source of the package rankeval (Qin and Liu 2013).

Baselines: two losses of rax, softmax cross-entropy and NDCG with ranks by sigmoids (Qin et al. 2010). Ours:
NDCG@10 itself, smoothed by normal noise, in closed form. All train the same network, and choose their options
by folds of the training queries.
"""

import hashlib
import tarfile
from collections.abc import Callable
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import esjax
from esjax.tasks import frame, models

Array = jax.Array
Loss = Callable[[Array, Array, Array, Array], Array]
"""`(key, scores (n,), relevance (n,), mask (n,)) -> ()` of one query, to be minimised."""

NAME = "rankeval-0.8.2"
_MEMBERS = [f"{NAME}/rankeval/test/data/msn1.fold1.{part}.5k.txt" for part in ("train", "test")]
_NUM_FEATURES = 136
_NUM_QUERIES = 86
_NUM_TRAIN = 64

_NETWORKS = {"hidden": (16,), "decay": (1.0, 10.0), "num_steps": (50, 150)}
_PLAIN = frame.grid(**_NETWORKS)
_APPROXIMATE = frame.grid(temperature=(0.1, 0.3), **_NETWORKS)
_SMOOTHED = frame.grid(sigma=(0.3, 1.0), **_NETWORKS | {"num_steps": (50,)})


class Queries(NamedTuple):
    """Lists of documents, one for each query, padded to the longest.

    Attributes:
        features: (Q, n, 136) float32.
        relevance: (Q, n) float32, 0 to 4.
        mask: (Q, n), False for padding.
    """

    features: NDArray[np.float32]
    relevance: NDArray[np.float32]
    mask: NDArray[np.bool_]


def task(archive: Path | None) -> frame.Task:
    """Returns the task.

    Args:
        archive: the source of rankeval, a .tar.gz. None: in the current folder, where pip leaves it.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is damaged, or does not hold the queries.
    """
    _rax()
    archive = archive or Path(f"{NAME}.tar.gz")
    queries = load(archive)
    if len(queries.mask) != _NUM_QUERIES:
        raise ValueError(f"{archive}: holds {len(queries.mask)} queries, not the {_NUM_QUERIES} of {NAME}")
    return frame.Task(
        title="NDCG@10 on MSLR",
        baseline="rax, softmax loss",
        ours="NDCG@10 itself",
        higher_is_better=True,
        seeds=6,
        test_over_train=(_NUM_QUERIES - _NUM_TRAIN) / _NUM_TRAIN,
        compare=partial(compare, queries),
        fits=frame.num_fits(_PLAIN, _APPROXIMATE, _SMOOTHED),
        checksum=_checksum(queries),
    )


def load(archive: Path) -> Queries:
    """Reads the queries of both files from the archive; for what can be wrong see `task`."""
    if not archive.is_file():
        raise FileNotFoundError(
            f"{archive}: no such file; pass --data FILE, or run pip install setuptools wheel && "
            f"pip download {NAME.replace('-', '==')} --no-deps --no-binary rankeval --no-build-isolation"
        )
    from sklearn.datasets import load_svmlight_file

    lists = []
    try:
        with tarfile.open(archive) as tar:
            for member in _MEMBERS:
                file = tar.extractfile(member)
                text = BytesIO(file.read() if file else b"")
                x, y, ids = load_svmlight_file(text, n_features=_NUM_FEATURES, query_id=True)
                lists += [(x[ids == query].toarray(), y[ids == query]) for query in np.unique(ids)]
    except (tarfile.TarError, EOFError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{archive}: is not the source of {NAME}, or damaged: {error}") from error
    shape = len(lists), max(len(relevance) for _, relevance in lists)
    found = Queries(
        np.zeros((*shape, _NUM_FEATURES), np.float32), np.zeros(shape, np.float32), np.zeros(shape, bool)
    )
    for number, (features, relevance) in enumerate(lists):
        found.features[number, : len(relevance)] = features
        found.relevance[number, : len(relevance)] = relevance
        found.mask[number, : len(relevance)] = True
    return found


def _checksum(queries: Queries) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for array in queries)).hexdigest()[:16]


def compare(queries: Queries, seed: int, on_fit: Callable[[], None] = frame.nothing) -> dict[str, float]:
    """Returns each method's mean NDCG@10 over the queries of the test set, for a random split."""
    order = np.random.default_rng(seed).permutation(len(queries.mask))
    train, test = order[:_NUM_TRAIN], order[_NUM_TRAIN:]
    queries = queries._replace(features=_standardise(queries, train))

    def metric(loss: Callable[..., Loss], options: dict[str, Any], rows: Any, held: Any) -> float:
        how = {name: value for name, value in options.items() if name not in _NETWORKS}
        params = models.init(jax.random.key(seed), _NUM_FEATURES, 1, options["hidden"])
        params = models.fit(
            _mean_of(loss(**how)),
            params,
            jax.random.key(seed),
            tuple(jnp.asarray(array[rows]) for array in queries),
            num_steps=options["num_steps"],
            rate=0.03,
            decay=options["decay"],
        )
        scores = models.scores(params, jnp.asarray(queries.features[held]))[..., 0]
        on_fit()
        return float(jax.vmap(_ndcg)(scores, queries.relevance[held], queries.mask[held]).mean())

    def by_folds(loss: Callable[..., Loss], candidates: list[dict[str, Any]]) -> float:
        chosen = frame.best_by_folds(
            candidates,
            lambda options, some, held: metric(loss, options, train[some], train[held]),
            len(train),
            seed=seed,
        )
        return metric(loss, chosen, train, test)

    return {
        "rax, softmax loss": by_folds(softmax_loss, _PLAIN),
        "rax, NDCG of sigmoids": by_folds(approximate_ndcg_loss, _APPROXIMATE),
        "NDCG@10 itself": by_folds(ndcg_loss, _SMOOTHED),
    }


def _standardise(queries: Queries, train: NDArray[np.int64]) -> NDArray[np.float32]:
    """Returns features on a logarithmic scale, standardised by the training queries' documents."""
    features = np.sign(queries.features) * np.log1p(np.abs(queries.features))
    seen = features[train][queries.mask[train]]
    features = (features - seen.mean(0)) / np.maximum(seen.std(0), 1e-6)
    return np.where(queries.mask[..., None], np.clip(features, -5, 5), 0).astype(np.float32)


def _ndcg(scores: Array, relevance: Array, mask: Array) -> Array:
    return esjax.blocks.ndcg(scores, relevance, k=10, mask=mask)


# --- losses of one query -----------------------------------------------------------------------------


@cache
def softmax_loss() -> Loss:
    """Makes rax's softmax cross-entropy with the gains 2^relevance − 1 as its labels."""
    return lambda key, scores, relevance, mask: _rax().softmax_loss(scores, 2.0**relevance - 1, where=mask)


@cache
def approximate_ndcg_loss(temperature: float) -> Loss:
    """Makes rax's NDCG with sigmoids of score differences for ranks, as `rax.approx_t12n` makes it.

    (That function itself needs an older JAX.)
    """
    ranks = partial(_rax().utils.approx_ranks, step_fn=lambda x: jax.nn.sigmoid(x / temperature))
    return lambda key, scores, relevance, mask: (
        -_rax().ndcg_metric(scores, relevance, where=mask, rank_fn=ranks)
    )


@cache
def ndcg_loss(sigma: float) -> Loss:
    """Makes minus the smoothed NDCG@10."""
    return lambda key, scores, relevance, mask: -esjax.exact.ndcg(scores, relevance, sigma, k=10, mask=mask)


@cache
def _mean_of(loss: Loss) -> models.Loss:
    def mean(params: models.Params, key: Any, data: tuple[Array, ...]) -> Array:
        features, relevance, mask = data
        scores = models.scores(params, features)[..., 0]
        keys = jax.random.split(key, len(mask))
        return jax.vmap(loss)(keys, scores, relevance, mask).mean()

    return mean


def _rax() -> Any:
    try:
        import rax
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the baselines are rax's; run pip install 'esjax[tasks]'", name="rax"
        ) from error
    return rax
