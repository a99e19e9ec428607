#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Clients that mean harm, against `lazypages serve` on loopback: hostile.py PORT NAME SECONDS.

Half messages, wrong sums, huge lengths, garbage, floods of connections, requests without end whose answers are never
read. Ends with status 1 when the server answered where it should have hung up.
"""
import random, socket, struct, sys, threading, time

import ctypes, ctypes.util

port, name, seconds = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
end = time.time() + seconds
bad, counts, lock = [], {}, threading.Lock()
xxh = ctypes.CDLL("libxxhash.so.0")
xxh.XXH3_64bits_withSeed.restype = xxh.XXH3_64bits.restype = ctypes.c_uint64
xxh.XXH3_64bits_withSeed.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]
xxh.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def frame(kind, ident, meta=b"", data=0, claim=None):
    head = struct.pack("<IHHQII", 0x3147504c, kind, 0, ident, len(meta) if claim is None else claim, data)
    return head + struct.pack("<Q", xxh.XXH3_64bits_withSeed(meta, len(meta), xxh.XXH3_64bits(head, 24))) + meta


def hello(role):
    return frame(1, 0, struct.pack("<HHB3xII16x", 1, 1, role, 7, 0) + bytes([len(name)]) + name.encode())


def get(ident, addr, length):
    return frame(32, ident, struct.pack("<IIQB7x", 0, length, addr, 0))


def dial():
    return socket.create_connection(("127.0.0.1", port), 10)


def hangs_up(s, why):
    """The server must close without sending anything but ERROR."""
    s.settimeout(12)
    got = b""
    try:
        while True:
            b = s.recv(65536)
            if not b:
                break
            got += b
    except ConnectionError:
        pass
    except socket.timeout:
        bad.append(why + ": still connected after 12 s")
    while len(got) >= 32:
        kind, meta, data = struct.unpack_from("<4xH10xII", got)
        if kind not in (2, 3):
            bad.append("%s: answered with %d" % (why, kind))
        got = got[32 + meta + data:]


def wrong_frames():
    for why, b in (
        ("garbage", random.randbytes(3000)),
        ("half a header, then nothing", frame(1, 0)[:17]),
        ("wrong sum", bytes([hello(1)[0]]) + hello(1)[1:24] + bytes(8) + hello(1)[32:]),
        ("huge meta", frame(1, 0, claim=0xffffffff)),
        ("data to the server", frame(1, 0, b"", 0xffffffff)),
        ("no hello first", get(1, 0, 4096)),
        ("huge get", hello(1) + get(1, 0, 0xfffff000)),
        ("get at the end of all addresses", hello(1) + get(1, 0xfffffffffffff000, 4096)),
        ("an unknown message", hello(2) + frame(999, 5)),
        ("a name with a slash", frame(1, 0, struct.pack("<HHB3xII16x", 1, 1, 1, 7, 0) + b"\x04../a")),
        ("files on a bulk connection", hello(2) + frame(18, 1, bytes(4))),
        ("pages on a control connection", hello(0) + get(1, 0x7f0000003000, 4096)),
        ("version 7", frame(1, 0, struct.pack("<HHB3xII16x", 7, 9, 1, 7, 0) + b"\x01a")),
    ):
        with dial() as s:
            s.sendall(b)
            hangs_up(s, why)
    return "wrong frames"


def flood_of_connections():
    held = []
    try:
        for _ in range(400):
            held.append(dial())
        time.sleep(0.5)
    except OSError:
        pass
    for s in held:
        s.close()
    return "floods of connections"


def never_reads():
    """Asks for all it may and more, takes nothing: the server must not keep it in memory."""
    held = []
    for role in (1, 2, 2, 2):
        s = dial()
        held.append(s)
        s.sendall(hello(role))
        s.settimeout(0.5)
        try:
            for i in range(100000):
                s.sendall(get(i, 0x7f0000003000, 1 << 20))
        except (socket.timeout, ConnectionError):
            pass
    time.sleep(0.5)
    for s in held:
        s.close()
    return "clients that never read"


def drops_in_the_middle():
    for _ in range(20):
        with dial() as s:
            s.sendall(hello(2) + b"".join(get(i, 0x7f0000003000, 1 << 20) for i in range(random.randrange(1, 64))))
            s.recv(random.randrange(1, 200000))
            if random.random() < 0.5:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return "clients that drop"


def drip():
    """One byte at a time."""
    with dial() as s:
        try:
            for b in hello(1) + get(1, 0x7f0000003000, 4096):
                s.sendall(bytes([b]))
                time.sleep(0.002)
            s.settimeout(5)
            if not s.recv(100):
                bad.append("a slow but honest client was hung up on")
        except (ConnectionError, socket.timeout):
            bad.append("a slow but honest client was not answered")
    return "slow clients"


def forever(what):
    while time.time() < end:
        try:
            k = what()
        except (ConnectionError, socket.timeout) as e:
            # Turned away by the flood of the others: that is the server's right.
            k = "turned away"
        with lock:
            counts[k] = counts.get(k, 0) + 1


# Alone first: now nobody else is the reason when something fails.
wrong_frames()
drip()
alone = list(bad)
threads = [threading.Thread(target=forever, args=(f,))
           for f in (flood_of_connections, never_reads, drops_in_the_middle, drops_in_the_middle)]
for t in threads:
    t.start()
for t in threads:
    t.join()
print("hostile: " + ", ".join("%s %d times" % (k, v) for k, v in sorted(counts.items())))
for b in alone:
    print("hostile: " + b)
sys.exit(1 if alone else 0)
