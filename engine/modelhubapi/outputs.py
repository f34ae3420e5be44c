"""What a model returned, taken apart into named outputs, and made fit for JSON or a file."""

import array
import base64
import json
import os
import sys

from modelhublib.errors import as_text
from modelhublib.paths import PY2, TEXT_TYPES

_INTEGERS = (int,) if not PY2 else (int, type(sys.maxsize + 1))
_LONG = 50  # labels, from which on packing them saves time
_FILE_KINDS = "biufcV"  # the dtype kinds that both .npy without pickle and HDF5 can hold


class OutputError(Exception):
    """The model returned something that can't be passed on."""


class _Plain(object):
    """A file as numpy does not know it: into real files it writes past Python, and can't say "disk full"."""

    def __init__(self, stream):
        self.write = stream.write


class Output(object):
    """One named output: name, type, description (text) and value (whatever the model returned)."""

    def __init__(self, name, type, description, value):
        self.name = name
        self.type = type
        self.description = description
        self.value = value

    @property
    def is_array(self):
        """True for a numpy array, also one without dimensions; numpy's scalars are not arrays."""
        return is_array(self.value)

    @property
    def shape(self):
        """The array's shape; for anything else its length, or nothing for what has none."""
        if self.is_array:
            return [int(size) for size in self.value.shape]
        return [len(self.value)] if hasattr(self.value, "__len__") else []


def is_array(value):
    # A value can only be an array if somebody has imported numpy: no need to do it here.
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def name_outputs(result, specs):
    """Return what infer returned as a list of Output, one for each of the configured specs.

    A result that is no list is the only output; with one configured output a list is that output too.
    Raises OutputError where the number of outputs is not the configured one.
    """
    values = _wrap(result, specs)
    if len(values) != len(specs):
        raise OutputError("the model returned %s where the configuration names %d outputs (%s)" % (
            _show_count(result), len(specs), ", ".join(spec.get("name", "?") for spec in specs)))
    names = _unique([spec.get("name", "output") for spec in specs])
    return [Output(name, spec.get("type", ""), spec.get("description", ""), value)
            for name, spec, value in zip(names, specs, values)]


def to_json(output, notes):
    """Return output's value as something strict JSON can hold; what had to be changed is said in notes.

    Raises OutputError naming the output and the type that can't be passed on.
    """
    if _is_plain(output.value):
        return output.value
    lost = []
    try:
        value = _jsonable(output.value, lost)
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: nested too deeply, or in itself
        raise OutputError("output '%s': %s" % (output.name, error))
    if lost:
        notes.append("output '%s': %d non-finite values became null" % (output.name, len(lost)))
    return value


def to_json_text(output, notes):
    """Return to_json(output, notes) as text, in ASCII: long answers take a while to encode, so it is done once."""
    try:
        return json.dumps(output.value, allow_nan=False)
    except (TypeError, ValueError, RuntimeError):
        return json.dumps(to_json(output, notes), allow_nan=False)


class LabelLists(object):
    """Packs long lists of {"label", "probability"}: to write a thousand labels out for every case takes a while."""

    def __init__(self):
        self._known = {}  # by position of the output: the labels that the host has
        self._packed = {}  # those that it will have, once the answer is sent

    def pack(self, position, output):
        """Return fields for the wire: the probabilities as packed doubles, the labels where they are not known yet.

        None for what is no such list, or holds anything but texts and finite floats.
        """
        parts = _labels_and_probabilities(output.value)
        if parts is None:
            return None
        labels, probabilities = parts
        packed = array.array("d", probabilities)
        if sys.byteorder != "little":
            packed.byteswap()
        data = packed.tostring() if PY2 else packed.tobytes()
        fields = {"probabilities": base64.b64encode(data).decode("ascii")}
        if self._known.get(position) != labels:
            if not set(map(type, labels)).issubset(TEXT_TYPES) or not _is_plain(labels):
                return None
            self._packed[position] = fields["labels"] = labels
        return fields

    def forget_packed(self):
        """Begin another answer: what was packed since the last one that was sent, the host has never seen."""
        self._packed = {}

    def note_sent(self):
        """Take note that the answer reaches the host."""
        self._known.update(self._packed)


def _labels_and_probabilities(value):
    if type(value) is not list or len(value) < _LONG or set(map(type, value)) != {dict} or set(map(len, value)) != {2}:
        return None
    try:
        labels, probabilities = [item["label"] for item in value], [item["probability"] for item in value]
    except KeyError:
        return None
    total = sum(probabilities) if set(map(type, probabilities)) == {float} else None
    if total is None or total - total != 0:  # inf - inf is NaN
        return None
    return labels, probabilities


def to_array(output, notes):
    """Return output's array as one that can be saved without pickling: native byte order, C order, no mask.

    Raises OutputError for what can't: objects, dates, masked integers.
    """
    import numpy
    array = _fill_masked(output, notes)
    # isbuiltin is 2 for number types added from outside (bfloat16 ...), which no file can tell.
    if array.dtype.hasobject or array.dtype.kind not in _FILE_KINDS or array.dtype.isbuiltin == 2:
        raise OutputError("output '%s' is an array of type %s, which cannot be saved; "
                          "arrays of numbers or truth values can" % (output.name, array.dtype))
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return numpy.asarray(array, order="C")


