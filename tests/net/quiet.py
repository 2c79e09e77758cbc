"""Who answers for an address: one machine, and once.

quiet.py INTERFACE IPV4 IPV6: pings both addresses, connects to a TCP port and sends a datagram to a UDP port at which nobody is, and counts the
answers that come in by the interface (ARP and neighbour discovery too: what the neighbour tables had is flushed before). A host's kernel that answers
beside the sandbox makes it two of a kind. Prints "done", or what is wrong.
"""

import collections
import select
import socket
import subprocess
import sys
import time

ALL = 3
CLOSED = 6999


def kind(frame):
    """What a frame answers, or None."""
    protocol = frame[12:14]
    if protocol == b"\x08\x06":
        return "ARP" if frame[21] == 2 else None
    if protocol == b"\x08\x00":
        transport, body, family = frame[23], frame[14 + (frame[14] & 15) * 4 :], "IPv4"
    elif protocol == b"\x86\xdd":
        transport, body, family = frame[20], frame[54:], "IPv6"
    else:
        return None
    if transport == socket.IPPROTO_TCP:
        return f"{family} reset" if body[13] & 4 else None
    if transport == socket.IPPROTO_ICMP:
        return {0: "IPv4 echo", 3: "IPv4 unreachable"}.get(body[0])
    if transport == socket.IPPROTO_ICMPV6:
        return {1: "IPv6 unreachable", 129: "IPv6 echo", 136: "neighbour"}.get(body[0])
    return None


def ask(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    subprocess.run(["busybox", "ping", "-c", "1", "-W", "2", address], stdout=subprocess.DEVNULL, check=True)
    with socket.socket(family) as stream:
        stream.settimeout(2)
        try:
            stream.connect((address, CLOSED))
            sys.exit("connected to a closed port")
        except ConnectionRefusedError:
            pass
    with socket.socket(family, socket.SOCK_DGRAM) as datagram:
        datagram.settimeout(2)
        datagram.connect((address, CLOSED))
        datagram.send(b"x")
        try:
            datagram.recv(1)
        except ConnectionRefusedError:
            pass


def main():
    interface, v4, v6 = sys.argv[1:]
    subprocess.run(["ip", "neigh", "flush", "all"], check=True)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL)) as tap:
        tap.bind((interface, ALL))
        ask(v4)
        ask(v6)
        answers = collections.Counter()
        end = time.monotonic() + 1
        while (left := end - time.monotonic()) > 0 and select.select([tap], [], [], left)[0]:
            frame, (_, _, direction, _, _) = tap.recvfrom(65536)
            if direction != socket.PACKET_OUTGOING and (found := kind(frame)):
                answers[found] += 1
    wanted = ["ARP", "neighbour"]
    wanted += [f"{family} {what}" for family in ("IPv4", "IPv6") for what in ("echo", "reset", "unreachable")]
    if any(answers[what] != 1 for what in wanted):
        sys.exit(f"answers: {dict(answers)}")
    print("done")


main()
