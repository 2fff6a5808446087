#!/usr/bin/env python3
"""Planned against measured memory: trains tiny random models and compares the plan with what the program counted.

    scripts/plan_accuracy.py [PROGRAM] [--markdown FILE] [--only TEXT] [--jobs N]

Every case is one run of two steps of the real program; memory.json of its folder holds the plan and the measured peak of a step, in
total and by component. Fails when a total differs by more than 3 % of the measured bytes, when a case does not run, or when the second
step asked for a piece of more than 1 MiB (tensors are views of what was allocated before it). --markdown writes the table with date and
processor, for docs/benchmarks.

oneDNN is held to AVX2: where a processor has matrix units for bf16, its products take scratch of their own (some
megabytes whatever the width), which no plan has and which would be percents of models as small as these.
"""
import argparse
import concurrent.futures
import dataclasses
import datetime
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

BOUND_PERCENT = 3.0
ENVIRONMENT = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
VOCABULARY = 512
COMPONENTS = ("weights", "optimizer_and_gradient", "gradient_tree", "tables", "activations", "offloaded_inputs", "other")


@dataclasses.dataclass(frozen=True)
class Case:
    tokens: int
    policy: str = "checkpoint"
    streaming: str = "off"
    group: int = 0                # 0: full attention
    layers: int = 2
    hidden: int = 64
    ffn: int = 176
    heads: int = 8
    kv_heads: int = 8
    tied: bool = False
    mode: str = "lora"
    compute: str = "fp32"
    micro_batch: int = 1
    accumulation: int = 1
    dropout: float = 0.0
    targets: str = "q v"
    embeddings: bool = True
    ranks: int = 1                # over tcp; measured on rank 0
    sequence_parallel: int = 1
    shard_weights: str = "none"
    shard_state: str = "auto"
    share: float = 0.0            # of the bytes of save_all: the budget of policy auto; 0: no limit

    @property
    def name(self):
        attention = f"g{self.group}" if self.group else "full"
        words = [f"{self.tokens}", attention, self.policy + (f" {self.share:g}" if self.share else ""), f"stream {self.streaming}",
                 f"L{self.layers} h{self.hidden}", f"H{self.heads}/{self.kv_heads}", "tied" if self.tied else "untied", self.mode, self.compute]
        words += [f"B{self.micro_batch}"] if self.micro_batch > 1 else []
        words += [f"x{self.accumulation}"] if self.accumulation > 1 else []
        words += [f"drop {self.dropout:g}"] if self.dropout else []
        words += [f"targets {self.targets}"] if self.targets != "q v" else []
        words += [f"{self.ranks} ranks"] if self.ranks > 1 else []
        words += ["rows shared"] if self.sequence_parallel > 1 else []
        words += ["weights shared"] if self.shard_weights != "none" else []
        words += ["state whole"] if self.shard_state == "off" else []
        words += [] if self.embeddings or self.mode == "full" else ["no embedding"]
        return ", ".join(words)


def cases():
    short, middle = dict(tokens=512, group=128, layers=4), dict(tokens=4096, group=1024)
    wide = dict(tokens=16384, hidden=32, ffn=88, heads=4, kv_heads=4)              # whole rows, blocks far below a row tile
    long = wide | dict(group=8192)                                                  # b = 4096: the least that can be streamed
    gqa, everything = dict(kv_heads=2), "q k v o gate up down"
    return [
        Case(**short, policy="save_all"),
        Case(**short, policy="save_attention", **gqa),
        Case(**short, policy="checkpoint", tied=True),
        Case(**short, policy="auto", compute="bf16"),
        Case(**short, policy="checkpoint", mode="full"),
        Case(**short, policy="save_all", mode="full", tied=True, compute="bf16"),
        Case(**short, policy="save_attention", micro_batch=2, accumulation=3),
        Case(**short, policy="checkpoint", dropout=0.1, targets=everything),
        Case(**short, policy="checkpoint_offload", **gqa, accumulation=3),
        Case(tokens=512, layers=4, policy="checkpoint", compute="bf16", **gqa),     # full attention
        Case(**middle, policy="save_all", **gqa),
        Case(**middle, policy="save_attention", tied=True, compute="bf16"),
        Case(**middle, policy="checkpoint", micro_batch=2),
        Case(**middle, policy="checkpoint", mode="full", **gqa, accumulation=3),
        Case(**middle, policy="auto", share=0.7),
        Case(**middle, policy="auto", share=0.85, compute="bf16", **gqa),
        Case(**middle, policy="save_all", targets=everything, dropout=0.2, compute="bf16"),
        Case(**middle, policy="checkpoint_offload", tied=True),
        Case(**middle, policy="checkpoint_offload", compute="bf16", micro_batch=2, embeddings=False),
        Case(tokens=4096, group=512, policy="save_attention", hidden=32, heads=4, kv_heads=1, ffn=64, layers=6, embeddings=False),
        Case(tokens=4096, policy="save_all"),                                       # full attention
        Case(**wide, group=2048, policy="save_all"),
        Case(**(wide | dict(kv_heads=1)), group=2048, policy="save_attention"),
        Case(**long, policy="checkpoint", streaming="on"),
        Case(**long, policy="checkpoint", streaming="off"),
        Case(**long, policy="checkpoint", streaming="auto"),
        Case(**(long | dict(kv_heads=2)), policy="save_attention", streaming="on"),
        Case(**long, policy="save_all", streaming="on"),
        Case(**long, policy="save_attention", streaming="off"),
        Case(**long, policy="checkpoint_offload", streaming="on"),
        Case(**(long | dict(kv_heads=1)), policy="checkpoint_offload", streaming="on"),
        Case(**long, policy="checkpoint_offload", streaming="off", tied=True),
        Case(**long, policy="auto", streaming="auto", share=0.6, compute="bf16"),
        Case(**long, policy="checkpoint", streaming="on", compute="bf16", mode="full"),
        Case(**long, policy="save_attention", streaming="on", dropout=0.1, targets=everything),
        Case(**(long | dict(tokens=20000)), policy="checkpoint", streaming="on"),   # a ragged last block
        Case(**short, policy="save_all", accumulation=4, ranks=2),
        Case(**short, policy="save_attention", accumulation=6, ranks=2, mode="full", shard_state="off"),
        Case(**middle, policy="checkpoint", accumulation=2, ranks=2, shard_weights="frozen"),
        Case(**middle, policy="save_attention", compute="bf16", ranks=2, sequence_parallel=2, **gqa),
    ]


