"""What remote editors do at their start, VS Code's Remote-SSH for one: a script by standard input to a shell whose channel stays, its server sent as a
tar through another channel of the same connection, started on loopback there, and reached by the dynamic forward of the first one."""

import io
import os
import subprocess
import tarfile

from far_side import ECHO, echoed, through_socks
from openssh import options, ssh, ssh_version
from setting import COMMAND, DATA, FILES, FORWARD, check

# Waits for the server to arrive, starts it in the background, tells its port in a line of a known shape, and stays.
BOOTSTRAP = r"""
set -u
id=$1
folder=$HOME/.editor-server/$id
mkdir -p "$folder"
echo "$id: platform==$(uname -s)== arch==$(uname -m)=="
echo "$id: missing=="
for _ in $(seq 200); do [ -e "$folder/server.py" ] && break; sleep 0.1; done
nohup python3 "$folder/server.py" >"$folder/log" 2>&1 </dev/null &
for _ in $(seq 200); do grep -q ^port "$folder/log" && break; sleep 0.1; done
echo "$id: listeningOn==$(cut -d' ' -f2 "$folder/log")=="
echo "$id: end"
while read -r _; do :; done
"""


def packed_server():
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo("server.py")
        entry.size = len(ECHO)
        archive.addfile(entry, io.BytesIO(ECHO.encode()))
    return packed.getvalue()


def value_of(line, name):
    check(f"{name}==" in line, f"no {name} in {line!r}")
    return line.split(f"{name}==")[1].split("==")[0]


def editor(setting):
    control = os.path.join(setting.scratch("editor"), "control")
    dynamic = setting.free_port()
    flags = ["-T", "-D", f"127.0.0.1:{dynamic}", "-o", "ControlMaster=yes", "-o", f"ControlPath={control}", "-o", "ExitOnForwardFailure=yes"]
    shell = setting.start([*ssh(setting, *flags), "bash -s -- matrix"], stdin=subprocess.PIPE)
    try:
        shell.stdin.write(BOOTSTRAP.encode())
        shell.stdin.flush()
        check(value_of(shell.stdout.readline().decode(), "platform") == "Linux", "another platform")
        check("missing==" in shell.stdout.readline().decode(), "the server is there already")
        second = ["ssh", *options(setting), "-o", f"ControlPath={control}", "-p", str(setting.open.port), setting.open.at]
        setting.ran([*second, "tar xz -C ~/.editor-server/matrix"], packed_server())
        port = int(value_of(shell.stdout.readline().decode(), "listeningOn"))
        check(shell.stdout.readline() == b"matrix: end\n", "the script did not come to its end")
        with open(setting.blob, "rb") as blob:
            data = blob.read()
        # As editors do: several connections at once, while commands go on beside them.
        streams = [through_socks(dynamic, port) for _ in range(3)]
        setting.ran([*second, "exit 3"], status=3)
        for stream in streams:
            with stream:
                setting.same(echoed(stream, data))
        check(shell.poll() is None, "the first channel ended")
    finally:
        setting.ended(shell)
    # In brackets, so that the search does not find itself.
    gone = [*ssh(setting), "! grep -aqs 'editor-serve[r]/matrix/server' /proc/[0-9]*/cmdline"]
    setting.eventually("the server's end", lambda: setting.run(gone).returncode == 0)
    note = "the server ends with the channel that started it: a connection that is made anew starts it anew"
    return ssh_version(setting), [COMMAND, DATA, FILES, FORWARD], note


CLIENTS = {"VS Code Remote's way to start": editor}
