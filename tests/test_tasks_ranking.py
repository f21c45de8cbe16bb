"""The ranking task: its archive, its losses against rax and by hand, and the whole on queries made up."""

import io
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import rax

from esjax.tasks import frame, ranking
from esjax.train import cli


def _archive(path, texts):
    with tarfile.open(path, "w:gz") as tar:
        for name, text in zip(ranking._MEMBERS, texts, strict=False):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
    return path


def test_queries_come_padded_in_the_order_of_the_files(tmp_path):
    texts = b"2 qid:1 1:3 136:0.5\n0 qid:1 2:1\n1 qid:7 1:4\n", b"4 qid:3 3:1\n0 qid:3 1:1\n3 qid:3 1:2\n"
    found = ranking.load(_archive(tmp_path / "rankeval.tar.gz", texts))
    np.testing.assert_array_equal(found.relevance, [[2, 0, 0], [1, 0, 0], [4, 0, 3]])
    np.testing.assert_array_equal(found.mask.sum(1), [2, 1, 3])
    assert found.features[0, 0, 0] == 3 and found.features[0, 0, 135] == 0.5 and found.features[2, 2, 0] == 2


def test_an_archive_that_is_missing_or_damaged_is_said_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["task", "ranking"]) == 2
    assert "rankeval-0.8.2.tar.gz: no such file; pass --data FILE, or run" in capsys.readouterr().err
    text = b"1 qid:1 1:1\n0 qid:1 2:1\n"
    half = _archive(tmp_path / "half.tar.gz", [text]).read_bytes()
    cut = _archive(tmp_path / "cut.tar.gz", [text, text]).read_bytes()[:60]
    damaged = "is not the source of rankeval-0.8.2, or damaged"
    for content, said in (
        (b"no archive", damaged),
        (half, damaged),
        (cut, damaged),
        (None, "holds 2 queries"),
    ):
        path = _archive(tmp_path / "some.tar.gz", [text, text])
        path.write_bytes(content or path.read_bytes())
        assert cli.main(["task", "ranking", "--data", str(path)]) == 2
        assert f"some.tar.gz: {said}" in capsys.readouterr().err


SCORES, RELEVANCE = (np.random.default_rng(0).normal(size=20), np.random.default_rng(1).integers(0, 5, 20))
MASK = np.arange(20) < 17


def test_raxs_losses_are_what_they_are_called():
    args = jax.random.key(0), jnp.asarray(SCORES, jnp.float32), jnp.asarray(RELEVANCE, jnp.float32), MASK
    sharp = ranking.approximate_ndcg_loss(temperature=1e-4)(*args)
    np.testing.assert_allclose(sharp, -rax.ndcg_metric(*args[1:3], where=args[3]), rtol=1e-4)
    gains, chosen = 2.0 ** RELEVANCE[MASK] - 1, SCORES[MASK]
    by_hand = -(gains * (chosen - np.log(np.exp(chosen).sum()))).sum()
    np.testing.assert_allclose(ranking.softmax_loss()(*args), by_hand, rtol=1e-4)


def test_our_loss_is_minus_ndcg_where_there_is_little_noise_and_padding_has_no_gradient():
    args = jax.random.PRNGKey(0), jnp.asarray(SCORES, jnp.float32), jnp.asarray(RELEVANCE, jnp.float32), MASK
    wanted = rax.ndcg_metric(*args[1:3], topn=10, where=args[3])
    np.testing.assert_allclose(ranking.ndcg_loss(sigma=1e-4)(*args), -wanted, rtol=1e-5)
    gradient = jax.grad(ranking.ndcg_loss(sigma=1.0), 1)(*args)
    assert np.abs(gradient[:17]).min() > 0 and not gradient[17:].any()


def test_all_methods_learn_queries_whose_first_feature_tells(monkeypatch):
    random = np.random.default_rng(0)
    relevance = random.integers(0, 5, (30, 12)).astype(np.float32)
    features = np.zeros((30, 12, 136), np.float32)
    features[..., :2] = np.stack([3 * relevance, random.normal(size=(30, 12))], -1)
    monkeypatch.setattr(ranking, "_NUM_TRAIN", 20)
    monkeypatch.setattr(frame, "best_by_folds", lambda candidates, *args, **options: candidates[0])
    found = ranking.compare(ranking.Queries(features, relevance, np.ones((30, 12), bool)), seed=0)
    chance = np.mean([ranking._ndcg(random.normal(size=12), row, np.ones(12, bool)) for row in relevance])
    assert len(found) == 3 and min(found.values()) > 0.9 > chance + 0.1


def test_options_are_chosen_by_folds_of_the_training_queries(monkeypatch):
    seen = []

    def choose(candidates, metric, num_examples, *, seed):
        seen.append((len(candidates), num_examples))
        return candidates[-1]

    monkeypatch.setattr(frame, "best_by_folds", choose)
    monkeypatch.setattr(ranking, "_NUM_TRAIN", 4)
    ones = np.ones((6, 11), np.float32)
    ranking.compare(ranking.Queries(np.ones((6, 11, 136), np.float32), ones, ones > 0), seed=0)
    assert seen == [(len(ranking._PLAIN), 4), (len(ranking._APPROXIMATE), 4), (len(ranking._SMOOTHED), 4)]
