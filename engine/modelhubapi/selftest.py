"""Predict a model's own samples and compare with what its configuration promises: `apptainer test`."""

import os

from modelhublib import ioconfig
from modelhublib.errors import as_text

from . import cases, hosting, outputs, private
from .hosting import Answer, say

_PICTURES = ("mask_image", "heatmap", "image")


class _Broken(Exception):
    """An output is not what the configuration promises."""


_EXPLAINED = (_Broken, cases.CaseError, outputs.OutputError)  # their messages say it all


def test(argv, contrib_src=hosting.CONTRIB_SRC):
    """Predict every sample, with a line for each; return 0, 3 where some failed, 4 where the model can't start."""
    answer = Answer()
    places = private.make_private()
    private.mend_environment()
    try:
        return _test(hosting.configured(contrib_src), answer, places)
    except KeyboardInterrupt:
        return hosting.EXIT_INTERRUPTED


def _test(api, answer, places):
    reason = hosting.try_to_load(api)
    if reason:
        answer.write(u"FAIL  the model does not start: %s\n" % reason)
        return hosting.EXIT_INVALID
    samples, failed = _samples(api), 0
    for path in samples:
        mark, words = _judge(api, answer, path, places)
        failed += mark == "FAIL"
        hosting.flush()
        answer.write(u"%-4s  %s  %s\n" % (mark, as_text(os.path.basename(path)), words))
    answer.write(_summary(len(samples), failed))
    return hosting.EXIT_FAILED_CASES if failed else hosting.EXIT_DONE


def _samples(api):
    """Return the paths of the samples: every file of sample_data, or its JSON files where inputs are several."""
    samples = api.get_samples()
    single = list(ioconfig.input_sections(api.load_config()["model"]["io"])) == ["single"]
    return [os.path.join(samples["folder"], name) for name in samples.get("files", ())
            if single or name.lower().endswith(".json")]


def _judge(api, answer, path, places):
    """Return ("ok", the outputs in a few words) of a sample, or ("FAIL", the reason)."""
    try:
        words = _try(api, path)
    except KeyboardInterrupt:
        raise
    except _EXPLAINED as error:
        return "FAIL", as_text(error.args[0])
    except BaseException as error:  # whatever the model does; SystemExit too
        answer.leave_if_forked()
        reason = hosting.short_error(error)
        say(hosting.short_traceback() + private.hint(reason, places.closed))
        return "FAIL", reason
    answer.leave_if_forked()
    return "ok", words


def _summary(total, failed):
    if not total:
        return u"The model starts. It comes without samples, so that nothing was predicted.\n"
    return u"%d of %d samples are predicted as the configuration says\n" % (total - failed, total)


def _try(api, path):
    """Predict a sample and check its outputs; return them in a few words. Raises what goes wrong."""
    found = cases.find_cases([path], api.load_config()["model"]["io"], api.contrib_src_dir)
    words = []
    for case in found:
        if case.problem:
            raise _Broken(case.problem)
        named, seconds = api.infer(hosting.model_input(api, case.input))
        for output in named:
            _check(output)
            words.append(u"%s: %s %s" % (output.name, output.type, output.shape))
        words.append(u"(%.3f s)" % seconds)
    return u"  ".join(words)


def _check(output):
    """Raise _Broken or outputs.OutputError if output is not what its type says."""
    if output.is_array and not outputs.is_text_array(output):
        value, shape = outputs.to_array(output, []), output.shape
    else:
        value, shape = outputs.to_json(output, []), _shape(output.value)
    if 0 in shape and not (output.type == "contour" and shape == [0]):  # where nothing is found there is no contour
        raise _Broken("%s: %s is empty, its shape is %s" % (output.name, output.type, shape))
    wrong = _wrong(output.type, value, shape)
    if wrong:
        raise _Broken("%s: %s %s" % (output.name, output.type, wrong))


def _wrong(kind, value, shape):
    """Return what keeps value from being of this kind; "" for none, and for kinds that promise nothing."""
    if kind == "label_list" and not _is_label_list(value):
        return 'is no list of {"label", "probability"}'
    if kind == "vector" and len([size for size in shape if size != 1]) > 1:
        return "has the shape %s, not one dimension" % shape
    if kind in _PICTURES and len(shape) < 2:
        return "has the shape %s, fewer than two dimensions" % shape
    return "is null" if value is None else ""


def _is_label_list(value):
    return isinstance(value, list) and all(
        isinstance(item, dict) and "label" in item and isinstance(item.get("probability"), (int, float))
        for item in value)


def _shape(value):
    """Return the shape of nested lists, by their first elements."""
    shape = []
    while isinstance(value, (list, tuple)):
        shape.append(len(value))
        value = value[0] if len(value) else None
    return shape
