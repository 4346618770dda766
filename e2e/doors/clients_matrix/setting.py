"""What every client is given: the sessions, keys, host keys, a megabyte to carry; and how a program is run and what it said is read."""

import fcntl
import hashlib
import json
import os
import pty
import random
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import time

MEGABYTE = 1 << 20
# Columns of the table, in order.
COMMAND, DATA, FILES, TERMINAL, FORWARD, WRONG_KEY = "command", "1 MiB", "files", "terminal", "forward", "wrong host key"
COLUMNS = (COMMAND, DATA, FILES, TERMINAL, FORWARD, WRONG_KEY)


class Failed(Exception):
    """A client did not do what it should; the message says what was seen."""


class NotTried(Exception):
    """This machine cannot run the client; the message says why."""


def check(truth, text):
    if not truth:
        raise Failed(text)


def last_line(text):
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1] if lines else "(nothing)"


class Place:
    """One session, as its status tells how to get there."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as stream:
            connection = json.load(stream)
        self.host, self.port, self.user = connection["host"], int(connection["port"]), connection["user"]
        self.at = f"{self.user}@{self.host}"


class Setting:
    """The folder of the run and everything in it. Programs that are started end with it."""

    def __init__(self, folder):
        self.folder = folder
        self.open, self.closed, self.over = (Place(self.path(f"{name}.json")) for name in ("open", "closed", "over"))
        self.key = self.path("keys", "id_ed25519")
        self.known_hosts, self.wrong_known_hosts = self.path("known_hosts"), self.path("wrong_known_hosts")
        self.running = set()
        os.makedirs(self.path("home", ".ssh"), mode=0o700, exist_ok=True)
        self.blob = self.path("blob")
        with open(self.blob, "wb") as stream:
            stream.write(random.Random(1).randbytes(MEGABYTE))
        self.sum = self.sum_of(self.blob)
        self._write_wrong_host_key()

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def scratch(self, name):
        """A folder of one client."""
        path = self.path("scratch", name)
        os.makedirs(path, exist_ok=True)
        return path

    def home(self, name, known_hosts=None):
        """A home folder of one client, with a known_hosts in the usual place; gives the environment to run with."""
        path = self.path("homes", name)
        os.makedirs(os.path.join(path, ".ssh"), mode=0o700, exist_ok=True)
        if known_hosts is not None:
            with open(os.path.join(path, ".ssh", "known_hosts"), "w", encoding="utf-8") as stream:
                stream.write(known_hosts)
        return {"HOME": path}

    def host_key(self, wrong=False):
        """Type and key of the gateway, or of somebody else."""
        with open(self.wrong_known_hosts if wrong else self.known_hosts, encoding="utf-8") as stream:
            return stream.readline().split()[1:3]

    def fingerprint(self):
        shown = self.ran(["ssh-keygen", "-l", "-f", self.known_hosts])
        return shown.split()[1]

    def _write_wrong_host_key(self):
        other = self.path("other_host_key")
        if not os.path.exists(other):
            self.ran(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other])
        with open(other + ".pub", encoding="utf-8") as stream:
            kind, key = stream.read().split()[:2]
        with open(self.wrong_known_hosts, "w", encoding="utf-8") as stream:
            stream.write(f"[{self.open.host}]:{self.open.port} {kind} {key}\n")

    # --- programs ---------------------------------------------------------------------------

    def start(self, command, environment=None, **options):
        """A program in a process group of its own; `ended` must be called with it."""
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        process = subprocess.Popen(command, env={**os.environ, **(environment or {})}, start_new_session=True, **options)
        self.running.add(process)
        return process

    def ended(self, process):
        """Ends a program and everything in its group, by its number."""
        if process in self.running:
            self.running.discard(process)
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, number)
                    process.wait(2)
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    pass
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream:
                    stream.close()

    def end_all(self):
        for process in list(self.running):
            self.ended(process)

    def run(self, command, input=b"", environment=None, limit=40):
        """Runs a program to its end: its status, and what it wrote to both streams, as bytes."""
        process = self.start(command, environment, stdin=subprocess.PIPE)
        try:
            out, error = process.communicate(input, timeout=limit)
        except subprocess.TimeoutExpired as failure:
            heard = (failure.stdout or b"") + (failure.stderr or b"")
            raise Failed(f"{command[0]} did not end within {limit} s: {last_line(heard.decode(errors='replace'))}") from failure
        finally:
            self.ended(process)
        return subprocess.CompletedProcess(command, process.returncode, out, error)

    def at_terminal(self, command, environment=None, limit=40):
        """Runs a program at a terminal of its own, at which nobody types: its status, and what the terminal showed."""
        ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        process = self.start(command, environment, stdin=its, stdout=its, stderr=its)
        os.close(its)
        shown, end = bytearray(), time.monotonic() + limit
        try:
            while select.select([ours], [], [], max(0.0, end - time.monotonic()))[0]:
                try:
                    part = os.read(ours, 65536)
                except OSError:  # EIO: nobody has the other end any more
                    break
                shown += part
            else:
                raise Failed(f"{command[0]} did not end within {limit} s: {last_line(shown.decode(errors='replace'))}")
            return process.wait(5), shown.decode(errors="replace")
        finally:
            os.close(ours)
            self.ended(process)

    def ran(self, command, input=b"", environment=None, limit=40, status=0):
        """Runs a program that must end with this status; gives its standard output as text."""
        done = self.run(command, input, environment, limit)
        if done.returncode != status:
            said = last_line((done.stdout + done.stderr).decode(errors="replace"))
            raise Failed(f"{os.path.basename(command[0])} ended with {done.returncode} instead of {status}: {said}")
        return done.stdout.decode(errors="replace")

    def refused(self, command, words, input=b"", environment=None, limit=40):
        """Runs a program that must fail and say this; gives the line in which it does."""
        done = self.run(command, input, environment, limit)
        said = (done.stdout + done.stderr).decode(errors="replace")
        check(done.returncode != 0, f"{command[0]} was let through")
        return self.line_with(said, words)

    def line_with(self, said, words):
        for line in said.replace("\r", "\n").splitlines():
            if words in line:
                return self.without_names(line.strip())
        raise Failed(f"it did not say '{words}', but: {last_line(said)}")

    def without_names(self, text):
        """The same text in every run: no names of this run's sessions, no numbers of channels."""
        text = re.sub(r"\bchannel \d+\b", "channel N", text)
        for place in (self.open, self.closed, self.over):
            text = text.replace(place.user, "ci.build-42")
        text = text.replace(self.folder, "…")
        text = re.sub(rf"\bport {self.open.port}\b", "port 22", text)
        return re.sub(rf"\[?{re.escape(self.open.host)}\]?(:{self.open.port})?", "debug.example.com", text)

    def version(self, command, pattern):
        done = self.run(command)
        found = re.search(pattern, (done.stdout + done.stderr).decode(errors="replace"))
        check(found, f"no version in what {command[0]} says")
        return found.group(1)

    # --- conditions -------------------------------------------------------------------------

    @staticmethod
    def sum_of(path):
        with open(path, "rb") as stream:
            return hashlib.sha256(stream.read()).hexdigest()

    def same(self, data):
        check(hashlib.sha256(data).hexdigest() == self.sum, f"{len(data)} bytes came back, and not those that were sent")

    def same_file(self, path):
        check(os.path.exists(path), f"{os.path.basename(path)} did not come back")
        check(self.sum_of(path) == self.sum, f"{os.path.basename(path)} came back changed")

    @staticmethod
    def eventually(what, condition, limit=20):
        end = time.monotonic() + limit
        while not (outcome := condition()):
            if time.monotonic() > end:
                raise Failed(f"waited {limit} s in vain for {what}")
            time.sleep(0.05)
        return outcome

    @staticmethod
    def free_port():
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            return listener.getsockname()[1]

    @staticmethod
    def listens(port):
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0
