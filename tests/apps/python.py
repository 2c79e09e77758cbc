"""Python with subprocesses, threads, temporary files, sockets, mmap and multiprocessing."""
import asyncio, concurrent.futures, ctypes, fcntl, hashlib, json, mmap, multiprocessing, os, pathlib, queue, select, selectors
import shutil, signal, socket, sqlite3, struct, subprocess, sys, tempfile, threading, time, zlib

checks = 0


def check(name, got, wanted=True):
    global checks
    if got != wanted:
        print(f"FAIL {name}: {got!r}, not {wanted!r}")
        sys.exit(1)
    checks += 1


# subprocess
check("run", subprocess.run(["echo", "hi"], capture_output=True, text=True).stdout, "hi\n")
check("shell", subprocess.check_output("echo $((6*7))", shell=True), b"42\n")
check("input", subprocess.run(["tr", "a-z", "A-Z"], input=b"abc", capture_output=True).stdout, b"ABC")
check("code", subprocess.run(["sh", "-c", "exit 9"]).returncode, 9)
check("signal", subprocess.run(["sh", "-c", "kill -TERM $$"]).returncode, -15)
check("env", subprocess.check_output(["sh", "-c", "echo $V"], env={"V": "x", "PATH": os.environ["PATH"]}), b"x\n")
check("cwd", subprocess.check_output(["pwd"], cwd="/"), b"/\n")
try:
    subprocess.run(["sleep", "10"], timeout=0.2)
    check("timeout", False)
except subprocess.TimeoutExpired:
    check("timeout", True)
try:
    subprocess.run(["/no/such/program"])
    check("missing", False)
except FileNotFoundError:
    check("missing", True)
a = subprocess.Popen(["seq", "1000"], stdout=subprocess.PIPE)
b = subprocess.Popen(["wc", "-l"], stdin=a.stdout, stdout=subprocess.PIPE)
a.stdout.close()
check("pipeline", b.communicate()[0].strip(), b"1000")
check("pipeline-end", a.wait(), 0)
check("preexec", subprocess.run(["sh", "-c", "echo $$"], start_new_session=True, capture_output=True).returncode, 0)
many = [subprocess.Popen([sys.executable, "-S", "-c", f"import sys; sys.exit({i})"]) for i in range(8)]
check("many", [p.wait() for p in many], list(range(8)))

# threads
counter, lock = 0, threading.Lock()


def count():
    global counter
    for _ in range(5000):
        with lock:
            counter += 1


threads = [threading.Thread(target=count) for _ in range(8)]
for t in threads:
    t.start()
for t in threads:
    t.join()
check("threads", counter, 40000)
q, out = queue.Queue(), queue.Queue()
workers = [threading.Thread(target=lambda: [out.put(x * x) for x in iter(q.get, None)]) for _ in range(4)]
for w in workers:
    w.start()
for i in range(500):
    q.put(i)
for w in workers:
    q.put(None)
for w in workers:
    w.join()
check("queue", sum(out.get() for _ in range(500)), sum(i * i for i in range(500)))
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    check("pool", list(pool.map(lambda x: x + 1, range(100))), list(range(1, 101)))
event = threading.Event()
threading.Timer(0.05, event.set).start()
check("timer", event.wait(10))
check("event-timeout", threading.Event().wait(0.05), False)
check("thread-subprocess", concurrent.futures.ThreadPoolExecutor(4).submit(subprocess.check_output, ["echo", "t"]).result(), b"t\n")

# multiprocessing
with multiprocessing.Pool(3) as pool:
    check("processes", pool.map(abs, range(-20, 0)), list(range(20, 0, -1)))
here, there = multiprocessing.Pipe()
child = multiprocessing.Process(target=lambda c: c.send([1, {"a": 2}]), args=(there,))
child.start()
check("mp-pipe", here.recv(), [1, {"a": 2}])
child.join()
value = multiprocessing.Value("i", 0)


def add(v):
    for _ in range(200):
        with v.get_lock():
            v.value += 1


group = [multiprocessing.Process(target=add, args=(value,)) for _ in range(4)]
for p in group:
    p.start()
for p in group:
    p.join()
check("mp-value", value.value, 800)

