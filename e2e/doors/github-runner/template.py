"""Puts the component's scripts into its template, or says that they differ.   template.py write|check"""

import pathlib
import sys

TOP = pathlib.Path(__file__).resolve().parents[3]
FOLDER = TOP / "manifests/gitlab-component"
TEMPLATE = FOLDER / "templates/sandglass-debug.yml"
SCRIPTS = [TOP / "manifests/github-action/provision.sh", FOLDER / "open-gitlab.sh"]
BEGIN, END = "    - |\n", "      ) </dev/null || true\n"
INDENT = "      "


def block():
    lines = ["# Sandglass: if the job failed, how to look into it", "(", "set +x # a job that shows each command shows no secret here"]
    for script in SCRIPTS:
        lines += [f"# --- {script.name}", *script.read_text().splitlines()]
    return BEGIN + "".join(f"{INDENT}{line}".rstrip() + "\n" for line in lines) + END


def rendered():
    text = TEMPLATE.read_text()
    before, rest = text.split(BEGIN, 1)
    return before + block() + rest.split(END, 1)[1]


if __name__ == "__main__":
    if "$[[" in block():
        sys.exit("the scripts hold $[[, which GitLab would take for an input")
    if sys.argv[1:] == ["write"]:
        TEMPLATE.write_text(rendered())
    elif TEMPLATE.read_text() != rendered():
        sys.exit(f"{TEMPLATE.relative_to(TOP)} is not what its scripts are. Cure: e2e/doors/github template")
