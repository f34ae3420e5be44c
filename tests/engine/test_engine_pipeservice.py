# -*- coding: utf-8 -*-
"""The pipe service as a real process, with a model that does its worst."""

import base64
import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy
import PIL.Image
import pytest

from modelhubapi import outputs


class Service(object):
    """A running pipe service; messages go out by ask() and come back by read()."""

    def __init__(self, engine, folder, output_dir, working=None, **environment):
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join([engine] + sys.path),
                           PYTHONDONTWRITEBYTECODE="1", **environment)
        self.output_dir = output_dir
        self.stderr_path = output_dir + ".stderr"
        with open(self.stderr_path, "wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "modelhubapi.pipeservice", "--contrib-src", folder]
                + (["--working", working] if working else []),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, cwd="/", env=environment,
                # Whoever runs these tests in the background has them ignore interrupts.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))

    def write(self, data):
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def ask(self, input, id="1"):
        self.ask_together([(input, id)])

    def ask_together(self, cases):
        """Ask for cases (input, id) that are to be computed together."""
        requests = [{"id": id, "input": input, "output_dir": os.path.join(self.output_dir, id) if len(cases) > 1
                     else self.output_dir} for input, id in cases]
        self.write(json.dumps({"type": "predict", "requests": requests}).encode("ascii") + b"\n")

    def read(self):
        line = self.process.stdout.readline()
        return strict(line) if line else None

    def answer(self, input, id="1"):
        self.ask(input, id)
        return self.read()

    def end(self):
        """Close the pipe; return the exit code."""
        self.process.stdin.close()
        return self.wait()

    def wait(self):
        """Return the exit code; None if there is none after ten seconds."""
        deadline = time.time() + 10
        while self.process.poll() is None and time.time() < deadline:
            time.sleep(0.01)
        return self.process.poll()

    def kill(self):
        """Leave nothing of the process behind."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stdin.close()

    def stderr(self):
        with open(self.stderr_path, "rb") as stream:
            return stream.read().decode("utf-8")

    def array(self, output):
        return numpy.load(os.path.join(self.output_dir, output["file"]), allow_pickle=False)


def strict(line):
    def refuse(word):
        raise AssertionError("%s is not JSON" % word)
    assert line.endswith(b"\n") and all(byte < 128 for byte in bytearray(line))
    return json.loads(line.decode("ascii"), parse_constant=refuse)


@pytest.fixture
def start(engine, contribution, tmp_path):
    """Return a function that starts the service of a contribution, by name or folder, and reads `first` of it."""
    started = []

    def run(name="mischief", **environment):
        folder = name if os.path.isabs(name) else contribution(name)
        service = Service(engine, folder, str(tmp_path / "scratch"), **environment)
        started.append(service)
        service.first = service.read()
        return service
    yield run
    for service in started:
        service.kill()


@pytest.fixture(scope="module")
def lasting_service(engine, tmp_path_factory):
    """One service of the mischievous model for all the tests that it has to survive."""
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "contributions", "mischief")
    service = Service(engine, folder, str(tmp_path_factory.mktemp("lasting") / "scratch"))
    assert service.read()["type"] == "ready"
    yield service
    assert service.answer("fine")["type"] == "done"
    service.kill()


@pytest.fixture
def lasting(lasting_service, tmp_path):
    """The lasting service, with an output folder of this test's own."""
    lasting_service.output_dir = str(tmp_path / "scratch")
    return lasting_service


@pytest.fixture
def mischief(start):
    """A running service of the model that does what its input's name says."""
    service = start()
    assert service.first["type"] == "ready"
    return service


def test_ready_says_who_speaks(mischief):
    assert mischief.first == {
        "type": "ready", "protocol": 2, "batches": False,
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "engine": "1.0.0", "model": {"id": "5c1e1ab4-0000-4d8b-8f0e-2f6d1c8f0003", "name": "Mischief"}}


def test_a_prediction(mischief):
    answer = mischief.answer("/data/fine", "case 1")
    assert answer.pop("seconds") >= 0
    assert answer.pop("peak_mb") > 0
    assert answer == {"type": "done", "id": "case 1", "batch": 1, "notes": [], "outputs": [
        {"name": "trouble", "type": "custom", "description": "", "prediction": "/data/fine", "shape": [10]}]}
    assert mischief.end() == 0


def test_each_answer_tells_the_peak_of_its_own_case(lasting):
    before = lasting.answer("fine")["peak_mb"]
    failed = lasting.answer("needs 120 in vain")
    peaks = [lasting.answer(input)["peak_mb"] for input in ("needs 40", "fine", "needs 80", "fine")]
    assert failed["type"] == "failed" and abs(failed["peak_mb"] - before - 120) < 8
    assert [round((peak - before) / 10) for peak in peaks] == [4, 0, 8, 0]


def test_cases_computed_together_have_their_peak_in_common(start):
    service = start("together")
    before = service.answer("a")["peak_mb"]
    service.ask_together([("needs 30", "1"), ("b", "2"), ("needs 50", "3")])
    together = [service.read()["peak_mb"] for _ in range(3)]
    assert all(abs(peak - before - 80) < 8 for peak in together)
    assert abs(service.answer("a")["peak_mb"] - before) < 8


def test_a_batch_that_failed_does_not_count_for_its_cases(start):
    service = start("together")
    before = service.answer("a")["peak_mb"]
    service.ask_together([("a", "1"), ("bad b", "2"), ("needs 80", "3")])
    alone = [service.read()["peak_mb"] - before for _ in range(3)]
    assert max(alone[:2]) < 8 and abs(alone[2] - 80) < 8


def test_a_peak_that_cannot_be_told_is_not_made_up(mischief):
    mischief.answer("opens_no_more")
    answers = [mischief.answer(input) for input in ("fine", "needs 40 in vain")]
    assert [(each["type"], each["peak_mb"]) for each in answers] == [("done", None), ("failed", None)]


def test_messages_sent_ahead_are_answered_in_order(lasting):
    for number in range(50):
        lasting.ask("fine", str(number))
    assert [lasting.read()["id"] for _ in range(50)] == [str(number) for number in range(50)]


def test_what_is_in_the_pipe_is_answered_before_the_end(mischief):
    mischief.ask("fine", "1")
    mischief.ask("fine", "2")
    assert mischief.end() == 0
    assert [mischief.read()["id"], mischief.read()["id"], mischief.read()] == ["1", "2", None]


def test_what_the_model_prints_goes_to_stderr(mischief):
    assert mischief.answer("prints")["outputs"][0]["prediction"] == ""
    assert mischief.answer("fine")["type"] == "done"
    assert mischief.end() == 0
    text = mischief.stderr()
    for words in ("printed while importing", "printed while loading", "from Python", "from the descriptor",
                  "from a shell", "from a child", "from C"):
        assert words in text, words


def test_a_thread_that_prints_for_ever_does_not_keep_the_process(mischief):
    assert mischief.answer("prints_for_ever")["type"] == "done"
    for _ in range(20):
        assert mischief.answer("fine")["type"] == "done"
    before = time.time()
    assert mischief.end() == 0
    assert time.time() - before < 5
    assert "still here" in mischief.stderr()


def test_a_model_that_closes_stdout(mischief):
    assert mischief.answer("closes_stdout")["type"] == "done"
    assert mischief.answer("fine")["type"] == "done"
    assert mischief.end() == 0


@pytest.mark.parametrize("how", ["forks", "forks_twice", "forks_and_raises"])
def test_a_forked_child_never_answers(mischief, how):
    answer = mischief.answer(how)
    assert answer["outputs"][0]["prediction"] == "parent"
    assert mischief.answer("fine", "next")["id"] == "next"
    assert mischief.end() == 0 and mischief.read() is None
    assert "Bad file descriptor" not in mischief.stderr()


@pytest.mark.skipif(sys.version_info < (3, 7), reason="a child can only be told to let go since Python 3.7")
def test_a_child_that_lives_on_does_not_hold_the_wire(mischief):
    assert mischief.answer("leaves_a_child")["type"] == "done"
    mischief.end()
    before = time.time()
    assert mischief.read() is None
    assert time.time() - before < 5


def test_a_child_forked_while_loading_never_answers(start):
    service = start(MISCHIEF_AT_LOAD="os.fork() and os.wait()")
    assert service.first["type"] == "ready"
    assert service.answer("fine")["type"] == "done"
    assert service.end() == 0 and service.read() is None


def test_an_error_of_the_model_is_an_answer(lasting):
    answer = lasting.answer("raises")
    assert (answer["type"], answer["kind"], answer["id"]) == ("failed", "model", "1")
    assert answer["error"].startswith("ValueError: not like this: ")
    assert "inference.py" in answer["traceback"] and "raises" in answer["traceback"]
    assert lasting.answer("fine")["type"] == "done"


def test_a_model_that_exits_has_failed_that_case(lasting):
    answer = lasting.answer("exits")
    assert (answer["type"], answer["kind"], answer["error"]) == ("failed", "model", "SystemExit: enough")
    assert lasting.answer("fine")["type"] == "done"


def test_a_very_long_traceback_is_cut_in_the_middle(lasting):
    answer = lasting.answer("stack")
    assert answer["type"] == "failed" and "recursion" in answer["error"]
    assert 100 < len(answer["traceback"]) < 21000


def test_a_model_that_ends_the_process_ends_the_wire(mischief):
    mischief.ask("dies")
    assert mischief.read() is None
    assert mischief.wait() == 7


def test_an_array_is_a_file(lasting):
    output, = lasting.answer("array")["outputs"]
    assert output == {"name": "trouble", "type": "custom", "description": "", "shape": [3, 2],
                      "file": "0.npy", "dtype": "float32", "bytes": output["bytes"]}
    array = lasting.array(output)
    assert (array == numpy.arange(6).reshape(2, 3).T).all()
    assert array.flags.c_contiguous and array.dtype.isnative
    assert os.listdir(lasting.output_dir) == ["0.npy"]
    assert os.path.getsize(os.path.join(lasting.output_dir, "0.npy")) == output["bytes"]


def test_arrays_keep_what_json_cannot_say(lasting):
    array = lasting.array(lasting.answer("not_finite_array")["outputs"][0])
    assert numpy.isnan(array[1]) and numpy.isinf(array[2])


def test_an_array_without_dimensions(lasting):
    output, = lasting.answer("point")["outputs"]
    assert output["shape"] == [] and lasting.array(output)[()] == 2.5


def test_a_large_array(lasting):
    output, = lasting.answer("large")["outputs"]
    assert output["bytes"] > 8e7 and lasting.array(output).sum() == 1e7


@pytest.mark.parametrize("name, prediction, shape", [
    ("scalar", 0.5, []), ("nothing", None, []), ("number", 0.25, []), ("words", ["left", "right"], [2]),
    ("mixed", {"t": [1, 2], "3": [[1.5]], "flag": True}, [3])])
def test_what_json_can_say_comes_in_the_answer(lasting, name, prediction, shape):
    answer = lasting.answer(name)
    assert answer["outputs"][0]["prediction"] == prediction and answer["outputs"][0]["shape"] == shape
    assert answer["notes"] == []


def test_numbers_that_json_lacks_become_null_with_a_note(lasting):
    answer = lasting.answer("not_finite")
    assert answer["outputs"][0]["prediction"] == [
        {"label": "a", "probability": None}, {"label": "b", "probability": None}]
    assert answer["notes"] == ["output 'trouble': 2 non-finite values became null"]


def test_masked_arrays(lasting):
    answer = lasting.answer("masked")
    array = lasting.array(answer["outputs"][0])
    assert array[0] == 1 and numpy.isnan(array[1])
    assert answer["notes"] == ["output 'trouble': 1 masked elements became NaN"]
    assert list(lasting.array(lasting.answer("masked_nowhere")["outputs"][0])) == [1, 2]
    refused = lasting.answer("masked_integers")
    assert refused["kind"] == "output" and "1 masked elements" in refused["error"]


@pytest.mark.parametrize("name, named", [
    ("generator", "generator"), ("bytes", "byte"), ("objects", "object"), ("dates", "datetime64"),
    ("itself", "'trouble'"), ("foreign", "lock")])
def test_what_cannot_be_passed_on_is_named(lasting, name, named):
    answer = lasting.answer(name)
    assert (answer["type"], answer["kind"]) == ("failed", "output")
    assert "'trouble'" in answer["error"] and named in answer["error"]
    assert not os.path.isdir(lasting.output_dir) or os.listdir(lasting.output_dir) == []
    assert lasting.answer("fine")["type"] == "done"


def test_an_array_that_cannot_be_saved_leaves_nothing(lasting):
    with open(lasting.output_dir, "w") as stream:
        stream.write("a file where the folder should be")
    answer = lasting.answer("array")
    assert answer["kind"] == "output" and "could not be saved" in answer["error"]


def test_an_array_that_does_not_fit_says_why_and_leaves_nothing(start):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))"
    service = start(MISCHIEF_AT_LOAD=limit)
    answer = service.answer("large")
    assert answer["kind"] == "output" and "[Errno %d]" % errno.EFBIG in answer["error"]
    assert os.listdir(service.output_dir) == []
    assert service.answer("array")["type"] == "done"


