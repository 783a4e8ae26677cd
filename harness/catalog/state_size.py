"""State words: what a file's STATE says a method keeps, and what that is in bytes.

STATE is the number of words for each parameter the method handles, a word being as many bytes as
the parameter's element; or an expression for one m × n matrix, m its smaller side (a vector is
1 × n), in which hyperparameters have their names: "rank * (m + 2 * n)". "2 + examples" is two words
and what is kept of training examples: as many bytes as a stream allows, a batch of points, or 64
for each example. A submission with a BASE keeps what its base does.
"""

import ast

from harness.catalog import discover, space
from harness.catalog.discover import Card
from harness.errors import UserError

ROOM = 64  # bytes a parameter may have for each word: padding to 64 bytes, counters, scales
NODES = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.operator, ast.unaryop, ast.Name, ast.Load,
    ast.Constant, ast.Call, ast.IfExp, ast.Compare, ast.cmpop,
)  # fmt: skip
EXAMPLES = " + examples"
FULL = 0.4  # share of a history that a short run fills at least
SQUARE = 512  # side of the matrix whose words a list shows
KEPT = 64  # bytes that may be kept of an example where nothing else bounds them


def text(card: Card) -> str:
    """STATE in a few letters: an expression's value at SQUARE and the defaults; "-" if none."""
    stated = stated_by(card)
    if not isinstance(stated, str):
        return "-" if stated is None else f"{stated:g}"
    ending = "+ex." if stated.endswith(EXAMPLES) else ""
    parsed = _parsed(stated, card)
    if isinstance(parsed.body, ast.Constant):
        return f"{parsed.body.value}{ending}"
    count = _count(parsed, SQUARE, SQUARE, space.default(card.literals["SPACE"]))
    return f"~{count / SQUARE**2:.2g}{ending}"


def stated_by(card: Card) -> float | str | None:
    """STATE of the file, or of its BASE; UserError where it is neither number nor expression."""
    if "STATE" not in card.literals and card.literals.get("BASE"):
        return stated_by(discover.read(discover.find(card.literals["BASE"])))
    stated = card.literals.get("STATE")
    if isinstance(stated, str):
        _parsed(stated, card)
    elif stated is not None and (isinstance(stated, bool) or not isinstance(stated, int | float)):
        raise _refusal(card, stated)
    return stated


def _refusal(card: Card, stated) -> UserError:
    return UserError(
        f"{card.plugin.path}: STATE = {stated!r}",
        'words a parameter, or an expression of m, n and hyperparameters: "rank * (m + n)"',
    )


def _parsed(stated: str, card: Card) -> ast.Expression:
    try:
        parsed = ast.parse(stated.removesuffix(EXAMPLES), mode="eval")
    except SyntaxError:
        raise _refusal(card, stated) from None
    known = {"m", "n", "min", "max", *card.literals["SPACE"]}
    for node in ast.walk(parsed):
        if not isinstance(node, NODES) or (isinstance(node, ast.Name) and node.id not in known):
            raise _refusal(card, stated)
    return parsed


def expected(card: Card, submission) -> tuple[float, float] | None:
    """The least and the most bytes of state of a submission at work; None without STATE."""
    parts = [(card, vars(submission.hp), submission.task.params)]
    if card.form == "b":
        parts = [(_card_of(group.module), vars(group.hp), group.params)
                 for group in submission.groups]  # fmt: skip
    low = high = 0.0
    for own, hp, params in parts:
        stated = stated_by(own)
        if stated is None:
            return None
        if isinstance(stated, str) and stated.endswith(EXAMPLES):
            high += _examples(submission.task)
        for p in params:
            low, high = _add(low, high, stated, own, hp, p)
    return low, high


def _add(low: float, high: float, stated, card: Card, hp: dict, p) -> tuple[float, float]:
    """The bounds with those of one parameter: a history may be half full, a number is exact."""
    parsed = _parsed(str(stated), card)
    if isinstance(parsed.body, ast.Constant):
        stated = float(stated if not isinstance(stated, str) else stated.removesuffix(EXAMPLES))
        size = stated * p.numel() * p.element_size()
        return low + size, high + size + ROOM * max(1.0, stated)
    m, n = sorted((p.shape[0], p[0].numel())) if p.ndim > 1 else (1, p.numel())
    count = _count(parsed, m, n, hp)
    size = count * p.element_size()
    return low + FULL * size, high + size + ROOM * max(1.0, count / max(1, p.numel()))


def _count(parsed: ast.Expression, m: int, n: int, hp: dict) -> float:
    """Words for an m × n matrix."""
    names = hp | {"m": m, "n": n, "min": min, "max": max}
    code = compile(parsed, "STATE", "eval")
    return eval(code, {"__builtins__": {}}, names)  # of NODES alone


def _examples(task) -> int:
    """Bytes of examples that may be kept."""
    for bound in (lambda: task.memory, lambda: task.batch_size * task.box[0].nbytes):
        try:
            return bound()
        except UserError:
            continue
    return KEPT * task.examples


def _card_of(module) -> Card:
    path = module.__file__
    return discover.read(discover.find(str(path)))
