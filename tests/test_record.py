"""Results, whole files, and the tables and the record made of them."""

import csv
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shardkit import PLAN, RUN, CHUNKS, paths, result

from modelhub_hpc.errors import TryAgainError
from modelhub_hpc.plan.manifest import Case
from modelhub_hpc.record import (
    CaseError,
    CaseResult,
    FailureKind,
    LabelList,
    Output,
    RunFacts,
    RunPaths,
    ShardWriter,
    build_record,
    publish_json,
    Count,
    Tally,
    publish_text,
    replace_json,
    scan,
    write_failures_csv,
    write_results_csv,
)
from modelhub_hpc.record.results import LabelTables
from modelhub_hpc.contribution import OutputSpec
from modelhub_hpc.runfolder import replacing

__all__ = ["paths"]

texts = st.text(st.characters(codec=None), max_size=30)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
label_lists = st.dictionaries(texts, st.floats(allow_nan=False, allow_infinity=False), max_size=4).map(
    lambda found: LabelList(tuple(found), tuple(found.values()))
)
outputs = st.builds(
    Output,
    texts,
    texts,
    texts,
    st.lists(st.integers(0, 9), max_size=3).map(tuple),
    json_values | label_lists,
    st.none() | texts,
    st.none() | texts,
)
errors = st.builds(CaseError, st.sampled_from(list(FailureKind)), texts, texts)


@settings(deadline=None, database=None)
@given(
    texts,
    st.integers(0, 2**40),
    st.lists(outputs, max_size=3).map(tuple),
    st.none() | errors,
    st.lists(texts | st.just("3 non-finite values (NaN) became null"), max_size=2).map(tuple),
)
def test_a_result_survives_its_line_whatever_its_names(case_id, index, made, error, notes):
    status = "done" if error is None else "failed"
    before = CaseResult(case_id, index, status, made, 0.1 + 0.2, 2, error, notes, "host\n", 1e9 + 0.1)
    tables = LabelTables()
    line = before.to_json(tables)
    assert line.isascii() and "\n" not in line and json.loads(line)["index"] == index
    assert CaseResult.from_json(line.encode(), LabelTables(json.loads(json.dumps(tables.tables)))) == before


def counted(results: list[CaseResult], cases: int) -> Tally:
    count = Count(cases)
    assert list(count.passing(iter(results))) == results
    return count.tally()


def test_numbers_that_json_lacks_are_refused(paths):
    bad = result(0, outputs=(Output("p", "vector", "", (1,), [float("nan")]),))
    with ShardWriter(paths, RUN, PLAN, 0) as shard:
        with pytest.raises(ValueError, match="JSON"):
            shard.add(bad)
        shard.add(result(0))
        assert shard.publish()


def test_results_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="bad luck"):
        CaseError("bad luck", "")
    with pytest.raises(ValueError, match="case-0"):
        CaseResult("case-0", 0, "done", (), 0, 1, CaseError("model", "x"), (), "", 0)
    with pytest.raises(ValueError, match="case-0"):
        CaseResult("case-0", 0, "failed", (), 0, 1, None, (), "", 0)


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_folders_follow_the_umask_and_private_is_private(tmp_path, umask):
    made = RunPaths(tmp_path / "run")
    before = os.umask(umask)
    try:
        made.create()
        made.create()
    finally:
        os.umask(before)
    assert made.shards.stat().st_mode & 0o777 == 0o777 & ~umask
    assert made.private.stat().st_mode & 0o777 == 0o700


def test_the_first_published_file_stays(paths):
    assert publish_json(paths.run_json, {"a": "\udcff\u00e9"})
    assert not publish_text(paths.run_json, "other")
    assert json.loads(paths.run_json.read_bytes()) == {"a": "\udcff\u00e9"}
    replace_json(paths.progress_json, [1])
    replace_json(paths.progress_json, [2])
    assert json.loads(paths.progress_json.read_text()) == [2]
    with pytest.raises(ValueError, match="JSON"):
        publish_json(paths.record_json, float("inf"))
    with pytest.raises(RuntimeError, match="halfway"), replacing(paths.results_csv) as stream:
        stream.write("half")
        raise RuntimeError("halfway")
    assert not paths.record_json.exists() and not list(paths.root.glob(".*.part"))
    assert not paths.results_csv.exists()


