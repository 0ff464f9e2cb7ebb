import os
import stat
import tarfile

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from nsfwlib.model import build, published


def fake_npm(folder, script):
    """An `npm` that does what `script` says, first on PATH."""
    folder.mkdir(exist_ok=True)
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    return folder


@pytest.fixture
def no_npm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    monkeypatch.setattr(published.sys, "executable", str(tmp_path / "nowhere" / "python"))


@pytest.fixture(scope="module")
def package():
    return published.fetch_package()


def pixels():
    pictures = load_sample_images().images
    return np.stack([np.asarray(Image.fromarray(p).resize((299, 299), Image.Resampling.BILINEAR)) for p in pictures])


def test_without_npm_the_error_says_how_to_get_one(tmp_path, no_npm):
    with pytest.raises(RuntimeError, match=r"no npm was found.*Install Node\.js"):
        published.fetch_package(cache_dir=tmp_path)


def test_an_npm_that_fails_is_quoted_and_leaves_nothing(tmp_path, monkeypatch):
    folder = fake_npm(tmp_path / "bin", "echo 'npm error network ENOTFOUND' >&2; exit 1")
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    with pytest.raises(RuntimeError, match=r"Check the network(.|\n)*ENOTFOUND"):
        published.fetch_package(cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.tgz"))


def test_another_file_than_the_pinned_one_is_refused(tmp_path, monkeypatch):
    folder = fake_npm(tmp_path / "bin", 'echo evil > "$4/nsfwjs-4.4.0.tgz"')
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    with pytest.raises(RuntimeError, match=r"Expected nsfwjs 4\.4\.0 with integrity sha512-krC1.*Received: sha512-"):
        published.fetch_package(cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.tgz"))


def test_what_was_fetched_once_is_used_without_npm(package, tmp_path, no_npm):
    (tmp_path / package.name).write_bytes(package.read_bytes())
    assert published.fetch_package(cache_dir=tmp_path) == tmp_path / package.name


def test_what_was_fetched_once_is_read_from_a_folder_that_cannot_be_written(package, tmp_path, no_npm, monkeypatch):
    (tmp_path / package.name).write_bytes(package.read_bytes())
    monkeypatch.setattr(published, "FileLock", lambda path: pytest.fail("a read-only folder has no place for it"))
    assert published.fetch_package(cache_dir=tmp_path) == tmp_path / package.name


def test_a_damaged_cache_is_named_when_it_cannot_be_replaced(package, tmp_path, no_npm):
    (tmp_path / package.name).write_bytes(package.read_bytes()[:-1])
    with pytest.raises(RuntimeError, match="is damaged and could not be fetched anew"):
        published.fetch_package(cache_dir=tmp_path)


def test_a_damaged_cache_is_fetched_anew(package, tmp_path, monkeypatch):
    (tmp_path / package.name).write_bytes(b"damaged")
    folder = fake_npm(tmp_path / "bin", f'/bin/cp "{package}" "$4/"')
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    assert published.fetch_package(cache_dir=tmp_path).read_bytes() == package.read_bytes()


def test_minified_javascript_becomes_the_object_it_stands_for():
    script = 'a.exports={k:[.5,-.25,1e-3,!0,!1,null],"q:r":"s{:.5,!0}",$n:{}}},{}]}'
    expected = {"k": [0.5, -0.25, 1e-3, True, False, None], "q:r": "s{:.5,!0}", "$n": {}}
    assert published._exported_object(script) == expected


def test_the_package_holds_the_licence_and_the_model(package):
    with tarfile.open(package) as tar:
        names = tar.getnames()
    assert "package/dist/models/inception_v3/model.min.js" in names


def test_the_published_model_calls_two_landscapes_neutral():
    model = build.published_model()
    probabilities = np.asarray(model(pixels().astype(np.float32), training=False))
    assert np.allclose(probabilities[:, 2], [0.998, 1.0], atol=5e-4)
    assert np.allclose(
        probabilities[0], [0.0017965, 0.0000287, 0.9981250, 0.0000412, 0.0000085], atol=1e-5
    )  # nsfwjs in Node