def test_unknown_messages_get_a_word_on_stderr_only(mischief):
    mischief.write(b'{"type": "dance"}\nno json\n\xff\xfe\n[1]\n{"type": "predict"}\n')
    mischief.write(b'{"type": "predict", "requests": [{"id": "x", "input": "y"}, {"input": "y"}]}\n')
    assert mischief.answer("fine", "after")["id"] == "after"
    assert mischief.end() == 0
    text = mischief.stderr()
    assert "dance" in text and "not JSON" in text and "lacks its requests" in text and "lacks id" in text


def test_names_of_any_bytes_reach_the_model(lasting):
    raw = b"/data/\xc3\xa9\n\xff/fine \xe4'\""
    name = u"/data/\u00e9\n\udcff/fine \udce4'\""
    prediction = lasting.answer(name)
    if sys.version_info[0] == 2:  # a byte string that is no text can't be a prediction there
        assert prediction["kind"] == "output"
        return
    assert prediction["outputs"][0]["prediction"].encode("utf-8", "surrogateescape") == raw


@pytest.mark.parametrize("when", ["IMPORT", "LOAD"])
@pytest.mark.parametrize("code, error", [
    ("raise ValueError('no weights')", "ValueError: no weights"), ("sys.exit(0)", "SystemExit: 0"),
    ("import missing_module", "missing_module")])
