"""The action, the component and the command against the real provisioning service, up to a login by ssh.   real.py keys|rules|issuer|token|real …, see ../github"""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

import runner
from forge import Forge, make_keys, signed
from world import ACTION, COMPONENT, failed, plain

RULES = """\
provisioning:
  issuers:
    - {{ name: github, provider: GitHub, url: {issuer}/github, audience: sandglass, algorithms: [RS256]{authority} }}
    - {{ name: gitlab, provider: GitLab, url: {issuer}/gitlab, audience: sandglass, algorithms: [RS256]{authority} }}
  rules:
    - {{ issuer: github, claims: {{ repository: acme/widget, ref: "refs/heads/*" }}, namespace: {namespace}, project: "{{repository}}", requester: "{{actor}}", ttlCap: 1h, images: ["{image}"] }}
    - {{ issuer: gitlab, claims: {{ project_path: acme/gadget }}, namespace: {namespace}, project: "{{project_path}}", requester: "{{user_login}}", ttlCap: 1h, images: ["{image}"] }}
    - {{ issuer: github, claims: {{ repository: acme/page }}, namespace: ci, project: "{{repository}}", requester: "{{actor}}", ttlCap: 1h, images: ["{image}"] }}
    - {{ issuer: github, claims: {{ repository: acme/chance }}, namespace: {namespace}, project: "{{repository}}", requester: "{{actor}}", ttlCap: 1h, images: ["{image}"] }}
"""


def make(words):
    place = urllib.parse.urlsplit(words[1])
    print(make_keys(words[0], place.hostname if place.scheme == "https" else None))


def rules(words):
    issuer, namespace, image, *folder = words
    authority = ", caBundle: " + json.dumps((pathlib.Path(folder[0]) / "ca.crt").read_text()) if folder else ""
    print(RULES.format(issuer=issuer, namespace=namespace, image=image, authority=authority), end="")


def issuer(words):
    """Publishes its keys until it is ended."""
    Forge(*words)
    threading.Event().wait()


