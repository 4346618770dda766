"""The two servers that are compared, on loopback: OpenSSH's sshd, and `sandglass gateway` with `sandglass-agent`.

Both run commands as root with /bin/sh as its shell and an empty home. No account is made for it: both servers see, in a mount
namespace of their own, another /etc/passwd. Root is the kinder choice to sshd, which for other users keeps a second process
per connection.
"""

import datetime
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import processes
from processes import BenchError

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = ("sandglass", "sshd")
SSHD = "/usr/sbin/sshd"
STORE = f"{os.path.dirname(HERE)}/store/s3"
POD_UID = "11111111-2222-3333-4444-555555555555"
TOKEN = "token-of-the-pod"
# What `kubectl sandglass server-config` puts first; and what OpenSSH's client asks for first when it is told nothing.
CIPHER, CHACHA20 = "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"
KEY_EXCHANGE = "curve25519-sha256"
# $1: the other /etc/passwd. What follows is the command.
IN_NAMESPACE = 'mount --bind "$1" /etc/passwd && shift && exec "$@"'


def free_ports(count):
    """Ports of loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def free_ports_in_a_row(count):
    """The first of so many ports that nobody listens on."""
    for first in range(18500, 30000, count):
        try:
            for port in range(first, first + count):
                with socket.socket() as one:
                    one.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise BenchError("no ten ports in a row are free")


def quiet(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()}")


def check_machine():
    """Refuses with one line what would fail later with many."""
    if os.geteuid() != 0:
        raise BenchError("root is needed, to start sshd and to give it a mount namespace. Cure: run it with sudo")
    needed = (SSHD, "openssh-server"), ("ssh", "openssh-client"), ("ssh-keygen", "openssh-client"), ("openssl", "openssl"), ("unshare", "util-linux")
    missing = sorted({package for program, package in needed if not shutil.which(program)})
    if missing:
        raise BenchError(f"missing: {' '.join(missing)}. Cure: apt-get install {' '.join(missing)} (no service of it is needed)")


class Servers:
    """Both servers, running; `ssh(NAME, …)` is the command line of a client."""

    def __init__(self, folder, programs, recorded=False):
        self.recorded = recorded
        self.folder = folder
        self.gateway_program = f"{programs}/release/sandglass"
        self.agent_program = f"{programs}/agent/sandglass-agent"
        self.made_run_folder = False
        self.running = {}
        self.ports = dict(zip(("sshd", "sandglass", "link", "health"), free_ports(4)))
        self.store_port = free_ports_in_a_row(10) if recorded else 0

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text, mode=0o600):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(self.path(name), mode)

    def read(self, name):
        with open(self.path(name), encoding="utf-8") as file:
            return file.read()

    def launch(self, name, command, **options):
        with open(self.path(f"{name}.log"), "wb") as log:
            self.running[name] = processes.start(command, stdin=subprocess.PIPE, stdout=options.pop("stdout", log), stderr=log, **options)
        return self.running[name]

    def in_namespace(self, *command):
        """A command that keeps its process id and sees the other /etc/passwd."""
        return ["unshare", "--mount", "/bin/sh", "-c", IN_NAMESPACE, "sh", self.path("passwd"), *command]

    def start(self):
        os.chmod(self.folder, 0o755)  # sshd looks at the way to authorized_keys
        for folder in ("home", "keys", "run"):
            os.makedirs(self.path(folder), exist_ok=True)
        with open("/etc/passwd", encoding="utf-8") as file:
            others = [line for line in file if line.split(":")[2:3] != ["0"]]
        self.write("passwd", f"root:x:0:0:root:{self.path('home')}:/bin/sh\n{''.join(others)}", 0o644)
        for name in ("id", "sshd_host_key", "keys/ssh_host_ed25519_key", "keys/recording_ed25519_key"):
            quiet("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f", self.path(name))
        self.start_sshd()
        self.start_sandglass()
        self.write_client_configuration()
        for name in NAMES:
            self.log_in_once(name)

    def start_sshd(self):
        if not os.path.isdir("/run/sshd"):
            os.mkdir("/run/sshd", 0o755)
            self.made_run_folder = True
        shutil.copy(self.path("id.pub"), self.path("authorized_keys"))
        self.write("sshd_config", "\n".join([
            f"Port {self.ports['sshd']}", "ListenAddress 127.0.0.1", f"HostKey {self.path('sshd_host_key')}", "PidFile none",
            f"AuthorizedKeysFile {self.path('authorized_keys')}", "StrictModes no", "PermitRootLogin prohibit-password", "UsePAM no",
            "PasswordAuthentication no", "KbdInteractiveAuthentication no", "UseDNS no", "PrintMotd no", "PrintLastLog no",
            "MaxStartups 256:30:512", "Subsystem sftp internal-sftp", "LogLevel ERROR", ""]))
        self.launch("sshd", self.in_namespace(SSHD, "-D", "-e", "-f", self.path("sshd_config")))

    def start_sandglass(self):
        quiet("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
              "-subj", "/CN=bench link CA", "-keyout", self.path("keys/link-ca.key"), "-out", self.path("keys/link-ca.crt"))
        self.write("session.json", json.dumps(session(self.read("id.pub").strip())))
        api = self.launch("api", [sys.executable, f"{HERE}/api.py", self.path("session.json"), TOKEN, POD_UID], stdout=subprocess.PIPE)
        port = int(api.stdout.readline() or 0)
        self.write("kubeconfig", json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "bench", "user": {}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}]}))
        recording = self.start_store() if self.recorded else "mode: Off"
        self.write("sandglass.yaml", f"gateway: {{ host: 127.0.0.1 }}\nsessions: {{ agentImage: none }}\nrecording: {{ {recording} }}\n")
        at = {name: f"127.0.0.1:{port}" for name, port in self.ports.items()}
        environment = {"PATH": os.environ.get("PATH", ""), "KUBECONFIG": self.path("kubeconfig"), "RUST_LOG": "warn"}
        self.launch("gateway", [self.gateway_program, "gateway", "--config", self.path("sandglass.yaml"), "--keys-dir", self.path("keys"),
                                "--ssh", at["sandglass"], "--link", at["link"], "--advertise", "127.0.0.1", "--health", at["health"]], env=environment)
        self.await_port("gateway", "link")
        self.write("token", TOKEN)
        settings = {
            "links": [at["link"]], "certificateAuthority": self.read("keys/link-ca.crt"), "mustBeClosed": [], "expiresAt": moment(3600),
            "remainingSeconds": 3600, "environment": [], "strippedEnvironment": [], "knownHosts": [], "tools": False,
            "tokenPath": self.path("token"), "runFolder": self.path("run")}
        environment = {"PATH": os.environ.get("PATH", ""), "SANDGLASS_AGENT": json.dumps(settings)}
        self.launch("agent", self.in_namespace(self.agent_program, "serve"), env=environment)

    def start_store(self):
        """A real S3 server; what the configuration says of it."""
        quiet(STORE, "install")
        environment = {**os.environ, "HOME": os.environ.get("HOME", "/root")}
        self.launch("store", [STORE, "run", self.path("s3"), "127.0.0.1", str(self.store_port)], env=environment)
        limit = time.monotonic() + 60
        while not os.path.exists(self.path("s3/ready")):
            if self.running["store"].poll() is not None or time.monotonic() > limit:
                raise BenchError(f"the S3 server does not come up: {self.last_words('store')}")
            time.sleep(0.05)
        os.makedirs(self.path("store"), exist_ok=True)
        for source, name in (("access-key", "access-key-id"), ("secret-key", "secret-access-key")):
            shutil.copy(self.path(f"s3/{source}"), self.path(f"store/{name}"))
        return (f"store: {{ s3: {{ bucket: recordings, endpoint: 'http://127.0.0.1:{self.store_port}', allowHttp: true, "
                f"credentials: '{self.path('store')}' }} }}")

    def stored(self):
        """Bytes that the gateway has stored since its start."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['health']}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("sandglass_recording_bytes_total "))

    def await_port(self, name, port):
        limit = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.ports[port]), 1).close()
                return
            except OSError:
                if self.running[name].poll() is not None or time.monotonic() > limit:
                    raise BenchError(f"{name} does not listen: {self.last_words(name)}") from None
                time.sleep(0.02)

    def last_words(self, name):
        with open(self.path(f"{name}.log"), encoding="utf-8", errors="replace") as file:
            return " | ".join(line.strip() for line in file.readlines()[-3:]) or "it said nothing"

    def write_client_configuration(self):
        hosts = {"sandglass": ("ci.build-42", "keys/ssh_host_ed25519_key.pub"), "sshd": ("root", "sshd_host_key.pub")}
        lines, known = [], []
        for name, (user, key) in hosts.items():
            lines += [f"Host {name}", f"  Port {self.ports[name]}", f"  User {user}"]
            known.append(f"[127.0.0.1]:{self.ports[name]} {' '.join(self.read(key).split()[:2])}\n")
        lines += [
            "Host *", "  HostName 127.0.0.1", f"  IdentityFile {self.path('id')}", "  IdentitiesOnly yes", "  IdentityAgent none",
            "  BatchMode yes", f"  UserKnownHostsFile {self.path('known_hosts')}", "  GlobalKnownHostsFile none", "  StrictHostKeyChecking yes",
            f"  Ciphers {CIPHER},{CHACHA20}", f"  KexAlgorithms {KEY_EXCHANGE}", "  HostKeyAlgorithms ssh-ed25519", "  Compression no",
            "  UpdateHostKeys no", "  ControlMaster no", "  ControlPath none", "  LogLevel ERROR",
            # From OpenSSH 9.5 keystrokes wait for a clock of 20 ms, which would hide what is measured.
            "  IgnoreUnknown ObscureKeystrokeTiming", "  ObscureKeystrokeTiming no", ""]
        self.write("ssh_config", "\n".join(lines))
        self.write("known_hosts", "".join(known))

    def ssh(self, name, *arguments):
        return ["ssh", "-F", self.path("ssh_config"), *arguments[:-1], name, arguments[-1]] if arguments else ["ssh", "-F", self.path("ssh_config"), name]

    def log_in_once(self, name):
        """Waits until a login works, and sees that the right program answers it."""
        limit = time.monotonic() + 15
        while True:
            done = subprocess.run(self.ssh(name, "echo $0 $HOME"), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
            if done.returncode == 0:
                break
            if time.monotonic() > limit:
                logs = " || ".join(f"{each}: {self.last_words(each)}" for each in self.running)
                raise BenchError(f"no login at {name}: {done.stderr.strip()} || {logs}")
            time.sleep(0.1)
        shell, _, home = done.stdout.strip().partition(" ")
        if os.path.basename(shell) != "sh" or home != self.path("home"):
            raise BenchError(f"{name} runs commands with {shell} in {home}, not with sh in the bench's own home")

    def processes(self, name):
        """All processes of one server, without the programs it runs for users."""
        if name == "sshd":
            return {each for each in processes.tree(self.running["sshd"].pid) if os.path.basename(processes.program(each)) in ("sshd", "sshd-session", "sshd-auth")}
        agent = os.path.realpath(self.agent_program)
        found = {each for each in processes.tree(self.running["agent"].pid) if processes.program(each) == agent}
        return found | {self.running["gateway"].pid}

    def memory(self, name):
        """kB of a server's processes."""
        return processes.pss(self.processes(name))

    def cpu(self, name):
        """Seconds of CPU that each of a server's processes has used."""
        return processes.cpu(self.processes(name))

    def stop(self):
        for name in ("agent", "gateway", "sshd", "api", "store"):
            if name in self.running:
                processes.end(self.running[name])
        if self.made_run_folder:
            try:
                os.rmdir("/run/sshd")
            except OSError:
                pass


def moment(seconds):
    """So many seconds from now, as Kubernetes writes times."""
    return (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def session(key):
    """An open session whose pod is our agent."""
    return {
        "apiVersion": "sandglass.dev/v1alpha1", "kind": "DebugSession",
        "metadata": {"name": "build-42", "namespace": "ci", "uid": "uid-of-build-42", "creationTimestamp": moment(0)},
        "spec": {"source": {"image": "none"}, "ttl": "1h", "requester": "octocat", "access": {"authorizedKeys": [key]}},
        "status": {"phase": "Open", "pod": {"namespace": "sandglass-debug", "name": "ci-build-42", "uid": POD_UID}}}
