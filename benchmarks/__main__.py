"""Run all benchmarks, each in a process of its own, and render them: `python -m benchmarks [--quick]`."""

import subprocess
import sys

from benchmarks.report import ROOT

SCRIPTS = (
    "throughput",
    "backends",
    "operators",
    "launches",
    "memory",
    "seams",
    "store",
    "quantised",
    "context",
    "adaptation",
    "filters",
    "filter_ablation",
    "hybrid",
    "legs",
    "token_forms",
    "late_interaction",
    "negation",
    "precision",
    "short_documents",
    "split_layers",
    "blends",
    "ablation",
    "query_adapter",
    "migration",
    "quotes",
    "chat",
    "ray_ingestion",
)

for script in (*SCRIPTS, *([] if "--quick" in sys.argv else ["render"])):
    print(f"== {script}", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{script}", *sys.argv[1:]], cwd=ROOT, check=True)
