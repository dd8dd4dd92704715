# Generated from e2e/examples/plain_ddp/after.py by operator/codegen/generate.py; do not edit.
"""Fits a small network to a curve, with DistributedDataParallel under torchrun."""

import argparse

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from torchrun_trainer import GlobalBatches, Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--total-epochs", type=int, default=10)
    parser.add_argument("--save-every", type=int, default=2, help="epochs between two snapshots")
    parser.add_argument("--batch-size", type=int, default=64, help="samples per step, of all workers together")
    parser.add_argument("--snapshot-path", default="snapshot.pt")
    args = parser.parse_args()
    dist.init_process_group("gloo")

    torch.manual_seed(0)
    inputs = torch.rand(2048, 2) * 2 - 1
    dataset = TensorDataset(inputs, torch.sin(3 * inputs).prod(dim=1, keepdim=True))
    model = DistributedDataParallel(nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 1)))
    opt = torch.optim.AdamW(model.parameters(), lr=5e-3)

    batches = GlobalBatches(len(dataset), args.batch_size)
    loader = DataLoader(dataset, batch_sampler=batches.sampler(), num_workers=1)
    run = Run(args.snapshot_path, snapshot_every=batches.steps(args.save_every), model=model, opt=opt, batches=batches)

    for _epoch in run.epochs(args.total_epochs):
        for features, targets in run.batches(loader):
            opt.zero_grad()
            loss = nn.functional.mse_loss(model(features), targets)
            run.weigh(loss).backward()
            opt.step()

    error = nn.functional.mse_loss(model.module(dataset.tensors[0]), dataset.tensors[1])
    if dist.get_rank() == 0:
        print(f"error={error.item():.9g}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
