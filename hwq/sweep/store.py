"""Results on disk: JSON that a later sweep resumes from, and a CSV of the same rows."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwq.errors import InputError
from hwq.files import Missing, name_lock, read_json, write_atomically
from hwq.sweep.fields import COLUMNS, KEY, MAKER, fault, seal

VERSION = 4
_MOST_BYTES = 64 << 20

Row = dict[str, Any]
"""`KEY` and figures of a measurement, as they stand in the JSON; see docs/sweep.md."""


@dataclass(slots=True)
class Store:
    """The rows of `csv_path` and the .json beside it. Several processes may add to the same files."""

    csv_path: Path
    rows: list[Row] = field(default_factory=list)
    _seen: tuple[int, int] | None = None

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
        if csv_path.exists() and not store.json_path.exists():
            raise InputError(f"{csv_path} {store._foreign}")
        store.refresh()
        return store

    @property
    def _foreign(self) -> str:
        return f"is no result of hwq sweep; choose another --out than {self.csv_path}"

    def refresh(self) -> None:
        """Read the file again where another sweep has written it."""
        try:
            status = self.json_path.stat()
            if (status.st_ino, status.st_mtime_ns) == self._seen:
                return
            document = read_json(self.json_path, dict, limit=_MOST_BYTES)
        except (FileNotFoundError, Missing):
            return
        except InputError as error:
            raise InputError(f"{error}; it {self._foreign}") from None
        self.rows = self._read(document)
        self._seen = (status.st_ino, status.st_mtime_ns)

    def _read(self, document: dict[str, Any]) -> list[Row]:
        version, rows = document.get("hwq_sweep"), document.get("rows")
        if version is None or not isinstance(rows, list):
            raise InputError(f"{self.json_path} {self._foreign}")
        if version != VERSION:
            raise InputError(
                f"{self.json_path}: written by another version of hwq; choose another --out, or delete it"
            )
        wrong = next(filter(None, map(fault, rows)), "")
        if wrong:
            raise InputError(f"{self.json_path}: {wrong}; it {self._foreign}")
        return rows

    def find(self, key: Row) -> Row | None:
        """The row of the same measurement."""
        return next((row for row in self.rows if all(row[name] == key[name] for name in KEY)), None)

    def others(self, key: Row) -> int:
        """How many rows are of another checkpoint, of other images or by another hwq."""
        return sum(
            any(row[name] != key[name] for name in MAKER)
            or (row["images"] == key["images"] and row["pixels"] != key["pixels"])
            for row in self.rows
        )

    def same_constants(self, key: Row, digest: str) -> Row | None:
        """A row of the same images and network whose format led to the very same integers."""
        free = ("format", "assigned")
        return next(
            (
                row
                for row in self.rows
                if row["digest"] == digest and all(row[n] == key[n] for n in KEY if n not in free)
            ),
            None,
        )

    def put(self, *rows: Row) -> None:
        """Add rows, in place of those of the same measurement; both files are whole at any time."""
        with name_lock(self.json_path):
            self.refresh()
            for row in rows:
                old = self.find(row)
                sealed = {**row, "seal": seal(row)}
                if old is None:
                    self.rows.append(sealed)
                else:
                    self.rows[self.rows.index(old)] = sealed
            lines = ",\n".join(map(json.dumps, self.rows))
            write_atomically(self.json_path, f'{{"hwq_sweep": {VERSION}, "rows": [\n{lines}\n]}}\n')
            write_atomically(self.csv_path, self._csv())
            status = self.json_path.stat()
            self._seen = (status.st_ino, status.st_mtime_ns)

    def _csv(self) -> str:
        """One line a row; each layer has a column `local.<op>` and one `snr.<op>`, dB, inf without noise."""
        layers = list(dict.fromkeys(name for row in self.rows for name in row["layers"]))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*COLUMNS, *(f"local.{n}" for n in layers), *(f"snr.{n}" for n in layers)])
        for row in self.rows:
            plain = {**row, "assigned": " ".join(row["assigned"])}
            plain |= {name: row[name][:12] for name in ("checkpoint", "pixels")}
            plain["logits_snr"] = _shown(row["logits_snr"])
            shares = [row["layers"].get(name, "") for name in layers]
            ratios = [_shown(row["snr"][n]) if n in row["layers"] else "" for n in layers]
            writer.writerow([*(plain[name] for name in COLUMNS), *shares, *ratios])
        return text.getvalue()


def _shown(ratio: float | None) -> float | str:
    return "inf" if ratio is None else ratio
