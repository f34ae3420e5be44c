# -*- coding: utf-8 -*-
"""ModelHubAPI: what notebooks and old clients rely on, and what was mended."""

import io
import json
import os
import re
import shutil
import subprocess
import sys

import h5py
import numpy
import PIL.Image
import pytest

from modelhubapi import ModelHubAPI, outputs


class Returns(object):
    """A model that returns what it was told to."""

    def __init__(self, result):
        self.result = result

    def infer(self, input):
        self.input = input
        return self.result


@pytest.fixture
def returning(contribution, edit_config, tmp_path):
    """Return a function: (result, *names of outputs) -> ModelHubAPI whose model returns result."""
    folder = contribution("pictures")
    os.mkdir(str(tmp_path / "out"))

    def make(result, *names):
        edit_config(folder, lambda config: config["model"]["io"].update(
            output=[{"name": name, "type": "custom"} for name in names or ("only",)]))
        made = ModelHubAPI(Returns(result), folder)
        made.output_folder = str(tmp_path / "out")
        return made
    return make


def only(answer):
    assert "error" not in answer, answer
    assert len(answer["output"]) == 1
    return answer["output"][0]


def test_the_answer_has_its_documented_shape(api, tmp_path):
    path = str(tmp_path / "white.png")
    PIL.Image.new("RGB", (20, 10), (255, 255, 255)).save(path)
    answer = api("pictures").predict(path)
    assert sorted(answer) == ["model", "output", "processing_time", "timestamp"]
    assert re.match(r"\d{4}(-\d\d){5}-\d{6}$", answer["timestamp"])
    assert answer["processing_time"] == round(answer["processing_time"], 3) >= 0
    assert answer["model"] == {"id": "5c1e1ab4-0000-4d8b-8f0e-2f6d1c8f0001", "name": "Pictures"}
    assert only(answer) == {
        "name": "probabilities", "type": "label_list", "description": "both of them", "shape": [2],
        "prediction": [{"label": "dark", "probability": 0.0}, {"label": "bright", "probability": 1.0}]}


def test_modelapi_of_a_contribution_works_as_in_its_notebook(contribution, tmp_path):
    contribution("pictures")
    PIL.Image.new("L", (8, 8), 0).save("sample_data/black.png")
    from modelapi import model
    samples = model.get_samples()
    assert samples == {"folder": str(tmp_path / "pictures" / "sample_data"), "files": ["black.png"]}
    answer = model.predict(samples["folder"] + "/" + samples["files"][0])
    assert only(answer)["prediction"][0]["probability"] == 1.0


def test_an_image_out_of_limits_is_an_error_not_an_exception(api, tmp_path):
    path = str(tmp_path / "tiny.png")
    PIL.Image.new("RGB", (3, 3)).save(path)
    answer = api("pictures").predict(path)
    assert list(answer) == ["error"] and "do not comply" in answer["error"]


def test_a_missing_input_is_an_error_that_names_it(api, tmp_path):
    answer = api("pictures").predict(str(tmp_path / "missing.png"))
    assert list(answer) == ["error"] and "missing.png" in answer["error"]


# --- several inputs ---

@pytest.fixture
def volumes(api):
    loaded = api("volumes")
    numpy.save("sample_data/patient_1/t1.npy", numpy.arange(24).reshape(2, 3, 4))
    numpy.save("sample_data/patient_1/t2.npy", numpy.full((2, 3, 4), 11))
    return loaded


def inputs(**more):
    given = {"format": ["application/json"]}
    given.update((key, {"fileurl": "sample_data/patient_1/%s.npy" % key}) for key in ("t1", "t2"))
    return dict(given, **more)


def test_a_dict_of_inputs(volumes):
    answer = volumes.predict(inputs(extra={"fileurl": "is allowed"}))
    assert [output["name"] for output in answer["output"]] == ["mask", "mask_2"]
    assert answer["output"][1]["prediction"] == {"above": 12} and answer["output"][1]["shape"] == [1]


def test_a_json_file_of_inputs(volumes):
    with open("case.JSON", "w") as stream:
        json.dump(inputs(), stream)
    answer = volumes.predict("case.JSON")
    assert "error" not in answer and answer["output"][0]["shape"] == [2, 3, 4]


