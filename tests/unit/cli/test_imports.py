"""The command line and the client start without the training stack."""

import subprocess
import sys


def test_the_command_line_imports_no_torch_ray_or_database():
    code = (
        "import sys, vrpo.cli, vrpo.client;"
        "heavy = {'torch', 'ray', 'transformers', 'sqlalchemy'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_usage_error_has_exit_code_two():
    command = [sys.executable, "-m", "vrpo.cli", "jobs", "create", "--method", "dpo"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "missing: model, training_file" in done.stderr
