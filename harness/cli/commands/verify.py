"""harness verify: race records again, and list those that are confirmed."""

import datetime
import getpass
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from harness.cli.arguments import parser
from harness.errors import EXIT_DISQUALIFIED, EXIT_OK, UserError
from harness.records import verified
from harness.records.collect import read_folder
from harness.records.compact import read_compact, require_compact
from harness.records.run import RecordedRun
from harness.system.files import BadFile, read_json
from harness.system.machine import harness_hash, identity
from harness.system.terminal import printable

ALLOWED = "a run's folder, a compact file, or FILE.jsonl:LINE"
EXAMPLE = "harness verify results/board/matrix_sensing.mini.jsonl:13"
TEXT = """Race records again and compare. The second race is interrupted once and continued. A
record is confirmed if every evaluation is the same, or else if its last metric lies within the
interval of the recorded seeds; its reference seconds must agree within 25 %. A generated problem
must also be solved in another instance, from a key that no submission can know. Confirmed records
are added to the list of verified records, which a report asks before it ranks. Status 3 where a
record is not confirmed."""


def run(arguments: list[str]) -> int:
    """Race each record again, print what was seen, and add what is confirmed to the list."""
    reader = parser("verify", TEXT)
    reader.add_argument("records", nargs="+", metavar="RECORD", help=ALLOWED)
    reader.add_argument("--submission", default="", metavar="FILE", help="the submission's file")
    reader.add_argument("--workload", default="", metavar="FILE", help="the workload's file")
    reader.add_argument(
        "--own",
        action="store_true",
        help="list records that you raced yourself, without racing them again (maintainers)",
    )
    reader.add_argument("--by", default="", help="who verifies (your user name)")
    reader.add_argument(
        "--list", type=Path, default=verified.LIST, help="the list (results/verified.json)"
    )
    asked = reader.parse_args(arguments)
    chosen = [each for text in asked.records for each in _records(text)]
    by = asked.by or _user()
    if asked.own:
        # One that was raced again says more than its owner's word.
        listed = {(entry["run_id"], entry["digest"]) for entry in verified.read_list(asked.list)}
        every = [_entry(run, verified.OWN, "not raced again", by) for _, run in chosen]
        entries = [e for e in every if (e["run_id"], e["digest"]) not in listed]
        verified.add(asked.list, entries)
        were = f"; {len(every) - len(entries)} were listed before" * (len(entries) < len(every))
        print(f"{len(entries)} records are listed as raced by {by} in {asked.list}{were}")
        return EXIT_OK
    confirmed = 0
    for place, record in chosen:
        agree, seen = _verify(place, record, asked.submission, asked.workload)
        rec = record.record
        name = f"{record.key} {rec['submission']} seed {rec['seed']}  {rec['run_id']}"
        print(printable(f"{'same' if agree else 'DIFFERS'}  {name}: {seen}"), flush=True)
        if agree:
            verified.add(asked.list, [_entry(record, verified.AGAIN, seen, by)])
        confirmed += agree
    print(f"{len(chosen)} records: {confirmed} confirmed, {len(chosen) - confirmed} not")
    return EXIT_OK if confirmed == len(chosen) else EXIT_DISQUALIFIED


def _user() -> str:
    """Return the user's name, or "somebody" where the system knows none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"


def _verify(place: Path, run: RecordedRun, file: str, workload: str) -> tuple[bool, str]:
    """Race a record again; return whether that confirms it, and what was seen.

    Args:
        place: the run's folder, or the compact file that has it.
        file, workload: the files of submission and workload, or "".
    """
    # it imports torch through the referee
    from harness.race import rerun

    try:
        with tempfile.TemporaryDirectory() as results:
            folder = place if place.is_dir() else None
            run = replace(run, record=rerun.admitted(run.record, folder, file, workload))
            kept = ""
            if folder:
                whole = read_json(folder / "run.json")
                whole = rerun.admitted(whole, folder, file, workload)
                kept = rerun.evaluate_weights(whole, folder)
            second, done = rerun.again(run, folder, Path(results), file)
            seeds = _seeds(place, run)
            agree, seen = verified.compare(run, second, seeds)
            other = rerun.of_own_key(run, seeds, folder, Path(results), file) if agree else ""
    except UserError as error:
        return False, str(error)
    return agree, "; ".join(filter(None, (seen, done, other, kept)))


def _seeds(path: Path, run: RecordedRun) -> list[RecordedRun]:
    """Return the recorded runs of the same point with other seeds, in the run's compact file."""
    if not path.is_file():
        return []
    same = ("workload_hash", "submission_hash", "hp", "isolation", "trial")
    return [
        other
        for other in read_compact(path, [])
        if all(other.record.get(key) == run.record.get(key) for key in same)
        and other.record["seed"] != run.record["seed"]
    ]


def _entry(run: RecordedRun, how: str, result: str, by: str) -> dict:
    return verified.entry_of(
        run.record,
        how,
        result,
        by,
        date=datetime.date.today().isoformat(),
        harness=harness_hash(),
        machine=identity(),
    )


def _records(text: str) -> Iterator[tuple[Path, RecordedRun]]:
    """Yield the records that a word of the command line names, each with its folder or file.

    Raises:
        UserError: there is none, or it is damaged.
    """
    name, _, line = text.rpartition(":")
    # more digits than a file has lines
    numbered = name and line.isdecimal() and len(line) < 10
    path, number = (Path(name), int(line)) if numbered else (Path(text), None)
    if path.is_dir():
        try:
            yield path.resolve(), read_folder(path, str(path))
        except FileNotFoundError:
            raise UserError(f"{path} is not the folder of a finished run", ALLOWED) from None
        except (ValueError, KeyError, TypeError, BadFile, OSError) as error:
            raise UserError(
                f"{path} has no record that can be verified: {error}", ALLOWED
            ) from None
        return
    if not path.is_file():
        raise UserError(f"there is no {text}", ALLOWED, EXAMPLE)
    require_compact(path)
    left_out: list[tuple[str, str]] = []
    runs = list(read_compact(path, left_out))
    if number is not None:
        place = f"{path.name} line {number}"
        runs = [run for run in runs if run.where == place]
        left_out = [pair for pair in left_out if pair[0] == place]
    if left_out or not runs:
        where, why = left_out[0] if left_out else (text, "there is no record")
        raise UserError(f"{where}: {why}", ALLOWED, EXAMPLE)
    yield from ((path, run) for run in runs)
