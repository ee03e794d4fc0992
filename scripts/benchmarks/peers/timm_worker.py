"""Time timm's BiT under PyTorch in its own process: one JSON request a line on stdin, one answer a line on stdout.

{"depth", "width", "batch", "side", "precision", "training"} -> {"seconds", "layout", "versions"}, for the faster of two
memory formats. Between requests its threads sleep (OMP_WAIT_POLICY=passive), so that they do not slow the other side.
"""

import json
import sys
import time
from functools import cache, partial
from typing import Any

import timm
import torch
from timm.layers import StdConv2d
from timm.models.resnetv2 import ResNetV2

LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
UNITS = {26: (2, 2, 2, 2)}


@cache
def model(depth: int, width: float, layout: str) -> torch.nn.Module:
    if (depth, width) == (50, 1):
        network = timm.create_model("resnetv2_50x1_bit", num_classes=10)
    else:  # built as timm builds resnetv2_50x1_bit, except for its size
        conv = partial(StdConv2d, eps=1e-8)
        network = ResNetV2(UNITS[depth], num_classes=10, width_factor=width, stem_type="fixed", conv_layer=conv)
    return network.to(memory_format=LAYOUTS[layout])


@cache
def optimizer(depth: int, width: float, layout: str) -> torch.optim.Optimizer:
    return torch.optim.SGD(model(depth, width, layout).parameters(), 1e-3, 0.9)


def seconds(layout: str, depth: int, width: float, batch: int, side: int, precision: str, training: bool) -> float:
    network = model(depth, width, layout).train(training)
    images = torch.rand(batch, 3, side, side).to(memory_format=LAYOUTS[layout])
    targets = torch.arange(batch) % 10
    low = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
    start = time.perf_counter()
    if not training:
        with torch.inference_mode(), low:
            network(images)
        return time.perf_counter() - start
    with low:
        loss = torch.nn.functional.cross_entropy(network(images).float(), targets)
    loss.backward()
    optimizer(depth, width, layout).step()
    optimizer(depth, width, layout).zero_grad()
    return time.perf_counter() - start


warm: set[Any] = set()
for line in sys.stdin:
    request = json.loads(line)
    taken = {}
    for layout in LAYOUTS:
        if (key := (layout, *request.values())) not in warm:
            seconds(layout, **request)
            warm.add(key)
        taken[layout] = seconds(layout, **request)
    best = min(taken, key=taken.__getitem__)
    answer = {"seconds": taken[best], "layout": best, "versions": f"timm {timm.__version__}, torch {torch.__version__}"}
    print(json.dumps(answer), flush=True)
