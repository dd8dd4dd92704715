"""A staged state is a copy, in the same memory each time; objects that cannot be read back are named."""

import collections
import io
import random
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from torchrun_trainer.snapshots import staging as staging_module
from torchrun_trainer.snapshots.staging import ChangedError, Staging, UnsupportedError


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


LARGE = 1 << 18
"""Elements of a tensor that is large enough to be left for later."""


def test_some_may_be_copied_later() -> None:
    opt = {"sum": torch.ones(LARGE), "part": torch.arange(2.0 * LARGE)[::2], "small": torch.ones(1)}
    with torch.inference_mode():
        opt["fixed"] = torch.ones(LARGE)
    model = {"weight": torch.ones(LARGE)}
    staging = Staging()
    staged = staging.stage({"model": model, "opt": opt}, later=["opt"])
    postponed = [staging.postponed]
    model["weight"] += 1  # these are already copied
    opt["small"] += 1
    assert not staging.settle(wait=False)
    staging.complete_here()
    assert [*postponed, staging.postponed, staging.settle()] == [True, False, False]
    opt["sum"] += 1
    assert {key: value[1:2].tolist() or value.tolist() for key, value in (staged["model"] | staged["opt"]).items()} == {
        "weight": [1],
        "sum": [1],
        "part": [2],
        "small": [1],
        "fixed": [1],
    }


def test_who_trains_waits_for_the_copy_and_says_whether_it_is_good() -> None:
    sums = torch.ones(LARGE)
    for changed in (False, True):
        staging = Staging()
        staging.stage({"opt": {"sum": sums}}, later=["opt"])
        errors: list[str] = []

        def complete(staging: Staging = staging, errors: list[str] = errors) -> None:
            try:
                staging.complete()
            except ChangedError as error:
                errors.append(str(error))

        writer = threading.Thread(target=complete)
        if changed:
            sums += 1  # by an operation that ends after the copying, as far as the writer can tell
        writer.start()
        assert staging.settle()
        sums += 1  # the step
        writer.join(60)
        assert errors == (["opt/sum was changed while it was copied"] if changed else [])


def test_a_copy_is_judged_after_a_while_if_nobody_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging_module, "_OPERATION_SECONDS", 0.01)
    sums = torch.ones(LARGE)
    staging = Staging()
    staging.stage({"opt": {"sum": sums}}, later=["opt"])
    staging.complete()
    assert not staging.settle()
    staging.stage({"opt": {"sum": sums}}, later=["opt"])
    sums += 1
    with pytest.raises(ChangedError, match="opt/sum was changed while it was copied"):
        staging.complete()
    assert staging.stage({"opt": {"sum": sums}})["opt"]["sum"][0] == 2
    staging.complete()  # nothing is left


def test_keys_that_look_alike_do_not_share_memory() -> None:
    state = {"loss": {"train": torch.zeros(2)}, "loss/train": torch.ones(2)}
    staging = Staging()
    for _ in range(2):
        staged = staging.stage(state)
        assert [staged["loss"]["train"].tolist(), staged["loss/train"].tolist()] == [[0, 0], [1, 1]]


def test_numbers_of_numpy_become_numbers() -> None:
    staged = Staging().stage({"lr": np.float64(0.5), "count": np.int32(2), "flag": np.bool_(True)})
    assert staged == {"lr": 0.5, "count": 2, "flag": True}
    assert [type(value) for value in staged.values()] == [float, int, bool]
    with pytest.raises(UnsupportedError, match=r"wide is a numpy\.longdouble"):
        Staging().stage({"wide": np.longdouble(1)})


def test_the_versions_of_modules_are_kept() -> None:
    class Versioned(torch.nn.Linear):
        _version = 2

    model = torch.nn.Sequential(Versioned(1, 1))
    buffer = io.BytesIO()
    torch.save(Staging().stage({"model": model.state_dict()}), buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True)["model"]._metadata == model.state_dict()._metadata  # type: ignore[attr-defined]
    assert model.state_dict()._metadata["0"] == {"version": 2}  # type: ignore[attr-defined]


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
