#!/usr/bin/env python3
"""Groups across a bridge that listens to IGMP and MLD: `say OWN_V4` talks to them for ever, `hear GROUP` joins one and ends when it has heard something.

A bridge that asks carries what is said to a group to those ports only from which somebody has told of it."""

import socket
import struct
import sys
import time

PORT = 4300
GROUPS = ["239.77.1.1", "ff05::77"]


def interface():
    return next(index for index, name in socket.if_nameindex() if name != "lo")


def say(own):
    four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    four.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
    six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("br0"))
    while True:
        four.sendto(b"hello", (GROUPS[0], PORT))
        six.sendto(b"hello", (GROUPS[1], PORT))
        time.sleep(0.2)


def hear(group):
    six = ":" in group
    sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(20)
    sock.bind(("", PORT))
    if six:
        sock.setsockopt(
            socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, group) + struct.pack("i", interface())
        )
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + bytes(4))
    assert sock.recv(100) == b"hello"


if sys.argv[1] == "say":
    say(sys.argv[2])
else:
    hear(sys.argv[2])
