"""Laws of identities: only what changes what code does changes a hash, on every Python version."""

import ast
import hashlib
import inspect
import json

import pytest

import harness
from harness.catalog import definition, discover, identity
from harness.system.paths import ROOT

CODE = '''"""A method."""

import math

SPACE = {"lr": {"log": [1e-3, 1.0]}}
SKIPS = {}


def init(params, hp):
    """Nothing is kept."""
    return {}


def update(params, grads, state, hp, progress):
    # the rule
    for p, g in zip(params, grads):
        p.add_(g, alpha=-hp.lr * 0.5)
'''


def source_hash(folder, text, **beside):
    """The hash of a submission with this text and other files in its folder."""
    for name, content in {"mine": text, **beside}.items():
        (folder / f"{name}.py").write_text(content)
    return identity.source_hash(discover.Plugin("mine", folder / "mine.py", "", None))


@pytest.mark.parametrize(
    "old, new",
    [
        ("# the rule", "# a better comment"),
        ("    # the rule\n", ""),
        ('"""A method."""', '"""Another docstring, with its paper."""'),
        ('"""A method."""\n', ""),
        ('    """Nothing is kept."""\n', ""),
        ("zip(params, grads)", "zip(\n        params,\n        grads,\n    )"),
        ('"lr"', "'lr'"),
        ("0.5", "5e-1"),
        ("SKIPS = {}", 'SKIPS = {"passes": "for a reason"}'),
        ("SKIPS = {}\n", ""),
        ("SKIPS = {}", "SKIPS = {}\nVARIANTS = (\n    {}\n)  # words"),
        ("SKIPS = {}", 'SKIPS = {}\nSTATE = 2\nBADGE = "formula"'),
    ],
)
def test_what_code_does_not_do_is_not_hashed(old, new, tmp_path):
    assert old in CODE
    assert source_hash(tmp_path, CODE.replace(old, new)) == source_hash(tmp_path, CODE)


@pytest.mark.parametrize(
    "old, new",
    [
        ("0.5", "0.6"),
        ("0.5", '"0.5"'),
        ("1.0]", "1]"),
        ("1e-3", "1e-4"),
        ("import math", "import cmath"),
        ("import math", "import math as cmath"),
        ("params, grads)", "grads, params)"),
        ("-hp.lr", "+hp.lr"),
        ("hp.lr * 0.5", "0.5 * hp.lr"),
        ("return {}", "return None"),
        ("return {}", "return {**params}"),
        ("hp, progress)", "hp, progress=0)"),
        ("def init", "@staticmethod\ndef init"),
        ("def init", "async def init"),
        ("SPACE", "SPACES"),
        ("SKIPS = {}", "OTHER = {}"),
        # A description that code reads, or that does something, is code.
        ("SKIPS = {}", "SKIPS = {}; y = 1"),
        ("SKIPS = {}", "SKIPS = {}\ny = SKIPS"),
        ("SKIPS = {}", "SKIPS = {1: 2}\ny = globals()['SKIPS']"),
        ("SKIPS = {}", "SKIPS = {}.copy()"),
        ("SKIPS = {}", "if True:\n    SKIPS = {}"),
    ],
)
def test_what_code_does_is_hashed(old, new, tmp_path):
    assert old in CODE
    assert source_hash(tmp_path, CODE.replace(old, new)) != source_hash(tmp_path, CODE)


@pytest.mark.parametrize(
    "one, other",
    [
        ("SKIPS = {}\ny = SKIPS", "SKIPS = {1: 2}\ny = SKIPS"),
        ("SKIPS = {}\ny = globals()['SKIPS']", "SKIPS = {1: 2}\ny = globals()['SKIPS']"),
        ("STATE = [2].pop()", "STATE = [3].pop()"),
        ("f = lambda *, a=None: a", "f = lambda *, a: a"),
        ("x = {**a, b: c}", "x = {b: c, **a}"),
        ("x = a[1:]", "x = a[:1]"),
        ("x = 1", "x = True"),
        ("x = 1", "x = 1.0"),
        ("x = b'a'", "x = 'a'"),
        ("x = None", "x = ..."),
        ("x = f'{a}b'", "x = f'{a!r}b'"),
        ("x = f'{a:1}'", "x = f'{a:2}'"),
        ("x = not a", "x = -a"),
        ("x = a < b < c", "x = a < b <= c"),
        ("if a:\n    b()\nc()", "if a:\n    b()\n    c()"),
        ("for a in b: pass\nelse: c()", "for a in b: pass\nc()"),
        ("match a:\n    case None: pass", "match a:\n    case True: pass"),
        ("from a import b", "from a.b import b"),
        ("from a import b", "from .a import b"),
    ],
)
def test_different_code_has_different_texts(one, other):
    assert identity.text_of(ast.parse(one)) != identity.text_of(ast.parse(other))


@pytest.mark.parametrize(
    "reader",
    [
        "x = __doc__",
        "x = init.__doc__",
        "x = getattr(init, '__doc__')",
        "import inspect",
        "from inspect import getsource as read",
        "x = __import__('inspect')",
        "import linecache",
        "x = init.__code__.co_firstlineno",
        "x = open(__file__).read()",
    ],
)
def test_a_file_that_may_read_its_text_is_hashed_by_it(reader, tmp_path):
    text = f"{CODE}\n{reader}\n"
    before = source_hash(tmp_path, text)
    assert source_hash(tmp_path, text) == before
    for old in ("# the rule", "A method."):
        assert source_hash(tmp_path, text.replace(old, "# another")) != before


