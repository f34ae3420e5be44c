"""What a run folder says of itself: RO-Crate, methods, references, digests of inputs, an archive."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bibtexparser
import digitruns
import pytest
from grounds import REPO
from rocrate.rocrate import ROCrate
from runkit import Here, local_run

from modelhub_hpc import owner, request
from modelhub_hpc.models import entry as entries
from modelhub_hpc.models.known import entry_of
from modelhub_hpc.publication import hashing, methods, references
from modelhub_hpc.record import RunPaths

NAMES = ["a", "new\nline", "back\\slash", "-dash", "cr\rx", "half\udcff", "ü %20"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Here:
    """A folder with a run, "run", over scans with hostile names in "scans"."""
    made = Here(tmp_path_factory.mktemp("publication"))
    digitruns.submit(made, made.folder / "run", digitruns.inputs(made.folder / "scans", NAMES))
    return made


@pytest.fixture
def run(here: Here, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return shutil.copytree(here.folder / "run", tmp_path / "copy")


def graph(run: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((run / "ro-crate-metadata.json").read_bytes())
    return {each["@id"]: each for each in found["@graph"]}


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def faults(run: Path) -> Iterator[str]:
    """What breaks a MUST of RO-Crate 1.1, Process Run Crate 0.5, Workflow Run Crate 0.5 or Workflow RO-Crate 1.0."""
    found = graph(run)
    kinds = {name: set(listed(each["@type"])) for name, each in found.items()}

    def refers(of: str, name: str) -> list[str]:
        return [each["@id"] for each in listed(found[of].get(name)) if isinstance(each, dict)]

    raw = json.loads((run / "ro-crate-metadata.json").read_bytes())
    if len(raw["@graph"]) != len(found):
        yield "two entities have one id"
    if "https://w3id.org/ro/crate/1.1/context" not in listed(raw["@context"]):
        yield "not the context of RO-Crate 1.1"
    about = found["ro-crate-metadata.json"]
    if about["about"] != {"@id": "./"} or kinds["ro-crate-metadata.json"] != {"CreativeWork"}:
        yield "the descriptor describes something else"
    if not {"https://w3id.org/ro/crate/1.1", "https://w3id.org/workflowhub/workflow-ro-crate/1.0"} <= set(
        refers("ro-crate-metadata.json", "conformsTo")
    ):
        yield "the descriptor does not conform"
    for name in ("name", "description", "datePublished", "license"):
        if not found["./"].get(name):
            yield f"the root has no {name}"
    for profile in refers("./", "conformsTo"):
        if kinds[profile] != {"CreativeWork"} or "version" not in found[profile]:
            yield f"the profile {profile} is not described"
    profiles = {profile.split("/")[-2] for profile in refers("./", "conformsTo")}
    if profiles != {"process", "workflow", "workflow-ro-crate"}:
        yield "not all profiles"
    (main,) = refers("./", "mainEntity")
    if not {"File", "SoftwareSourceCode", "ComputationalWorkflow"} <= kinds[main]:
        yield "the main entity is no workflow"
    if [kinds[each] for each in refers(main, "programmingLanguage")] != [{"ComputerLanguage"}]:
        yield "the workflow has no language"
    for port in refers(main, "input") + refers(main, "output"):
        if kinds[port] != {"FormalParameter"} or not found[port].get("additionalType"):
            yield f"{port} is no formal parameter"
        for example in refers(port, "workExample"):
            if {"@id": port} not in listed(found.get(example, {}).get("exampleOfWork")):
                yield f"{example} does not say that it is an example of {port}"
    actions = [name for name, each in kinds.items() if "CreateAction" in each]
    if not any(main in refers(action, "instrument") for action in actions):
        yield "no action has run the workflow"
    for action in actions:
        if action not in refers("./", "mentions"):
            yield "the root does not mention the action"
    parts = refers("./", "hasPart")
    for name, each in kinds.items():
        if each & {"File", "Dataset"} and name != "./" and name not in parts:
            yield f"{name} is no part of the root"
    for part in parts:
        if not (run / part).exists():
            yield f"{part} is not there"
    for name, each in found.items():
        for key, values in each.items():
            for value in listed(values):
                if isinstance(value, dict) and set(value) == {"@id"} and value["@id"] not in found:
                    if not (key == "conformsTo" or value["@id"].startswith("https://w3id.org/ro/terms/")):
                        yield f"{name}: {key} is {value['@id']}, which nothing describes"
        if not re.fullmatch(r"[^\x00-\x20<>\"{}|\\^`]+", name):
            yield f"{name!r} is no IRI"


def test_a_run_folder_is_a_workflow_run_crate(here: Here) -> None:
    run = here.folder / "run"
    assert list(faults(run)) == []
    crate = ROCrate(run)
    assert crate.mainEntity.id == "run.json"
    (action,) = (each for each in crate.get_by_type("CreateAction"))
    record = json.loads((run / "record.json").read_bytes())
    assert action["startTime"] == record["started"].replace("Z", "+00:00")
    assert action["endTime"] == record["ended"].replace("Z", "+00:00")
    assert action["actionStatus"] == "http://schema.org/CompletedActionStatus"
    assert {each.id for each in action["result"]} == {"results.csv", "failures.csv", "record.json", "shards/"}
    model = crate.get("#model")
    assert (model["name"], model["softwareVersion"], model["license"]) == ("digits-cnn", "1.0.0", "Apache-2.0")
    assert model["additionalProperty"]["value"] == record["model"]["digest"]
    assert crate.get("#value-nan")["value"] == record["site"]["nan"]
    for name in ("manifest.csv", "results.csv", "failures.csv", "record.json"):
        assert crate.get(name)["sha256"] == hashlib.sha256((run / name).read_bytes()).hexdigest()
        assert int(crate.get(name)["contentSize"]) == (run / name).stat().st_size


@pytest.mark.parametrize(
    "path, value",
    [
        (("./", "license"), None),
        (("./", "mainEntity"), {"@id": "results.csv"}),
        (("./", "mentions"), None),
        (("#run", "instrument"), {"@id": "#model"}),
        (("#input-manifest", "additionalType"), None),
        (("run.json", "programmingLanguage"), None),
        (("results.csv", "@id"), "result.csv"),
    ],
)
def test_what_breaks_a_rule_is_seen(run: Path, path: tuple[str, str], value: Any) -> None:
    found = json.loads((run / "ro-crate-metadata.json").read_bytes())
    (entity,) = (each for each in found["@graph"] if each["@id"] == path[0])
    if value is None:
        del entity[path[1]]
    else:
        entity[path[1]] = value
    (run / "ro-crate-metadata.json").write_text(json.dumps(found))
    assert list(faults(run)) != []


def test_what_is_published_names_no_place(here: Here) -> None:
    record = json.loads((here.folder / "run/record.json").read_bytes())
    for name in ("ro-crate-metadata.json", "methods.md", "CITATION.bib"):
        text = (here.folder / "run" / name).read_text()
        for place in (str(here.folder), str(REPO), record["nodes"][0], record["command"]):
            assert place not in text


def test_what_a_run_came_to_is_told_whole(tmp_path: Path) -> None:
    site = local_run(tmp_path, a="OK 1", b="FAIL", c="NANARRAY", d="ARRAY 4")
    assert site.submit("--gpu", "off").code == 3
    assert list(faults(site.outdir)) == []
    text = (site.outdir / "methods.md").read_text()
    assert "Of 4 cases, 3 were predicted and 1 failed (model: 1)." in text
    assert re.search(r"used CPUs( \(.+\))?, with 1 worker on 1 node\.", text)
    assert "4 cases: 3 done, 1 failed" in graph(site.outdir)["./"]["description"]
    assert site.submit("--fail-fast", "--retry-failed").code == 3
    action = graph(site.outdir)["#run"]
    assert action["actionStatus"] == "http://schema.org/CompletedActionStatus" and "error" not in action


def test_what_was_measured_is_in_the_methods(here: Here) -> None:
    text = (here.folder / "run/methods.md").read_text()
    record = json.loads((here.folder / "run/record.json").read_bytes())
    assert f"All {len(NAMES)} cases were predicted." in text and "More than one attempt" not in text
    assert f"took up to {record['cost']['peak_mb']['max']:,.0f} MiB of memory." in text
    gpus = {"gpu_peak_mb": {"max": 1234.5}, "gpu_energy_j": {"total": 7.2e6, "cases": 7}}
    worker = {"gpu_models": ["NVIDIA H100"], "cpu_model": "a CPU"}
    run = request.read(RunPaths(here.folder / "run"))
    told = {**record, "cost": {**record["cost"], **gpus}, "workers": [worker, worker], "nodes": ["a", "b"]}
    more = methods.text(run, told, None, references.of_run(run, None, on_slurm=False))
    assert "used GPUs (NVIDIA H100), with 2 workers on 2 nodes." in more
    assert "1,234 MiB of its GPUs' memory" in more and "The GPUs took 2 kWh for 7 cases." in more


def test_a_run_that_was_stopped_says_so(tmp_path: Path) -> None:
    site = local_run(tmp_path, a="FAIL", b="FAIL", c="OK 1")
    assert site.submit("--fail-fast", "--chunk-size", "1").code == 3
    assert list(faults(site.outdir)) == []
    action = graph(site.outdir)["#run"]
    assert action["actionStatus"] == "http://schema.org/FailedActionStatus" and action["error"]
    assert "2 were not computed" in (site.outdir / "methods.md").read_text()


def test_references_parse_and_methods_cite_them(here: Here) -> None:
    run = here.folder / "run"
    library = bibtexparser.parse_file(str(run / "CITATION.bib"))
    assert not library.failed_blocks
    keys = {entry.key for entry in library.entries}
    assert keys == {"modelhub-2019", "modelhub-hpc"}  # no paper, no container, no SLURM
    assert set(re.findall(r"\[@([^\]]+)\]", (run / "methods.md").read_text())) == keys


@pytest.mark.parametrize("path", sorted((REPO / "registry/models").glob("*.json")), ids=lambda path: path.stem)
def test_every_published_model_can_be_cited(here: Here, path: Path) -> None:
    run = request.read(RunPaths(here.folder / "run"))
    entry = entries.read(path)
    cited = references.of_run(run, entry, on_slurm=True)
    library = bibtexparser.parse_string(cited.text())
    assert not library.failed_blocks
    keys = {each.key for each in library.entries}
    record = json.loads((here.folder / "run/record.json").read_bytes())
    text = methods.text(run, {**record, "jobs": [{}, {}], "usage": {"cpu_hours": 2.5}}, entry, cited)
    assert set(re.findall(r"\[@([^\]]+)\]", text)) == keys and len(keys) == (4 if entry.reference else 3)
    assert "in 2 jobs of Slurm [@slurm-2003] (2.5 CPU hours)" in text


def test_a_model_is_known_by_its_id(here: Here, tmp_path: Path) -> None:
    model = request.read(RunPaths(here.folder / "run")).model
    known = entry_of(model)
    assert known is not None and known.name == "digits-cnn"
    (tmp_path / "entry.json").write_text(json.dumps({**known.to_json(), "title": "Pulled"}))
    pulled = type(model)(**{**vars(model), "path": tmp_path})
    found = entry_of(pulled)
    assert found is not None and found.title == "Pulled"
    assert entry_of(type(model)(**{**vars(pulled), "id": "another"})) is None
    for name in ("x" * 300, "../digits-cnn", "a\0b"):
        assert entry_of(type(model)(**{**vars(model), "path": tmp_path / "gone", "name": name})) is None
    (tmp_path / "entry.json").write_text("{")
    again = entry_of(pulled)
    assert again is not None and again.title == known.title


def test_statements_stay(here: Here, run: Path) -> None:
    assert here("record", run, "--agent", "Ada Lovelace", "--orcid", "0000-0002-1825-0097").code == 0
    assert here("record", run, "--license", "CC-BY-4.0").code == 0
    found = graph(run)
    assert list(faults(run)) == []
    assert found["./"]["license"] == {"@id": "https://spdx.org/licenses/CC-BY-4.0"}
    assert found["#run"]["agent"] == found["./"]["author"] == {"@id": "https://orcid.org/0000-0002-1825-0097"}
    assert found["https://orcid.org/0000-0002-1825-0097"]["name"] == "Ada Lovelace"
    done = here("record", run, "--license", "Ask Ada <first>", "--orcid", "1234")
    assert done.code == 2 and "0000-0002-1825-0097" in done.err
    assert here("record", run, "--license", "Ask Ada <first>").code == 0
    assert graph(run)["./"]["license"] == "Ask Ada <first>"
    assert {path.stat().st_mode & 0o077 for path in run.iterdir()} == {0}


def test_the_record_is_made_anew(here: Here, run: Path) -> None:
    names = ("ro-crate-metadata.json", "methods.md", "CITATION.bib")
    before = {name: (run / name).read_bytes() for name in names}
    tables = {name: (run / name).read_bytes() for name in ("results.csv", "failures.csv", "record.json")}
    for name in names:  # as in a run of an earlier version
        (run / name).unlink()
    facts = here.json("record", run)
    assert {Path(facts[name]).read_bytes() for name in ("crate", "methods", "citation")} == set(before.values())
    assert {name: (run / name).read_bytes() for name in tables} == tables
    assert here.json("status", run)["state"] == "complete"


def test_a_run_without_an_end_has_no_record(here: Here, run: Path) -> None:
    (run / "record.json").unlink()
    done = here("record", run)
    assert done.code == 75 and "has no record yet" in done.err


def test_a_run_that_is_driven_is_left_alone(here: Here, run: Path) -> None:
    mine = owner.acquire(run / ".mh-hpc", "the run")
    done = here("record", run)
    mine.release()
    assert done.code == 75 and "is driven by" in done.err


def test_inputs_are_hashed_as_sha256sum_does(here: Here, run: Path) -> None:
    facts = here.json("record", run, "--hash-inputs")
    assert facts["inputs"] == {"file": str(run / "inputs.sha256"), "files": len(NAMES), "left_out": []}
    check = ["sha256sum", "--check", "--strict", "--quiet", str(run / "inputs.sha256")]
    assert subprocess.run(check, capture_output=True, text=True, errors="replace").returncode == 0
    paths = RunPaths(run)
    scans = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in (here.folder / "scans").iterdir()}
    assert dict(hashing.read(paths)) == scans
    assert list(faults(run)) == [] and {"@id": "inputs.sha256"} in graph(run)["#run"]["object"]


def test_hashing_goes_on_where_it_was_interrupted(here: Here, run: Path) -> None:
    one = json.dumps({"case": "a", "files": [["/elsewhere/a", "0" * 64]]})
    (run / ".mh-hpc/hashing.jsonl").write_text(f'{one}\n{{"case": "half')
    facts = here.json("record", run, "--hash-inputs")
    lines = (run / "inputs.sha256").read_bytes().splitlines()
    assert facts["inputs"]["files"] == len(NAMES) and lines[0] == b"0" * 64 + b"  /elsewhere/a"
    assert not (run / ".mh-hpc/hashing.jsonl").exists()


def test_inputs_that_are_not_those_of_the_run_are_not_hashed(tmp_path: Path) -> None:
    here = Here(tmp_path)
    scans = digitruns.inputs(tmp_path / "scans", ["a", "b", "c"])
    run = digitruns.submit(here, tmp_path / "run", scans)
    (scans / "a.png").unlink()
    (scans / "b.png").write_bytes((scans / "c.png").read_bytes())
    facts = here.json("record", run, "--hash-inputs", code=3)
    assert facts["inputs"]["files"] == 1
    assert facts["inputs"]["left_out"] == [{"case": "a", "why": "missing"}, {"case": "b", "why": "changed"}]


def test_an_archive_holds_the_crate_and_nothing_else(tmp_path: Path) -> None:
    here = Here(tmp_path)
    site = local_run(tmp_path / "site", a="ARRAY 1", b="ARRAY 2")
    assert site.submit().code == 0
    run = site.outdir
    facts = here.json("record", run, "--zip", "run.zip")
    assert facts["archive"] == {"file": str(tmp_path / "run.zip"), "bytes": (tmp_path / "run.zip").stat().st_size}
    with zipfile.ZipFile(tmp_path / "run.zip") as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
        archive.extractall(tmp_path / "elsewhere")
    shards = {f"shards/{path.name}" for path in (run / "shards").iterdir()}
    tops = {"run.json", "manifest.csv", "chunks.json", "skipped.jsonl", "results.csv", "failures.csv", "record.json"}
    assert names == {*tops, *shards, "methods.md", "CITATION.bib", "ro-crate-metadata.json"}
    assert list(faults(tmp_path / "elsewhere")) == []
    assert here("diff", run, "elsewhere").code == 0
    assert here("record", "elsewhere", "--agent", "Ada Lovelace").code == 0
    assert list(faults(tmp_path / "elsewhere")) == []
    told = here("record", run, "--zip", "small.zip", "--no-arrays")
    assert "Before you publish it: run.json, manifest.csv, results.csv and record.json in it name" in told.out
    assert str(site.inputs) in told.out
    with zipfile.ZipFile(tmp_path / "small.zip") as archive:
        assert names - set(archive.namelist()) == {name for name in shards if name.endswith(".h5")}
        crate = json.loads(archive.read("ro-crate-metadata.json"))
    (data,) = (each for each in crate["@graph"] if each["@id"] == "shards/")
    assert "left out" in data["description"]
    assert here("record", run, "--zip", tmp_path).code == 2
