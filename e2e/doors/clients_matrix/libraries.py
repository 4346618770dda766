"""SSH clients that are libraries: paramiko, asyncssh, and libssh by two sets of bindings."""

import asyncio
import logging
import os
import socket

from far_side import echo_server, echoed
from openssh import ssh
from setting import COMMAND, DATA, FILES, FORWARD, MEGABYTE, TERMINAL, WRONG_KEY, Failed, check


def read_blob(setting):
    with open(setting.blob, "rb") as blob:
        return blob.read()


# They log what they raise as well.
for library in ("paramiko", "asyncssh", "ansible-pylibssh"):
    logging.getLogger(library).setLevel(logging.CRITICAL)


# --- paramiko -----------------------------------------------------------------------------------


def paramiko_client(setting, known_hosts=None, place=None):
    import paramiko

    place = place or setting.open
    client = paramiko.SSHClient()
    client.load_host_keys(known_hosts or setting.known_hosts)
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    client.connect(place.host, place.port, place.user, key_filename=setting.key, allow_agent=False, look_for_keys=False, timeout=20)
    return client


def by_paramiko(setting):
    import paramiko

    data = read_blob(setting)
    with paramiko_client(setting) as client:
        check(client.exec_command("exit 3", timeout=20)[1].channel.recv_exit_status() == 3, "another exit status")
        entry, out, _ = client.exec_command("sha256sum; head -c 1048576 /dev/zero | tr '\\0' x", timeout=20)
        entry.write(data)
        entry.channel.shutdown_write()
        back = out.read()
        check(back.split(b" ")[0].decode() == setting.sum and back.endswith(b"x" * MEGABYTE), "the data changed on its way")
        shown = client.exec_command("tty", get_pty=True, timeout=20)[1].read()
        check(b"/dev/pts/" in shown, f"no terminal: {shown!r}")
        back = os.path.join(setting.scratch("paramiko"), "back")
        with client.open_sftp() as files:
            files.put(setting.blob, "/tmp/paramiko-1")
            files.posix_rename("/tmp/paramiko-1", "/tmp/paramiko-2")
            check("paramiko-2" in files.listdir("/tmp"), "the new name is not listed")
            files.get("/tmp/paramiko-2", back)
        setting.same_file(back)
        server, port = echo_server(setting, ssh(setting))
        try:
            stream = client.get_transport().open_channel("direct-tcpip", ("127.0.0.1", port), ("127.0.0.1", 0), timeout=20)
            stream.sendall(b"through")
            check(stream.recv(7) == b"through", "the forward lost something")
            stream.close()
        finally:
            setting.ended(server)
    try:
        paramiko_client(setting, setting.wrong_known_hosts).close()
        raise Failed("it took a wrong host key")
    except paramiko.BadHostKeyException:
        pass
    return paramiko.__version__, [COMMAND, DATA, FILES, TERMINAL, FORWARD, WRONG_KEY], "`RejectPolicy` and a known_hosts file"


# --- asyncssh -----------------------------------------------------------------------------------


def asyncssh_options(setting, known_hosts=None, place=None):
    place = place or setting.open
    hosts = known_hosts or setting.known_hosts
    return {
        "host": place.host, "port": place.port, "username": place.user, "client_keys": [setting.key], "known_hosts": hosts, "config": None,
        "agent_path": None, "connect_timeout": 20,
    }  # fmt: skip


async def asyncssh_works(setting, port, back):
    import asyncssh

    data = read_blob(setting)
    async with asyncssh.connect(**asyncssh_options(setting)) as client:
        check((await client.run("exit 3", timeout=20)).exit_status == 3, "another exit status")
        setting.same((await client.run("cat", input=data, encoding=None, timeout=20)).stdout)
        shown = (await client.run("tty", term_type="xterm", timeout=20)).stdout
        check("/dev/pts/" in shown, f"no terminal: {shown!r}")
        async with client.start_sftp_client() as files:
            await files.put(setting.blob, "/tmp/asyncssh-1")
            await files.posix_rename("/tmp/asyncssh-1", "/tmp/asyncssh-2")
            check("asyncssh-2" in await files.listdir("/tmp"), "the new name is not listed")
            await files.get("/tmp/asyncssh-2", back)
        listener = await client.forward_local_port("127.0.0.1", 0, "127.0.0.1", port)
        local = listener.get_port()

        def there_and_back():
            with socket.create_connection(("127.0.0.1", local), 10) as stream:
                return echoed(stream, data)

        setting.same(await asyncio.to_thread(there_and_back))
        listener.close()


def by_asyncssh(setting):
    import asyncssh

    back = os.path.join(setting.scratch("asyncssh"), "back")
    server, port = echo_server(setting, ssh(setting))
    try:
        asyncio.run(asyncssh_works(setting, port, back))
    finally:
        setting.ended(server)
    setting.same_file(back)

    async def with_a_wrong_key():
        async with asyncssh.connect(**asyncssh_options(setting, setting.wrong_known_hosts)):
            raise Failed("it took a wrong host key")

    try:
        asyncio.run(with_a_wrong_key())
    except asyncssh.HostKeyNotVerifiable:
        pass
    return asyncssh.__version__, [COMMAND, DATA, FILES, TERMINAL, FORWARD, WRONG_KEY], "`known_hosts=FILE, config=None`"


