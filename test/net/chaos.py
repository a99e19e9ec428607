#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""A bad network between a client and a server, for tests; on loopback only.

chaos.py --listen PORT --to PORT [--cut MS] [--flip BYTES] [--stall MS] [--rate BYTES] [--portfile FILE]

--cut: every connection is cut after so many milliseconds (evenly around it).
--flip: in about every so many bytes from the server one bit is flipped.
--stall: now and then nothing is passed on for so long.
--rate: so many bytes a second from the server, about.
Port 0 takes a free one; its number goes to FILE.
"""
import argparse, os, random, socket, threading, time

p = argparse.ArgumentParser()
p.add_argument("--listen", type=int, default=0)
p.add_argument("--to", type=int, required=True)
p.add_argument("--cut", type=int, default=0)
p.add_argument("--flip", type=int, default=0)
p.add_argument("--stall", type=int, default=0)
p.add_argument("--rate", type=int, default=0)
p.add_argument("--portfile")
p.add_argument("--seed", type=int, default=None)
o = p.parse_args()
rnd = random.Random(o.seed)


def close(*socks):
    for s in socks:
        try:
            s.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def pump(src, dst, damage, rate=0):
    left = rnd.randrange(1, 2 * o.flip) if damage else 0
    try:
        while True:
            data = src.recv(32768 if rate else 262144)
            if not data:
                break
            if damage:
                data = bytearray(data)
                while left < len(data):
                    data[left] ^= 1 << rnd.randrange(8)
                    left += rnd.randrange(1, 2 * o.flip)
                left -= len(data)
            if o.stall and rnd.random() < 0.01:
                time.sleep(o.stall / 1000)
            dst.sendall(data)
            if rate:
                time.sleep(len(data) / rate)
    except OSError:
        pass
    close(src, dst)


def serve(c):
    try:
        s = socket.create_connection(("127.0.0.1", o.to), 5)
    except OSError:
        c.close()
        return
    s.settimeout(None)
    for x in (c, s):
        x.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threads = [threading.Thread(target=pump, args=(c, s, False), daemon=True),
               threading.Thread(target=pump, args=(s, c, o.flip > 0, o.rate), daemon=True)]
    for t in threads:
        t.start()
    if o.cut:
        threads[0].join(rnd.uniform(0.5, 1.5) * o.cut / 1000)
        close(c, s)
    for t in threads:
        t.join()
    c.close()
    s.close()


l = socket.socket()
l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
l.bind(("127.0.0.1", o.listen))
l.listen(64)
if o.portfile:
    with open(o.portfile + ".tmp", "w") as f:
        f.write("%d\n" % l.getsockname()[1])
    os.rename(o.portfile + ".tmp", o.portfile)
while True:
    c, _ = l.accept()
    threading.Thread(target=serve, args=(c,), daemon=True).start()
