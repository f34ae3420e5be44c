"""Where the files of an export lie: a folder per format and output, or as derivatives of a BIDS dataset."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from modelhub_hpc import __version__
from modelhub_hpc.export.images import facts
from modelhub_hpc.export.items import Item, LeftOut
from modelhub_hpc.export.names import distinct, plain_names, stem
from modelhub_hpc.plan import Case
from modelhub_hpc.runfolder import Json, dumps, replacing
from modelhub_hpc.runs.reading import Reading
from modelhub_hpc.viewing.layers import label_colour

_BIDS = "1.10.0"
_NAME = re.compile(r"(?P<subject>sub-[0-9A-Za-z]+)(?P<rest>(?:_[a-z]+-[0-9A-Za-z+]+)*)_(?P<suffix>[0-9A-Za-z]+)")
_SESSION = re.compile(r"_(ses-[0-9A-Za-z]+)")
_DESCRIBED = re.compile(r"_(?:desc|label)-[0-9A-Za-z+]+")  # of what the input was, not of what was made of it
_KINDS = ("anat", "func", "dwi")  # of folders where BIDS lets masks lie
_SUFFIXES = {"mask_image": "dseg", "heatmap": "probseg"}
_NO_BIDS = ("export.json", "left_out.csv", "results.jsonl", "cases.*", "values.*")  # and a folder per format

_README = """Outputs of the model {model}, written by `mh-hpc export --layout bids` from run {run}.
Masks lie on the grid of the input that their sidecar names; desc-*_dseg.tsv say what their numbers mean.
"""


class Layout(Protocol):
    """How the files of a case are called, and where those with images on its grid go."""

    def candidates(self, case: Case) -> Sequence[str]:
        """As `names.Names` wants them."""

    def begin(self, run: Reading, folder: Path, formats: Sequence[str]) -> None:
        """Write what describes the whole."""

    def volume(self, folder: Path, name: str, item: Item) -> Path:
        """The NIfTI file of an output. Raises LeftOut."""

    def sidecar(self, folder: Path, item: Item) -> Mapping[str, Json]:
        """What is said beside it. Raises LeftOut for what may not lie here."""


def place(folder: Path, name: str, item: Item, kind: str, suffix: str) -> Path:
    """Where a file of an output lies, but for volumes: FORMAT/OUTPUT/NAME."""
    return folder / kind / item.name / f"{name}{suffix}"


@dataclass(frozen=True)
class Plain:
    """A folder for each format, in it one for each output, in it a file for each case, named as its input."""

    def candidates(self, case: Case) -> Sequence[str]:
        return plain_names(case)

    def begin(self, run: Reading, folder: Path, formats: Sequence[str]) -> None:
        pass  # export.json says it all

    def volume(self, folder: Path, name: str, item: Item) -> Path:
        return place(folder, name, item, "nifti", ".nii.gz")

    def sidecar(self, folder: Path, item: Item) -> Mapping[str, Json]:
        return facts(item)


@dataclass(frozen=True)
class Bids:
    """Volumes as derivatives: sub-X/[ses-Y/]KIND/ENTITIES_desc-OUTPUT_dseg.nii.gz. All else as in `Plain`, ignored."""

    _descs: dict[str, str] = field(default_factory=dict)  # of outputs, by their names for files
    _described: set[str] = field(default_factory=set)

    def candidates(self, case: Case) -> Sequence[str]:
        """Entities; entities and the suffix, for inputs that differ in that only; a subject made of the id.

        The last is the only one of an input without a BIDS name.
        """
        found = _entities(case)
        own = f"sub-{_label(case.id)}"
        return (found[0], f"{found[0]}_{found[1]}", own) if found else (own,)

    def begin(self, run: Reading, folder: Path, formats: Sequence[str]) -> None:
        names = distinct(output.name for output in run.request.model.outputs)
        plain = distinct(map(_alphanumeric, names))
        self._descs.update((name, _alphanumeric(desc)) for name, desc in zip(names, plain))
        with replacing(folder / "dataset_description.json") as text:
            text.write(dumps(_description(run), indent=2) + "\n")
        with replacing(folder / "README") as text:
            text.write(_README.format(model=run.request.model.name, run=run.request.run_id))
        with replacing(folder / ".bidsignore") as text:
            text.write("".join(f"{name}\n" for name in (*_NO_BIDS, *formats)))

    def volume(self, folder: Path, name: str, item: Item) -> Path:
        *parts, last = name.split("_")
        told_apart = "" if "-" in last else last  # a suffix is no entity
        entities = "_".join(parts) if told_apart else name
        session = _SESSION.search(entities)
        subject = entities.partition("_")[0]
        within = folder / subject / session[1] if session else folder / subject
        desc = self._descs[item.name] + told_apart
        if item.type not in _SUFFIXES:
            raise LeftOut("BIDS has names for masks and maps of probabilities, and none for such an image")
        suffix = _SUFFIXES[item.type]
        self._describe(folder, item, desc)
        return within / _kind(item.source.case) / f"{entities}_desc-{desc}_{suffix}.nii.gz"

    def sidecar(self, folder: Path, item: Item) -> Mapping[str, Json]:
        voxels = item.volume.voxels
        if item.type == "heatmap" and not (0 <= voxels.min() and voxels.max() <= 1):
            raise LeftOut("BIDS has a name for probabilities, and these values are not from 0 to 1")
        if item.type == "mask_image" and voxels.ndim != 3:
            raise LeftOut(f"BIDS has a name for one map of labels, and this has {voxels.shape[0]} channels")
        source = _bids_uri(item.source.path)
        return {
            "Description": item.spec.description or item.spec.name,
            "Manual": False,
            **({"Sources": [source]} if source else {}),
            **({"LabelMap": list(item.labels.values())} if voxels.ndim == 4 and item.labels else {}),
            "ModelHub": facts(item),
        }

    def _describe(self, folder: Path, item: Item, desc: str) -> None:
        """What the numbers of a mask mean, for all of them: BIDS' lookup table, at the top."""
        if item.type != "mask_image" or not item.labels or desc in self._described:
            return
        self._described.add(desc)
        with replacing(folder / f"desc-{desc}_dseg.tsv") as text:
            text.write("index\tname\tcolor\n")
            for key, name in item.labels.items():
                if key.isdecimal():
                    colour = "#{:02x}{:02x}{:02x}".format(*label_colour(int(key))) if int(key) else "#000000"
                    text.write(f"{key}\t{' '.join(name.split())}\t{colour}\n")


