#!/usr/bin/env python3
"""A training run's log as a Markdown table: summarise_training.py RUN_DIR [--rows 12]  (standard library only)"""
import json
import pathlib
import sys

run = pathlib.Path(sys.argv[1])
rows = int(sys.argv[sys.argv.index("--rows") + 1]) if "--rows" in sys.argv else 12
metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
every = max(len(metrics) // rows, 1)
print("| steps | tokens | loss (mean) | gradient norm (mean) | tokens/s (median) |\n|---|---|---|---|---|")
for begin in range(0, len(metrics), every):
    part = metrics[begin:begin + every]
    speeds = sorted(m["tokens_per_second"] for m in part)
    print(f"| {part[0]['step']}-{part[-1]['step']} | {sum(m['tokens'] for m in metrics[:begin + len(part)]):,} | "
          f"{sum(m['loss'] for m in part) / len(part):.3f} | {sum(m['grad_norm'] for m in part) / len(part):.2f} | {speeds[len(speeds) // 2]:.0f} |")
evaluations = run / "evaluation.jsonl"
if evaluations.exists():
    print("\n| step | context | scored tokens | perplexity on validation |\n|---|---|---|---|")
    for line in evaluations.read_text().splitlines():
        row = json.loads(line)
        for c in row["contexts"]:
            print(f"| {row['step']} | {c['context']} | {c['tokens']:,} | {c['perplexity']:.2f} |")
print(f"\nlast hash of the chain: `{metrics[-1]['hash']}`")
