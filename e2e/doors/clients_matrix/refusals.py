"""What is refused, by whom it is asked, and the words people get to see."""

import asyncio
import os

from libraries import asyncssh_options, paramiko_client
from openssh import copier, options, ssh
from programs import putty
from setting import Failed, check

SESSION_LACKS_IT = "the session's `allow` is empty"
NEVER = "never there"
OVER = "it ended, or never opened"


def not_through(client):
    raise Failed(f"{client} was let through")


def last_words(setting, client):
    """Ends a client that has said everything, and gives it. Not by SIGTERM: ssh 9.2 was seen to go on after it."""
    client.kill()
    said = client.communicate(timeout=10)[1].decode(errors="replace")
    setting.ended(client)
    return said


def local_forward(setting):
    return setting.refused(ssh(setting, "-W", "127.0.0.1:7000", place=setting.closed), "administratively prohibited")


def dynamic_forward(setting):
    """ssh tells it when somebody comes through the forward."""
    port = setting.free_port()
    client = setting.start(ssh(setting, "-N", "-D", f"127.0.0.1:{port}", place=setting.closed))
    try:
        setting.eventually("the forward", lambda: setting.listens(port))
        setting.run(["curl", "-sS", "-m", "10", "--socks5", f"127.0.0.1:{port}", "http://127.0.0.1:7000/"])
    finally:
        said = last_words(setting, client)
    return setting.line_with(said, "administratively prohibited")


def socket_forward(setting):
    """To a Unix socket, which no session offers, whatever it allows."""
    port = setting.free_port()
    client = setting.start(ssh(setting, "-N", "-L", f"127.0.0.1:{port}:/tmp/any.sock"))
    try:
        setting.eventually("the forward", lambda: setting.listens(port))
        setting.run(["curl", "-sS", "-m", "10", f"http://127.0.0.1:{port}/"])
    finally:
        said = last_words(setting, client)
    return setting.line_with(said, "open failed")


def paramiko_forward(setting):
    import paramiko

    with paramiko_client(setting, place=setting.closed) as client:
        try:
            client.get_transport().open_channel("direct-tcpip", ("127.0.0.1", 7000), ("127.0.0.1", 0), timeout=20)
        except paramiko.ChannelException as refusal:
            return f"{type(refusal).__name__}: {refusal}"
    return not_through("paramiko")


def asyncssh_forward(setting):
    import asyncssh

    async def ask():
        async with asyncssh.connect(**asyncssh_options(setting, place=setting.closed)) as client:
            await client.open_connection("127.0.0.1", 7000)

    try:
        asyncio.run(ask())
    except asyncssh.ChannelOpenError as refusal:
        return f"{type(refusal).__name__}: {refusal}"
    return not_through("asyncssh")


def sftp(setting):
    return setting.refused([*copier(setting, "sftp", "-b", "-", place=setting.closed), setting.closed.at], "", b"ls\n")


def scp(setting):
    return setting.refused([*copier(setting, "scp", place=setting.closed), setting.blob, f"{setting.closed.at}:/tmp/x"], "")


def psftp(setting):
    command = [*putty(setting, "psftp", place=setting.closed), setting.closed.at]
    return setting.refused(command, "spec.access.allow lacks Sftp", b"ls\n", environment=setting.home("psftp-closed"))


def paramiko_sftp(setting):
    """`open_sftp` fails with whatever it was doing when the channel ended; the reason is on the channel's standard error."""
    with paramiko_client(setting, place=setting.closed) as client:
        channel = client.get_transport().open_session()
        channel.settimeout(20)
        channel.invoke_subsystem("sftp")
        told = channel.makefile_stderr().read().decode()
        if channel.recv_exit_status() == 0 or channel.recv(1):
            return not_through("paramiko")
        return setting.line_with(told, "spec.access.allow lacks Sftp")


def remote_forward(setting):
    flags = ["-o", "ExitOnForwardFailure=yes", "-R", "7001:127.0.0.1:22"]
    return setting.refused([*ssh(setting, *flags), "true"], "remote port forwarding failed")


def x11(setting):
    """ssh goes on without it."""
    environment = {"DISPLAY": ":9", **setting.home("x11")}
    done = setting.run([*ssh(setting, "-X"), "echo display:$DISPLAY"], environment=environment)
    check(done.stdout == b"display:\n", f"the session has a display: {done.stdout!r}")
    return setting.line_with(done.stderr.decode(), "X11 forwarding request failed")


def agent_forward(setting):
    """ssh does not wait for the answer, and says nothing: what a shell at a terminal shows."""
    socket_path = os.path.join(setting.scratch("agent-closed"), "socket")
    process = setting.start(["ssh-agent", "-D", "-a", socket_path])
    environment = {"SSH_AUTH_SOCK": socket_path}
    try:
        setting.eventually("ssh-agent", lambda: os.path.exists(socket_path))
        setting.ran(["ssh-add", "-q", setting.key], environment=environment)
        command = [*ssh(setting, "-A", "-tt", place=setting.closed), "echo agent:$SSH_AUTH_SOCK"]
        shown = setting.ran(command, environment=environment).replace("\r", "")
    finally:
        setting.ended(process)
    check("agent:\n" in shown, f"the agent can be reached: {shown!r}")
    told = [line for line in shown.splitlines() if "AgentForward" in line]
    return told[0] if told else "(nothing: `SSH_AUTH_SOCK` is not set)"


def password(setting):
    flags = ["-o", "BatchMode=no", "-o", "NumberOfPasswordPrompts=1", "-o", "PreferredAuthentications=password,keyboard-interactive"]
    return setting.refused([*ssh(setting, *flags), "true"], "Permission denied")


