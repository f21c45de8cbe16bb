"""The breaks of mutations.py: each applies to the code as it is, and names tests that are there."""

import ast
import collections

import mutations
import pytest

every_break = pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda each: each.name)


def test_each_break_has_a_name_of_its_own():
    names = collections.Counter(mutation.name for mutation in mutations.MUTATIONS)
    assert names.most_common(1)[0][1] == 1, names.most_common(3)


@every_break
def test_what_a_break_replaces_is_there_once(mutation):
    assert mutations.stale(mutation) is None


@every_break
def test_a_break_changes_the_code_and_leaves_it_python(mutation):
    """Not a comment or a docstring alone; and where Python cannot read it, pytest could not run."""
    sound = (mutations.ROOT / "esjax" / mutation.file).read_text("utf-8")
    is_changed = _code(sound.replace(mutation.old, mutation.new)) != _code(sound)
    assert is_changed


@every_break
def test_the_tests_that_should_see_a_break_are_there(mutation):
    names = mutation.tests.split()
    assert names and all((mutations.ROOT / "tests" / name).is_file() for name in names)


def test_a_break_that_does_not_apply_is_named_with_its_text():
    (first, *_) = mutations.MUTATIONS
    lost = first._replace(old="no such text")
    assert mutations.stale(lost) == (
        f"{first.name}: {first.file} holds 'no such text' 0 times; give text that is there once"
    )


def _code(text):
    """Returns the text as Python reads it, without docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node) is not None
        ):
            del node.body[0]
    return ast.dump(tree)
