"""A staged state is a copy, in the same memory each time; what could not be read back is named."""

import collections
import io
import random
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor

from torchrun_trainer.staging import ChangedError, Staging, UnsupportedError


class Custom:
    pass


class CustomTensor(Tensor):
    pass


VALUES: dict[str, Any] = {
    "atoms": {"none": None, "int": 1, "float": 0.5, "text": "a", "flag": True, "bytes": b"b", 3: "key"},
    "ordered": OrderedDict(b=1, a=2),
    "nested": [1, (2.0, {"x": "y"}), []],
    "size": torch.Size([2, 3]),
    "type": torch.float16,
    "counter": collections.Counter("aab"),
    "set": {1, 2},
}


def test_everything_that_can_be_read_back_comes_back() -> None:
    staged = Staging().stage(VALUES)
    assert staged == VALUES
    assert list(staged["ordered"]) == ["b", "a"]
    buffer = io.BytesIO()
    torch.save(staged, buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True) == VALUES


def test_a_copy_does_not_change_and_the_next_one_takes_its_memory() -> None:
    weight, shared = torch.ones(3), torch.zeros(2, 2)
    state = {"model": {"weight": weight, "one": shared, "same": shared, "part": torch.arange(6.0)[::2]}}
    staging = Staging()
    first = staging.stage(state)["model"]
    weight += 1
    assert first["weight"].tolist() == [1, 1, 1]
    assert first["part"].tolist() == [0, 2, 4]
    assert first["one"] is first["same"]
    assert first["one"] is not shared
    second = staging.stage(state)["model"]
    assert second["weight"].tolist() == [2, 2, 2]
    assert [second[key].data_ptr() for key in second] == [first[key].data_ptr() for key in first]


def test_some_may_be_copied_later() -> None:
    state = {"model": {"weight": torch.ones(2)}, "opt": {"sum": torch.ones(2), "part": torch.arange(4.0)[::2]}}
    with torch.inference_mode():
        state["opt"]["fixed"] = torch.ones(2)
    staging = Staging()
    staged = staging.stage(state, later=["opt"])
    postponed = [staging.postponed]
    state["model"]["weight"] += 1
    staging.complete()
    assert [*postponed, staging.postponed] == [True, False]
    state["opt"]["sum"] += 1
    assert {key: value.tolist() for key, value in (staged["model"] | staged["opt"]).items()} == {
        "weight": [1, 1],
        "sum": [1, 1],
        "part": [0, 2],
        "fixed": [1, 1],
    }


def test_what_was_changed_before_it_was_copied_is_no_copy() -> None:
    state = {"opt": {"sum": torch.ones(2)}}
    staging = Staging()
    staging.stage(state, later=["opt"])
    state["opt"]["sum"] += 1
    with pytest.raises(ChangedError, match="opt/sum was changed while it was copied"):
        staging.complete()
    assert staging.stage(state)["opt"]["sum"].tolist() == [2, 2]
    staging.complete()  # nothing is left


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (torch.ones(2), torch.ones(3)),
        (torch.ones(2), torch.ones(2, dtype=torch.int64)),
        (torch.ones(0), torch.ones(2)),
        (torch.ones(2, 3).to_sparse(), torch.ones(2, 2).to_sparse()),
    ],
    ids=["shape", "type", "empty", "sparse"],
)
def test_a_tensor_may_change_its_kind(before: Tensor, after: Tensor) -> None:
    staging = Staging()
    for value in (before, after):
        staged = staging.stage({"a": value})["a"]
        assert staged is not value
        assert staged.to_dense().equal(value.to_dense())
        assert staged.dtype == value.dtype


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"deep": [1, Custom()]}, r"^user/deep/1 is a .*Custom, which cannot be saved"),
        ({"function": lambda: None}, r"^user/function is a builtins.function, which cannot be saved"),
        ({"random": random.Random()}, r"^user/random is a random.Random, which cannot be saved"),
        ({(1, 2): "x", "y": Custom()}, r"^user is a builtins.dict, which cannot be saved"),
        (Custom, r"^user is a builtins.type, which cannot be saved"),
        ([torch.ones(2).as_subclass(CustomTensor)], r"^user/0 is a .*CustomTensor, which cannot be saved"),
    ],
    ids=["own class", "function", "library's class", "strange key", "class", "own tensor"],
)
@pytest.mark.parametrize("copy", [True, False])
def test_what_cannot_be_read_back_is_named(value: object, message: str, copy: bool) -> None:
    with pytest.raises(UnsupportedError, match=message):
        Staging().stage({"good": {"a": 1}, "user": value}, copy=copy)
