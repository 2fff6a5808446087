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
import sys
import tempfile
import time

from bench_shared import PROGRAM, ROOT, SHAPES, import_smollm2, native_bf16, ours, peer, processor, product_rate, refuse_unless_losses_agree, step_flops, \
    write_text_tokens


def measured(result: dict) -> dict:
    if "failed" in result:
        sys.exit(f"bench_cpu.py: {result['failed']}")
    return result


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
    base, memory = import_smollm2(PROGRAM, ROOT / "out/smollm2/base"), {"policy": a.policy}
    with tempfile.TemporaryDirectory() as folder:
        tokens = write_text_tokens(pathlib.Path(folder) / "tokens.npy", base, max(map(int, a.lengths.split(","))) * (a.steps + 2))
        refuse_unless_losses_agree("bench_cpu.py", PROGRAM, base, tokens, memory)
        rows = []
        for length in map(int, a.lengths.split(",")):
            for attention in ("full", "s2"):
                rate = product_rate({"fp32": "float32", "bf16": "bfloat16"}[dtype], SHAPES["smollm2"])
                theirs = measured(peer(base, length, attention, dtype, a.steps, tokens))
                mine = measured(ours(PROGRAM, base, length, attention, dtype, a.steps, tokens, memory))
                flops = step_flops(SHAPES["smollm2"], length, attention, "save_all").model
                row = {"length": length, "attention": attention, "dtype": dtype, "product_gflops": rate, "peer": theirs, "ours": mine,
                       "share_of_product_rate": flops / mine["step_s"] / 1e9 / rate}
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
