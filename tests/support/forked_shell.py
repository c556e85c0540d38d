"""Shell commands of a page, where ``fedkd`` and its like are forked and not new interpreters.

A folder at the head of ``PATH`` has a small program for each command. It hands its words, folder,
variables, umask and output to a thread here, which starts the command by the fork server that
`forked_cli` describes, and it ends as that command ends.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

from fedkd.simulations.checks.resume import FORKSERVER, prepare_forkserver
from tests.support.forked_cli import COMMANDS, run_main

TIMEOUT = 250.0
PROCESSES = threading.Lock()
"""Held where `multiprocessing` reads exit statuses: it reads those of all as one starts."""
LARGEST_REQUEST = 2**20
PROGRAM = """\
#!{python} -ISB
import json, os, socket, sys
words = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
umask = os.umask(0o77)
with socket.socket(socket.AF_UNIX) as listener:
    listener.connect({address!r})
    request = json.dumps([words, os.getcwd(), dict(os.environ), umask]).encode()
    socket.send_fds(listener, [request], [1, 2])
    listener.shutdown(socket.SHUT_WR)
    sys.exit(int(listener.recv(16) or b"1"))
"""


def run_in_shell(commands: str, folder: Path) -> str:
    """What ``commands`` print in ``folder``, standard errors among it, once all ended well."""
    with _forked_programs() as programs:
        python = Path(sys.executable).parent
        path = os.pathsep.join([str(programs), str(python), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-e", "-c", commands],
            cwd=folder,
            env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    logs = "".join(log.read_text() for log in folder.glob("*.log"))
    assert done.returncode == 0, done.stdout + logs
    return done.stdout


@contextmanager
def _forked_programs() -> Iterator[Path]:
    """A folder with a program for each command, and the thread that starts them."""
    prepare_forkserver()
    folder = Path(tempfile.mkdtemp(prefix="fedkd-"))  # short: the path of a socket has a limit
    address = str(folder / "socket")
    for name in COMMANDS:
        program = folder / name
        program.write_text(PROGRAM.format(python=sys.executable, address=address))
        program.chmod(0o700)
    started: list[BaseProcess] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        threading.Thread(target=_accept, args=(listener, started), daemon=True).start()
        try:
            yield folder
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            with PROCESSES:
                for process in started:  # those of a page that hung: it would hang our own end
                    process.kill()
            shutil.rmtree(folder)


def _accept(listener: socket.socket, started: list[BaseProcess]) -> None:
    while True:
        try:
            program, _ = listener.accept()
        except OSError:  # closed: all commands have ended
            return
        threading.Thread(target=_start, args=(program, started), daemon=True).start()


def _start(program: socket.socket, started: list[BaseProcess]) -> None:
    """Run what a program asks for, and send it the exit status."""
    with program:
        request, descriptors, _, _ = socket.recv_fds(program, LARGEST_REQUEST, 2)
        while more := program.recv(LARGEST_REQUEST):
            request += more
        outputs = [DupFd(each) for each in descriptors]
        process = FORKSERVER.Process(target=_main, args=(json.loads(request), outputs))
        with PROCESSES:
            process.start()
            started.append(process)
        wait([process.sentinel])
        with PROCESSES:
            status = process.exitcode
        for each in descriptors:
            os.close(each)
        program.sendall(str(status).encode())


def _main(request: tuple[list[str], str, dict[str, str], int], outputs: list[Any]) -> None:
    words, folder, environment, umask = request
    for number, output in enumerate(outputs, start=1):
        os.dup2(output.detach(), number)
    os.umask(umask)
    os.environ.clear()
    run_main(words, Path(folder), environment)
