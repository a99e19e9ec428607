#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Writes seeds for serve_fuzz.c into the directory argv[1]: sessions as a client has them, named by what they do."""
import os, struct, sys


def frame(kind, ident, meta=b""):
    return bytes([kind, ident, len(meta)]) + meta


def text(s):
    return bytes([len(s)]) + s.encode()


def hello(role, name, enc=7):
    return frame(1, 0, struct.pack("<HHB3xII16x", 1, 1, role, enc, 0) + text(name))


def get(ident, addr, length, urgency=0, obj=0):
    return frame(32, ident, struct.pack("<IIQB7x", obj, length, addr, urgency))


def read(ident, name, off=0, length=4096):
    return frame(20, ident, struct.pack("<QI", off, length) + text(name))


seeds = {
    "list": hello(0, "") + frame(16, 1, bytes(4)) + frame(16, 2, struct.pack("<I", 9)),
    "files": hello(0, "a") + frame(18, 1, bytes(4)) + read(2, "inventory.img") + read(3, "pagemap-1.img", 8, 99) +
             read(4, "pages-1.img", 4096, 1 << 20) + read(5, "nothing"),
    "behind-the-end": hello(0, "a") + read(1, "inventory.img", 1 << 40) + read(2, "inventory.img", 1 << 62),
    "urgent": hello(1, "a") + get(1, 0x14000, 4096) + get(2, 0x10000, 1 << 20, 9) + frame(4, 3),
    "bulk-compressed": hello(2, "a", 0x37) + get(1, 0x10000, 40 * 4096) + get(2, 0x20000, 8192, 1),
    "lz4": hello(2, "a", 0x17) + get(1, 0x10000, 40 * 4096),
    "no-such-task": hello(1, "a") + get(1, 0x14000, 4096, 0, 7) + frame(6, 0),
    "unknown": hello(1, "b"),
    "many": hello(1, "a") + b"".join(get(i, 0x14000, 4096, i % 3) for i in range(100)),
    "raw": b"\xff" + b"LPG1" + bytes(60),
}
os.makedirs(sys.argv[1], exist_ok=True)
for name, data in seeds.items():
    with open(os.path.join(sys.argv[1], name), "wb") as f:
        f.write(data)
