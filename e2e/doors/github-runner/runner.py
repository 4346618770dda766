"""Runs the GitHub action and the GitLab component as their runners do, with their environment, and reads the log as they do.

GitHub: a composite action's inputs and expressions, the script in a file, the command line of its `shell`, files for outputs and summary, workflow commands (both forms) and masks.
GitLab: textual interpolation of inputs, a job that extends the hidden one, the after_script in one shell.
An expression or a key that is not known here is an error: nothing is passed over.
"""

import os
import pathlib
import re
import subprocess
import uuid

import yaml

# https://docs.github.com/actions: workflow commands, and those that only the old form ever had.
COMMANDS = {"add-mask", "notice", "warning", "error", "debug", "group", "endgroup", "set-output", "set-env", "add-path", "save-state", "stop-commands", "echo", "add-matcher", "remove-matcher"}
SHELLS = {"sh": "-e {0}", "bash": "--noprofile --norc -e -o pipefail {0}"}


class Log:
    """What people see of a step, and the commands that were in it."""

    def __init__(self, masks):
        self.masks, self.lines, self.commands = [mask for mask in masks if mask], [], []

    def masked(self, text):
        for mask in sorted(self.masks, key=len, reverse=True):
            text = text.replace(mask, "***")
        return text

    def take(self, line):
        if found := self.command(line):
            name, data = found
            if name == "add-mask":
                self.masks += [part for part in [data, *data.splitlines()] if part]
                return
            self.commands.append((name, self.masked(data)))
            line = f"##[{name}]{data}"
        self.lines.append(self.masked(line))

    @staticmethod
    def command(line):
        """`::name property=value::data` at the beginning of a line, or `##[name property=value]data` anywhere."""
        new = re.match(r"\s*::([a-z-]+)(?: [^\n]*?)?::(.*)", line)
        if new and new[1] in COMMANDS:
            return new[1], new[2].replace("%0D", "\r").replace("%0A", "\n").replace("%25", "%")
        old = re.search(r"##\[([a-z-]+)(?: [^\]]*)?\](.*)", line)
        if old and old[1] in COMMANDS:
            return old[1], old[2]
        return None

    @property
    def text(self):
        return "\n".join(self.lines)


def evaluate(text, contexts):
    """`${{ context.name }}` only."""

    def value(match):
        words = match[1].strip().split(".")
        here = contexts
        for word in words:
            if not isinstance(here, dict) or word not in here:
                raise KeyError(f"unknown expression {match[0]}")
            here = here[word]
        return str(here)

    text = re.sub(r"\$\{\{(.*?)\}\}", value, str(text))
    assert "${{" not in text, text
    return text


def parse_file_command(text):
    """`name<<delimiter` and the lines up to it, as the runner reads $GITHUB_OUTPUT."""
    lines, values = text.split("\n"), {}
    while lines:
        line = lines.pop(0)
        if not line:
            continue
        name, delimiter = line.split("<<", 1)
        value = []
        while (part := lines.pop(0)) != delimiter:
            value.append(part)
        assert name not in values, f"{name} is given twice"
        values[name] = "\n".join(value)
    return values


class Result:
    def __init__(self, code, log, outputs, summary, arguments, left):
        self.code, self.log, self.outputs, self.summary, self.arguments, self.left = code, log, outputs, summary, arguments, left

    @property
    def everything(self):
        return "\n".join([self.log.text, self.summary, *self.outputs.values(), *(data for _, data in self.log.commands)])


def tool_folder(work, shell, without=()):
    """A PATH that writes down each program's arguments. `busybox`: its tools, with curl and jq beside them, as in an Alpine image."""
    folder, log = work / "bin", work / "arguments"
    folder.mkdir()
    log.write_text("")
    for name in ("curl", "jq", "sed", "tr", "head", "tail", "cut", "grep", "od", "mktemp", "date", "rm", "mv", "cat", "sleep", "dirname", "sh"):
        if name in without:
            continue
        if name == "sh":
            command = {"dash": "/usr/bin/dash", "bash": "/usr/bin/bash", "busybox": "/usr/bin/busybox sh"}[shell]
            (folder / "sh").write_text(f'#!/usr/bin/dash\nexec {command} "$@"\n')
        else:
            real = f"/usr/bin/busybox {name}" if shell == "busybox" and name not in ("curl", "jq") else next(str(path / name) for path in map(pathlib.Path, ("/usr/bin", "/bin")) if (path / name).exists())
            (folder / name).write_text(f'#!/usr/bin/dash\nprintf "%s\\n" "{name} $*" >>"{log}"\nexec {real} "$@"\n')
        (folder / name).chmod(0o755)
    return folder, log


