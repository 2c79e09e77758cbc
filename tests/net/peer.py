#!/usr/bin/env python3
"""One end of the network tests: `serve PORT` answers, `check ADDRESS PORT [CASE...]` asks and says `ok CASE` or `FAIL CASE: why`.

The same program runs in a sandbox and on a host, in any pairing; over IPv4 and IPv6."""

import errno
import hashlib
import os
import resource
import select
import socket
import struct
import sys
import threading
import time

LIMIT = 20


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


# --- The server: TCP by the first line, UDP echoes.


def read_line(conn):
    line = b""
    while not line.endswith(b"\n"):
        byte = conn.recv(1)
        if not byte:
            break
        line += byte
    return line.decode().split()


def pattern(n, salt):
    block = bytes((i * 7 + salt) & 255 for i in range(65536))
    return (block * (n // len(block) + 1))[:n]


def serve_one(conn):
    with conn:
        conn.settimeout(LIMIT)
        words = read_line(conn)
        if not words:
            return
        if words[0] == "echo":
            while data := conn.recv(65536):
                conn.sendall(data)
        elif words[0] == "digest":
            sha = hashlib.sha256()
            while data := conn.recv(65536):
                sha.update(data)
            conn.sendall(sha.hexdigest().encode())
        elif words[0] == "give":
            conn.sendall(pattern(int(words[1]), 3))
        elif words[0] == "reset":
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif words[0] == "urgent":
            # So far, and the urgent byte by itself.
            poller = select.poll()
            poller.register(conn, select.POLLPRI)
            assert poller.poll(1000 * LIMIT)
            byte = conn.recv(1, socket.MSG_OOB)
            n = 0
            while n < int(words[1]):
                n += len(conn.recv(65536))
            rest = b""
            while data := conn.recv(65536):
                rest += data
            conn.sendall(f"{n} {byte.decode()} {rest.decode()}".encode())
        elif words[0] == "name":
            host, port = conn.getpeername()[:2]
            conn.sendall(f"{host} {port}".encode())
        elif words[0] == "sockets":
            # Those of TCP in this network namespace.
            lines = open("/proc/net/sockstat").readlines() + open("/proc/net/sockstat6").readlines()
            counts = [int(line.split()[2]) for line in lines if line.startswith(("TCP:", "TCP6:"))]
            conn.sendall(str(sum(counts)).encode())
        elif words[0] == "cookies":
            # Connections here that were not kept until their third segment came.
            names, values = (line.split() for line in open("/proc/net/netstat") if line.startswith("TcpExt:"))
            conn.sendall(values[names.index("SyncookiesRecv")].encode())
        elif words[0] == "sleep":
            # Reads nothing for a while, then all.
            time.sleep(float(words[1]))
            n = 0
            while data := conn.recv(1 << 20):
                n += len(data)
            conn.sendall(str(n).encode())


def quietly(conn):
    try:
        serve_one(conn)
    except OSError:
        pass


def tcp_server(listener):
    while True:
        conn, _ = listener.accept()
        threading.Thread(target=quietly, args=(conn,), daemon=True).start()


def hold_server(listener):
    """Keeps what comes, one thread for all: for many connections at a time."""
    poller = select.epoll()
    poller.register(listener, select.EPOLLIN)
    held = {}
    while True:
        for fd, _ in poller.poll():
            if fd == listener.fileno():
                conn, _ = listener.accept()
                held[conn.fileno()] = conn
                poller.register(conn, select.EPOLLIN)
                continue
            try:
                data = held[fd].recv(4096)
                if data:
                    held[fd].sendall(data)
            except OSError:
                data = b""
            if not data:
                poller.unregister(fd)
                held.pop(fd).close()


def udp_server(sock):
    while True:
        data, who = sock.recvfrom(65536)
        sock.sendto(data[::-1], who)


def serve(port):
    def listener(at):
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("::", at))
        sock.listen(4096)
        return sock

    # One socket for each family: an answer comes from where the question went.
    for kind, any_address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        udp = socket.socket(kind, socket.SOCK_DGRAM)
        if kind == socket.AF_INET6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        udp.bind((any_address, port))
        threading.Thread(target=udp_server, args=(udp,), daemon=True).start()
    threading.Thread(target=hold_server, args=(listener(port + 1),), daemon=True).start()
    main = listener(port)
    print("ready", flush=True)
    tcp_server(main)


# --- The client's cases.


def connect(to, first):
    sock = socket.create_connection(to, LIMIT)
    sock.sendall(first.encode() + b"\n")
    return sock


def rest(sock):
    parts = []
    while data := sock.recv(1 << 18):
        parts.append(data)
    return b"".join(parts)


def case_echo(to):
    with connect(to, "echo") as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for n in range(200):
            sock.sendall(b"%06d" % n)
            got = b""
            while len(got) < 6:
                got += sock.recv(6 - len(got))
            assert got == b"%06d" % n, got


def case_half_close(to):
    with connect(to, "digest") as sock:
        data = pattern(5_000_000, 1)
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert rest(sock).decode() == hashlib.sha256(data).hexdigest()


def case_download(to):
    with connect(to, "give 8000000") as sock:
        assert rest(sock) == pattern(8_000_000, 3)


def case_urgent(to):
    with connect(to, "urgent 5000") as sock:
        sock.sendall(pattern(5000, 9))
        sock.send(b"!", socket.MSG_OOB)
        sock.sendall(b"more")
        sock.shutdown(socket.SHUT_WR)
        assert rest(sock) == b"5000 ! more"


def case_names(to):
    with connect(to, "name") as sock:
        host, port = rest(sock).decode().split()
        own = sock.getsockname()
        assert (host.removeprefix("::ffff:"), int(port)) == own[:2], (host, port, own)
        assert sock.getpeername()[:2] == to[:2]


def case_reset(to):
    with connect(to, "reset") as sock:
        try:
            assert sock.recv(1) == b"", "bytes from a reset connection"
            raise AssertionError("an orderly end, not a reset")
        except ConnectionResetError:
            pass


def case_refused(to):
    try:
        socket.create_connection((to[0], 9), LIMIT)
        raise AssertionError("somebody listens at port 9")
    except ConnectionRefusedError:
        pass


def case_nonblocking(to):
    sock = socket.socket(family(to[0]), socket.SOCK_STREAM)
    sock.setblocking(False)
    assert sock.connect_ex(to) == errno.EINPROGRESS
    _, ready, _ = select.select([], [sock], [], LIMIT)
    assert ready and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    sock.setblocking(True)
    sock.close()


def case_slow_reader(to):
    with connect(to, "sleep 1") as sock:
        sock.setblocking(False)
        sent, data = 0, pattern(1 << 20, 0)
        end = time.monotonic() + 0.7
        while time.monotonic() < end:
            try:
                sent += sock.send(data)
            except BlockingIOError:
                time.sleep(0.01)
        assert sent < 40 << 20, f"{sent} bytes went to somebody who does not read"
        sock.setblocking(True)
        sock.settimeout(LIMIT)
        sock.shutdown(socket.SHUT_WR)
        assert int(rest(sock)) == sent


def check_cookies(to):
    # Only after a flood: not among those that are run if none is named.
    with connect(to, "cookies") as sock:
        assert int(rest(sock)) > 0, "nobody has come by a cookie"


def case_short_connections(to):
    for _ in range(300):
        with connect(to, "give 10") as sock:
            assert len(rest(sock)) == 10


def case_many(to):
    """Many connections at a time, each alive in the end."""
    count = int(os.environ.get("MANY", "500"))
    socks = [socket.create_connection((to[0], to[1] + 1), LIMIT) for _ in range(count)]
    for n, sock in enumerate(socks):
        sock.sendall(b"%d" % n)
    for n, sock in enumerate(socks):
        assert sock.recv(16) == b"%d" % n
    for sock in socks:
        sock.close()


def sockets(to):
    with connect(to, "sockets") as sock:
        return int(rest(sock))


def churn(to, many, end):
    """Short connections, one after the other: ports, buffers and sockets come back."""
    before = sockets(to)
    for n in range(many):
        sock = socket.socket(family(to[0]), socket.SOCK_STREAM)
        end(sock)
        sock.connect((to[0], to[1] + 1))
        if n % 100 == 0:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        sock.close()
    until = time.monotonic() + LIMIT
    while (now := sockets(to)) > before + 3:
        assert time.monotonic() < until, f"{before} sockets before, {now} after"
        time.sleep(0.1)


def case_churn(to):
    # A reset at the end: the client's own ports would run out in TIME_WAIT.
    churn(to, int(os.environ.get("MANY", "500")), lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)))


