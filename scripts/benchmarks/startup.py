"""Measure start-up: seconds of commands against importing TensorFlow, alternating, medians of 5."""

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "import tensorflow": ["-c", "import tensorflow"],
    "hyperrule --help": ["-m", "hyperrule", "--help"],
    "hyperrule backbones": ["-m", "hyperrule", "backbones"],
    "hyperrule plan --dataset digits": ["-m", "hyperrule", "plan", "--dataset", "digits"],
}


def seconds(*command: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return time.perf_counter() - start


rounds = [{name: seconds(*command) for name, command in COMMANDS.items()} for _ in range(5)]
peer = statistics.median(taken["import tensorflow"] for taken in rounds)
for name in COMMANDS:
    median = statistics.median(taken[name] for taken in rounds)
    print(f"{name:<34} {median:6.2f} s   {median / peer:5.2f} x importing TensorFlow")