def test_a_model_that_cannot_start_is_fatal(start, when, code, error):
    service = start(**{"MISCHIEF_AT_" + when: code})
    assert service.first["type"] == "fatal" and error in service.first["error"]
    assert "inference.py" in service.first["traceback"]
    assert service.read() is None and service.wait() == 1


def test_a_contribution_that_is_none_is_fatal(engine, tmp_path):
    service = Service(engine, str(tmp_path), str(tmp_path / "scratch"))
    assert "config.json" in service.read()["error"]
    assert service.wait() == 1
    service.process.stdout.close()
    service.process.stdin.close()


def test_the_models_errors_while_a_thread_lives_on_still_end(start):
    code = "import threading; threading.Thread(target=time.sleep, args=(60,)).start(); raise ValueError('no')"
    service = start(MISCHIEF_AT_LOAD=code)
    before = time.time()
    assert service.wait() == 1 and time.time() - before < 5


def test_a_host_that_is_gone_ends_the_service(mischief):
    mischief.process.stdout.close()
    mischief.ask("fine")
    assert mischief.wait() == 1
    assert "the host is gone" in mischief.stderr()


def test_an_interrupt_ends_the_service(mischief):
    mischief.answer("fine")
    mischief.process.send_signal(signal.SIGINT)
    assert mischief.wait() == 130