def save_array(array, folder, name):
    """Write array as folder/name, which appears whole or not at all; return its dtype and size.

    Raises OutputError if the file can't be written.
    """
    from numpy.lib import format as numpy_format  # numpy.save asks more of a file than _Plain offers
    path = os.path.join(folder, name)
    part = os.path.join(folder, "." + name + ".part")
    try:
        if not os.path.isdir(folder):
            os.makedirs(folder)
        with open(part, "wb") as stream:
            numpy_format.write_array(_Plain(stream), array, allow_pickle=False)
        size = os.path.getsize(part)
        os.rename(part, path)
    except (IOError, OSError) as error:
        if os.path.exists(part):
            os.unlink(part)
        raise OutputError("the array for %s could not be saved: %s" % (name, error))
    return {"dtype": str(array.dtype), "bytes": size}


def is_text_array(output):
    """True for an array of words: JSON can hold it, files of numbers can't."""
    return output.is_array and output.value.dtype.kind in "US"


def _wrap(result, specs):
    if len(specs) > 1 and isinstance(result, (list, tuple)) and not _is_label_list(result):
        return list(result)
    return [result]


def _is_label_list(result):
    return len(result) > 0 and all(isinstance(item, dict) and "label" in item for item in result)


def _show_count(result):
    if not isinstance(result, (list, tuple)) or _is_label_list(result):
        return "one output (%s)" % type(result).__name__
    return "%d outputs" % len(result)


def _unique(names):
    """Return names with a number put to those that were there before: ["a", "a"] -> ["a", "a_2"]."""
    unique = []
    for name in names:
        candidate, number = name, 1
        while candidate in unique:
            number += 1
            candidate = "%s_%d" % (name, number)
        unique.append(candidate)
    return unique


def _is_plain(value):
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RuntimeError):
        return False
    return True


def _jsonable(value, lost):
    """Return value in JSON's own types; each number that JSON can't hold is put into lost."""
    if value is None or isinstance(value, (bool, TEXT_TYPES[-1]) + _INTEGERS):
        return value
    if isinstance(value, float):
        return float(value) if value - value == 0 else lost.append(value)  # inf - inf is NaN
    if isinstance(value, bytes):
        return _text(value)
    if isinstance(value, dict):
        return _jsonable_dict(value, lost)
    if isinstance(value, (list, tuple)):
        return [_jsonable(item, lost) for item in value]
    return _jsonable(_from_numpy(value), lost)


def _jsonable_dict(value, lost):
    result = {}
    for key, item in value.items():
        name = _key(key)
        if name in result:
            raise TypeError("two keys of a dict become the same text, %r" % (name,))
        result[name] = _jsonable(item, lost)
    return result


def _key(key):
    """Return a dict's key as the text JSON makes of it; numbers of numpy are numbers."""
    key = _from_numpy(key) if not isinstance(key, (float, bytes, bool) + TEXT_TYPES + _INTEGERS) else key
    if isinstance(key, bytes):
        return _text(key)
    if isinstance(key, TEXT_TYPES):
        return key
    if isinstance(key, (bool, float) + _INTEGERS):
        return json.dumps(key)
    raise TypeError("a dict's key of type %s cannot be passed on" % type(key).__name__)


def _from_numpy(value):
    """Return a numpy scalar or array in Python's types, a masked element as None; or raise TypeError."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        plain = value.tolist()
        if type(plain) is not type(value):  # numpy's long doubles stay what they are
            return plain
        if isinstance(value, numpy.floating):
            return float(value)
    raise TypeError("a value of type %s cannot be passed on" % _type_name(value))


def _type_name(value):
    kind = type(value)
    return kind.__name__ if kind.__module__ in ("builtins", "__builtin__") else "%s.%s" % (
        kind.__module__, kind.__name__)


def _text(value):
    if not PY2:
        raise TypeError("a value of type bytes cannot be passed on")
    text = as_text(value)
    if u"\ufffd" in text and u"\ufffd".encode("utf-8") not in value:
        raise TypeError("a byte string that is not UTF-8 cannot be passed on")
    return text


def _fill_masked(output, notes):
    import numpy
    array = output.value
    if not isinstance(array, numpy.ma.MaskedArray):
        return numpy.asarray(array)
    masked = int(numpy.ma.count_masked(array))
    if not masked:
        return numpy.asarray(array.data)
    if array.dtype.kind not in "fc":
        raise OutputError("output '%s' has %d masked elements, and its type %s has no value that means "
                          "'missing'" % (output.name, masked, array.dtype))
    notes.append("output '%s': %d masked elements became NaN" % (output.name, masked))
    return numpy.asarray(array.filled(numpy.nan))
