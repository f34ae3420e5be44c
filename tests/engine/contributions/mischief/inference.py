"""A model that does what the name of its input says: everything that a model must not be able to break."""

import ctypes
import os
import resource
import subprocess
import sys
import threading
import time

import numpy

from modelhublib.model import ModelBase

print("printed while importing")
if "MISCHIEF_AT_IMPORT" in os.environ:
    exec(os.environ["MISCHIEF_AT_IMPORT"])


class Model(ModelBase):

    def __init__(self):
        print("printed while loading")
        exec(os.environ.get("MISCHIEF_AT_LOAD", ""))

    def infer(self, input):
        return getattr(self, os.path.basename(input).split(" ")[0])(input)

    def fine(self, input):
        return input

    def needs(self, input):
        # so many MiB, for as long as the case lasts; and then it may fail
        block = b"x" * (int(input.split(" ")[1]) * 2 ** 20)
        if input.endswith("in vain"):
            raise ValueError(len(block))
        return input

    def opens_no_more(self, input):
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        return input

    def finds_nothing(self, input):
        return []

    def prints(self, input):
        print("from Python")
        sys.stdout.flush()
        os.write(1, b"from the descriptor\n")
        os.system("echo from a shell")
        subprocess.call(["sh", "-c", "echo from a child; cat"])  # stdin is empty, so cat ends
        libc = ctypes.CDLL(None)
        libc.puts(b"from C")
        libc.fflush(None)
        return sys.stdin.read()

    def prints_for_ever(self, input):
        def talk():
            while True:
                print("still here")
                sys.stdout.flush()
                time.sleep(0.01)
        threading.Thread(target=talk).start()
        return "talking"

    def closes_stdout(self, input):
        sys.stdout.close()
        sys.stdout = None
        return "closed"

    def forks(self, input):
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        return "child" if child == 0 else "parent"

    def forks_twice(self, input):
        child = os.fork()
        if child == 0:
            os.fork()
            return "child"
        os.waitpid(child, 0)
        return "parent"

    def forks_and_raises(self, input):
        child = os.fork()
        if child == 0:
            raise ValueError("in the child")
        os.waitpid(child, 0)
        return "parent"

    def leaves_a_child(self, input):
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        return "left"

    def raises(self, input):
        raise ValueError(u"not like this: \u00e9")

    def exits(self, input):
        sys.exit("enough")

    def dies(self, input):
        os._exit(7)

    def stack(self, input):
        return self.stack(input)

    def array(self, input):
        return numpy.arange(6, dtype=">f4").reshape(2, 3).T

    def not_finite_array(self, input):
        return numpy.array([1, numpy.nan, numpy.inf])

    def point(self, input):
        return numpy.array(2.5)

    def scalar(self, input):
        return numpy.float32(0.5)

    def nothing(self, input):
        return None

    def number(self, input):
        return 0.25

    def not_finite(self, input):
        return [{"label": "a", "probability": float("nan")},
                {"label": "b", "probability": numpy.float32("inf")}]

    def mixed(self, input):
        return {"t": (1, numpy.int64(2)), numpy.int32(3): numpy.array([[1.5]]), "flag": numpy.bool_(True)}

    def words(self, input):
        return numpy.array(["left", "right"])

    def masked(self, input):
        return numpy.ma.masked_array([1.0, 2.0], mask=[False, True])

    def masked_integers(self, input):
        return numpy.ma.masked_array([1, 2], mask=[False, True])

    def masked_nowhere(self, input):
        return numpy.ma.masked_array([1, 2])

    def generator(self, input):
        return (number for number in range(3))

    def bytes(self, input):
        return b"\xff\xfe"

    def objects(self, input):
        return numpy.array([{}, None], dtype=object)

    def dates(self, input):
        return numpy.array(["2018-01-01"], dtype="datetime64[D]")

    def itself(self, input):
        circle = []
        circle.append(circle)
        return circle

    def foreign(self, input):
        return {"tensor": threading.Lock()}

    def large(self, input):
        return numpy.ones((1000, 1000, 10), dtype="float64")
