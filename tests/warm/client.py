"""What stands as `ipt` before the real one: starts in milliseconds, for it imports next to nothing."""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import sys


def become_the_real_one() -> None:
    python = os.environ["IPT_WARM_PYTHON"]
    os.execv(python, [python, "-m", "instruct_ipt", *sys.argv[1:]])


def main() -> None:
    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(os.environ["IPT_WARM_ADDRESS"])
    except OSError:
        become_the_real_one()
    asked = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    files = array.array("i", [0, 1, 2])
    server.sendmsg([len(asked).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
    server.sendall(asked)
    answers = server.makefile()
    child = int(answers.readline())
    if not child:
        become_the_real_one()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os.kill(child, number))
    code = int(answers.readline())
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
