"""The weights that a trial ended with, compressed, for whoever evaluates them again."""

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

from harness.system.files import BadFile, atomic_write

# torch is imported where it is used: a referee starts its runner before it imports torch.
if TYPE_CHECKING:
    from torch import Tensor

NAME = "weights.safetensors.gz"
# bytes of the weights, against a file that grows without end when it is opened
LARGEST = 1 << 32
PART = 1 << 20


def keep(folder: Path, weights: "dict[str, Tensor]") -> None:
    """Write the weights into a run's folder.

    Raises:
        DiskFull: the disk is full.
    """
    from safetensors.torch import save

    content = save({name: tensor.contiguous().cpu() for name, tensor in weights.items()})
    # Random bits do not compress; level 1 takes what zeros and grids give.
    atomic_write(folder / NAME, gzip.compress(content, 1, mtime=0))


def load(folder: Path) -> "dict[str, Tensor] | None":
    """Return the weights that a run's folder keeps, or None if it keeps none.

    Raises:
        BadFile: the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    path = folder / NAME
    if not path.is_file():
        return None
    try:
        content = bytearray()
        with gzip.open(path) as file:
            while part := file.read(PART):
                content += part
                if len(content) > LARGEST:
                    raise ValueError(f"more than {LARGEST:,} bytes")
        return from_bytes(bytes(content))
    except (OSError, EOFError, ValueError, SafetensorError) as error:
        raise BadFile(path, f"it has no weights ({error})") from None
