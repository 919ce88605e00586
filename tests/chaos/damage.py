"""Files as disks, transfers and other people's programs leave them, from a seeded source."""

from __future__ import annotations

import random
import struct


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Return a file's content with bits turned, and bytes lost, doubled, overwritten or moved."""
    raw = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        at = chance.randrange(len(raw) + 1)
        length = chance.choice((1, 2, 4, 8, 64, 1000))
        match chance.randrange(7):
            case 0:
                for _ in range(chance.choice((1, 1, 8))):
                    if raw:
                        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
            case 1:
                del raw[at : at + length]
            case 2:
                raw[at:at] = chance.randbytes(length)
            case 3:
                raw[at:at] = raw[at : at + length] * chance.choice((1, 3, 100))
            case 4:
                raw[at : at + length] = chance.choice((b"\0", b"\xff", b"\x7f", b'"', b"\n")) * length
            case 5:
                del raw[at:]
            case 6:  # a length or an offset that is absurd
                absurd = chance.choice((0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF))
                raw[at : at + 4] = struct.pack(chance.choice("<>") + "I", absurd)
    return bytes(raw)
