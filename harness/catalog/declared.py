"""What a submission's file declares: its form, its literals, its variants; checked, nothing run."""

import ast
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from harness.catalog import reading
from harness.catalog.card import Card, Plugin
from harness.catalog.space import check, validate
from harness.errors import UserError

LITERALS = (
    "SPACE",
    "HANDLES",
    "FALLBACK",
    "BASE",
    "ELEMENTWISE",
    "PASSES",
    "TRACKS",
    "SKIPS",
    "VARIANTS",
)
# Literals that files had until 0.1.0, and what took their place.
RETIRED = {
    "BADGE": "badges are read off the project's tests: results/methods.json",
    "STATE": "the state that a method keeps is measured: state_bytes in its records",
}
# The type of each other literal than SPACE and VARIANTS, with an example.
TYPES = {
    "HANDLES": (list, '["hidden"]'),
    "FALLBACK": (str, '"adamw"'),
    "BASE": (str, '"adamw"'),
    "ELEMENTWISE": (bool, "True"),
    "PASSES": (dict, '{"forward_backward": 2}'),
    "TRACKS": (list, '["train"]'),
    "SKIPS": (dict, '{"values": "the reason"}'),
}
# Likeness from which an unknown constant counts as a misspelt literal.
MISSPELT = 0.75
FORMS = {"optimizer": "a", "update": "b", "BASE": "b", "Algorithm": "c"}


def names(path: Path) -> set[str]:
    """Return the names of the functions, classes and constants that a file defines."""
    body = reading.tree(path).body
    defined = {n.name for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    targets = (target for n in body if isinstance(n, ast.Assign) for target in n.targets)
    return defined | {target.id for target in targets if isinstance(target, ast.Name)}


def card_of(plugin: Plugin, sources: Iterable[Path]) -> Card:
    """Return a submission's card.

    Args:
        sources: its files; one of them reads each hyperparameter.

    Raises:
        UserError: the file is not a submission, or not a valid one.
    """
    tree, defined = reading.tree(plugin.path), names(plugin.path)
    forms = [FORMS[name] for name in FORMS if name in defined]
    if len(forms) != 1:
        count = f"{'several' if forms else 'none'} of optimizer, update, Algorithm"
        raise UserError(
            f"{plugin.path} is not a submission: it defines {count}",
            "one of optimizer(params, hp), init and update, class Algorithm, adapt and BASE",
            "harness new submission my_idea",
        )
    if "BASE" in defined and "adapt" not in defined:
        raise UserError(f"{plugin.path} names a BASE but defines no adapt(model, task, hp)")
    if "update" in defined and "init" not in defined:
        raise UserError(f"{plugin.path} defines update but no init(params, hp)")
    card = Card(
        plugin,
        ast.get_docstring(tree) or "",
        forms[0],
        reading.literals(plugin.path, LITERALS, plugin.base),
        frozenset(defined),
    )
    reading.check(plugin.path, tree, plugin.base)
    _check_literals(card, tree, sources)
    _take_variant(card)
    return card


def _take_variant(card: Card) -> None:
    """Check VARIANTS against SPACE, and fix the values of the variant that the card is of."""
    declared, space = variants(card.plugin.path), card.literals["SPACE"]
    for name, values in declared.items():
        for key, value in values.items():
            values[key] = check(space, key, value, f"VARIANTS[{name!r}] of {card.plugin.path}")
    if card.plugin.variant:
        card.literals["SPACE"] = space | declared[card.plugin.name]


def _check_literals(card: Card, tree: ast.Module, sources: Iterable[Path]) -> None:
    """Raise UserError for literals that are unknown, missing, or read by no code."""
    where = card.plugin.path
    if not isinstance(space := card.literals.get("SPACE"), dict):
        raise UserError(
            f"{where} has no SPACE" if space is None else f"{where}: SPACE is {space!r}",
            'a dictionary such as SPACE = {"lr": {"log": [1e-4, 1e-2]}}',
        )
    validate(space, str(where))
    for name, (kind, example) in TYPES.items():
        value = card.literals.get(name)
        if value is not None and (not isinstance(value, kind) or value in ([], "")):
            raise UserError(f"{where}: {name} is {value!r}", f"such as {name} = {example}")
    if not all(isinstance(name, str) for name in card.literals.get("TRACKS", [])):
        raise UserError(f"{where}: TRACKS is {card.literals['TRACKS']!r}", "a list of names")
    _refuse_retired(where, tree)
    for name in (n for n in card.functions if n.isupper() and n not in LITERALS):
        if close := get_close_matches(name, LITERALS, n=1, cutoff=MISSPELT):
            message = f"{where} sets {name}, which the harness does not know"
            raise UserError(message, f"did you mean {close[0]}?")
    read_keys: set[str] = set()
    for path in sources:
        read_keys |= reading.seen(reading.tree(path)).attributes
    by_harness = {"warmup"} if card.form == "a" and "schedule" not in card.functions else set()
    for key in card.literals["SPACE"]:
        if key.startswith("fallback_") and card.literals.get("FALLBACK"):
            continue
        if key.startswith(("base_", "head_")) and card.literals.get("BASE"):
            continue
        if key not in read_keys | by_harness:
            raise UserError(
                f"{where}: SPACE has {key!r}, but nothing reads hp.{key}",
                do=f"use hp.{key} or remove it from SPACE",
            )


def _refuse_retired(path: Path, parsed: ast.Module) -> None:
    """Raise UserError for a literal that was read once, unless the file's own code uses the name.

    It would be ignored in silence otherwise. Removing it changes no identity.
    """
    used = reading.seen(parsed).names
    for node in parsed.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(target, ast.Name) and target.id in RETIRED and target.id not in used:
            raise UserError(
                f"{path}:{node.lineno}: {target.id} is no longer read",
                RETIRED[target.id],
                "remove the line; no run of the file is lost by that",
            )


def variants(path: Path) -> dict[str, dict]:
    """Return the file's VARIANTS: names, each with its fixed hyperparameters.

    Raises:
        UserError: an entry is not a name with values.
    """
    # A hundred files need not be parsed.
    if b"VARIANTS" not in path.read_bytes():
        return {}
    entries = reading.literals(path, ("VARIANTS",)).get("VARIANTS", {})
    for name, values in entries.items() if isinstance(entries, dict) else [(entries, None)]:
        if not (isinstance(name, str) and name.isidentifier() and isinstance(values, dict)):
            raise UserError(
                f"{path}: VARIANTS has {name!r}", 'names with values: {"short": {"rank": 1}}'
            )
    return entries
