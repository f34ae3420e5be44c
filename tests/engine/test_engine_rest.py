# -*- coding: utf-8 -*-
"""The HTTP interface: the routes and answers that old clients know, and what strangers can't do."""

import gzip
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile

import numpy
import PIL.Image
import pytest

flask = pytest.importorskip("flask")

from modelhubapi import ModelHubRESTAPI  # noqa: E402  (there is nothing to import without Flask)


@pytest.fixture
def serve(contribution, tmp_path):
    """Return a function: (contribution, **limits) -> ModelHubRESTAPI with its own folders and a `client`."""
    def make(name, **limits):
        folder = contribution(name)
        import inference
        rest = ModelHubRESTAPI(inference.Model(), folder, **limits)
        rest.working_folder = str(tmp_path / "working")
        rest.api.output_folder = str(tmp_path / "output")
        for place in (rest.working_folder, rest.api.output_folder):
            os.mkdir(place)
        rest.client = rest.app.test_client()
        return rest
    return make


@pytest.fixture
def pictures(serve):
    rest = serve("pictures")
    PIL.Image.new("L", (8, 8), 255).save("sample_data/white.png")
    PIL.Image.new("L", (8, 8), 0).save("sample_data/black.png")
    with open("secret.txt", "w") as stream:
        stream.write("secret")
    yield rest
    assert os.listdir(rest.working_folder) == []


@pytest.fixture
def volumes(serve):
    rest = serve("volumes", allow_private_urls=True)
    numpy.save("sample_data/patient_1/t1.npy", numpy.full((2, 2, 2), 5))
    numpy.save("sample_data/patient_1/t2.npy", numpy.full((2, 2, 2), 3))
    yield rest
    assert os.listdir(rest.working_folder) == []


def strict(response, status=200):
    def refuse(word):
        raise AssertionError("%s is not JSON" % word)
    assert response.status_code == status, response.data
    assert response.mimetype == "application/json"
    return json.loads(response.data.decode("utf-8"), parse_constant=refuse)


def png(level=255, mode="L"):
    stream = io.BytesIO()
    PIL.Image.new(mode, (8, 8), level).save(stream, "PNG")
    return stream.getvalue()


def content(response):
    data = response.data
    response.close()
    return data


def post(rest, data, name):
    return rest.client.post("/api/predict", data={"file": (io.BytesIO(data), name)})


def brightness(answer):
    return answer["output"][0]["prediction"][1]["probability"]


# --- the routes that old clients know ---

def test_descriptions(pictures):
    assert strict(pictures.client.get("/api/get_config"))["meta"]["name"] == "Pictures"
    assert strict(pictures.client.get("/api/get_model_io"))["output"][0]["name"] == "probabilities"
    assert "Apache License" in strict(pictures.client.get("/api/get_legal"))["modelhub_license"]


def test_missing_legal_texts_are_an_error_with_the_others_beside(volumes):
    legal = strict(volumes.client.get("/api/get_legal"), 400)
    assert "sample_data" in legal["error"] and legal["model_license"]


def test_samples_are_listed_as_addresses_and_served(pictures):
    addresses = strict(pictures.client.get("/api/get_samples?query=does-no-harm"))
    assert addresses == ["http://localhost/api/samples/black.png", "http://localhost/api/samples/white.png"]
    response = pictures.client.get(addresses[1])
    with open("sample_data/white.png", "rb") as stream:
        assert content(response) == stream.read()
    assert response.mimetype == "image/png" and "Access-Control-Allow-Origin" not in response.headers


def test_no_samples_is_an_error(pictures):
    for name in os.listdir("sample_data"):
        os.unlink(os.path.join("sample_data", name))
    os.rmdir("sample_data")
    assert "error" in strict(pictures.client.get("/api/get_samples"), 400)


def test_thumbnails_are_files_of_the_model(pictures):
    with open("model/thumbnail.jpg", "wb") as stream:
        stream.write(b"picture")
    assert content(pictures.client.get("/api/thumbnail/thumbnail.jpg")) == b"picture"
    assert pictures.client.get("/api/thumbnail/none.jpg").status_code == 404