def token(words):
    """A token of the issuer into a file, good for an hour: of the repository acme/chance, unless CLAIM=VALUE says otherwise."""
    folder, url, file, *others = words
    claims = {"repository": "acme/chance", "repository_id": "76", "run_id": "1", "run_attempt": "1", "actor": "octocat", "sub": "repo:acme/chance", "exp": int(time.time()) + 3600}
    with open(os.open(file, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w") as out:
        out.write(signed(folder, f"{url}/github", "sandglass", {**claims, **dict(other.split("=", 1) for other in others)}))


def kubectl(*words):
    done = subprocess.run(["kubectl", "--request-timeout=30s", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Real:
    def __init__(self, url, issuer, folder, image, namespace, work):
        self.url, self.image, self.namespace, self.work, self.runs = url, image, namespace, work, 0
        self.forge = Forge(folder, issuer)
        self.key = work / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me@laptop", "-f", self.key], check=True)
        self.forge.users = {"octocat": self.key.with_suffix(".pub").read_text()}
        run = str(int(time.time()))
        self.claims = {"repository": "acme/widget", "repository_id": "74", "repository_owner": "acme", "repository_owner_id": "7", "repository_visibility": "private", "run_id": run, "run_attempt": "1",
                       "run_number": "10", "actor": "octocat", "actor_id": "9", "ref": "refs/heads/main", "ref_type": "branch", "ref_protected": "true", "sha": "a" * 40, "event_name": "push", "workflow": "build",
                       "head_ref": "", "base_ref": "", "workflow_ref": "acme/widget/.github/workflows/build.yml@refs/heads/main", "workflow_sha": "a" * 40, "runner_environment": "self-hosted",
                       "job_workflow_ref": "acme/widget/.github/workflows/build.yml@refs/heads/main", "job_workflow_sha": "a" * 40, "sub": "repo:acme/widget:ref:refs/heads/main"}
        self.gitlab_claims = {"project_path": "acme/gadget", "project_id": "75", "namespace_path": "acme", "namespace_id": "3", "pipeline_id": run, "pipeline_source": "push", "job_id": run, "user_login": "octocat",
                              "user_id": "9", "user_email": "octocat@example.com", "ref": "main", "ref_type": "branch", "ref_path": "refs/heads/main", "ref_protected": "true", "sha": "a" * 40, "runner_id": 1,
                              "runner_environment": "self-hosted", "project_visibility": "private", "sub": "project_path:acme/gadget:ref_type:branch:ref:main"}
        authorities = [path for path in (os.environ.get("SERVICE_CA"), issuer.startswith("https:") and str(pathlib.Path(folder) / "ca.crt")) if path]
        self.trust = {}
        if authorities:
            (work / "authorities").write_text("".join(pathlib.Path(path).read_text() for path in authorities))
            self.trust = {"CURL_CA_BUNDLE": str(work / "authorities")}

    def folder(self):
        self.runs += 1
        folder = self.work / f"run-{self.runs}"
        folder.mkdir()
        return folder

    def github(self, inputs=None, **claims):
        self.forge.claims = {**self.claims, **claims}
        environment = {"GITHUB_SERVER_URL": self.forge.url, "GITHUB_REPOSITORY": "acme/widget", "GITHUB_ACTOR": "octocat", "GITHUB_RUN_ID": self.claims["run_id"], "GITHUB_RUN_ATTEMPT": "1", "GITHUB_WORKFLOW": "build",
                       "GITHUB_REF": "refs/heads/main", "GITHUB_SHA": "a" * 40, "GO_VERSION": "1.25", "DATABASE_DSN": "postgres://me:word@db/x", "ACTIONS_ID_TOKEN_REQUEST_URL": self.forge.token_url,
                       "ACTIONS_ID_TOKEN_REQUEST_TOKEN": self.forge.runner_secret, **self.trust}
        inputs = {"url": self.url, "image": self.image, "env": "GO_VERSION,DATABASE_DSN", "timeout": "4m", "webhook": self.forge.chat_url, **(inputs or {})}
        result = runner.run_action(ACTION, inputs, {"job": "unit", "actor": "octocat"}, environment, [self.forge.runner_secret, self.forge.chat_url], self.folder())
        self.nothing_leaks(result)
        return result

    def gitlab(self, **inputs):
        environment = {"CI_JOB_STATUS": "failed", "CI_JOB_IMAGE": self.image, "CI_JOB_NAME": "unit: [amd64]", "CI_SERVER_URL": self.forge.url, "GITLAB_USER_LOGIN": "octocat", "CI_COMMIT_SHA": "a" * 40,
                       "CI_PROJECT_PATH": "acme/gadget", "CI_JOB_URL": f"{self.forge.url}/acme/gadget/-/jobs/1", "GO_VERSION": "1.25", **self.trust}
        token = lambda audience: self.forge.token("gitlab", audience, self.gitlab_claims)
        result = runner.run_after_script(COMPONENT, {"url": self.url, "env": "GO_VERSION", "timeout": "4m", **inputs}, environment, token, self.folder())
        self.nothing_leaks(result)
        return result

    def command(self, job):
        """What any other CI runs: `sandglass ci open --url`, the token in a file."""
        folder = self.folder()
        # Of another repository: sessions of one project take turns.
        (folder / "token").write_text(self.forge.token("github", "sandglass", {**self.claims, "repository": "acme/chance", "repository_id": "76"}))
        words = [os.environ["SANDGLASS"], "ci", "open", "--strict", "--url", self.url, "--image", self.image, "--job", job, "--token-file", folder / "token", "--authorized-keys", self.forge.users["octocat"],
                 "--wait", "4m", "--results", folder, *(["--ca-file", self.trust["CURL_CA_BUNDLE"]] if self.trust else [])]
        done = subprocess.run(words, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, (done.stdout, done.stderr)
        assert not any(secret in done.stdout + done.stderr for secret in self.forge.issued), "the token is in the log"
        return done.stdout, {file.name: file.read_text() for file in folder.iterdir() if file.name != "token"}

    def nothing_leaks(self, result):
        assert result.left == [], result.left
        for secret in [*self.forge.issued, self.forge.runner_secret, self.forge.chat_secret, "postgres://me:word"]:
            assert secret not in result.everything and secret not in result.arguments, "a secret is in log, summary, outputs or arguments"

    def log_in(self, command, known_hosts, variable="1.25"):
        """With what people are told, and nothing else: the host key is checked."""
        hosts = self.work / "known_hosts"
        hosts.write_text("\n".join(known_hosts) + "\n")
        options = ["-i", str(self.key), "-o", "IdentitiesOnly=yes", "-o", f"UserKnownHostsFile={hosts}", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-F", "/dev/null"]
        program, *rest = shlex.split(command)
        done = subprocess.run([program, *options, *rest, 'echo "in $GO_VERSION ${DATABASE_DSN-none}"'], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and done.stdout.strip() == f"in {variable} none", (done.returncode, done.stdout, done.stderr)


def refused(real):
    for name, value in (("repository", "other/thing"), ("ref", "refs/tags/v1")):
        result = real.github(**{name: value})
        failed(result, "refused (403)")
        assert f"│     {name}: {value}" in result.log.text and value in plain(result.summary), result.log.text
    failed(real.github(ref="refs/heads/x\nlevel=error admin logged in"), "refused (4")
    failed(real.github({"audience": "another"}), "refused (401)")
    failed(real.github({"image": "docker.io/library/busybox:1"}), "refused (4", "image")
    failed(real.github({"ttl": "5h"}), "refused (4", "1h")
    return "refused by claims, audience, image and ttl"


def opens(real):
    result = real.github()
    assert result.code == 0 and result.outputs["open"] == "true", result.log.text
    hosts = re.findall(r"host key  (.*)", result.log.text)
    assert hosts and all(host in plain(result.summary) for host in hosts), result.summary
    real.log_in(result.outputs["command"], hosts)
    assert "DATABASE_DSN" in plain(result.summary) and len(real.forge.chat) >= 1 and result.outputs["command"] in real.forge.chat[-1]["text"], result.summary
    again = real.github()
    assert again.outputs == result.outputs, (again.outputs, result.outputs)
    spec = json.loads(kubectl("get", "debugsession", result.outputs["name"], "-n", real.namespace, "-o", "json"))["spec"]
    assert spec["requester"] == "octocat" and spec["retention"] == "Delete" and spec["notAfter"] and spec["build"]["commit"] == "a" * 40, spec
    return f"GitHub: {real.namespace}/{result.outputs['name']} opened once, ssh got in"


def command_opens(real):
    log, results = real.command("other")
    real.log_in(results["command"], re.findall(r"host key  (.*)", log), variable="")
    assert real.command("other")[1] == results
    return f"ci open --url: {real.namespace}/{results['name']} opened once, ssh got in"


def gitlab_opens(real):
    result = real.gitlab()
    command = re.search(r"│     (ssh .*)", result.log.text)
    assert command, result.log.text
    real.log_in(command[1], re.findall(r"host key  (.*)", result.log.text))
    return "GitLab: opened, ssh got in"


def main(words):
    with tempfile.TemporaryDirectory(prefix="sandglass-doors-") as work:
        real = Real(*words, pathlib.Path(work))
        before = set(kubectl("get", "debugsessions", "-n", real.namespace, "-o", "name").split())
        try:
            for case in (refused, opens, gitlab_opens, *([command_opens] if "SANDGLASS" in os.environ else [])):
                print(f"ok     {case(real)}", flush=True)
            made = set(kubectl("get", "debugsessions", "-n", real.namespace, "-o", "name").split()) - before
            assert len(made) == (3 if "SANDGLASS" in os.environ else 2), made
            print(f"doors/github: {len(made)} sessions were made, and no other", flush=True)
        finally:
            for name in set(kubectl("get", "debugsessions", "-n", real.namespace, "-o", "name").split()) - before:
                kubectl("delete", "-n", real.namespace, name, "--timeout=60s")
            real.forge.close()


if __name__ == "__main__":
    {"keys": make, "rules": rules, "issuer": issuer, "token": token, "real": main}[sys.argv[1]](sys.argv[2:])
