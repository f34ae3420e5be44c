"""Shards: what goes in comes out; killed, raced and damaged ones never show a wrong result."""

import hashlib
import json
import os
import random
import signal
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from shardkit import CHUNKS, PLAN, RUN, check_all, child, files, paths, ran, result, write

from modelhub_hpc.errors import TryAgainError
from modelhub_hpc.plan import Chunk
from modelhub_hpc.record import (
    ArrayOutput,
    CaseResult,
    LabelList,
    Output,
    ShardInvalid,
    ShardWriter,
    iter_results,
    load_array,
    read_shard,
    scan,
    sweep_orphans,
)

__all__ = ["paths"]
STEPS = ["before-close", "after-close", "before-link", "after-link", "after-dirsync"]


def test_what_is_published_is_what_is_read(paths):
    for chunk in CHUNKS:
        assert write(paths, chunk)
    state = scan(paths, RUN, PLAN, CHUNKS)
    assert (state.total, state.done, state.failed, state.pending) == (9, 9, 0, 0)
    assert state.done_chunks == {0, 1, 2} and not state.damaged
    check_all(paths, CHUNKS)
    shard = read_shard(paths.shard(1), RUN, PLAN)
    assert shard.arrays_file == f"c000001.{shard.attempt}.h5" and len(files(paths)) == 6
    assert shard.results[0].outputs[0].dataset == f"{shard.arrays_file}:/case-1/mask"


def test_the_second_attempt_is_dropped(paths):
    assert write(paths, CHUNKS[1])
    before = {path: path.read_bytes() for path in paths.shards.iterdir()}
    assert not write(paths, CHUNKS[1], failed=(2,))
    assert {path: path.read_bytes() for path in paths.shards.iterdir()} == before


def test_what_was_not_published_leaves_nothing(paths):
    with pytest.raises(KeyboardInterrupt), ShardWriter(paths, RUN, PLAN, 0) as shard:
        shard.add(result(0), {"m": ArrayOutput(np.zeros((300, 300)), "mask_image")})
        raise KeyboardInterrupt
    assert files(paths) == set()


def test_results_come_in_manifest_order_whatever_the_order_of_work(paths):
    with ShardWriter(paths, RUN, PLAN, 1) as shard:
        for i in (3, 1, 4, 2):
            shard.add(result(i))
        assert shard.publish()
    assert scan(paths, RUN, PLAN, CHUNKS).done_chunks == {1}
    assert [each.index for each in iter_results(paths, RUN, PLAN, reversed(CHUNKS))] == [1, 2, 3, 4]


def test_a_case_is_added_once(paths):
    with ShardWriter(paths, RUN, PLAN, 0) as shard:
        shard.add(result(0))
        with pytest.raises(ValueError, match="already has a result for case 0"):
            shard.add(result(0))


def test_retried_cases_win_over_the_first_generation(paths):
    write(paths, CHUNKS[0])
    write(paths, CHUNKS[1], failed=(2, 4))
    state = scan(paths, RUN, PLAN, CHUNKS)
    assert (state.failed, state.failed_by_chunk, state.pending) == (2, {1: (2, 4)}, 4)
    assert state.next_generation(1) == 1 and state.done_chunks == {0, 1}
    assert write(paths, CHUNKS[1], generation=1, only=(2, 4), failed=(4,))
    assert write(paths, CHUNKS[1], generation=2, only=(4,))
    state = scan(paths, RUN, PLAN, CHUNKS)
    assert (state.failed, state.generations[1], state.next_generation(1)) == (0, (0, 1, 2), 3)
    found = list(iter_results(paths, RUN, PLAN, CHUNKS))
    assert [(each.index, each.status) for each in found] == [(i, "done") for i in range(5)]


HOSTILE = ["a/b", "a_b", "..", ".", "", "-rf", "new\nline", "\0", "\udcff", "é", "e\u0301", "/", "x" * 5000]


