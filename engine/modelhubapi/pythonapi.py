"""The interface of a model for Python programs: notebooks, the HTTP server, the pipe service."""

import copy
import datetime
import io
import itertools
import json
import os
import time
import traceback

from modelhublib import ioconfig
from modelhublib.paths import TEXT_TYPES, native_path

from . import outputs

_clock = getattr(time, "perf_counter", time.time)
_file_numbers = itertools.count()


class ModelHubAPI(object):
    """A loaded model together with its contribution's folder.

    Every get_* method, and predict, returns {'error': text} instead of raising.
    """

    def __init__(self, model, contrib_src_dir):
        """model: an object with infer(input); contrib_src_dir: the folder that holds model/, license/ ..."""
        self.model = model
        self.output_folder = "/output"
        self.contrib_src_dir = contrib_src_dir
        self.framework_dir = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
        self._config = None

    def get_config(self):
        """Return the parsed config.json as a dict of the caller's own."""
        try:
            return copy.deepcopy(self.load_config())
        except (IOError, OSError, ValueError) as error:
            return {"error": str(error)}

    def get_legal(self):
        """Return the texts of the four licences; one that is missing is replaced by the key `error`."""
        places = (("modelhub_license", self.framework_dir, "LICENSE"),
                  ("modelhub_acknowledgements", self.framework_dir, "NOTICE"),
                  ("model_license", self.contrib_src_dir, os.path.join("license", "model")),
                  ("sample_data_license", self.contrib_src_dir, os.path.join("license", "sample_data")))
        legal = {}
        for key, folder, name in places:
            try:
                legal[key] = _read_text(os.path.join(folder, name))
            except (IOError, OSError) as error:
                legal["error"] = str(error)
        return legal

    def get_model_io(self):
        """Return the configuration's `model.io`."""
        config = self.get_config()
        if "error" in config:
            return config
        io_section = (config.get("model") or {}).get("io")
        return {"error": "config.json has no model.io"} if io_section is None else io_section

    def get_samples(self):
        """Return {"folder": absolute path, "files": sorted names}; folders inside it are not looked into."""
        folder = os.path.join(os.path.abspath(self.contrib_src_dir), "sample_data")
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            return {"error": repr(error)}
        files = [name for name in names if os.path.isfile(os.path.join(folder, name))]
        return {"folder": folder, "files": files}

    def predict(self, input_file_path, numpyToFile=True, url_root=""):
        """Return the model's outputs for one input, or {'error': repr of what was raised}.

        input_file_path: a path, the path of a .json file that names several inputs, or such a dict.
        numpyToFile: arrays go to HDF5 files in output_folder, and `prediction` is "api" + path
            (after url_root); otherwise `prediction` is a nested list.
        """
        try:
            named, seconds = self.infer(input_file_path)
            return self.answer(named, seconds, numpyToFile, url_root)
        except Exception as error:  # the promise of this method: callers look for the key, they don't catch
            traceback.print_exc()
            return {"error": repr(error)}

    def infer(self, input):
        """Return (list of outputs.Output, seconds spent on unpacking the input and in the model).

        Like predict, but whatever goes wrong is raised: IOError for an input that doesn't match the
        configuration, outputs.OutputError for a wrong number of outputs, and the model's own errors.
        """
        config = self.load_config()
        start = _clock()
        result = self.model.infer(self._unpack(input))
        seconds = _clock() - start
        return outputs.name_outputs(result, config["model"]["io"]["output"]), seconds

    def answer(self, named, seconds, numpyToFile=True, url_root=""):
        """Return what `predict` does for a list of outputs.Output; the arrays among them are written."""
        described = [self._describe(output, numpyToFile, url_root) for output in named]
        config = self.load_config()
        return {"output": described, "timestamp": _timestamp(), "processing_time": round(seconds, 3),
                "model": {"id": config["id"], "name": config["meta"]["name"]}}

    @property
    def takes_batches(self):
        """Whether the model can compute several inputs together."""
        return callable(getattr(self.model, "infer_batch", None))

    def infer_batch(self, inputs):
        """Return what infer returns for each of several inputs, which the model computes together.

        The seconds of each are its share. Raises what infer raises, for all of them.
        """
        config = self.load_config()
        start = _clock()
        results = self.model.infer_batch([self._unpack(input) for input in inputs])
        seconds = (_clock() - start) / len(inputs)
        if not isinstance(results, (list, tuple)) or len(results) != len(inputs):
            raise outputs.OutputError("infer_batch has to return a list with one result for each of its %d inputs"
                                      % len(inputs))
        specs = config["model"]["io"]["output"]
        return [(outputs.name_outputs(result, specs), seconds) for result in results]

    def load_config(self):
        """Return the parsed config.json, read once and shared: not to be changed. IOError, ValueError."""
        if self._config is None:
            path = os.path.join(self.contrib_src_dir, "model", "config.json")
            with io.open(path, encoding="utf-8") as stream:
                self._config = json.load(stream)
        return self._config

    def _unpack(self, input):
        """Return what the model's infer takes: a native path, or the dict of several inputs.

        Paths in a JSON file count from its own folder if there is such a file, else from the current one.
        """
        folder = ""
        if not isinstance(input, dict):
            path = native_path(input)
            if not path.lower().endswith(".json"):
                return path
            folder = os.path.dirname(path)
            with io.open(path, encoding="utf-8") as stream:
                input = json.load(stream)
        self._check_keys(input)
        return dict((key, _with_native_path(key, entry, folder)) for key, entry in input.items())

    def _check_keys(self, input):
        """Raise IOError unless every configured input is in the dict; more than those may be there."""
        wanted = ioconfig.input_sections(self.load_config()["model"]["io"])
        given = input if isinstance(input, dict) else {}
        missing = sorted(key for key in wanted if not isinstance(given.get(key), dict))
        if missing:
            raise IOError("The input json does not match the input schema in the configuration file: "
                          "it lacks %s" % ", ".join(missing))

    def _describe(self, output, to_file, url_root):
        prediction = output.value
        if output.is_array:
            to_file = to_file and not outputs.is_text_array(output)
            prediction = self._save(output, url_root) if to_file else prediction.tolist()
        return {"prediction": prediction, "shape": output.shape, "type": output.type,
                "name": output.name, "description": output.description}

    def _save(self, output, url_root):
        """Write the array as dataset `name` of a new HDF5 file; return "api" + its path, or its address."""
        import h5py
        import numpy
        array = outputs.to_array(output, [])
        path = os.path.join(self.output_folder, _unique_name() + ".h5")
        with h5py.File(path, "w-") as stream:  # w-: never over a file that is there
            stream.create_dataset(output.name, data=array)
            stream[output.name].attrs["type"] = numpy.bytes_(str(array.dtype).encode("ascii"))
        if url_root:
            return url_root + "api/output/" + os.path.basename(path)
        return "api" + path


def _with_native_path(key, entry, folder):
    """Return entry with its fileurl as a native path; entries that describe no file stay as they are."""
    if key in ("format", "description") or not isinstance(entry, dict):
        return entry
    if not isinstance(entry.get("fileurl"), TEXT_TYPES):
        raise IOError('The input "%s" has no "fileurl"' % key)
    path = native_path(entry["fileurl"])
    beside = os.path.join(folder, path)
    return dict(entry, fileurl=beside if os.path.exists(beside) else path)


def _read_text(path):
    with io.open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read()


def _timestamp():
    return datetime.datetime.now().strftime("%Y-%m-%d-%H-%M-%S-%f")


def _unique_name():
    """Return a name that no other process, also on another machine that shares the folder, will make."""
    token = "".join("%02x" % byte for byte in bytearray(os.urandom(8)))
    return "%s-%d-%d-%s" % (_timestamp(), os.getpid(), next(_file_numbers), token)
