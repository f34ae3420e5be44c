"""What cases take of GPUs, measured by NVML where its Python library and NVIDIA's driver are there."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

log = logging.getLogger(__name__)

_EVERY_S = 0.1  # by which peaks that are shorter than that may be missed
_PEAK, _ENERGY = "gpu_peak_mb", "gpu_energy_j"  # as Cost has them


class GpuMeter:
    """Reads the GPUs of one worker from answer to answer; a thread of its own looks at their memory meanwhile.

    What is measured is of whole GPUs (or instances of a GPU, by MIG): memory with what the driver and others keep
    there, energy with what the GPU takes when idle. NVML renews the energy a few times a second, so that those of very
    short cases are right in their sum only.

    missing: why something is not measured, by the name that Cost has for it.
    """

    def __init__(self, gpus: Sequence[str], shared: bool) -> None:
        """gpus: as CUDA_VISIBLE_DEVICES names them, numbers in the order of the PCI bus; shared: with other workers."""
        self.missing: dict[str, str] = {}
        self._handles: list[Any] = []
        self._lock = threading.Lock()
        self._peak_mb, self._joules = 0.0, 0.0  # since the answer before; then
        self._share, self._unanswered = (0.0, 0.0), 0  # of each case of the batch that is being answered
        self._closed = threading.Event()
        reason = "the GPU is shared with other workers" if shared else self._open(gpus)
        if reason is not None:
            log.info("GPU memory and energy are not measured: %s", reason)
            self.missing = dict.fromkeys((_PEAK, _ENERGY), reason)
            return
        self.begin()
        self._thread = threading.Thread(target=self._watch, name="gpu-meter", daemon=True)
        self._thread.start()

    def _open(self, gpus: Sequence[str]) -> str | None:
        """Find the GPUs; why that is not possible."""
        try:
            import pynvml  # type: ignore[import-untyped]
        except ImportError:
            return "there is no Python library for NVML (pip install 'modelhub-hpc[gpu]')"
        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
            self._handles = [self._handle(name.strip()) for name in gpus]
        except pynvml.NVMLError as error:
            return f"NVML says: {error}"
        return None

    def _handle(self, name: str) -> Any:
        by_number, by_name = self._nvml.nvmlDeviceGetHandleByIndex, self._nvml.nvmlDeviceGetHandleByUUID
        return by_number(int(name)) if name.isdigit() else by_name(name)

    def close(self) -> None:
        """Look no more; `missing` stays."""
        if self._handles and not self._closed.is_set():
            self._closed.set()
            self._thread.join()
            with contextlib.suppress(self._nvml.NVMLError):  # of a GPU that was lost
                self._nvml.nvmlShutdown()

    def begin(self) -> None:
        """What follows belongs to the next answer, and nothing that was before."""
        self._unanswered = 0
        self._joules = self._energy_j() or 0.0
        self._take_peak()

    def answered(self, batch: int) -> tuple[float | None, float | None]:
        """Peak memory (MiB) and energy (J) of the case that was just answered, None for what is not measured.

        batch: how many were computed together, whose answers follow each other: they have the peak in common, and equal
        shares of the energy.
        """
        if not self._unanswered:
            self._look()
            now = self._energy_j() or 0.0
            self._share = self._take_peak(), round((now - self._joules) / batch, 3)
            self._joules, self._unanswered = now, batch
        self._unanswered -= 1
        peak_mb, energy_j = self._share
        return None if _PEAK in self.missing else peak_mb, None if _ENERGY in self.missing else energy_j

    def _watch(self) -> None:
        while not self._closed.wait(_EVERY_S):
            self._look()

    def _look(self) -> None:
        now = self._sum(_PEAK, lambda gpu: self._nvml.nvmlDeviceGetMemoryInfo(gpu).used / 2**20)
        with self._lock:
            self._peak_mb = max(self._peak_mb, now or 0.0)

    def _take_peak(self) -> float:
        with self._lock:
            peak, self._peak_mb = self._peak_mb, 0.0
        return round(peak, 1)

    def _energy_j(self) -> float | None:
        return self._sum(_ENERGY, lambda gpu: self._nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000)

    def _sum(self, name: str, ask: Callable[[Any], float]) -> float | None:
        """Over all GPUs; None once one of them does not tell (as GPUs before Volta do not tell their energy)."""
        if name in self.missing:
            return None
        try:
            return sum(map(ask, self._handles))
        except self._nvml.NVMLError as error:
            self.missing[name] = f"NVML says: {error}"
            log.warning("%s is not measured: NVML says: %s", name, error)
            return None
