"""From `kubectl apply` to the first command's output, on the real cluster: a DebugSession and ssh against a bare pod and
`kubectl exec`. Runs inside e2e/cluster/enter (python3 cluster.py COUNT) and prints turns as JSON, each a few seconds by name.

Each side is what its users do. `kubectl exec` into a pod that is not ready fails, so the bare pod takes three commands, one
after the other: `kubectl apply`, `kubectl wait` (a watch, which returns with the event and does not poll), `kubectl exec`.
`ssh` to a session that is not open yet waits at the gateway, so `shell` is `kubectl apply` and `ssh`; `shell_once_open` has
`kubectl wait` for `Open` between them. The same image on the same node, already there; the sides take turns, whose order
rotates, nothing of the one before is left when one begins, and the first turn is thrown away. The session does more on the
way than the bare pod: admission policies, a user namespace, an image volume, the agent's link, and the proof that its network
is closed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from client import kubectl, remember_gateway, run

NAMESPACE = "sandglass-bench"
IMAGE = "local.test/ci-build:1"
SAY = "echo first"


def manifest(kind, version, name, spec):
    return json.dumps({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec})


def heard(output):
    if output.strip() != "first":
        sys.exit(f"the command answered {output!r}")


def bare_pod(name, _):
    text = manifest("Pod", "v1", name, {
        "terminationGracePeriodSeconds": 1, "tolerations": [{"operator": "Exists"}],
        "containers": [{"name": "shell", "image": IMAGE, "command": ["sleep", "3600"]}]})
    began = time.monotonic()
    kubectl("apply", "-f", "-", stdin=text)
    kubectl("wait", "--for=condition=Ready", f"pod/{name}", "-n", NAMESPACE, "--timeout=60s")
    heard(kubectl("exec", name, "-n", NAMESPACE, "--", "sh", "-c", SAY))
    took = time.monotonic() - began
    kubectl("delete", "pod", name, "-n", NAMESPACE, "--now", "--timeout=60s")
    return took


def shell(name, folder):
    return debug_session(name, folder, waits=False)


def shell_once_open(name, folder):
    return debug_session(name, folder, waits=True)


def wait_for_open(name):
    kubectl("wait", "--for=condition=Open", f"debugsession/{name}", "-n", NAMESPACE, "--timeout=60s")


def debug_session(name, folder, waits):
    with open(f"{folder}/id.pub", encoding="utf-8") as file:
        key = file.read().strip()
    text = manifest("DebugSession", "sandglass.dev/v1alpha1", name, {
        "source": {"image": IMAGE}, "ttl": "5m", "requester": "bench", "access": {"authorizedKeys": [key]}})
    began = time.monotonic()
    kubectl("apply", "-f", "-", stdin=text)
    if not os.path.exists(f"{folder}/known_hosts"):  # in the turn that is thrown away: it is the same for all sessions
        wait_for_open(name)
        remember_gateway("debugsession", name, NAMESPACE, folder)
    if waits:
        wait_for_open(name)
    heard(run("ssh", "-F", f"{folder}/ssh_config", f"{NAMESPACE}.{name}@gateway", SAY))
    took = time.monotonic() - began
    uid = kubectl("get", "debugsession", name, "-n", NAMESPACE, "-o", "jsonpath={.metadata.uid}")
    kubectl("delete", "debugsession", name, "-n", NAMESPACE, "--timeout=60s")
    kubectl("wait", "--for=delete", "pod", "-n", "sandglass-debug", "-l", f"sandglass.dev/owner-uid={uid}", "--timeout=60s")
    return took


def clean():
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s")


def main():
    count = int(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the namespace goes in any case
    folder = tempfile.mkdtemp(prefix="sandglass-bench-")
    try:
        clean()
        kubectl("create", "namespace", NAMESPACE)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{folder}/id")
        turns, sides = [], [shell, bare_pod, shell_once_open]
        for number in range(count + 1):
            print(f"turn {number} of {count}", file=sys.stderr, flush=True)
            turns.append({side.__name__: side(f"{side.__name__}-{number}".replace("_", "-"), folder) for side in sides})
            sides = sides[1:] + sides[:1]
        print(json.dumps(turns[1:]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false"], capture_output=True, check=False)


if __name__ == "__main__":
    main()
