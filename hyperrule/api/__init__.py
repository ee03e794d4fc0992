"""The Python front door: data sets, training, classifiers and benchmarks as functions."""

from hyperrule.api.benchmarks import bench, bench_status, plan_bench
from hyperrule.api.classifiers import evaluate, export, port, predict, predict_each, report
from hyperrule.api.datasets import check, label_errors, learning_curve
from hyperrule.api.training import distill, finetune, plan, plan_distillation, resume

__all__ = [
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
