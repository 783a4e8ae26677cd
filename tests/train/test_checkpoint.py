"""Laws of checkpoints: what comes back was saved, to the bit; or an older one; or nothing."""

import errno
import os
import warnings
from collections import OrderedDict, defaultdict, deque, namedtuple
from enum import Enum
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from harness.system.files import DiskFull
from harness.train import checkpoint
from harness.train.checkpoint import CorruptCheckpoint, flatten_state, restore_state

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
DTYPES = [*FLOATS, *INTEGERS, torch.bool, torch.complex64]


def tensors():
    """Tensors of every dtype, with 0 to 3 dimensions, empty ones too."""

    def make(dtype, shape, seed):
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=generator).mul(9).to(dtype)

    shapes = st.lists(st.integers(0, 3), max_size=3)
    return st.builds(make, st.sampled_from(DTYPES), shapes, st.integers(0, 99))


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
STATE = st.recursive(
    SCALARS | tensors(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers() | st.text(max_size=5), inner, max_size=3)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=12,
)


def same(a, b):
    """Equal in type, structure, order and every bit; NaN equals NaN."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        return a.contiguous().flatten().view(torch.uint8).equal(b.flatten().view(torch.uint8))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


def through_a_file(folder, state):
    checkpoint.save(folder, 7, {}, {"state": state})
    step, _, meta = checkpoint.load(folder)
    assert step == 7
    return meta["state"]


def saved(folder, step):
    """Save a state that can be told apart by its step."""
    return checkpoint.save(folder, step, {"w": torch.full((50,), float(step))}, {"step": step})


def loaded_step(folder):
    """The step that loads, its content checked; 0 if none does; warnings are of no concern."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CorruptCheckpoint)
        found = checkpoint.load(folder)
    if found is None:
        return 0
    step, tensors, meta = found
    assert meta == {"step": step}
    assert tensors["w"].equal(torch.full((50,), float(step)))
    return step


@given(state=STATE)
def test_state_comes_back_exactly(tmp_path_factory, state):
    assert same(state, through_a_file(tmp_path_factory.mktemp("checkpoint"), state))


@pytest.mark.parametrize(
    "state",
    [
        {1: "a", "1": "b", -3: {0: []}},
        {"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}, 0: torch.ones(2), "0": torch.ones(3)},
        {"a'": torch.ones(1), "a": {}, "#": torch.tensor(True)},
        [(), [], {}, OrderedDict(), "", None, True, 1, 1.0, -0.0, 5e-324, 10**40],
        [float("nan"), float("inf"), -float("inf"), torch.tensor([float("nan"), -0.0])],
        ["list", "dict", ["tensor", "x"], {"!": ["float", "nan"]}],
        torch.tensor(3),
    ],
)
def test_awkward_state_comes_back_exactly(tmp_path, state):
    assert same(state, through_a_file(tmp_path, state))


@pytest.mark.parametrize("name", ["Adam", "SGD", "Adafactor", "Rprop", "LBFGS"])
def test_an_optimizer_of_torch_continues_to_the_bit(name):
    def train(steps, start=None):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        options = {"momentum": 0.9} if name == "SGD" else {}
        optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.01, **options)
        if start:
            state = restore_state(*flatten_state(start))
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        for _ in range(steps):

            def loss():
                optimizer.zero_grad()
                value = model(torch.eye(3)).square().sum()
                value.backward()
                return value

            optimizer.step(loss)
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}

    whole, parts = train(6), train(3, start=train(3))
    assert same(dict(whole["model"]), dict(parts["model"]))
    assert same(whole["optimizer"], parts["optimizer"])


def test_what_shared_memory_comes_back_apart(tmp_path):
    whole = torch.arange(6.0)
    state = {"whole": whole, "again": whole, "part": whole[2:4], "turned": whole.view(2, 3).T}
    back = through_a_file(tmp_path, state)
    assert same(state, back)
    for tensor in back.values():
        tensor.zero_()
    back["part"].fill_(1.0)
    assert back["whole"].sum() == back["again"].sum() == back["turned"].sum() == 0
    assert whole.equal(torch.arange(6.0))


