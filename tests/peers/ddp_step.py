"""SimCLR pretraining step on CPU: two processes, DistributedDataParallel over Gloo, lightly's loss with gathered negatives.
ResNet-18 with the CIFAR stem and a 2-layer head on random tensors, so that the step alone is timed.
usage: torchrun --nproc-per-node 2 ddp_step.py [--batch 128] [--steps 8] [--channels-last]"""
import argparse, time, statistics
import torch, torch.nn as nn, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
import torchvision
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from lightly.utils.lars import LARS
import common

a = argparse.ArgumentParser(); a.add_argument("--batch", type=int, default=128, help="global batch (images)"); a.add_argument("--steps", type=int, default=8)
a.add_argument("--channels-last", action="store_true"); a = a.parse_args()
torch.set_num_threads(1)
dist.init_process_group("gloo"); w, r = dist.get_world_size(), dist.get_rank()
net = torchvision.models.resnet18(num_classes=10)
net.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False); net.maxpool = nn.Identity(); net.fc = nn.Identity()
model = nn.Sequential(net, SimCLRProjectionHead(512, 512, 128))
fmt = torch.channels_last if a.channels_last else torch.contiguous_format
model = DDP(model.to(memory_format=fmt))
loss_fn = NTXentLoss(0.5, gather_distributed=True)
opt = LARS(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-6)
views = torch.randn(2 * (a.batch // w), 3, 32, 32).contiguous(memory_format=fmt)
ts = []
for _ in range(a.steps + 2):
    t0 = time.perf_counter()
    z0, z1 = model(views).chunk(2)
    loss = loss_fn(z0, z1); opt.zero_grad(); loss.backward(); opt.step()
    ts.append(time.perf_counter() - t0)
if r == 0:
    s = statistics.median(ts[2:])
    common.report(peer="torch DDP gloo + lightly", bench="step", model="resnet18-cifar", world=w, batch=a.batch,
                  channels_last=a.channels_last, seconds=s, images_per_s=a.batch / s, loss=loss.item())
dist.destroy_process_group()
