"""SimCLR on CIFAR-10 as lightly's benchmark trains it: ResNet-18 with a 3x3 stem, NTXentLoss, SGD at 0.06 x batch/128 with a
cosine, 200 epochs; bf16 autocast on GPUs, images resident, augmentation batched in torch. Runs for --seconds of training,
leaves a checkpoint, goes on from it the next time, and ends with kNN (k 200, temperature 0.1) of what it has.
usage: cifar.py --data DIR [--checkpoint FILE] [--seconds 400] [--epochs 200] [--batch 512] [--device cuda] [--images N]
DIR holds train-*.parquet and test-*.parquet with encoded images (Hugging Face's cifar10)."""
import argparse, glob, os, time
import numpy as np
import pyarrow.parquet as parquet
import torch, torch.nn as nn, torch.nn.functional as F, torchvision
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
import common

ap = argparse.ArgumentParser()
ap.add_argument("--data", required=True); ap.add_argument("--checkpoint", default=""); ap.add_argument("--device", default="cuda")
ap.add_argument("--seconds", type=float, default=400.0); ap.add_argument("--epochs", type=int, default=200)
ap.add_argument("--batch", type=int, default=512); ap.add_argument("--images", type=int, default=0, help="most of each split")
a = ap.parse_args()
CUDA = a.device.startswith("cuda")
LUMA = torch.tensor([0.2989, 0.587, 0.114], device=a.device).view(1, 3, 1, 1)


def split(name):
    """Images [N, 3, 32, 32] of u8 and labels [N] of a split, on the device."""
    files = sorted(glob.glob(os.path.join(a.data, f"{name}-*.parquet")))
    if not files:
        raise SystemExit(f"{a.data} holds no {name}-*.parquet")
    images, labels = [], []
    for file in files:
        table = parquet.read_table(file)
        column = next(c for c in table.column_names if c in ("img", "image"))
        images += [np.asarray(common.decode(row["bytes"])) for row in table[column].to_pylist()]
        labels += table["label"].to_pylist()
    most = a.images or len(images)
    stacked = torch.from_numpy(np.stack(images[:most])).permute(0, 3, 1, 2).contiguous()
    return stacked.to(a.device), torch.tensor(labels[:most], device=a.device)


def uniform(n, low, high):
    return torch.empty(n, 1, 1, 1, device=a.device).uniform_(low, high)


