"""Public names: keys first, options by keyword; docstrings with shapes, units, errors and sources."""

import ast
import collections
import functools
import importlib
import inspect
import itertools
import pkgutil
import re
import tokenize
from pathlib import Path

import jax
import pytest

import esjax

PACKAGE = Path(esjax.__file__).parent
NAMESPACES = (
    "baselines",
    "blocks",
    "controls",
    "credit",
    "decisions",
    "diagnostics",
    "exact",
    "host",
    "losses",
    "noise",
    "samplers",
    "sigma",
)
TRAIN = ("checkpoint", "data", "files", "folder", "loop", "models", "objectives", "rl", "run", "step")
MODULES = {name: importlib.import_module(f"esjax.{name}") for name in NAMESPACES}
TRAIN_MODULES = {f"train.{name}": importlib.import_module(f"esjax.train.{name}") for name in TRAIN}

PROTOCOLS = {
    "samplers": {"iid", "antithetic", "orthogonal", "latin_hypercube", "sobol", "auto"},
    "credit": {"elementwise", "causal"},
    "decisions": {"argmax", "threshold", "ranking", "score", "local_expectation", "enumeration"},
}
"""Called by the library, by position; `Sampler`, `Decision`, `Estimator` and `declared` say with what."""

BY_POSITION = {"host.wrap": {"executor"}, "host.ProcessPool": {"num_workers"}, "exact.rank_probs": {"k"}}
"""As `Executor.submit` and `ProcessPoolExecutor` of the standard library are called, and `top_k_probs`."""


def _functions(modules):
    for name, module in modules.items():
        for public in getattr(module, "__all__", vars(module)):
            value = getattr(module, public)
            if not public.startswith("_") and inspect.isfunction(value) and _is_own(value, module):
                yield f"{name}.{public}", value


def _is_own(value, module):
    return value.__module__ == module.__name__ or value.__name__ in getattr(module, "__all__", ())


CORE = dict(_functions(MODULES)) | {
    name: getattr(esjax, name) for name in ("smooth", "smooth_decisions", "smooth_weights")
}
FUNCTIONS = CORE | dict(_functions(TRAIN_MODULES))
CLASSES = {
    f"{name}.{public}": value
    for name, module in MODULES.items()
    for public in module.__all__
    if inspect.isclass(value := getattr(module, public))
}


def _is_protocol(name):
    module, _, function = name.rpartition(".")
    return function in PROTOCOLS.get(module, ())


def _section(doc, name):
    """Returns the text under "Args:" and the like, empty where there is none."""
    found = re.search(rf"^{name}:\n((?:^(?:    .*)?\n?)+)", inspect.cleandoc(doc), re.MULTILINE)
    return found.group(1) if found else ""


