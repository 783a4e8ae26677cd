"""What a task counts where examples belong to clients or must stay private, and what it costs."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from harness.catalog.kinds import canonical_kind
from harness.clock import reading
from harness.clock.prices import Price, Table
from harness.errors import UserError
from harness.laws import small_workloads
from harness.race import message_schema
from harness.race.claims import ClaimChecker
from harness.race.message_schema import FalseClaim
from harness.train import privacy
from harness.train.ledger import Tree, clipped_sums
from harness.train.reference_step import ReferenceStep
from harness.train.task import Task
from tests.support.racing import planned
from tests.workloads.test_labels import opened
from workloads import fed

RATE, DELTA = 0.05, 1e-4


def small(name):
    return small_workloads.read(name).task()


# Clients


def test_a_gradient_of_several_clients_counts_an_exchange():
    task = small("fed")
    own = task.clients
    assert sorted(torch.cat(own).tolist()) == list(range(task.examples))
    one, mixed = task.gather(own[0][:40]), task.gather(torch.arange(40))
    task.forward_backward(one)
    task.forward(mixed)
    task.losses(mixed)
    assert "exchange" not in task.meter.counts
    task.forward_backward(mixed)
    task.per_example_grads(mixed)
    task.exchange("1/32")
    assert task.meter.counts["exchange"] == 2
    assert task.meter.counts["exchange@batch=1/32"] == 1
    for share in (0, -1, 1e-9):
        with pytest.raises(UserError, match="at least 1e-6"):
            task.exchange(share)


def test_a_batch_that_does_not_say_whose_it_is_counts_an_exchange():
    task = small("fed")
    batch = task.gather(task.clients[0][:40])
    task.forward_backward(batch)
    assert "exchange" not in task.meter.counts
    task.forward_backward({name: batch[name] for name in ("inputs", "targets")})
    assert task.meter.counts["exchange"] == 1


def written(folder, more):
    """Return a file of a submission that is planned and never raced, with more code in it."""
    file = folder / "planned_only.py"
    lines = ['"""Nothing."""', 'SPACE = {"lr": 0.1}', "class Algorithm:", "    lr = hp.lr", more]
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.mark.parametrize(
    "passes, words",
    [
        ('{"forward_backward": 1, "exchange@batch=-1": 0.05}', "batch must be above 0"),
        ('{"forward_backward": 1, "exchange": -0.05}', "-0.05 passes of 'exchange'"),
        ('{"forward_backward": "many"}', "'many' passes"),
    ],
)
def test_passes_of_a_negative_price_are_refused(passes, words, tmp_path):
    """They would buy steps that nobody paid for."""
    with pytest.raises(UserError, match=words):
        planned("fed", written(tmp_path, f"PASSES = {passes}"), tmp_path)


def test_a_workload_with_clients_takes_no_predictor(tmp_path):
    file = written(tmp_path, "def predict(algorithm, inputs):\n    pass")
    with pytest.raises(UserError, match=r"own predict.*exchange"):
        planned("fed", file, tmp_path)
    assert planned("private", file, tmp_path).horizon == 1000


def test_a_workload_without_clients_offers_no_exchange():
    with pytest.raises(UserError, match="has no clients"):
        small("vit").exchange()


def test_a_plain_optimizer_pays_for_an_exchange_in_each_step(tmp_path):
    trial = planned("fed", "adamw", tmp_path)
    assert trial.passes == {"forward_backward": 1, "exchange": 1}
    assert trial.horizon == 400
    assert trial.table.of("exchange").seconds == 20 * trial.table.of("forward_backward").seconds
    assert planned("fed", "adamw", tmp_path, numbers={"fed": {"exchange": 0}}).horizon == 8400


def test_a_method_for_clients_is_refused_where_there_are_none(tmp_path):
    with pytest.raises(UserError, match=r"vit\.mini has no clients.*workload=fed"):
        planned("vit", "diloco", tmp_path)


def test_messages_cost_what_is_stated_and_hide_no_work():
    """Exchanges are neither slowed down by hidden work nor a reason to charge or forgive any."""
    unit = Price(1.0, 0.9, 1.1)
    table = Table({"forward_backward": unit, "exchange": unit.times(20)}, "here")
    row = {
        "step": 10, "counts": {"forward_backward": 10}, "passes": {"forward_backward": 10},
        "inside": {"forward_backward": 20.0}, "outside": 1.0, "anchor": 1.0, "anchor_seconds": 1.0,
        "setup_seconds": 0.5, "lost_steps": 0, "hooked": None,
    }  # fmt: skip
    talked = row | {
        "counts": row["counts"] | {"exchange": 10}, "passes": row["passes"] | {"exchange": 10},
    }  # fmt: skip
    quiet, loud = reading.read([row], table), reading.read([talked], table)
    assert quiet.hidden > 0
    assert (loud.hidden, loud.other) == (quiet.hidden, quiet.other)
    assert loud.total == pytest.approx(quiet.total + 200)
    assert loud.high - loud.low == pytest.approx(quiet.high - quiet.low)


def test_an_exchange_is_a_kind_and_other_words_are_not():
    assert canonical_kind("exchange@batch=2/64") == "exchange@batch=1/32"
    with pytest.raises(ValueError, match="is not a kind"):
        canonical_kind("message")


@pytest.mark.parametrize("skew", [0.0, 0.1])
def test_every_digit_has_one_client(skew):
    labels = torch.arange(10).repeat_interleave(400)
    owner = fed.divided(labels, SimpleNamespace(clients=4, skew=skew))
    counts = torch.stack([labels[owner == k].bincount(minlength=10) for k in range(4)])
    assert counts.sum() == 4000
    spread = counts.double().std(dim=0).mean()
    assert spread > 100 if skew else bool((counts == 100).all())


# Privacy


def test_epsilon_is_that_of_an_independent_accountant():
    dp = pytest.importorskip("dp_accounting")
    from dp_accounting import rdp

    for noise, calls in ((1.0, 300), (1.5, 300), (2.0, 300), (3.0, 300), (1.2, 1000)):
        accountant = rdp.RdpAccountant(orders=list(privacy.ORDERS))
        event = dp.PoissonSampledDpEvent(RATE, dp.GaussianDpEvent(noise))
        accountant.compose(event, calls)
        theirs = accountant.get_epsilon(DELTA)
        assert privacy.epsilon({noise: calls}, RATE, DELTA) == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("noise, order", [(1.0, 2), (1.5, 8), (3.0, 32), (0.8, 3)])
def test_the_divergence_is_that_of_an_integral(noise, order):
    """Of both directions between the sum's density with an example and without it."""
    x = np.linspace(-40 * noise, 40 * noise + order, 400_001)
    without = norm.logpdf(x, 0, noise)
    having = np.logaddexp(
        math.log1p(-RATE) + without, math.log(RATE) + norm.logpdf(x, 1, noise)
    )  # fmt: skip

    def integral(p, q):
        return math.log(np.trapezoid(np.exp(order * p - (order - 1) * q), x)) / (order - 1)

    found = privacy.divergence(RATE, noise, order)
    assert found == pytest.approx(integral(having, without), rel=1e-6)
    assert found >= integral(without, having)


