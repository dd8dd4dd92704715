"""Fits a small network to a curve, with DistributedDataParallel under torchrun."""

import argparse

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler


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

    sampler = DistributedSampler(dataset)
    loader = DataLoader(dataset, batch_size=args.batch_size // dist.get_world_size(), sampler=sampler, num_workers=1)

    for epoch in range(args.total_epochs):
        sampler.set_epoch(epoch)
        for features, targets in loader:
            opt.zero_grad()
            loss = nn.functional.mse_loss(model(features), targets)
            loss.backward()
            opt.step()
        if dist.get_rank() == 0 and (epoch + 1) % args.save_every == 0:
            torch.save(model.module.state_dict(), args.snapshot_path)

    error = nn.functional.mse_loss(model.module(dataset.tensors[0]), dataset.tensors[1])
    if dist.get_rank() == 0:
        print(f"error={error.item():.9g}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