def model_folder(folder, case):
    return folder / f"model-l{case.layers}-h{case.hidden}-f{case.ffn}-{case.heads}-{case.kv_heads}-{case.tokens}{'-tied' if case.tied else ''}"


def write_model(folder, case):
    folder.mkdir(exist_ok=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": case.hidden, "intermediate_size": case.ffn,
              "num_hidden_layers": case.layers, "num_attention_heads": case.heads, "num_key_value_heads": case.kv_heads,
              "head_dim": case.hidden // case.heads, "vocab_size": VOCABULARY, "max_position_embeddings": case.tokens, "rms_norm_eps": 1e-5,
              "rope_theta": 10000.0, "tie_word_embeddings": case.tied, "torch_dtype": "float32", "eos_token_id": 2}
    (folder / "config.json").write_text(json.dumps(config))


def write_tokens(path, count):
    rng = random.Random(1)
    path.write_bytes(b"".join(rng.randrange(3, VOCABULARY).to_bytes(2, "little") for _ in range(count)))


def write_config(place, case, tokens, budget):
    tuning = {"mode": case.mode}
    if case.mode == "lora":
        tuning["lora"] = {"rank": 8, "drop_probability": case.dropout, "targets": [t + "_proj" for t in case.targets.split()]}
        tuning["train_embeddings"] = case.embeddings
    attention = {"kind": "s2", "group_size": case.group} if case.group else {"kind": "full"}
    memory = {"policy": case.policy, "halo_streaming": case.streaming} | ({"host_budget": budget} if budget else {})
    values = {"model": {"path": str(model_folder(place.parent, case)), "init": "random"}, "tuning": tuning, "attention": attention, "memory": memory,
              "data": {"train": [{"path": str(tokens), "format": "raw_uint16"}], "sequence_length": case.tokens},
              "train": {"steps": 2, "global_batch": case.micro_batch * case.accumulation, "micro_batch": case.micro_batch},
              "precision": {"compute": case.compute}, "device": "cpu", "dist": {"sequence_parallel": case.sequence_parallel,
              "shard_weights": case.shard_weights, "shard_state": case.shard_state}, "log": {"tensorboard": False}, "output_dir": str(place / "out")}
    (place / "run.yaml").write_text(json.dumps(values))  # JSON is YAML
    return place / "run.yaml"


def call(program, *arguments, ranks=1):
    launch = [program, "launch", "--nproc-per-node", str(ranks), "--"] if ranks > 1 else []
    done = subprocess.run([*launch, program, "--threads", "1", "--progress", "none", *map(str, arguments)], capture_output=True, text=True,
                          timeout=300, env=ENVIRONMENT)
    if done.returncode != 0:
        raise RuntimeError(f"exit {done.returncode}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'no message'}")
    return done.stdout


def planned_total(program, place, case, tokens, policy):
    config = write_config(place, dataclasses.replace(case, policy=policy), tokens, 0)
    return json.loads(call(program, "plan", "-c", config, "--json"))["host_bytes"]["total"]


def budget_of(program, place, case, tokens):
    """So that `auto` has to choose: between what recomputing everything and keeping everything would take."""
    if case.share == 0:
        return 0
    least, most = (planned_total(program, place, case, tokens, policy) for policy in ("checkpoint", "save_all"))
    return int(least + case.share * (most - least))


