#!/usr/bin/env python3
"""Speed and memory of a whole training step on the CPU, side by side with transformers + peft in the same run.

  scripts/bench_cpu.py [--lengths 4096,8192] [--steps 2] [--dtype auto|fp32|bf16] [--json FILE] [--markdown FILE]

Model: SmolLM2-135M. Recipe on both sides: LoRA r = 8 on q, k, v, o, trainable embedding and norms, batch 1, AdamW, clipping. The peer uses
gradient checkpointing and sdpa attention, or shifted sparse attention by reshape (tests/hf/peer_step.py). For every length it runs, one
after another: the machine's matrix-product rate, the peer with full attention, ours with full attention, the peer with S2, ours with S2.
Peak memory is the kernel's count for each process (ru_maxrss). Before anything is timed, one step of both sides on the same 512 tokens
must give the same loss within 2e-3; otherwise the script refuses to time. `auto` means bf16 where the CPU multiplies it natively.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build/bin/longlora-train"
PYTHON = ROOT / ".deps/venv/bin/python"
BASE = ROOT / "out/smollm2/base"
LAYERS, HIDDEN, MLP, KV, VOCABULARY, HEADS, HEAD_SIZE = 30, 576, 1536, 192, 49152, 9, 64


def native_bf16() -> bool:
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def output_of(command: list[str], environment: dict[str, str]) -> str:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
    out, err = process.communicate()
    if process.returncode != 0:
        sys.exit(f"bench_cpu.py: {' '.join(map(str, command))} ended with {process.returncode}:\n{err[-2000:]}")
    return out


def product_rate(dtype: str) -> float:
    """GFLOP/s of x W' at the layer's own shapes (4,096 rows), best of three rounds, two threads."""
    code = f"""
import time, torch
torch.set_num_threads({os.cpu_count()})
total = flops = 0
for k, n in ((576, 576), (576, 1536), (1536, 576)):
    a, b = torch.randn(4096, k, dtype=torch.{dtype}), torch.randn(n, k, dtype=torch.{dtype})
    best = 1e9
    for _ in range(4):
        t = time.perf_counter(); torch.mm(a, b.t()); best = min(best, time.perf_counter() - t)
    total += best; flops += 2 * 4096 * k * n
print(flops / total / 1e9)
"""
    return float(subprocess.run([str(PYTHON), "-c", code], capture_output=True, text=True, check=True).stdout)


def peer(length: int, attention: str, dtype: str, steps: int, tokens: pathlib.Path) -> dict:
    out = output_of([str(PYTHON), str(ROOT / "tests/hf/peer_step.py"), "--model", str(BASE), "--tokens", str(tokens), "--len", str(length),
                       "--attn", attention, "--dtype", dtype, "--steps", str(steps)], {"HF_HUB_OFFLINE": "1"})
    return json.loads(out.strip().splitlines()[-1])


def ours(length: int, attention: str, dtype: str, steps: int, tokens: pathlib.Path, policy: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder) / "bench.yaml"
        config.write_text(f"""
model: {{path: {BASE}, dtype: {dtype}}}
rope: {{scaling: linear, factor: 2}}
attention: {{kind: {attention}}}
data:
  train: [{{path: {tokens.with_suffix('.bin')}, format: raw_uint16}}]
  sequence_length: {length}
  shuffle: false