def test_the_model_files_as_a_zip(pictures, tmp_path):
    os.symlink("/etc/passwd", "model/outside")
    os.mkdir("model/sub")
    open("model/sub/weights", "w").close()
    os.utime("model/sub/weights", (1e9, 1e9))
    response = pictures.client.get("/api/get_model_files")
    assert 'filename="pictures_model.zip"' in response.headers["Content-Disposition"]
    names = zipfile.ZipFile(io.BytesIO(content(response))).namelist()
    assert sorted(names) == ["model/", "model/config.json", "model/labels.json", "model/sub/",
                             "model/sub/weights"]


def test_predict_on_an_upload(pictures):
    answer = strict(post(pictures, png(), "white.png"))
    assert brightness(answer) == 1.0 and answer["model"]["name"] == "Pictures"


def test_predict_on_a_sample(pictures):
    assert brightness(strict(pictures.client.get("/api/predict_sample?filename=black.png"))) == 0.0


def test_arrays_are_files_to_be_fetched(volumes):
    answer = strict(volumes.client.get("/api/predict_sample?filename=sample.json"))
    address = answer["output"][0]["prediction"]
    assert address.startswith("http://localhost/api/output/") and address.endswith(".h5")
    assert content(volumes.client.get(address)).startswith(b"\x89HDF")
    assert answer["output"][1]["prediction"] == {"above": 8}


def test_numbers_that_json_lacks_become_null(pictures):
    pictures.api.model.infer = lambda path: [{"label": "a", "probability": float("nan")}, numpy.int64(1)]
    answer = strict(post(pictures, png(), "white.png"))
    assert answer["output"][0]["prediction"] == [{"label": "a", "probability": None}, 1]
    assert answer["notes"] == ["output 'probabilities': 1 non-finite values became null"]


def test_what_cannot_be_passed_on_is_an_error(pictures):
    pictures.api.model.infer = lambda path: {"lock": threading.Lock()}
    assert "'probabilities'" in strict(post(pictures, png(), "white.png"), 400)["error"]


@pytest.mark.filterwarnings("ignore:unclosed file")  # Pillow keeps a picture open until it has been read
def test_errors_of_the_model_are_errors(pictures):
    assert strict(post(pictures, png()[:45], "cut.png"), 400)["error"]
    pictures.api.model.infer = lambda path: 1 / 0
    assert "ZeroDivisionError" in strict(post(pictures, png(), "white.png"), 400)["error"]


def test_requests_without_what_they_need(pictures):
    assert "fileurl" in strict(pictures.client.get("/api/predict"), 400)["error"]
    assert "file" in strict(pictures.client.post("/api/predict", data={"other": "x"}), 400)["error"]
    assert "error" in strict(pictures.client.get("/api/predict_sample"), 404)
    assert pictures.client.get("/api/nothing").status_code == 404
    assert pictures.client.delete("/api/predict").status_code == 405


# --- file types ---

def nifti():
    header = bytearray(400)
    header[:4], header[344:348] = b"\x5c\x01\0\0", b"n+1\0"
    return bytes(header)


def packed(data):
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb") as archive:
        archive.write(data)
    return stream.getvalue()


def npy():
    stream = io.BytesIO()
    numpy.save(stream, numpy.ones((2, 2)))
    return stream.getvalue()


BARE_DICOM = b"\x08\0\x05\0CS\x0a\0ISO_IR 100" + b"\0" * 200


