"""A stage output is complete under its name, or not there at all."""

import hashlib
import json

from vrpo.contract.status import StageName
from workers.publishing import publish

KEY = "sha256:" + "0" * 64


def written(folder, text="samples"):
    folder.mkdir()
    (folder / "samples.jsonl").write_text(text)
    return folder


def publish_to(workdir, target):
    return publish(workdir, target, stage=StageName.SCORE, key=KEY, summary={"rows": 1})


def test_the_manifest_lists_every_file_with_its_size_and_digest(tmp_path):
    published = publish_to(written(tmp_path / "work"), tmp_path / "stages" / "0")
    manifest = json.loads((published.path / "manifest.json").read_text())
    assert manifest["files"] == [
        {"path": "samples.jsonl", "bytes": 7, "sha256": hashlib.sha256(b"samples").hexdigest()}
    ]
    assert manifest["summary"] == {"rows": 1}
    assert not (tmp_path / "work").exists()


def test_an_output_that_an_attempt_left_without_its_row_is_taken_over(tmp_path):
    first = publish_to(written(tmp_path / "a"), tmp_path / "stages" / "0")
    second = publish_to(written(tmp_path / "b"), tmp_path / "stages" / "0")
    assert second == first
    assert not (tmp_path / "b").exists()
