"""What runs in the session for the forwards: a server on loopback there, which sends back what it is sent; and our end of it."""

import socket
import subprocess

# Prints its port, then serves until its channel ends.
ECHO = """
import socket, sys, threading
listener = socket.create_server(("127.0.0.1", 0))
print("port", listener.getsockname()[1], flush=True)
def serve(stream):
    while data := stream.recv(65536):
        stream.sendall(data)
    stream.shutdown(socket.SHUT_WR)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


def echo_server(setting, ssh):
    """Starts the server in the session by this ssh command line; gives the process, which must be ended, and the port."""
    process = setting.start([*ssh, "exec python3 -"], stdin=subprocess.PIPE)
    process.stdin.write(ECHO.encode())
    process.stdin.close()
    process.stdin = None
    line = process.stdout.readline().split()
    if len(line) != 2:
        said = process.stderr.read().decode(errors="replace")
        setting.ended(process)
        raise RuntimeError(f"the server in the session did not start: {said}")
    return process, int(line[1])


def echoed(stream, data):
    """Sends all of `data` on a connected socket, and gives what came back until the end."""
    stream.settimeout(20)
    back = bytearray()
    sent = 0
    while sent < len(data):
        sent += stream.send(data[sent : sent + 16384])
        while len(back) < sent:
            part = stream.recv(65536)
            if not part:
                return bytes(back)
            back += part
    stream.shutdown(socket.SHUT_WR)
    while part := stream.recv(65536):
        back += part
    return bytes(back)


def through_socks(port, target):
    """A connection through a SOCKS5 server (RFC 1928) on loopback to `target`, a port of the session's loopback."""
    stream = socket.create_connection(("127.0.0.1", port), 10)
    stream.sendall(b"\x05\x01\x00")
    if stream.recv(2) != b"\x05\x00":
        raise ConnectionError("the SOCKS server wants a login")
    stream.sendall(b"\x05\x01\x00\x01" + socket.inet_aton("127.0.0.1") + target.to_bytes(2, "big"))
    answer = stream.recv(10)
    if answer[:2] != b"\x05\x00":
        stream.close()
        raise ConnectionError("the SOCKS server could not connect")
    return stream
