"""The compiler stays out of a script that does not use it, changes nothing there, and works on demand."""

import subprocess
import sys

import pytest

TRAINING = """
import sys, torch, torch.distributed as dist
import torchrun_trainer
defer = sys.argv[1] == "defer"
print("deferred", torchrun_trainer.defer_compiler() if defer else None)
store = dist.HashStore()
dist.init_process_group("gloo", store=store, rank=0, world_size=1)
torch.manual_seed(0)
plain = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
model = torch.nn.parallel.DistributedDataParallel(plain)
optimizers = [kind(model.parameters()) for kind in (torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop)]
stepped = []
for optimizer in optimizers:
    optimizer.register_step_pre_hook(lambda optimizer, *_: stepped.append(type(optimizer).__name__))
def train(model):
    for optimizer in optimizers:
        optimizer.zero_grad()
        model(torch.ones(2, 3)).square().mean().backward()
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
    return [parameter.tolist() for parameter in plain.parameters()]
print("trained", train(model))
print("hooks", stepped)
print("compiler", "torch._dynamo" in sys.modules)
if sys.argv[2:] == ["compile"]:
    print("compiled", train(torch.compile(model, backend="eager")))
    print("eager", train(model))
    print("hooks", stepped)
    assert sys.modules["torch._dynamo"] is torch._dynamo
    print("again", torchrun_trainer.defer_compiler())
dist.destroy_process_group()
"""


def run(*arguments: str) -> dict[str, str]:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TRAINING, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    return dict(line.split(" ", 1) for line in result.stdout.splitlines())


@pytest.mark.torch
def test_the_compiler_is_deferred_and_still_works() -> None:
    usual = run("usual", "compile")
    deferred = run("defer", "compile")
    assert (usual.pop("deferred"), deferred.pop("deferred")) == ("None", "True")
    assert (usual.pop("compiler"), deferred.pop("compiler")) == ("True", "False")
    assert deferred == usual
    assert deferred["again"] == "False"