def test_epsilon_of_mixed_noise_and_its_bounds():
    many = privacy.epsilon({1.5: 150, 2.0: 150}, RATE, DELTA)
    assert privacy.epsilon({2.0: 300}, RATE, DELTA) < many
    assert many < privacy.epsilon({1.5: 300}, RATE, DELTA)
    assert privacy.epsilon({}, RATE, DELTA) == 0.0
    assert privacy.epsilon({0.0: 1, 2.0: 5}, RATE, DELTA) == privacy.UNBOUNDED
    for tiny in (1e-3, 1e-150, 1e-160, 1e-300):
        assert privacy.epsilon({tiny: 3}, RATE, DELTA) == privacy.UNBOUNDED
        assert privacy.epsilon({}, RATE, DELTA, {tiny: 3}) == privacy.UNBOUNDED
    assert privacy.epsilon({1e300: 3}, RATE, DELTA) < privacy.epsilon({10.0: 3}, RATE, DELTA)
    for bound in (0.5, 1.0, 3.0):
        noise = privacy.noise_for(bound, 400, RATE, DELTA)
        spent = privacy.epsilon({noise: 400}, RATE, DELTA)
        assert 0.99 * bound < spent <= bound
    with pytest.raises(ValueError, match="no noise up to"):
        privacy.noise_for(0.0, 400, RATE, DELTA)