def cropped(x):
    """RandomResizedCrop(32, scale (0.08, 1)) and a flip, each image its own: one affine sampling for all of them."""
    n = len(x)
    area, ratio = uniform(n, 0.08, 1.0), torch.exp(uniform(n, float(np.log(3 / 4)), float(np.log(4 / 3))))
    w, h = (area * ratio).sqrt().clamp(max=1).flatten(), (area / ratio).sqrt().clamp(max=1).flatten()
    cx, cy = ((torch.rand_like(w) * 2 - 1) * (1 - w), (torch.rand_like(h) * 2 - 1) * (1 - h))
    flip = (torch.rand_like(w) < 0.5) * -2.0 + 1
    zero = torch.zeros_like(w)
    theta = torch.stack([torch.stack([w * flip, zero, cx], 1), torch.stack([zero, h, cy], 1)], 1)
    grid = F.affine_grid(theta, x.shape, align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def gray(x):
    return (x * LUMA).sum(1, keepdim=True)


def turned(x, turn):
    """Hue plus a share of the circle."""
    value, least = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    span = value - least
    safe = span.clamp(min=1e-8)
    r, g, b = x.split(1, 1)
    hue = torch.where(value == r, (g - b) / safe, torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    hue = (hue + 6 * turn) % 6
    k = (hue + torch.tensor([5.0, 3.0, 1.0], device=a.device).view(1, 3, 1, 1)) % 6
    return value - span * torch.minimum(k, 4 - k).clamp(0, 1)


def jittered(x):
    """ColorJitter(0.4, 0.4, 0.4, 0.1) for four of five images, in an order drawn for the batch."""
    n, out = len(x), x
    for turn in torch.randperm(4).tolist():
        f = uniform(n, 0.6, 1.4)
        if turn == 0:
            out = out * f
        elif turn == 1:
            out = out * f + gray(out).mean((2, 3), keepdim=True) * (1 - f)
        elif turn == 2:
            out = out * f + gray(out) * (1 - f)
        else:
            out = turned(out, uniform(n, -0.1, 0.1))
        out = out.clamp(0, 1)
    return torch.where(uniform(n, 0, 1) < 0.8, out, x)


def view(x):
    x = jittered(cropped(x))
    return torch.where(uniform(len(x), 0, 1) < 0.2, gray(x).expand_as(x), x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = torchvision.models.resnet18()
        self.encoder.conv1, self.encoder.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
        self.encoder.fc = nn.Identity()
        self.head = SimCLRProjectionHead(512, 512, 128)

    def forward(self, x):
        return self.head(self.encoder(x))


def autocast():
    return torch.autocast("cuda", torch.bfloat16, enabled=CUDA)


@torch.no_grad()
def features(net, images):
    net.eval()
    rows = []
    for part in images.split(1000):
        with autocast():
            rows.append(F.normalize(net.encoder(part.float().div(255).contiguous(memory_format=torch.channels_last)).float(), dim=1))
    net.train()
    return torch.cat(rows)


def knn(net, train, test, k=200, temperature=0.1):
    bank, right = features(net, train[0]), 0
    for rows, labels in zip(features(net, test[0]).split(1000), test[1].split(1000)):
        found, at = (rows @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(rows), 10, device=a.device).scatter_add_(1, train[1][at], (found / temperature).exp())
        right += (votes.argmax(1) == labels).sum().item()
    return right / len(test[1])


torch.manual_seed(0)
torch.backends.cudnn.benchmark = True
started = time.perf_counter()
train, test = split("train"), split("test")
net = Net().to(a.device).to(memory_format=torch.channels_last)
loss_of = NTXentLoss(temperature=0.5)
optimizer = torch.optim.SGD(net.parameters(), lr=0.06 * a.batch / 128, momentum=0.9, weight_decay=5e-4)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, a.epochs)
done, trained_s = 0, 0.0
if a.checkpoint and os.path.exists(a.checkpoint):
    kept = torch.load(a.checkpoint, map_location=a.device, weights_only=True)
    net.load_state_dict(kept["net"]), optimizer.load_state_dict(kept["optimizer"]), schedule.load_state_dict(kept["schedule"])
    done, trained_s = kept["done"], kept["trained_s"]
loaded_s, before, began, longest = time.perf_counter() - started, done, time.perf_counter(), 0.0
loss = torch.tensor(float("nan"))
# An epoch that would not end in time is not begun.
while done < a.epochs and time.perf_counter() - began + longest <= a.seconds:
    epoch = time.perf_counter()
    order = torch.randperm(len(train[0]), device=a.device)
    for batch in order.split(a.batch):
        if len(batch) < a.batch and len(order) >= a.batch:
            continue
        images = train[0][batch].float().div(255)
        views = torch.cat([view(images), view(images)]).contiguous(memory_format=torch.channels_last)
        with autocast():
            z = net(views)
        z0, z1 = z.float().chunk(2)
        loss = loss_of(z0, z1)
        optimizer.zero_grad(set_to_none=True); loss.backward(); optimizer.step()
    schedule.step()
    if CUDA:
        torch.cuda.synchronize()
    done += 1
    longest = max(longest, time.perf_counter() - epoch)
spent = time.perf_counter() - began
trained_s += spent
if a.checkpoint:
    state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "done": done,
             "trained_s": trained_s}
    torch.save(state, a.checkpoint + ".part"); os.replace(a.checkpoint + ".part", a.checkpoint)
knn_top1 = knn(net, train, test)
common.report(peer="lightly + torch eager", bench="cifar", device=torch.cuda.get_device_name() if CUDA else "cpu", batch=a.batch,
              images=len(train[0]), epochs=done, of=a.epochs, epochs_now=done - before, loaded_s=round(loaded_s, 1),
              epochs_per_s=(done - before) / spent if done > before else None, minutes=trained_s / 60,
              minutes_for_all=trained_s / 60 / done * a.epochs if done else None, loss=loss.item(), knn_top1=knn_top1)
