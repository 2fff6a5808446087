#!/usr/bin/env python3
"""What memory costs and what it buys, on the CPU: policies, halo streaming, offload, and the longest steps that fit.

  scripts/bench_memory.py [--only STAGE,...] [--json FILE] [--markdown FILE] [--program FILE]
  scripts/bench_memory.py --render --json FILE --markdown FILE      the page from the file, nothing is measured

Stages, in this order (times on two quiet cores):
  workspace  bytes of a layer's workspace of a 7B model, whole and streamed, from `plan --json`; seconds
  policies   step time of every policy, whole and streamed, as a ratio to `checkpoint` whole, in interleaved rounds; 20 minutes.
             First the hash chains of two steps must all be the same
  smollm2    a step of SmolLM2-135M at 32,768 tokens within 6 GiB of resident memory, and beside it the longest step of transformers + peft
             within the same limit; 45 minutes. First both sides must have the same loss on 512 tokens
  hundred_k  a step of 100,000 tokens of one 7B-shaped layer, streamed, measured peak beside the plan's; 30 to 40 minutes
--only smollm2, for example, keeps the other stages' rows in FILE (default out/bench_memory.json). What is not verified is not timed; what
the program refuses is kept as a row with its sentence. Sizes for a rehearsal: --policy-tokens, --policy-layers, --policy-heads, --rounds, --long-tokens,
--limit-gib, --tokens, --hidden, --mlp, --heads, --layers, --vocabulary, --streaming.
Exit codes: 0 all verified and within the gates, 1 not so, 64 usage, 66 something is not there.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import bench_memory_page as page
from bench_shared import GIB, PLAN_BOUND, PROGRAM, PYTHON, ROOT, ROW_TILE, Recipe, Run, Shape, SHAPES, beside_plan, import_smollm2, native_bf16, ours, peer, \
    plan_of, planned_parts, planned_tensor_bytes, processor, product_rate, refuse_unless_losses_agree, step_flops, train, write_model, write_text_tokens, \
    write_tokens

POLICIES = ["checkpoint", "save_all", "save_attention", "checkpoint_offload"]   # the first is what the others are compared with
STREAMED_COST = 1.15           # streamed checkpoint / whole checkpoint
WORKSPACE_LENGTHS = [32768, 102400, 524288]


class Unverified(Exception):
    """What was to be timed does not compute what it must."""


def variant_name(policy: str, streaming: str) -> str:
    return policy + (", streamed" if streaming == "on" else "")


def gate(sentence: str, value: float, bound: float) -> dict:
    passed = value <= bound
    print(f"  gate: {sentence}: {value:.3f}, {'passed' if passed else 'FAILED'}", flush=True)
    return {"op": "gate", "sentence": sentence, "value": round(value, 4), "bound": bound, "passed": passed}


class Stages:
    def __init__(self, chosen: argparse.Namespace, folder: pathlib.Path):
        self.chosen, self.folder, self.program = chosen, folder, chosen.program
        self.dtype = chosen.dtype if chosen.dtype != "auto" else "bf16" if native_bf16() else "fp32"

    # ---- bytes, from the plan alone

    def workspace(self) -> list[dict]:
        shape, rows = SHAPES["7b"], []
        model = write_model(self.folder / "7b", shape)
        tokens = write_tokens(self.folder / "7b.bin", shape.vocabulary, 4097)
        for length in WORKSPACE_LENGTHS:
            found = {}
            for streaming in ("off", "on"):
                recipe = Recipe(model, tokens, length, 1, random=True, rope_factor=-(-length // 4096),
                                memory={"policy": "checkpoint", "halo_streaming": streaming})
                plan = plan_of(self.program, recipe, "--device-memory", 4096)   # the bytes are wanted, whether a card has them or not
                row = {"op": "workspace", "shape": "7b bf16", "tokens": length, "variant": variant_name("checkpoint", streaming)}
                if "refused" not in plan:
                    parts = planned_parts(plan)
                    found[streaming] = sum(bytes_ for name, bytes_ in parts.items() if "workspace" in name)
                    row |= {"workspace_bytes": found[streaming], "peak_bytes": planned_tensor_bytes(plan), "parts": parts}
                    if "off" in found:
                        row["ratio"] = found[streaming] / found["off"]
                rows.append(row | ({"refused": plan["refused"]} if "refused" in plan else {}))
                print(f"  {length:7} tokens  {row['variant']:22} " + (plan.get("refused") or f"workspace {found[streaming] / GIB:.2f} GiB"), flush=True)
        return rows

    # ---- the cost of a policy

    def policies(self) -> list[dict]:
        c = self.chosen
        shape = Shape(64 * c.policy_heads, 512 * c.policy_heads // 3, c.policy_heads, c.policy_heads // 3, 64, 1024, c.policy_layers, tied=True)
        model, tokens = write_model(self.folder / "cut", shape), write_tokens(self.folder / "cut.bin", shape.vocabulary, 2 * c.policy_tokens + 1)
        recipes = {variant_name(p, s): Recipe(model, tokens, c.policy_tokens, 2, dtype="fp32", random=True, rope_factor=-(-c.policy_tokens // 4096),
                                              memory={"policy": p, "halo_streaming": s})
                   for s in ("off", "on") for p in POLICIES}
        runs, refused = self.verified(recipes)
        first = {name: run[0] for name, run in runs.items()}
        for n in range(c.rounds):   # forth and back, so that a machine that slows down hurts all alike
            for name in list(runs) if n % 2 == 0 else reversed(list(runs)):
                run = train(self.program, recipes[name])
                self.require_chain(name, run, first[POLICIES[0]])
                runs[name].append(run)
                print(f"  round {n + 1}  {name:30} {run.seconds:8.2f} s", flush=True)
        return self.cost_rows(shape, recipes, runs, refused)

    def verified(self, recipes: dict[str, Recipe]) -> tuple[dict[str, list[Run]], dict[str, str]]:
        """One run of each, none of them timed. All hash chains must be that of `checkpoint`."""
        runs, refused = {}, {}
        for name, recipe in recipes.items():
            run = train(self.program, recipe)
            if run.refused():
                refused[name] = run.ended.sentence()
                print(f"  {name:30} refused: {refused[name]}", flush=True)
                if name == POLICIES[0]:
                    raise Unverified(f"{name} is what the others are compared with, and is refused")
                continue
            runs[name] = [run]
            self.require_chain(name, run, runs[POLICIES[0]][0])
            print(f"  {name:30} chain {run.lines[-1]['hash'][:16]}  peak {run.peak_bytes / GIB:.2f} GiB ({run.counted_by})", flush=True)
        return runs, refused

    def require_chain(self, name: str, run: Run, expected: Run) -> None:
        if why := run.why_not():
            raise Unverified(f"{name} did not run: {why}")
        chain, wanted = ([line["hash"] for line in r.lines] for r in (run, expected))
        if chain != wanted:
            raise Unverified(f"{name} has the hash chain {chain}, {POLICIES[0]} has {wanted}")

    def cost_rows(self, shape: Shape, recipes: dict[str, Recipe], runs: dict[str, list[Run]], refused: dict[str, str]) -> list[dict]:
        seconds = {name: [run.seconds for run in made[1:]] for name, made in runs.items()}
        base, rows = seconds[POLICIES[0]], []
        for name, recipe in recipes.items():
            row = {"op": "policy_cost", "shape": str(shape), "tokens": recipe.length, "variant": name}
            if name in refused:
                rows.append(row | {"refused": refused[name]})
                continue
            best = runs[name][0]
            rows.append(row | beside_plan(plan_of(self.program, recipe), best) |
                        {"seconds": seconds[name], "predicted_seconds": [run.predicted_seconds for run in runs[name][1:]], "median_ratio": statistics.median(seconds[name]) / statistics.median(base),
                         "minimum_ratio": min(seconds[name]) / min(base), "peak_rss_bytes": best.ended.peak_rss_bytes,
                         "hash": best.lines[-1]["hash"]})
        streamed = variant_name(POLICIES[0], "on")
        if streamed in seconds:
            value = statistics.median(seconds[streamed]) / statistics.median(base)
            rows.append(gate(f"checkpoint streamed at most {STREAMED_COST} x checkpoint whole", value, STREAMED_COST))
        return rows

    # ---- SmolLM2-135M beside transformers + peft

    def smollm2(self) -> list[dict]:
        c, limit = self.chosen, int(self.chosen.limit_gib * GIB)
        base = import_smollm2(self.program, ROOT / "out/smollm2/base" if (ROOT / "out/smollm2/base/config.json").exists() else self.folder / "smollm2")
        tokens = write_text_tokens(self.folder / "tokens.npy", base, 2 * c.long_tokens + 2)
        refuse_unless_losses_agree("bench_memory.py", self.program, base, tokens, {"policy": "auto"})
        print("  same losses on 512 tokens", flush=True)
        budget, longest = self.budget_within(base, tokens, limit)
        largest = {attention: self.largest_peer(base, attention, tokens, limit) for attention in ("full", "s2")}
        tries = []   # (who, attention, tokens)
        for attention, length in largest.items():
            tries += [("peer", attention, length), ("ours", attention, length)] if length else []
        tries += [("ours", "s2", n) for n in ([largest["full"]] if largest["full"] != largest["s2"] and largest["full"] else [])]
        made: dict[tuple, list[dict]] = {one: [] for one in tries}
        made["ours", "s2", c.long_tokens] = [longest]   # minutes a step: it is not made again
        rates = [product_rate({"fp32": "float32", "bf16": "bfloat16"}[self.dtype], SHAPES["smollm2"])]
        for n in range(c.rounds_beside):
            for who, attention, length in tries if n % 2 == 0 else reversed(tries):
                result = (peer(base, length, attention, self.dtype, 1, tokens) if who == "peer" else
                          self.ours_within(base, attention, length, tokens, budget, limit))
                if "failed" in result:
                    raise Unverified(f"{who}, {attention}, {length} tokens: {result['failed']}")
                made[who, attention, length].append(result)
                print(f"  round {n + 1}  {who:5} {attention:5} {length:6} tokens {result['step_s']:8.1f} s  {result['peak_rss_gib']:.2f} GiB", flush=True)
            rates.append(product_rate({"fp32": "float32", "bf16": "bfloat16"}[self.dtype], SHAPES["smollm2"]))
        return self.beside_rows(made, largest, budget, max(rates))

    def ours_within(self, base: pathlib.Path, attention: str, length: int, tokens: pathlib.Path, budget: int, limit: int) -> dict:
        steps = 0 if length >= LONG else 1   # what takes minutes needs no step that warms up
        return ours(self.program, base, length, attention, self.dtype, steps, tokens, {"policy": "auto", "host_budget": budget}, limit_bytes=limit)

    def budget_within(self, base: pathlib.Path, tokens: pathlib.Path, limit: int) -> tuple[int, dict]:
        """memory.host_budget counts tensors, the kernel counts the process: the largest budget, from the limit down, that keeps both, and
        the step that was made with it."""
        sentences = []
        for short in (0.5, 0.75, 1.0, 1.5):   # LibTorch itself takes a third of a GiB
            budget = limit - int(short * GIB)
            result = self.ours_within(base, "s2", self.chosen.long_tokens, tokens, budget, limit)
            if "failed" not in result:
                print(f"  {self.chosen.long_tokens} tokens with memory.host_budget {budget / GIB:.1f} GiB: {result['peak_rss_gib']:.2f} GiB resident",
                      flush=True)
                return budget, result
            sentences.append(f"budget {budget / GIB:.1f} GiB: {result['failed']}")
            print(f"  {self.chosen.long_tokens} tokens, {sentences[-1]}", flush=True)
        raise Unverified(f"{self.chosen.long_tokens} tokens do not fit into {limit / GIB:.1f} GiB: " + "; ".join(sentences))

    def largest_peer(self, base: pathlib.Path, attention: str, tokens: pathlib.Path, limit: int) -> int:
        """In multiples of 1,024 tokens, by running it; 0: not even the first."""
        fits, fails = 0, 0
        while fails == 0 or fails - fits > 1:
            tried = max(1, 2 * fits) if fails == 0 else (fits + fails) // 2
            if 1024 * tried > self.chosen.long_tokens:
                break
            result = peer(base, 1024 * tried, attention, self.dtype, 1, tokens, limit_bytes=limit, timeout=self.chosen.peer_timeout)
            print(f"  peer, {attention}, {1024 * tried} tokens: {result.get('failed') or 'fits, ' + str(result['peak_rss_gib']) + ' GiB'}", flush=True)
            fits, fails = (tried, fails) if "failed" not in result else (fits, tried)
        return 1024 * fits

    def beside_rows(self, made: dict[tuple, list[dict]], largest: dict[str, int], budget: int, rate: float) -> list[dict]:
        rows = []
        for (who, attention, length), results in made.items():
            best = min(results, key=lambda r: r["step_s"])
            flops = step_flops(SHAPES["smollm2"], length, attention, "save_all").model
            rows.append({"op": "beside_peer", "shape": "SmolLM2-135M", "tokens": length, "variant": who, "attention": attention, "dtype": self.dtype,
                         "seconds": [r["step_s"] for r in results], "seconds_per_token": best["step_s"] / length,
                         "peak_rss_gib": max(r["peak_rss_gib"] for r in results), "limit_gib": self.chosen.limit_gib,
                         "share_of_product_rate": flops / best["step_s"] / 1e9 / rate} |
                        ({"host_budget_gib": budget / GIB, "peak_bytes": max(r["peak_bytes"] for r in results), "counted_by": best["counted_by"]}
                         if who == "ours" else {}))
        longest = max(largest.values())
        rows.append({"op": "reach", "shape": "SmolLM2-135M", "ours_tokens": self.chosen.long_tokens, "peer_tokens": largest,
                     "times": self.chosen.long_tokens / longest if longest else None})
        ours_peak = max(r["peak_rss_gib"] for (who, _, _), results in made.items() for r in results if who == "ours")
        return rows + [gate(f"our steps stay within {self.chosen.limit_gib:g} GiB of resident memory", ours_peak, self.chosen.limit_gib)]

    # ---- 100,000 tokens of a 7B-shaped layer

    def hundred_k(self) -> list[dict]:
        c = self.chosen
        shape = Shape(c.hidden, c.mlp, c.heads, c.heads, c.hidden // c.heads, c.vocabulary, c.layers)
        tokens = write_tokens(self.folder / "long.bin", shape.vocabulary, c.tokens + 1)
        recipe = Recipe(write_model(self.folder / "long", shape), tokens, c.tokens, 1, dtype="fp32", random=True, rope_factor=-(-c.tokens // 4096),
                        memory={"policy": "checkpoint", "halo_streaming": c.streaming})
        row = {"op": "long_step", "shape": str(shape), "tokens": c.tokens, "variant": variant_name("checkpoint", c.streaming),
               "processor": processor(), "niceness": os.nice(0)}
        plan = plan_of(self.program, recipe)
        if "refused" in plan:
            print(f"  refused: {plan['refused']}", flush=True)
            return [row | {"refused": plan["refused"]}]
        before = product_rate("float32", shape)
        flops = step_flops(shape, c.tokens, "s2", "checkpoint")
        print(f"  {shape}, {c.tokens} tokens: planned {planned_tensor_bytes(plan) / GIB:.2f} GiB, {flops.hardware / 1e12:.1f} TFLOP, "
              f"products at {before:.0f} GFLOP/s: about {flops.hardware / before / 1e9:.0f} s or more", flush=True)
        run = train(self.program, recipe, progress=30)
        if run.refused():
            print(f"  refused: {run.ended.sentence()}", flush=True)
            return [row | {"refused": run.ended.sentence()}]
        if why := run.why_not():
            raise Unverified(f"{c.tokens} tokens did not run: {why}")
        rate = max(before, product_rate("float32", shape))
        row |= beside_plan(plan, run) | {"seconds": [run.seconds], "predicted_seconds": [run.predicted_seconds], "tokens_per_second": c.tokens / run.seconds, "loss": run.lines[0]["loss"],
                                        "peak_rss_bytes": run.ended.peak_rss_bytes, "product_gflops": rate, "plan_parts": planned_parts(plan),
                                        "gflops_model": flops.model / run.seconds / 1e9, "gflops": flops.hardware / run.seconds / 1e9,
                                        "share_of_product_rate": flops.hardware / run.seconds / 1e9 / rate}
        print(f"  {run.seconds:.0f} s, {row['gflops']:.0f} GFLOP/s of {rate:.0f} ({100 * row['share_of_product_rate']:.0f} %), peak "
              f"{run.peak_bytes / GIB:.2f} GiB ({run.counted_by}), planned {row['memory_bytes_planned'] / GIB:.2f} GiB, resident "
              f"{run.ended.peak_rss_bytes / GIB:.2f} GiB", flush=True)
        return [row] + ([gate(f"planned and measured peak at most {100 * PLAN_BOUND:.0f} % apart", abs(row["plan_error"]), PLAN_BOUND)]
                        if "plan_error" in row else [])


LONG = 16384   # tokens of a step of minutes
STAGES = ["workspace", "policies", "smollm2", "hundred_k"]


def commit() -> str:
    asked = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
    return asked.stdout.strip() or "unknown"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(STAGES), metavar="STAGE,...")
    parser.add_argument("--json", type=pathlib.Path, default=ROOT / "out/bench_memory.json", metavar="FILE")
    parser.add_argument("--markdown", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--program", type=pathlib.Path, default=PROGRAM)
    parser.add_argument("--dtype", choices=["auto", "fp32", "bf16"], default="auto", help="of smollm2, both sides")
    for name, value, meaning in (("policy-tokens", 32768, "policies"), ("policy-layers", 3, "policies"), ("policy-heads", 9, "policies, a multiple of 3"), ("rounds", 3, "policies: timed rounds"),
                                 ("long-tokens", 32768, "smollm2"), ("rounds-beside", 2, "smollm2: timed rounds"),
                                 ("peer-timeout", 600, "smollm2: seconds of a try of the peer"), ("tokens", 100000, "hundred_k"),
                                 ("hidden", 4096, "hundred_k"), ("mlp", 11008, "hundred_k"), ("heads", 32, "hundred_k"),
                                 ("layers", 1, "hundred_k"), ("vocabulary", 512, "hundred_k")):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{meaning} (default {value})")
    parser.add_argument("--streaming", choices=["on", "off"], default="on", help="hundred_k: memory.halo_streaming")
    parser.add_argument("--limit-gib", type=float, default=6, help="smollm2 (default 6)")
    chosen = parser.parse_args()
    chosen.stages = [s for s in STAGES if s in chosen.only.split(",")]
    if unknown := set(chosen.only.split(",")) - set(STAGES):
        page.stop(f"bench_memory.py: unknown stage '{unknown.pop()}'; stages are {' '.join(STAGES)}", 64)
    if chosen.hidden % chosen.heads or min(chosen.rounds, chosen.rounds_beside) < 1:
        page.stop("bench_memory.py: --hidden must be a multiple of --heads, rounds at least 1", 64)
    if not chosen.render:
        measures = {"smollm2", "hundred_k"} & set(chosen.stages)   # the product rate and the peer
        for needed, remedy in ((chosen.program, "scripts/build.sh cpu"), (PYTHON, "scripts/setup.sh")):
            if not needed.exists() and (needed == chosen.program or measures):
                page.stop(f"bench_memory.py: {needed} is not there; run {remedy}", 66)
    return chosen


def main() -> int:
    chosen = arguments()
    kept = json.loads(chosen.json.read_text()) if chosen.json.exists() else {}
    failed = []
    for stage in [] if chosen.render else chosen.stages:
        print(f"bench_memory: {stage}", flush=True)
        started = time.monotonic()
        try:
            with tempfile.TemporaryDirectory() as folder:
                rows = getattr(Stages(chosen, pathlib.Path(folder)), stage)()
        except Unverified as why:
            failed.append(f"{stage}: {why}; nothing of it is kept")
            print(f"bench_memory: FAILED: {failed[-1]}", file=sys.stderr, flush=True)
            continue
        if stage == "hundred_k":   # half an hour and more each: what was measured at other widths stays
            rows = [r for r in kept.get(stage, {}).get("rows", []) if r["op"] == "long_step" and r["shape"] != rows[0]["shape"]] + rows
        failed += [f"{stage}: {r['sentence']}: {r['value']}" for r in rows if not r.get("passed", True)]
        kept[stage] = {"date": time.strftime("%Y-%m-%d"), "processor": processor(), "commit": commit(), "took_seconds": round(time.monotonic() - started),
                       "rows": rows}
        page.write(chosen.json, json.dumps(kept, indent=1) + "\n")   # a later stage that ends early takes nothing with it
    if chosen.markdown:
        page.write(chosen.markdown, page.markdown(kept))
    print(f"bench_memory: {len(failed)} failures" + "".join(f"\n  {f}" for f in failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
