"""What importing a package may load: the heavy stacks stay out of the processes that need none."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vrpo

TRAINING = {"torch", "transformers", "peft", "ray"}
SERVICE = {"ray", "fastapi", "sqlalchemy"}


def loaded_by(statement: str) -> set[str]:
    program = f"{statement}\nimport sys\nprint(' '.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return {name.split(".")[0] for name in result.stdout.split()}


@pytest.mark.parametrize(
    "statement",
    [
        "import server.app",
        "import store.jobs",
        "import vrpo.contract.pipeline",
        "import vrpo.client",
        "import vrpo.cli",
        "import vrpo.data.formats",
    ],
)
def test_submitting_and_serving_load_no_training_stack(statement):
    assert not loaded_by(statement) & TRAINING


def test_the_library_loads_nothing_heavy_until_it_is_used():
    assert not loaded_by("import vrpo") & (TRAINING | SERVICE)


def test_the_loss_needs_torch_and_no_service():
    loaded = loaded_by("from vrpo import vrpo_loss")
    assert "torch" in loaded
    assert not loaded & SERVICE


def test_every_public_name_can_be_imported():
    for name in vrpo.__all__:
        assert getattr(vrpo, name) is not None


def test_an_unknown_name_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = vrpo.no_such_thing


def test_type_checkers_see_every_public_name_and_no_other():
    tree = ast.parse(Path(vrpo.__file__).read_text(encoding="utf-8"))
    [typed] = [node for node in tree.body if isinstance(node, ast.If)]
    found = {alias.name: line.module for line in typed.body for alias in line.names}

    assert found == vrpo._EXPORTS
