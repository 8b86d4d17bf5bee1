"""Tokens and soft labels of more texts than fit in memory: files that are mapped into memory.

    ids.bin        int32    token ids of all texts, concatenated
    lengths.bin    int32    (n,) tokens of each text
    offsets.bin    int64    (n + 1,) where each text starts in ids.bin
    logits.bin     float32  (n, C) soft labels
    progress.json  the sources that are complete, with the sizes of the files after the last of them

The operating system reads the pages that a batch needs and drops them when memory is short. A store is filled source by
source (shard by shard); what a killed process wrote after the last complete source is cut off.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from randout.core.files import replace_text

from .tokens import Tokens

CHUNK = 1 << 20  # lengths that are summed at once
FILES = {"ids": "<i4", "lengths": "<i4", "logits": "<f4"}


@dataclass
class TokenStore:
    """A store in a folder. classes: C. sources: name -> counts, of the sources that are complete, in their order."""

    folder: Path
    classes: int
    sources: dict[str, dict[str, int]] = field(default_factory=dict)
    rows: int = 0
    ids: int = 0
    complete: bool = False

    @classmethod
    def opened(cls, folder: Path, classes: int) -> TokenStore:
        """Open the store in a folder, or begin one; what is after the last complete source is cut off."""
        folder.mkdir(parents=True, exist_ok=True)
        store, progress = cls(folder, classes), folder / "progress.json"
        if progress.exists():
            found: dict[str, Any] = json.loads(progress.read_text(encoding="utf-8"))
            store = cls(folder, classes, found["sources"], found["rows"], found["ids"], found["complete"])
        for name, size in store._sizes().items():
            with (folder / f"{name}.bin").open("ab") as stream:
                stream.truncate(size)
        return store

    def _sizes(self) -> dict[str, int]:
        return {"ids": 4 * self.ids, "lengths": 4 * self.rows, "logits": 4 * self.classes * self.rows}

    def add(self, tokens: Tokens, logits: NDArray[np.float32]) -> None:
        """Append texts with their soft labels (k, C). They count once their source is complete (`close_source`)."""
        for name, values in (("ids", tokens.ids), ("lengths", tokens.lengths), ("logits", logits)):
            with (self.folder / f"{name}.bin").open("ab") as stream:
                stream.write(np.ascontiguousarray(values, FILES[name]).tobytes())
        self.rows += len(tokens)
        self.ids += len(tokens.ids)

    def close_source(self, name: str, **counts: int) -> None:
        """Record that all texts of a source were added. counts: what to report of it."""
        for file in FILES:
            with (self.folder / f"{file}.bin").open("rb+") as stream:
                os.fsync(stream.fileno())
        self.sources[name] = counts
        self._save()

    def close(self) -> None:
        """Compute where each text starts. Nothing can be added afterwards."""
        lengths = self._mapped("lengths", (self.rows,))
        with (self.folder / "offsets.bin").open("wb") as stream:
            total = np.zeros(1, np.int64)
            stream.write(total.tobytes())
            for at in range(0, self.rows, CHUNK):
                ends = total[-1] + np.cumsum(lengths[at : at + CHUNK], dtype=np.int64)
                stream.write(ends.astype("<i8").tobytes())
                total = ends
        self.complete = True
        self._save()

    def _save(self) -> None:
        value = {"sources": self.sources, "rows": self.rows, "ids": self.ids, "complete": self.complete}
        replace_text(self.folder / "progress.json", json.dumps(value, indent=1) + "\n")

    def _mapped(self, name: str, shape: tuple[int, ...], kind: str = "") -> NDArray[Any]:
        """Map a file into memory: copy on write, because PyTorch warns of arrays that cannot be written."""
        if 0 in shape:
            return np.zeros(shape, kind or FILES[name])
        return np.memmap(self.folder / f"{name}.bin", kind or FILES[name], "c", shape=shape)

    @property
    def tokens(self) -> Tokens:
        """The tokens of all texts of a closed store, mapped into memory."""
        offsets = self._mapped("offsets", (self.rows + 1,), "<i8")
        return Tokens(self._mapped("ids", (self.ids,)), offsets, self._mapped("lengths", (self.rows,)))

    @property
    def logits(self) -> NDArray[np.float32]:
        """The soft labels (n, C) of a closed store, mapped into memory."""
        return self._mapped("logits", (self.rows, self.classes))

    def count(self, name: str) -> int:
        """Sum of a count over all sources."""
        return sum(counts.get(name, 0) for counts in self.sources.values())