train: {{steps: {steps + 1}, global_batch: 1}}
optimizer: {{learning_rate: 2e-4}}
schedule: {{warmup_steps: 0}}
precision: {{compute: {dtype}}}
memory: {{policy: {policy}}}
checkpoint: {{every: 1000000}}
log: {{tensorboard: false}}
output_dir: {folder}/run
""")
        command = [str(PROGRAM), "-q", "train", "-c", str(config), "--set", "tuning.mode=lora"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        lines = [json.loads(line) for line in (pathlib.Path(folder) / "run/metrics.jsonl").read_text().splitlines()]
        best = min(line["seconds"] for line in lines[1:])
        return {"tok_s": length / best, "step_s": best, "loss": [line["loss"] for line in lines],
                "peak_rss_gib": max(line["memory_peak_bytes"] for line in lines) / 2**30}


def model_flops(length: int, attention: str) -> float:
    """FLOPs of a step without recomputation (docs/memory.md section 5), exact causal pairs."""
    group = length // 4
    def pairs(first: int, step: int) -> int:
        cuts = [0, *range(first, length, step), length]
        return sum((b - a) * (b - a + 1) // 2 for a, b in zip(cuts, cuts[1:]))
    full = length * (length + 1) // 2
    per_head = [full] * HEADS if attention == "full" else [pairs(group, group)] * (HEADS // 2) + [pairs(group // 2, group)] * (HEADS - HEADS // 2)
    n = LAYERS * (2 * HIDDEN * HIDDEN + 2 * HIDDEN * KV + 3 * HIDDEN * MLP)
    n_lora = 8 * LAYERS * (6 * HIDDEN + 2 * KV)
    return length * (4 * n + 6 * VOCABULARY * HIDDEN + 6 * n_lora) + 3.5 * 4 * HEAD_SIZE * LAYERS * sum(per_head)


def ratios(rows: list[dict]) -> list[tuple]:
    """(length, our s2 / peer full, our s2 / peer s2, our full / peer full, memory s2, memory full) of every length."""
    by = {(r["length"], r["attention"]): r for r in rows}
    found = []
    for length in sorted({r["length"] for r in rows}):
        full, s2 = by[length, "full"], by[length, "s2"]
        found.append((length, s2["ours"]["tok_s"] / full["peer"]["tok_s"], s2["ours"]["tok_s"] / s2["peer"]["tok_s"],
                      full["ours"]["tok_s"] / full["peer"]["tok_s"], s2["ours"]["peak_rss_gib"] / s2["peer"]["peak_rss_gib"],
                      full["ours"]["peak_rss_gib"] / full["peer"]["peak_rss_gib"]))
    return found


def processor() -> str:
    names = [line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{len(names)} x {names[0]}"


def markdown(rows: list[dict]) -> str:
    lines = [f"{time.strftime('%Y-%m-%d')}, {processor()}, {rows[0]['dtype']} on both sides, all timings of one run of `scripts/bench_cpu.py`:", "",
             "| tokens | attention | transformers + peft | | longlora-train | | matrix products | share our step reaches |",
             "|---|---|---|---|---|---|---|---|"]
    for r in rows:
        lines.append(f"| {r['length']:,} | {r['attention']} | {r['peer']['tok_s']:.1f} tok/s | {r['peer']['peak_rss_gib']:.2f} GiB | "
                     f"{r['ours']['tok_s']:.1f} tok/s | {r['ours']['peak_rss_gib']:.2f} GiB | {r['product_gflops']:.0f} GFLOP/s | "
                     f"{100 * r['share_of_product_rate']:.0f} % |")
    lines += ["", "| tokens | our s2 / its full | our s2 / its s2 | our full / its full | memory, s2 | memory, full |", "|---|---|---|---|---|---|"]
    for length, *values in ratios(rows):
        lines.append(f"| {length:,} | " + " | ".join(f"{v:.2f}" for v in values) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="4096,8192")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--dtype", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--policy", default="auto")
    parser.add_argument("--json")
    parser.add_argument("--markdown")
    a = parser.parse_args()
    dtype = a.dtype if a.dtype != "auto" else "bf16" if native_bf16() else "fp32"
    if not (BASE / "config.json").exists():
        subprocess.run([str(PROGRAM), "-q", "import", "--from", str(ROOT / ".deps/models/SmolLM2-135M-Instruct.Q4_1.gguf"), "--to", str(BASE)], check=True)
    with tempfile.TemporaryDirectory() as folder:
        tokens = pathlib.Path(folder) / "tokens.npy"
        longest = max(map(int, a.lengths.split(","))) * (a.steps + 2)
        subprocess.run([str(PYTHON), "-c", f"""
import numpy, sys
from transformers import AutoTokenizer
text = ''.join(open('{ROOT}/.deps/texts/' + n + '.txt').read() for n in ('emma', 'mansfield_park'))
ids = numpy.array(AutoTokenizer.from_pretrained('{BASE}')(text)['input_ids'][:{longest}], dtype=numpy.uint16)
numpy.save('{tokens}', ids); ids.tofile('{tokens.with_suffix('.bin')}')
"""], check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        for attention in ("full", "s2"):  # refuse to time what does not compute the same thing
            theirs, mine = peer(512, attention, "fp32", 1, tokens)["loss"][0], ours(512, attention, "fp32", 1, tokens, a.policy)["loss"][0]
            if abs(theirs - mine) > 2e-3:
                sys.exit(f"bench_cpu.py: first loss with {attention} attention is {mine}, the peer's {theirs}: nothing is timed")
        rows = []
        for length in map(int, a.lengths.split(",")):
            for attention in ("full", "s2"):
                rate = product_rate({"fp32": "float32", "bf16": "bfloat16"}[dtype])
                theirs = peer(length, attention, dtype, a.steps, tokens)
                mine = ours(length, attention, dtype, a.steps, tokens, a.policy)
                row = {"length": length, "attention": attention, "dtype": dtype, "product_gflops": rate, "peer": theirs, "ours": mine,
                       "share_of_product_rate": model_flops(length, attention) / mine["step_s"] / 1e9 / rate}
                rows.append(row)
                print(f"{length:6} {attention:5} {dtype}  peer {theirs['tok_s']:7.1f} tok/s {theirs['peak_rss_gib']:5.2f} GiB   ours "
                      f"{mine['tok_s']:7.1f} tok/s {mine['peak_rss_gib']:5.2f} GiB   product {rate:6.1f} GFLOP/s, our step uses "
                      f"{100 * row['share_of_product_rate']:.0f} %", flush=True)
        for length, s2_full, s2_s2, full_full, s2_memory, full_memory in ratios(rows):
            print(f"{length:6} ours s2 / peer full {s2_full:.2f}   ours s2 / peer s2 {s2_s2:.2f}   ours full / peer full {full_full:.2f}   "
                  f"memory s2 {s2_memory:.2f}, full {full_memory:.2f}")
        if a.json:
            pathlib.Path(a.json).write_text(json.dumps({"date": time.strftime("%Y-%m-%d"), "threads": os.cpu_count(), "rows": rows}, indent=1) + "\n")
        if a.markdown:
            pathlib.Path(a.markdown).write_text(markdown(rows))


main()
