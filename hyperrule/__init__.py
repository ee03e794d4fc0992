"""hyperrule fine-tunes image classifiers by the BiT-HyperRule of Big Transfer.

import hyperrule

print(hyperrule.plan(dataset="my_images").schedule)
result = hyperrule.finetune(dataset="my_images", budget="5m")
print(result.metrics.top1, result.run.saved_model)
"""

import os
import sys
import warnings

__version__ = "0.1.0"

if "keras" in sys.modules and (_backend := sys.modules["keras"].backend.backend()) != "tensorflow":
    raise ImportError(
        f"hyperrule runs on TensorFlow, and Keras is imported already, on {_backend}: import hyperrule in a process of "
        "its own, or before Keras."
    )
if (_backend := os.environ.get("KERAS_BACKEND", "tensorflow")) != "tensorflow":
    warnings.warn(f"hyperrule sets KERAS_BACKEND={_backend} to tensorflow, which it runs on.", stacklevel=2)
# Before TensorFlow and Keras are imported, which reads them: Keras 3 on TensorFlow, and only errors on stderr.
os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # a GPU's memory is taken as it is needed
# As nvidia-smi numbers them, so that --devices means the same GPUs to TensorFlow.
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")

from hyperrule.api import (
    bench,
    bench_status,
    check,
    distill,
    evaluate,
    export,
    finetune,
    label_errors,
    learning_curve,
    plan,
    plan_bench,
    plan_distillation,
    port,
    predict,
    predict_each,
    report,
    resume,
)
from hyperrule.errors import HyperruleError, RunError, UserError

__all__ = [
    "HyperruleError",
    "RunError",
    "UserError",
    "__version__",
    "bench",
    "bench_status",
    "check",
    "distill",
    "evaluate",
    "export",
    "finetune",
    "label_errors",
    "learning_curve",
    "plan",
    "plan_bench",
    "plan_distillation",
    "port",
    "predict",
    "predict_each",
    "report",
    "resume",
]
