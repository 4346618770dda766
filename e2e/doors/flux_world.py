"""What the Flux story is played on: a Git server, the two controllers of Flux as processes of this machine, a watch that forgets
nothing, and the calls to the cluster. Runs inside e2e/cluster/enter; takes down what it put up.
"""

import http.server
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
NODE = "10.244.0.1"
CACHE = os.environ.get("SANDGLASS_E2E_CACHE", os.path.expanduser("~/.cache/sandglass-e2e"))
PROGRAMS = os.environ.get("DOORS_BIN", f"{CACHE}/bin")
# Where Flux has its own objects.
FLUX = "gitops-flux"
BOXES = ("sandglass-debug", "sandglass-vm")
FLUX_KINDS = ("kustomizations.kustomize.toolkit.fluxcd.io", "gitrepositories.source.toolkit.fluxcd.io")
TERMINAL = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


class Failed(Exception):
    """A sentence that is not so; the message says what was seen instead."""


def painted(code, text):
    return f"\x1b[{code}m{text}\x1b[0m" if TERMINAL else text


def good(sentence):
    print(f"      {painted(32, 'ok')}  {sentence}", flush=True)


def fact(text):
    print(painted(2, f"      {text}"), flush=True)


def hold(is_so, seen):
    if not is_so:
        raise Failed(seen() if callable(seen) else str(seen))


def until(what, check, seconds, seen=None):
    """Waits until `check` returns something true, and returns it."""
    end = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > end:
            raise Failed(f"waited {seconds} s in vain for: {what}" + (f"\nseen: {seen()}" if seen else ""))
        time.sleep(0.2)


def run(*command, stdin=None, environment=None, folder=None, check=True):
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, cwd=folder, timeout=120, check=False)
    if check and done.returncode:
        raise Failed(f"{' '.join(command[:4])}: exit status {done.returncode}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def kubectl(*arguments, stdin=None, check=True):
    # What waits has its own limit, which the limit of a request would cut short.
    limit = [] if any(argument.startswith("--timeout") for argument in arguments) else ["--request-timeout=20s"]
    return run("kubectl", *limit, *arguments, stdin=stdin, check=check)


def get(kind, name=None, namespace=None, selector=None):
    """One object, None where there is none; or a list."""
    arguments = ["get", kind, "-o", "json", "--ignore-not-found"]
    arguments += [name] if name else []
    arguments += ["-n", namespace] if namespace else [] if name else ["-A"]
    arguments += ["-l", selector] if selector else []
    text = kubectl(*arguments)
    found = json.loads(text) if text.strip() else None
    return found if name else (found or {}).get("items", [])


def apply(*objects):
    whole = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    kubectl("apply", "--server-side", "--force-conflicts", "--field-manager=gitops-test", "-f", "-", stdin=whole)


def condition(item, kind):
    found = [one for one in (item or {}).get("status", {}).get("conditions", []) if one["type"] == kind]
    return found[0] if found else {"status": "absent", "reason": "", "message": ""}


def is_true(item, kind):
    return condition(item, kind)["status"] == "True"


# --- a Git server ---------------------------------------------------------------------------------


class Repository:
    """A repository, served by Git's own program over smart HTTP; and a clone in which files are changed."""

    def __init__(self, folder):
        self.bare, self.clone = f"{folder}/served/access.git", f"{folder}/clone"
        quiet = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "HOME": folder, "PATH": os.environ["PATH"]}
        who = (("NAME", "test"), ("EMAIL", "test@example.com"))
        person = {f"GIT_{role}_{part}": value for role in ("AUTHOR", "COMMITTER") for part, value in who}
        self.environment = {**quiet, **person}
        run("git", "init", "-q", "--bare", "-b", "main", self.bare, environment=self.environment)
        run("git", "clone", "-q", self.bare, self.clone, environment=self.environment)
        server = self._handler(f"{folder}/served", quiet, run("git", "--exec-path").strip() + "/git-http-backend")
        self.server = http.server.ThreadingHTTPServer((NODE, 0), server)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://{NODE}:{self.server.server_port}/access.git"

    @staticmethod
    def _handler(root, quiet, program):
        class Handler(http.server.BaseHTTPRequestHandler):
            """Hands a request to git-http-backend, as the CGI standard (RFC 3875) says."""

            def do_GET(self):
                path, _, query = self.path.partition("?")
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                environment = {
                    **quiet, "GIT_PROJECT_ROOT": root, "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path, "QUERY_STRING": query,
                    "REQUEST_METHOD": self.command, "CONTENT_TYPE": self.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(len(body)),
                    "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""), "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                }
                done = subprocess.run([program], input=body, env=environment, capture_output=True, timeout=30, check=False)
                head, _, content = done.stdout.partition(b"\r\n\r\n")
                lines = [line.split(": ", 1) for line in head.decode().splitlines() if ": " in line]
                self.send_response(int(dict(lines).get("Status", "200").split()[0]))
                for name, value in lines:
                    if name != "Status":
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, *_):
                pass

        return Handler

    def commit(self, words, files):
        """Writes files (None removes one), pushes, and returns the commit."""
        for name, content in files.items():
            path = f"{self.clone}/{name}"
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if content is None:
                os.unlink(path)
            else:
                with open(path, "w", encoding="utf-8") as file:
                    file.write(content if isinstance(content, str) else json.dumps(content, indent=1))
        git = lambda *arguments: run("git", *arguments, folder=self.clone, environment=self.environment)
        git("add", "-A")
        git("commit", "-q", "-m", words)
        git("push", "-q", "origin", "main")
        return git("rev-parse", "HEAD").strip()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


