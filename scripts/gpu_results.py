#!/usr/bin/env python3
"""Results of scripts/gpu_check.sh: docs/benchmarks/<device>/<file>.json, and the tables of docs/benchmarks/README.md made from them.

  scripts/gpu_results.py             writes docs/benchmarks/README.md
  scripts/gpu_results.py --check     fails when the page is not what the JSON files say, or a file breaks the schema
  scripts/gpu_results.py --self-test schema, merging and tables on made-up rows

A file: {device, driver, compute_capability, commit, date, gemm_tflops: {before, after}, copy_gbs, throttled, rows: [...]}. A row: op, shape,
variant, and either failed (a sentence) or median_us with tflops, gbs or tokens_per_second; fraction is tflops or gbs as a share of gemm_tflops.before or copy_gbs.
"""
import json
import pathlib
import re
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs/benchmarks"
HEADER = {"device": str, "driver": str, "compute_capability": str, "commit": str, "date": str, "rows": list}
THROTTLED = 0.05
INTRODUCTION = """# Benchmarks

Processors: [a whole training step beside transformers + peft](cpu_step.md), [memory: policies, streaming, the longest steps](memory.md),
[pre-training of the small model](quickstart_pretraining.md).

Plans, not measurements: [memory and time of the Llama-2 family](plan_tables.md). Plans beside measurements: [bytes of small
runs](plan_accuracy.md).

GPUs: the tables below are written by `scripts/gpu_results.py` from the JSON files that `scripts/gpu_check.sh` left beside them
([how to run it and what the columns mean](../gpu.md)). No figure of a GPU is quoted anywhere without such a file.
"""


def problems_of(result: dict) -> list[str]:
    """What breaks the schema."""
    said = [f"'{key}' is missing or not a {kind.__name__}" for key, kind in HEADER.items() if not isinstance(result.get(key), kind)]
    for n, row in enumerate(result.get("rows") or []):
        if not all(isinstance(row.get(key), str) for key in ("op", "shape")):
            said.append(f"row {n}: op or shape is missing")
        elif "failed" not in row and not (isinstance(row.get("median_us"), (int, float)) and row["median_us"] > 0):
            said.append(f"row {n} ({row['op']}, {row['shape']}): neither failed nor a median_us above 0")
    return said


def key_of(row: dict) -> tuple:
    return row["op"], row["shape"], row.get("variant", "")


class Results:
    """One JSON file. Rows of another commit or driver are dropped when a new row comes, rows of this one are replaced."""

    def __init__(self, path: pathlib.Path, header: dict):
        self.path, self.header, self.rows = path, dict(header), []
        if path.exists():
            old = json.loads(path.read_text())
            if all(old.get(k) == header[k] for k in ("device", "driver", "commit")):
                self.rows = old["rows"]
                self.header = {k: v for k, v in old.items() if k != "rows"} | self.header

    def add(self, row: dict) -> None:
        if "tflops" in row and (gemm := (self.header.get("gemm_tflops") or {}).get("before")):
            row["fraction"] = round(row["tflops"] / gemm, 4)
        if "gbs" in row and (copy := self.header.get("copy_gbs")):
            row["fraction"] = round(row["gbs"] / copy, 4)
        self.rows = [r for r in self.rows if key_of(r) != key_of(row)] + [row]
        self.write()

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        body = json.dumps(self.header, indent=1)[:-2] + ',\n "rows": [\n' + ",\n".join("  " + json.dumps(r) for r in self.rows) + "\n ]\n}\n"
        new.write_text(body)
        new.replace(self.path)


def cell(row: dict, header: dict) -> list[str]:
    if "failed" in row:
        return [f"not timed: {row['failed']}".replace("|", "/"), "", "", ""]
    ms = f"{row['median_us'] / 1e3:.3f}"
    spread = f"{row['p10_us'] / 1e3:.3f} - {row['p90_us'] / 1e3:.3f}" if "p10_us" in row else ""
    rate = next((f"{row[k]:.{d}f} {unit}" for k, d, unit in (("tokens_per_second", 0, "tok/s"), ("tflops", 0, "TFLOP/s"), ("gbs", 0, "GB/s"))
                 if k in row), "")
    if "measured_layers" in row:
        rate += (f", {row['tflops']:.0f} TFLOP/s; a layer {row['layer_us'] / 1e3:.1f} ms, the rest {row['rest_us'] / 1e3:.1f} ms; "
                 f"{row['extrapolated_layers']} layers from runs with {' and '.join(map(str, row['measured_layers']))}")
    elif "mfu" in row:
        rate += f", {row['tflops']:.0f} TFLOP/s"
    if "mfu" in row:
        rate += f"; MFU {100 * row['mfu']:.0f} %, HFU {100 * row['hfu']:.0f} % of {row['peak_tflops']:.0f} TFLOP/s"
    if "tokens" in row:
        rate += f"; {row['tokens']:,} tokens ran, {row['planned_tokens']:,} planned"
    if "memory_bytes_planned" in row:
        rate += f"; planned {row['memory_bytes_planned'] / 2**30:.2f} GiB, measured {row['memory_bytes_measured'] / 2**30:.2f} GiB"
    return [ms, spread, rate, f"{100 * row['fraction']:.0f} %" if "fraction" in row else ""]


