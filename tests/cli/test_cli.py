"""The command line as a user meets it: quick, in one line, with the nearest right name."""

import os
import runpy
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from harness.catalog import discover, methods
from harness.cli import main
from harness.cli.arguments import COMMANDS
from harness.cli.commands import doctor
from harness.records import run_folder
from tests.support import records
from tests.support.racing import (
    HORIZON,
    OWN,
    ROOT,
    SHORT,
    SMALL,
    command,
    environment,
    harness,
    log_of,
    typed,
)  # fmt: skip

HEAVY = {"torch", "pandas", "matplotlib", "wandb", "tensorboard", "scipy"}


def refused(*arguments):
    """The one line that a wrong command line gets."""
    code, out, err = typed(*arguments)
    assert code == 2, (out, err)
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("harness: ")
    return err


# Quick


@pytest.mark.parametrize(
    "arguments",
    [[], ["--help"], ["--version"], ["list"], ["show", "lion"], ["show", "gpt2"]]
    + [[name, "--help"] for name in ("suggest", "campaign", "compare", "report", "check")],
)
def test_telling_imports_nothing_heavy(arguments):
    code = (
        "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
        f"from harness.cli.main import main; main({arguments!r})"
    )
    began = time.process_time(), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert not HEAVY & {name.partition(".")[0] for name in done.stderr.split()}
    assert done.stdout
    assert time.monotonic() - began[1] < 15  # about 0.1 s on an idle machine


@pytest.mark.parametrize("arguments", [["workload=gpt2"], ["report"], ["suggest", "gpt2"]])
def test_an_environment_without_the_packages_is_told_in_one_line(arguments):
    # -S: without site-packages
    code = "import sys; from harness.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "has no package" in done.stderr
    assert "; type " in done.stderr


def test_a_typo_is_told_before_anything_heavy_is_imported():
    code = "from harness.cli.main import main; main(['workload=gtp2'])"
    code += "; import sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment()
    )
    assert not HEAVY & {name.partition(".")[0] for name in done.stdout.split()}


# A wrong word of a command: the words, and what is said of them.
WRONG = [
    ("show gpt2.mini", "harness show gpt2"),
    ("show a..b", "class=a..b is not a dotted path"),
    ("show ..", "no submission is called '..'; known: a_coder"),
    ("show no-such.py", "to write one: harness new submission my_idea"),
    ("-m submission=glob(zzz*) dry=true", "submission=glob(zzz*) matches nothing"),
    ("check gpt3", "nothing is called 'gpt3'; did you mean gptq or gpt2"),
    ("compare adamw adamw", "adamw is compared with itself"),
    ("compare adamw lion gpt2", "harness compare adamw lion workload=gpt2"),
    ("comply plan.yaml", "plan.yaml is not a file of records"),
    ("report plan.yaml", "plan.yaml is not a file of records"),
    ("verify plan.yaml", "plan.yaml is not a file of records"),
    ("comply run/run.json", "its folder: run"),
    ("verify run", "run is not the folder of a finished run"),
    (f"verify plan.yaml:{'9' * 100}", "there is no plan.yaml:9999"),
    ("sync plan.yaml", "there is no folder plan.yaml"),
    ("refine nowhere", "there is no folder nowhere; a run's folder"),
    ("refine run --points 0", "'0' is not a whole number from 1 up"),
    ("campaign bytes.yaml", "bytes.yaml is not YAML"),
    ("campaign plan.yaml --jobs 0", "'0' is not a whole number from 1 up"),
    ("campaign plan.yaml --minutes nan", "'nan' is not a number above 0"),
    ("target gpt2 --trials 0", "'0' is not a whole number from 1 up"),
    ("target gpt2 --seeds 1", "'1' is not a whole number from 2 up"),
    ("target gpt2 --share 1", "'1' is not a number above 0 and below 1"),
    ("target gpt2 --margin -1", "'-1' is not a number from 0 up and below 1"),
    ("calibrate", "no workload is named"),
    ("calibrate workload=gpt2 --processes 0", "'0' is not a whole number from 1 up"),
    ("calibrate workload=gpt2 forward@batch=0", "batch must be above 0"),
    ("calibrate workload=gpt2 forward@batch=1/0", "batch must be above 0"),
    ("audit workload=gpt2 engine=gpu", "harness calibrate workload=gpt2 engine=gpu"),
    ("new submission sub/idea", "letters, digits and _"),
]


