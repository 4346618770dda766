"""Programs that the measurements on the cluster call, and the ssh client's files for the gateway."""

import json
import subprocess
import sys


def run(*command, stdin=None):
    done = subprocess.run(command, input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL, capture_output=True, text=True, timeout=150, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command[:4])} …: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def kubectl(*arguments, stdin=None):
    return run("kubectl", *arguments, stdin=stdin)


def remember_gateway(kind, name, namespace, folder):
    status = json.loads(kubectl("get", kind, name, "-n", namespace, "-o", "json"))["status"]["connection"]
    with open(f"{folder}/known_hosts", "w", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in status["knownHosts"]))
    with open(f"{folder}/ssh_config", "w", encoding="utf-8") as file:
        file.write("\n".join([
            "Host gateway", f"  HostName {status['host']}", f"  Port {status['port']}", f"  IdentityFile {folder}/id", "  IdentitiesOnly yes",
            "  IdentityAgent none", "  BatchMode yes", f"  UserKnownHostsFile {folder}/known_hosts", "  StrictHostKeyChecking yes",
            "  LogLevel ERROR", ""]))
