"""The trials of a sweep, planned before any starts: what is swept, done, and what it costs."""

import itertools
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.catalog.kinds import REFERENCE_STEP
from harness.errors import NoScale, UserError
from harness.race import configuration
from harness.race.trial import Trial
from harness.report.run.text import columns, duration
from harness.system.paths import ROOT

OWN_COLUMNS = ("workload", "submission", "seed", "trial")
# trials of a sweep
MOST = 10_000
# Settings that the composed configuration takes as they are: nothing else depends on them.
PLAIN = ("seed", "trial", "study")


@dataclass
class Planned:
    """One combination of a sweep's values.

    Attributes:
        words: what a user would type for it.
        swept: by column: the values that only this trial and some others have.
        trial: None if it cannot be raced; then `problem` says why.
        left_out: the workload does not have the scale, which is not an error in a sweep.
        result: how it ended, once that is known.
    """

    words: list[str]
    swept: dict[str, str]
    trial: Trial | None = None
    problem: str = ""
    left_out: bool = False
    result: dict = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name the trial by what distinguishes it in the sweep."""
        assert self.trial
        trial = self.trial
        parts = [trial.label, f"seed {trial.seed}"]
        parts += [f"trial {trial.trial}"] if trial.trial is not None else []
        return " ".join([*parts, *(f"{name}={value}" for name, value in self.swept.items())])


def parsed(words: Sequence[str]) -> list:
    """Return settings as Hydra reads them; patterns are expanded over the options that exist."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    with initialize_config_dir(str(configuration.CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        overrides = OverridesParser.create(loader).parse_overrides(list(words))
        for override in overrides:
            if override.is_sweep_override() and not override.is_discrete_sweep():
                raise UserError(
                    f"{override.input_line}: a sweep goes over single values",
                    "a,b,c or range(FROM,TO)",
                )
        return overrides


def plan(overrides: Sequence[Any]) -> list[Planned]:
    """Return every combination of a sweep's values, in Hydra's order, each planned."""
    from omegaconf.errors import OmegaConfBaseException

    ours = [o for o in overrides if not o.key_or_group.startswith("hydra")]
    headings = _headings([o.key_or_group for o in ours if o.is_sweep_override()])
    settings = _Settings()
    result = []
    choices = [_choices(override) for override in ours]
    for override, values in zip(ours, choices):
        if not values:
            raise UserError(f"{override.input_line} matches nothing", do="harness list")
    if (count := math.prod(map(len, choices))) > MOST:
        raise UserError(
            f"a sweep of {count:,} trials", f"up to {MOST:,}", "a plan: harness campaign --help"
        )
    for values in itertools.product(*choices):
        swept = {
            headings[override.key_or_group]: str(value)
            for override, (_, value) in zip(ours, values)
            if override.key_or_group in headings
        }
        planned = Planned([word for word, _ in values], swept)
        try:
            keys = [override.key_or_group for override in ours]
            planned.trial = settings.trial(planned.words, keys, [v for _, v in values])
        except (UserError, OmegaConfBaseException) as error:
            planned.problem = str(error if isinstance(error, UserError) else explained(error))
            planned.left_out = isinstance(error, NoScale)
        result.append(planned)
    _add_points(result, any(o.key_or_group == "trial" for o in ours if o.is_sweep_override()))
    return result


def explained(error: Exception) -> UserError:
    """Return an error of OmegaConf or Hydra as one line."""
    from harness.cli import config

    return config.explain(error)


def _choices(override) -> list[tuple[str, Any]]:
    """Return (what is typed, value) for each value that an override takes."""
    if not override.is_sweep_override():
        return [(override.input_line, override.value())]
    key = override.get_key_element()
    texts = override.sweep_string_iterator()
    return [(f"{key}={text}", value) for text, value in zip(texts, override.sweep_iterator())]


def _headings(keys: list[str]) -> dict[str, str]:
    """Return each swept key's heading: its last part, or all of it if that is taken."""
    keys = [key for key in keys if key not in OWN_COLUMNS]
    last = [key.rpartition(".")[2] for key in keys]
    return {key: name if last.count(name) == 1 else key for key, name in zip(keys, last)}


