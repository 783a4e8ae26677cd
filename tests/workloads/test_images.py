"""Laws of the image sources."""

import gzip
import hashlib
import subprocess

import pytest
import torch

from harness.errors import UserError
from workloads.data import fetch, images


def test_digits_are_five_hundred_of_each():
    pixels, labels = images.mnist()
    assert pixels.shape == (5000, 28, 28)
    assert pixels.dtype == torch.uint8
    assert labels.bincount().tolist() == [500] * 10
    assert pixels.amax() == 255
    assert pixels[:, 0, :].float().mean() < 1 < pixels[:, 14, :].float().mean()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a tiny test split whose hashes are the pinned ones."""
    contents = {
        "t10k-images-idx3-ubyte": bytes(
            [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3, *range(6)]
        ),
        "t10k-labels-idx1-ubyte": bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]),
    }
    pinned = tuple((name, hashlib.sha256(c).hexdigest()) for name, c in contents.items())
    monkeypatch.setitem(images.FILES, "test", pinned)
    (name, content), (zipped, squeezed) = contents.items()
    (tmp_path / name).write_bytes(content)
    (tmp_path / f"{zipped}.gz").write_bytes(gzip.compress(squeezed))
    return tmp_path


def test_idx_files_are_read_gzipped_or_not(folder):
    pixels, labels = images.fashion(folder, "test")
    assert pixels.tolist() == [[[0, 1, 2]], [[3, 4, 5]]]
    assert labels.tolist() == [7, 9]


def test_other_bytes_and_missing_files_are_refused(folder):
    with pytest.raises(UserError, match="has no train-images"):
        images.fashion(folder, "train")
    with pytest.raises(UserError, match="no split"):
        images.fashion(folder, "val")
    (folder / "t10k-images-idx3-ubyte").write_bytes(b"other")
    with pytest.raises(UserError, match="sha256"):
        images.fashion(folder, "test")
    (folder / "t10k-images-idx3-ubyte").unlink()
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match="cannot be read"):
        images.fashion(folder, "test")


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """An empty cache, nothing installed."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(images, "INSTALLED", tmp_path / "nowhere")


def test_offline_says_what_to_do(bare, monkeypatch):
    def offline(command, **_):
        return subprocess.CompletedProcess(command, 100, "", "E: Could not resolve the host\n")

    monkeypatch.setattr(images.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(images.subprocess, "run", offline)
    with pytest.raises(UserError, match=r"Could not resolve.*data\.folder"):
        images.fashion()
    monkeypatch.setattr(images.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"no Debian.*data\.folder"):
        images.fashion()


def test_another_package_is_refused(bare, monkeypatch):
    def fetched(command, cwd, **_):
        (images.Path(cwd) / "dataset.deb").write_bytes(b"other")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(images.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(images.subprocess, "run", fetched)
    with pytest.raises(UserError, match="one version"):
        images.fashion()
    assert not (fetch.cache() / "fashion-mnist").exists()