@pytest.mark.parametrize("line, said", WRONG, ids=[line[:40] for line, _ in WRONG])
def test_a_wrong_word_of_a_command_is_refused(line, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.yaml").write_text("submissions: [adamw]\nworkloads: [gpt2]\n")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").touch()
    if "run.json" in line:
        (tmp_path / "run" / "run.json").touch()
    code, out, err = typed(*line.split())
    assert (code, out) == (2, ""), err
    assert said in err


LITERALS = [
    ('SPACE = {"lr": {"lgo": [1e-3, 1]}}', "is not a range"),
    ('SPACE = {"lr": {"log": [0, 1]}}', "out of order or not positive"),
    ('SPACE = {"lr": {"choice": []}}', "choice takes a list of values"),
    ("SPACE = {1: 2}", "name is a Python identifier"),
    ("SPACE = [1]", "SPACE is [1]"),
    ('PASSES = "forward"', "PASSES is 'forward'"),
    ('TRACKS = "train"', "TRACKS is 'train'"),
    ('TRACKS = ["trian"]', "TRACKS names 'trian'; did you mean train"),
    ('HANDLES = "hidden"', "HANDLES is 'hidden'"),
    ('FALLBACK = "adamww"', "FALLBACK names 'adamww'; did you mean adamw"),
    ('SKIPS = "values"', "SKIPS is 'values'"),
]


@pytest.mark.parametrize("line, said", LITERALS, ids=[line for line, _ in LITERALS])
def test_a_wrong_literal_of_a_submission_is_refused(line, said, tmp_path):
    space = "" if line.startswith("SPACE") else 'SPACE = {"lr": 0.1}'
    functions = """
def init(params, hp):
    return {"lr": hp.lr}


def update(params, grads, state, hp, progress):
    pass
"""
    (tmp_path / "mine.py").write_text(f"{space}\n{line}\n{functions}")
    assert said in refused("show", tmp_path / "mine.py")
    assert said in refused(f"submission={tmp_path / 'mine.py'}", "dry=true")


@pytest.mark.parametrize(
    "words, said",
    [
        ("lion adamw scale=huge", "there is no record at scale huge"),
        ("lion adamw workload=vit", "there is no record on vit at scale mini"),
        ("lion loin", "did you mean lion?; harness list submissions"),
        ("lion wanda", "python -m harness workload=compress_gpt2 submission=wanda scale=mini"),
    ],
)
def test_a_comparison_without_records_says_what_can_be_typed(words, said, tmp_path, monkeypatch):
    records.believe(monkeypatch)
    (tmp_path / "board").mkdir()
    lines = [records.line(name, "gpt2", 1, None, 12, 1.0) for name in ("lion", "adamw")]
    (tmp_path / "board" / "gpt2.mini.jsonl").write_text("\n".join(lines) + "\n")
    assert said in refused("compare", *words.split(), f"results={tmp_path}")


# A change of a workload's YAML, and what is said of it.
NUMBERS = [
    ("track: train", "track: trian", "track is 'trian'; did you mean train"),
    ("track: train", "track: train\nfoo: 3", "'foo' is neither a scale nor a setting"),
    ("track: train", "track: train\npredict: maybe", "predict is 'maybe'; true or false"),
    ("track: train", "track: train\nhides: 3", "hides is 3; a list of names"),
    ("mini:", "3:", "3 is not the name of a scale"),
    ("batch: 256", "batch: 256\n  fed: 3", "workload.mini.fed is 3"),
    ("batch: 256", "batch: 256\n  stream: {task: 3}", "mini.stream has a key 'task'"),
    ("batch: 256", "batch: 256\n  stream: {tasks: 3}", "mini.stream has no boundaries"),
    ("batch: 256", "batch: 256\n  labels: {}", "mini.labels has no tensor"),
    ("{accuracy: {at_least: 0.98}}", "accuracy", "workload.mini.goal is 'accuracy'"),
    ("{at_least: 0.98}", "{at_least: 0.98, at_most: 1}", "each with {at_most: X} or"),
    ("{at_least: 0.98}", "{at_least: .inf}", "{'at_least': inf} is not a bound"),
    ("wide: {model: {width: 128}}", "wide: 3", "mini.variants is {'wide': 3}"),
    ("track: train", "track: train  # \udce9", "is not valid YAML"),
]


