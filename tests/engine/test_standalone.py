# -*- coding: utf-8 -*-
"""What a deployment image starts, as real processes outside of any container."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy
import PIL.Image
import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
MISCHIEF = os.path.join(HERE, "contributions", "mischief")

# as start.py calls them, but for a contribution that lies elsewhere
CALL = ("import importlib, sys; sys.path.insert(0, sys.argv[1]);"
        "from modelhubapi.hosting import exit_soon;"
        "exit_soon(getattr(importlib.import_module('modelhubapi.' + sys.argv[2]), sys.argv[3])"
        "(sys.argv[5:], sys.argv[4]))")


class Done(object):
    """How a program ended: code, out (bytes), err (text)."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err.decode("utf-8", "replace")

    def json(self):
        """Return what stdout holds, which must be strict JSON and nothing else."""
        return json.loads(self.out.decode("utf-8"), parse_constant=lambda name: 1 / 0)

    def rows(self):
        """Return the rows of the CSV table on stdout, for cells without commas."""
        return [line.split(u",") for line in self.out.decode("utf-8").splitlines()]


@pytest.fixture
def start(engine, tmp_path):
    """Return a function that starts one of the programs in a folder of its own."""
    where = tmp_path / "here"
    where.mkdir()

    def call(module, function, folder, *words, **variables):
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path), PYTHONDONTWRITEBYTECODE="1")
        environment.update(variables)
        return subprocess.Popen([sys.executable, "-c", CALL, engine, module, function, folder] + list(words),
                                cwd=str(where), env=environment, stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    call.folder = where
    return call


@pytest.fixture
def run(start):
    """Return a function that predicts: run(folder, *words) -> Done."""
    def call(folder, *words, **variables):
        process = start("standalone", "run", folder, *words, **variables)
        out, err = process.communicate(b"nobody reads this")
        return Done(process.returncode, out, err)
    call.folder = start.folder
    return call


@pytest.fixture
def trouble(run):
    """Return a function that lets the mischievous model do the named things."""
    def call(*names, **variables):
        for before, name in zip(("",) + names, names):
            if not name.startswith("-") and before != "-o":
                (run.folder / name).write_bytes(b"")
        return run(MISCHIEF, *names, **variables)
    call.folder = run.folder
    return call


def picture(path, size=(8, 8)):
    path = path if isinstance(path, type(u"")) else str(path)
    PIL.Image.new("L", size, 51).save(path, "PNG")
    return path


@pytest.fixture
def volumes(run):
    """Two arrays of a case, beside which the program starts."""
    for name, value in (("a.npy", 1.0), ("b.npy", 0.0)):
        numpy.save(str(run.folder / name), numpy.full((2, 3, 4), value))
    return run.folder


# -- answers -------------------------------------------------------------------------------------------------

def test_one_case_is_one_object(run, contribution):
    picture(run.folder / "dark one.png")
    done = run(contribution("pictures"), "dark one.png")
    assert (done.code, done.err) == (0, "")
    answer = done.json()
    assert sorted(answer) == ["case", "error", "notes", "output", "seconds", "status"]
    assert answer["case"].startswith("dark_one-") and answer["status"] == "done" and answer["error"] is None
    (output,) = answer["output"]
    assert output["prediction"][1] == {"label": "bright", "probability": 51 / 255.0}
    assert (output["name"], output["type"], output["shape"]) == ("probabilities", "label_list", [2])


def test_several_cases_are_a_list_in_their_order(run, contribution):
    words = [picture(run.folder / name) for name in ("b.png", "a.png")] + ["b.png"]
    answers = run(contribution("pictures"), *words).json()
    assert [answer["case"] for answer in answers] == ["b", "a", "b-2"]


def test_a_case_that_fails_is_told_and_the_others_go_on(run, contribution):
    picture(run.folder / "a.png")
    (run.folder / "b.png").write_bytes(b"not a picture")
    done = run(contribution("pictures"), "b.png", "gone.png", "a.png")
    assert done.code == 3
    assert [answer["status"] for answer in done.json()] == ["failed", "failed", "done"]
    assert [answer["error"] and answer["error"]["kind"] for answer in done.json()] == ["model", "input", None]
    assert "Traceback" in done.json()[0]["error"]["evidence"]
    assert "gone failed: input: %s is not there" % (run.folder / "gone.png") in done.err
    assert "--bind" in done.err


@pytest.mark.parametrize("what", ["prints", "forks", "forks_twice", "forks_and_raises", "closes_stdout"])
def test_stdout_is_the_answer_alone(trouble, what):
    done = trouble(what)
    assert done.code == 0
    assert done.json()["output"][0]["prediction"] in ("", "parent", "closed")
    assert b"printed while" not in done.out and "printed while loading" in done.err
    if what == "prints":
        assert all("from %s" % source in done.err for source in ("Python", "the descriptor", "a child", "C"))


@pytest.mark.skipif(sys.version_info < (3, 7), reason="children cannot be told there")
def test_a_child_that_stays_keeps_nobody_waiting(start):
    (start.folder / "leaves_a_child").write_bytes(b"")
    began = time.time()
    process = start("standalone", "run", MISCHIEF, "leaves_a_child")
    assert b'"left"' in process.stdout.read() and time.time() - began < 20
    process.wait()
    process.stdin.close()
    process.stdout.close()
    process.stderr.close()


def test_threads_that_never_end_do_not_keep_it(trouble):
    assert trouble("prints_for_ever").json()["output"][0]["prediction"] == "talking"


@pytest.mark.parametrize("what, kind, words", [
    ("raises", "model", "ValueError: not like this: "), ("exits", "model", "SystemExit: enough"),
    ("foreign", "output", "cannot be passed on"), ("objects", "output", "cannot be saved")])
def test_what_goes_wrong_in_a_case_is_data(trouble, what, kind, words):
    done = trouble(what)
    error = done.json()["error"]
    assert done.code == 3 and error["kind"] == kind and words in error["message"]


def test_a_model_that_does_not_start_leaves_stdout_empty(trouble):
    done = trouble("fine", MISCHIEF_AT_LOAD="raise ValueError('no weights')")
    assert (done.code, done.out) == (4, b"")
    assert "ValueError: no weights" in done.err and "does not start" in done.err


def test_numbers_that_json_cannot_hold_are_noted(trouble):
    answer = trouble("not_finite").json()
    assert answer["output"][0]["prediction"][0]["probability"] is None
    assert answer["notes"] == ["output 'trouble': 2 non-finite values became null"]


def test_nobody_reads_the_answer(start):
    (start.folder / "number").write_bytes(b"")
    process = start("standalone", "run", MISCHIEF, "number")
    process.stdout.close()
    process.stdin.close()
    assert b"Nobody reads" in process.stderr.read() and process.wait() == 141
    process.stderr.close()


def test_an_interrupt_ends_it(start):
    (start.folder / "fine").write_bytes(b"")
    process = start("standalone", "run", MISCHIEF, "fine", MISCHIEF_AT_LOAD="import signal, os;"
                    "signal.signal(signal.SIGINT, signal.default_int_handler);os.kill(os.getpid(), signal.SIGINT)")
    out, err = process.communicate()
    assert (process.returncode, out) == (130, b"") and b"Interrupted" in err


# -- arrays --------------------------------------------------------------------------------------------------

def test_arrays_become_files(trouble):
    done = trouble("-o", "out", "array", "point")
    assert done.code == 0
    first, second = [answer["output"][0] for answer in done.json()]
    assert first["file"] == str(trouble.folder / "out" / "array" / "trouble.npy")
    assert (first["dtype"], first["shape"]) == ("float32", [3, 2]) and "prediction" not in first
    assert numpy.load(first["file"]).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert numpy.load(second["file"]) == 2.5


def test_without_a_folder_arrays_are_lost_and_it_says_so(trouble):
    done = trouble("array")
    assert done.json()["output"][0]["file"] is None and "-o FOLDER" in done.err


def test_two_outputs_of_one_name_become_two_files(run, contribution, volumes):
    done = run(contribution("volumes"), "t1=a.npy", "t2=b.npy", "-o", "out")
    assert os.listdir(str(volumes / "out" / "case")) == ["mask.npy"]
    assert [output["name"] for output in done.json()["output"]] == ["mask", "mask_2"]


def test_a_result_is_never_written_over(trouble):
    (trouble.folder / "out" / "array").mkdir(parents=True)
    done = trouble("-o", "out", "array", MISCHIEF_AT_LOAD="raise ValueError('too late')")
    assert (done.code, done.out) == (2, b"") and "exists already" in done.err and "too late" not in done.err


def test_a_folder_that_cannot_be_made_is_told_before_the_model_starts(trouble):
    done = trouble("-o", "/proc/out", "array", MISCHIEF_AT_LOAD="raise ValueError('too late')")
    assert (done.code, done.out) == (2, b"") and "--bind" in done.err and "too late" not in done.err


# -- tables --------------------------------------------------------------------------------------------------

def test_a_table_has_a_row_for_each_value(run, contribution):
    picture(run.folder / "a.png")
    done = run(contribution("pictures"), "--csv", "a.png", "gone.png")
    header, dark, bright, gone = done.rows()
    assert header == ["case", "output", "type", "key", "value"]
    assert dark[:4] == ["a", "probabilities", "label_list", "dark"] and float(bright[4]) == 51 / 255.0
    assert gone[:4] == ["gone", "", "error", "input"] and done.code == 3


@pytest.mark.parametrize("what, rows", [
    ("mixed", [["3", "[[1.5]]"], ["flag", "true"], ["t", '"[1', ' 2]"']]), ("number", [["", "0.25"]]),
    ("not_finite_array", [["0", "1.0"], ["1", "NaN"], ["2", "Infinity"]]), ("point", [["", "2.5"]]),
    ("array", [["shape", "3x2"]]), ("words", [["0", "left"], ["1", "right"]]), ("nothing", [["", "null"]])])
def test_values_of_a_table(trouble, what, rows):
    assert [row[3:] for row in trouble("--csv", what).rows()[1:]] == rows


def test_a_table_quotes_what_needs_it(trouble):
    name = u"fine \u00e9,\"x\""
    done = trouble(name)
    value = done.json()["output"][0]["prediction"]
    table = trouble("--csv", name).out.decode("utf-8")
    assert table.endswith(u',,"%s"\n' % value.replace(u'"', u'""'))


# -- inputs --------------------------------------------------------------------------------------------------

def test_several_inputs_by_key_and_by_json(run, contribution, volumes):
    folder = contribution("volumes")
    by_key = run(folder, "t2=b.npy", "t1=a.npy").json()
    assert by_key["output"][1]["prediction"] == {"above": 24}
    given = {"t1": {"fileurl": "a.npy"}, "t2": {"fileurl": str(volumes / "b.npy"), "format": ["x"]}}
    (volumes / "one.json").write_text(type(u"")(json.dumps(given)))
    (volumes / "two.json").write_text(type(u"")(json.dumps([given, dict(given, case_id="mine")])))
    answers = run(folder, "one.json", "two.json").json()
    assert [answer["case"] for answer in answers] == ["one", "two_1", "mine"]
    assert all(answer["output"] == by_key["output"] for answer in answers)


@pytest.mark.parametrize("words, said", [
    (["t1=a.npy"], "t1=FILE t2=FILE"), (["t1=a.npy", "t1=b.npy"], "once"), (["a.npy"], "t1=FILE"),
    (["t1=a.npy", "t2=b.npy", "x"], "no KEY=FILE"), (["gone.json"], "gone.json"), ([], "INPUT"),
    (["list.json"], 'lacks the input "t1"'), (["far.json"], "fetch it first"), (["broken.json"], "broken.json")])
def test_what_is_no_case_of_the_model_is_usage(run, contribution, volumes, words, said):
    (volumes / "list.json").write_text(u"[[]]")
    (volumes / "broken.json").write_text(u"{")
    (volumes / "far.json").write_text(
        u'{"t1": {"fileurl": "http://127.0.0.1/x"}, "t2": {"fileurl": "b.npy"}}')
    done = run(contribution("volumes"), *words)
    assert (done.code, done.out) == (2, b"") and said in done.err


def test_a_single_input_may_look_like_a_key(trouble):
    assert trouble("fine x=y").json()["status"] == "done"


def test_names_of_files_that_nobody_expects(run, contribution):
    names = [u"-x.png", u"$(id).png", u"\u00e9\n.png", u"...png", u"A" * 200 + u".png"]
    for name in names:
        picture(u"%s/%s" % (run.folder, name))
    shown = [name if sys.version_info[0] > 2 else name.encode("utf-8") for name in names]
    answers = run(contribution("pictures"), "--", *shown).json()
    assert [answer["status"] for answer in answers] == ["done"] * len(names)
    ids = [answer["case"] for answer in answers]
    assert len(set(ids)) == len(names) and all(len(id) <= 80 and id[0] not in "-." for id in ids)


# -- the model's own samples ---------------------------------------------------------------------------------

@pytest.fixture
def check(start):
    """Return a function that tests a contribution's samples."""
    def call(folder, **variables):
        process = start("selftest", "test", folder, **variables)
        out, err = process.communicate()
        return Done(process.returncode, out, err)
    return call


def test_samples_that_are_as_the_configuration_says(check, contribution):
    folder = contribution("pictures")
    for name in ("a.png", "b.png"):
        picture(os.path.join(folder, "sample_data", name))
    done = check(folder)
    first, second, last = done.out.decode("ascii").splitlines()
    assert done.code == 0 and first.startswith("ok    a.png  probabilities: label_list [2]")
    assert last == "2 of 2 samples are predicted as the configuration says"


def test_a_sample_that_fails(check, contribution):
    folder = contribution("pictures")
    picture(os.path.join(folder, "sample_data", "a.png"), (99, 99))
    done = check(folder)
    assert done.code == 3 and done.out.startswith(b"FAIL  a.png") and b"0 of 1" in done.out
    assert "Traceback" in done.err


def test_samples_of_several_inputs_are_json(check, contribution, volumes):
    folder = contribution("volumes")
    (volumes / "a.npy").rename(os.path.join(folder, "sample_data", "patient_1", "t1.npy"))
    (volumes / "b.npy").rename(os.path.join(folder, "sample_data", "patient_1", "t2.npy"))
    done = check(folder)
    assert done.code == 0 and b"mask: mask_image [2, 3, 4]  mask_2: custom [1]" in done.out


@pytest.mark.parametrize("kind, what, said", [
    ("label_list", "number", "is no list of"), ("vector", "array", "not one dimension"),
    ("heatmap", "words", "fewer than two dimensions"), ("custom", "nothing", "is null"),
    ("custom", "foreign", "cannot be passed on"), ("custom", "raises", "ValueError"),
    ("label_list", "finds_nothing", "is empty"), ("custom", "finds_nothing", "is empty")])
def test_outputs_that_are_not_what_their_type_says(check, contribution, edit_config, kind, what, said):
    folder = contribution("mischief")
    edit_config(folder, lambda config: config["model"]["io"]["output"][0].update(type=kind))
    os.mkdir(os.path.join(folder, "sample_data"))
    with io.open(os.path.join(folder, "sample_data", what), "wb"):
        done = check(folder)
    assert done.code == 3 and said in done.out.decode("utf-8")


def test_a_contour_may_be_empty_where_nothing_is_found(check, contribution, edit_config):
    folder = contribution("mischief")
    edit_config(folder, lambda config: config["model"]["io"]["output"][0].update(type="contour"))
    os.mkdir(os.path.join(folder, "sample_data"))
    with io.open(os.path.join(folder, "sample_data", "finds_nothing"), "wb"):
        done = check(folder)
    assert done.code == 0 and b"contour [0]" in done.out


def test_a_sample_that_names_what_is_not_there(check, contribution):
    done = check(contribution("volumes"))
    assert done.code == 3 and b"FAIL  sample.json" in done.out and b"t1" in done.out


def test_no_samples_is_said(check, contribution):
    done = check(contribution("mischief"))
    assert done.code == 0 and b"without samples" in done.out


def test_a_model_that_cannot_be_tested(check, contribution):
    done = check(contribution("mischief"), MISCHIEF_AT_LOAD="1 / 0")
    assert done.code == 4 and done.out.startswith(b"FAIL  the model does not start: ZeroDivisionError")


# -- places to work in ---------------------------------------------------------------------------------------

def test_the_server_says_where_it_is_and_leaves_nothing(start, contribution, tmp_path):
    pytest.importorskip("flask")
    (tmp_path / "tmp").mkdir()
    process = start("served", "serve", contribution("pictures"), "--port", "0", TMPDIR=str(tmp_path / "tmp"))
    line = process.stderr.readline().decode("ascii")
    port = int(line.split("http://127.0.0.1:")[1].split("/")[0])
    deadline = time.time() + 20
    while _get(port, "/api/get_config") is None and time.time() < deadline:
        time.sleep(0.1)
    assert b'"Pictures"' in _get(port, "/api/get_config")
    assert len(os.listdir(str(tmp_path / "tmp"))) == 1
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 0 and os.listdir(str(tmp_path / "tmp")) == []


def _get(port, path):
    try:
        connection = socket.create_connection(("127.0.0.1", port), 5)
    except (OSError, IOError):
        return None
    connection.sendall(("GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n" % path).encode("ascii"))
    try:
        return b"".join(iter(lambda: connection.recv(65536), b""))
    finally:
        connection.close()


def test_a_port_that_is_taken(start, contribution):
    pytest.importorskip("flask")
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen(1)
    process = start("served", "serve", contribution("pictures"), "--port", str(taken.getsockname()[1]))
    _, err = process.communicate()
    assert process.returncode == 75 and b"--port" in err
    taken.close()


def test_the_shell_is_beside_the_model(start, contribution):
    folder = contribution("pictures")
    code = "import os, modelapi; print(os.getcwd()); print(modelapi.model.get_model_io()['output'][0]['name'])"
    process = start("workplaces", "shell", folder, sys.executable, "-c", code)
    out, _ = process.communicate()
    assert out.decode().split() == [os.path.realpath(folder), "probabilities"]


def test_the_sandbox_is_a_copy(start, contribution, tmp_path):
    """With a Jupyter that only says how it was started."""
    folder = contribution("pictures")
    os.symlink("config.json", os.path.join(folder, "model", "link.json"))
    with open(os.path.join(folder, "model", "weights.bin"), "wb") as stream:
        stream.truncate(17 * 1024 * 1024)
    (tmp_path / "jupyterlab").mkdir()
    (tmp_path / "jupyterlab" / "__init__.py").write_text(u"")
    (tmp_path / "jupyterlab" / "__main__.py").write_text(
        u"import os, sys, json\n"
        u"print(json.dumps([os.getcwd(), sys.argv[1:], os.environ['JUPYTER_RUNTIME_DIR']]))\n"
        u"import modelapi; print(modelapi.contrib_src_dir)\n")
    path = os.pathsep.join([str(tmp_path)] + sys.path)
    process = start("workplaces", "sandbox", folder, "--port", "8899", PYTHONPATH=path)
    out, err = process.communicate()
    first, second = out.decode().splitlines()
    place, words, runtime = json.loads(first)
    assert os.path.dirname(place) == os.path.realpath(str(start.folder)) and second == place
    assert words[:3] == ["--ip=127.0.0.1", "--port=8899", "--no-browser"] and runtime.startswith(place)
    assert words[3:] == (["--allow-root"] if os.getuid() == 0 else [])
    assert os.readlink(os.path.join(place, "model", "link.json")) == "config.json"
    assert os.readlink(os.path.join(place, "model", "weights.bin")) == os.path.join(folder, "model", "weights.bin")
    assert not os.path.islink(os.path.join(place, "inference.py")) and place.encode() in err


def test_start_knows_its_programs(engine):
    process = subprocess.Popen([sys.executable, os.path.join(engine, "start.py"), "dance"], stderr=subprocess.PIPE)
    _, err = process.communicate()
    assert process.returncode == 2 and b"run|sandbox|serve|shell|test" in err


def test_the_callers_folder_stands_in_for_no_module(engine, tmp_path):
    for name in ("json.py", "argparse.py", "modelhubapi.py"):
        (tmp_path / name).write_text(u"raise SystemExit('mine')\n")
    process = subprocess.Popen([sys.executable, os.path.join(engine, "start.py"), "run", "--help"],
                               cwd=str(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=dict(os.environ, PYTHONDONTWRITEBYTECODE="1"))
    out, err = process.communicate()
    assert process.returncode == 0 and b"KEY=FILE" in out and err == b""
