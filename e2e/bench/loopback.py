"""What is measured on loopback. Each function measures both servers in turns, the order of a turn rotated, and returns
pairs (sandglass, sshd)."""

import fcntl
import os
import random
import select
import subprocess
import time

import processes
from processes import BenchError
from servers import CIPHER, NAMES

READY = b"ready\n"
F_SETPIPE_SZ = 1031
CHUNK = 1 << 20


def turns(count, measure, progress):
    """`count` pairs of measure(NAME)."""
    pairs = []
    for number in range(count):
        progress(number, count)
        order = NAMES if number % 2 == 0 else NAMES[::-1]
        values = {name: measure(name) for name in order}
        pairs.append(tuple(values[name] for name in NAMES))
    return pairs


def connect(servers, count, progress):
    """Milliseconds from starting the client to its end, with `true` between."""
    def once(name):
        began = time.monotonic()
        code = subprocess.run(servers.ssh(name, "-T", "true"), stdin=subprocess.DEVNULL, check=False).returncode
        took = (time.monotonic() - began) * 1e3
        if code != 0:
            raise BenchError(f"{name}: ssh ended with {code}")
        time.sleep(0.05)  # what the server does after the end belongs to nobody's next turn
        return took
    turns(1, once, lambda *_: None)
    return turns(count, once, progress)


def read_exactly(descriptor, count, limit=30):
    data = b""
    while len(data) < count:
        if not select.select([descriptor], [], [], limit)[0]:
            raise BenchError(f"nothing was heard for {limit} s; so far {data!r}")
        piece = os.read(descriptor, count - len(data))
        if not piece:
            raise BenchError(f"the connection ended after {data!r}")
        data += piece
    return data


class Client:
    """A client that runs a command which first says `ready`."""

    def __init__(self, servers, name, command, terminal=False, cipher=CIPHER, **options):
        self.process = processes.start(servers.ssh(name, "-tt" if terminal else "-T", "-c", cipher, command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, **options)
        self.into, self.out = self.process.stdin.fileno(), self.process.stdout.fileno()

    def await_ready(self):
        """Reads up to the line `ready`; the gateway greets terminals before it."""
        heard = b""
        while not heard.endswith(READY):
            if len(heard) > 4096:
                raise BenchError(f"the far side did not say ready: {heard[:200]!r}")
            heard += read_exactly(self.out, 1)

    def close(self):
        if not self.process.stdin.closed:
            self.process.stdin.close()
        processes.end(self.process)
        self.process.stdout.close()


def echo(servers, count, progress):
    """Milliseconds from writing one byte into the client to reading it back from `cat` in a raw terminal."""
    clients = {}
    pause = random.Random(1)
    try:
        for name in NAMES:
            clients[name] = Client(servers, name, "stty raw -echo; echo ready; exec cat", terminal=True)
            clients[name].await_ready()

        def once(name):
            client = clients[name]
            time.sleep(pause.uniform(0.003, 0.007))  # nobody types back to back: both servers fall asleep in between
            began = time.monotonic()
            os.write(client.into, b"x")
            if read_exactly(client.out, 1) != b"x":
                raise BenchError(f"{name}: another byte came back")
            return (time.monotonic() - began) * 1e3
        turns(min(count, 20), once, lambda *_: None)
        return turns(count, once, progress)
    finally:
        for client in clients.values():
            client.close()


def download(servers, size, count, progress, cipher=CIPHER):
    """MB/s of zeros from the far side, without the login: from the word to begin until all is here. And what it cost the server, in
    seconds of CPU for each GiB: a turn gives (MB/s, s/GiB) for each server."""
    null = os.open("/dev/null", os.O_WRONLY)

    def once(name):
        client = Client(servers, name, f"echo ready; read go; head -c {size} /dev/zero; read end; exit 0", cipher=cipher)
        try:
            fcntl.fcntl(client.out, F_SETPIPE_SZ, CHUNK)
            client.await_ready()
            before, began, got = servers.cpu(name), time.monotonic(), 0
            os.write(client.into, b"go\n")
            while got < size and (piece := os.splice(client.out, null, CHUNK)):
                got += piece
            took = time.monotonic() - began
            used = processes.between(before, servers.cpu(name))  # while all its processes are still there
            client.process.stdin.close()
            got += len(os.read(client.out, 1))
            if got != size or client.process.wait(30) != 0:
                raise BenchError(f"{name}: {got} of {size} bytes came, exit status {client.process.poll()}")
        finally:
            client.close()
        return size / took / 1e6, used / (size / 2**30)
    try:
        turns(1, once, lambda *_: None)
        return turns(count, once, progress)
    finally:
        os.close(null)


def upload(servers, size, count, progress, cipher=CIPHER):
    """MB/s of zeros into `cat` on the far side, without the login: until its end is known here."""
    def once(name):
        client = Client(servers, name, "echo ready; exec cat >/dev/null", cipher=cipher)
        try:
            client.await_ready()
            began = time.monotonic()
            source = processes.start(["head", "-c", str(size), "/dev/zero"], stdout=client.into)
            client.process.stdin.close()
            code = client.process.wait(600)
            took = time.monotonic() - began
            if source.wait(30) != 0 or code != 0:
                raise BenchError(f"{name}: an upload ended with {code}")
        finally:
            client.close()
        return size / took / 1e6
    turns(1, once, lambda *_: None)
    return turns(count, once, progress)


def idle_session(servers, sessions, progress):
    """kB per idle connection with an open shell in a terminal: one pair."""
    values = []
    for name in NAMES:
        before, clients = servers.memory(name), []
        try:
            for number in range(sessions):
                progress(len(values) * sessions + number, len(NAMES) * sessions)
                client = Client(servers, name, "stty -onlcr; echo ready; exec sh -i", terminal=True, stderr=subprocess.DEVNULL)
                clients.append(client)
                client.await_ready()
            time.sleep(2)  # what belongs to opening them is freed
            values.append((servers.memory(name) - before) / sessions)
        finally:
            for client in clients:
                client.process.terminate()
            for client in clients:
                client.close()
    return [tuple(values)]


def stored_zeros(servers, size):
    """MB in the store, and MB shown."""
    before = servers.stored()
    quietly(servers, f"head -c {size} /dev/zero")
    return settled(servers, before) / 1e6, size / 1e6


def stored_typing(servers, seconds):
    """MB in the store per hour of somebody who types five characters a second, and MB shown per hour."""
    before, shown = servers.stored(), 0
    client = Client(servers, "sandglass", "stty raw -echo; echo ready; exec cat", terminal=True)
    pause = random.Random(2)
    try:
        client.await_ready()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            os.write(client.into, bytes([pause.randrange(97, 123)]))
            read_exactly(client.out, 1)
            shown += 1
            time.sleep(pause.uniform(0.1, 0.3))
    finally:
        client.close()
    per_hour = 3600 / seconds / 1e6
    return settled(servers, before) * per_hour, shown * per_hour


def quietly(servers, command):
    code = subprocess.run(servers.ssh("sandglass", "-T", command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False).returncode
    if code != 0:
        raise BenchError(f"ssh ended with {code}")


def settled(servers, before):
    """Bytes stored since, once nothing more comes."""
    last, since, limit = servers.stored(), time.monotonic(), time.monotonic() + 30
    while time.monotonic() - since < 3:
        if time.monotonic() > limit:
            raise BenchError("the recording is not closed after 30 s")
        time.sleep(0.2)
        now = servers.stored()
        if now != last:
            last, since = now, time.monotonic()
    return last - before
