#!/usr/bin/env python3
"""Throws bad frames at a sandbox: `hostile.py INTERFACE TARGET-IP SEED`. Says `done` when all is sent.

Mutated frames of every kind the stack reads, a flood of SYNs that nobody completes, while which others connect all the same, and pieces of packets
whose rest never comes."""

import random
import socket
import struct
import subprocess
import sys

interface, target, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
random.seed(seed)
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
raw.bind((interface, 0))
own_mac = raw.getsockname()[4]
# Whoever it is must be known first.
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", (target, 9))
subprocess.run(["sleep", "0.3"], check=True)
neighbours = subprocess.run(["ip", "neigh", "show", target], check=True, capture_output=True, text=True).stdout.split()
mac = bytes.fromhex(neighbours[neighbours.index("lladdr") + 1].replace(":", ""))


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip4(protocol, payload, source="10.77.0.1", ident=0, fragment=0x4000):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), ident, fragment, 64, protocol, 0,
                       socket.inet_aton(source), socket.inet_aton(target))
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return mac + own_mac + b"\x08\x00" + head + payload


def tcp(source, port, to, seq, ack, flags, options=b"", payload=b""):
    head = struct.pack("!HHIIBBHHH", port, to, seq, ack, (5 + len(options) // 4) << 4, flags, 1024, 0, 0) + options + payload
    pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!BBH", 0, 6, len(head))
    return head[:16] + struct.pack("!H", checksum(pseudo + head)) + head[18:]


def icmp(kind, code, rest):
    body = struct.pack("!BBH", kind, code, 0) + rest
    return body[:2] + struct.pack("!H", checksum(body)) + body[4:]


def arp(operation, who, whom=target):
    return mac + own_mac + b"\x08\x06" + struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, operation, own_mac, socket.inet_aton(who),
                                                     mac, socket.inet_aton(whom))


def ip6(protocol, payload):
    link_local = b"\xfe\x80" + bytes(13) + b"\x07"
    return mac + own_mac + b"\x86\xdd" + struct.pack("!IHBB", 0x60000000, len(payload), protocol, 255) + link_local + link_local + payload


def somebody():
    return f"10.77.0.{random.randrange(10, 250)}"


samples = [
    ip4(6, tcp("10.77.0.1", 5000, 7000, 1, 0, 2, b"\x02\x04\x05\xb4\x01\x03\x03\x07\x04\x02\x01\x01")),
    ip4(6, tcp("10.77.0.1", 5001, 7000, 1, 1, 0x18, b"\x01\x01\x05\x0a" + bytes(8), b"hello")),
    ip4(17, struct.pack("!HHHH", 5000, 7000, 12, 0) + b"ping"),
    ip4(1, icmp(8, 0, struct.pack("!HH", 1, 1) + b"abc")),
    ip4(1, icmp(3, 4, struct.pack("!HH", 0, 68) + ip4(6, tcp("10.77.0.1", 7000, 5000, 1, 0, 2))[14:42])),
    ip4(17, bytes(64), ident=7, fragment=0x2000),
    arp(1, "10.77.0.1"),
    arp(2, "10.77.0.200"),
    ip6(58, bytes([135, 0, 0, 0, 0, 0, 0, 0]) + bytes(16) + b"\x01\x01" + own_mac),
    ip6(0, b"\x3c\x00\x01\x04" + bytes(4) + b"\x2c\x00" + bytes(6) + b"\x06\x00\x00\x01" + bytes(20)),
]


def connects():
    with socket.create_connection((target, 7001), timeout=30) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"


def send(frame):
    try:
        raw.send(frame)
    except OSError:
        pass  # No room, or shorter than a header: the next one.


for _ in range(40000):
    frame = bytearray(random.choice(samples))
    for _ in range(random.randrange(5)):
        frame[random.randrange(12, len(frame))] = random.randrange(256)
    if random.random() < 0.2:
        del frame[random.randrange(14, len(frame)):]
    send(bytes(frame))
for n in range(30000):
    source = somebody()
    send(ip4(6, tcp(source, random.randrange(1024, 65536), 7000, random.randrange(1 << 32), 0, 2), source))
    if n in (6000, 15000, 29999):
        connects()
for n in range(20000):
    send(ip4(17, bytes(1400), somebody(), ident=n & 0xFFFF, fragment=0x2000 | random.randrange(8000)))
    if n % 4 == 0:
        send(arp(random.choice((1, 2)), somebody()))
# Mutated ARP may have said that this host is elsewhere, and Linux believes that for some seconds (a network namespace of the host as well as a VM): an
# announcement ends it.
send(arp(1, "10.77.0.1", "10.77.0.1"))
print("done")
