"""The relay from a socket file to a port, as the process that mh-hpc starts it in."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from modelhubapi import relay

START = ("import sys, time; from modelhubapi import relay; "
         "relay.fork_relay(sys.argv[1], int(sys.argv[2])); time.sleep(60)")


class Shouter(object):
    """A server that answers in capitals what it is told, once the client has said all."""

    def __init__(self):
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(8)
        self.port = self._listener.getsockname()[1]
        thread = threading.Thread(target=self._serve)
        thread.daemon = True
        thread.start()

    def _serve(self):
        while True:
            try:
                connection = self._listener.accept()[0]
            except (IOError, OSError):
                return
            connection.sendall(read_all(connection).upper())
            connection.close()

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def start(engine):
    """Return a function that starts a relay to a port and returns its socket file."""
    folder = tempfile.mkdtemp()  # the folders of tests have too long names for a socket
    processes = []

    def run(port):
        path = os.path.join(folder, "relay.sock")
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join([engine] + sys.path))
        command = [sys.executable, "-c", START, path, str(port)]
        processes.append(subprocess.Popen(command, env=environment, preexec_fn=os.setsid))
        deadline = time.time() + 10
        while not os.path.exists(path) and time.time() < deadline:
            time.sleep(0.01)
        return path
    yield run
    for process in processes:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    shutil.rmtree(folder)


def read_all(connection):
    pieces = []
    while not pieces or pieces[-1]:
        pieces.append(connection.recv(65536))
    return b"".join(pieces)


def connected(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    for _ in range(100):
        try:
            connection.connect(path)
            break
        except (IOError, OSError):
            time.sleep(0.05)  # the file is there a moment before somebody listens
    return connection


def test_both_ways_to_their_ends(start):
    server = Shouter()
    path = start(server.port)
    connections = [connected(path) for _ in range(3)]
    for number, connection in enumerate(connections):
        connection.sendall(b"abc%d" % number + b"x" * 300000)
        connection.shutdown(socket.SHUT_WR)
    for number, connection in enumerate(connections):
        assert read_all(connection) == b"ABC%d" % number + b"X" * 300000
        connection.close()
    server.close()


def test_nobody_listens_there(start):
    connection = connected(start(relay.free_port()))
    assert read_all(connection) == b""
    connection.close()
