"""What the test run's Ray starts in place of a worker: it asks `forked_workers` for one, and is there as long as that is.

It imports nothing of the package, so that it takes milliseconds.
"""

import json
import os
import socket
import sys


def main() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.connect(os.environ["FORKED_WORKERS"])
        wanted = {"arguments": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}
        socket.send_fds(server, [json.dumps(wanted).encode()], [0, 1, 2])
        code = server.recv(8)
    os._exit(int(code or b"1"))


if __name__ == "__main__":
    main()