# --- libssh -------------------------------------------------------------------------------------


def ssh_python_session(setting, known_hosts=None):
    from ssh import options
    from ssh.key import import_privkey_file
    from ssh.session import Session

    session = Session()
    for option, value in (
        (options.HOST, setting.open.host), (options.USER, setting.open.user), (options.SSH_DIR, setting.path("home", ".ssh")),
        (options.KNOWNHOSTS, known_hosts or setting.known_hosts), (options.GLOBAL_KNOWNHOSTS, "/dev/null"),
    ):  # fmt: skip
        session.options_set(option, value)
    session.options_set_port(setting.open.port)
    session.options_set_int_val(options.PROCESS_CONFIG, 0)
    session.connect()
    # is_server_known() says True also of a key that has changed: the key itself is compared, before anything is sent.
    kind_and_key = session.dump_knownhost().decode().split()[1:3]
    check(kind_and_key == setting.host_key(wrong=known_hosts is not None), "unknown host key")
    session.userauth_publickey(import_privkey_file(setting.key))
    return session


def read_all(channel):
    back = bytearray()
    while not channel.is_eof():
        count, part = channel.read(65536)
        if count <= 0:
            break
        back += part[:count]
    return bytes(back)


def by_ssh_python(setting):
    import importlib.metadata

    session = ssh_python_session(setting)
    channel = session.channel_new()
    channel.open_session()
    channel.request_exec("sha256sum; exit 3")
    data = read_blob(setting)
    for begin in range(0, MEGABYTE, 32768):
        channel.write(data[begin : begin + 32768])
    channel.send_eof()
    check(read_all(channel).split(b" ")[0].decode() == setting.sum, "the data changed on its way there")
    check(channel.get_exit_status() == 3, "another exit status")
    channel.close()
    channel = session.channel_new()
    channel.open_session()
    channel.request_pty()
    channel.request_exec("tty")
    shown = read_all(channel)
    check(b"/dev/pts/" in shown, f"no terminal: {shown!r}")
    channel.close()
    files = session.sftp_new()
    files.init()
    with files.open("/tmp/ssh-python", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) as far:
        for begin in range(0, MEGABYTE, 32768):
            far.write(data[begin : begin + 32768])
    back = bytearray()
    with files.open("/tmp/ssh-python", os.O_RDONLY, 0) as far:
        while len(back) < MEGABYTE:
            count, part = far.read(32768)
            if count <= 0:
                break
            back += part[:count]
    setting.same(bytes(back))
    session.disconnect()
    try:
        ssh_python_session(setting, setting.wrong_known_hosts)
        raise Failed("it took a wrong host key")
    except Failed as failure:
        check(str(failure) == "unknown host key", str(failure))
    return importlib.metadata.version("ssh-python"), [COMMAND, DATA, FILES, TERMINAL, WRONG_KEY], "compare `dump_knownhost()` with the host key yourself: its `is_server_known()` also says yes to a changed key"


def pylibssh_session(setting, known_hosts=None):
    from pylibsshext.session import Session

    session = Session()
    with open(setting.key, "rb") as stream:
        key = stream.read()
    session.set_ssh_options("knownhosts", known_hosts or setting.known_hosts)
    session.connect(
        host=setting.open.host, port=setting.open.port, user=setting.open.user, private_key=key, host_key_checking=True, look_for_keys=False, timeout=20
    )  # fmt: skip
    return session


def by_pylibssh(setting):
    import importlib.metadata

    from pylibsshext.errors import LibsshSessionException

    session = pylibssh_session(setting)
    channel = session.new_channel()
    done = channel.exec_command("head -c 1048576 /dev/zero | tr '\\0' x; exit 3")
    check(done.returncode == 3 and done.stdout == b"x" * MEGABYTE, f"status {done.returncode}, {len(done.stdout)} bytes")
    channel.close()
    back = os.path.join(setting.scratch("pylibssh"), "back")
    files = session.sftp()
    files.put(setting.blob, "/tmp/pylibssh")
    files.get("/tmp/pylibssh", back)
    files.close()
    setting.same_file(back)
    session.close()
    try:
        pylibssh_session(setting, setting.wrong_known_hosts).close()
        raise Failed("it took a wrong host key")
    except LibsshSessionException as refusal:
        check("changed" in str(refusal).lower(), f"it failed for another reason: {refusal}")
    return importlib.metadata.version("ansible-pylibssh"), [COMMAND, FILES, WRONG_KEY], "`host_key_checking=True`; a megabyte out"


CLIENTS = {
    "paramiko": by_paramiko,
    "asyncssh": by_asyncssh,
    "libssh (ssh-python)": by_ssh_python,
    "libssh (ansible-pylibssh)": by_pylibssh,
}
