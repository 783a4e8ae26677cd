"""A campaign's plan: blocks of submissions on workloads under a ruleset, read from YAML, checked.

scale: mini                 # the keys of a block given here hold for every block
until: budget               # goal, or budget: trials go on after the goal is met
isolation: strict           # process, strict or inline
blocks:                     # done one after the other; without `blocks` the plan is one block
  - submissions: [adamw, first_order]   # names, families (all of a folder), or all
    workloads: [gpt2, vit.label_noise]  # names, NAME.VARIANT, or all
    ruleset: external                   # conf/ruleset/
    trials: 8                           # any number of the ruleset can be changed
  - submissions: [adamw]
    workloads: [gpt2.relu]
    ruleset: fixed
    tuned: true                         # at the point tuned on the workload; a variant: on its base
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness.catalog import discover
from harness.catalog.definition import split_variant, track_of, tree_of
from harness.catalog.discover import ROOT
from harness.errors import UserError, nearest
from harness.race import configuration
from harness.race.trial import ISOLATION, UNTIL

NUMBERS = ("studies", "trials", "seeds", "budget", "ladder", "confirm")
# settings of a race that a plan may change; their defaults are those of conf/config.yaml
RACE = ("scale", "until", "hopeless", "isolation")
# the smallest and the largest ratio of a ladder
LADDER = (0.3, 0.95)
OWN: dict[str, Any] = {
    "ruleset": "external", "submissions": None, "workloads": None, "tuned": False,
}  # fmt: skip
KEYS = (*RACE, *OWN, *NUMBERS)
HELP = "harness campaign --help"


@dataclass(frozen=True)
class Block:
    """Submissions on workloads, each pair under the same rules.

    Attributes:
        rules: studies, trials of each, seeds for the best point, share of the budget, and the
            ratio of the ladder of shares or None.
        until: "goal" or "budget". hopeless: end hopeless tuning trials early.
        isolation: the level that trials run in.
        tuned: race the point that is tuned on the workload, or on the base of a variant.
        workloads: (name, variant or None).
    """

    rules: dict
    submissions: tuple[str, ...]
    workloads: tuple[tuple[str, str | None], ...]
    scale: str
    until: str
    hopeless: bool
    isolation: str
    tuned: bool = False

    def pairs(self) -> Iterator[tuple[str, str, str | None]]:
        """(submission, workload, variant) that fit: a submission races on its tracks alone.

        A stream has its own length: no ruleset with another budget applies to it.
        """
        trees = {name: tree_of(name) for name, _ in self.workloads}
        for submission in self.submissions:
            tracks = discover.tracks(discover.read(discover.find(submission)))
            for name, variant in self.workloads:
                tree = trees[name]
                fits = self.rules["budget"] == 1 or "stream" not in tree[self.scale]
                if track_of(tree, self.scale, variant) in tracks and fits:
                    yield submission, name, variant


@dataclass(frozen=True)
class Plan:
    """The blocks of a campaign, in order."""

    blocks: tuple[Block, ...] = field(default_factory=tuple)


def rulesets() -> dict[str, Path]:
    return {path.stem: path for path in sorted((ROOT / "conf" / "ruleset").glob("*.yaml"))}


def ruleset(name: str, where: str = "", **changes) -> dict:
    """Return the numbers of a ruleset, with those of `changes` that are not None in their place."""
    known = rulesets()
    if name not in known:
        raise UserError(f"{where}there is no ruleset {name!r}", nearest(name, known))
    rules = {"budget": 1, "ladder": None, "confirm": 0} | yaml.safe_load(known[name].read_text())
    rules |= {key: value for key, value in changes.items() if value is not None}
    for key, least in (("studies", 1), ("trials", 0), ("seeds", 0), ("confirm", 0)):
        if not isinstance(rules[key], int) or rules[key] < least:
            raise UserError(f"{where}{key}: {rules[key]!r}", f"a whole number from {least} up")
    if not _number(rules["budget"]) or not 0 < rules["budget"] < math.inf:
        raise UserError(f"{where}budget: {rules['budget']!r}", "a positive number")
    if not rules["trials"] and not rules["seeds"]:
        raise UserError(f"{where}trials and seeds are both 0: nothing would be raced")
    _check_ladder(rules, where)
    return rules


def _check_ladder(rules: dict, where: str) -> None:
    """Raise UserError if a ruleset's ladder is not a ratio, or has no trials to start from."""
    ladder = rules["ladder"]
    if ladder is None:
        return
    if not _number(ladder) or not LADDER[0] <= ladder <= LADDER[1]:
        allowed = f"a number from {LADDER[0]} to {LADDER[1]}, the ratio of two shares of the budget"
        raise UserError(f"{where}ladder: {ladder!r}", allowed)
    if not rules["trials"] or rules["budget"] != 1:
        raise UserError(
            f"{where}ladder: {ladder} with trials: {rules['trials']}, budget: {rules['budget']}",
            "tuning trials at budget: 1, whose best point goes down the ladder",
        )


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def load(path: Path) -> Plan:
    """Read a plan.

    Raises:
        UserError: a key, name or value in it is wrong.
    """
    try:
        given = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}", do=HELP) from None
    if not isinstance(given, dict):
        raise UserError(f"{path} is not a plan", "keys such as submissions: [adamw]", HELP)
    shared = {key: value for key, value in given.items() if key != "blocks"}
    blocks = given.get("blocks", [{}])
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        allowed = "a list such as [{submissions: [adamw], workloads: [gpt2]}]"
        raise UserError(f"{path}: blocks is not a list of blocks", allowed, HELP)
    several = "blocks" in given
    return Plan(
        tuple(
            _block(shared | block, f"{path}{f' block {i}' if several else ''}: ")
            for i, block in enumerate(blocks, 1)
        )
    )


