"""From what the user names to cases, manifest, chunks and the folders that a container must see."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import hostile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelhub_hpc.plan import roots
from modelhub_hpc.errors import InvalidError, UsageError
from modelhub_hpc.plan.manifest import Case, Manifest
from modelhub_hpc.plan import Chunk, Found, case_ids, cut, find_cases, input_roots
from modelhub_hpc.plan.grouping import in_order
from modelhub_hpc.contribution import InputSpec, Contribution

NONE = Path("/nonexistent")
LIMITS_2D = ((1, 4), (32, None), (32, None))


def model(*specs: InputSpec) -> Contribution:
    return Contribution("toy", "id", "1", NONE, NONE, "image", specs, (), None, "digest")


def one(*formats: str, limits: tuple[tuple[int | None, int | None], ...] = LIMITS_2D) -> Contribution:
    return model(InputSpec("single", formats, limits, ""))


PNG = one("image/png")
VOLUME = one("application/dicom", limits=((1, None), (1, None), (1, None)))
SLICE = one("application/dicom", limits=((1, 1), (1, None), (1, None)))
BRATS = model(*(InputSpec(key, ("application/nii-gzip",), (), "") for key in ("t1", "t1c", "t2", "flair")))


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")


def ids(found: Found) -> list[str]:
    return [case.id for case in found.cases]


def invalid(act: Callable[[], object]) -> str:
    with pytest.raises(InvalidError) as caught:
        act()
    return str(caught.value)


# Folders, patterns and files


def test_a_folder_gives_its_files_in_natural_order(tmp_path: Path) -> None:
    touch(
        tmp_path, "s10.png", "s2.png", "s1.png", "b/s1.PNG", "notes.txt", "more.txt", ".no.png", ".git/x.png"
    )
    found = find_cases([str(tmp_path)], PNG, NONE)
    assert ids(found) == ["b_s1", "s1", "s2", "s10"]
    assert found.cases[1].path == str(tmp_path / "s1.png")
    assert (found.cases[1].input_bytes, found.cases[1].columns) == (5, ())
    assert found.cases[1].input_mtime_ns == (tmp_path / "s1.png").stat().st_mtime_ns
    assert [each.reason for each in found.skipped] == ["2 files named *.txt: not a format that toy takes"]


def test_paths_are_taken_from_the_working_folder(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "-rf.png")
    assert find_cases(["in"], PNG, tmp_path).cases[0].path == str(tmp_path / "in" / "a.png")
    assert find_cases(["-rf.png"], PNG, tmp_path).cases[0].id.startswith("_rf-")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", ["top"]),
        ("p*/*.png", ["p1_a", "p2_a"]),
        ("**/*.png", ["p1_a", "p1_deep_b", "p2_a", "top"]),
        ("p*", ["p1_a", "p1_deep_b", "p2_a"]),
        ("p[1]/**", ["p1_a", "p1_deep_b"]),
        ("p1/?.png", ["a"]),
    ],
)
def test_patterns(pattern: str, expected: list[str], tmp_path: Path) -> None:
    touch(tmp_path, "top.png", "p1/a.png", "p1/deep/b.png", "p2/a.png", "p1/.no/c.png")
    assert ids(find_cases([pattern], PNG, tmp_path)) == expected


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    touch(tmp_path, "a[1].png", "a1.png")
    (case,) = find_cases(["a[1].png"], PNG, tmp_path).cases
    assert case.path == str(tmp_path / "a[1].png")


def test_the_order_of_arguments_changes_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "x/train/a.png", "y/train/a.png", "y/train/b.png")
    named = [str(tmp_path / each) for each in ("x/train", "y/train", "y/*/*.png")]
    first, second = find_cases(named, PNG, NONE), find_cases(named[::-1], PNG, NONE)
    assert first == second
    assert len(set(ids(first))) == len(first.cases) == 3
    assert {case.path for case in first.cases} == {
        str(tmp_path / f"{p}.png") for p in ("x/train/a", "y/train/a", "y/train/b")
    }


def test_links_are_followed_to_files_and_not_to_folders(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "other/b.png")
    (tmp_path / "in" / "file.png").symlink_to(tmp_path / "other" / "b.png")
    (tmp_path / "in" / "dangling.png").symlink_to("nowhere")
    (tmp_path / "in" / "up").symlink_to(tmp_path)
    (tmp_path / "in" / "loop.png").symlink_to("loop.png")
    found = find_cases([str(tmp_path / "in")], PNG, NONE)
    assert ids(found) == ["a", "dangling", "file", "loop"]
    assert dict(zip(ids(found), (case.input_bytes for case in found.cases)))["dangling"] == 0
    assert [(Path(s.path).name, "not followed" in s.reason) for s in found.skipped] == [("up", True)]
    assert len(find_cases([str(tmp_path / "in" / "up")], PNG, NONE).cases) == 5


def test_a_fifo_and_every_hostile_name_stay_cases(tmp_path: Path) -> None:
    names = [name for name in hostile.MAKERS if name.startswith("name_") or name == "fifo"]
    made = [hostile.make(name, tmp_path) for name in names]
    found = find_cases([str(tmp_path)], PNG, NONE)
    assert {case.path for case in found.cases} == {each.path for each in made}
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}", case.id) for case in found.cases)


def test_nothing_found_says_what_was_looked_for(tmp_path: Path) -> None:
    touch(tmp_path, "a.txt", "b.txt", "c.jpg", "noext")
    text = invalid(lambda: find_cases([str(tmp_path)], PNG, NONE))
    assert "Looked for: image/png" in text and str(tmp_path) in text
    assert "Files seen: 4 (2 .txt, 1 .jpg, 1 without extension)" in text
    assert "no such file or folder" in invalid(lambda: find_cases(["gone"], PNG, tmp_path))
    assert "the pattern matches nothing" in invalid(lambda: find_cases(["*.gone"], PNG, tmp_path))
    with pytest.raises(UsageError):
        find_cases([""], PNG, tmp_path)


def test_a_hundred_thousand_files_take_seconds(tmp_path: Path) -> None:
    for i in range(100):
        (tmp_path / f"s{i}").mkdir()
        for j in range(1000):
            os.close(os.open(tmp_path / f"s{i}" / f"{j}.png", os.O_CREAT | os.O_WRONLY))
    start = time.process_time()
    found = find_cases([str(tmp_path)], PNG, NONE)
    assert len(found.cases) == 100_000
    assert input_roots(found.cases) == [tmp_path]
    assert time.process_time() - start < 10  # about 2 on an idle machine


def test_many_files_take_little_memory(tmp_path: Path) -> None:
    count = 20_000
    for i in range(count):
        os.close(os.open(tmp_path / f"case-{i}.png", os.O_CREAT | os.O_WRONLY))
    tracemalloc.start()
    try:
        found = find_cases([str(tmp_path)], PNG, NONE)
        input_roots(found.cases)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak / count < 400 + len(str(tmp_path))  # bytes; a case alone is more than that, as an object


@given(st.lists(st.text("a0129./ \u00fc\udcff", min_size=1, max_size=8), max_size=8))
def test_natural_order_is_that_of_texts_and_numbers(paths: list[str]) -> None:
    def parts(path: str) -> tuple[list[str | int], str]:
        return [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]+)", path))], path

    assert in_order(paths) == sorted(paths, key=parts)


# DICOM


def test_a_series_is_one_case_for_a_model_of_volumes(tmp_path: Path) -> None:
    hostile.dicom_series(str(tmp_path / "p1" / "ct"), "1.1")
    hostile.dicom_series(str(tmp_path / "p2"), "1.2", count=1)
    hostile.dicom_series(str(tmp_path / "p3"), "1.3")
    hostile.dicom_series(str(tmp_path / "p3"), "1.4")
    found = {case.id: case for case in find_cases([str(tmp_path)], VOLUME, NONE).cases}
    assert sorted(found) == ["p1_ct", "p2_1.2-07", "p3_1.3", "p3_1.4"]
    assert found["p1_ct"].path == str(tmp_path / "p1" / "ct")
    assert found["p2_1.2-07"].path == str(tmp_path / "p2" / "1.2-07.dcm")
    assert found["p3_1.4"].path == str(tmp_path / "p3")
    assert found["p3_1.4"].columns == (("series_uid", "1.4"),)
    assert found["p1_ct"].columns == ()
    assert found["p1_ct"].input_bytes == sum(p.stat().st_size for p in (tmp_path / "p1" / "ct").iterdir())


def test_slices_are_cases_for_a_model_of_slices(tmp_path: Path) -> None:
    hostile.dicom_series(str(tmp_path), "1.1", count=3)
    assert len(find_cases([str(tmp_path)], SLICE, NONE).cases) == 3


def test_what_is_no_image_and_what_is_spread_is_told(tmp_path: Path) -> None:
    hostile.dicom_series(str(tmp_path / "a"), "1.1")
    hostile.dicom(str(tmp_path / "a" / "report.dcm"), "1.9", Modality="SR", PixelData=None)
    hostile.dicom(str(tmp_path / "DICOMDIR"), "1.8")
    for number in (1, 2):
        (tmp_path / f"b{number}").mkdir()
        hostile.dicom(str(tmp_path / f"b{number}" / "x.dcm"), "1.5", number)
    (tmp_path / "broken.dcm").write_bytes(b"text")
    found = find_cases([str(tmp_path)], VOLUME, NONE)
    assert ids(found) == ["broken", "a"]
    reasons = " | ".join(sorted(each.reason for each in found.skipped))
    assert "a DICOM SR object holds no image" in reasons and "DICOMDIR" in reasons
    assert reasons.count("1.5 is spread over 2 folders") == 2


# Several inputs per case


def test_a_folder_per_case(tmp_path: Path) -> None:
    touch(tmp_path, *(f"p1/{key}.nii.gz" for key in ("t1", "t1c", "t2", "flair", "seg")))
    touch(tmp_path, *(f"BraTS20_002/BraTS20_002_{key}.nii.gz" for key in "t1 t1ce t2 flair seg".split()))
    touch(tmp_path, *(f"deep/GLI-3/BraTS-GLI-3-{key}.nii.gz" for key in ("t1n", "t1c", "t2w", "t2f")))
    found = {case.id: case for case in find_cases([str(tmp_path)], BRATS, NONE).cases}
    assert sorted(found) == ["BraTS20_002", "deep_GLI-3", "p1"]
    assert [key for key, _ in found["p1"].inputs] == ["t1", "t1c", "t2", "flair"]
    assert dict(found["BraTS20_002"].inputs)["t1c"].endswith("BraTS20_002_t1ce.nii.gz")
    assert dict(found["deep_GLI-3"].inputs)["flair"].endswith("GLI-3-t2f.nii.gz")
    assert found["p1"].input_bytes == 20


def test_a_folder_with_missing_or_doubtful_inputs_is_told(tmp_path: Path) -> None:
    touch(tmp_path, *(f"ok/{key}.nii.gz" for key in ("t1", "t1c", "t2", "flair")))
    touch(tmp_path, *(f"less/{key}.nii.gz" for key in ("t1", "t2")))
    touch(tmp_path, *(f"twice/{key}.nii.gz" for key in ("a_t1", "b_t1", "t1c", "t2", "flair")))
    touch(tmp_path, *(f"both/{key}.nii.gz" for key in ("t1", "t1c", "x_t2_flair")))
    found = find_cases([str(tmp_path)], BRATS, NONE)
    assert ids(found) == ["ok"]
    reasons = {Path(each.path).name: each.reason for each in found.skipped}
    assert reasons["less"] == "no file for t1c, flair"
    assert reasons["twice"].startswith("2 files could be t1 (a_t1.nii.gz, b_t1.nii.gz)")
    assert "could be both t2 and flair" in reasons["both"]
    only = invalid(lambda: find_cases([str(tmp_path / "less")], BRATS, NONE))
    assert "Each case needs t1, t1c, t2, flair" in only and "no file for t1c, flair" in only


# Tables


def write(path: Path, text: str, encoding: str = "utf-8") -> str:
    path.write_text(text, encoding=encoding, newline="")
    return str(path)


@pytest.mark.parametrize("column", ["input", "single", "file"])
def test_a_csv_of_one_input(column: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    table = write(tmp_path / "t.csv", f"case_id,{column},site\nP 1,a.png,Mainz\nP2,/gone/b.png,\n")
    first, second = find_cases([table], PNG, NONE).cases
    assert (first.path, first.input_bytes) == (str(tmp_path / "a.png"), 5)
    assert first.id.startswith("P_1-")
    assert first.columns == (("site", "Mainz"), ("original_case_id", "P 1"))
    assert second == Case("P2", (("single", "/gone/b.png"),), (), 0, 0)


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffcase_id,input\r\na,x.png\r\n",
        "case_id;input\na;x.png\n",
        "case_id\tinput\na\tx.png\n",
        '"case_id";"input"\n"a";"x.png"\n\n;\n',
        "input,case_id\nx.png,a\n",
    ],
)
def test_spreadsheet_habits_are_understood(text: str, tmp_path: Path) -> None:
    (case,) = find_cases([write(tmp_path / "t.csv", text)], PNG, NONE).cases
    assert (case.id, case.path) == ("a", str(tmp_path / "x.png"))


def test_a_csv_of_several_inputs(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "case_id,t2,t1,flair,t1c\na,2.nii.gz,1.nii.gz,f.nii.gz,1c.nii.gz\n")
    (case,) = find_cases([table], BRATS, NONE).cases
    assert [(key, Path(path).name) for key, path in case.inputs] == [
        ("t1", "1.nii.gz"),
        ("t1c", "1c.nii.gz"),
        ("t2", "2.nii.gz"),
        ("flair", "f.nii.gz"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case_id,inputs\na,b\n", "line 1: no column 'input'"),
        ("id,input\na,b\n", "line 1: no column case_id"),
        ("", "line 1: no column case_id; found nothing"),
        ("case_id,input,input\n", "column 'input' stands there twice"),
        ("case_id,input\na,b\na,c\n", "line 3: case_id 'a' stands on line 2 already"),
        ('input,case_id\nb,a\n"c\nd",e\nf,e\n', "line 5: case_id 'e' stands on line 3 already"),
        ("case_id,input\na,b\n\nb,\n", "line 4: no path in column 'input'"),
        ("case_id,input\n ,b\n", "line 2: no case_id"),
        ('case_id,input\n"x\ny",b\nc,d,e\n', "line 4: 3 columns, but the first line names 2"),
        ('case_id,input\na,"b\n', "not a CSV row"),
        ("case_id,input\na\n", "line 2: 1 columns"),
    ],
)
def test_a_wrong_csv_is_told_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", text)
    assert message in invalid(lambda: find_cases([table], PNG, NONE))


def test_a_utf16_table_is_told(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "case_id,input\na,b.png\n", "utf-16")
    assert "not UTF-8" in invalid(lambda: find_cases([table], PNG, NONE))


def test_a_csv_names_files_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    touch(tmp_path, name)
    (tmp_path / "t.csv").write_bytes(b"case_id,input\na,\xff.png\n")
    assert find_cases([str(tmp_path / "t.csv")], PNG, NONE).cases[0].input_bytes == 5


def test_a_runs_manifest_is_a_table_too(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b c.png")
    first = find_cases([str(tmp_path / "*.png")], PNG, NONE)
    Manifest.write(tmp_path / "manifest.csv", first.cases, ["single"])
    assert find_cases([str(tmp_path / "manifest.csv")], PNG, NONE).cases == first.cases


def test_modelhubs_json(tmp_path: Path) -> None:
    patient = {
        "format": ["application/json"],
        **{key: {"format": ["x"], "fileurl": f"in/{key}.nii.gz"} for key in ("t1", "t1c", "t2", "flair")},
    }
    alone = write(tmp_path / "sample.json", json.dumps(patient))
    (case,) = find_cases([alone], BRATS, NONE).cases
    assert case.id == "sample"
    assert dict(case.inputs)["t1"] == str(tmp_path / "in" / "t1.nii.gz")
    several = write(tmp_path / "all.json", json.dumps([patient, {**patient, "case_id": "P9"}]))
    assert ids(find_cases([several], BRATS, NONE)) == ["all_1", "P9"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[3]", "not an object of inputs"),
        ('{"t1": {}}', 'needs "t1"'),
        ('{"t1": {"fileurl": "https://example.org/a.nii.gz"}}', "fetch it first"),
        ("[]", "No case found"),
        ('{"t1": {"fileurl": "\\ud800"}}', "can't be a file name"),
        ("[" * 100000, "not valid JSON"),
    ],
)
def test_a_wrong_json_is_told(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", text)
    single = model(InputSpec("t1", (), (), ""))
    assert message in invalid(lambda: find_cases([path], single, NONE))


# Ids

paths = st.text(
    st.characters(codec=None, exclude_characters="\0/", exclude_categories=()).filter(
        lambda c: not "\ud800" <= c <= "\udfff" or "\udc80" <= c <= "\udcff"
    ),
    min_size=1,
    max_size=120,
)


@given(st.lists(paths, unique=True, min_size=1, max_size=30))
@settings(max_examples=300, deadline=None)
def test_ids_are_safe_unique_and_independent_of_order(names: list[str]) -> None:
    found = case_ids(names, names)
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}", each) for each in found)
    assert len({each.lower() for each in found}) == len(names)
    back = case_ids(names[::-1], names[::-1])[::-1]
    assert back == found


def test_plain_names_stay_and_changed_ones_say_so() -> None:
    assert case_ids(["p1/t1", "a.b-c_d"], ["1", "2"]) == ["p1_t1", "a.b-c_d"]
    found = case_ids(["a b", "A", "a", "x" * 200, "x" * 199, "a/b", "a_b"], list("1234567"))
    assert [re.sub("-[0-9a-f]{6}$", "-#", each) for each in found] == [
        "a_b-#",
        "A-#",
        "a-#",
        "x" * 73 + "-#",
        "x" * 73 + "-#",
        "a_b-#",
        "a_b-#",
    ]
    assert len(set(found)) == 7
    many = case_ids(
        [chr(0x4E00 + i % 20000) + chr(0x4E00 + i // 20000) for i in range(60_000)],
        [str(i) for i in range(60_000)],
    )
    assert len(set(many)) == 60_000
    assert "the same in everything" in invalid(lambda: case_ids(["a", "a"], ["1", "1"]))


# Manifest

cases = st.builds(
    Case,
    id=st.from_regex("[a-z]{1,9}", fullmatch=True),
    inputs=st.tuples(st.tuples(st.just("t1"), paths), st.tuples(st.just("input"), paths)),
    columns=st.lists(
        st.tuples(st.sampled_from(["site", "age,", 'x"', "é"]), paths),
        max_size=3,
        unique_by=lambda pair: pair[0],
    )
    .map(sorted)
    .map(tuple),
    input_bytes=st.integers(0, 2**62),
    input_mtime_ns=st.integers(-(2**62), 2**62),
)


@given(st.lists(cases, max_size=12), st.integers(0, 12), st.integers(0, 12))
@settings(max_examples=60, deadline=None)
def test_a_manifest_gives_back_what_was_written(rows: list[Case], first: int, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.csv"
        written = Manifest.write(path, rows, ["t1", "input"])
        kept = Manifest.open(path)
        assert len(kept) == len(rows) and kept.keys == ("t1", "input") and kept.digest == written.digest
        assert [sort(case) for case in kept.cases()] == rows
        assert [sort(case) for case in kept.cases(first, count)] == rows[first : first + count]
        assert sorted(os.listdir(folder)) == ["manifest.csv", "manifest.csv.offsets.npy"]


def sort(case: Case) -> Case:
    return Case(case.id, case.inputs, tuple(sorted(case.columns)), case.input_bytes, case.input_mtime_ns)


def row(number: int) -> Case:
    return Case(f"c{number}", (("single", f"/data/a, b\n/{number}.png"),), (), number, number)


def test_a_manifest_is_published_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    Manifest.write(path, [row(1)], ["single"])
    before = path.read_bytes()
    assert before.splitlines()[0] == b"case_id,input,input_bytes,input_mtime_ns"
    assert "never changes" in invalid(lambda: Manifest.write(path, [row(2)], ["single"]))
    assert path.read_bytes() == before
    reserved = Case("a", (("single", "/x"),), (("input_bytes", "7"),), 0, 0)
    assert "rename it" in invalid(lambda: Manifest.write(tmp_path / "other.csv", [reserved], ["single"]))
    assert not (tmp_path / "other.csv").exists() and not list(tmp_path.glob(".*"))


def test_the_index_is_made_anew_when_absent_stale_or_broken(tmp_path: Path) -> None:
    path, index = tmp_path / "manifest.csv", tmp_path / "manifest.csv.offsets.npy"
    Manifest.write(path, [row(i) for i in range(50)], ["single"])
    for spoil in (
        index.unlink,
        lambda: index.write_bytes(b"junk"),
        lambda: index.write_bytes(b""),
        lambda: os.utime(path, ns=(5, 5)),
    ):
        spoil()
        assert Manifest.open(path).cases(30, 2) == [row(30), row(31)]
    assert Manifest.open(path, tmp_path / "elsewhere.npy").cases(49, 9) == [row(49)]
    assert (tmp_path / "elsewhere.npy").exists()


def test_a_cut_or_foreign_manifest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    Manifest.write(path, [row(i) for i in range(3)], ["single"])
    (tmp_path / "cut.csv").write_bytes(path.read_bytes()[:-3])
    assert "truncated" in invalid(lambda: Manifest.open(tmp_path / "cut.csv"))
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert "not a manifest" in invalid(lambda: Manifest.open(tmp_path / "other.csv"))
    (tmp_path / "empty.csv").write_text("")
    assert "manifest" in invalid(lambda: Manifest.open(tmp_path / "empty.csv"))


def test_rows_of_a_large_manifest_come_at_once(tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    Manifest.write(path, [row(i) for i in range(200_000)], ["single"])
    start = time.process_time()
    assert Manifest.open(path).cases(199_990, 100) == [row(i) for i in range(199_990, 200_000)]
    assert time.process_time() - start < 0.2


# Chunks


@given(st.integers(0, 5000), st.none() | st.floats(0.0001, 1000), st.integers(1, 64), st.booleans())
@settings(deadline=None)
def test_chunks_cover_every_case_once(n: int, seconds: float | None, workers: int, probe: bool) -> None:
    chunks = cut(n, seconds, workers, probe=probe)
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert [i for chunk in chunks for i in range(chunk.first, chunk.first + chunk.count)] == list(range(n))
    assert all(1 <= chunk.count <= 2000 for chunk in chunks)


def test_chunks_are_about_thirty_seconds() -> None:
    assert cut(3, None, 1, chunk_size=2) == [Chunk(0, 0, 1), Chunk(1, 1, 2)]
    assert cut(100_000, 0.1, 4)[1].count == 300
    assert cut(1_000, 60.0, 4)[1].count == 1
    assert cut(1_000_000, 0.0001, 4)[1].count == 2000
    assert cut(101, 0.1, 5)[1].count == 5  # four chunks for each of five workers
    assert cut(101, 0.1, 5, probe=False)[0].count == 6
    with pytest.raises(UsageError):
        cut(5, None, 1, chunk_size=0)


def test_very_many_cases_make_longer_chunks_instead_of_more() -> None:
    def length_and_count(seconds: float, workers: int = 4, walltime_s: float = 4 * 3600.0) -> tuple[float, int]:
        chunks = cut(1_000_000, seconds, workers, walltime_s=walltime_s)
        return chunks[1].count * seconds, len(chunks)

    assert length_and_count(0.01) == (20, 501)  # 2,000 cases
    assert length_and_count(1.0) == (100, 10_001)
    assert length_and_count(10.0) == (600, 16_668)  # no longer, so that little is lost with a worker
    assert length_and_count(10.0, walltime_s=3600) == (180, 55_557)
    assert length_and_count(10.0, walltime_s=60)[0] == 30
    assert length_and_count(1.0, workers=5000) == (50, 20_001)  # four for each of very many workers


# What a container must see


def at(*paths: Path | str) -> list[Case]:
    return [Case(f"c{i}", (("single", os.fspath(path)),), (), 0, 0) for i, path in enumerate(paths)]


def test_roots_are_the_outermost_folders(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "a/b/2.png", "ab/3.png")
    paths = [tmp_path / each for each in ("a/1.png", "a/b/2.png", "ab/3.png", "gone/4.png")]
    assert input_roots(at(*paths)) == [tmp_path / "a", tmp_path / "ab", tmp_path / "gone"]
    hostile.dicom_series(str(tmp_path / "ct"))
    assert input_roots(at(tmp_path / "ct")) == [tmp_path / "ct"]


def test_roots_hold_what_links_lead_to(tmp_path: Path) -> None:
    touch(tmp_path, "real/x.png", "far/y.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "mid").mkdir()
    (tmp_path / "mid" / "hop.png").symlink_to(tmp_path / "real" / "x.png")
    (tmp_path / "in" / "a.png").symlink_to("../mid/hop.png")
    (tmp_path / "linked").symlink_to(tmp_path / "far")
    found = input_roots(at(tmp_path / "in" / "a.png", tmp_path / "linked" / "y.png"))
    assert found == [tmp_path / name for name in ("far", "in", "linked", "mid", "real")]


@pytest.mark.parametrize("count", [3, 200])
def test_roots_find_links_among_many(count: int, tmp_path: Path) -> None:
    touch(tmp_path, "real/x.png", *(f"in/{i}.png" for i in range(count)))
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "real" / "x.png")
    every = at(*(tmp_path / "in" / f"{i}.png" for i in range(count)), tmp_path / "in" / "link.png")
    assert input_roots(every) == [tmp_path / "in", tmp_path / "real"]


def test_roots_of_very_many_are_found_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "real/x.png", *(f"{folder}/{i}.png" for folder in "ab" for i in range(100)))
    (tmp_path / "b" / "link.png").symlink_to(tmp_path / "real" / "x.png")
    every = at(*(tmp_path / folder / f"{i}.png" for i in range(100) for folder in "ab"), tmp_path / "b" / "link.png")
    monkeypatch.setattr(roots, "_MANY", 7)
    assert input_roots(every) == [tmp_path / "a", tmp_path / "b", tmp_path / "real"]


def test_many_roots_become_their_common_folder(tmp_path: Path) -> None:
    study = [tmp_path / "study" / f"p{i}" / "s" / "x.png" for i in range(500)]
    assert input_roots(at(*study, tmp_path / "other" / "y.png")) == [tmp_path / "other", tmp_path / "study"]


def test_roots_are_never_the_system_or_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert input_roots(at("/x.png", "/tmp/y.png")) == [Path("/tmp/y.png"), Path("/x.png")]
    home = tmp_path / "home"
    monkeypatch.setattr(roots.Path, "home", lambda: home)
    assert input_roots(at(home / "a.png", home / "data" / "b.png")) == [home / "a.png", home / "data"]
    assert "Group them" in invalid(lambda: input_roots(at(*(home / f"{i}.png" for i in range(65)))))
    assert "Group them" in invalid(lambda: input_roots(at(*(f"/d{i}/x.png" for i in range(65)))))