def _entries(doc, name="Args"):
    """Returns the names in a section, each with what is said of it."""
    parts = re.split(r"^    (\*{0,2}\w+): ", _section(doc, name), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


# --- names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMESPACES)
def test_all_names_what_the_module_defines_without_underscore(name):
    module = MODULES[name]
    tree = ast.parse(Path(module.__file__).read_text("utf-8"))
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in tree.body:
        targets = getattr(node, "targets", [getattr(node, "target", None)])  # without and with a type
        defined |= {target.id for target in targets if isinstance(target, ast.Name)}
    public = {each for each in defined if not each.startswith("_")} - {"Array"}
    assert public <= set(module.__all__), public - set(module.__all__)
    assert list(module.__all__) == sorted(module.__all__)
    assert all(hasattr(module, each) for each in module.__all__)


def test_the_package_names_its_namespaces():
    assert set(esjax.__all__) == {*NAMESPACES, "smooth", "smooth_decisions", "smooth_weights", "__version__"}
    found = {
        module.name for module in pkgutil.iter_modules([str(PACKAGE)]) if not module.name.startswith("_")
    }
    assert found == {*NAMESPACES, "smoothing", "train", "tasks", "benchmarks"}


# --- signatures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_key_comes_first_and_options_by_keyword(name):
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    if "key" in parameters:
        before = list(parameters)[: list(parameters).index("key")]
        assert not before or before in (["fun"], ["smoothed"], ["block"], ["fun", "x", "pattern"]), before
    for parameter in parameters.values():
        if parameter.default is not parameter.empty and not _is_protocol(name):
            by_position = parameter.kind is not parameter.KEYWORD_ONLY
            assert not by_position or parameter.name in BY_POSITION.get(name, ()), parameter


@pytest.mark.parametrize("name", CORE)
def test_parameters_and_results_have_types(name):
    signature = inspect.signature(CORE[name])
    assert signature.return_annotation is not signature.empty
    assert all(parameter.annotation is not parameter.empty for parameter in signature.parameters.values())


# --- docstrings ---------------------------------------------------------------------------------------

LIKE = re.compile(r"(?:Arguments|value|errors)[^.]* are those of `(\w+)`")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_parameter_is_spoken_of(name):
    function = FUNCTIONS[name]
    assert function.__doc__, name
    if _is_protocol(name):
        return
    doc, entries = function.__doc__, _entries(function.__doc__)
    if like := LIKE.search(doc):
        doc += getattr(inspect.getmodule(function), like.group(1)).__doc__
    for parameter in inspect.signature(function).parameters.values():
        is_told = re.search(rf"\b{parameter.name}\b", doc)
        assert is_told or name.startswith("train."), parameter.name
        star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        assert not entries or star + parameter.name in entries, parameter.name


ARRAYS = {
    *(
        "logits",
        "labels",
        "label",
        "predicted",
        "scores",
        "relevance",
        "relevant",
        "times",
        "events",
        "targets",
    ),
    *("mask", "reference", "features", "sigmas", "steps", "threshold", "predicted_length"),
}
SHAPE = re.compile(r"\((?:\.\.\.|[A-Z]\b|[nm],|\))|shape|likewise")
UNITS = {
    "sigma": "unit|σ in place",
    "sigmas": "unit",
    "threshold": "unit",
    "factor": "unit",
    "timeout": "second",
}


@pytest.mark.parametrize("name", CORE)
def test_arrays_have_shapes_and_scales_have_units(name):
    entries = _entries(CORE[name].__doc__)
    for parameter, text in entries.items():
        assert parameter not in ARRAYS or SHAPE.search(text), (parameter, text)
        assert re.search(UNITS.get(parameter, ""), text), (parameter, text)
    returned = _section(CORE[name].__doc__, "Returns")
    if inspect.signature(CORE[name]).return_annotation is jax.Array:
        assert not entries or _is_protocol(name) or SHAPE.search(returned), returned


@pytest.mark.parametrize("name", CLASSES)
def test_each_field_is_spoken_of(name):
    fields = set(getattr(CLASSES[name], "_fields", ()))
    assert CLASSES[name].__doc__ and fields <= set(_entries(CLASSES[name].__doc__, "Attributes"))


NOT_MATHEMATICAL = {
    *("diagnostics.evaluations_per_second", "diagnostics.plot", "host.wrap", "sigma.plot"),
    "diagnostics.diagnose",  # `Report` says what each of its numbers is
    *("samplers.auto", "samplers.iid"),  # what was measured; and the plain thing itself
}
WITHIN_A_SENTENCE = {
    "blocks.dice": "2 |A ∩ B| / (|A| + |B|)",
    "decisions.enumeration": "F = Σ_d p(d | x) f(d)",
    "diagnostics.combined": "‖g‖² = Σ_b ‖g_b‖²",
}
CITATION = re.compile(
    r"\([^()]*\b[A-Z][\w’'-]+(?:\set\sal\.)?,?\s(?:(?:18|19|20)\d\d\b|arXiv\s\d{4}\.\d{4,5})", re.DOTALL
)
EQUATION = re.compile(r"[^\W\d_].* [=≈] .*[^\W\d_]")


def _displayed(doc):
    """Returns the lines that are set apart from the text, those of sections not among them."""
    text = re.split(
        r"^(?:Args|Returns|Raises|Attributes|Examples):$", inspect.cleandoc(doc), flags=re.MULTILINE
    )[0]
    paragraphs = text.split("\n\n")
    return [line for each in paragraphs if each.startswith("    ") for line in each.splitlines()]


def _has_equation(function):
    """Whether an equation is set apart that speaks of the function, or of what it takes."""
    named = {function.__name__, *inspect.signature(function).parameters}
    words = {word for name in named for word in name.split("_") if word}
    equations = [line for line in _displayed(function.__doc__) if EQUATION.search(line)]
    return any(words & set(re.findall(r"[^\W_]+", line)) for line in equations)


@pytest.mark.parametrize("name", sorted(set(CORE) - NOT_MATHEMATICAL))
def test_mathematics_has_an_equation_or_a_source(name):
    function = CORE[name]
    within = WITHIN_A_SENTENCE.get(name)
    told = within in function.__doc__ if within else CITATION.search(function.__doc__)
    assert told or _has_equation(function), function.__doc__


@pytest.mark.parametrize(("name", "equation"), [("baselines", r"\bb_n = \S"), ("noise", r"\bs\(ε\) = \S")])
def test_each_value_of_a_module_is_explained_with_an_equation_or_a_source(name, equation):
    module = MODULES[name]
    values = {each for each in module.__all__ if not callable(getattr(module, each))}
    body = ast.parse(Path(module.__file__).read_text("utf-8")).body
    docs = {
        node.targets[0].id: following.value.value
        for node, following in itertools.pairwise(body)
        if isinstance(node, ast.Assign) and node.targets[0].id in values
    }
    assert docs.keys() == values and values
    for doc in docs.values():
        assert re.search(equation, doc) or CITATION.search(doc), doc


# --- errors -------------------------------------------------------------------------------------------


def _sources():
    return {path: ast.parse(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}


@functools.cache
def _raising():
    """Returns the names of functions of the package that raise, themselves or by one that they call."""
    calls, raising = collections.defaultdict(set), set()
    for tree in _sources().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                inside = list(ast.walk(node))
                calls[node.name] |= {
                    getattr(each.func, "id", None) for each in inside if isinstance(each, ast.Call)
                } | {getattr(each.func, "attr", None) for each in inside if isinstance(each, ast.Call)}
                if any(isinstance(each, ast.Raise) and each.exc for each in inside):
                    raising.add(node.name)
    helpers = re.compile(r"_(?!_)|check|require|as_array|same_length|mask_like")
    checks = {name for name in raising if helpers.match(name)}
    while grown := {name for name in calls if helpers.match(name) and calls[name] & checks} - checks:
        checks |= grown
    return {name for name in calls if name in raising or calls[name] & checks}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_raises_says_so(name):
    function = FUNCTIONS[name]
    raises = "Raises:" in function.__doc__ or re.search(r"[Rr]aises `|errors are those", function.__doc__)
    is_sampler = name.startswith("samplers.")  # `Sampler` says it of all
    assert raises or is_sampler or function.__name__ not in _raising()


def test_every_exception_from_a_rule_has_its_reason():
    for path in PACKAGE.rglob("*.py"):
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                if token.type == tokenize.COMMENT and re.search("type: ignore|noqa|pragma", token.string):
                    where = f"{path}:{token.start[0]}: {token.string}"
                    assert re.search(r"(?:\]|noqa: [A-Z]+\d+)  # \w", token.string), where