def tables(folder: pathlib.Path) -> str:
    page = INTRODUCTION
    files = sorted(folder.glob("*/*.json"))
    if not files:
        page += "\nNo GPU has been measured yet: the kernels are proved by the emulator and by the compile gates only.\n"
    for device in sorted({f.parent for f in files}):
        page += f"\n## {device.name}\n"
        for file in sorted(device.glob("*.json")):
            result = json.loads(file.read_text())
            gemm = result.get("gemm_tflops") or {}
            page += f"\n### {file.stem}\n\n{result['device']}, driver {result['driver']}, commit {result['commit'][:10]}, {result['date']}"
            page += f", GEMM {gemm['before']:.0f} TFLOP/s before and {gemm.get('after') or 0:.0f} after" if gemm.get("before") else ""
            page += f", copy {result['copy_gbs']:.0f} GB/s" if result.get("copy_gbs") else ""
            page += " (throttled: the two differ by more than 5 %)" if result.get("throttled") else ""
            page += ".\n\n| what | shape | variant | ms (median) | p10 - p90 | rate | of GEMM or copy |\n|---|---|---|---|---|---|---|\n"
            for row in sorted(result["rows"], key=lambda r: (r["op"], [int(n) for n in re.findall(r"\d+", r["shape"])], r.get("baseline", False))):
                page += "| " + " | ".join([row["op"], row["shape"], row.get("variant", ""), *cell(row, result)]) + " |\n"
    return page


def self_test() -> int:
    header = {"device": "Test GPU", "driver": "1.0", "compute_capability": "9.0", "commit": "a" * 40, "date": "2026-01-01",
              "gemm_tflops": {"before": 800.0, "after": 700.0}, "copy_gbs": 3000.0, "throttled": True}
    timed = {"op": "s2_attention_forward", "shape": "T=8192 g=2048", "variant": "sm80", "median_us": 100.0, "p10_us": 99.0, "p90_us": 101.0}
    with tempfile.TemporaryDirectory() as name:
        path = pathlib.Path(name) / "test_gpu/s2_attention.json"
        results = Results(path, header)
        results.add(timed | {"tflops": 400.0})
        results.add(timed | {"tflops": 200.0})
        results.add({"op": "rope", "shape": "T=8192", "gbs": 2700.0, "median_us": 5.0})
        results.add({"op": "largest_context", "shape": "7b", "median_us": 5.0, "tokens_per_second": 1.0, "tflops": 360.0, "mfu": 0.4, "hfu": 0.5,
                     "peak_tflops": 900.0, "tokens": 1024, "planned_tokens": 2048, "memory_bytes_planned": 2**30, "memory_bytes_measured": 2**31})
        results.add({"op": "swiglu", "shape": "T=8192", "failed": "wrong"})
        page, again = tables(path.parent.parent), Results(path, header)
        other = Results(path, header | {"commit": "b" * 40})
        checks = {"a repeated row replaces the old one": len(again.rows) == 4,
                  "share of the GEMM rate": again.rows[0]["fraction"] == 0.25, "share of the copy rate": again.rows[1]["fraction"] == 0.9,
                  "rows of another commit are dropped": other.rows == [], "the schema holds": problems_of(json.loads(path.read_text())) == [],
                  "the schema refuses": len(problems_of({"device": 1, "rows": [{"op": "x"}, {"op": "x", "shape": "y"}]})) >= 3,
                  "the table": "| s2_attention_forward | T=8192 g=2048 | sm80 | 0.100 | 0.099 - 0.101 | 200 TFLOP/s | 25 % |" in page,
                  "a step's shares, lengths and bytes": "MFU 40 %, HFU 50 % of 900 TFLOP/s; 1,024 tokens ran, 2,048 planned; planned 1.00 GiB, measured 2.00 GiB"
                                                        in page,
                  "a failure is shown": "not timed: wrong" in page, "throttling is shown": "throttled" in page,
                  "no GPU yet": "No GPU has been measured" in tables(path.parent)}
    for what, right in checks.items():
        if not right:
            print(f"gpu_results.py: self-test failed: {what}", file=sys.stderr)
    print(f"gpu_results: self-test of {len(checks)} rules, {sum(not r for r in checks.values())} wrong")
    return 0 if all(checks.values()) else 1


def main() -> int:
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    if sys.argv[1:] not in ([], ["--check"]):
        print(f"gpu_results.py: unknown argument {sys.argv[1]}; see its first lines", file=sys.stderr)
        return 64
    page, target = tables(FOLDER), FOLDER / "README.md"
    if not sys.argv[1:]:
        target.write_text(page)
        return 0
    said = [f"{f.relative_to(ROOT)}: {p}" for f in sorted(FOLDER.glob("*/*.json")) for p in problems_of(json.loads(f.read_text()))]
    if not target.exists() or target.read_text() != page:
        said.append("docs/benchmarks/README.md is not what the JSON files say; run scripts/gpu_results.py")
    for p in said:
        print(p, file=sys.stderr)
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
