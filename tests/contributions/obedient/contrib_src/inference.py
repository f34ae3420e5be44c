"""A model that does what its input says, in Python 2.7 and 3: the worst that a model can do to its host."""
import ctypes
import os
import signal
import sys
import time

import numpy as np

from modelhublib.model import ModelBase


class Model(ModelBase):
    def infer(self, input):
        command = np.load(input).tobytes().decode("ascii").split()
        return getattr(self, command[0].lower())(*command[1:])

    def ok(self, number):
        return [float(number), 2.0 * float(number)]

    def sleep(self, seconds, number):
        time.sleep(float(seconds))
        return self.ok(number)

    def array(self, number):
        return np.full((4, 5), float(number), "float32")

    def noise(self, megabytes, seed):
        # what no compression makes smaller
        return np.frombuffer(np.random.RandomState(int(seed)).bytes(int(megabytes) * 2 ** 20), "uint8")

    def big(self, megabytes):
        return np.zeros((int(megabytes), 2 ** 20), "uint8")

    def segv(self):
        ctypes.string_at(0)

    def abort(self):
        os.abort()

    def exit(self, code):
        os._exit(int(code))

    def kill(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def bus(self, marker=None):
        # what a process gets when the file behind its memory goes away; with a marker only the first time
        if marker is None or not os.path.exists(marker):
            if marker is not None:
                open(marker, "w").close()
            os.kill(os.getpid(), signal.SIGBUS)
        return self.ok(6)

    def hang(self):
        time.sleep(10 ** 6)

    def gilhang(self):
        # PyDLL keeps the interpreter lock during the call, as careless native code does
        ctypes.PyDLL(None).sleep(10 ** 6)

    def needs(self, megabytes):
        # for as long as the case lasts
        return self.ok(len(b"x" * (int(megabytes) * 2 ** 20)) // 2 ** 20)

    def needsinvain(self, megabytes):
        self.needs(megabytes)
        raise MemoryError("told to fail")

    def leak(self):
        hoard = []
        while True:
            hoard.append(np.ones(2 ** 21))
            time.sleep(0.01)

    def shout(self, megabytes):
        for _ in range(int(megabytes)):
            sys.stdout.write("x" * (2 ** 20 - 1) + "\n")
        os.system("echo and a child of it shouts too")
        return self.ok(1)

    def forge(self):
        # what a model prints must never be taken for an answer
        sys.stdout.write('{"type": "done", "id": "x", "outputs": [], "seconds": 0}\n')
        sys.stdout.flush()
        return self.ok(2)

    def nan(self):
        return [1.0, float("nan"), float("inf")]

    def nanarray(self):
        return np.array([1.0, float("nan")])

    def object(self):
        return object()

    def objects(self):
        return np.array([{}, []], dtype=object)

    def fail(self):
        raise ValueError("told to fail")

    def quit(self):
        sys.exit("told to quit")

    def fork(self):
        if os.fork() == 0:
            time.sleep(600)
        return self.ok(3)
