"""Who computed the shards of a run: workers, their nodes, jobs and GPUs, and where their time went."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from modelhub_hpc.record.shards import listing, maker
from modelhub_hpc.runfolder import Json, RunPaths, storage


@dataclass
class Maker:
    """One worker. seconds: by stage, those that its shards name.

    start: until the model was loaded; read: judging inputs, most of it while the model computed another case; model:
    in it, which opens inputs itself; write: into the arrays file, until that was on the disk and hashed; chunk: in all.
    unmeasured: why something of Cost was not measured, by its name there.
    """

    worker: str | None
    node: str | None
    job: str | None
    gpus: tuple[str, ...]
    gpu_models: tuple[str, ...]
    gpu_driver: str | None
    cpu_model: str | None = None
    chunks: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    unmeasured: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        return {
            "worker": self.worker,
            "node": self.node,
            "job": self.job,
            "cpu_model": self.cpu_model,
            "gpus": list(self.gpus),
            "gpu_models": list(self.gpu_models),
            "gpu_driver": self.gpu_driver,
            "unmeasured": dict(self.unmeasured),
            "chunks": self.chunks,
            "seconds": {stage: round(value, 6) for stage, value in self.seconds.items()},
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
            one.unmeasured.update(by.get("unmeasured") or {})
            for stage, seconds in dict(by.get("seconds") or {}).items():
                one.seconds[stage] = one.seconds.get(stage, 0.0) + seconds
    return sorted(found.values(), key=lambda each: (each.node or "", each.worker or ""))


def _maker(by: dict[str, Any]) -> Maker:
    gpus, models = (tuple(by.get(name) or ()) for name in ("gpus", "gpu_models"))
    place = by.get("worker"), by.get("node"), by.get("job")
    return Maker(*place, gpus, models, by.get("gpu_driver"), by.get("cpu_model"))


def stages(of: list[Maker]) -> dict[str, float]:
    """Seconds by stage, summed over workers."""
    sums: dict[str, float] = defaultdict(float)
    for each in of:
        for stage, seconds in each.seconds.items():
            sums[stage] += seconds
    return {stage: round(seconds, 6) for stage, seconds in sums.items()}