def test_a_run_folder_that_went_away_is_not_made_again(paths):
    shard = ShardWriter(paths, RUN, PLAN, 0)
    shard.add(result(0))
    paths.root.rename(paths.root.with_name("elsewhere"))
    message = r"(?s)No such file or directory: .*a run\\n\\udcff.*same command"
    with pytest.raises(TryAgainError, match=message):
        shard.publish()
    with pytest.raises(TryAgainError, match="No such file"):
        scan(paths, RUN, PLAN, CHUNKS)
    assert not paths.root.exists()


def cases(count: int) -> list[Case]:
    return [
        Case(f"case-{i}", (("single", f"/data/\udcff,{i}\n.png"),), (("truth", str(i)),)[:i], 1, 1)
        for i in range(count)
    ]


SPECS = [
    OutputSpec("classes", "label_list", ""),
    OutputSpec("status", "vector", ""),
    OutputSpec("m", "mask_image", ""),
]


def answers(best: str) -> tuple[Output, ...]:
    labels = [{"label": "no", "probability": None}, {"label": best, "probability": 0.9}]
    return (
        Output("classes", "label_list", "", (2,), labels),
        Output("status", "vector", "", (2,), [1, 2.5]),
        Output("m", "mask_image", "", (3,), None, "c000000.x.h5:/case-0/m", "uint8"),
    )


def table(path: Path) -> list[list[str]]:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as stream:
        return list(csv.reader(stream))


def test_results_csv_has_a_row_for_every_case(paths):
    failed = result(2, CaseError("timeout", "over 10 s"), attempts=2)
    found = [result(0, outputs=answers("yes")), failed, result(3, outputs=answers("\ud800"))]
    write_results_csv(paths.results_csv, cases(5), found, SPECS, ["truth"])
    rows = table(paths.results_csv)
    assert rows[0] == [
        "case_id",
        "status",
        "input",
        "truth",
        "classes",
        "classes_probability",
        "status_2",
        "m",
    ]
    assert rows[1] == [
        "case-0",
        "done",
        "/data/\udcff,0\n.png",
        "",
        "yes",
        "0.9",
        "[1, 2.5]",
        "c000000.x.h5:/case-0/m",
    ]
    assert rows[2] == ["case-1", "pending", "/data/\udcff,1\n.png", "1", "", "", "", ""]
    assert rows[3][:2] == ["case-2", "failed"] and rows[4][4] == "\\ud800"
    assert [len(row) for row in rows] == [8] * 6
    with pytest.raises(ValueError, match="order"):
        write_results_csv(paths.results_csv, cases(2), reversed(found), SPECS)
    assert table(paths.results_csv) == rows


def test_failures_csv_says_why(paths):
    trace = "Traceback (most recent call last):\n  File x\nValueError: no\n"
    found = [
        result(0),
        result(1, CaseError("model", "ValueError: no", trace), attempts=2),
        result(2, CaseError("crash", "died", "\nsignal 11\nmore")),
    ]
    write_failures_csv(paths.failures_csv, cases(3), found)
    assert table(paths.failures_csv)[1:] == [
        ["case-1", "/data/\udcff,1\n.png", "model", "ValueError: no", "2", "ValueError: no"],
        ["case-2", "/data/\udcff,2\n.png", "crash", "died", "1", "signal 11"],
    ]


def test_the_record_counts_what_the_results_say():
    found = [result(i, seconds=i) for i in range(11)] + [result(11, CaseError("memory", "x"), attempts=2)]
    versions = (("python", "3"),)
    facts = RunFacts(RUN, "id", "toy", "1", "sha", None, None, versions, "mh-hpc", {"a": 1}, 0.0, 60.0)
    record = build_record(facts, counted(found, 20))
    assert record["counts"] == {"cases": 20, "done": 11, "failed": 1, "pending": 8, "retried": 1}
    assert record["failures"] == {"memory": 1} and record["ended"] == "1970-01-01T00:01:00Z"
    assert record["seconds_per_case"] == {
        "total": 55.0,
        "mean": 5.0,
        "median": 5.0,
        "p95": 9.5,
        "longest": 10,
    }
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert build_record(facts, counted([], 2))["seconds_per_case"] is None
