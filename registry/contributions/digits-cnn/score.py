"""Compares a run of digits-cnn with the labels: a table of cases, failures, accuracy and speed.

    python score.py RUN_FOLDER LABELS_CSV

Exits with 1 if the accuracy is below the one that the model's card promises.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

PROMISED = 0.97
LABELS = Path(__file__).parent / "contrib_src/model/labels.json"


def score(run: Path, labels: Path) -> dict[str, float]:
    """Counts and accuracy (a fraction of all labelled images, failed ones counting as wrong)."""
    with open(labels, newline="", encoding="utf-8") as stream:
        truth = {row["file"]: row["label"] for row in csv.DictReader(stream)}
    with open(run / "results.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    names = json.loads(LABELS.read_text(encoding="utf-8"))
    right = sum(names[truth[Path(row["input"]).name]] == row["probabilities"] for row in rows)
    failed = sum(row["status"] != "done" for row in rows)
    progress = json.loads((run / "progress.json").read_text(encoding="utf-8"))
    return {
        "cases": len(rows),
        "failed": failed,
        "accuracy": right / len(truth),
        "images_per_s": progress["rate"],
    }


def main() -> int:
    found = score(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"cases     {found['cases']:>8}")
    print(f"failures  {found['failed']:>8}")
    print(f"accuracy  {found['accuracy']:>8.2%}")
    print(f"images/s  {found['images_per_s']:>8.1f}")
    return 0 if found["accuracy"] >= PROMISED else 1


if __name__ == "__main__":
    sys.exit(main())
