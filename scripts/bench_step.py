#!/usr/bin/env python3
"""Seconds of a training step of a Llama-shaped model with random weights, through the program itself; one JSON line a result.

  scripts/bench_step.py [--program FILE] [--device cuda|cpu] [--shape 7b|tiny] [--lengths 8192,32768,65536,102400]
                        [--policies checkpoint,save_attention,checkpoint_offload,checkpoint+streamed,checkpoint_offload+streamed]
                        [--layers 2,4] [--attentions s2,full] [--device-memory GIB] [--peak-tflops N] [--seconds S]
  scripts/bench_step.py --largest-context [--policies ...]     the longest sequence that the plan allows, then a real step of that length

The paper's recipe: LoRA rank 8 on q, k, v, o, trainable embedding and norms, batch 1, AdamW, clipping, group a quarter of the sequence.
`+streamed` turns halo streaming on (where half a group holds a row tile), no suffix turns it off; `auto` and --largest-context leave it to
the plan. Two runs with few layers give the time of a layer (the difference) and of the rest (embedding, head, loss, optimizer); the step of
the whole model is computed from both and marked so: "measured_layers" says what ran. With one number in --layers, or `whole`, that model
runs and nothing is computed. Four steps a run, the first one warms up, the best counts; the largest context takes two. Every row has the
planned and the measured peak of tensor bytes of its last run; more than 3 % apart is marked "plan_off". MFU and HFU (docs/memory.md,
section 5) are shares of --peak-tflops, else of the product rate that the program measures.
The largest context is tried at the planned length, then up to three times 5 % lower; "attempts" keeps what failed. What would probably not
end within --seconds is not started.
"""
import argparse
import dataclasses
import json
import math
import pathlib
import sys
import tempfile
import time

from bench_shared import GIB, PLAN_BOUND, ROOT, ROW_TILE, SHAPES, Recipe, Run, Shape, beside_plan, plan_of, planned_tensor_bytes, step_flops, train, \
    write_model, write_tokens

STEPS, CONTEXT_STEPS, ATTEMPTS = 4, 2, 4
EXPECTED_SHARE, START_SECONDS = 0.35, 60   # of the peak, and of a start: only to decide what is begun


def memory_of(variant: str, device_memory_gib: float) -> dict:
    policy, _, suffix = variant.partition("+")
    keys = {"policy": policy} | ({} if policy == "auto" else {"halo_streaming": "on" if suffix == "streamed" else "off"})
    return keys | ({"device_budget": int(device_memory_gib * GIB)} if device_memory_gib else {})


