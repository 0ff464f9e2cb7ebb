"""On a real cluster of two nodes, one of which is killed in the middle."""

import os
import threading

import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import Image

pytest.importorskip("ray")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from nsfwlib.model import cluster, features, stream
from nsfwlib.model.classifier import save_model
from nsfwlib.model.cluster import _connected, cluster_answers
from nsfwlib.score import run
from nsfwlib.score.store import Store

NAMES, SIZE, FILES = ["cat", "dog", "owl"], 32, 300
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def classifier():
    return tiny.lively_classifier(NAMES, size=SIZE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(FILES):
        pixels = rng.integers(0, 256, 3) + rng.normal(0, 20, (40, 50, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:04}.png")
    (folder / "copy.png").write_bytes((folder / "0000.png").read_bytes())
    (folder / "broken.png").write_bytes(b"no picture")
    frames = [Image.fromarray(np.full((40, 40, 3), 50 * i, np.uint8)) for i in range(5)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    return folder


@pytest.fixture(scope="module")
def local(classifier, folder, tmp_path_factory):
    return run.score(classifier, folder, out=tmp_path_factory.mktemp("out") / "local.parquet", progress=False)


@pytest.fixture(scope="module")
def two_nodes():
    """Two nodes of one core each, and this process connected to them; (the cluster, its second node)."""
    import ray

    nodes, second = start_two_nodes()
    ray.init(address=nodes.address, log_to_driver=False, logging_level="error")
    yield nodes, second
    ray.shutdown()
    nodes.shutdown()


def start_two_nodes(attempts=4):
    """On a busy machine a node may miss the 30 seconds in which Ray wants it to have started."""
    from ray.cluster_utils import Cluster

    for attempt in range(attempts):
        cluster = Cluster()
        try:
            cluster.add_node(num_cpus=1, include_dashboard=False)
            return cluster, cluster.add_node(num_cpus=1)
        except Exception:
            cluster.shutdown()
            if attempt == attempts - 1:
                raise


def on_ray(classifier, folder, out, **options):
    return run.score(classifier, folder, out=out, where="ray", progress=False, **options)


def test_the_limit_of_pixels_travels_to_the_cluster(classifier, folder, two_nodes, tmp_path):
    table = on_ray(classifier, [str(folder / "0001.png")], tmp_path / "scores.parquet", max_pixels=10)
    assert table["problem"].tolist() == ["too many pixels"]


def test_the_pictures_differ_in_what_they_are_taken_for(local):
    assert local[NAMES].std().min() > 0.02


def test_features_over_the_cluster_are_those_of_this_machine(two_nodes, classifier, folder, tmp_path, local):
    table = local[local["problem"].eq("")].drop_duplicates("sha256").head(40).reset_index(drop=True)
    here = features.block_features(
        classifier, table, folder, cache_dir=tmp_path / "here", blocks=[tiny.BLOCK], progress=False
    )
    table.loc[0, "sha256"] = "0" * 64  # as if the file had changed since the scan
    options = {"cache_dir": tmp_path / "cluster", "blocks": [tiny.BLOCK], "progress": False}
    with pytest.warns(UserWarning, match=rf"1 files .*{table['path'][0]}: changed since the scan; scan again"):
        features.block_features(classifier, table, folder, batch_size=8, where="ray", **options)
    assert len(features.missing_rows(classifier, table, cache_dir=tmp_path / "cluster", blocks=[tiny.BLOCK])) == 1
    found = features.block_features(classifier, table, folder, **options)[tiny.BLOCK]
    assert np.allclose(found[1:], here[tiny.BLOCK][1:], atol=1e-2) and np.isnan(found[0]).all()


def test_the_feature_pass_runs_on_ray(two_nodes, classifier, folder, tmp_path, local, monkeypatch):
    table = local[local["problem"].eq("")].drop_duplicates("sha256").head(20).reset_index(drop=True)
    options = {"cache_dir": tmp_path, "blocks": tiny.BLOCK, "batch_size": 8, "progress": False}
    monkeypatch.setattr(features, "stream_answers", None)  # nothing is computed in this process
    ours = features.bottleneck_features(classifier, table, folder, where="ray", cluster={"actors": 1}, **options)
    assert ours.shape == (20, 8) and np.isfinite(ours).all()


def test_a_node_killed_in_the_middle_costs_no_image_and_doubles_none(
    two_nodes, classifier, folder, tmp_path, local, monkeypatch
):
    nodes, second = two_nodes
    answered, killed = [], threading.Event()
    real = Store.add_answers

    def watched(store, answers):
        answered.extend(answer.position for answer in answers)
        if not killed.is_set():
            nodes.remove_node(second, allow_graceful=False)
            killed.set()
        return real(store, answers)

    monkeypatch.setattr(Store, "add_answers", watched)
    monkeypatch.chdir(folder.parent)  # the actors are not there
    table = on_ray(classifier, folder.name, tmp_path / "scores.parquet", batch_size=8)
    assert killed.is_set() and len(answered) < 3 * FILES
    assert sorted(answered) == list(range(len(local))), "every image has exactly one answer"
    pd.testing.assert_frame_equal(table, local, rtol=1e-4, atol=1e-6)


def test_resuming_over_the_cluster_computes_what_is_new_alone(
    two_nodes, classifier, folder, tmp_path, local, monkeypatch
):
    out = tmp_path / "scores.parquet"
    old = local[~local["path"].isin(["0003.png", "0004.png"])]
    old.to_parquet(out)
    computed, real = [], Store.add_answers
    monkeypatch.setattr(
        Store,
        "add_answers",
        lambda store, answers: (
            computed.extend(a.position for a in answers if a.values is not None) or real(store, answers)
        ),
    )
    table = on_ray(classifier, folder, out, resume=True)
    assert table["path"][computed].tolist() == ["0003.png", "0004.png"]
    pd.testing.assert_frame_equal(table, local, rtol=1e-4, atol=1e-6)


def test_a_converted_model_file_scores_over_the_cluster_without_keras(
    two_nodes, classifier, folder, tmp_path, local, monkeypatch
):
    file = tmp_path / "model.keras"
    save_model(classifier, file)
    monkeypatch.setattr("keras.Model.save", None)  # nothing of Keras' travels
    table = on_ray(file, folder, tmp_path / "scores.parquet", cache_dir=tmp_path, runtime="openvino")
    pd.testing.assert_frame_equal(table, local, rtol=0, atol=1e-4)


def test_a_cluster_that_refuses_us_says_that_it_may_want_a_token(classifier, folder, tmp_path, monkeypatch):
    import ray

    def refuse(**options):
        raise ConnectionError("Failed to connect")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(RuntimeError, match=r"Failed to connect\. If the cluster asks for a token.*RAY_AUTH_MODE=token"):
        on_ray(classifier, folder, tmp_path / "scores.parquet")


def test_a_cluster_without_room_says_what_it_has(two_nodes, classifier, folder, tmp_path):
    with pytest.raises(RuntimeError, match=r"no machine with room for a worker of .*'GPU': 8.*It has"):
        on_ray(classifier, folder, tmp_path / "scores.parquet", cluster={"gpus": 8})


def test_a_failing_model_is_an_error_and_not_a_lost_machine(two_nodes, classifier, folder):
    files = stream.Files(str(folder))
    with pytest.raises(RuntimeError, match=r"worker of the Ray cluster failed\. ValueError: runtime must be one of"):
        list(cluster_answers([(0, "0000.png")], files=files, model=classifier, size=SIZE, runtime="none"))


def test_a_file_that_ends_every_worker_is_an_error_when_all_others_have_an_answer(two_nodes):
    import ray

    @ray.remote(num_cpus=1, max_retries=2)
    def deadly(work):
        if (6, "x") in work:
            os._exit(1)
        return [stream.Answer(position, "", 0, None, "damaged", "") for position, _ in work]

    parts = ([(i + j, "x") for j in range(4)] for i in range(0, 40, 4))
    answered = []
    with pytest.raises(RuntimeError, match=r"4 files have no answer: each of 3 workers .* was lost"):
        for answers in cluster._share(ray, parts, deadly.remote, lambda: 1):
            answered += [answer.position for answer in answers]
    assert sorted(answered) == [i for i in range(40) if not 4 <= i < 8]


def test_a_process_of_the_cluster_loads_its_model_once(two_nodes, classifier, folder, tmp_path):
    loads = tmp_path / "loads"

    class Counted(stream.Files):
        def read(self, path):
            from nsfwlib.model.cluster import _forward

            with loads.open("a") as file:
                file.write(f"{os.getpid()} {_forward.cache_info().misses}\n")
            return super().read(path)

    work = [(i, f"{i:04}.png") for i in range(100)]
    answers = cluster_answers(work, files=Counted(str(folder)), model=classifier, size=SIZE, batch_size=2, actors=1)
    assert len([answer for part in answers for answer in part]) == 100
    assert len(set(loads.read_text().splitlines())) == 1


def test_a_cluster_that_is_not_there_is_said_at_once(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(RuntimeError, match=r"127\.0\.0\.1:1 cannot be reached"), _connected("127.0.0.1:1"):
        pass