def test_a_model_of_several_inputs(start, tmp_path):
    service = start("volumes")
    paths = {}
    for key, value in (("t1", 1), ("t2", 0)):
        paths[key] = {"fileurl": str(tmp_path / ("%s.npy" % key))}
        numpy.save(paths[key]["fileurl"], numpy.full((2, 2, 2), value))
    answer = service.answer(paths)
    assert [output["name"] for output in answer["outputs"]] == ["mask", "mask_2"]
    assert service.array(answer["outputs"][0]).sum() == 8
    assert answer["outputs"][1]["prediction"] == {"above": 8}
    del paths["t2"]
    failed = service.answer(paths)
    assert failed["kind"] == "model" and "it lacks t2" in failed["error"]


def test_a_model_of_one_input(start, tmp_path):
    path = str(tmp_path / "white.png")
    PIL.Image.new("RGB", (9, 9), (255, 255, 255)).save(path)
    service = start("pictures")
    assert service.answer(path)["outputs"][0]["prediction"][1] == {"label": "bright", "probability": 1.0}
    assert "Was not able to load" in service.answer(path + ".missing")["error"]


def test_the_working_folder_holds_the_input_and_nothing_of_earlier_cases(start, tmp_path):
    folder = tmp_path / "working"
    folder.mkdir()
    for name, text in (("a.txt", u"one"), ("b.txt", u"raise"), ("c.txt", u"two")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    service = start("lister", working=str(folder), TEST_WORKING=str(folder))
    first = service.answer(str(tmp_path / "a.txt"))["outputs"][0]["prediction"]
    assert first == {"of-the-model": "", "input-a.txt": "one"}
    assert service.answer(str(tmp_path / "b.txt"))["type"] == "failed"
    second = service.answer(str(tmp_path / "c.txt"))["outputs"][0]["prediction"]
    assert second == {"of-the-model": "", "input-c.txt": "two"}
    several = service.answer({"t1": {"fileurl": str(tmp_path / "a.txt")}})
    assert several["type"] == "failed" and "input json does not match" in several["error"]
    assert sorted(name.name for name in folder.iterdir()) == ["of-the-model", "place"]
    assert (folder / "place" / "left").exists() and (tmp_path / "a.txt").exists()


def test_without_a_working_folder_nothing_is_shown_or_removed(start, tmp_path):
    folder = tmp_path / "working"
    folder.mkdir()
    (tmp_path / "a.txt").write_text(u"one", encoding="utf-8")
    service = start("lister", TEST_WORKING=str(folder))
    for _ in range(2):
        given = service.answer(str(tmp_path / "a.txt"))["outputs"][0]["prediction"]
    assert given == {"of-the-model": "", "left": "of an earlier case"}


def test_a_model_may_compute_several_together(start):
    service = start("together")
    assert service.first["batches"] is True
    service.ask_together([("/data/a", "1"), ("/data/b", "2"), ("/data/c", "3")])
    answers = [service.read() for _ in range(3)]
    assert [answer["id"] for answer in answers] == ["1", "2", "3"]
    assert [company(answer) for answer in answers] == [("a", 3), ("b", 3), ("c", 3)]
    assert {answer["batch"] for answer in answers} == {3}


def company(answer):
    """Return what the model "together" said: whose answer it is, and with how many it was computed."""
    prediction = answer["outputs"][0]["prediction"]
    return prediction["own"], prediction["together"]


def test_one_bad_input_does_not_take_the_others_with_it(start):
    service = start("together")
    service.ask_together([("a", "1"), ("bad b", "2"), ("c", "3")])
    answers = [service.read() for _ in range(3)]
    assert [answer["type"] for answer in answers] == ["done", "failed", "done"]
    assert [company(answers[0]), company(answers[2])] == [("a", 1), ("c", 1)] and answers[0]["batch"] == 1
    assert "no such thing" in answers[1]["error"] and answers[1]["kind"] == "model"
    assert "each is computed alone" in service.stderr()


def test_answers_that_cannot_be_told_apart_count_for_nobody(start):
    service = start("together")
    service.ask_together([("a", "1"), ("lost b", "2")])
    assert [company(service.read()) for _ in range(2)] == [("a", 1), ("lost b", 1)]


def test_a_model_without_batches_computes_one_after_the_other(mischief):
    mischief.ask_together([("/data/fine", "1"), ("raise", "2"), ("array", "3")])
    answers = [mischief.read() for _ in range(3)]
    assert [(answer["id"], answer["type"]) for answer in answers] == [("1", "done"), ("2", "failed"), ("3", "done")]


def test_what_was_sent_ahead_is_answered_as_if_it_was_not(start, tmp_path):
    """The pictures are opened by another thread while the model computes the one before."""
    names = []
    for number in range(12):
        pixels = numpy.random.RandomState(number).randint(0, 20 * number + 1, (400, 64, 3)).astype("uint8")
        names.append(str(tmp_path / ("%d.jpg" % number)))
        PIL.Image.fromarray(pixels).save(names[-1], quality=95)
    with open(names[5], "r+b") as stream:
        stream.truncate(20000)
    service = start("pictures", OMP_NUM_THREADS="2")
    expected = [service.answer(name) for name in names]
    for name in names:
        service.ask(name)
    answers = [service.read() for _ in names]
    assert [answer["type"] for answer in answers] == ["done"] * 5 + ["failed"] + ["done"] * 6
    assert [answer.get("outputs") for answer in answers] == [answer.get("outputs") for answer in expected]
    assert answers[5]["error"] == expected[5]["error"]
    assert service.end() == 0


def test_the_last_words_of_the_host_are_answered(mischief):
    for number in range(5):
        mischief.ask("fine", str(number))
    mischief.process.stdin.close()
    assert [mischief.read()["id"] for _ in range(5)] == ["0", "1", "2", "3", "4"]
    assert mischief.wait() == 0


def labelled(count, probability=0.1):
    return [{"label": u"class \u00e9 %d" % number, "probability": probability * number} for number in range(count)]


def packed(value, lists=None, position=0):
    return (lists or outputs.LabelLists()).pack(position, outputs.Output("o", "label_list", "", value))


def test_labels_are_sent_once():
    lists = outputs.LabelLists()
    first = packed(labelled(100), lists)
    assert first["labels"] == [each["label"] for each in labelled(100)]
    doubles = numpy.frombuffer(base64.b64decode(first["probabilities"]), "<f8")
    assert doubles.tolist() == [each["probability"] for each in labelled(100)]
    lists.note_sent()
    assert sorted(packed(labelled(100, 0.2), lists)) == ["probabilities"]
    assert sorted(packed(labelled(100), lists, position=1)) == ["labels", "probabilities"]
    assert sorted(packed(labelled(101), lists)) == ["labels", "probabilities"]
    lists.note_sent()
    assert sorted(packed(labelled(101), lists)) == ["probabilities"]


def test_labels_of_an_answer_that_was_never_sent_are_sent_with_the_next(start, edit_config, contribution):
    """The second output of the first case cannot be passed on, so that its first is not either."""
    folder = contribution("together")
    edit_config(folder, lambda config: config["model"]["io"].update(
        output=[{"name": "labels", "type": "label_list"}, {"name": "more", "type": "custom"}]))
    with open(os.path.join(folder, "inference.py"), "w") as stream:
        stream.write("class Model(object):\n    def infer(self, input):\n"
                     "        labels = [{'label': str(n), 'probability': n / 7.0} for n in range(100)]\n"
                     "        return [labels, object() if input == 'bad' else 1]\n")
    service = start(folder)
    answers = [service.answer(name) for name in ("bad", "good", "better")]
    assert [answer["type"] for answer in answers] == ["failed", "done", "done"]
    assert ["labels" in answer["outputs"][0] for answer in answers[1:]] == [True, False]


class Label(dict):
    pass


@pytest.mark.parametrize("value", [
    labelled(5), tuple(labelled(100)), [], {}, 3.0, None, "word", list(range(100)),
    labelled(99) + [{"label": "a"}], labelled(99) + [{"label": "a", "probability": 1}],
    labelled(99) + [{"label": "a", "probability": float("nan")}],
    labelled(99) + [{"label": "a", "probability": float("inf")}],
    labelled(99) + [{"label": "a", "probability": numpy.float64(1)}],
    labelled(99) + [{"label": 7, "probability": 1.0}], labelled(99) + [Label(label="a", probability=1.0)],
    labelled(99) + [{"label": "a", "probability": 1.0, "more": 2}],
    labelled(99) + [{"name": "a", "probability": 1.0}]])
def test_what_is_no_long_list_of_labels_is_sent_as_it_is(value):
    assert packed(value) is None