class Bench:
    def __init__(self, chosen: argparse.Namespace):
        self.chosen, self.end = chosen, time.monotonic() + chosen.seconds
        self.shape: Shape = SHAPES[chosen.shape]
        self.last, self.failed = 0.0, False

    def left(self) -> float:
        return self.end - time.monotonic()

    def run(self, layers: int, length: int, attention: str, memory: dict, steps: int) -> tuple[dict, Run]:
        """The plan of a run, and the run."""
        shape = dataclasses.replace(self.shape, layers=layers)
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            tokens = write_tokens(folder / "tokens.bin", shape.vocabulary, 2 * length + 1)
            recipe = Recipe(write_model(folder / "model", shape), tokens, length, steps, attention, random=True, device=self.chosen.device,
                            rope_factor=max(1, math.ceil(length / 4096)), memory=memory)
            plan = plan_of(self.chosen.program, recipe, *self.plan_arguments())
            return plan, train(self.chosen.program, recipe, timeout=max(1.0, self.left()))

    def plan_arguments(self) -> list:
        return ["--device-memory", self.chosen.device_memory] if self.chosen.device == "cuda" else []

    def header(self, op: str, shape: str, variant: str) -> dict:
        return {"op": op, "shape": shape, "variant": variant, "deterministic": True, "baseline": False, "device": self.chosen.device}

    def rates(self, layers: int, length: int, attention: str, policy: str, seconds: float, plan: dict, run: Run, run_layers: int) -> dict:
        """Speed of a step of `layers` layers; the program's own product rate is read out of the MFU of the run."""
        flops = step_flops(dataclasses.replace(self.shape, layers=layers), length, attention, policy)
        hardware = flops.hardware
        if policy == "auto" and "refused" not in plan:   # only the plan knows what each layer keeps
            hardware = flops.model * plan["flops"]["hardware"] / plan["flops"]["model"]
        peak = self.chosen.peak_tflops
        mfu_of_run = run.lines[-1].get("mfu", 0)
        if not peak and mfu_of_run > 0:
            done = step_flops(dataclasses.replace(self.shape, layers=run_layers), length, attention, policy).model
            peak = done / run.lines[-1]["seconds"] / mfu_of_run / 1e12
        row = {"tokens_per_second": length / seconds, "tflops": flops.model / seconds / 1e12}
        if peak:
            row |= {"mfu": flops.model / seconds / peak / 1e12, "hfu": hardware / seconds / peak / 1e12, "peak_tflops": peak}
        return row

    def compared(self, plan: dict, run: Run) -> dict:
        row = beside_plan(plan, run)
        if "refused" in plan:
            row["plan_off"] = f"the plan refuses what ran: {plan['refused']}"
        elif abs(row.get("plan_error", 0)) > PLAN_BOUND:
            row["plan_off"] = (f"planned {row['memory_bytes_planned'] / GIB:.2f} GiB, measured {run.peak_bytes / GIB:.2f} GiB: "
                               f"{100 * row['plan_error']:+.1f} %, allowed {100 * PLAN_BOUND:.0f} %")
        return row

    def step(self, length: int, attention: str, variant: str) -> dict | None:
        """None: the time was over before it was measured."""
        layers, whole = self.chosen.layers, self.shape.layers
        few, more = layers[0], layers[-1]
        memory = memory_of(variant, self.chosen.device_memory)
        computed = len(layers) == 2
        row = self.header("training_step", f"{self.chosen.shape} T={length} {attention}" + ("" if computed else f", {more} layers"), variant)
        first = self.run(few, length, attention, memory, STEPS)[1] if computed else None
        plan, second = self.run(more, length, attention, memory, STEPS)
        for run in filter(None, (first, second)):
            if run.ended.stopped:   # by the clock
                print(f"bench_step.py: {length} tokens, {variant}: {run.ended.stopped}", file=sys.stderr)
                return None
        if failed := (first.why_not() if first else "") or second.why_not():
            return row | {"failed": failed}
        policy, step = memory["policy"], second.seconds
        if computed:
            layer = (second.seconds - first.seconds) / (more - few)
            if layer <= 0:
                return row | {"failed": f"{more} layers took no longer than {few}: the time of a layer is lost in noise"}
            rest = max(0.0, first.seconds - few * layer)
            step = rest + whole * layer
            row |= {"measured_layers": [few, more], "extrapolated_layers": whole, "layer_us": 1e6 * layer, "rest_us": 1e6 * rest,
                    "measured_us": 1e6 * second.seconds}
        return (row | {"median_us": 1e6 * step} | self.rates(whole if computed else more, length, attention, policy, step, plan, second, more) |
                self.compared(plan, second))

    def largest_context(self, variant: str) -> dict | None:
        """None: there is no time for it."""
        layers = self.chosen.layers[-1]
        memory = {k: v for k, v in memory_of(variant, self.chosen.device_memory).items() if k != "halo_streaming"}
        row = self.header("largest_context", f"{self.chosen.shape} s2, {layers} layers", variant)
        planned = self.solve(layers, memory)
        if isinstance(planned, str):
            return row | {"failed": planned}
        row |= {"planned_tokens": planned, "attempts": []}
        for attempt in range(ATTEMPTS):
            length = int(planned * (1 - 0.05 * attempt)) // 256 * 256
            needed = self.expected_seconds(layers, length, memory["policy"])
            if length < 256 or needed > self.left():
                print(f"bench_step.py: no time left for {length} tokens, {variant}: takes about {needed:.0f} s", file=sys.stderr)
                return row | {"failed": f"none of {len(row['attempts'])} lengths ran"} if row["attempts"] else None
            plan, run = self.run(layers, length, "s2", memory, CONTEXT_STEPS)
            if not (why := run.why_not()):
                return (row | {"tokens": length, "median_us": 1e6 * run.seconds} |
                        self.rates(layers, length, "s2", memory["policy"], run.seconds, plan, run, layers) | self.compared(plan, run))
            if run.ended.stopped:   # by the clock
                print(f"bench_step.py: {length} tokens, {variant}: {run.ended.stopped}", file=sys.stderr)
                return None
            row["attempts"].append({"tokens": length, "failed": why} |
                                   ({} if "refused" in plan else {"memory_bytes_planned": planned_tensor_bytes(plan)}))
        return row | {"failed": f"none of {ATTEMPTS} lengths ran: {row['attempts'][-1]['failed']}"}

    def solve(self, layers: int, memory: dict) -> int | str:
        """The planner's largest length, or why there is none."""
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            shape = dataclasses.replace(self.shape, layers=layers)
            recipe = Recipe(write_model(folder / "model", shape), write_tokens(folder / "tokens.bin", shape.vocabulary, 4097), 4096, 1,
                            random=True, device=self.chosen.device, rope_factor=1, memory=memory)
            plan = plan_of(self.chosen.program, recipe, "--max-context", *self.plan_arguments())
        return plan.get("refused") or plan["max_context"] or "the plan fits no length"

    def expected_seconds(self, layers: int, length: int, policy: str) -> float:
        if not self.chosen.peak_tflops:
            return 0.0
        hardware = step_flops(dataclasses.replace(self.shape, layers=layers), length, "s2", policy).hardware
        return START_SECONDS + CONTEXT_STEPS * hardware / (EXPECTED_SHARE * 1e12 * self.chosen.peak_tflops)

    def emit(self, row: dict | None) -> None:
        if row:
            self.failed |= "failed" in row or "plan_off" in row
            print(json.dumps(row), flush=True)

    def steps(self) -> None:
        for length in map(int, self.chosen.lengths.split(",")):
            for attention in self.chosen.attentions.split(","):
                for variant in self.chosen.policies.split(","):
                    if variant.endswith("+streamed") and (attention == "full" or length // 8 < ROW_TILE):
                        continue   # such rows are never streamed
                    if 1.5 * self.last > self.left():
                        print(f"bench_step.py: no time left for {length} tokens, {attention}, {variant}", file=sys.stderr)
                        continue
                    started = time.monotonic()
                    self.emit(self.step(length, attention, variant))
                    self.last = time.monotonic() - started


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=str(ROOT / "build-cuda/bin/longlora-train"))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="7b")
    parser.add_argument("--lengths", default="8192,32768,65536,102400")
    parser.add_argument("--policies", default="checkpoint,save_attention")
    parser.add_argument("--attentions", default="s2")
    parser.add_argument("--layers", default="")
    parser.add_argument("--device-memory", type=float, default=0, metavar="GIB")
    parser.add_argument("--peak-tflops", type=float, default=0)
    parser.add_argument("--largest-context", action="store_true")
    parser.add_argument("--seconds", type=float, default=600)
    chosen = parser.parse_args()
    asked = chosen.layers or ("whole" if chosen.largest_context else "2,4")
    chosen.layers = [SHAPES[chosen.shape].layers] if asked == "whole" else [int(n) for n in asked.split(",")]
    if len(chosen.layers) > 2 or (len(chosen.layers) == 2 and (chosen.layers[0] >= chosen.layers[1] or chosen.largest_context)):
        sys.exit("bench_step.py: --layers wants 'whole', one number, or (not for --largest-context) two, the smaller one first")
    if chosen.device == "cuda" and not chosen.device_memory:
        chosen.device_memory = 76.0
    return chosen


def main() -> int:
    bench = Bench(arguments())
    if bench.chosen.largest_context:
        for variant in bench.chosen.policies.split(","):
            bench.emit(bench.largest_context(variant))
    else:
        bench.steps()
    return 1 if bench.failed else 0


if __name__ == "__main__":
    sys.exit(main())
