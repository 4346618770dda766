"""Who makes the numbers: a user with sessions and, where there is a machine, a recovery. Runs inside e2e/cluster/enter."""

import base64
import json
import os
import pathlib
import subprocess
import urllib.error
import urllib.request

from monitoring_server import Failed, kubectl, until

TOP = pathlib.Path(__file__).resolve().parents[2]
STATE = pathlib.Path(os.environ.get("SANDGLASS_E2E_STATE", "/var/lib/sandglass-e2e"))
NAMESPACE = f"monitoring-{os.getpid()}"


def call(*command, stdin="", fails=False):
    done = subprocess.run([str(word) for word in command], input=stdin, capture_output=True, text=True, timeout=60, check=False)
    if (done.returncode != 0) != fails:
        raise Failed(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-1000:]}")
    return done


class User:
    """Opens sessions and uses them, with the ordinary clients and a key of its own."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("key", "strange"):
            call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", folder / name)
        kubectl("create", "namespace", NAMESPACE)
        for role in ("requester", "breakglass"):
            kubectl("create", "rolebinding", role, "-n", NAMESPACE, f"--clusterrole=sandglass-{role}", "--user=monitoring")

    @staticmethod
    def leave():
        kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false")

    def create(self, kind, name, **spec):
        """Creates it, and returns the words behind `ssh` once it is open."""
        access = {"authorizedKeys": [(self.folder / "key.pub").read_text().strip()], **spec.pop("access", {})}
        spec = {"ttl": "10m", "requester": "monitoring", "reason": "numbers for the dashboard", "access": access, **spec}
        whole = {"apiVersion": "sandglass.dev/v1alpha1", "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}
        kubectl("apply", "--as=monitoring", "-f", "-", stdin=json.dumps(whole))
        kubectl("wait", "--for=condition=Open", kind, name, "-n", NAMESPACE, "--timeout=90s", "--request-timeout=100s")
        connection = json.loads(kubectl("get", kind, name, "-n", NAMESPACE, "-o", "json"))["status"]["connection"]
        (self.folder / "known_hosts").write_text("\n".join(connection["knownHosts"]) + "\n")
        return connection["command"].split()[1:]

    def open(self, name):
        limits = {"cpu": "500m", "memory": "128Mi", "ephemeral-storage": "256Mi"}
        source, access = {"image": "local.test/ci-build:1"}, {"allow": ["Sftp", "LocalForward"]}
        project = f"{NAMESPACE}-{name}"  # of its own: both are live at once
        return self.create("DebugSession", name, source=source, project=project, access=access, resources={"limits": limits})

    @staticmethod
    def end(name):
        kubectl("patch", "debugsession", name, "-n", NAMESPACE, "--type=merge", "-p", '{"spec":{"end":true}}')

    def options(self, key="key"):
        given = ["BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes", "LogLevel=ERROR", f"UserKnownHostsFile={self.folder}/known_hosts"]
        return ["-F", "none", "-i", self.folder / key, *(word for option in given for word in ("-o", option))]

    def ssh(self, connection, *words, **others):
        return call("ssh", *self.options(), *connection, *words, **others)

    def use(self, connection):
        """A command with input and output, a shell, a transfer, a forward."""
        self.ssh(["-T", *connection], "cat; seq 5000", stdin="typed\n" * 100)
        self.ssh(["-tt", *connection], stdin="echo in a shell\nexit\n")
        # sftp calls the port by another letter.
        call("sftp", *self.options(), "-b", "-", *("-P" if word == "-p" else word for word in connection), stdin="ls /workspace\n")
        # Nobody listens there: the channel is opened, and the session's pod says so.
        self.ssh(["-W", "127.0.0.1:9", *connection], fails=True)

    def stay(self, connection):
        command = [str(word) for word in ("ssh", *self.options(), "-T", *connection, "cat")]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def be_refused(self, connection):
        said = call("ssh", *self.options("strange"), "-T", *connection, "true", fails=True).stderr
        if "Permission denied" not in said:
            raise Failed(f"a strange key was not refused, but: {said}")


class Machine:
    """The machine of e2e/vm/targets, and what lies in Vault for it: a role of its own, gone with it."""

    def __init__(self, user):
        self.user, self.name = user, NAMESPACE

    @staticmethod
    def is_up():
        files = ("vm/host_key.pub", "vm/hypervisor_host_key.pub", "vm/qmp.sock", "vault/ca.crt")
        return all((STATE / file).exists() for file in files)

    @staticmethod
    def vault(*arguments, **others):
        return call(TOP / "e2e/vault/server", "bao", *arguments, **others)

    def prepare(self):
        """The two keys, and the role that may read them and nothing else."""
        for key in ("target_key", "hypervisor_key"):
            held = json.dumps({"private_key": (STATE / "vm" / key).read_text()})
            self.vault("kv", "put", "-mount=secret", f"{self.name}/{key}", "-", stdin=held)
        paths = {f"secret/data/{self.name}/{key}": "read" for key in ("target_key", "hypervisor_key")}
        paths |= {"sys/capabilities-self": "update", "auth/token/revoke-self": "update"}
        policy = "".join(f'path "{path}" {{ capabilities = ["{verb}"] }}\n' for path, verb in paths.items())
        self.vault("policy", "write", self.name, "-", stdin=policy)
        role = {
            "bound_service_account_names": [f"{NAMESPACE}.{self.name}"],
            "bound_service_account_namespaces": ["sandglass-vm"],
            "audience": "vault",
            "token_policies": [self.name],
            "token_no_default_policy": True,
            "token_ttl": "2m",
            "token_num_uses": 6,
        }
        self.vault("write", f"auth/kubernetes/role/{self.name}", "-", stdin=json.dumps(role))

    def open(self):
        self.prepare()

        def host_key(name):
            return [" ".join((STATE / "vm" / name).read_text().split()[:2])]

        def kept(key):
            return {"kv": {"mount": "secret", "path": f"{self.name}/{key}", "field": "private_key"}}

        return self.user.create(
            "BreakglassVM",
            "machine",
            target={"address": "10.244.0.250", "user": "breakglass", "hostKeys": host_key("host_key.pub")},
            hypervisor={
                "address": "10.244.0.1",
                "port": 2201,
                "user": "power",
                "hostKeys": host_key("hypervisor_host_key.pub"),
                "vm": "devvm",
                "verbs": ["Status"],
            },
            vault={
                "address": "https://10.244.0.1:8200",
                "caBundle": (STATE / "vault/ca.crt").read_text(),
                "role": self.name,
                "targetKey": kept("target_key"),
                "hypervisorKey": kept("hypervisor_key"),
            },
        )

    def power(self, connection, verb):
        """How it ended."""
        return json.loads(self.user.ssh(["-T", *connection], f"power {verb}").stdout)["state"]

    def leave(self):
        self.vault("delete", f"auth/kubernetes/role/{self.name}")
        self.vault("policy", "delete", self.name)
        for key in ("target_key", "hypervisor_key"):
            self.vault("kv", "metadata", "delete", "-mount=secret", f"{self.name}/{key}")


DOOR = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
components: [{component}]
images: [{{ name: sandglass, newName: local.test/sandglass, newTag: e2e }}]
generatorOptions: {{ disableNameSuffixHash: true }}
configMapGenerator: [{{ name: sandglass-provision, namespace: sandglass-system, files: [sandglass.yaml] }}]
patches:
  - target: {{ kind: Deployment }}
    patch: |
      - {{ op: replace, path: /spec/replicas, value: 1 }}
      - {{ op: replace, path: /spec/template/spec/containers/0/resources/requests, value: {{ cpu: 10m, memory: 32Mi }} }}
      - {{ op: replace, path: /spec/template/spec/volumes/0/configMap/name, value: sandglass-provision }}
"""


