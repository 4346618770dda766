"""Ansible with a real playbook, as people write them."""

import os

from openssh import options
from setting import COMMAND, DATA, FILES, WRONG_KEY

HERE = os.path.dirname(os.path.abspath(__file__))


def run_playbook(setting, name, known_hosts=None):
    """The command line and the environment, with the inventory and scratch files of its own."""
    folder = setting.scratch(name)
    inventory, script = os.path.join(folder, "inventory"), os.path.join(folder, "script.sh")
    with open(inventory, "w", encoding="utf-8") as stream:
        stream.write(f"session ansible_host={setting.open.host} ansible_port={setting.open.port} ansible_user={setting.open.user}\n")
    with open(script, "w", encoding="utf-8") as stream:
        stream.write("#!/bin/sh\necho from a script\n")
    environment = {
        **setting.home(name), "ANSIBLE_SSH_COMMON_ARGS": " ".join(options(setting, known_hosts=known_hosts)),
        "ANSIBLE_SSH_ARGS": f"-o ControlMaster=auto -o ControlPersist=20s -o ControlPath={folder}/%C",
        "ANSIBLE_HOST_KEY_CHECKING": "true", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCAL_TEMP": folder, "ANSIBLE_RETRY_FILES_ENABLED": "false",
        "ANSIBLE_PYTHON_INTERPRETER": "/usr/bin/python3", "ANSIBLE_GATHERING": "explicit",
    }  # fmt: skip
    variables = {"blob": setting.blob, "sum": setting.sum, "back": os.path.join(folder, "back"), "script": script}
    command = ["ansible-playbook", "-i", inventory, os.path.join(HERE, "playbook.yaml")]
    for key, value in variables.items():
        command += ["-e", f"{key}={value}"]
    return command, environment, folder


def end_shared_connection(setting, folder):
    for name in os.listdir(folder):
        if len(name) == 40:
            setting.run(["ssh", "-F", "none", "-o", f"ControlPath={os.path.join(folder, name)}", "-O", "exit", "any"])


def ansible(setting):
    command, environment, folder = run_playbook(setting, "ansible")
    try:
        setting.ran(command, environment=environment, limit=120)
    finally:
        end_shared_connection(setting, folder)
    setting.same_file(os.path.join(folder, "back"))
    command, environment, _ = run_playbook(setting, "ansible-wrong", setting.wrong_known_hosts)
    setting.refused(command, "REMOTE HOST IDENTIFICATION HAS CHANGED", environment=environment, limit=60)
    note = "copy, template, command, stat, fetch, facts; in an image without Python `raw` and `script`"
    return setting.version(["ansible", "--version"], r"core (\S+?)\]"), [COMMAND, DATA, FILES, WRONG_KEY], note


CLIENTS = {"Ansible": ansible}
