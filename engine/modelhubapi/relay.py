"""Reach a port of a container that has no network: each connection to a socket file goes on to that port."""

import os
import socket
import threading

_BLOCK = 65536
_HOST = "127.0.0.1"


def free_port():
    """Return a port of loopback that nobody listens on."""
    probe = socket.socket()
    try:
        probe.bind((_HOST, 0))
        return probe.getsockname()[1]
    finally:
        probe.close()


def fork_relay(path, port):
    """Listen at the socket file `path`, in a child process that ends with its container."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    if os.fork():
        listener.close()
        return
    try:
        while True:
            _in_thread(_join, listener.accept()[0], port)
    finally:
        os._exit(1)


def _join(ours, port):
    try:
        theirs = socket.create_connection((_HOST, port))
    except (IOError, OSError):
        ours.close()
        return
    _in_thread(_pour, ours, theirs)
    _pour(theirs, ours)


def _pour(source, target):
    """Pass on what comes until there is no more. Closing is left to the collector: the other way may be in use."""
    try:
        data = source.recv(_BLOCK)
        while data:
            target.sendall(data)
            data = source.recv(_BLOCK)
        target.shutdown(socket.SHUT_WR)
    except (IOError, OSError):
        for end in (source, target):
            _shut(end)


def _shut(end):
    try:
        end.shutdown(socket.SHUT_RDWR)
    except (IOError, OSError):
        pass  # closed already


def _in_thread(function, *arguments):
    thread = threading.Thread(target=function, args=arguments)
    thread.daemon = True
    thread.start()