@pytest.mark.parametrize("mime, data, name, extension", [
    ("image/png", png(), "x.png", ".png"),
    ("image/png", png(), "misnamed.jpg", ".png"),
    ("image/jpg", b"\xff\xd8\xff\xe0" + b"\0" * 20, "photo.jpeg", ".jpg"),
    ("application/dicom", b"\0" * 128 + b"DICM" + b"\0" * 20, "noname", ".dcm"),
    ("application/dicom", BARE_DICOM, "IM0001", ".dcm"),
    ("application/dicom", BARE_DICOM, "scan.dcm", ".dcm"),
    ("application/octet-stream", npy(), "array.npy", ".npy"),
    ("application/nii", nifti(), "v.nii", ".nii"),
    ("application/nii-gzip", packed(nifti()), "v.nii.gz", ".nii.gz"),
    ("application/nii-gzip", packed(nifti()), "a.b.c.nii.gz", ".nii.gz"),
    ("application/nrrd", b"NRRD0004\n", "v.nrrd", ".nrrd"),
    ("application/mha", b"ObjectType = Image\n", "v.mha", ".mha"),
    ("text/plain", b"words", "x.txt", ".txt"),
])
def test_files_are_known_by_content_and_name(serve, edit_config, mime, data, name, extension):
    rest = serve("pictures")
    rest.api.model.infer = lambda path: os.path.basename(path)
    edit_config(rest.api.contrib_src_dir, lambda config: config["model"]["io"]["input"].update(format=[mime]))
    assert strict(post(rest, data, name))["output"][0]["prediction"] == "input" + extension


@pytest.mark.parametrize("data, name", [
    (b"this is text", "x.png"), (b"", "x.png"), (b"\0\1\2\3", "x"), (npy(), "x.png"), (b"<svg/>", "x.svg"),
    (packed(b"no volume"), "v.nii.gz")])
def test_files_of_another_kind_are_refused(pictures, data, name):
    error = strict(post(pictures, data, name), 400)["error"]
    assert error.startswith("Incorrect file type.")


def test_the_clients_file_name_is_never_used(pictures):
    seen = []
    pictures.api.model.infer = lambda path: seen.append(path) or 1
    for name in ("../../evil.png", "/etc/cron.d/x.png", u"\u00e9 $(id).png", "-rf.png", "a" * 300 + ".png"):
        strict(post(pictures, png(), name))
    assert {os.path.basename(path) for path in seen} == {"input.png"} and len(set(seen)) == 5
    assert not any(os.path.exists(path) for path in seen)


def test_the_folder_of_a_request_is_private(pictures):
    modes = []
    pictures.api.model.infer = lambda path: modes.append(os.stat(os.path.dirname(path)).st_mode & 0o777) or 1
    strict(post(pictures, png(), "x.png"))
    assert modes == [0o700]


# --- what strangers can't do ---

OUTSIDE = ["../secret.txt", "..%2fsecret.txt", "%2e%2e/secret.txt", "/etc/passwd", "%2fetc%2fpasswd", "link",
           "patient_1", "..", ".", "x%00.png", ""]


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_file_outside_is_served(pictures, name):
    for place in ("samples", "thumbnail", "output"):
        folder = pictures.api.output_folder if place == "output" else "sample_data"
        if not os.path.islink(os.path.join(folder, "link")):
            os.symlink(os.path.abspath("secret.txt"), os.path.join(folder, "link"))
        response = pictures.client.get("/api/%s/%s" % (place, name))
        assert response.status_code in (301, 308, 404) and b"secret" != response.data
    response = pictures.client.get("/api/predict_sample?filename=" + name)
    assert strict(response, 404)["error"]


@pytest.mark.parametrize("path", [
    "/etc/passwd", "../secret.txt", "sample_data/../secret.txt", "file:///etc/passwd", "sample_data/link",
    "ftp://x/y"])
def test_json_names_only_samples_and_addresses(volumes, path):
    os.symlink("/etc/passwd", "sample_data/link")
    given = {"t1": {"fileurl": path}, "t2": {"fileurl": "patient_1/t2.npy"}}
    error = strict(post(volumes, json.dumps(given).encode("ascii"), "x.json"), 400)["error"]
    assert "neither an http(s) address nor a file of sample_data" in error


@pytest.mark.parametrize("text", [
    "no json", "[1]", "{}", '{"t1": "x", "t2": 1}', '{"t1": {"fileurl": 5}, "t2": {}}'])
def test_json_that_names_no_inputs(volumes, text):
    assert "JSON" in strict(post(volumes, text.encode("ascii"), "x.json"), 400)["error"]


