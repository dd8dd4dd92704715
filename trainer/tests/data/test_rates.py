"""A batch of another size gets another learning rate, which neither schedulers nor snapshots see."""

import math
from typing import Any

import pytest
import torch

from torchrun_trainer import scale_learning_rate


def optimizer(rate: Any = 0.1, kind: Any = torch.optim.SGD) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.ones(1)
    return parameter, kind([{"params": [parameter], "lr": rate}, {"params": [torch.nn.Parameter(torch.zeros(1))]}])


@pytest.mark.parametrize(
    ("rule", "batch_size", "factor"),
    [("linear", 512, 2.0), ("linear", 256, 1.0), ("linear", 64, 0.25), ("sqrt", 512, math.sqrt(2)), ("sqrt", 64, 0.5)],
)
@pytest.mark.parametrize("rate", [0.1, torch.tensor(0.1)], ids=["number", "tensor"])
def test_steps_are_scaled_and_the_rate_is_not(rule: Any, batch_size: int, factor: float, rate: Any) -> None:
    parameter, stepping = optimizer(rate.clone() if isinstance(rate, torch.Tensor) else rate)
    scheduler = torch.optim.lr_scheduler.StepLR(stepping, step_size=1, gamma=0.5)
    assert scale_learning_rate(stepping, batch_size, 256, rule) == pytest.approx(factor)
    expected = 0.0
    for step in range(3):
        stepping.step()
        scheduler.step()
        expected -= factor * 0.1 * 0.5**step
        assert parameter.item() == pytest.approx(expected)
        assert float(stepping.param_groups[0]["lr"]) == pytest.approx(0.1 * 0.5 ** (step + 1))


def test_a_step_that_fails_leaves_no_scale_behind() -> None:
    parameter, stepping = optimizer()
    scale_learning_rate(stepping, 512, 256)
    with pytest.raises(ZeroDivisionError):
        stepping.step(lambda: 1 / 0)
    stepping.step()
    assert parameter.item() == pytest.approx(-0.2)
    assert [group["lr"] for group in stepping.param_groups] == [0.1, 1e-3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 256), "batch_size .0. and reference .256. must be at least 1"),
        ((256, 0), "batch_size .256. and reference .0. must be at least 1"),
        ((256, 256, "cubic"), "rule is 'cubic'; it must be 'linear' or 'sqrt'"),
    ],
)
def test_mistakes_are_named(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scale_learning_rate(optimizer()[1], *arguments)