def test_any_name_can_be_stored(paths):
    with ShardWriter(paths, RUN, PLAN, 0) as shard:
        for i, case_id in enumerate(HOSTILE):
            made = CaseResult(case_id, i, "done", (), 0.1, 1, None, (), "h", 1.0)
            shard.add(
                made, {name: ArrayOutput(np.array([i, k]), "vector", name) for k, name in enumerate(HOSTILE)}
            )
        assert shard.publish()
    found = read_shard(paths.shard(0), RUN, PLAN)
    assert [each.case_id for each in found.results] == HOSTILE
    for i, each in enumerate(found.results):
        assert [output.name for output in each.outputs] == HOSTILE
        assert [list(load_array(paths, output)) for output in each.outputs] == [
            [i, k] for k in range(len(HOSTILE))
        ]
    with h5py.File(paths.shards / found.arrays_file) as file:
        assert file["a_b/a_b"].attrs["name"] == "a/b"


@pytest.mark.parametrize(
    "array",
    [
        np.array(3.5),
        np.zeros((0, 3)),
        np.array([True, False]),
        np.arange(4, dtype=">f4"),
        np.float16([1, np.nan]),
        np.array(["b\u00e9", ""]),
        np.array([b"x"]),
        np.array([1 + 2j]),
        np.array([(1, 2.0)], "i4,f8"),
        np.asfortranarray(np.arange(60000.0).reshape(20, 30, 100)),
        np.arange(10**5)[::-2],
        np.random.default_rng(0).random((3, 7, 211, 113)),
        np.zeros((2, 1, 3_000_000), np.uint8),
        np.arange(300_000, dtype="i8").reshape(-1, 1),
    ],
    ids=lambda a: f"{a.dtype}-{a.shape}",
)
def test_any_array_comes_back_as_it_was(paths, array):
    with ShardWriter(paths, RUN, PLAN, 0) as shard:
        shard.add(result(0), {"a": ArrayOutput(array, "custom")})
        assert shard.publish()
    output = read_shard(paths.shard(0), RUN, PLAN).results[0].outputs[0]
    back = load_array(paths, output)
    assert output.shape == array.shape == back.shape and output.dtype == str(array.dtype) == str(back.dtype)
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize("array", [np.array([{}]), np.array(["2020-01-01"], "M8[D]")])
def test_an_array_that_cannot_be_stored_spoils_nothing(paths, array):
    with ShardWriter(paths, RUN, PLAN, 0) as shard:
        with pytest.raises(ValueError, match=f"dtype {array.dtype}".replace("[", r"\[")):
            shard.add(result(0), {"good": ArrayOutput(np.zeros(3), ""), "bad": ArrayOutput(array, "")})
        shard.add(result(0))
        assert shard.publish()
    assert files(paths) == {"c000000.jsonl"}


def test_arrays_are_described_and_compressed_where_it_pays(paths):
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000), np.uint8)
    mask = np.zeros((10, 500, 500), np.uint8)
    space = {"spacing": (1.0, 1.0, 2.5), "size": (500, 500, 10), "axes": "zyx"}
    planned = (Output("mask", "", "", ()), Output("label", "label_list", "", (1,), [{"label": "x"}]))
    with ShardWriter(paths, RUN, PLAN, 0) as shard:
        made = shard.add(
            result(0, outputs=planned),
            {
                "mask": ArrayOutput(mask, "mask_image", "d" * 100_000, space),
                "noise": ArrayOutput(noise, "image"),
            },
        )
        shard.publish()
    assert [each.name for each in made.outputs] == ["mask", "label", "noise"]
    assert made.outputs[0].type == "mask_image" and made.outputs[0].shape == (10, 500, 500)
    with h5py.File(paths.arrays(0, shard.attempt)) as file:
        stored = file["case-0/mask"]
        assert (stored.compression, stored.fletcher32, stored.attrs["type"]) == ("gzip", True, "mask_image")
        assert list(stored.attrs["spacing"]) == [1, 1, 2.5] and stored.attrs["dtype"] == "uint8"
        assert file["case-0/noise"].compression is None and file["case-0/noise"].fletcher32
        assert stored.id.get_storage_size() < mask.nbytes / 50