def _block(given: dict, where: str) -> Block:
    for key in given:
        if key not in KEYS:
            raise UserError(f"{where}there is no key {key!r} in a plan", nearest(key, KEYS))
    defaults = configuration.defaults()
    made: dict[str, Any] = {key: defaults[key] for key in RACE} | OWN | dict.fromkeys(NUMBERS)
    made |= given
    if made["until"] not in UNTIL:
        raise UserError(f"{where}until: {made['until']!r}", f"one of {', '.join(UNTIL)}")
    if made["isolation"] not in ISOLATION:
        raise UserError(
            f"{where}isolation: {made['isolation']!r}", f"one of {', '.join(ISOLATION)}"
        )
    if not isinstance(made["hopeless"], bool):
        raise UserError(f"{where}hopeless: {made['hopeless']!r}", "true or false")
    if made["hopeless"] and made["until"] == "budget":
        raise UserError(
            f"{where}until: budget and hopeless: true contradict each other",
            "trials that use up their budget, or trials that may end early",
        )
    if not isinstance(made["tuned"], bool):
        raise UserError(f"{where}tuned: {made['tuned']!r}", "true or false")
    rules = ruleset(made["ruleset"], where, **{key: made[key] for key in NUMBERS})
    if made["tuned"] and rules["trials"]:
        raise UserError(
            f"{where}tuned: true with trials: {rules['trials']}",
            "the point that is tuned already, or trials that tune",
            "ruleset: fixed",
        )
    names = _names(made, "submissions", where)
    block = Block(
        rules,
        tuple(_submissions(names, where)),
        tuple(_workloads(_names(made, "workloads", where), made["scale"], where)),
        made["scale"],
        made["until"],
        made["hopeless"],
        made["isolation"],
        made["tuned"],
    )
    _check_pairs(block, names, where)
    return block


def _check_pairs(block: Block, names: list[str], where: str) -> None:
    """Raise UserError if a submission was asked for by its name and races on none of the workloads.

    A family, or `all`, stands for those of its submissions that fit.
    """
    paired = {submission for submission, _, _ in block.pairs()}
    for name in names:
        if name in block.submissions and name not in paired:
            tracks = ", ".join(discover.tracks(discover.read(discover.find(name))))
            told = f"{where}{name} races on none of these workloads: its track is {tracks}"
            if block.rules["budget"] != 1:
                told += f", and a stream takes no budget: {block.rules['budget']}"
            raise UserError(told, "a workload of that track", "harness list workloads")


def _names(made: dict, key: str, where: str) -> list[str]:
    names = [made[key]] if isinstance(made[key], str) else made[key]
    if not names or not isinstance(names, list):
        raise UserError(f"{where}{key} is empty", "a list of names, or all")
    return [str(name) for name in names]


def _submissions(names: list[str], where: str) -> dict[str, None]:
    """Names in order, families and `all` spelt out, each once."""
    families: dict[str, list[str]] = {"all": []}
    for name, plugin in discover.submissions().items():
        families.setdefault(plugin.family, []).append(name)
        families["all"].append(name)
    found: dict[str, None] = {}
    for name in names:
        for each in families.get(name, [name]):
            try:
                discover.find(each)
            except UserError as error:
                raise UserError(f"{where}{error.what}", error.allowed, error.do) from None
            found[each] = None
    return found


def _workloads(names: list[str], scale: str, where: str) -> dict[tuple[str, str | None], None]:
    found: dict[tuple[str, str | None], None] = {}
    for name in names:
        if name == "all":  # those that have the scale
            every = discover.workloads()
            found |= {(n, None): None for n in every if isinstance(tree_of(n).get(scale), dict)}
            continue
        bare, variant = split_variant(name)
        try:
            variants = (tree_of(bare).get(scale) or {}).get("variants") or {}
        except UserError as error:
            raise UserError(f"{where}{error.what}", error.allowed, error.do) from None
        if not isinstance(tree_of(bare).get(scale), dict):
            raise UserError(f"{where}workload {bare} has no scale {scale!r}")
        if variant and variant not in variants:
            told = f"{where}workload {bare} has no variant {variant!r} at scale {scale}"
            raise UserError(told, nearest(variant, variants))
        found[bare, variant] = None
    return found
