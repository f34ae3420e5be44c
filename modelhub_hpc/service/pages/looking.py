"""A result: its images with what lies over them, its numbers, and its files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TypeVar

import flask
from werkzeug.utils import secure_filename
from werkzeug.wrappers import Response

from modelhub_hpc.service.pages import pictures
from modelhub_hpc.service.pages.catalogue import label_names
from modelhub_hpc.service.pages.composing import Looks, looks
from modelhub_hpc.service.pages.kept import ARRAYS, Kept, Results
from modelhub_hpc.service.pages.sections import sections
from modelhub_hpc.service.pages.stages import Stage, stages
from modelhub_hpc.service.refused import Refused
from modelhub_hpc.service.served import Service
from modelhub_hpc.viewing import exports, views

Item = TypeVar("Item")

_SLICE = "/results/<key>/<int:ground>/<int:number>/<plane>/<int:index>"


def add(pages: flask.Blueprint, service: Service, results: Results) -> None:
    @pages.get("/results/<key>")
    def result(key: str) -> str:
        kept = results.find(key)
        ground = _ground(kept)
        seen = looks(kept, ground)
        return flask.render_template(
            "result.html",
            kept=kept,
            ground=ground,
            looks=seen,
            stages=stages(seen, flask.request.args),
            sections=sections(kept, seen),
            labels={each.name: label_names(service, kept.model, each.name) for each in kept.outputs},
            volumes=[index for index, _ in enumerate(kept.outputs) if seen.stack(index) is not None],
            served=service.models.get(kept.model),
        )

    @pages.get(f"{_SLICE}/ground.png")
    def ground_slice(key: str, ground: int, number: int, plane: str, index: int) -> Response:
        stage = _stage(results.find(key), ground, number, plane, index)
        return pictures.reply(views.png(stage.view.ground(plane, index, stage.window)), for_s=3600)

    @pages.get(f"{_SLICE}/layer-<int:layer>.png")
    def layer_slice(key: str, ground: int, number: int, plane: str, index: int, layer: int) -> Response:
        view = _stage(results.find(key), ground, number, plane, index).view
        return pictures.reply(views.png(view.overlay(_item(view.layers, layer), plane, index)), for_s=3600)

    @pages.get(f"{_SLICE}/outline-<int:outline>.svg")
    def outline_slice(key: str, ground: int, number: int, plane: str, index: int, outline: int) -> Response:
        stage = _stage(results.find(key), ground, number, plane, index)
        path = stage.view.drawn(_item(stage.view.outlines, outline), plane, index)
        drawing = flask.render_template("outline.svg", stage=stage, path=path)
        response = flask.Response(drawing, mimetype="image/svg+xml")
        response.headers["Cache-Control"] = "private, max-age=3600"
        return response

    @pages.get(f"{_SLICE}/seen.png")
    def seen_slice(key: str, ground: int, number: int, plane: str, index: int) -> Response:
        """What the viewer shows, as one picture."""
        kept = results.find(key)
        stage = _stage(kept, ground, number, plane, index)
        name = f"{kept.model}-{plane}-{index + 1}.png"
        return _file(views.png(stage.blended()), name, "image/png")

    @pages.get("/results/<key>/files/result.json")
    def result_json(key: str) -> Response:
        kept = results.find(key)
        told = {
            "model": kept.model,
            "inputs": {each.key: each.name for each in kept.given},
            "seconds": kept.seconds,
            "notes": kept.notes,
            "outputs": [asdict(output) for output in kept.outputs],
        }
        text = json.dumps(told, indent=2)
        return _file(text.encode(), f"{kept.model}-result.json", "application/json")

    @pages.get("/results/<key>/files/arrays.h5")
    def result_arrays(key: str) -> Response:
        kept = results.find(key)
        if not kept.arrays:
            raise Refused(404, "This result has no arrays.")
        return flask.send_file(kept.folder / ARRAYS, "application/x-hdf5", True, f"{kept.model}-arrays.h5")

    @pages.get("/results/<key>/files/<int:output>.nii.gz")
    def result_volume(key: str, output: int) -> Response:
        kept = results.find(key)
        seen = looks(kept, 0)
        stack = seen.stack(output)
        if stack is None:
            raise Refused(404, "This output is no volume.")
        name = secure_filename(kept.outputs[output].name) or f"output-{output}"
        return _file(exports.nifti(stack, seen.place(output)), f"{kept.model}-{name}.nii.gz", "application/gzip")


def _file(content: bytes, name: str, kind: str) -> Response:
    response = flask.Response(content, mimetype=kind)
    response.headers.set("Content-Disposition", "attachment", filename=name)
    return response


def _ground(kept: Kept) -> int:
    """Which of the inputs the outputs are laid over."""
    return _number(flask.request.args, "ground", 0, len(kept.given) - 1)


def _number(given: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = given.get(name, "")
    return min(int(text), most) if text.isascii() and text.isdigit() and len(text) < 10 else default


def _stage(kept: Kept, ground: int, number: int, plane: str, index: int) -> Stage:
    """What a slice's address names; Refused (404) for anything that is not there."""
    if ground < len(kept.given):
        seen: Looks = looks(kept, ground)
        if number < len(seen.views) and plane in seen.views[number].planes:
            stage = Stage.of(seen, number, flask.request.args, plane)
            if index < stage.slices:
                return stage.at(index)
    raise Refused(404, "There is no such slice.")


def _item(items: Sequence[Item], number: int) -> Item:
    if number >= len(items):
        raise Refused(404, "There is no such layer.")
    return items[number]