@pytest.mark.parametrize(
    "look",
    [
        lambda task: task.next_batch(),
        lambda task: task.gather(torch.arange(3)),
        lambda task: task.calibration(2),
    ],
    ids=["next_batch", "gather", "calibration"],
)
def test_a_look_at_an_example_exposes_the_data(look):
    task, block = small("private"), {"private": {"rate": 0.2, "delta": DELTA}}
    task.private_gradient(0.1, 2.0)
    assert 0 < privacy.spent(block, task.ledger.report()) < 10
    look(task)
    assert privacy.spent(block, task.ledger.report()) == privacy.UNBOUNDED
    again = small("private")
    again.load_state_dict(task.state_dict())
    assert again.ledger.report() == task.ledger.report()


def test_epsilon_of_a_tree_is_that_of_one_gaussian_for_each_level():
    """20 batches an epoch use the nodes of 1, 2, 4, 8 and 16 batches."""
    pytest.importorskip("dp_accounting")
    import dp_accounting as dp
    from dp_accounting import rdp

    assert privacy.tree_mechanisms(300, RATE) == 75
    assert privacy.tree_mechanisms(301, RATE) == 80
    accountant = rdp.RdpAccountant(orders=list(privacy.ORDERS))
    accountant.compose(dp.GaussianDpEvent(14.0), 75)
    theirs = accountant.get_epsilon(DELTA)
    assert privacy.epsilon({}, RATE, DELTA, {14.0: 300}) == pytest.approx(theirs, rel=1e-3)
    noise = privacy.noise_for(3.0, 300, RATE, DELTA, tree=True)
    assert 2.97 < privacy.epsilon({}, RATE, DELTA, {noise: 300}) <= 3.0
    assert privacy.epsilon({}, RATE, DELTA, {14.0: 20, 15.0: 20}) == privacy.UNBOUNDED
    assert privacy.epsilon({}, RATE, DELTA, {0.0: 20}) == privacy.UNBOUNDED


def test_a_tree_gives_prefix_sums_with_noise_of_as_many_nodes_as_ones():
    """Variance over many seeds; between t = 3 and 4 the noise falls from two nodes to one."""
    ones, sums = [torch.ones(1)], []
    for seed in range(400):
        tree, generator = Tree(), torch.Generator().manual_seed(seed)
        draw = lambda generator=generator: [torch.randn(1, generator=generator)]  # noqa: E731
        sums.append([float(tree.add(ones, 6, draw)[0]) for _ in range(8)])
    sums = torch.tensor(sums)
    assert torch.allclose(sums.mean(dim=0), torch.arange(1.0, 9.0), atol=0.25)
    # The second epoch goes on from the noisy sum of the first, whose six batches are two nodes.
    expected = torch.tensor([1.0, 1, 2, 1, 2, 2, 3, 3])
    assert torch.allclose(sums.var(dim=0), expected, rtol=0.25)


def test_a_private_sum_has_one_noise_and_goes_on_from_a_checkpoint():
    task = small("private")
    for _ in range(7):
        task.private_sum(1.0, 3.0)
    again = small("private")
    again.load_state_dict(task.state_dict())
    for here, there in zip(task.private_sum(1.0, 3.0), again.private_sum(1.0, 3.0)):
        assert torch.equal(here, there)
    assert task.ledger.report() == {"exposed": False, "spent": {}, "trees": {"3.0": 8}}
    assert task.meter.counts == {"per_example_gradients": 8}
    with pytest.raises(UserError, match=r"clip=1\.0 and noise=3\.0"):
        task.private_sum(1.0, 0.1)


def test_timing_a_reference_step_exposes_nothing():
    """The harness times steps of its own on training examples in every trial."""
    run = opened("private")
    task = Task(run.module, run.config, dict(run.splits["train"]), run.model(), 0, 10)
    assert ReferenceStep(task, run.module, run.config, dict(run.splits["train"])).seconds(1) > 0
    assert task.ledger.report() == {"exposed": False, "spent": {}}


def test_a_private_gradient_is_bounded_by_its_clip_and_counted_as_one_pass():
    task = small("private")
    quiet = task.private_gradient(1e-3, 0.0)
    norm = math.sqrt(sum(float(g.square().sum()) for g in quiet))
    # At most the clip for each example of the sample, over the expected number.
    assert 0 < norm <= 1e-3 * task.examples / 40
    assert dict(task.meter.counts) == {"per_example_gradients": 1}
    for wrong in ((0.0, 1.0), (1.0, -1.0), (math.nan, 1.0), (1.0, math.inf), (1.0, 1.0, 1e-30)):
        with pytest.raises(UserError, match="normalise from 1e-06 up"):
            task.private_gradient(*wrong)
    with pytest.raises(UserError, match="is not private"):
        small("vit").private_gradient(1.0, 1.0)


