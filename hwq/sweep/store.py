"""Results on disk: JSON that a later sweep resumes from, and a CSV of the same rows."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwq.errors import InputError
from hwq.files import write_atomically

VERSION = 1
COLUMNS = (
    "format",
    "round",
    "edge",
    "images",
    "accuracy",
    "local",
    "saturated",
    "vanished",
    "harmful",
)
KEY = ("checkpoint", "data", "format", "round", "edge", "images", "off_bits")
"""What makes two rows the same measurement."""


@dataclass(slots=True)
class Store:
    """`path`.csv and .json. rows: plain dictionaries, `KEY` and a FormatResult's fields each."""

    csv_path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def json_path(self) -> Path:
        return self.csv_path.with_suffix(".json")

    @staticmethod
    def open(csv_path: Path) -> Store:
        """The rows of an earlier sweep, or none. Raises InputError for a file that is something else."""
        if csv_path.suffix != ".csv":
            raise InputError(f"--out {csv_path}: must end in .csv (the JSON goes beside it)")
        if not csv_path.parent.is_dir():
            raise InputError(f"--out {csv_path}: no folder {csv_path.parent}")
        store = Store(csv_path)
        foreign = f"is no result of hwq sweep; choose another --out than {csv_path}"
        if not store.json_path.exists():
            if csv_path.exists():
                raise InputError(f"{csv_path} {foreign}")
            return store
        try:
            document = json.loads(store.json_path.read_text(encoding="utf-8"))
            if document["hwq_sweep"] != VERSION:
                raise InputError(
                    f"{store.json_path}: written by another version of hwq; choose another --out"
                )
            store.rows = [dict(row) for row in document["rows"]]
            complete = all(
                name in row for row in store.rows for name in (*KEY, *COLUMNS, "layers", "edge_layers")
            )
        except (ValueError, KeyError, TypeError):
            complete = False
        if not complete:
            raise InputError(f"{store.json_path} {foreign}")
        return store

    def find(self, key: dict[str, Any]) -> dict[str, Any] | None:
        """The row of the same measurement."""
        return next((row for row in self.rows if all(row[name] == key[name] for name in KEY)), None)

    def add(self, row: dict[str, Any]) -> None:
        """Append and write both files."""
        self.rows.append(row)
        document = {"hwq_sweep": VERSION, "rows": self.rows}
        write_atomically(self.json_path, json.dumps(document, indent=1) + "\n")
        write_atomically(self.csv_path, self._csv())

    def _csv(self) -> str:
        """One line a row; each layer's share is a column `local.<op>`."""
        layers = list(dict.fromkeys(name for row in self.rows for name in row["layers"]))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["checkpoint", *COLUMNS, *(f"local.{name}" for name in layers)])
        for row in self.rows:
            shares = [row["layers"].get(name, "") for name in layers]
            writer.writerow([row["checkpoint"][:12], *(row[name] for name in COLUMNS), *shares])
        return text.getvalue()
