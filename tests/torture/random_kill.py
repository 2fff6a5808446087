#!/usr/bin/env python3
"""Kills the real trainer at random moments and resumes it with --resume auto until at least --kills kills have hit a living process.

An interrupted run is right if and only if its last hash equals the uninterrupted run's. Every metrics line must agree too, apart from
time, speed and memory; every checkpoint that was reported as saved must have been there after the kill. Only the standard library is
used. Seeded: the same --seed draws the same delays.
"""
import argparse
import json
import os
import pathlib
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time

STEPS = 24
EXACT_FIELDS = ("step", "loss", "grad_norm", "lr", "tokens", "hash")
CONFIG_JSON = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128, "max_position_embeddings": 32, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "tie_word_embeddings": False, "initializer_range": 0.05, "torch_dtype": "float32",
}
CONFIG_YAML = """\
model: {{path: {root}/model, init: random, dtype: fp32}}
precision: {{compute: fp32}}
tuning: {{mode: full}}
attention: {{kind: s2, group_size: 32}}
data: {{train: [{{path: {root}/tokens.bin, format: raw_uint16}}], sequence_length: 64, eos: 2}}
train: {{steps: {steps}, global_batch: 4, micro_batch: 2, seed: 7}}
optimizer: {{learning_rate: 0.01}}
schedule: {{kind: cosine, warmup_steps: 3}}
checkpoint: {{every: 2, keep: 2}}
output_dir: {root}/reference
"""


class Failure(Exception):
    pass


def prepare(root, seed):
    (root / "model").mkdir()
    (root / "model/config.json").write_text(json.dumps(CONFIG_JSON))
    draw = random.Random(seed)
    tokens = [draw.randrange(3, 128) if i % 97 else 2 for i in range(20_000)]
    (root / "tokens.bin").write_bytes(struct.pack(f"<{len(tokens)}H", *tokens))
    (root / "run.yaml").write_text(CONFIG_YAML.format(root=root, steps=STEPS))


def start(binary, root, output, log):
    # Waiting threads sleep instead of spinning: on a busy machine the same run is six times faster, with the same bits.
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    return subprocess.Popen([binary, "train", "-c", root / "run.yaml", "--output-dir", root / output, "--resume", "auto"],
                            stdout=log, stderr=subprocess.STDOUT, cwd=root, env=environment)


def metrics(folder):
    lines = (folder / "metrics.jsonl").read_bytes().split(b"\n")
    if lines[-1] != b"":
        raise Failure(f"{folder}/metrics.jsonl ends in half a line")
    return [json.loads(line) for line in lines[:-1]]


def compare(root, output, reference):
    """The finished run against the uninterrupted one."""
    got = metrics(root / output)
    if [line["step"] for line in got] != [line["step"] for line in reference]:
        raise Failure(f"{output}: steps {[line['step'] for line in got]}")
    for mine, right in zip(got, reference):
        for field in EXACT_FIELDS:
            if mine.get(field) != right.get(field):
                raise Failure(f"{output}: step {right['step']}: {field} is {mine.get(field)}, uninterrupted {right.get(field)}")


def check_promises(folder, log):
    """What was reported as saved is there, or was rotated away by a newer complete one."""
    saved = [int(line.split()[2]) for line in log.read_text(errors="replace").splitlines() if line.startswith("saved step ")]
    if not saved:
        return
    steps = sorted(int(name.removeprefix("step-")) for name in os.listdir(folder / "checkpoints") if name.startswith("step-"))
    if not steps or steps[-1] < max(saved):
        raise Failure(f"step {max(saved)} was reported as saved, visible are {steps}")


def run_whole(binary, root, output):
    log = root / f"{output}.log"
    with open(log, "w") as file:
        begin = time.monotonic()
        code = start(binary, root, output, file).wait()
    if code != 0:
        raise Failure(f"the uninterrupted run ended with {code}:\n{log.read_text(errors='replace')[-2000:]}")
    return time.monotonic() - begin


def kill_once(binary, root, output, delay):
    """True when the process was alive at the kill; False when it had finished with 0."""
    log = root / f"{output}.log"
    with open(log, "w") as file:
        process = start(binary, root, output, file)
        try:
            code = process.wait(timeout=delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            code = process.wait()
    if code == -signal.SIGKILL:
        if (root / output / "checkpoints").is_dir():
            check_promises(root / output, log)
        return True
    if code != 0:
        raise Failure(f"{output}: resumed run ended with {code}:\n{log.read_text(errors='replace')[-2000:]}")
    return False


def torture(binary, root, kills, draw, seconds, reference):
    hits = runs = 0
    while hits < kills:
        runs += 1
        output = f"killed-{runs}"
        while kill_once(binary, root, output, draw.uniform(0.02, 1.1) * seconds):
            hits += 1
            if hits == kills:
                while kill_once(binary, root, output, 600):
                    pass
                break
        compare(root, output, reference)
    return hits, runs


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True, type=lambda text: pathlib.Path(text).resolve())
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="longlora-kill-") as folder:
        root = pathlib.Path(folder)
        prepare(root, args.seed)
        seconds = run_whole(args.binary, root, "reference")
        reference = metrics(root / "reference")
        if len(reference) != STEPS or not all(line.get("hash") for line in reference):
            raise Failure(f"the uninterrupted run has {len(reference)} metrics lines with hashes, expected {STEPS}")
        begin = time.monotonic()
        hits, runs = torture(args.binary, root, args.kills, random.Random(args.seed), seconds, reference)
        print(f"uninterrupted {seconds:.1f} s; {hits} kills in {runs} runs, {time.monotonic() - begin:.0f} s; "
              f"last hash {reference[-1]['hash']}")
        print(f"torture: {hits} faults, 0 losses, 0 wrong codes")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        print(failure)
        print("torture: 1 faults, 1 losses, 0 wrong codes")
        sys.exit(1)