def run_action(folder, inputs, github, environment, secrets, work, shell="dash", without=(), strategy=None):
    """One `uses:` step. `secrets`: values that the runner masks from the beginning, as those of ${{ secrets.… }}."""
    action = yaml.safe_load((folder / "action.yml").read_text())
    assert action["runs"]["using"] == "composite", action["runs"]
    contexts = {"github": github, "strategy": strategy or {"job-index": 0}}
    unknown = set(inputs) - set(action["inputs"])
    assert not unknown, f"the action has no input {unknown}"
    given = {name: evaluate(inputs.get(name, about.get("default", "")), contexts) for name, about in action["inputs"].items()}
    contexts |= {"inputs": given, "steps": {}}
    log, code, arguments, summaries = Log(secrets), 0, "", ""
    temporary = work / "temp"
    temporary.mkdir()
    for step in action["runs"]["steps"]:
        assert set(step) <= {"id", "shell", "run", "env", "name"}, f"unknown key in {step}"
        script = evaluate(step["run"], contexts)
        variables = {name: evaluate(value, contexts) for name, value in step.get("env", {}).items()}
        files = {name: work / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_ENV", "GITHUB_PATH", "GITHUB_STATE")}
        for file in files.values():
            file.write_text("")
        path = temporary / f"{uuid.uuid4()}.sh"
        path.write_text(script)
        tools, argument_log = tool_folder(work, shell, without)
        for line in [f"##[group]Run {script.splitlines()[0]}", *script.splitlines(), f"shell: {step['shell']} {SHELLS[step['shell']]}", "env:", *(f"  {name}: {value}" for name, value in variables.items())]:
            log.lines += log.masked(line).splitlines()
        process = subprocess.run(
            [str(tools / step["shell"]), *SHELLS[step["shell"]].format(path).split(" ")], cwd=work, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=120,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={"PATH": str(tools), "HOME": str(work), **environment, **variables, "RUNNER_TEMP": str(temporary), "GITHUB_ACTION_PATH": str(folder), **{name: str(file) for name, file in files.items()}})
        for line in process.stdout.split("\n"):
            log.take(line)
        path.unlink()
        code = process.returncode
        outputs = parse_file_command(files["GITHUB_OUTPUT"].read_text())
        contexts["steps"][step["id"]] = {"outputs": outputs}
        summaries += log.masked(files["GITHUB_STEP_SUMMARY"].read_text())
        arguments += argument_log.read_text()
        for name in ("GITHUB_ENV", "GITHUB_PATH", "GITHUB_STATE"):
            assert not files[name].read_text(), f"{name} was written"
    declared = {name: evaluate(about["value"], contexts) for name, about in action["outputs"].items()}
    return Result(code, log, declared, summaries, arguments, sorted(path.name for path in temporary.iterdir()))


def posix_quoted(text):
    return "'" + text.replace("'", "'\"'\"'") + "'"


def component(path, inputs):
    """The configuration that an `include:` of the component gives: a header with the inputs, and a text in which they are put."""
    header, text = path.read_text().split("\n---\n", 1)
    about = yaml.safe_load(header)["spec"]["inputs"]
    assert not set(inputs) - set(about), f"the component has no input {set(inputs) - set(about)}"

    def value(match):
        name = re.fullmatch(r"inputs\.([a-z-]+)", match[1].strip())
        if not name or name[1] not in about:
            raise KeyError(f"unknown interpolation {match[0]}")
        given = inputs.get(name[1], about[name[1]].get("default") if about[name[1]] else None)
        assert given is not None, f"the input {name[1]} is required"
        return str(given)

    return yaml.safe_load(re.sub(r"\$\[\[(.*?)\]\]", value, text))


def run_after_script(path, inputs, environment, token, work, shell="bash", trace=False, without=(), job=None):
    """The after_script of a job with `extends: .sandglass-debug`, in the shell that the runner finds in the job's image."""
    job = component(path, inputs)[".sandglass-debug"] | (job or {})
    assert set(job) <= {"id_tokens", "variables", "after_script"}, f"unknown key in {set(job)}"
    variables = {name: str(value) for name, value in job.get("variables", {}).items()}
    for name, about in job["id_tokens"].items():
        variables[name] = token(about["aud"])
    body = ""
    for command in job["after_script"]:
        first, *more = command.splitlines()
        body += f"echo {posix_quoted('$ ' + first + (' # collapsed multi-line command' if more else ''))}\n{command}\n"
    script = "#!/usr/bin/env bash\n\ntrap exit 1 TERM\n\n" + ("set -o xtrace\n" if trace else "")
    script += f"if set -o | grep pipefail > /dev/null; then set -o pipefail; fi; set -o errexit\nset +o noclobber\n: | (eval {posix_quoted(body)})\nexit 0\n"
    temporary = work / "temp"
    temporary.mkdir()
    tools, arguments = tool_folder(work, shell, without)
    process = subprocess.run([str(tools / "sh")], input=script, cwd=work, text=True, errors="replace", timeout=120, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             env={"PATH": str(tools), "HOME": str(work), "TMPDIR": str(temporary), **environment, **variables})
    log = Log([])
    log.lines = process.stdout.split("\n")
    return Result(process.returncode, log, {}, "", arguments.read_text(), sorted(path.name for path in temporary.iterdir()))
