"""The hash of a module's code follows what the code does, not how it is written."""

import sys

import pytest

from arn_purify.training import attacks, code_hash

FIRST = '"""What it is."""\n\nfrom .helper import step\n\n\ndef perturb(x):\n    return x + step()\n'


@pytest.fixture
def hash_of(tmp_path, monkeypatch):
    def hashed(source=FIRST, helper="def step():\n    return 0.1\n"):
        package = tmp_path / "written"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").touch()
        (package / "attack.py").write_text(source)
        (package / "helper.py").write_text(helper)
        code_hash.sha256.cache_clear()
        return code_hash.sha256("written.attack")

    monkeypatch.syspath_prepend(tmp_path)
    yield hashed
    code_hash.sha256.cache_clear()
    sys.modules.pop("written", None)


def test_comments_docstrings_and_line_breaks_do_not_count(hash_of):
    first = hash_of()
    assert hash_of(FIRST.replace("What it is", "Said otherwise")) == first
    assert hash_of(FIRST.replace("x + step()", "(\n        x + step()  # further\n    )")) == first
    assert hash_of(helper='def step():\n    """How far."""\n    return 0.1\n') == first


def test_a_number_an_operator_and_a_module_that_it_imports_count(hash_of):
    first = hash_of()
    assert hash_of(FIRST.replace("+", "-")) != first
    assert hash_of(helper="def step():\n    return 0.2\n") != first
    as_a_module = FIRST.replace("from .helper import step", "from . import helper").replace("step()", "helper.step()")
    assert hash_of(as_a_module) != hash_of(as_a_module, helper="def step():\n    return 0.2\n")


def test_each_built_in_attack_has_the_hash_of_its_module():
    described = {name: attacks.get(name).describe()["sha256"] for name in attacks.ATTACKS}
    assert described["PGD_N"] == described["PGDM_T"] == code_hash.sha256("arn_purify.training.attacks.pgd")
    assert len(set(described.values())) == len({type(attacks.get(name)) for name in attacks.ATTACKS})