def test_a_large_mapped_array_is_not_copied_into_memory(paths, tmp_path):
    np.lib.format.open_memmap(tmp_path / "big.npy", "w+", "float32", (300, 512, 512))[150] = 7
    ran(
        """
import resource
array = np.load(sys.argv[2], mmap_mode="r")
for line in open("/proc/self/status"):
    if line.startswith("VmData"):
        limit = int(line.split()[1]) * 1024 + 64_000_000
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
with ShardWriter(paths, "r", "p", 0) as shard:
    shard.add(result(0), {"big": ArrayOutput(array, "heatmap")})
    assert shard.publish()
""",
        paths.root,
        tmp_path / "big.npy",
    )
    output = read_shard(paths.shard(0), "r", "p").results[0].outputs[-1]
    assert load_array(paths, output)[150].sum() == 7 * 512 * 512


@pytest.mark.parametrize("step", STEPS)
def test_a_writer_killed_at_any_step_leaves_all_or_nothing(paths, step):
    kill = "write(1, 1, 4, lambda s: os.kill(os.getpid(), signal.SIGKILL) if s == sys.argv[2] else None)"
    process = child(kill, paths.root, step)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    published = step in ("after-link", "after-dirsync")
    state = scan(paths, RUN, PLAN, CHUNKS)
    assert (1 in state.done_chunks) == published and not state.damaged
    assert write(paths, CHUNKS[1]) is not published
    assert write(paths, CHUNKS[0]) and write(paths, CHUNKS[2])
    check_all(paths, CHUNKS)
    sweep_orphans(paths)
    assert len(files(paths)) == 6
    check_all(paths, CHUNKS)


def test_killed_at_random_moments_and_resumed_every_case_is_there_once(paths):
    chunks = [Chunk(i, i * 5, 5) for i in range(60)]
    script = "for c in range(60): paths.shard(c).exists() or write(c, c * 5, 5)"
    moments, kills = random.Random(1), 0
    while len(scan(paths, RUN, PLAN, chunks).done_chunks) < 60:
        process = child("print(flush=True)\n" + script, paths.root)
        assert process.stdout and process.stdout.readline()
        if kills < 12:
            time.sleep(moments.uniform(0, 0.1))
            process.kill()
            kills += 1
        process.communicate()
    assert not any(paths.quarantine.iterdir()) and kills > 3
    check_all(paths, chunks)
    sweep_orphans(paths)
    assert len(files(paths)) == 120


def test_six_writers_of_the_same_chunks_publish_each_once(paths):
    chunks = [Chunk(i, i * 3, 3) for i in range(40)]
    racers = [child("print(sum(write(c, c * 3, 3) for c in range(40)))", paths.root) for _ in range(6)]
    seen: dict[str, tuple[int, bytes]] = {}
    while any(racer.poll() is None for racer in racers):
        for path in paths.shards.glob("c*.jsonl"):
            now = path.stat().st_ino, path.read_bytes()
            assert seen.setdefault(path.name, now) == now
    assert sum(int(racer.communicate()[0]) for racer in racers) == 40
    assert {path.name: path.read_bytes() for path in paths.shards.glob("c*.jsonl")} == {
        name: data for name, (_, data) in seen.items()
    } or len(seen) < 40
    assert len(files(paths)) == 80
    check_all(paths, chunks)


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def cut(path: Path, keep: float) -> None:
    os.truncate(path, int(path.stat().st_size * keep))


