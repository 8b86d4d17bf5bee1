"""Stores a student's tokens of sharded texts with their soft labels on disk, and trains on them.

Training then is what it is in memory: each row once per epoch in a full shuffle by (seed, epoch), resumed at the batch. In
memory remain, for each row, its label, its length, and its place in the order of an epoch: about 60 bytes at the peak.
"""

from __future__ import annotations

import numpy as np
import torch

from randout.core.wording import plural, verb
from randout.data.dataset import Dataset
from randout.data.row_hashes import Hashes, row_hashes
from randout.models.encoder import special_tokens
from randout.models.sources import Source
from randout.models.token_store import TokenStore
from randout.models.tokenization import tokenizer_and_limit
from randout.models.tokens import encode, truncate
from randout.storage.run_folder import locked
from randout.storage.shard_record import digest
from randout.training.state import TrainingData

from .imported_teacher import ImportedTeacher
from .options import Options
from .plan import Plan
from .sharded_labels import LabelledTexts, ShardedLabels

OWN = "rows of the dataset"  # the first source of a store


def store_tokens(plan: Plan, teacher: ImportedTeacher, options: Options) -> TokenStore:
    """Return the store of all rows that the student of `plan` reads: those of the dataset, then sharded texts.

    Texts without a soft label, without tokens, and copies of labelled rows (training, validation or test) are left out. A
    store is kept in `token-stores` of the folder of runs, and completed if a killed process left it unfinished. Raises
    UserError if another process is storing the same tokens.
    """
    labels, source = teacher.shards, plan.student.source
    assert labels is not None
    assert source is not None  # methods that learn from soft labels have an encoder
    folder = options.runs / "token-stores" / _key(plan, labels, source)[:16]
    with locked(folder, "store of tokens; wait for it"):
        store = TokenStore.opened(folder, len(plan.dataset.id2label))
        if not store.complete:
            _fill(store, plan, labels, teacher, source, options)
            store.close()
    sharded = store.rows - len(plan.dataset.texts)
    options.show.say(f"tokens: {sharded:,} sharded texts, mapped from {folder.parent.name}/{folder.name}")
    if copies := store.count("copies"):
        options.show.say(
            f"leaks: {plural(copies, 'sharded text')} {verb(copies, 'is', 'are')} left out as {verb(copies, 'a copy', 'copies')} "
            "of labelled rows"
        )
    return store


def _key(plan: Plan, labels: ShardedLabels, source: Source) -> str:
    """Return the digest of everything that a store depends on."""
    student, dataset = plan.config.student, plan.dataset
    read = [source.fingerprint(), student.max_length, student.truncation]
    rows = [dataset.sha256, dataset.columns, list(dataset.id2label.values()), len(dataset.texts)]
    return digest([read, rows, labels.sha256, labels.order, plan.config.teacher.temperature])


def _fill(
    store: TokenStore, plan: Plan, labels: ShardedLabels, teacher: ImportedTeacher, source: Source, options: Options
) -> None:
    """Add what a store lacks, shard by shard."""
    tokenizer, _ = tokenizer_and_limit(source)
    known = np.unique(plan.dataset.hashes)
    if OWN not in store.sources:
        store.add(plan.tokens, teacher.logits)
        store.close_source(OWN)
    done = sum(shard.rows for shard in labels.shards if shard.name in store.sources)
    with options.show.bar("storing tokens", labels.manifest.rows, done) as advance:
        for shard in labels.shards:
            if shard.name in store.sources:
                continue
            copies = 0
            for block in labels.blocks(shard):
                copies += _add(store, plan, tokenizer, block, known, teacher.record.temperature)
                advance(len(block.texts), "")
            store.close_source(shard.name, copies=copies)


def _add(
    store: TokenStore, plan: Plan, tokenizer: object, block: LabelledTexts, known: Hashes, temperature: float
) -> int:
    """Add the usable texts of a block; returns how many were left out as copies of labelled rows."""
    usable = np.flatnonzero(~np.isnan(block.logits).any(1))
    copied = np.isin(row_hashes([block.texts[row] for row in usable]), known)
    rows = usable[~copied]
    encoded = encode(tokenizer, [block.texts[row] for row in rows])
    if encoded.empty:
        rows = np.delete(rows, list(encoded.empty))
        encoded = encode(tokenizer, [block.texts[row] for row in rows])
    if len(rows):
        student = plan.config.student
        prefix, suffix = special_tokens(tokenizer)
        tokens = truncate(encoded, int(student.max_length), student.truncation, suffix, prefix)
        store.add(tokens, block.logits[rows] / np.float32(temperature))
    return int(copied.sum())


def sharded_training_data(
    dataset: Dataset, store: TokenStore, labelled: np.ndarray, heldout: np.ndarray
) -> TrainingData:
    """Return what a student learns from if its tokens and soft labels are in a store."""
    labels = torch.full((store.rows,), -1, dtype=torch.int64)
    labels[: len(dataset.labels)] = torch.from_numpy(dataset.labels)
    sharded = np.arange(len(dataset.texts), store.rows, dtype=np.int64)
    unlabelled = np.concatenate([dataset.unlabelled, sharded])
    return TrainingData(store.tokens, labels, labelled, unlabelled, torch.from_numpy(store.logits), heldout)
