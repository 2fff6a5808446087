"""docs/benchmarks/memory.md, made from what scripts/bench_memory.py kept: every number of the page comes from that file."""
import pathlib
import sys

GIB = 2**30


def stop(sentence: str, code: int) -> None:
    print(sentence, file=sys.stderr)
    sys.exit(code)


def write(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def gib(value: float | None) -> str:
    return "" if value is None else f"{value / GIB:.2f} GiB"


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]) + "\n"


def refusal(row: dict, columns: int) -> list[str]:
    return [f"refused: {row['refused']}".replace("|", "/"), *[""] * (columns - 1)]


def peak(row: dict) -> list[str]:
    """Measured, and planned where both count the same."""
    if row["memory_counted_by"] == "process":
        return [f"{gib(row['memory_bytes_measured'])} (process)", gib(row.get("memory_bytes_planned"))]
    return [gib(row["memory_bytes_measured"]), f"{gib(row.get('memory_bytes_planned'))} ({100 * row.get('plan_error', 0):+.1f} %)"]


def predicted(row: dict) -> str:
    made = [s for s in row.get("predicted_seconds", []) if s is not None]
    return " ".join(f"{s:.0f}" if s >= 100 else f"{s:.1f}" for s in made)


def workspace(rows: list[dict]) -> str:
    body = [[f"{r['tokens']:,}", r["variant"], *(refusal(r, 3) if "refused" in r else
             [gib(r["workspace_bytes"]), f"{r['ratio']:.2f}" if "ratio" in r else "", gib(r["peak_bytes"])])] for r in rows if r["op"] == "workspace"]
    return ("Workspace of a layer of a 7B model in bf16, the larger of its two passes, and the peak of tensors under `checkpoint` "
            "(`plan --json`, no device is asked):\n\n" + table(["tokens", "policy", "workspace", "of whole", "peak"], body))


def policies(rows: list[dict]) -> str:
    costs = [r for r in rows if r["op"] == "policy_cost"]
    body = [[r["variant"], *(refusal(r, 7) if "refused" in r else
             [f"{r['median_ratio']:.3f}", f"{r['minimum_ratio']:.3f}", " ".join(f"{s:.1f}" for s in r["seconds"]), predicted(r), *peak(r), gib(r["peak_rss_bytes"])])]
            for r in costs]
    return (f"{costs[0]['shape']}, {costs[0]['tokens']:,} tokens, fp32. Two steps of each had one hash chain before anything was timed; rounds "
            "are interleaved; ratios are to `checkpoint` whole; the plan predicts seconds from the product rate that each run measures at its "
            "start:\n\n" +
            table(["policy", "time, of medians", "of minima", "seconds of each round", "predicted", "peak of tensors", "planned", "resident"], body))


def smollm2(rows: list[dict]) -> str:
    beside = [r for r in rows if r["op"] == "beside_peer"]
    body = [[f"{r['tokens']:,}", r["attention"], {"peer": "transformers + peft", "ours": "longlora-train"}[r["variant"]], f"{min(r['seconds']):.1f} s",
             f"{1e3 * r['seconds_per_token']:.2f} ms", f"{r['peak_rss_gib']:.2f} GiB", f"{100 * r['share_of_product_rate']:.0f} %"] for r in beside]
    text = (f"SmolLM2-135M, {beside[0]['dtype']} on both sides, LoRA with trained embedding and norms, within {beside[0]['limit_gib']:g} GiB of "
            "resident memory. Both sides had one loss on 512 tokens before anything was timed. The peer's length is the largest multiple of 1,024 "
            "whose step stays within the limit; the best step of all rounds counts:\n\n" +
            table(["tokens", "attention", "program", "a step", "a token", "resident, at most", "model FLOPs of the product rate"], body))
    for r in rows:
        if r["op"] == "reach":
            longest = " and ".join(f"{n:,} ({attention})" for attention, n in r["peer_tokens"].items())
            times = f": {r['times']:.1f} times the longest of them" if r["times"] else ""
            text += f"\nOurs reaches {r['ours_tokens']:,} tokens where the peer reaches {longest}{times}.\n"
    return text


def hundred_k(rows: list[dict]) -> str:
    body = [[r["shape"], r["processor"], f"{r['tokens']:,}", r["variant"], *(refusal(r, 7) if "refused" in r else
             [f"{min(r['seconds']):.0f} s" + (f" (nice {r['niceness']})" if r["niceness"] else ""), predicted(r), f"{r['gflops']:.0f} of {r['product_gflops']:.0f} GFLOP/s ({100 * r['share_of_product_rate']:.0f} %)",
              *peak(r), gib(r["peak_rss_bytes"]), f"{r['tokens_per_second']:.1f}"])] for r in rows if r["op"] == "long_step"]
    return ("One training step of a layer with the proportions of a 7B (4096 x 11008, 32 heads of 128, at whole width), fp32. GFLOP/s count what "
            "is executed, recomputation included (docs/memory.md, section 5), beside the rate of the layer's own products. A row with a niceness ran "
            "beside other work: its bytes count, its seconds do not.\n\n" +
            table(["shape", "machine", "tokens", "policy", "a step", "predicted", "rate", "peak of tensors", "planned", "resident", "tokens/s"], body))


SECTIONS = {"workspace": ("Workspace, whole and streamed", workspace), "policies": ("What a policy costs", policies),
            "smollm2": ("Beside transformers + peft in the same memory", smollm2), "hundred_k": ("100,000 tokens", hundred_k)}


def markdown(kept: dict) -> str:
    text = """# Memory: what it costs and what it buys, on a CPU

Made by `scripts/bench_memory.py --json FILE --markdown FILE`; every number is a row of that file. What each stage verifies before it times
anything stands in the script's first lines; policies and streaming are explained in [memory](../memory.md).
"""
    for stage, (title, body) in SECTIONS.items():
        text += f"\n## {title}\n\n"
        if stage not in kept:
            text += f"Not measured yet: `scripts/bench_memory.py --only {stage}`.\n"
            continue
        result = kept[stage]
        text += f"{result['date']}, {result['processor']}, commit {result['commit'][:10]}, {result['took_seconds']} s.\n\n" + body(result["rows"])
        for row in result["rows"]:
            if row["op"] == "gate":
                text += f"\nGate: {row['sentence']}: {row['value']:.3f}, {'passed' if row['passed'] else 'failed'}.\n"
    return text