DAMAGES = {
    **{
        f"a bit of {part} flipped at {at}": lambda s, a, p=part, at=at: flip({"shard": s, "arrays": a}[p], at)
        for part in ("shard", "arrays")
        for at in (5, 700, -3)
    },
    **{
        f"{part} cut to {keep}": lambda s, a, p=part, keep=keep: cut({"shard": s, "arrays": a}[p], keep)
        for part in ("shard", "arrays")
        for keep in (0, 0.5, 0.999)
    },
    "arrays deleted": lambda s, a: a.unlink(),
    "a line lost": lambda s, a: s.write_bytes(b"".join(s.read_bytes().splitlines(True)[:-2])),
    "other chunk": lambda s, a: s.write_bytes(s.with_name("c000002.jsonl").read_bytes()),
    "not json": lambda s, a: s.write_bytes(b"[]\n7\n"),
}


@pytest.mark.parametrize("damage", DAMAGES, ids=str)
def test_a_damaged_shard_is_set_aside_and_its_cases_run_again(paths, damage, caplog):
    for chunk in CHUNKS:
        write(paths, chunk)
    arrays = paths.shards / str(read_shard(paths.shard(1), RUN, PLAN).arrays_file)
    DAMAGES[damage](paths.shard(1), arrays)
    with pytest.raises(ShardInvalid):
        read_shard(paths.shard(1), RUN, PLAN)
    looked_at = scan(paths, RUN, PLAN, CHUNKS, repair=False)
    state = scan(paths, RUN, PLAN, CHUNKS)
    assert state.done_chunks == looked_at.done_chunks == {0, 2} and state.pending == 4
    assert state.damaged == ("c000001.jsonl",) and "c000001.jsonl is not used: it" in caplog.text
    assert len(list(paths.quarantine.iterdir())) == 1
    assert write(paths, CHUNKS[1])
    check_all(paths, CHUNKS)
    sweep_orphans(paths)
    assert len(files(paths)) == 6


def test_an_array_damaged_after_it_was_verified_is_not_handed_out(paths):
    noise = np.random.default_rng(0).random((100, 1000))
    with ShardWriter(paths, RUN, PLAN, 0) as shard:
        output = shard.add(result(0), {"a": ArrayOutput(noise, "custom")}).outputs[0]
        assert shard.publish()
    flip(paths.arrays(0, shard.attempt), 400_000)
    with pytest.raises(TryAgainError, match=r"(?s)is damaged at /case-0/a: .*Resume the run"):
        load_array(paths, output)


def test_only_orphans_are_swept_and_none_in_doubt(paths):
    for chunk in CHUNKS:
        write(paths, chunk)
    kept = files(paths)
    orphans = [
        paths.shards / "c000001.0123.h5",
        paths.shards / ".c000001.jsonl.0123.part",
        paths.root / ".run.json.0123.part",
        paths.private / ".owner.000001.0123.part",
    ]
    for orphan in orphans:
        orphan.touch()
    cut(paths.shard(1), 0)
    assert sweep_orphans(paths) == 0 and all(orphan.exists() for orphan in orphans)
    scan(paths, RUN, PLAN, CHUNKS)
    write(paths, CHUNKS[1])
    assert sweep_orphans(paths) == 5, "the arrays of the damaged shard too"
    assert not any(orphan.exists() for orphan in orphans) and len(files(paths)) == len(kept)
    check_all(paths, CHUNKS)


def test_a_deleted_shard_is_pending_again(paths):
    write(paths, CHUNKS[1])
    paths.shard(1).unlink()
    assert scan(paths, RUN, PLAN, CHUNKS).pending == 9


def test_a_writer_replaces_a_damaged_shard(paths):
    write(paths, CHUNKS[1])
    cut(paths.shard(1), 0.5)
    assert write(paths, CHUNKS[1])
    assert len(read_shard(paths.shard(1), RUN, PLAN).results) == 4