def test_what_is_noted_is_the_noise_that_is_added():
    """A number may say one thing and multiply as another."""

    class Loud(float):
        def __rmul__(self, other):
            return 0.0

    honest, sly = small("private"), small("private")
    for a, b in zip(honest.private_gradient(1.0, 2.0), sly.private_gradient(1.0, Loud(2.0))):
        assert torch.equal(a, b)
    assert sly.ledger.report() == {"exposed": False, "spent": {"2.0": 1}}


def test_the_noise_of_sums_and_of_gradients_does_not_cancel():
    """With equal noise, what is left of the difference is two means of clipped gradients."""
    task = small("private")
    left = torch.cat(
        [
            (a - b).flatten()
            for a, b in zip(task.private_sum(1e-3, 2.0), task.private_gradient(1e-3, 2.0))
        ]
    )
    # Two draws of standard deviation σ·C over the expected size of the sample.
    expected = 1e-3 * 2.0 / 40 * (2 * len(left)) ** 0.5
    assert float(left.norm()) == pytest.approx(expected, rel=0.3)


@pytest.mark.parametrize("normalise", [None, 0.01])
def test_a_gradient_that_is_not_finite_or_vanishes_tells_nothing(normalise):
    """One that is infinite counts as 0, and one whose squares vanish stays below the clip."""
    plain = [torch.tensor([[3.0, 4.0], [0.3, 0.4]]), torch.tensor([[0.0], [0.0]])]
    odd = [torch.cat([g, g.new_full((2, g.shape[1]), v)]) for g, v in zip(plain, (math.inf, 0.0))]
    odd[0][3] = 1e-26
    for a, b in zip(clipped_sums(plain, 1.0, normalise), clipped_sums(odd, 1.0, normalise)):
        assert torch.allclose(a, b)
    assert bool(torch.cat([g.isfinite() for g in clipped_sums(odd, 1.0, normalise)]).all())


def test_a_hook_on_the_model_exposes_the_data():
    task = small("private")
    task.private_gradient(1.0, 2.0)
    assert not task.ledger.exposed
    task.model.register_forward_hook(lambda module, inputs, output: None)
    task.private_gradient(1.0, 2.0)
    assert task.ledger.exposed


def test_two_calls_draw_other_samples_and_noise():
    task = small("private")
    first, second = (task.private_gradient(1.0, 1.0) for _ in range(2))
    assert not torch.equal(first[0], second[0])
    other = small("private")
    assert torch.equal(other.private_gradient(1.0, 1.0)[0], first[0])


@pytest.mark.parametrize(
    "ledger",
    [
        None, {}, {"exposed": 0, "spent": {}}, {"exposed": False, "spent": {"loud": 1}},
        {"exposed": False, "spent": {"-1.0": 1}}, {"exposed": False, "spent": {"1.0": -1}},
        {"exposed": False, "spent": {"nan": 1}}, {"exposed": False, "spent": [1]},
    ],
    ids=str,
)  # fmt: skip
def test_a_ledger_of_another_form_is_a_false_claim(ledger):
    assert not message_schema._privacy(ledger)
    assert message_schema._privacy({"exposed": False, "spent": {"1.5": 3}})


@pytest.mark.parametrize(
    "now, words",
    [
        ({"exposed": False, "spent": {"2.0": 2}}, "noisy gradients in 5 passes"),
        ({"exposed": False, "spent": {"1.0": 5}}, "privacy was unspent"),
        ({"exposed": False, "spent": {"2.0": 4}, "trees": {"9.0": 2}}, "6 noisy gradients in 5"),
        (None, "no ledger"),
    ],
    ids=["fewer", "forgotten", "more", "missing"],
)
def test_a_ledger_that_does_not_fit_is_a_false_claim(now, words):
    definition = SimpleNamespace(block={"private": {"rate": 0.05, "delta": DELTA}})
    checker = ClaimChecker(SimpleNamespace(definition=definition), 0)
    checker._ledger = {"exposed": False, "spent": {"2.0": 1}}
    counts = {"per_example_gradients": 5}
    checker._privacy({"privacy": {"exposed": False, "spent": {"2.0": 5}}, "counts": counts}, "")
    with pytest.raises(FalseClaim, match=words):
        checker._privacy({"privacy": now, "counts": counts}, "")