def _add_points(planned: list[Planned], trials: bool) -> None:
    """Show the values of the points, where points of one submission are swept."""
    raced = [each.trial for each in planned if each.trial]
    if not trials or len({trial.submission for trial in raced}) != 1:
        return
    names = [
        name for name in raced[0].hp if len({json.dumps(trial.hp.get(name)) for trial in raced}) > 1
    ]
    for each in planned:
        for name in names if each.trial else ():
            value = each.trial.hp.get(name) if each.trial else None
            shown = f"{value:.3g}" if isinstance(value, float) else str(value)
            each.swept.setdefault(name, shown)


class _Settings:
    """Configurations of trials: Hydra composes one for all that differ in plain values only."""

    def __init__(self):
        self.composed: dict[tuple, dict] = {}

    def trial(self, words: list[str], keys: list[str], values: list) -> Trial:
        """Return the trial that these words ask for."""
        from harness.race import plan

        plain = [
            key in PLAIN and (value is None or type(value) is int)
            for key, value in zip(keys, values)
        ]
        rest = tuple(word for word, is_plain in zip(words, plain) if not is_plain)
        if rest not in self.composed:
            self.composed[rest] = configuration.compose(list(rest))
        changes = {key: value for key, value, p in zip(keys, values, plain) if p}
        return plan.make(self.composed[rest] | changes)


def is_done(trial: Trial) -> bool:
    """Return True if the trial's record is there and answers what is asked now."""
    from harness.records import judging, run_folder

    record = run_folder.finished(trial.folder)
    return bool(
        record and judging.is_current(record, trial.definition.hash, trial.table, trial.until)
    )


class Costs:
    """Wall seconds that trials will take, by recorded trials of the same kind or by the budget."""

    def __init__(self, results: Path):
        self.folders = list(dict.fromkeys([results, ROOT / "results"]))
        self.boards: dict[str, list[dict]] = {}

    def of(self, trial: Trial) -> tuple[float | None, bool]:
        """Return a trial's seconds, and whether they come from records (else they are a bound).

        Nothing is known of a workload whose numbers were changed: no record is of it, no price.
        """
        records = self._records(trial.definition.key)
        for same in (
            [r for r in records if r["submission"] == trial.card.plugin.name],
            [r for r in records if r["horizon"] == trial.horizon],
        ):
            if same:
                per_step = statistics.median(r["wall_seconds"] / r["horizon"] for r in same)
                return per_step * trial.horizon, True
        table = trial.table
        if table.relative:
            return None, False
        return trial.budget * table.of(REFERENCE_STEP).seconds, False

    def _records(self, key: str) -> list[dict]:
        from harness.records.compact import read_compact

        if key not in self.boards:
            paths = [folder / "board" / f"{key}.jsonl" for folder in self.folders]
            runs = [run for path in paths if path.exists() for run in read_compact(path, [])]
            self.boards[key] = [
                r.record for r in runs if r.record.get("wall_seconds") and r.record.get("horizon")
            ]
        return self.boards[key]


def dry_lines(planned: Sequence[Planned], at_a_time: int, results: Path) -> list[str]:
    """Return what `dry=true` prints of a sweep: a line for each trial, and what is left to do."""
    rows, costs = [], []
    price = Costs(results)
    for each in planned:
        if not each.trial:
            continue
        trial, done = each.trial, is_done(each.trial)
        seconds, recorded = price.of(trial)
        costs += [] if done else [(seconds, recorded)]
        time = "" if done or seconds is None else f"~{duration(seconds)}"
        rows.append(
            ["done" if done else "to run", trial.definition.key, trial.card.plugin.name]
            + [f"seed {trial.seed}", f"trial {'-' if trial.trial is None else trial.trial}"]
            + [trial.run_id, time, json.dumps(trial.hp)]
        )
    count = f"{len(rows)} trial{'s' * (len(rows) != 1)}"
    text = f"{count}: {len(rows) - len(costs)} done, {len(costs)} to run"
    return [*columns(rows), text + _estimate(costs, at_a_time)]


def _estimate(costs: list[tuple[float | None, bool]], at_a_time: int) -> str:
    """Say how long trials will take, and how that is known; nothing where it is not."""
    known = [seconds for seconds, _ in costs if seconds is not None]
    if len(known) < len(costs) or not costs:
        return "; how long that takes is not known before the first has run" if costs else ""
    seconds = max(sum(known) / at_a_time, max(known))
    recorded = sum(is_recorded for _, is_recorded in costs)
    basis = (
        f"by recorded trials ({recorded} of {len(costs)} have some)"
        if recorded
        else "at most, by their budgets in reference seconds"
    )
    return f"; about {duration(seconds)} with {at_a_time} at a time, {basis}"