def test_saving_leaves_the_state_alone_and_drops_the_graph(tmp_path):
    weight = torch.nn.Parameter(torch.ones(2))
    back = through_a_file(tmp_path, {"weight": weight, "graph": weight * 2})
    assert weight.requires_grad
    assert not back["weight"].requires_grad
    assert type(back["weight"]) is torch.Tensor
    assert back["graph"].equal(torch.full((2,), 2.0))


class Projector:
    """What an optimizer of another package may keep: an object made of plain values."""

    def __init__(self):
        self.rank, self.basis, self.seen = 3, torch.ones(2, 3), {(1, 2), (0, 1)}

    def __eq__(self, other):
        return repr(vars(self)) == repr(vars(other))


Pair = namedtuple("Pair", "first second")
Color = Enum("Color", "RED BLUE")


@pytest.mark.parametrize(
    "value",
    [
        {1, 2, "three"},
        frozenset({(1, 2), (3,)}),
        deque([1.5, None], maxlen=4),
        defaultdict(list, {"a": [1]}),
        {(1, "a"): 0, None: 1, True: 2, 0.5: 3},
        b"bytes",
        2 - 3j,
        range(1, 9, 2),
        slice(1, None),
        torch.float32,
        torch.device("cpu"),
        torch.Size([1, 2]),
        np.float32(1.1),
        np.int64(2**40),
        SimpleNamespace(a=[1, 2]),
        Projector(),
        Pair(1, [2.0]),
        Color.BLUE,
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_values_of_any_kind_come_back(tmp_path, value):
    back = through_a_file(tmp_path, {"value": value})["value"]
    assert type(back) is type(value)
    assert back == value
    if isinstance(value, deque):
        assert back.maxlen == value.maxlen
    if isinstance(value, defaultdict):
        assert back["new"] == []


def test_arrays_and_generators_come_back(tmp_path):
    array, generator = np.arange(6.0).reshape(2, 3)[:, ::2], torch.Generator().manual_seed(3)
    back = through_a_file(tmp_path, {"array": array, "generator": generator})
    np.testing.assert_array_equal(back["array"], array)
    drawn = torch.rand(2, generator=generator)
    assert torch.equal(torch.rand(2, generator=back["generator"]), drawn)


def test_a_value_that_contains_itself_is_refused(tmp_path):
    loop = {"inner": []}
    loop["inner"].append(loop)
    with pytest.raises(TypeError, match=r"state\.inner\.0.*contains itself"):
        checkpoint.save(tmp_path, 1, {}, {"state": loop})


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 0, 1), (2, 1, 0), (0, 1, 2)])
def test_the_order_of_dimensions_in_memory_comes_back(tmp_path, order):
    """A product of the same numbers that lie otherwise in memory may differ in its last bit."""
    value = torch.randn(3, 4, 5).permute(order)
    (back,) = through_a_file(tmp_path, [value])
    assert torch.equal(back, value)
    assert back.stride() == value.stride()
    with pytest.raises(ValueError, match="is no order of 3 dimensions"):
        restore_state({"x": value}, ["tensor", "x", 0, 1, 1])


def test_only_tensors_that_were_on_a_device_go_back_to_one():
    tensors = {"moments": torch.ones(2), "numbers": torch.arange(2)}
    tree = [
        "dict",
        ["moments", ["placed", ["tensor", "moments"]]],
        ["numbers", ["tensor", "numbers"]],
    ]
    state = restore_state(tensors, tree, "meta")
    assert state["moments"].device.type == "meta"
    assert state["numbers"].equal(tensors["numbers"])
    assert restore_state(tensors, tree)["moments"].equal(tensors["moments"])


@pytest.mark.parametrize(
    "tree",
    [
        ["object", "not_loaded:Class", ["dict"]],
        ["object", "subprocess:Popen.__init__", ["dict"]],
        ["object", "torch.nn:Linear", ["dict"]],
        ["enum", "os:PathLike", "x"],
        ["teapot", 1],
    ],
)
def test_a_tree_restores_only_plain_objects_of_loaded_classes(tree):
    with pytest.raises(ValueError, match=r"not loaded|which is not|unknown kind"):
        restore_state({}, tree)