@pytest.mark.parametrize("only", [(1, 2, 3), (1, 2, 3, 5), (1, 2, 3, 4, 5)])
def test_a_shard_with_other_cases_than_the_plan_is_not_counted(paths, only):
    write(paths, CHUNKS[1], only=only)
    state = scan(paths, RUN, PLAN, CHUNKS)
    assert state.pending == 9 and state.damaged == ("c000001.jsonl",)


def test_shards_of_another_run_or_plan_are_not_counted(paths):
    write(paths, CHUNKS[1])
    for run, plan in (("other", PLAN), (RUN, "other")):
        with pytest.raises(ShardInvalid, match="another run or plan"):
            read_shard(paths.shard(1), run, plan)
    with pytest.raises(TryAgainError, match="another run or plan.*\n.*Resume"):
        list(iter_results(paths, "other", PLAN, CHUNKS))


def test_labels_are_written_once_and_come_back_with_every_case(paths):
    first, second = tuple(f"class {n}" for n in range(1000)), tuple(f"other {n}" for n in range(60))
    given = [
        LabelList(labels, tuple(index + n / 7 for n in range(len(labels))))
        for index, labels in enumerate((first, second, first, first))
    ]
    with ShardWriter(paths, RUN, PLAN, 1) as shard:
        for index, value in enumerate(given, 1):
            outputs = (Output("probabilities", "label_list", "", (len(value.labels),), value),)
            shard.add(CaseResult(f"case-{index}", index, "done", outputs, 0.5, 1, None, (), "host", 1.0))
        assert shard.publish()
    found = read_shard(paths.shard(1), RUN, PLAN).results
    assert [each.outputs[0].value for each in found] == given
    last = {"label": "class 999", "probability": 3 + 999 / 7}
    assert len(found) == 4 and found[2].outputs[0].prediction[999] == {**last, "probability": 2 + 999 / 7}
    text = paths.shard(1).read_text()
    assert text.count("class 999") == text.count("other 59") == 1


def test_labels_that_each_case_has_in_another_order_stand_in_its_line(paths):
    """As of models that give the most probable first: the head, which much is read of, stays short."""
    orders = [tuple(f"class {(n + index) % 100}" for n in range(100)) for index in range(30)]
    with ShardWriter(paths, RUN, PLAN, 1) as shard:
        for index, labels in enumerate(orders, 1):
            value = LabelList(labels, tuple(n / 7 for n in range(100)))
            outputs = (Output("probabilities", "label_list", "", (100,), value),)
            shard.add(CaseResult(f"case-{index}", index, "done", outputs, 0.5, 1, None, (), "host", 1.0))
        assert shard.publish()
    found = read_shard(paths.shard(1), RUN, PLAN).results
    assert [tuple(each["label"] for each in result.outputs[0].prediction) for result in found] == orders
    assert len(json.loads(paths.shard(1).read_text().splitlines()[0])["tables"]) == 8


def test_a_shard_of_the_form_before_can_be_read(paths):
    """Its label lists are written out in every line."""
    labels = [{"label": "yes", "probability": 0.25}, {"label": "no", "probability": 0.75}]
    result = {
        "index": 1, "status": "done", "case_id": "case-1", "seconds": 0.5, "attempts": 1, "notes": [], "host": "host",
        "started": 1.0, "error": None,
        "outputs": [{"name": "answer", "type": "label_list", "description": "", "shape": [2], "dataset": None,
                     "dtype": None, "prediction": labels}],
    }  # fmt: skip
    header = {"format": 1, "run_id": RUN, "plan": PLAN, "chunk": 1, "generation": 0, "attempt": "abc", "by": {},
              "arrays": None}  # fmt: skip
    body = "".join(json.dumps(each) + "\n" for each in (header, result)).encode()
    last = json.dumps({"cases": 1, "sha256": hashlib.sha256(body).hexdigest()}).encode()
    paths.shard(1).write_bytes(body + last + b"\n")
    (found,) = read_shard(paths.shard(1), RUN, PLAN).results
    assert found.outputs[0].prediction == labels