def test_a_reader_of_texts_may_read_those_of_other_files(tmp_path):
    beside = '"""Numbers: 0.5."""\nx = 1\n'
    other = beside.replace("0.5", "0.6")
    for text, equal in (
        (f"import helper\n{CODE}", True),
        (f"import helper\n{CODE}\nhelper.__doc__", False),
    ):
        before = source_hash(tmp_path, text, helper=beside)
        assert (source_hash(tmp_path, text, helper=other) == before) is equal
        assert source_hash(tmp_path, text, helper=beside.replace("x = 1", "x = 2")) != before


# Every kind of syntax that 3.11 knows; f-strings and types are what other versions parse otherwise.
SYNTAX = r'''
def f(x, /, y: int = 3, *a, k, z=None, **kw) -> "str":
    "doc"
    match x:
        case None: return 1
        case {"a": [1, *rest], **more} if y: return rest
        case (1 | 2) as q: ...
        case C(a=1): pass
    try: pass
    except* ValueError as e: raise
    with (open("a") as b, c): pass
    return f"{x!r:>{y}} {{lit}} \N{BULLET} é\n{x=} {x:%Y-%m}" "tail" f"{f'{y:.2f}'}" + (u"a" "d")
async def g():
    async for i in b: yield i
    return [await j async for j in k if j], lambda *, q: (yield), 1_000, 0xff, 1e400, 1e-3j, -0.0
class K(B, metaclass=M):
    "d"
    x: int
    y: list[int] = []
    @dec(1)
    def m(self): global z; del self.x; assert x, "m"
print({**a, 1: 2}, {1, 2}, a[1:2, ::3, *b], (n := 3), ..., rb"\x00\xff")
print(f"a{'b'}c", 'x' f"{y:{w}.{p}}" f"", f"{x:}", f"""{
  x}""")
'''


def test_the_text_of_all_syntax_is_the_same_on_every_version():
    """The digest was computed on Python 3.11.7, 3.12.1 and 3.13.0."""
    text = identity.text_of(ast.parse(SYNTAX))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "81be2a8d0313cd82"


def test_a_long_sum_is_no_deep_recursion():
    text = identity.text_of(ast.parse("x = " + "1 + " * 800 + "1"))
    assert text.count("BinOp") == 800


# Workloads

WORKLOAD = '''"""A workload."""

STEPS = 3


def data(config, split):
    return {"x": 1}


def loss(model, batch):
    """The loss."""
    return model(batch) * STEPS  # of a step
'''
NUMBERS = {
    "batch": 2,
    "horizon": 9,
    "evaluate": {"points": 3, "batch": 4},
    "goal": {"x": {"at_most": 1}},
}


def hashes(folder, text, **numbers):
    """(hash, training hash, step hash) of a workload of one's own."""
    path = folder / "own_workload.py"
    path.write_text(text)
    path.with_suffix(".yaml").write_text(json.dumps({"mini": NUMBERS | numbers}))
    one = definition.define(str(path), definition.tree_of(str(path)), "mini", None)
    return one.hash, one.training_hash, identity.step_hash(one)


@pytest.mark.parametrize(
    "old, new, changed",
    [
        ("# of a step", "# another comment", (False, False, False)),
        ("The loss.", "Another docstring.", (False, False, False)),
        ("STEPS = 3", "STEPS = 4", (True, True, True)),
        ('"x": 1', '"x": 2', (True, True, False)),
    ],
)
def test_a_workload_changes_with_its_code_and_its_step_with_what_a_step_calls(
    old, new, changed, tmp_path
):
    before, after = hashes(tmp_path, WORKLOAD), hashes(tmp_path, WORKLOAD.replace(old, new))
    assert tuple(a != b for a, b in zip(before, after, strict=True)) == changed


@pytest.mark.parametrize(
    "numbers, changed",
    [
        ({"batch": 3}, (True, True, True)),
        ({"horizon": 10}, (True, True, False)),
        ({"goal": {"x": {"at_most": 2}}}, (True, False, False)),
        ({"deadlines": {"step": 9}}, (False, False, False)),
    ],
)
def test_numbers_change_what_depends_on_them(numbers, changed, tmp_path):
    before, after = hashes(tmp_path, WORKLOAD), hashes(tmp_path, WORKLOAD, **numbers)
    assert tuple(a != b for a, b in zip(before, after, strict=True)) == changed


# Runs

RUN = {
    "training_hash": "t", "submission_hash": "s", "hp": {"lr": 0.1}, "seed": 1,
    "engine": {"device": "cpu"}, "horizon": 10, "isolation": "strict",
}  # fmt: skip


@pytest.mark.parametrize("name, value", [
    ("training_hash", "u"), ("submission_hash", "u"), ("hp", {"lr": 0.2}), ("seed", 2),
    ("engine", {"device": "cuda"}), ("horizon", 11), ("isolation", "process"), ("race", "0.2.0"),
    ("key", "another"),
])  # fmt: skip
def test_every_part_of_a_trial_is_in_its_run_id(name, value):
    assert {*RUN, "race", "key"} == {*inspect.signature(identity.run_id).parameters}
    assert identity.run_id(**RUN | {name: value}) != identity.run_id(**RUN)


def test_a_release_voids_no_run(monkeypatch):
    before = identity.run_id(**RUN)
    monkeypatch.setattr(harness, "__version__", "9.9.9")
    assert identity.run_id(**RUN) == before
    line = (ROOT / "results" / "board" / "gpt2.mini.jsonl").read_text().splitlines()[-1]
    assert json.loads(line)["harness"] == identity.RACE
