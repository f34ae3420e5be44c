"""The cases that a command line names: files, KEY=FILE of a model with several inputs, ModelHub's JSON."""

import collections
import hashlib
import io
import json
import os
import re

from modelhublib import ioconfig
from modelhublib.errors import as_text
from modelhublib.paths import PY2, TEXT_TYPES, native_path

_MAX_ID = 80
_SINGLE_NAMES = ("single", "input", "file")
_LACKING = ("%s is not there, as seen from inside the container"
            " (show it more folders: apptainer run --bind FOLDER ...)")
_ADDRESS = re.compile("https?://", re.IGNORECASE)

# id: unique, fit for a file name. input: a path, or {key: {"fileurl": path}}. problem: why it can't be predicted, or ""
Case = collections.namedtuple("Case", "id input problem")


class CaseError(Exception):
    """What was named can't be understood as cases of this model."""


def find_cases(words, model_io, folder):
    """Return the cases that words name, in their order. Raises CaseError.

    model_io: the configuration's `model.io`; folder: where relative paths start. Files that a JSON file names
    are looked for beside it first.
    """
    keys = sorted(ioconfig.input_sections(model_io))
    pairs = [_pair(word, keys) for word in words]
    if keys != ["single"] and any(pairs):  # a single input may well be a file with "=" in its name
        named = [("case", _from_pairs(words, pairs, keys))]
    else:
        named = [each for word in words for each in _from_word(word, keys, folder)]
    ids = _unique([_safe(name) for name, _ in named])
    return [_case(id, paths, keys, folder) for id, (_, paths) in zip(ids, named)]


def _pair(word, keys):
    """Return (key, path) of KEY=FILE; None if the word is something else."""
    key, equals, path = word.partition("=")
    return (key, path) if equals and key in keys else None


def _from_pairs(words, pairs, keys):
    if None in pairs:
        raise CaseError("%s is no KEY=FILE; this model has the inputs %s"
                        % (_shown(words[pairs.index(None)]), ", ".join(keys)))
    given = dict(pairs)
    if len(given) < len(pairs) or len(given) < len(keys):
        raise CaseError("Name each input once: %s" % " ".join("%s=FILE" % key for key in keys))
    return given


def _from_word(word, keys, folder):
    """Return [(name, {key: path})] of one word that stands alone."""
    if word.lower().endswith(".json"):
        return _from_json(_absolute(word, folder), keys)
    if len(keys) > 1:
        raise CaseError("This model has several inputs: name them as %s, or in a JSON file"
                        % " ".join("%s=FILE" % key for key in keys))
    return [(_stem(word), {keys[0]: word})]


def _from_json(path, keys):
    """Return the cases of ModelHub's JSON: {key: {"fileurl": path}}, or a list of such."""
    try:
        with io.open(path, encoding="utf-8-sig") as stream:
            given = json.load(stream)
    except (IOError, OSError, ValueError) as error:
        raise CaseError("%s cannot be used: %s" % (_shown(path), as_text(str(error))))
    objects = given if isinstance(given, list) else [given]
    names = ["%s_%d" % (_stem(path), number + 1) for number in range(len(objects))]
    named = zip(names if isinstance(given, list) else [_stem(path)], objects)
    return [_from_object(path, name, each, keys) for name, each in named]


def _from_object(path, name, given, keys):
    given = given if isinstance(given, dict) else {}
    paths = dict((key, _fileurl(path, given, key)) for key in keys)
    return given.get("case_id") or name, paths


def _fileurl(path, given, key):
    """Return the path of one input, which counts from the JSON's folder if there is such a file."""
    names = _SINGLE_NAMES if key == "single" else (key,)
    entry = next((given[name] for name in names if name in given), None)
    url = entry.get("fileurl") if isinstance(entry, dict) else None
    if not isinstance(url, TEXT_TYPES) or not url:
        raise CaseError('%s lacks the input "%s" with its "fileurl"' % (_shown(path), key))
    if _ADDRESS.match(url):
        raise CaseError("%s: %s is no file; fetch it first and name that" % (_shown(path), _shown(url)))
    beside = os.path.join(os.path.dirname(path), native_path(url))
    return beside if os.path.exists(beside) else native_path(url)


def _case(id, paths, keys, folder):
    found = dict((key, _absolute(path, folder)) for key, path in paths.items())
    lacking = [found[key] for key in keys if not os.path.exists(found[key])]
    problem = _LACKING % _shown(lacking[0]) if lacking else ""
    if keys == ["single"]:
        return Case(id, found["single"], problem)
    return Case(id, dict((key, {"fileurl": path}) for key, path in found.items()), problem)


def _absolute(path, folder):
    return os.path.normpath(os.path.join(folder, path))


def _stem(path):
    name = os.path.basename(os.path.normpath(path))
    stem, extension = os.path.splitext(name)
    return os.path.splitext(stem)[0] if extension.lower() == ".gz" else stem


def _safe(name):
    """Return name as a file name; one that had to be changed ends in a hash, as in runs of many cases."""
    raw = name if isinstance(name, bytes) else name.encode("utf-8", "replace" if PY2 else "surrogateescape")
    plain = re.sub("[^A-Za-z0-9._-]", "_", as_text(name)) or "_"
    plain = "_" + plain[1:] if plain[0] in "-." else plain
    if plain == as_text(name) and len(plain) <= _MAX_ID:
        return str(plain)
    return str("%s-%s" % (plain[:_MAX_ID - 7], hashlib.sha256(raw).hexdigest()[:6]))


def _unique(ids):
    """Return ids with a number put to those that were there before, also where only the case differs."""
    taken, unique = set(), []
    for id in ids:
        candidate, number = id, 1
        while candidate.lower() in taken:
            number += 1
            candidate = "%s-%d" % (id, number)
        taken.add(candidate.lower())
        unique.append(candidate)
    return unique


def _shown(path):
    """Return path as one line that a terminal can show."""
    return u"".join(c if ord(c) >= 32 and c != u"\x7f" and not 0xD800 <= ord(c) < 0xE000 else u"\ufffd"
                    for c in as_text(path))
