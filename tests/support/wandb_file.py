"""Read the offline `.wandb` files of wandb 0.30 and later, which has no reader of its own."""

import struct
from collections.abc import Iterator
from pathlib import Path

BLOCK, HEADER = 32768, struct.Struct("<IHB")  # crc32, length, kind of one fragment
FULL, LAST = 1, 4  # the kinds that end a record


def records(path: Path) -> Iterator:
    """Yield the protobuf records of a file: LevelDB log framing after 7 bytes of magic."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, payload = Path(path).read_bytes(), 7, b""
    if not data.startswith(b":W&B"):
        raise ValueError(f"{path} is not an offline W&B file")
    while at + HEADER.size <= len(data):
        room = BLOCK - at % BLOCK
        _, length, kind = HEADER.unpack_from(data, at)
        # The rest of a block is padding.
        if room < HEADER.size or kind == 0:
            at += room
            continue
        at += HEADER.size + length
        payload += data[at - length : at]
        if kind in (FULL, LAST):
            yield Record.FromString(payload)
            payload = b""