def case_churn_by_fin(to):
    churn(to, 300, lambda sock: None)


def udp(to):
    sock = socket.socket(family(to[0]), socket.SOCK_DGRAM)
    sock.settimeout(LIMIT)
    sock.connect(to)
    return sock


def case_udp(to):
    with udp(to) as sock:
        for n in (0, 1, 100, 1400):
            sock.send(pattern(n, 5))
            assert sock.recv(65536) == pattern(n, 5)[::-1]


def case_udp_fragments(to):
    with udp(to) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        for n in (1473, 5000, 60000):
            sock.send(pattern(n, 5))
            assert sock.recv(65536) == pattern(n, 5)[::-1], n


def case_udp_refused(to):
    with udp((to[0], 9)) as sock:
        sock.send(b"x")
        try:
            sock.recv(1)
            raise AssertionError("an answer from port 9")
        except ConnectionRefusedError:
            pass


def case_udp_too_long(to):
    with udp(to) as sock:
        # One's own address is on the loopback interface.
        if family(to[0]) != socket.AF_INET or sock.getsockname()[0] == to[0]:
            return
        sock.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
        try:
            sock.send(bytes(5000))
            raise AssertionError("a long packet went whole")
        except OSError as error:
            assert error.errno == errno.EMSGSIZE, error


def check(address, port, names):
    cases = {name.removeprefix("case_"): call for name, call in globals().items() if name.startswith("case_")}
    for name in names or cases:
        try:
            (check_cookies if name == "cookies" else cases[name])((address, port))
            print("ok", name, flush=True)
        except Exception as error:  # noqa: BLE001
            print(f"FAIL {name}: {type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        check(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
