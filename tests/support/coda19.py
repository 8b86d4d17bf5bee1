"""A made-up CODA-19 in its released layout."""

import json

import numpy as np
import pytest

from randout.data import coda19

SIZES = {"train": 12, "dev": 3, "test": 3}  # papers


def paper(split, number):
    """A paper in the released schema: two paragraphs, sentences of one to three segments, all five labels."""
    labels = iter(np.resize(coda19.LABELS, 9).tolist())

    def segment(i):
        return {"segment_text": f"{split} {number} says the {i}th thing ,", "crowd_label": next(labels)}

    sentences = [[segment(0)], [segment(1), segment(2)], [segment(3), segment(4), segment(5)]]
    abstract = [
        {"original_text": "made up", "sentences": sentences},
        {"original_text": "made up", "sentences": [[segment(6)]]},
    ]
    metadata = {"title": "Made up", "coda_data_split": split, "coda_paper_id": number, "subset": "biorxiv_medrxiv"}
    return {"paper_id": f"{split}{number:02}", "metadata": metadata, "abstract": abstract, "abstract_stats": {}}


@pytest.fixture
def coda19_folder(tmp_path):
    """The archive unpacked, with what else lies in the release."""
    root = tmp_path / "CODA19_v1_20200504"
    for split, count in SIZES.items():
        place = root / "human_label" / split
        place.mkdir(parents=True)
        for number in range(count):
            (place / f"{split}{number:02}.json").write_text(json.dumps(paper(split, number)), encoding="utf-8")
    expert = root / "human_label" / "test" / "expert" / "biomedical_expert"
    expert.mkdir(parents=True)
    (expert / "test00.json").write_text('{"docId": "test00", "labels": ["finding"]}')
    (root / "human_label" / "train" / ".train00.json.swp").write_bytes(b"\x00")
    (root / "human_label" / "coda_metadata.csv").write_text("paper_id\n")
    (root / "machine_label").mkdir()
    return root
