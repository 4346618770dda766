"""OpenSSH and what runs over its client: scp, sftp, multiplexing, forwards, a jump, rsync, git, sshfs, tmux, mosh."""

import os
import re
import socket
import subprocess

from far_side import echo_server, echoed, through_socks
from setting import COMMAND, DATA, FILES, FORWARD, TERMINAL, WRONG_KEY, Failed, NotTried, check


def options(setting, key=None, known_hosts=None):
    """Nothing of this machine's own configuration, one key, host keys from the object's status only."""
    return [
        "-F", "none", "-i", key or setting.key, "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes",
        "-o", "GlobalKnownHostsFile=none", "-o", f"UserKnownHostsFile={known_hosts or setting.known_hosts}",
    ]  # fmt: skip


def ssh(setting, *more, place=None, key=None, known_hosts=None):
    place = place or setting.open
    return ["ssh", *options(setting, key, known_hosts), "-p", str(place.port), *more, place.at]


def copier(setting, program, *more, place=None, known_hosts=None):
    return [program, *options(setting, known_hosts=known_hosts), "-P", str((place or setting.open).port), *more]


def ssh_version(setting):
    return setting.version(["ssh", "-V"], r"OpenSSH_(\S+)")


def forwarded(setting, port):
    """A megabyte through a port of this machine, there and back."""
    setting.eventually("the forward", lambda: setting.listens(port))
    with open(setting.blob, "rb") as blob, socket.create_connection(("127.0.0.1", port), 10) as stream:
        setting.same(echoed(stream, blob.read()))


def openssh(setting):
    with open(setting.blob, "rb") as blob:
        data = blob.read()
    setting.ran([*ssh(setting), "exit 3"], status=3)
    setting.same(setting.run([*ssh(setting), "cat"], data).stdout)
    shown = setting.ran([*ssh(setting, "-tt"), "tty; exit 4"], status=4)
    check("/dev/pts/" in shown, f"no terminal: {shown!r}")
    server, port = echo_server(setting, ssh(setting))
    local, dynamic = setting.free_port(), setting.free_port()
    flags = ["-N", "-o", "ExitOnForwardFailure=yes", "-L", f"127.0.0.1:{local}:127.0.0.1:{port}", "-D", f"127.0.0.1:{dynamic}"]
    client = setting.start(ssh(setting, *flags))
    try:
        forwarded(setting, local)
        with through_socks(dynamic, port) as stream:
            setting.same(echoed(stream, data))
        # Without a port of this machine.
        setting.same(setting.run(ssh(setting, "-W", f"127.0.0.1:{port}"), data).stdout)
    finally:
        setting.ended(client)
        setting.ended(server)
    setting.refused([*ssh(setting, known_hosts=setting.wrong_known_hosts), "true"], "REMOTE HOST IDENTIFICATION HAS CHANGED")
    return ssh_version(setting), [COMMAND, DATA, TERMINAL, FORWARD, WRONG_KEY], "`-L`, `-D` and `-W`"


def keys(setting):
    for kind in ("ed25519", "ecdsa", "rsa"):
        setting.ran([*ssh(setting, key=setting.path("keys", "id_" + kind)), "exit 3"], status=3)
    return ssh_version(setting), [COMMAND], "Ed25519, ECDSA and RSA (3072 bits, signed with SHA-2)"


def agent(setting):
    """A key that only an ssh-agent has, and that agent in the session."""
    folder = setting.scratch("agent")
    socket_path = os.path.join(folder, "socket")
    process = setting.start(["ssh-agent", "-D", "-a", socket_path])
    environment = {"SSH_AUTH_SOCK": socket_path}
    try:
        setting.eventually("ssh-agent", lambda: os.path.exists(socket_path))
        setting.ran(["ssh-add", "-q", setting.key], environment=environment)
        flags = ["-F", "none", "-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={setting.known_hosts}", "-o", "IdentityFile=none"]
        command = ["ssh", *flags, "-A", "-p", str(setting.open.port), setting.open.at]
        # Asks the forwarded agent for its keys: SSH_AGENTC_REQUEST_IDENTITIES.
        asking = (
            "import os, socket; s = socket.socket(socket.AF_UNIX); s.connect(os.environ['SSH_AUTH_SOCK']);"
            "s.sendall(bytes([0, 0, 0, 1, 11])); a = s.recv(9); print('kind', a[4], 'keys', a[8])"
        )
        shown = setting.ran([*command, f'exec python3 -c "{asking}"'], environment=environment)
        check("kind 12 keys 1" in shown, f"the agent answered {shown!r}")
    finally:
        setting.ended(process)
    return ssh_version(setting), [COMMAND, FORWARD], "a key of `ssh-agent`; `-A` reaches it from inside"


