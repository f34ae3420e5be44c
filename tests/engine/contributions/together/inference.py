"""A model that computes several inputs together, and says with which others each of them was.

Inputs: "NAME", "bad NAME" (its computation raises), "lost NAME" (infer_batch forgets one), "die NAME", "needs MIB".
"""

import os

from modelhublib.model import ModelBase


class Model(ModelBase):
    def infer(self, input):
        return self.infer_batch([input])[0]

    def infer_batch(self, inputs):
        words = [os.path.basename(each).split(" ")[0] for each in inputs]
        if "die" in words:
            os._exit(7)
        needed = b"x" * sum(int(each.split(" ")[1]) * 2 ** 20 for each in inputs if each.startswith("needs"))
        if "bad" in words:
            raise ValueError("no such thing")
        together = [{"own": os.path.basename(each), "together": len(inputs)} for each in inputs]
        del needed
        return together[1:] if "lost" in words and len(inputs) > 1 else together