LAYOUTS = {"plain": Plain, "bids": Bids}


def _entities(case: Case) -> tuple[str, str] | None:
    """(entities, suffix) of the first input's name; None where it has no BIDS name."""
    found = _NAME.fullmatch(stem(case.inputs[0][1]))
    if found is None:
        return None
    return found["subject"] + _DESCRIBED.sub("", found["rest"]), found["suffix"]


def _kind(case: Case) -> str:
    parent = os.path.basename(os.path.dirname(case.inputs[0][1]))
    return parent if _entities(case) and parent in _KINDS else "anat"


def _label(case_id: str) -> str:
    """A case id as a subject's label: the same letters and digits, and a mark where there was something else."""
    plain = _alphanumeric(case_id)
    digest = hashlib.sha256(case_id.encode()).hexdigest()[:8]
    return plain if plain == case_id else f"{plain}x{digest}"


def _alphanumeric(text: str) -> str:
    return re.sub("[^0-9A-Za-z]", "", text) or "output"


def _description(run: Reading) -> dict[str, Json]:
    request = run.request
    model: dict[str, Json] = {"Name": request.model.name, "Version": request.model.version}
    if request.image is not None:
        model["Container"] = {"Type": "apptainer", "Tag": request.image.name}
    root = next((root for case in run.manifest.stream() if (root := _bids_root(case.inputs[0][1]))), "")
    return {
        "Name": f"{request.model.name}: outputs of run {request.run_id}",
        "BIDSVersion": _BIDS,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "modelhub-hpc", "Version": __version__}, model],
        "PipelineDescription": {"Name": "modelhub-hpc", "Version": __version__},
        "SourceDatasets": [{"URL": _url(path)} for path in ([root] if root else sorted(map(str, request.roots)))],
        **({"DatasetLinks": {"raw": _url(root)}} if root else {}),
    }


def _bids_root(path: str) -> str:
    """The dataset that a file with a BIDS name belongs to; "" where it is in none."""
    subject = _NAME.fullmatch(stem(path))
    before, found, _ = path.rpartition(f"/{subject['subject']}/") if subject else ("", "", "")
    return before if found else ""


def _bids_uri(path: str) -> str:
    root = _bids_root(path)
    return f"bids:raw:{os.path.relpath(path, root)}" if root else ""


def _url(path: str) -> str:
    return f"file://{quote(os.fsencode(path))}"