def test_an_upload_over_the_limit(serve):
    rest = serve("pictures", max_upload_mb=0.01)
    assert "larger than the limit" in strict(post(rest, b"x" * 20000, "x.png"), 413)["error"]


@pytest.mark.skipif(not hasattr(flask.Request, "max_form_parts"), reason="this Flask cannot count parts")
def test_a_form_of_many_parts_is_refused(pictures):
    def status(fields):
        parts = dict(("field %d" % number, "x") for number in range(fields))
        return pictures.client.post("/api/predict", data=dict(parts, file=(io.BytesIO(png()), "x.png"))).status_code
    assert [status(15), status(16)] == [200, 413]


def test_a_body_of_unknown_length_is_refused(pictures):
    response = pictures.client.post("/api/predict", input_stream=io.BytesIO(b"x" * 100),
                                    headers={"Transfer-Encoding": "chunked"})
    assert "Content-Length" in strict(response, 411)["error"]


def test_other_sites_pages_are_refused(serve):
    rest = serve("pictures", allowed_hosts=("localhost", "::1"))
    assert rest.client.get("/api/get_config", headers={"Host": "evil.example"}).status_code == 403
    assert rest.client.get("/api/get_config", headers={"Host": "localhost:8080"}).status_code == 200
    assert rest.client.get("/api/get_config", headers={"Host": "[::1]:8080"}).status_code == 200
    assert rest.client.get("/api/get_config", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_one_inference_at_a_time_and_a_bounded_queue(serve):
    rest = serve("pictures", max_waiting=2)
    PIL.Image.new("L", (8, 8), 255).save("sample_data/white.png")
    running, most, gate = [], [], threading.Event()

    def infer(path):
        running.append(path)
        most.append(len(running))
        gate.wait(10)
        running.remove(path)
        return 1
    rest.api.model.infer = infer
    statuses = []

    def ask():
        statuses.append(rest.app.test_client().get("/api/predict_sample?filename=white.png").status_code)
    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    deadline = time.time() + 10
    while len(statuses) < 3 and time.time() < deadline:
        time.sleep(0.01)
    assert statuses == [503] * 3
    gate.set()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] * 3 + [503] * 3 and max(most) == 1


def test_every_upload_gets_its_own_answer(pictures):
    answers = {}

    def ask(level):
        client = pictures.app.test_client()
        response = client.post("/api/predict", data={"file": (io.BytesIO(png(level)), "x.png")})
        answers[level] = brightness(strict(response))
    threads = [threading.Thread(target=ask, args=(level,)) for level in range(0, 120, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {level: round(answer * 255) for level, answer in answers.items()} == {
        level: level for level in range(0, 120, 10)}


# --- addresses ---

def test_addresses_on_private_hosts_are_refused(pictures):
    for url in ("http://127.0.0.1:1/x.png", "http://localhost/x.png", "file:///etc/passwd", "x.png"):
        error = strict(pictures.client.get("/api/predict", query_string={"fileurl": url}), 400)["error"]
        assert "public internet" in error or "has to be an http" in error


def test_inputs_by_address(volumes, web):
    stream = io.BytesIO()
    numpy.save(stream, numpy.full((2, 2, 2), 9))
    web.files["/t1.npy"] = stream.getvalue()
    given = {"format": ["application/json"],
             "t1": {"format": ["application/octet-stream"], "fileurl": web.url + "/t1.npy?token=1"},
             "t2": {"fileurl": "sample_data/patient_1/t2.npy"}}
    web.files["/case.json"] = json.dumps(given).encode("ascii")
    for response in (post(volumes, web.files["/case.json"], "case.json"),
                     volumes.client.get("/api/predict", query_string={"fileurl": web.url + "/case.json"})):
        assert strict(response)["output"][1]["prediction"] == {"above": 8}
    web.files["/t1.npy"] = png()
    assert "Incorrect file type" in strict(post(volumes, web.files["/case.json"], "case.json"), 400)["error"]


# --- a real server ---

@pytest.mark.parametrize("waitress", ["with waitress", "without"])
def test_run_py_serves(contribution, engine, waitress):
    if waitress == "with waitress":
        pytest.importorskip("waitress")
    folder = contribution("pictures")
    if waitress == "without":
        with open("waitress.py", "w") as stream:
            stream.write("raise ImportError('not here')\n")
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    path = [engine] + [place for place in sys.path if place != folder]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path), MODELHUB_PORT=str(port),
                       MODELHUB_HOST="127.0.0.1")
    with open(os.devnull, "wb") as nothing:
        process = subprocess.Popen([sys.executable, "run.py"], cwd=folder, env=environment, stdout=nothing)
    try:
        reply = talk(port, b"GET /api/get_config HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in reply.splitlines()[0] and b'"Pictures"' in reply
        body = (b"--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x.png\"\r\n\r\n"
                + png() + b"\r\n--B--\r\n")
        head = b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: " \
               b"multipart/form-data; boundary=B\r\n"
        whole = talk(port, head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert b" 200 " in whole.splitlines()[0] and b'"bright"' in whole
        parts = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:50], body[50:]))
        chunked = talk(port, head + b"Transfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n")
        status = chunked.splitlines()[0]
        assert b" 411 " in status or (b" 200 " in status and b'"bright"' in chunked)
        evil = talk(port, b"GET /api/get_config HTTP/1.0\r\nHost: evil.example\r\n\r\n")
        assert b" 403 " in evil.splitlines()[0]
    finally:
        process.kill()
        process.wait()