# --- Flux -----------------------------------------------------------------------------------------


def module_folder(program):
    """The folder of a controller's module, in which its kinds are."""
    module = f"github.com/fluxcd/{program}"
    tools = f"{HERE}/tools/{program}"
    folder = run("go", "list", "-m", "-f", "{{.Dir}}", module, folder=tools).strip()
    return folder or json.loads(run("go", "mod", "download", "-json", module, folder=tools))["Dir"]


class Controllers:
    """source-controller and kustomize-controller, as processes of this machine."""

    PORTS = {"source-controller": 9790, "kustomize-controller": 9793}

    def __init__(self, folder):
        self.folder, self.running = folder, []
        for program in self.PORTS:
            missing = f"{PROGRAMS}/{program} is missing: build e2e/doors/tools/{program} first, or set DOORS_BIN"
            hold(os.access(f"{PROGRAMS}/{program}", os.X_OK), missing)
            kubectl("apply", "--server-side", "--force-conflicts", "-f", f"{module_folder(program)}/config/crd/bases")
        # `kubectl wait` fails on a kind so new that it has no conditions.
        known = lambda: all(is_true(get("crd", kind), "Established") for kind in FLUX_KINDS)
        until("the kinds of Flux to be known", known, 20)

    def start(self):
        storage = [f"--storage-path={self.folder}/artifacts", f"--storage-addr={NODE}:9790", f"--storage-adv-addr={NODE}:9790"]
        os.makedirs(f"{self.folder}/artifacts", exist_ok=True)
        own = {"source-controller": storage, "kustomize-controller": ["--no-remote-bases=true"]}
        for program, port in self.PORTS.items():
            flags = ["--events-addr=", "--enable-leader-election=false", "--log-level=info",
                     f"--metrics-addr=127.0.0.1:{port + 1}", f"--health-addr=127.0.0.1:{port + 2}"]
            with open(f"{self.folder}/{program}.log", "ab") as log:
                process = subprocess.Popen(
                    [f"{PROGRAMS}/{program}", *own[program], *flags], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                    env={**os.environ, "RUNTIME_NAMESPACE": FLUX, "TMPDIR": self.folder}, start_new_session=True)
            self.running.append((program, process))

    def alive(self):
        return all(process.poll() is None for _, process in self.running)

    def stop(self):
        for _, process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for _, process in self.running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.running = []

    def last_words(self):
        words = []
        for program in self.PORTS:
            try:
                with open(f"{self.folder}/{program}.log", encoding="utf-8", errors="replace") as log:
                    words += [f"--- {program}", *[line.rstrip()[:600] for line in log.readlines() if '"level":"error"' in line][-3:]]
            except OSError:
                pass
        return "\n".join(words)


