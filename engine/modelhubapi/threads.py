"""The threads of frameworks that count the machine's cores and not those that this process was given."""

import os
import sys


def limit_frameworks():
    """Have frameworks that are imported from here on start as many threads as OMP_NUM_THREADS says.

    Most heed that variable, or one like it; ONNX Runtime heeds none.
    """
    count = os.environ.get("OMP_NUM_THREADS", "")
    if sys.version_info[0] > 2 and count.isdigit():  # there is no ONNX Runtime for Python 2
        sys.meta_path.insert(0, _AfterImport("onnxruntime", lambda module: _limit_onnxruntime(module, int(count))))


class _AfterImport(object):
    """A finder of modules that finds one, once, and has it changed after it was imported."""

    def __init__(self, name, change):
        self._name = name
        self._change = change

    def find_spec(self, name, path=None, target=None):
        if name != self._name:
            return None
        import importlib.util
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or not hasattr(spec.loader, "exec_module"):
            return spec
        run = spec.loader.exec_module

        def run_and_change(module):
            run(module)
            self._change(module)

        spec.loader.exec_module = run_and_change
        return spec


def _limit_onnxruntime(module, count):
    """Let sessions have `count` threads where their options leave the number open (0)."""
    make = module.InferenceSession.__init__

    def make_limited(self, path_or_bytes, sess_options=None, *more, **named):
        options = module.SessionOptions() if sess_options is None else sess_options
        if getattr(options, "use_per_session_threads", True):
            options.intra_op_num_threads = options.intra_op_num_threads or count
            options.inter_op_num_threads = options.inter_op_num_threads or count
        make(self, path_or_bytes, options, *more, **named)

    module.InferenceSession.__init__ = make_limited