def talk(port, request):
    """Send request to the server on port, as soon as it answers; return all it says."""
    deadline = time.time() + 30
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port), 10)
            break
        except socket.error:
            if time.time() > deadline:
                raise
            time.sleep(0.05)
    connection.sendall(request)
    reply = b""
    while True:
        data = connection.recv(65536)
        if not data:
            connection.close()
            return reply
        reply += data


def test_models_find_the_input_in_working_and_nothing_of_earlier_requests(serve, tmp_path, monkeypatch):
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.setenv("TEST_WORKING", str(folder))
    rest = serve("lister")
    rest.shown_in = str(folder)
    os.mkdir("sample_data")
    for name, text in (("a.txt", u"one"), ("b.txt", u"two")):
        with open(os.path.join("sample_data", name), "w") as stream:
            stream.write(text)
        answer = rest.client.get("/api/predict_sample?filename=%s" % name)
        assert json.loads(answer.data.decode("utf-8"))["output"][0]["prediction"] == {
            "of-the-model": "", "input-%s" % name: text}
    assert sorted(os.listdir(str(folder))) == ["of-the-model", "place"]


def test_several_inputs_can_be_uploaded_by_their_names(volumes):
    def array(value):
        stream = io.BytesIO()
        numpy.save(stream, numpy.full((2, 2, 2), value))
        return io.BytesIO(stream.getvalue())
    answer = strict(volumes.client.post("/api/predict", data={"t1": (array(5), "a.npy"), "t2": (array(3), "b.npy")}))
    assert answer["output"][1]["prediction"] == {"above": 8}


def test_an_input_that_is_not_uploaded_is_named(volumes):
    refused = strict(volumes.client.post("/api/predict", data={"t1": (io.BytesIO(b"x"), "a.npy")}), 400)
    assert "t2" in refused["error"]


def test_inputs_from_addresses_can_be_forbidden(serve):
    rest = serve("pictures", allow_urls=False)
    assert "upload" in strict(rest.client.get("/api/predict?fileurl=http://127.0.0.1/a.png"), 403)["error"]


def test_any_image_may_be_what_a_model_takes():
    from modelhubapi import filetypes
    assert filetypes.is_accepted(filetypes.PNG, ["image/*"]) and filetypes.is_accepted(filetypes.TIFF, ["IMAGE/*"])
    assert not filetypes.is_accepted(filetypes.NPY, ["image/*"]) and filetypes.is_accepted(filetypes.NPY, [])