@pytest.mark.parametrize("old, new, said", NUMBERS, ids=[said for _, _, said in NUMBERS])
def test_wrong_numbers_of_a_workload_are_refused(old, new, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert typed("new", "workload", "mine")[0] == 0
    path = tmp_path / "mine.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new), errors="surrogateescape")
    assert said in refused("workload=./mine.py", "dry=true")


def test_a_workload_without_a_function_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert typed("new", "workload", "mine")[0] == 0
    path = tmp_path / "mine.py"
    path.write_text(path.read_text().replace("def metric(", "def measure("))
    assert "workload mine lacks metric" in refused("workload=./mine.py", "dry=true")


def test_an_error_in_a_file_of_the_users_is_told_in_one_line(tmp_path, monkeypatch):
    path = tmp_path / "mine.py"
    path.write_text("def data():\n    return nothing\n")
    data = runpy.run_path(str(path))["data"]
    monkeypatch.setattr("harness.cli.commands.list.run", lambda _: data())
    said = f"harness: NameError: name 'nothing' is not defined ({path}:2, in data)\n"
    assert typed("list") == (1, "", said)
    # a fault of ours keeps its traceback
    monkeypatch.setattr("harness.cli.commands.list.run", lambda _: {}["nothing"])
    with pytest.raises(KeyError):
        typed("list")


@pytest.mark.parametrize("points", ["", "[1]", '{"adamw": 3}', '{"adamw": {}}'])
def test_a_damaged_file_of_tuned_points_is_named(points, tmp_path):
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "gpt2.mini.json").write_text(points)
    assert "gpt2.mini.json cannot be used" in refused(f"results={tmp_path}", "dry=true")


def test_an_empty_results_folder_name_is_refused():
    assert "results= has no folder" in refused("results=", "dry=true")


def test_a_condition_can_be_added_to_a_goal():
    base, added = (
        typed("dry=true", f"workload.mini.goal.{bound}")[1].split()
        for bound in ("loss.at_most=3.91", "accuracy.at_least=0.1")
    )
    assert base[:8] == added[:8] != []
    assert base[8] != added[8]


def test_a_file_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir("/proc")
    assert "cannot use idea.py: " in refused("new", "submission", "idea")


def test_a_full_disk_behind_a_pipe_is_named():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "harness", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
    assert done.returncode == 2
    assert done.stderr == "harness: cannot use the output: No space left on device\n"


# In words