class Flux:
    """A source and a Kustomization, and what they say."""

    def __init__(self, repository, name, path, **spec):
        self.name = name
        # The manifest that the project ships, with this test's source and shorter times.
        shipped = json.loads(kubectl("create", "--dry-run=client", "-o", "json", "-f", f"{TOP}/manifests/flux/access.yaml"))
        hold(shipped["spec"]["wait"] and shipped["spec"]["prune"], "manifests/flux/access.yaml neither waits nor prunes")
        shipped["metadata"] = {"name": name, "namespace": FLUX}
        shipped["spec"].update({"path": path, "interval": "10s", "retryInterval": "3s", "timeout": "90s"}, **spec)
        shipped["spec"]["sourceRef"]["name"] = name
        source = {
            "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository", "metadata": {"name": name, "namespace": FLUX},
            "spec": {"url": repository.url, "ref": {"branch": "main"}, "interval": "5s"},
        }
        apply(source, shipped)

    def get(self):
        return get("kustomizations.kustomize.toolkit.fluxcd.io", self.name, FLUX)

    def said(self):
        item = self.get()
        said = [(kind, condition(item, kind)) for kind in ("Ready", "Healthy")]
        return " / ".join(f"{kind}={one['status']} {one['reason']}: {one['message']}" for kind, one in said)

    def ask(self, kind):
        """Asks for a look at once, and returns the word by which the answer is known."""
        word = str(time.monotonic_ns())
        kubectl("annotate", "--overwrite", kind, self.name, "-n", FLUX, f"reconcile.fluxcd.io/requestedAt={word}")
        return word

    def ready_at(self, commit, seconds=60):
        """Waits until the Kustomization is ready with a commit."""
        self.ask(FLUX_KINDS[1])

        def check():
            item = self.get()
            return is_true(item, "Ready") and (item["status"].get("lastAppliedRevision") or "").endswith(commit) and item

        return until(f"the Kustomization to be ready at {commit[:8]}", check, seconds, self.said)

    def apply_again(self, times):
        """Has everything applied again; returns when each run was carried out and ended well."""
        for _ in range(times):
            word = self.ask(FLUX_KINDS[0])

            def check(word=word):
                item = self.get()
                return item["status"].get("lastHandledReconcileAt") == word and is_true(item, "Ready")

            until("another run of the Kustomization", check, 60, self.said)

    def delete(self):
        for kind in FLUX_KINDS:
            kubectl("delete", kind, self.name, "-n", FLUX, "--ignore-not-found", "--timeout=100s")


# --- what was ever there --------------------------------------------------------------------------


class Watch:
    """Everything that happened to the objects of a kind since it began, in order."""

    def __init__(self, kind, *arguments):
        self.kind, self.seen, self.lock = kind, [], threading.Lock()
        command = ["kubectl", "get", kind, *arguments, "--watch", "--output-watch-events", "-o", "json"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        for line in self.process.stdout:
            event = json.loads(line)
            with self.lock:
                self.seen.append((time.monotonic(), event["type"], event["object"]))

    def events(self):
        hold(self.process.poll() is None, f"the watch of {self.kind} broke: it can prove nothing any more")
        with self.lock:
            return list(self.seen)

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.thread.join(5)


def pods_of(watches, uid):
    """UIDs of every pod that ever belonged to an object."""
    pods = [item for watch in watches for _, _, item in watch.events()]
    return {pod["metadata"]["uid"] for pod in pods if pod["metadata"].get("labels", {}).get("sandglass.dev/owner-uid") == uid}


def belongings(namespace):
    """What there is in the isolated namespaces for objects of a namespace."""
    left = []
    for box in BOXES:
        for kind in ("pods", "serviceaccounts", "networkpolicies", "secrets", "configmaps"):
            for item in get(kind, namespace=box):
                owner = item["metadata"].get("annotations", {}).get("sandglass.dev/owner-namespace")
                if owner == namespace or item["metadata"]["name"].startswith(f"{namespace}."):
                    left.append(f"{kind}/{item['metadata']['name']} in {box}")
    return left


def scratch():
    return tempfile.mkdtemp(prefix="sandglass-flux-")