def test_files_beside_a_json_file_are_its_inputs(volumes):
    given = dict((key, {"fileurl": "patient_1/%s.npy" % key}) for key in ("t1", "t2"))
    with open("sample_data/case.json", "w") as stream:
        json.dump(inputs(**given), stream)
    samples = volumes.get_samples()
    answer = volumes.predict(samples["folder"] + "/case.json")
    assert "error" not in answer and answer["output"][0]["shape"] == [2, 3, 4]


def test_the_configurations_description_is_no_input(volumes):
    assert "description" in volumes.get_model_io()["input"]
    assert "error" not in volumes.predict(inputs(description="mine"))


@pytest.mark.parametrize("change, named", [
    (lambda given: given.pop("t2"), "t2"),
    (lambda given: given.update(t1="a path"), "t1"),
    (lambda given: given.update(t1={"format": []}), "t1"),
])
def test_inputs_that_do_not_match_the_configuration(volumes, change, named):
    given = inputs()
    change(given)
    answer = volumes.predict(given)
    assert list(answer) == ["error"] and named in answer["error"]


def test_a_missing_json_file_is_said_to_be_missing(volumes):
    assert "No such file" in volumes.predict("nowhere.json")["error"]


def test_limits_are_those_of_the_inputs_key(volumes):
    numpy.save("sample_data/patient_1/t2.npy", numpy.zeros((1, 3, 4)))
    assert "do not comply" in volumes.predict(inputs())["error"]


def test_paths_reach_the_model_as_native_strings(returning):
    made = returning(1)
    made.predict(u"/data/\u00e9\udcff.png")
    assert type(made.model.input) is str
    raw = made.model.input if sys.version_info[0] == 2 else os.fsencode(made.model.input)
    assert raw == b"/data/\xc3\xa9\xff.png"


# --- wrapping ---

@pytest.mark.parametrize("result, shape", [
    ("word", [4]), ({"a": 1, "b": 2}, [2]), ([1, 2, 3], [3]), ((1, 2), [2]), (0.5, []), (None, []),
    (numpy.float32(0.5), []), (7, [])])
def test_one_configured_output_is_whatever_the_model_returned(returning, result, shape):
    output = only(returning(result).predict("x"))
    assert output["prediction"] is result and output["shape"] == shape


def test_a_list_is_one_output_per_item_where_several_are_configured(returning):
    for result in ([1, "two"], (1, "two")):
        answer = returning(result, "first", "second").predict("x")
        assert [(output["name"], output["prediction"]) for output in answer["output"]] == [
            ("first", 1), ("second", "two")]


@pytest.mark.parametrize("result", [
    [1, 2, 3], [1], numpy.zeros(2), 5,
    [{"label": "a", "probability": 0.5}, {"label": "b", "probability": 0.5}]])
def test_a_wrong_number_of_outputs_is_an_error(returning, result):
    answer = returning(result, "first", "second").predict("x")
    assert "2 outputs (first, second)" in answer["error"]


def test_outputs_of_one_name_are_told_apart(returning):
    answer = returning([1, 2, 3], "a", "a", "a_2").predict("x")
    assert [output["name"] for output in answer["output"]] == ["a", "a_2", "a_2_2"]


# --- arrays ---

def test_an_array_becomes_a_dataset_of_the_outputs_name(returning):
    array = numpy.arange(6, dtype="float32").reshape(2, 3)
    made = returning(array, "the mask")
    output = only(made.predict("x"))
    assert output["shape"] == [2, 3] and output["prediction"].startswith("api" + made.output_folder + "/")
    with h5py.File(output["prediction"][len("api"):], "r") as stream:
        assert list(stream) == ["the mask"] and not stream.attrs
        dataset = stream["the mask"]
        assert (dataset[()] == array).all() and dataset.dtype == array.dtype
        assert dataset.attrs["type"] == b"float32" and dataset.chunks is None and dataset.compression is None


def test_arrays_are_lists_where_files_are_not_wanted(returning):
    assert only(returning(numpy.ones((1, 2))).predict("x", numpyToFile=False))["prediction"] == [[1.0, 1.0]]


def test_an_address_is_put_before_the_path(returning):
    prediction = only(returning(numpy.ones(2)).predict("x", url_root="http://host/"))["prediction"]
    assert re.match(r"http://host/api/output/[0-9a-f-]+\.h5$", prediction)