@pytest.mark.parametrize(
    "line, said",
    [
        ("workload=gtp2 submission=lion", "no workload is called 'gtp2'; did you mean gpt2"),
        ("workload=gpt2 submission=loin", "no submission is called 'loin'; did you mean lion"),
        ("submission.lrr=1", "submission adamw has no hyperparameter 'lrr'; did you mean lr"),
        (
            "submission=lion submission.beta3=1",
            "submission lion has no hyperparameter 'beta3'; did you mean beta",
        ),
        (
            "submission=lion submission.lr=7",
            "submission.lr=7 is outside its range; 0.0001 to 0.005 (log)",
        ),
        ("submission=lion submission.lr=fast", "submission.lr='fast' is not a number"),
        ("workload=gpt2 submission=./missing.py", "submission file ./missing.py does not exist"),
        ("engine=tpu", "engine=tpu does not exist; did you mean"),
        ("tracker=wanb", "tracker=wanb does not exist; did you mean wandb"),
        ("isolation=proces", "isolation=proces does not exist; did you mean process"),
        ("scale=mini2", "workload gpt2 has no scale 'mini2'; did you mean mini"),
        ("variant=foo", "workload gpt2 has no variant 'foo' at scale mini"),
        ("variant=rleu", "did you mean relu"),
        ("sede=1", "there is no setting 'sede'; did you mean seed"),
        ("lr=1e-3", "there is no setting 'lr'; did you mean submission.lr?"),
        ("horizon=5", "there is no setting 'horizon'; did you mean workload.mini.horizon?"),
        ("workload.horizon=5", "did you mean workload.mini.horizon?"),
        ("workload.points=5", "did you mean workload.mini.evaluate.points?"),
        ("threads=2", "did you mean engine.threads?"),
        ("tuned=true trial=1", "tuned=true and trial=1 contradict each other"),
        ("tuned=maybe", "tuned=maybe"),
        ("scale=base engine.device=tpu", "engine.device=tpu does not exist"),
        ("seed=abc", "seed=abc: Value 'abc' of type 'str' could not be converted to Integer"),
        ("seed=1.5", "seed=1.5: Value '1.5'"),
        ("seed=", "seed="),
        ("trial=-1", "trials are counted from 0"),
        ("trial=10000000000000000000000", "trials are counted from 0"),
        ("jobs=0", "jobs=0; a whole number from 1 up"),
        ("tuned=true submission=sgd", "no tuned point of sgd is recorded for gpt2.mini"),
        ("seed=1,2", "seed=1,2"),
        ("seed=[", "cannot read 'seed=['"),
        ("seed", "'seed' is neither a command nor a setting"),
        ("lits", "'lits' is neither a command nor a setting; did you mean list"),
        ("xyz", "known: audit, calibrate, campaign, check, compare, comply, doctor, list, new,"),
        ("~seed", "'~seed' is neither a command nor a setting"),
        ("~seed=0", "~seed=0: a setting cannot be removed"),
        ("submission@x=lion", "settings have no packages"),
        ("seed=${nothing}", "Interpolation key 'nothing' not found"),
        (
            "workload.mini.horzon=9",
            "there is no setting 'workload.mini.horzon' for workload=gpt2; did you mean horizon",
        ),
        ("workload.mini.horizon=many", "workload.mini.horizon='many' is not of the type of"),
        ("workload.mini.horizon=0", "workload.mini.horizon=0; a whole number from 1 up"),
        (
            "workload.mini.evaluate.points=0",
            "workload.mini.evaluate.points=0; a whole number from 1 up",
        ),
        (
            "workload.mini.evaluate={pionts: 3}",
            "there is no setting 'workload.mini.evaluate.pionts'; did you mean points",
        ),
        ("workload.mini.deadlines.stepp=9", "did you mean step"),
        ("workload.mini.deadlines.step=-9", "seconds above 0"),
        ("workload.mini.goal.loss.at_most=low", "{'at_most': 'low'} is not a bound; a number"),
        ("engine.threads=0", "engine.threads=0; a whole number from 1 up"),
        ("engine.device=tpu", "engine.device=tpu does not exist"),
        ("workload=gpt2.relu", "no workload is called 'gpt2.relu'; scale= and variant= choose"),
        ("workload=", "no workload is called ''; known: active"),
        ("submission=.x", "no submission is called '.x'"),
        ("submission.lr=1e-3,2e-3", "several values, and this is one race; add -m"),
        ("seed=-1", "seed=-1; a whole number from 0 up"),
        ("seed=9223372036854775808", "a whole number from 0 up, below 2^63"),
        ("study=-1", "study=-1; a whole number from 0 up"),
        ("workload.mini.horizon=1.5", "a whole number is allowed"),
        ("workload.base.horizon=5", "a race at scale=mini does not read it; workload.mini.horizon"),
        ("-m seed=range(5,0)", "seed=range(5,0) has no value"),
        ("-m seed=range(0,1e9)", "has more than 10,000 values"),
        ("-m seed=range(0,5,0)", "has more than 10,000 values"),
        ("-m seed=range(0,200) trial=range(0,200)", "a sweep of 40,000 trials; up to 10,000"),
        ("-m tracker=wandb,none", "tracker has one value for all trials of a sweep"),
        ("engine.processes=13", "a batch of gpt2.mini has 12 examples"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_refused_in_one_line(line, said, tmp_path):
    words = line.split() if "{" not in line else [line]
    order = words + ["dry=true", f"results={tmp_path}"]
    assert said in refused(*order)
    assert list(tmp_path.iterdir()) == []


def test_results_that_cannot_be_written_are_refused():
    code, out, err = typed(*SHORT, "results=/dev/null/x", "isolation=inline")
    assert (code, out) == (2, "")
    assert (
        err.splitlines()[-1]
        == "harness: cannot write into /dev/null/x: Not a directory; results=FOLDER"
    )


def test_every_setting_has_a_comment_and_a_type():
    from harness.race.configuration import SETTINGS

    lines = (ROOT / "conf" / "config.yaml").read_text().split("\n")
    keys = [
        line
        for line in lines
        if line and line[0].isalpha() and not line.startswith(("defaults", "hydra"))
    ]
    assert all("#" in line for line in keys)
    named = {line.partition(":")[0] for line in keys} | {
        "workload",
        "submission",
        "engine",
        "tracker",
    }
    assert named == set(SETTINGS)


# Commands


def test_list_names_every_plugin_and_filters():
    code, out, _ = typed("list")
    assert code == 0
    assert {line.split()[1] for line in out.splitlines()} >= {"gpt2", "lion", "adamw"}
    assert [line.split()[1] for line in typed("list", "--like", "lio*")[1].splitlines()] == ["lion"]
    assert "did you mean lion" in refused("list", "--like", "loin")
    named = {line.split()[1] for line in typed("list", "--track", "compress")[1].splitlines()}
    assert {"wanda", "lion", "compress_gpt2", "gpt2"} <= named  # a variant of gpt2 compresses
    assert not {"lora", "ft_gpt2", "stream_split"} & named


def test_list_says_tracks_badge_and_state_of_each_submission():
    def row(name):
        (line,) = typed("list", "submissions", "--like", name)[1].splitlines()
        return line.split(maxsplit=5)

    said = "Lion: the sign of an interpolation between momentum and gradient"
    assert row("lion") == ["first_order", "lion", "all", "reference", "1", said]
    assert row("galore")[:5] == ["low_rank", "galore", "all", "reference", "0.32"]
    assert row("wanda")[2] == "compress"
    assert row("er")[4] == "1.4"  # and the training examples that it keeps
    assert row("nesterov")[3:] == ["reference", "1", "sgd with nesterov=True"]
    assert len(typed("list", "submissions")[1].splitlines()) == len(discover.submissions())


def test_a_list_of_everything_takes_about_a_second():
    before = os.times()
    done = harness("list", "--like", "*")
    spent = os.times().children_user - before.children_user
    assert done.returncode == 0
    assert spent < 3  # CPU seconds; 0.9 on an idle machine


def test_every_command_is_in_the_help_and_has_its_own(capsys):
    for name in COMMANDS:
        assert f"  harness {name} " in main.HELP
        code, out, _ = typed(name, "--help")
        assert code == 0
        assert out.startswith(f"usage: harness {name} ")


def test_show_tells_the_rule_and_the_ranges():
    out = typed("show", "lion")[1]
    assert "arXiv 2302.06675" in out
    assert "lr" in out
    assert "horizon: " in typed("show", "gpt2")[1]


def test_show_tells_all_that_is_known(monkeypatch, tmp_path):
    out = typed("show", "galore")[1]
    assert "every `gap` steps: P ←" in out
    assert "arXiv 2403.03507" in out
    assert "rank         16           one of [16, 8, 32]" in out
    state = methods.of("galore").state
    unit = "bytes a byte of trained parameters (on gpt2, width 128)"
    assert f"state          {state:g} {unit}" in out
    assert "badge          reference\n" in out
    assert "PASSES         {'forward_backward': 1} (a step)" in out
    assert "reference: pytorch_optimizer" in out
    assert "test_matrix_method_equals_its_peer" in out
    assert "test_submission_equals_its_peer" in typed("show", "nesterov")[1]  # as of sgd

    results = tmp_path / "results"
    (results / "tuned").mkdir(parents=True)
    (results / "tuned" / "gpt2.mini.json").write_text('{"lion": {"hp": {"lr": 0.001}}}')
    (results / "board").mkdir()
    lines = [
        records.line(name, "gpt2", seed, None, crossing, price)
        for seed, (name, crossing, price) in enumerate(
            [("lion", 12, 1.0), ("lion", 12, 9.5 / 12), ("lion", None, 1.0), ("adamw", 12, 0.1)]
        )
    ]
    # A damaged line is not counted.
    lines.append('{"submission": "lion", "time": "soon"}')
    (results / "board" / "gpt2.mini.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr("harness.cli.commands.show.ROOT", tmp_path)
    out = typed("show", "lion")[1]
    assert "gpt2.mini: lr=0.001\n" in out
    assert "gpt2.mini: 3 runs, 2 reached the goal, best 9.5 reference s" in out


def test_show_tells_a_file_or_a_class(tmp_path):
    out = typed("show", OWN / "list_lion.py")[1]
    assert "no test compares it" in out
    out = typed("show", "torch.optim.RAdam")[1]
    assert "submission torch.optim.RAdam  (form a" in out
    assert "did you mean lion" in refused("show", "loin")


def test_a_new_submission_can_be_raced_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = typed("new", "submission", "my_idea")
    assert code == 0
    assert "harness check my_idea.py" in out
    assert "exists already" in refused("new", "submission", "my_idea")
    assert "cannot name a submission" in refused("new", "submission", "my idea")
    assert "is the name of a shipped submission" in refused("new", "submission", "lion")
    assert "would import itself" in refused("new", "submission", "torch")
    said = "'my_idea'; ./my_idea.py is the one that lies here"
    assert f"nothing is called {said}" in refused("check", "my_idea")
    assert f"nothing is called {said}" in refused("show", "my_idea")
    assert f"no submission is called {said}" in refused("submission=my_idea")
    assert "harness.py of the current folder would run" in refused("new", "workload", "harness")
    code, out, err = typed("submission=./my_idea.py", "isolation=inline", "results=r", *SMALL)
    assert code == 0, err
    assert "out of budget" in out
    assert "did you mean my_idea.py" in refused("submission=./my_ideas.py")


def test_sync_says_what_is_missing_and_takes_an_empty_folder(tmp_path):
    assert "there is no folder" in refused("sync", tmp_path / "none")
    code, out, _ = typed("sync", tmp_path)
    assert (code, out) == (0, "0 runs brought up to date with wandb\n")


def test_doctor_finds_what_a_race_needs():
    done = harness("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "MISSING" not in done.stdout
    assert "isolation: freeze" in done.stdout


def test_doctor_finds_a_cache_folder_that_cannot_be_written(monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", "/dev/null/cache")
    finding = doctor._cache()
    assert finding.works is False
    assert "HARNESS_CACHE=FOLDER" in finding.text
    assert finding.subject in doctor.NEEDED


def test_hydras_own_flags_work():
    code, out, err = typed("--cfg", "job")
    assert code == 0, err
    assert "scale: mini" in out


# Races


def test_any_path_will_do_and_a_done_trial_is_not_run_again(tmp_path):
    strange = tmp_path / 'my "idéas" [1]'
    strange.mkdir()
    own = strange / "une idée.py"
    own.write_text((OWN / "list_lion.py").read_text())
    line = [f"submission={own}", f"results={strange / 'ré sultats'}", *SMALL]
    assert typed(*line, "dry=true")[1].startswith("to run")
    code, out, err = typed(*line)
    assert code == 0, err
    assert "out of budget" in out
    (folder,) = (strange / "ré sultats").glob("runs/small_net/une idée/*")
    assert run_folder.finished(folder)["submission"] == "une idée"
    assert (folder / "curve.png").stat().st_size > 1000
    before = (folder / "log.jsonl").read_bytes()
    code, out, _ = typed(*line)
    assert code == 0
    assert "this trial was run before; its record stands" in out
    assert (folder / "log.jsonl").read_bytes() == before
    assert typed(*line, "dry=true")[1].startswith("done")


def test_a_file_with_the_name_of_another_submission_is_refused(tmp_path):
    (tmp_path / "lion.py").write_text((OWN / "list_lion.py").read_text())
    assert "has the name of another submission" in refused(f"submission={tmp_path / 'lion.py'}")


def test_a_sweep_races_all_and_has_the_worst_status(tmp_path):
    line = [f"submission=lion,{OWN / 'faulty.py'}", f"results={tmp_path}", *SMALL]
    swept = harness(*line, "-m", "isolation=inline", cwd=tmp_path)
    assert swept.returncode == 1, swept.stderr
    rows = [line.split() for line in swept.stdout.splitlines()]
    found = sorted((row[1], row[2], row[4]) for row in rows if row and row[0] == "small_net")
    assert found == [
        ("faulty", "0", "failed"),
        ("lion", "0", "out"),
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}  # nothing of Hydra's
    for folder in tmp_path.glob("runs/small_net/lion/*"):
        assert [row["event"] for row in log_of(folder)].count("started") == 1


def test_a_sweep_leaves_out_what_has_not_its_scale(tmp_path):
    line = ["submission=adamw", "dry=true", f"results={tmp_path}", "jobs=1"]
    code, out, err = typed("-m", "workload=ft_minilm,gpt2", *line)
    assert code == 0, err
    assert err.startswith("harness: left out: workload ft_minilm has no scale 'mini'")
    row, count = out.splitlines()
    assert row.split()[2] == "gpt2.mini"
    assert count.startswith("1 trial: 0 done, 1 to run")
    code, out, err = typed("-m", "workload=ft_minilm,ft_smollm2", *line)
    assert (code, out) == (2, "")
    assert err.count("left out") == 2
    assert "has no scale 'mini'; known: base; scale=base" in refused("workload=ft_minilm")


@pytest.mark.slow
def test_two_sweeps_at_once_run_every_trial_once(tmp_path):
    line = command("-m", "submission=lion", "seed=0,1", f"results={tmp_path}", *SHORT)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(line, env=environment(), **pipes) for _ in range(2)]
    told_by = [sweep.communicate() for sweep in both]
    assert [sweep.returncode for sweep in both] == [0, 0], told_by
    folders = list(tmp_path.glob("runs/gpt2/lion/*"))
    assert len(folders) == 2
    for folder in folders:
        events = [row["event"] for row in log_of(folder)]
        assert events.count("started") == 1
        assert "resumed" not in events
        assert run_folder.finished(folder)["step"] == HORIZON


# Nonsense

LINE = ["workload=gpt2", "submission=lion", "submission.lr=1e-3", "seed=1", "trial=2", "scale=mini"]
LINE += [
    "workload.mini.horizon=20",
    "workload.mini.goal.loss.at_most=4",
    "engine=cpu",
    "jobs=2",
    "tracker=none",
]
LETTERS = st.sampled_from("abegilmnoprst=.,:${}[]()'\"\\~+@/-_ 01e9é\t\n#")


@st.composite
def edited(draw):
    """A valid command line with words dropped, doubled and swapped, and letters changed."""
    words = draw(st.lists(st.sampled_from(LINE), min_size=1, max_size=5))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(words) - 1))
        word = words[at]
        begin = draw(st.integers(0, len(word)))
        end = draw(st.integers(begin, min(len(word), begin + 4)))
        words[at] = word[:begin] + "".join(draw(st.lists(LETTERS, max_size=3))) + word[end:]
    return words


@hypothesis_settings(max_examples=25)
@given(edited())
def test_no_line_gives_a_traceback(words):
    code, _, err = typed("dry=true", *words)
    assert code in (0, 2), err
    assert "Traceback" not in err
