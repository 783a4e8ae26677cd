"""The rules of form (b) submissions at work under `harness.optim`, outside of a race.

`rule` has one submission's functions and values, `by_role` the parameters that it takes, `step` one
step of a group, `tensors` the form in which a rule sees a parameter. Begin with `rule`.
"""
