"""Who computed the shards of a run: workers, their nodes, jobs and GPUs, and where their time went."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from modelhub_hpc.record.shards import listing, maker
from modelhub_hpc.runfolder import Json, RunPaths, storage

STAGES = ("start", "model", "chunk")


@dataclass
class Maker:
    """One worker. seconds: by stage; start: until the model was loaded, model: in it, chunk: in all.

    What is in `chunk` and in no other stage went into checking inputs, answers and storage.
    """

    worker: str | None
    node: str | None
    job: str | None
    gpus: tuple[str, ...]
    gpu_models: tuple[str, ...]
    gpu_driver: str | None
    chunks: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def to_json(self) -> dict[str, Json]:
        return {
            "worker": self.worker,
            "node": self.node,
            "job": self.job,
            "gpus": list(self.gpus),
            "gpu_models": list(self.gpu_models),
            "gpu_driver": self.gpu_driver,
            "chunks": self.chunks,
            "seconds": {stage: round(value, 3) for stage, value in self.seconds.items()},
        }


def makers(paths: RunPaths) -> list[Maker]:
    """The workers that the shards name, by their first lines alone.  Raises TryAgainError or UnfitError."""
    found: dict[tuple[Any, ...], Maker] = {}
    with storage(paths.shards):
        for chunk, generation in listing(paths):
            by = maker(paths.shard(chunk, generation))
            key = (by.get("worker"), by.get("node"), by.get("job"))
            one = found.setdefault(key, _maker(by))
            one.chunks += 1
            for stage, seconds in dict(by.get("seconds") or {}).items():
                one.seconds[stage] = one.seconds.get(stage, 0.0) + seconds
    return sorted(found.values(), key=lambda each: (each.node or "", each.worker or ""))


def _maker(by: dict[str, Any]) -> Maker:
    gpus, models = (tuple(by.get(name) or ()) for name in ("gpus", "gpu_models"))
    return Maker(by.get("worker"), by.get("node"), by.get("job"), gpus, models, by.get("gpu_driver"))


def stages(of: list[Maker]) -> dict[str, float]:
    """Seconds by stage, summed over workers."""
    sums: dict[str, float] = defaultdict(float)
    for each in of:
        for stage, seconds in each.seconds.items():
            sums[stage] += seconds
    return {stage: round(seconds, 3) for stage, seconds in sums.items()}