# files
with tempfile.TemporaryDirectory() as d:
    path = pathlib.Path(d)
    (path / "sub").mkdir()
    (path / "sub" / "f").write_text("text")
    check("text", (path / "sub" / "f").read_text(), "text")
    check("walk", sorted(len(f) for _, _, f in os.walk(d)), [0, 1])
    shutil.copytree(path / "sub", path / "copy")
    check("copytree", (path / "copy" / "f").read_text(), "text")
    shutil.make_archive(str(path / "arch"), "gztar", path / "sub")
    shutil.unpack_archive(path / "arch.tar.gz", path / "un")
    check("archive", (path / "un" / "f").read_text(), "text")
    os.rename(path / "copy" / "f", path / "g")
    check("rename", os.listdir(path / "copy"), [])
    os.symlink("g", path / "l")
    check("symlink", os.readlink(path / "l"), "g")
    with open(path / "g", "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
        m[0:4] = b"TEXT"
        m.flush()
    check("mmap", (path / "g").read_bytes(), b"TEXT")
    with open(path / "lock", "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        code = f"import fcntl,sys\ntry: fcntl.flock(open({str(path / 'lock')!r}), fcntl.LOCK_EX|fcntl.LOCK_NB)\nexcept BlockingIOError: sys.exit(3)"
        check("flock", subprocess.run([sys.executable, "-c", code]).returncode, 3)
    for i in range(300):
        (path / f"many{i}").touch()
    check("scandir", sum(e.name.startswith("many") and e.is_file() for e in os.scandir(path)), 300)
    db = sqlite3.connect(path / "db")
    db.execute("create table t (a int, b text)")
    db.executemany("insert into t values (?, ?)", ((i, str(i)) for i in range(5000)))
    db.commit()
    check("sqlite", db.execute("select sum(a) from t").fetchone()[0], sum(range(5000)))
    db.close()
check("tempdir-gone", os.path.exists(d), False)
with tempfile.NamedTemporaryFile() as f:
    f.write(b"x" * 100000)
    f.flush()
    check("tempfile", os.stat(f.name).st_size, 100000)
with tempfile.SpooledTemporaryFile(max_size=10) as f:
    f.write(b"y" * 100)
    f.seek(0)
    check("spooled", len(f.read()), 100)

# sockets, select, asyncio
s1, s2 = socket.socketpair()
s1.sendall(b"ping")
check("socketpair", s2.recv(10), b"ping")
check("select", select.select([s1, s2], [], [], 0)[0], [])
sel = selectors.DefaultSelector()
sel.register(s2, selectors.EVENT_READ)
s1.sendall(b"x")
check("selectors", [k.fileobj for k, _ in sel.select(1)], [s2])
with tempfile.TemporaryDirectory() as d:
    server = socket.socket(socket.AF_UNIX)
    server.bind(d + "/s")
    server.listen()
    t = threading.Thread(target=lambda: server.accept()[0].sendall(b"welcome"))
    t.start()
    client = socket.socket(socket.AF_UNIX)
    client.connect(d + "/s")
    check("unix", client.recv(10), b"welcome")
    t.join()


async def main():
    p = await asyncio.create_subprocess_exec("echo", "async", stdout=subprocess.PIPE)
    text = (await p.communicate())[0]
    naps = await asyncio.gather(*(asyncio.sleep(0.05, i) for i in range(50)))
    return text, sum(naps)


check("asyncio", asyncio.run(main()), (b"async\n", 1225))

# signals and the system
caught = []
signal.signal(signal.SIGALRM, lambda s, f: caught.append(s))
signal.setitimer(signal.ITIMER_REAL, 0.05)
time.sleep(0.2)
check("itimer", caught, [signal.SIGALRM])
signal.signal(signal.SIGUSR1, lambda s, f: caught.append(s))
os.kill(os.getpid(), signal.SIGUSR1)
check("kill", caught[-1], signal.SIGUSR1)
r, w = os.pipe()
pid = os.fork()
if pid == 0:
    os.write(w, b"child")
    os._exit(6)
check("fork-pipe", os.read(r, 10), b"child")
check("fork-status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 6)
check("uname", os.uname().sysname, "Linux")
check("urandom", len(os.urandom(32)), 32)
check("hash", hashlib.sha256(b"hello").hexdigest()[:8], "2cf24dba")
check("zlib", zlib.decompress(zlib.compress(b"z" * 1000)), b"z" * 1000)
check("json", json.loads(json.dumps({"a": [1, 2.5, None]})), {"a": [1, 2.5, None]})
check("ctypes", ctypes.CDLL(None).getpid(), os.getpid())
start = time.monotonic()
time.sleep(0.1)
check("sleep", 0.1 <= time.monotonic() - start < 5)
check("gc", len(bytearray(50_000_000)), 50_000_000)
print(f"{checks} checks passed")
