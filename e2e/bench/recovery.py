"""From `kubectl apply` of a BreakglassVM to the first byte of a command on the machine, and what of it is the pod's start, Vault and
SSH: as the recovery pod's own log tells. Beside it the same command by plain ssh, with the key at hand. Runs inside
e2e/cluster/enter (python3 recovery.py COUNT), with e2e/vm/targets up, and prints a list of measurements in seconds as JSON.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime

from client import kubectl, remember_gateway, run

NAMESPACE = "sandglass-bench-vm"
STATE = os.environ.get("SANDGLASS_E2E_STATE", "/var/lib/sandglass-e2e")
TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SAY = "echo first"


def bao(*arguments, stdin=None):
    return run(f"{TOP}/e2e/vault/server", "bao", *arguments, stdin=stdin)


def state(path):
    with open(f"{STATE}/{path}", encoding="utf-8") as file:
        return file.read()


def prepare_vault():
    bao("kv", "put", "-mount=secret", "bench/target", "-", stdin=json.dumps({"key": state("vm/target_key")}))
    policy = "".join(f'path "{path}" {{ capabilities = ["{capability}"] }}\n' for path, capability in (
        ("secret/data/bench/target", "read"), ("sys/capabilities-self", "update"), ("auth/token/revoke-self", "update")))
    bao("policy", "write", "bench", "-", stdin=policy)
    bao("write", "auth/kubernetes/role/bench", "-", stdin=json.dumps({
        "bound_service_account_names": [f"{NAMESPACE}.bench"], "bound_service_account_namespaces": ["sandglass-vm"], "audience": "vault",
        "token_policies": ["bench"], "token_no_default_policy": True, "token_ttl": "2m"}))


def manifest(name, key):
    return json.dumps({
        "apiVersion": "sandglass.dev/v1alpha1", "kind": "BreakglassVM", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "target": {"address": "10.244.0.250", "user": "breakglass", "hostKeys": [" ".join(state("vm/host_key.pub").split()[:2])]},
            "vault": {"address": "https://10.244.0.1:8200", "caBundle": state("vault/ca.crt"), "role": "bench",
                      "targetKey": {"kv": {"mount": "secret", "path": "bench/target", "field": "key"}}},
            "ttl": "5m", "requester": "bench", "access": {"authorizedKeys": [key]}}})


def told(log, words):
    """The first log line with these words: its time and its milliseconds."""
    for line in log.splitlines():
        event = json.loads(line)
        fields = event.get("fields", event)
        if words in fields.get("message", ""):
            return datetime.fromisoformat(event["timestamp"].replace("Z", "+00:00")).timestamp(), float(fields.get("milliseconds", 0)) / 1000
    sys.exit(f"the recovery pod's log does not say {words!r}")


def recovery(name, folder):
    with open(f"{folder}/id.pub", encoding="utf-8") as file:
        text = manifest(name, file.read().strip())
    wall, began = time.time(), time.monotonic()
    kubectl("apply", "-f", "-", stdin=text)
    kubectl("wait", "--for=condition=Open", f"breakglassvm/{name}", "-n", NAMESPACE, "--timeout=60s")
    if not os.path.exists(f"{folder}/known_hosts"):
        remember_gateway("breakglassvm", name, NAMESPACE, folder)  # in the turn that is thrown away: it is the same for all
    if run("ssh", "-F", f"{folder}/ssh_config", f"{NAMESPACE}.{name}@gateway", SAY).strip() != "first":
        sys.exit("the machine answered something else")
    took = time.monotonic() - began
    uid = kubectl("get", "breakglassvm", name, "-n", NAMESPACE, "-o", "jsonpath={.metadata.uid}")
    log = kubectl("logs", "-n", "sandglass-vm", "-l", f"sandglass.dev/owner-uid={uid}", "--tail=-1")
    parts = {"pod_start": told(log, "started")[0] - wall, "vault": told(log, "keys fetched")[1], "ssh": told(log, "connected to")[1]}
    kubectl("delete", "breakglassvm", name, "-n", NAMESPACE, "--timeout=60s")
    kubectl("wait", "--for=delete", "pod", "-n", "sandglass-vm", "-l", f"sandglass.dev/owner-uid={uid}", "--timeout=60s")
    return {"recovery": took, **parts}


def plain():
    began = time.monotonic()
    run("ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-i", f"{STATE}/vm/target_key", "-o", "StrictHostKeyChecking=yes",
        "-o", f"UserKnownHostsFile={STATE}/vm/known_hosts", "breakglass@10.244.0.250", SAY)
    return time.monotonic() - began


def main():
    count = int(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the namespace goes in any case
    folder = tempfile.mkdtemp(prefix="sandglass-bench-")
    try:
        kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s")
        kubectl("create", "namespace", NAMESPACE)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{folder}/id")
        prepare_vault()
        turns = []
        for number in range(count + 1):
            print(f"turn {number} of {count}", file=sys.stderr, flush=True)
            turns.append({**recovery(f"vm-{number}", folder), "plain": plain()})
        print(json.dumps(turns[1:]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false"], capture_output=True, check=False)


if __name__ == "__main__":
    main()
