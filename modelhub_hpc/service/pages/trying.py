"""Try a model: one of its samples, or files of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import flask
from werkzeug.datastructures import FileStorage
from werkzeug.wrappers import Response

from modelhub_hpc import inputs, viewing
from modelhub_hpc.contributing import sampledata
from modelhub_hpc.contributing.sampledata import Sample
from modelhub_hpc.contribution import InputSpec
from modelhub_hpc.errors import InvalidError
from modelhub_hpc.service import uploads
from modelhub_hpc.service.pages import pictures
from modelhub_hpc.service.pages.kept import Given, Results
from modelhub_hpc.service.refused import Refused
from modelhub_hpc.service.served import Service, ServedModel
from modelhub_hpc.viewing import views

_SIDE = 240  # pixels of a sample's picture


def add(pages: flask.Blueprint, service: Service, results: Results) -> None:
    @pages.get("/models/<name>/try")
    def try_model(name: str) -> str:
        return _page(served(service, name))

    @pages.post("/models/<name>/try")
    def predict(name: str) -> Response | tuple[str, int]:
        model = served(service, name)
        try:
            key = _sample(model, results) if "sample" in flask.request.form else _uploads(model, results)
        except Refused as error:
            if error.status != 400:
                raise
            return _page(model, str(error)), 400
        return flask.redirect(flask.url_for("pages.result", key=key), 303)

    @pages.get("/models/<name>/samples/<sample>.png")
    def sample_picture(name: str, sample: str) -> Response:
        model = served(service, name)
        path = str(_found(model, sample).inputs[0][1])
        with suppress(viewing.Unviewable):
            return pictures.reply(_picture(path), for_s=3600)
        raise Refused(404, "This sample cannot be shown.")


def served(service: Service, name: str) -> ServedModel:
    """Refused (404) for a model that this server does not serve."""
    if name not in service.models:
        raise Refused(404, f"This server does not serve '{name}'. It serves {', '.join(service.models)}.")
    return service.models[name]


def samples(model: ServedModel) -> Sequence[Sample]:
    with suppress(InvalidError):
        return sampledata.find(model.contribution)
    return ()


def _page(model: ServedModel, problem: str = "") -> str:
    series = [takes_series(spec) for spec in model.contribution.inputs]
    return flask.render_template("try.html", model=model, samples=samples(model), problem=problem, series=series)


def _found(model: ServedModel, name: str) -> Sample:
    sample = next((each for each in samples(model) if each.name == name), None)
    if sample is None:
        raise Refused(404, f"'{model.name}' has no such sample.")
    return sample


def _sample(model: ServedModel, results: Results) -> str:
    sample = _found(model, flask.request.form["sample"])
    given = [Given(key, path.name, path, True) for key, path in sample.inputs]
    return _predicted(model, given, results)


def _uploads(model: ServedModel, results: Results) -> str:
    with uploads.request_folder(model) as folder:
        given = [_received(model, number, folder) for number in range(len(model.contribution.inputs))]
        return _predicted(model, given, results)


def _received(model: ServedModel, number: int, folder: Path) -> Given:
    """The file of one input. Fields are called after the inputs' numbers, whatever their keys hold."""
    spec = model.contribution.inputs[number]
    sent = [each for each in flask.request.files.getlist(f"input-{number}") if each.filename]
    if not sent:
        what = "a file" if spec.key == "single" else f"a file for {spec.key}"
        raise Refused(400, f"Choose {what} first.")
    if len(sent) > 1:
        return _series(sent, spec, folder / f"series-{number}")
    path = uploads.receive(sent[0], spec, folder)
    return Given(spec.key, Path(str(sent[0].filename).replace("\\", "/")).name[:200] or path.name, path, False)


def takes_series(spec: InputSpec) -> bool:
    """Whether several DICOM files may be one input."""
    one_plane = bool(spec.dim_limits) and spec.dim_limits[0][1] == 1
    return "application/dicom" in spec.formats and not one_plane


def _series(sent: Sequence[FileStorage], spec: InputSpec, folder: Path) -> Given:
    """The files of a DICOM series, in a folder of their own."""
    if not takes_series(spec):
        raise Refused(400, "The model takes one file here, and not several.")
    folder.mkdir()
    for each in sent:
        if not inputs.is_dicom(str(uploads.receive(each, spec, folder))):
            raise Refused(400, "Several files can only be the slices of one DICOM series.")
    return Given(spec.key, f"{len(sent)} slices", folder, False)


def _predicted(model: ServedModel, given: Sequence[Given], results: Results) -> str:
    answer = model.sessions.predict(tuple((each.key, str(each.path)) for each in given))
    return results.keep(model.name, given, answer)


def _picture(path: str) -> bytes:
    view, _ = viewing.view_of(viewing.read(path), ())
    assert view is not None
    plane = view.pose.plane
    return views.png(pictures.square(view.ground(plane, view.extent(plane)[0] // 2), view.steps(plane), _SIDE))