def run_case(program, folder, tokens, number, case):
    place = folder / f"case{number}"
    place.mkdir()
    started = time.monotonic()
    try:
        call(program, "train", "-c", write_config(place, case, tokens, budget_of(program, place, case, tokens)), ranks=case.ranks)
        result = json.loads((place / "out" / "memory.json").read_text())
        last = json.loads((place / "out" / "metrics.jsonl").read_text().splitlines()[1])
        result |= {"second_step_large_allocations": last["large_allocations"], "hash": last["hash"]}
    except (RuntimeError, OSError, subprocess.TimeoutExpired, KeyError, ValueError) as error:
        result = {"failure": str(error)}
    return result | {"case": case, "seconds": time.monotonic() - started}


def problem_of(result):
    if "failure" in result:
        return result["failure"]
    difference = result["total"]["difference_percent"]
    if difference is None or abs(difference) > BOUND_PERCENT:
        return f"differs by {difference} %, at most {BOUND_PERCENT:g} % is allowed"
    if result["second_step_large_allocations"] > 0:
        return f"{result['second_step_large_allocations']} allocations above 1 MiB in the second step"
    return ""


def difference_text(row, total_measured):
    """Percent of the total: which component a difference comes from."""
    planned, measured = row["planned_bytes"], row["measured_bytes"]
    return "" if planned == measured == 0 else f"{100 * (planned - measured) / total_measured:+.2f}"


def row_of(result):
    name = result["case"].name
    if "failure" in result:
        return [name, "", "", "", *[""] * len(COMPONENTS)]
    total, parts = result["total"], {part["name"]: part for part in result["components"]}
    cells = [difference_text(parts[component], total["measured_bytes"]) for component in COMPONENTS]
    return [name, f"{total['planned_bytes'] / 2**20:.3f}", f"{total['measured_bytes'] / 2**20:.3f}", f"{total['difference_percent']:+.2f}", *cells]


def differing_chains(results):
    """Runs that differ in memory alone must have one hash chain: parameters, losses and norms of both steps."""
    chains = {}
    for result in results:
        if "hash" in result:
            of = dataclasses.replace(result["case"], policy="", streaming="", share=0)  # ranks that share rows add in another order
            chains.setdefault(of, set()).add(result["hash"])
    compared = sum(1 for r in results if "hash" in r) - len(chains)
    return compared, [case.name for case, hashes in chains.items() if len(hashes) > 1]


HEADER = ["case", "planned MiB", "measured MiB", "difference %", *COMPONENTS]


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"


def markdown(results):
    worst = max((abs(r["total"]["difference_percent"]) for r in results if "failure" not in r), default=0.0)
    lines = ["# Planned against measured memory, CPU", "",
             f"{datetime.date.today().isoformat()}, {processor()}, `scripts/plan_accuracy.py`: {len(results)} runs of two steps, largest difference "
             f"{worst:.2f} % (allowed: {BOUND_PERCENT:g} %). oneDNN is held to AVX2.", "",
             "Bytes of tensors at the peak of a step. Columns behind the difference: what each component adds to it, in percent of the total.", "",
             "| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    lines += ["| " + " | ".join(row_of(result)) + " |" for result in results]
    lines += [""] + [f"Failed: {r['case'].name}: {problem_of(r)}" for r in results if problem_of(r)]
    return "\n".join(lines).rstrip() + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", nargs="?", default="build/bin/longlora-train")
    parser.add_argument("--markdown", type=pathlib.Path, help="write the table to this file")
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="runs at a time")
    options = parser.parse_args()
    chosen = [case for case in cases() if options.only in case.name]
    if not chosen:
        parser.error(f"no case contains '{options.only}'")
    program = str(pathlib.Path(options.program).resolve())
    with tempfile.TemporaryDirectory(prefix="longlora-plan-") as name, concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        folder = pathlib.Path(name)
        write_tokens(folder / "train.bin", 130_000)
        for case in chosen:
            write_model(model_folder(folder, case), case)
        futures = [pool.submit(run_case, program, folder, folder / "train.bin", i, case) for i, case in enumerate(chosen)]
        results = []
        for future in futures:
            result = future.result()
            results.append(result)
            cells = row_of(result)
            print(f"{cells[0]:<80} {' '.join(f'{c:>8}' for c in cells[1:])}  {result['seconds']:5.1f} s  {problem_of(result) or 'ok'}", flush=True)
    if options.markdown:
        options.markdown.write_text(markdown(results))
    failed = sum(bool(problem_of(result)) for result in results)
    compared, differing = differing_chains(results)
    print(f"{len(results)} cases, {failed} failed; columns: {', '.join(HEADER)}")
    print(f"{compared} hash chains compared with those of other policies, {len(differing)} differ: {'; '.join(differing) or 'none'}")
    return 1 if failed or differing else 0


if __name__ == "__main__":
    sys.exit(main())