class Door:
    """The door for CI outside the cluster, with an issuer that is never there, and a job of it."""

    ISSUER = "https://127.0.0.1:9"

    def __init__(self, folder):
        self.folder = folder / "door"

    def install(self):
        def found():
            return kubectl("get", "deployment", "sandglass-provision", "-n", "sandglass-system", "--ignore-not-found", "-o", "name").strip()

        until("the cluster to have no sandglass-provision of its own", lambda: not found(), 30)
        self.folder.mkdir()
        settings = kubectl("get", "configmap", "sandglass", "-n", "sandglass-system", "-o", r"jsonpath={.data.sandglass\.yaml}")
        issuer = {"name": "away", "url": self.ISSUER, "audience": "sandglass", "fetchInterval": "1s"}
        rule = {"issuer": "away", "claims": {"repository_owner_id": "7"}, "namespace": NAMESPACE, "requester": "{actor}"}
        part = json.dumps({"issuers": [issuer], "rules": [rule]})
        (self.folder / "sandglass.yaml").write_text(f"{settings}\nprovisioning: {part}\n")
        component = os.path.relpath(TOP / "manifests/provisioning", self.folder.resolve())
        (self.folder / "kustomization.yaml").write_text(DOOR.format(component=component))
        kubectl("apply", "--server-side", "--force-conflicts", "-k", self.folder)
        kubectl("rollout", "status", "deployment/sandglass-provision", "-n", "sandglass-system", "--timeout=90s", "--request-timeout=100s")

    def leave(self):
        if (self.folder / "kustomization.yaml").exists():
            kubectl("delete", "-k", self.folder, "--ignore-not-found", "--wait=false")

    def ask(self, address):
        """A job that comes with a token of the issuer, and must be told to come again: nobody can say whether it is good."""
        parts = ({"alg": "RS256", "typ": "JWT", "kid": "any"}, {"iss": self.ISSUER, "aud": "sandglass", "exp": 4102444800})
        token = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (*parts, "signature"))
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{address}:8090/v1/debugsessions", b"{}", headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                raise Failed(f"the door let a job in: {answer.status}")
        except urllib.error.HTTPError as refusal:
            said = json.load(refusal)
            if refusal.code != 503 or not said["type"].endswith("/issuer-unavailable"):
                raise Failed(f"the door said {refusal.code}: {said}") from None
