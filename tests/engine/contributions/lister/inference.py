"""Predicts whatever lies in a folder, and leaves a file there: as models do that were made for the HTTP interface."""
import os

from modelhublib.model import ModelBase

FOLDER = os.environ["TEST_WORKING"]


class Model(ModelBase):
    def __init__(self):
        open(os.path.join(FOLDER, "of-the-model"), "w").close()
        os.mkdir(os.path.join(FOLDER, "place"))

    def infer(self, input):
        found = {}
        for name in os.listdir(FOLDER):
            path = os.path.join(FOLDER, name)
            if os.path.isfile(path):
                with open(path) as stream:
                    found[name] = stream.read()
        for name in ("left", os.path.join("place", "left")):
            with open(os.path.join(FOLDER, name), "w") as stream:
                stream.write("of an earlier case")
        if "raise" in found.values():
            raise ValueError("asked to")
        return found
