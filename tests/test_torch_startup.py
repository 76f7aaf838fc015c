"""The deferred compiler: not imported for a training, there for whoever compiles."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PREPARE = """
import sys, torch
from strategies.torch_startup import defer_compiler
defer_compiler()
"""
TRAIN = """
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
model = DistributedDataParallel(torch.nn.Linear(2, 1), static_graph=True)
model(torch.ones(1, 2)).sum().backward()
print(model.module.weight.grad.tolist())
dist.destroy_process_group()
"""
COUNT = "print(sum(name.startswith('torch._dynamo.') for name in sys.modules))\n"


def output_of(code: str) -> list[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_distributed_training_does_without_the_compiler() -> None:
    assert output_of(PREPARE + TRAIN + COUNT) == ["[[1.0, 1.0]]", "0"]


def test_who_compiles_gets_the_real_compiler() -> None:
    compile_something = (
        "double = torch.compile(lambda x: x * 2, backend='eager')\n"
        "print(double(torch.ones(2)).tolist())\n"
    )
    values, modules = output_of(PREPARE + TRAIN + compile_something + COUNT)[1:]
    assert values == "[2.0, 2.0]"
    assert int(modules) > 10


def test_parts_of_the_compiler_can_be_imported() -> None:
    assert output_of(PREPARE + "from torch._dynamo.utils import counters\n" + COUNT) != ["0"]


def test_a_compiler_that_is_there_stays() -> None:
    code = PREPARE.replace("defer_compiler()", "import torch._dynamo as real\ndefer_compiler()")
    assert output_of(code + "print(sys.modules['torch._dynamo'] is real)") == ["True"]