def test_files_of_many_processes_never_meet(returning):
    made = returning(numpy.ones(2))
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            for _ in range(20):
                made.predict("x")
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert len(os.listdir(made.output_folder)) == 80


def test_an_array_of_objects_is_refused(returning):
    error = returning(numpy.array([None, {}], dtype=object), "thing").predict("x")["error"]
    assert "'thing'" in error and "object" in error


def test_an_array_of_words_is_a_list(returning):
    assert only(returning(numpy.array(["a", "b"])).predict("x"))["prediction"] == ["a", "b"]


def test_an_output_folder_that_is_not_there_is_an_error(returning):
    made = returning(numpy.ones(2))
    made.output_folder = "/nonexistent/output"
    assert list(made.predict("x")) == ["error"]


# --- descriptions ---

def test_the_legal_texts(api):
    legal = api("pictures").get_legal()
    assert sorted(legal) == ["model_license", "modelhub_acknowledgements", "modelhub_license",
                             "sample_data_license"]
    assert legal["model_license"] == "licence of the model\n"
    assert "Apache License" in legal["modelhub_license"] and "ModelHub" in legal["modelhub_acknowledgements"]


def test_a_missing_legal_text_is_an_error_beside_the_others(api):
    legal = api("volumes").get_legal()
    assert "sample_data_license" not in legal and "sample_data" in legal["error"]
    assert legal["model_license"] == "licence of the model\n"


def test_the_configuration_is_read_once_and_never_shared(api):
    loaded = api("pictures")
    loaded.get_config()["meta"]["name"] = "changed"
    os.unlink("model/config.json")
    assert loaded.get_config()["meta"]["name"] == "Pictures"
    assert loaded.get_model_io()["output"][0]["type"] == "label_list"


def test_a_configuration_that_cannot_be_read(api, edit_config):
    loaded = api("pictures")
    edit_config(loaded.contrib_src_dir, lambda config: config.pop("model"))
    assert loaded.get_model_io() == {"error": "config.json has no model.io"}
    shutil.copyfile("license/model", "model/config.json")
    fresh = ModelHubAPI(None, loaded.contrib_src_dir)
    assert list(fresh.get_config()) == ["error"] and list(fresh.get_model_io()) == ["error"]


def test_non_ascii_licences_and_configurations(api):
    loaded = api("pictures")
    with io.open("license/model", "w", encoding="utf-8") as stream:
        stream.write(u"\u00a9 Caf\u00e9")
    assert loaded.get_legal()["model_license"] == u"\u00a9 Caf\u00e9"


def test_samples_are_sorted_files_without_folders(api):
    loaded = api("volumes")
    for name in ("b", "a"):
        open(os.path.join("sample_data", name), "w").close()
    assert loaded.get_samples()["files"] == ["a", "b", "sample.json"]
    shutil.rmtree("sample_data")
    assert list(loaded.get_samples()) == ["error"]


@pytest.mark.parametrize("nested", [False, True])
def test_a_configuration_without_format(api, edit_config, tmp_path, nested):
    loaded = api("pictures")

    def change(config):
        section = {"dim_limits": config["model"]["io"]["input"]["dim_limits"]}
        config["model"]["io"]["input"] = {"single": section} if nested else section
    edit_config(loaded.contrib_src_dir, change)
    path = str(tmp_path / "white.png")
    PIL.Image.new("RGB", (20, 10), (255, 255, 255)).save(path)
    import inference
    assert "error" not in ModelHubAPI(inference.Model(), loaded.contrib_src_dir).predict(path)


def test_what_infer_raises_is_raised(returning):
    named, seconds = returning(5).infer("x")
    assert named[0].value == 5 and seconds >= 0
    with pytest.raises(outputs.OutputError):
        returning(5, "a", "b").infer("x")


def test_flask_is_not_imported_unless_it_is_used(engine):
    code = ("import sys; sys.path.insert(0, sys.argv[1]); sys.modules['flask'] = None\n"
            "from modelhubapi import ModelHubAPI, ModelHubRESTAPI, webservice, pipeservice\n"
            "heavy = [name for name in ('numpy', 'PIL', 'SimpleITK', 'h5py') if name in sys.modules]\n"
            "assert not heavy, heavy")
    assert subprocess.call([sys.executable, "-c", code, engine]) == 0
