"""Digests of models, and which folders are refused."""

import pytest

from vrpo.contract.catalogue import Catalogue, ListedJudge
from vrpo.errors import ModelNotAllowed
from workers.models import FileDigests, resolve_judge


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def test_the_digest_follows_the_content_of_every_file(folder):
    digests = FileDigests()
    before = digests.folder(folder)
    assert digests.folder(folder) == before == FileDigests().folder(folder)
    (folder / "config.json").write_text('{"changed": true}')
    assert digests.folder(folder) != before


def test_a_folder_without_safetensors_is_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelNotAllowed, match="safetensors"):
        FileDigests().folder(tmp_path)


def test_a_judge_that_left_the_list_is_refused_with_the_known_ones():
    catalogue = Catalogue(
        judges=(ListedJudge(name="big", kind="openai", base_url="http://127.0.0.1", model="m"),)
    )
    with pytest.raises(ModelNotAllowed, match="preference_model, big"):
        resolve_judge("gone", catalogue, FileDigests())
