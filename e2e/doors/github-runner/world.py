"""The world of a case: a forge, a service, and a job that failed; and what must be true of every run."""

import html
import pathlib
import re
import subprocess

import runner
from forge import Forge
from service import Service

TOP = pathlib.Path(__file__).resolve().parents[3]
ACTION = TOP / "manifests/github-action"
COMPONENT = TOP / "manifests/gitlab-component/templates/sandglass-debug.yml"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ9tV3x0Qm1uZ1Rlc3RLZXlUZXN0S2V5VGVzdEtleVRl"
IMAGE = "registry.example.com/go-builder:1"
# Everything that a log, a Markdown page or a terminal could take for more than text.
HOSTILE = ("first\n::error::second\r\n::add-mask::debug\n##[set-output name=open]true ###[error]x ]]>\x1b[31m <img src=x onerror=alert(1)> <script>alert(2)</script> `tick` ```\n# heading\n"
           "[link](https://evil.example.com) https://evil.example.com www.evil.example.com | cell | ![i](https://evil.example.com/i.png) *bold* _it_ ~~s~~ &amp; %0A::error::third \u202etxt $(id) @octocat :tada:")


class World:
    def __init__(self, folder, forge="http://127.0.0.1:0", **service):
        self.folder = pathlib.Path(folder)
        self.forge = Forge(self.folder / "forge", forge)
        self.service = Service(self.forge, **service)
        self.runs = 0
        self.forge.users = {"octocat": KEY + "\n"}
        self.forge.claims = {"repository": "acme/widget", "repository_id": "74", "repository_owner": "acme", "run_id": "1001", "run_attempt": "1", "run_number": "10", "actor": "octocat",
                             "actor_id": "9", "ref": "refs/pull/42/merge", "ref_type": "branch", "sha": "abc123", "event_name": "pull_request", "workflow": "build", "runner_environment": "self-hosted",
                             "job_workflow_ref": "acme/widget/.github/workflows/build.yml@refs/heads/main", "sub": "repo:acme/widget:pull_request"}
        self.gitlab_claims = {"project_path": "acme/widget", "project_id": "74", "namespace_path": "acme", "pipeline_id": "1001", "job_id": "2002", "user_login": "octocat", "user_id": "9",
                              "ref": "main", "ref_type": "branch", "ref_protected": "true", "sha": "abc123", "pipeline_source": "push", "sub": "project_path:acme/widget:ref_type:branch:ref:main"}

    def close(self):
        self.forge.close()
        self.service.close()

    def environment(self):
        return {"GITHUB_SERVER_URL": self.forge.url, "GITHUB_REPOSITORY": "acme/widget", "GITHUB_ACTOR": "octocat", "GITHUB_RUN_ID": "1001", "GITHUB_RUN_ATTEMPT": "1", "GITHUB_WORKFLOW": "build",
                "GITHUB_JOB": "unit", "GITHUB_REF": "refs/pull/42/merge", "GITHUB_SHA": "abc123", "GITHUB_ACTIONS": "true", "CI": "true", "RUNNER_OS": "Linux", "GO_VERSION": "1.25 \"quoted\"",
                "NPM_TOKEN": "npm-token-value", "ACTIONS_ID_TOKEN_REQUEST_URL": self.forge.token_url, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": self.forge.runner_secret}

    def work(self):
        self.runs += 1
        work = self.folder / f"run-{self.runs}"
        work.mkdir()
        return work

    def github(self, inputs=None, environment=None, drop=(), **more):
        environment = {name: value for name, value in (self.environment() | (environment or {})).items() if name not in drop}
        inputs = {"url": self.service.url, "image": IMAGE} | (inputs or {})
        # The runner masks its own tokens and what came from ${{ secrets }}; a webhook comes from there.
        secrets = [self.forge.runner_secret, inputs.get("webhook", "")]
        result = runner.run_action(ACTION, inputs, {"job": "unit", "actor": "octocat"}, environment, secrets, self.work(), **more)
        self.nothing_leaks(result)
        assert set(result.outputs) == {"open", "name", "command", "expires-at"} and result.outputs["open"] in ("true", "false"), result.outputs
        assert "GITHUB_STEP_SUMMARY" not in result.log.text and result.summary.startswith("### The build failed"), result.summary
        assert [name for name, _ in result.log.commands if name not in ("notice", "warning")] == [], result.log.commands
        return result

    def gitlab(self, inputs=None, environment=None, drop=(), **more):
        environment = {"CI_JOB_STATUS": "failed", "CI_JOB_IMAGE": IMAGE, "CI_JOB_NAME": "unit: [amd64]", "CI_SERVER_URL": self.forge.url, "GITLAB_USER_LOGIN": "octocat", "CI_COMMIT_SHA": "abc123",
                       "CI_PROJECT_PATH": "acme/widget", "CI_JOB_URL": f"{self.forge.url}/acme/widget/-/jobs/2002", "GITLAB_CI": "true", "NPM_TOKEN": "npm-token-value", "GO_VERSION": "1.25",
                       **(environment or {})}
        environment = {name: value for name, value in environment.items() if name not in drop}
        token = lambda audience: self.forge.token("gitlab", audience, self.gitlab_claims)
        result = runner.run_after_script(COMPONENT, {"url": self.service.url} | (inputs or {}), environment, token, self.work(), **more)
        self.nothing_leaks(result)
        assert result.code == 0, result.log.text
        return result

    def nothing_leaks(self, result):
        assert result.left == [], f"left in the temporary folder: {result.left}"
        for secret in [*self.forge.issued, self.forge.runner_secret, self.forge.chat_secret, "npm-token-value"]:
            for place, text in (("log, summary or outputs", result.everything), ("arguments", result.arguments)):
                assert secret not in text, f"a secret is in {place}"


def failed(result, *words):
    """Nothing opened, the step stays green, and people are told in log, annotation and summary."""
    assert result.code == 0 and result.outputs["open"] == "false", result.log.text
    annotation = [data for name, data in result.log.commands if name == "warning"][-1]
    for word in words:
        assert word in result.log.text and word in annotation and word in plain(result.summary), f"{word!r} is missing in:\n{result.log.text}\n{result.summary}"


def rendered(markdown):
    """As GitHub shows it: its own renderer, but raw HTML left in, so that the test sees it."""
    return subprocess.run(["cmark-gfm", "--unsafe", "-e", "table", "-e", "autolink", "-e", "strikethrough"], input=markdown, capture_output=True, text=True, check=True).stdout


def plain(markdown):
    return html.unescape(re.sub(r"<[^>]*>", "", rendered(markdown)))


def only_ours(markdown):
    page = rendered(markdown)
    tags = set(re.findall(r"<(/?[a-zA-Z!][a-zA-Z0-9]*)", page))
    assert tags <= {word for tag in ("h3", "p", "pre", "code", "table", "thead", "tbody", "tr", "th", "td") for word in (tag, "/" + tag)}, f"{tags} in\n{page}"
    assert page.count("<h3>") == 1 and page.count("<code") <= 3, page
    return page


def orders(world, number):
    assert len(world.service.orders) == number and len(world.service.sessions) == number, world.service.orders