def sha1_signature(setting):
    command = ["ssh", *options(setting, setting.path("keys", "id_rsa")), "-o", "PubkeyAcceptedAlgorithms=ssh-rsa", "-v"]
    done = setting.run([*command, "-p", str(setting.open.port), setting.open.at, "true"])
    check(done.returncode == 255, "a SHA-1 signature was taken")
    said = done.stderr.decode(errors="replace")
    return setting.line_with(said, "no mutual signature algorithm") + " / " + setting.line_with(said, "Permission denied")


def other_key(setting):
    key = setting.path("stranger")
    setting.ran(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])
    return setting.refused([*ssh(setting, key=key), "true"], "Permission denied")


def certificate(setting):
    """Of a CA that the installation does not trust. Its key alone would be let in."""
    authority, key = setting.path("authority"), setting.path("certified")
    for path in (authority, key):
        setting.ran(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path])
    setting.ran(["ssh-keygen", "-q", "-s", authority, "-I", "any", "-n", "tester", "-V", "-1m:+5m", key + ".pub"])
    return setting.refused([*ssh(setting, key=key), "true"], "Permission denied")


def over_ssh(setting):
    return setting.refused([*ssh(setting, place=setting.over), "true"], "the session has ended")


def over_plink(setting):
    command = [*putty(setting, "plink", place=setting.over), setting.over.at, "true"]
    return setting.refused(command, "the session has ended", environment=setting.home("plink-over"))


def over_asyncssh(setting):
    """The login is over before anything is asked, and `connection_lost` is told why."""
    import asyncssh

    async def ask():
        lost = asyncio.get_running_loop().create_future()

        class Client(asyncssh.SSHClient):
            def connection_lost(self, reason):
                lost.set_result(reason)

        try:
            async with asyncssh.connect(client_factory=Client, **asyncssh_options(setting, place=setting.over)) as client:
                await client.run("true")
        except asyncssh.Error:
            return await asyncio.wait_for(lost, 10)
        return not_through("asyncssh")

    reason = asyncio.run(ask())
    return setting.line_with(f"{type(reason).__name__}: {reason}", "the session has ended")


def tunnel(setting):
    done = setting.run([*ssh(setting, "-o", "Tunnel=point-to-point", "-w", "any"), "true"])
    check(done.returncode != 0, "a tunnel was opened")
    said = done.stderr.decode(errors="replace")
    for words in ("open failed", "Tunnel device open failed"):
        if words in said:
            return setting.line_with(said, words)
    raise Failed(f"it said something else: {said!r}")


def left_behind(setting):
    """Detached, as `nohup` and `tmux new -d` do it: gone with the channel that started it."""
    setting.ran([*ssh(setting), "nohup setsid sleep 987 >/dev/null 2>&1 </dev/null & tmux new-session -d -s left"])
    # In brackets, so that the search does not find itself.
    look = [*ssh(setting), "! tmux has-session -t left 2>/dev/null && ! grep -aqs 'slee[p].987' /proc/[0-9]*/cmdline"]
    setting.eventually("the end of what was left behind", lambda: setting.run(look).returncode == 0, 5)
    return "(nothing: it ends with its channel)"


def mosh(setting):
    """Starts its server by ssh, which ends with ssh, and would talk to it by UDP, which nothing lets through."""
    place = setting.open
    shell = " ".join(ssh(setting)[:-1])
    # It would go on trying for a minute.
    command = ["timeout", "8", "mosh", "--predict=never", f"--ssh={shell}", place.at, "--", "true"]
    status, said = setting.at_terminal(command, {"LANG": "C.UTF-8", **setting.home("mosh")}, limit=30)
    check(status != 0, "mosh worked")
    for words in ("Nothing received from server on UDP port", "mosh did not make a successful connection"):
        if words in said:
            return words + "…"
    raise Failed(f"it said something else: {said[-300:]!r}")


# What is asked, with what; why it is refused; how it is tried.
REFUSALS = [
    ("local forward", "`ssh -L`, `-W`", SESSION_LACKS_IT, local_forward),
    ("local forward", "`ssh -D`", SESSION_LACKS_IT, dynamic_forward),
    ("local forward", "paramiko", SESSION_LACKS_IT, paramiko_forward),
    ("local forward", "asyncssh", SESSION_LACKS_IT, asyncssh_forward),
    ("files", "`sftp`", SESSION_LACKS_IT, sftp),
    ("files", "`scp`", SESSION_LACKS_IT, scp),
    ("files", "`psftp`", SESSION_LACKS_IT, psftp),
    ("files", "paramiko", SESSION_LACKS_IT, paramiko_sftp),
    ("ssh-agent forward", "`ssh -A`", SESSION_LACKS_IT, agent_forward),
    ("remote forward", "`ssh -R`", NEVER, remote_forward),
    ("forward to a Unix socket", "`ssh -L port:/path`", NEVER, socket_forward),
    ("X11", "`ssh -X`", NEVER, x11),
    ("tunnel", "`ssh -w`", NEVER, tunnel),
    ("password", "`ssh`", NEVER, password),
    ("RSA key signed with SHA-1", "`ssh -v -o PubkeyAcceptedAlgorithms=ssh-rsa`", NEVER, sha1_signature),
    ("a key that the session does not list", "`ssh`", NEVER, other_key),
    ("certificate of another CA", "`ssh`", NEVER, certificate),
    ("a session that is over", "`ssh`", OVER, over_ssh),
    ("a session that is over", "plink", OVER, over_plink),
    ("a session that is over", "asyncssh", OVER, over_asyncssh),
    ("programs that stay", "`nohup`, `tmux new -d`", NEVER, left_behind),
    ("UDP", "mosh", NEVER, mosh),
]
