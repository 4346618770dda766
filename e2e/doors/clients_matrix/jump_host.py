"""A jump host on loopback: lets one key in and passes connections on, nothing else. Prints its port, writes known_hosts; ends when it is told to.

usage: jump_host.py FOLDER AUTHORIZED_KEYS
"""

import asyncio
import os
import sys

import asyncssh


class Server(asyncssh.SSHServer):
    def connection_requested(self, *_):
        return True


async def serve(folder, authorized_keys):
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.listen(
        "127.0.0.1", 0, server_factory=Server, server_host_keys=[key], authorized_client_keys=authorized_keys
    )  # fmt: skip
    port = server.get_port()
    with open(os.path.join(folder, "known_hosts"), "w", encoding="utf-8") as stream:
        stream.write(f"[127.0.0.1]:{port} {key.export_public_key().decode()}")
    print(port, flush=True)
    await server.wait_closed()


asyncio.run(serve(*sys.argv[1:]))