def shared_connection(setting):
    control = os.path.join(setting.scratch("shared"), "control")
    flags = ["-o", f"ControlPath={control}"]
    master = setting.start(ssh(setting, *flags, "-o", "ControlMaster=yes", "-N"))
    try:
        setting.eventually("the first connection", lambda: os.path.exists(control))
        # Five at once, and each one is there while the others are.
        asking = "echo here; read line; echo $line; exit 3"
        channels = [setting.start([*ssh(setting, *flags), asking], stdin=subprocess.PIPE) for _ in range(5)]
        for channel in channels:
            check(channel.stdout.readline() == b"here\n", "a channel did not start")
        for number, channel in enumerate(channels):
            out, _ = channel.communicate(f"{number}\n".encode(), timeout=20)
            check((channel.returncode, out) == (3, f"{number}\n".encode()), f"channel {number}: {channel.returncode} {out!r}")
        with open(setting.blob, "rb") as blob:
            setting.same(setting.run([*ssh(setting, *flags), "cat"], blob.read()).stdout)
        for channel in channels:
            setting.ended(channel)
    finally:
        setting.ended(master)
    return ssh_version(setting), [COMMAND, DATA], "five commands at once over one connection"


def jump(setting):
    """By way of a jump host, as people behind a bastion come: the jump host only passes bytes on, the host key that counts is the gateway's."""
    folder = setting.scratch("jump")
    host = setting.start(["python3", os.path.join(os.path.dirname(os.path.abspath(__file__)), "jump_host.py"), folder, setting.key + ".pub"])
    try:
        port = int(host.stdout.readline() or 0)
        check(port, "the jump host did not start")
        configuration = os.path.join(folder, "config")
        with open(configuration, "w", encoding="utf-8") as stream:
            stream.write(
                f"IdentityFile {setting.key}\nIdentitiesOnly yes\nStrictHostKeyChecking yes\nBatchMode yes\n"
                f"Host jump\n  HostName 127.0.0.1\n  Port {port}\n  User jump\n  UserKnownHostsFile {folder}/known_hosts\n"
                f"Host session\n  HostName {setting.open.host}\n  Port {setting.open.port}\n  User {setting.open.user}\n"
                f"  ProxyJump jump\n  UserKnownHostsFile {setting.known_hosts}\n"
            )
        with open(setting.blob, "rb") as blob:
            done = setting.run(["ssh", "-F", configuration, "session", "cat; exit 3"], blob.read())
        check(done.returncode == 3, f"it ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
        setting.same(done.stdout)
    finally:
        setting.ended(host)
    return ssh_version(setting), [COMMAND, DATA], "`-J` through a jump host"


def copies(setting, program, more, note, version):
    folder = setting.scratch("copies" + "".join(more))
    back = os.path.join(folder, "back")
    far = "/tmp/" + os.path.basename(folder)
    setting.ran([*copier(setting, program, *more), setting.blob, f"{setting.open.at}:{far}"])
    check(setting.ran([*ssh(setting), f"sha256sum < {far}"]).split()[0] == setting.sum, "it arrived changed")
    setting.ran([*copier(setting, program, *more), f"{setting.open.at}:{far}", back])
    setting.same_file(back)
    wrong = copier(setting, program, *more, known_hosts=setting.wrong_known_hosts)
    setting.refused([*wrong, setting.blob, f"{setting.open.at}:{far}"], "REMOTE HOST IDENTIFICATION HAS CHANGED")
    return version(setting), [FILES, WRONG_KEY], note


def scp(setting):
    return copies(setting, "scp", [], "by sftp, which needs nothing in the image", ssh_version)


def scp_old(setting):
    return copies(setting, "scp", ["-O"], "the old protocol: needs `scp` in the image", ssh_version)


def sftp(setting):
    folder = setting.scratch("sftp")
    batch = f"put {setting.blob} /tmp/sftp-1\nrename /tmp/sftp-1 /tmp/sftp-2\nchmod 600 /tmp/sftp-2\nls -l /tmp/sftp-2\n"
    batch += f"get /tmp/sftp-2 {folder}/back\nrm /tmp/sftp-2\n"
    shown = setting.ran([*copier(setting, "sftp", "-b", "-"), setting.open.at], batch.encode())
    check("-rw-------" in shown, f"no such file in {shown!r}")
    setting.same_file(os.path.join(folder, "back"))
    return ssh_version(setting), [FILES], ""


def rsync(setting):
    folder = setting.scratch("rsync")
    os.makedirs(os.path.join(folder, "out"), exist_ok=True)
    for name in ("one", "two"):
        with open(setting.blob, "rb") as source, open(os.path.join(folder, "out", name), "wb") as target:
            target.write(source.read())
    shell = " ".join(ssh(setting)[:-1])
    setting.ran(["rsync", "-a", "-e", shell, f"{folder}/out/", f"{setting.open.at}:/tmp/rsync/"])
    setting.ran(["rsync", "-a", "-e", shell, f"{setting.open.at}:/tmp/rsync/", f"{folder}/back/"])
    for name in ("one", "two"):
        setting.same_file(os.path.join(folder, "back", name))
    wrong = " ".join(ssh(setting, known_hosts=setting.wrong_known_hosts)[:-1])
    setting.refused(["rsync", "-a", "-e", wrong, setting.blob, f"{setting.open.at}:/tmp/"], "REMOTE HOST IDENTIFICATION HAS CHANGED")
    return setting.version(["rsync", "--version"], r"version (\S+)"), [FILES, WRONG_KEY], "`-e ssh`; needs `rsync` in the image"


def git(setting):
    folder = setting.scratch("git")
    environment = {
        "GIT_SSH_COMMAND": " ".join(ssh(setting)[:-1]), "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0", **setting.home("git"),
        "GIT_AUTHOR_NAME": "c", "GIT_AUTHOR_EMAIL": "c@invalid", "GIT_COMMITTER_NAME": "c", "GIT_COMMITTER_EMAIL": "c@invalid",
    }  # fmt: skip
    setting.ran([*ssh(setting), "git init -q --bare -b main /tmp/project.git"])
    address, clone = f"ssh://{setting.open.at}:{setting.open.port}/tmp/project.git", os.path.join(folder, "clone")
    inside = ["git", "-C", clone]
    setting.ran(["git", "clone", "-q", address, clone], environment=environment)
    with open(setting.blob, "rb") as source, open(os.path.join(clone, "blob"), "wb") as target:
        target.write(source.read())
    for command in (["symbolic-ref", "HEAD", "refs/heads/main"], ["add", "blob"], ["commit", "-q", "-m", "blob"], ["push", "-q", "origin", "main"]):
        setting.ran([*inside, *command], environment=environment)
    setting.ran(["git", "clone", "-q", "-b", "main", address, os.path.join(folder, "again")], environment=environment)
    setting.same_file(os.path.join(folder, "again", "blob"))
    return setting.version(["git", "--version"], r"version (\S+)"), [FILES], "clone and push; needs `git` in the image"


def sshfs(setting):
    if not os.path.exists("/dev/fuse"):
        raise NotTried("this machine has no /dev/fuse")
    mount = setting.scratch("sshfs")
    shell = " ".join(ssh(setting)[:-3])
    command = ["sshfs", "-f", "-o", f"ssh_command={shell}", "-p", str(setting.open.port), f"{setting.open.at}:/tmp", mount]
    process = setting.start(command)
    try:
        setting.eventually("the mount", lambda: os.path.ismount(mount) or process.poll() is not None)
        if process.poll() is not None:
            said = process.stderr.read().decode(errors="replace").strip()
            if "Operation not permitted" in said or "fuse: device not found" in said or "mount failed" in said:
                raise NotTried(f"this machine cannot mount: {said}")
            raise Failed(said)
        path = os.path.join(mount, "by-sshfs")
        with open(setting.blob, "rb") as source, open(path, "wb") as target:
            target.write(source.read())
        setting.same_file(path)
        os.rename(path, path + "-2")
        check("by-sshfs-2" in os.listdir(mount), "the new name is not listed")
        check(setting.ran([*ssh(setting), "sha256sum < /tmp/by-sshfs-2"]).split()[0] == setting.sum, "it arrived changed")
    finally:
        if os.path.ismount(mount):
            setting.run(["fusermount3", "-u", mount])
        setting.ended(process)
    return setting.version(["sshfs", "--version"], r"SSHFS version (\S+)"), [FILES], ""


def tmux(setting):
    """A terminal program that is attached to, left with its own key, and whose screen is there as long as its channel."""
    shown = setting.ran([*ssh(setting, "-tt"), "tmux new-session 'echo in $TERM; exit' \\; set -g status off"], limit=30)
    check("in " in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown), f"tmux showed {shown[-200:]!r}")
    return setting.version(["tmux", "-V"], r"tmux (\S+)"), [TERMINAL], "needs `tmux` in the image; its server ends with the channel that started it"


CLIENTS = {
    "ssh": openssh,
    "ssh, kinds of keys": keys,
    "ssh-agent": agent,
    "ssh, ControlMaster": shared_connection,
    "ssh, ProxyJump": jump,
    "scp": scp,
    "scp -O": scp_old,
    "sftp": sftp,
    "rsync": rsync,
    "git": git,
    "sshfs": sshfs,
    "tmux over ssh -tt": tmux,
}
