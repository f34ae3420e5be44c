"""What becomes of cases: one JSON object each, as `mh-hpc run --json` shows them, or rows of a CSV table."""

import collections
import json
import os
import re

from modelhublib.errors import as_text

from . import outputs
from .hosting import flush, model_input, short_error, short_traceback

_COLUMNS = (u"case", u"output", u"type", u"key", u"value")


class Report(object):
    """Predicts cases one by one and keeps what is to be said of them."""

    def __init__(self, api, answer, folder, as_csv):
        """folder: where arrays go, FOLDER/<case>/<output>.npy; None: nowhere. as_csv: CSV rather than JSON."""
        self._api, self._answer, self._folder, self._as_csv = api, answer, folder, as_csv
        self._facts = []
        self.failed = 0
        self.lost_arrays = False

    def add(self, case):
        """Predict a case; return why it failed, as text, or ""."""
        facts = self._predict(case)
        flush()
        self._facts.append(facts)
        self.failed += facts["error"] is not None
        return u"%(kind)s: %(message)s" % facts["error"] if facts["error"] else u""

    def write(self):
        """Write the answer. Raises IOError, OSError."""
        if self._as_csv:
            rows = [row for facts in self._facts for row in _rows(facts)]
            self._answer.write(u"".join(_line(row) for row in [_COLUMNS] + rows))
        else:
            whole = self._facts if len(self._facts) != 1 else self._facts[0]
            self._answer.write(as_text(json.dumps(whole, indent=2, separators=(",", ": "), allow_nan=False)) + u"\n")

    def _predict(self, case):
        """Return the facts of one case, whatever the model does."""
        if case.problem:
            return _failed(case, "input", case.problem, u"")
        try:
            named, seconds = self._api.infer(model_input(self._api, case.input))
            self._answer.leave_if_forked()
            notes = []
            described = [self._describe(case, output, notes) for output in named]
        except KeyboardInterrupt:
            raise
        except outputs.OutputError as error:
            self._answer.leave_if_forked()
            return _failed(case, "output", short_error(error), short_traceback())
        except BaseException as error:  # a model's error becomes data; SystemExit too
            self._answer.leave_if_forked()
            return _failed(case, "model", short_error(error), short_traceback())
        return _facts(case, "done", described, round(seconds, 6), notes, None)

    def _describe(self, case, output, notes):
        facts = collections.OrderedDict([
            ("name", output.name), ("type", output.type), ("description", output.description),
            ("shape", output.shape)])
        if output.is_array and not outputs.is_text_array(output):
            array = outputs.to_array(output, notes)
            facts.update([("dtype", str(array.dtype)), ("file", self._save(case, output.name, array))])
            if self._as_csv and array.ndim < 2:
                facts["prediction"] = array.tolist()
        else:
            facts["prediction"] = outputs.to_json(output, notes)
        return facts

    def _save(self, case, name, array):
        """Return the path of the file that the array was written to; None without a folder."""
        if self._folder is None:
            self.lost_arrays = True
            return None
        folder = os.path.join(self._folder, case.id)
        plain = str(re.sub("[^A-Za-z0-9._-]", "_", as_text(name)).lstrip(".")[:80] or "output")
        free, number = plain + ".npy", 1
        while os.path.lexists(os.path.join(folder, free)):  # names that differ only in what files may not have
            number += 1
            free = "%s-%d.npy" % (plain, number)
        outputs.save_array(array, folder, free)
        return as_text(os.path.join(folder, free))


def _failed(case, kind, message, evidence):
    error = collections.OrderedDict([("kind", kind), ("message", message), ("evidence", evidence)])
    return _facts(case, "failed", [], 0.0, [], error)


def _facts(case, status, described, seconds, notes, error):
    return collections.OrderedDict([
        ("case", case.id), ("status", status), ("output", described), ("seconds", seconds),
        ("notes", notes), ("error", error)])


def _rows(facts):
    """Return the rows of a case: one for each value; of an array with rows and columns its file and shape."""
    if facts["error"]:
        return [(facts["case"], u"", u"error", facts["error"]["kind"], facts["error"]["message"])]
    return [(facts["case"], output["name"], output["type"], key, value)
            for output in facts["output"] for key, value in _values(output)]


def _values(output):
    """Return (key, value) of every value: the label of a probability, the key in a dict, the number in a list."""
    if "prediction" not in output:
        shape = u"x".join(str(size) for size in output["shape"])
        return [(u"shape", shape)] + ([(u"file", output["file"])] if output["file"] else [])
    value = output["prediction"]
    if isinstance(value, dict):
        return sorted(value.items())
    if not isinstance(value, list):
        return [(u"", value)]
    return [_item(number, item) for number, item in enumerate(value)]


def _item(number, item):
    if isinstance(item, dict) and "label" in item:
        rest = [value for key, value in sorted(item.items()) if key != "label"]
        return item["label"], rest[0] if len(rest) == 1 else item.get("probability", item)
    return number, item


def _line(row):
    return u",".join(_cell(value) for value in row) + u"\n"


def _cell(value):
    text = as_text(value if isinstance(value, (bytes, type(u""))) else json.dumps(value))
    if not re.search(u"[\",\r\n]|^\\s|\\s$", text):
        return text
    return u'"%s"' % text.replace(u'"', u'""')