@pytest.mark.parametrize(
    "value, said",
    [
        (object(), "object"),
        (lambda: 0, "function"),
        (torch.nn.Linear(1, 1), "Linear"),
        (torch, "module"),
        (defaultdict(lambda: 0), "defaultdict"),
        (torch.eye(2).to_sparse(), "sparse"),
        (torch.ones(1, device="meta"), "meta"),
        (torch.ones(1, dtype=torch.complex128), "complex128"),
        ({(1, object): 0}, "key"),
        ({b"1": 0}, "key"),
    ],
)
def test_anything_else_is_refused_by_its_key(tmp_path, value, said):
    with pytest.raises(TypeError, match=rf"state\.3\.momentum.*{said}"):
        checkpoint.save(tmp_path, 1, {}, {"state": {3: {"momentum": value}}})
    assert checkpoint.load(tmp_path) is None


def test_two_are_kept_and_the_newest_is_loaded(tmp_path):
    assert checkpoint.load(tmp_path / "none") is None
    for step in (1, 2, 10):
        saved(tmp_path, step)
        assert loaded_step(tmp_path) == step
    assert [step for step, _ in checkpoint._found(tmp_path)] == [2, 10]


def test_saving_the_same_step_again_replaces_it(tmp_path):
    saved(tmp_path, 1)
    checkpoint.save(tmp_path, 2, {}, {"other": True})
    saved(tmp_path, 2)
    saved(tmp_path, 2)
    assert [step for step, _ in checkpoint._found(tmp_path)] == [1, 2]
    assert loaded_step(tmp_path) == 2


def test_going_on_from_an_older_one_replaces_the_corrupt_newer_one(tmp_path):
    for step in (1, 2):
        newest = saved(tmp_path, step)
    newest.write_bytes(b"")
    assert loaded_step(tmp_path) == 1
    saved(tmp_path, 2)
    assert checkpoint.load(tmp_path)[0] == 2


@given(data=st.data())
def test_a_damaged_one_is_never_loaded_and_the_older_one_is(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("checkpoint")
    saved(folder, 1)
    path = saved(folder, 2)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "zero", "grow"])):
        case "flip":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        case "cut":
            del content[at:]
        case "zero":
            content[at:] = bytes([content[at] ^ 255]) + bytes(len(content) - at - 1)
        case "grow":
            content += b"\0"
    path.write_bytes(content)
    with pytest.warns(CorruptCheckpoint, match=path.name):
        assert checkpoint.load(folder)[0] == 1


def test_where_all_are_damaged_nothing_is_loaded(tmp_path):
    saved(tmp_path, 1).write_bytes(b"")
    with pytest.warns(CorruptCheckpoint):
        assert checkpoint.load(tmp_path) is None


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_any_failing_write_leaves_a_loadable_checkpoint(tmp_path, every_failure, code):
    saved(tmp_path, 1)
    saved(tmp_path, 2)
    after = []
    for error in every_failure(lambda: saved(tmp_path, 3), code):
        assert isinstance(error, DiskFull if code == errno.ENOSPC else OSError)
        after.append(loaded_step(tmp_path))
        for step, path in checkpoint._found(tmp_path):
            if step == 3:
                path.unlink()
    assert after == [2] * 4 + [3] * 2
    saved(tmp_path, 3)
    assert len(os.listdir(tmp_path)) == 2


def test_disk_full_says_how_much_is_needed(tmp_path, small_files):
    saved(tmp_path, 1)
    with pytest.raises(DiskFull, match="400,") as caught:
        checkpoint.save(tmp_path, 2, {"w": torch.ones(100_000)}, {})
    assert caught.value.needed > 400_000
    assert loaded_step(tmp_path) == 1


def test_leftovers_of_killed_writes_are_cleared(tmp_path):
    (tmp_path / ".step-000000001-aa.safetensors.12ab.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("somebody's own")
    path = saved(tmp_path, 2)
    assert {p.name for p in tmp_path.iterdir()} == {"notes.txt", path.name}


def test_a_checkpoint_is_a_plain_safetensors_file(tmp_path):
    with safe_open(saved(tmp_path, 1), "pt") as file:
        assert list(file.keys()) == ["tensors.w"]
        assert file.metadata()["step"] == "1"
