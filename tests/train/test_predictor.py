"""Laws of predictors of a submission's own: what they are asked, and what counts as an answer."""

import pytest
import torch

from harness.train import predictor
from tests.records.test_continual import Judge, block, make_task, started


def judge():
    made = Judge(block())
    made._seed = 0
    return made


def test_questions_have_no_labels_and_no_order():
    own = judge()
    asked = own.questions()
    inputs = own._module.batch(own._data, torch.arange(len(asked)), own._config)["inputs"]
    assert not torch.equal(asked, inputs)
    rows = sorted(map(tuple, asked.tolist()))
    assert rows == sorted(map(tuple, inputs.tolist()))
    assert torch.equal(asked, own.questions())


def test_a_streams_later_tasks_are_not_shown_before_they_begin():
    """The answers to the tasks that were asked for are judged as before."""
    task, plain, asked = make_task(), judge(), judge()
    weights, groups = dict(task.model.state_dict()), plain._data["group"]
    task.model.eval()
    for count in (1, 3):
        questions = asked.questions(count)
        inputs = plain._module.batch(plain._data, torch.arange(len(groups)), plain._config)
        known = inputs["inputs"][groups < count]
        assert sorted(map(tuple, questions.tolist())) == sorted(map(tuple, known.tolist()))
        with torch.no_grad():
            asked.answer(task.model(questions))
        assert asked.groups(weights, None, count) == plain.groups(weights, None, count)


def test_the_order_of_questions_is_known_to_nobody_but_a_key(monkeypatch):
    """Stored examples are sorted by class, so an order that can be derived gives the labels."""
    assert not torch.equal(judge().questions(), judge().questions())
    monkeypatch.setenv("HARNESS_KEY", "of this referee")
    assert torch.equal(judge().questions(), judge().questions())


def test_answers_of_the_model_itself_are_judged_as_the_model():
    task, plain, asked = make_task(), judge(), judge()
    weights = dict(task.model.state_dict())
    task.model.eval()
    with torch.no_grad():
        asked.answer(task.model(asked.questions()))
    assert asked.groups(weights, None, 5) == plain.groups(weights, None, 5)
    wrong = torch.zeros(len(asked.questions()), 10)
    wrong[:, 0] = 1.0
    asked.answer(wrong)
    assert [right for right, _ in asked.groups(weights, None, 5)[1:]] == [0, 0, 0, 0]


@pytest.mark.parametrize("shape", [(1, 10), (100, 9), (100,)])
def test_answers_of_another_shape_are_refused(shape):
    asked = judge()
    asked.questions()
    with pytest.raises(ValueError, match="answers"):
        asked.answer(torch.zeros(shape))


@pytest.mark.parametrize("tensor", [torch.rand(3, 4), torch.zeros(0, 5), torch.ones(2).byte()])
def test_a_tensor_comes_back_as_it_went(tensor):
    back = predictor.unpack(predictor.pack(tensor))
    assert back.dtype == tensor.dtype
    assert torch.equal(back, tensor)


@pytest.mark.parametrize("change", [{"dtype": "object"}, {"shape": [2]}, {"shape": None}])
def test_what_is_no_tensor_is_refused(change):
    with pytest.raises(ValueError, match=r"tensor|bytes"):
        predictor.unpack(predictor.pack(torch.rand(3)) | change)


def test_predicting_leaves_no_trace_in_training():
    task, submission = started("supsup")
    submission.step()
    task.step += 1
    rng, weights = task.rng.get_state(), {n: v.clone() for n, v in task.model.state_dict().items()}
    questions = judge().questions()
    before = torch.get_rng_state()
    scores = predictor.answers(submission, questions)
    assert scores.shape == (len(questions), 10)
    assert torch.equal(task.rng.get_state(), rng)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(v, weights[n]) for n, v in task.model.state_dict().items())
    assert task.model.training
