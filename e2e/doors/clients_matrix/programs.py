"""SSH clients that are programs of their own: Dropbear's, PuTTY's, curl."""

import os
import threading

from far_side import echo_server
from openssh import forwarded, ssh
from setting import COMMAND, DATA, FILES, FORWARD, TERMINAL, WRONG_KEY, Failed, check


def dbclient(setting):
    """Its known_hosts lies in the home folder, and its lines have no port; it takes keys in its own format."""
    place = setting.open
    key = setting.path("keys", "dropbear")
    setting.ran(["dropbearconvert", "openssh", "dropbear", setting.key, key])
    right = setting.home("dbclient", " ".join([place.host, *setting.host_key()]) + "\n")
    wrong = setting.home("dbclient-wrong", " ".join([place.host, *setting.host_key(wrong=True)]) + "\n")
    client = ["dbclient", "-i", key, "-p", str(place.port)]
    at = [place.at]
    setting.ran([*client, *at, "exit 3"], environment=right, status=3)
    with open(setting.blob, "rb") as blob:
        setting.same(setting.run([*client, *at, "cat"], blob.read(), environment=right).stdout)
    status, shown = setting.at_terminal([*client, "-t", *at, "tty; exit 4"], right)
    check(status == 4 and "/dev/pts/" in shown, f"no terminal: {status} {shown!r}")
    server, port = echo_server(setting, ssh(setting))
    local = setting.free_port()
    forward = setting.start([*client, "-N", "-L", f"127.0.0.1:{local}:127.0.0.1:{port}", *at], right)
    try:
        forwarded(setting, local)
    finally:
        setting.ended(forward)
        setting.ended(server)
    setting.refused([*client, *at, "true"], "host key mismatch", environment=wrong)
    version = setting.version(["dbclient", "-V"], r"v(\S+)")
    return version, [COMMAND, DATA, TERMINAL, FORWARD, WRONG_KEY], "key by `dropbearconvert openssh dropbear`; the host key's line without the port"


PUTTY_KEY = threading.Lock()


def putty_key(setting):
    """Made by whichever of PuTTY's programs comes first: they run beside each other."""
    key = setting.path("keys", "putty.ppk")
    with PUTTY_KEY:
        if not os.path.exists(key):
            setting.ran(["puttygen", setting.key, "-O", "private", "-o", key])
    return key


def putty(setting, program, *more, place=None, wrong=False):
    """With a fingerprint in place of a known_hosts; no other key is taken, and nothing is asked."""
    place = place or setting.open
    fingerprint = "SHA256:" + "A" * 43 if wrong else setting.fingerprint()
    return [program, "-batch", "-P", str(place.port), "-i", putty_key(setting), "-hostkey", fingerprint, *more]


def plink(setting):
    environment = setting.home("plink")
    at = setting.open.at
    setting.ran([*putty(setting, "plink"), at, "exit 3"], environment=environment, status=3)
    with open(setting.blob, "rb") as blob:
        setting.same(setting.run([*putty(setting, "plink"), at, "cat"], blob.read(), environment=environment).stdout)
    shown = setting.ran([*putty(setting, "plink", "-t"), at, "tty; exit 4"], environment=environment, status=4)
    check("/dev/pts/" in shown, f"no terminal: {shown!r}")
    server, port = echo_server(setting, ssh(setting))
    local = setting.free_port()
    forward = setting.start([*putty(setting, "plink", "-N", "-L", f"127.0.0.1:{local}:127.0.0.1:{port}"), at], environment)
    try:
        forwarded(setting, local)
    finally:
        setting.ended(forward)
        setting.ended(server)
    setting.refused([*putty(setting, "plink", wrong=True), at, "true"], "Host key not in manually configured list", environment=environment)
    version = setting.version(["plink", "-V"], r"Release (\S+)")
    return version, [COMMAND, DATA, TERMINAL, FORWARD, WRONG_KEY], "key by `puttygen -O private`; `-hostkey SHA256:…`"


def pscp(setting):
    return putty_copies(setting, "pscp", "by sftp")


def putty_copies(setting, program, note):
    folder, environment = setting.scratch(program), setting.home(program)
    back, far = os.path.join(folder, "back"), f"/tmp/{program}"
    command = putty(setting, program)
    setting.ran([*command, setting.blob, f"{setting.open.at}:{far}"], environment=environment)
    setting.ran([*command, f"{setting.open.at}:{far}", back], environment=environment)
    setting.same_file(back)
    wrong = [*putty(setting, program, wrong=True), setting.blob, f"{setting.open.at}:{far}"]
    setting.refused(wrong, "Host key not in manually configured list", environment=environment)
    return setting.version([program, "-V"], r"Release (\S+)"), [FILES, WRONG_KEY], note


def psftp(setting):
    folder = setting.scratch("psftp")
    batch = f"put {setting.blob} /tmp/psftp-1\nmv /tmp/psftp-1 /tmp/psftp-2\nls /tmp\nget /tmp/psftp-2 {folder}/back\nquit\n"
    shown = setting.ran([*putty(setting, "psftp"), setting.open.at], batch.encode(), environment=setting.home("psftp"))
    check("psftp-2" in shown, f"no such file in {shown!r}")
    setting.same_file(os.path.join(folder, "back"))
    return setting.version(["psftp", "-V"], r"Release (\S+)"), [FILES], ""


def curl(setting):
    """Its library decides: before 1.11 libssh2 has no cipher that the gateway offers."""
    version = setting.version(["curl", "--version"], r"libssh2/(\S+)")
    environment = setting.home("curl", open_text(setting.known_hosts))
    address = f"sftp://{setting.open.host}:{setting.open.port}/tmp/curl"
    command = ["curl", "-sS", "--key", setting.path("keys", "id_rsa"), "--pubkey", setting.path("keys", "id_rsa.pub"), "-u", setting.open.user + ":"]
    if tuple(int(part) for part in version.split(".")[:2]) < (1, 11):
        setting.refused([*command, "-T", setting.blob, address], "Unable to exchange encryption keys", environment=environment)
        return f"libssh2 {version}", [], "refused: libssh2 before 1.11 has none of the gateway's ciphers and says `Unable to exchange encryption keys`"
    back = os.path.join(setting.scratch("curl"), "back")
    setting.ran([*command, "-T", setting.blob, address], environment=environment)
    setting.ran([*command, "-o", back, address], environment=environment)
    setting.same_file(back)
    wrong = setting.home("curl-wrong", open_text(setting.wrong_known_hosts))
    done = setting.run([*command, "-o", back, address], environment=wrong)
    if done.returncode == 0:
        raise Failed("curl took a wrong host key")
    return f"libssh2 {version}", [FILES, WRONG_KEY], "`sftp://`"


def open_text(path):
    with open(path, encoding="utf-8") as stream:
        return stream.read()


def keyscan(setting):
    """What the network shows is what the object's status says."""
    shown = setting.ran(["ssh-keyscan", "-t", "ed25519", "-p", str(setting.open.port), setting.open.host])
    check(shown.split()[1:3] == setting.host_key(), f"it shows {shown!r}")
    return setting.version(["ssh", "-V"], r"OpenSSH_(\S+)"), [], "shows the key of `status.connection.knownHosts`, the only one there is"


CLIENTS = {
    "ssh-keyscan": keyscan,
    "dbclient (Dropbear)": dbclient,
    "plink (PuTTY)": plink,
    "pscp (PuTTY)": pscp,
    "psftp (PuTTY)": psftp,
    "curl, sftp://": curl,
}
