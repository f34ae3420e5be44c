"""The base class of every contributed model."""


class ModelBase(object):
    """A model that was loaded once and is asked many times.

    A model that is faster with several inputs at once may have a method infer_batch(inputs) as well: it takes a list of
    what infer takes, and returns a list with what infer returns for each of them, in the same order.
    """

    def __init__(self):
        pass

    def infer(self, input):
        """Return what the model makes of one input.

        input: a file path (models with one input), or a dict {key: {"fileurl": path}, ...}.
        Returns one output, or a list with one item per output of the configuration.
        """
        raise NotImplementedError("A model has to say how it infers")
