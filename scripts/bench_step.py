#!/usr/bin/env python3
"""Seconds of a training step of a Llama-shaped model with random weights, through the program itself; one JSON line a result.

  scripts/bench_step.py [--program FILE] [--device cuda|cpu] [--shape 7b|tiny] [--lengths 8192,32768,65536,102400]
                        [--policies checkpoint,save_attention] [--layers 2,4] [--attentions s2,full] [--seconds S]

The paper's recipe: LoRA rank 8 on q, k, v, o, trainable embedding and norms, batch 1, AdamW, clipping, group a quarter of the sequence. Two
runs with few layers give the time of a layer (the difference) and of the rest (embedding, head, loss, optimizer); the step of the whole
model is computed from both and marked so: "measured_layers" says what ran. Four steps a run, the first one warms up, the best counts.
With --seconds nothing is started that would probably end later.
"""
import argparse
import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHAPES = {   # hidden, mlp, heads, kv heads, head size, vocabulary, layers of the whole model
    "7b": (4096, 11008, 32, 32, 128, 32000, 32),
    "tiny": (128, 352, 4, 2, 32, 512, 8),
}
RANK, STEPS = 8, 4


def write_model(folder: pathlib.Path, shape: str, layers: int) -> None:
    hidden, mlp, heads, kv_heads, head_size, vocabulary, _ = SHAPES[shape]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocabulary, "hidden_size": hidden,
        "intermediate_size": mlp, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "head_dim": head_size, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "initializer_range": 0.02, "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False, "bos_token_id": 1,
        "eos_token_id": 2, "torch_dtype": "bfloat16"}))


def write_tokens(path: pathlib.Path, vocabulary: int, count: int) -> None:
    numbers = random.Random(1)
    path.write_bytes(struct.pack(f"<{count}H", *(numbers.randrange(3, vocabulary) for _ in range(count))))


def run(program: str, device: str, shape: str, layers: int, length: int, attention: str, policy: str) -> dict:
    """{"seconds": best step, "memory_bytes": peak, or "failed": why}"""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_model(folder / "model", shape, layers)
        write_tokens(folder / "tokens.bin", SHAPES[shape][5], 2 * length + 1)
        (folder / "step.yaml").write_text(f"""
model: {{path: {folder}/model, init: random}}
rope: {{scaling: linear, factor: {max(1, length // 4096)}}}
attention: {{kind: {attention}}}
tuning: {{mode: lora, lora: {{rank: {RANK}, alpha: 16}}}}
data:
  train: [{{path: {folder}/tokens.bin, format: raw_uint16}}]
  sequence_length: {length}
  shuffle: false
train: {{steps: {STEPS}, global_batch: 1}}
schedule: {{warmup_steps: 0}}
memory: {{policy: {policy}, on_oom: stop}}
checkpoint: {{every: 1000000}}
log: {{tensorboard: false}}
device: {device}
output_dir: {folder}/run
""")
        done = subprocess.run([program, "-q", "train", "-c", str(folder / "step.yaml")], capture_output=True, text=True)
        metrics = folder / "run/metrics.jsonl"
        lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
        if len(lines) < 2:   # an end after the steps, at the export, does not matter here
            return {"failed": (done.stderr.strip().splitlines() or ["no step was made"])[-1][-300:]}
        return {"seconds": min(line["seconds"] for line in lines[1:]), "memory_bytes": max(line["memory_peak_bytes"] for line in lines)}


def pairs(length: int, first: int, step: int) -> int:
    cuts = [0, *range(first, length, step), length]
    return sum((b - a) * (b - a + 1) // 2 for a, b in zip(cuts, cuts[1:]))


def step_flops(shape: str, layers: int, length: int, attention: str) -> float:
    """Of the model, without recomputation, exact causal pairs (docs/memory.md, section 5)."""
    hidden, mlp, heads, kv_heads, head_size, vocabulary, _ = SHAPES[shape]
    group, kv = length // 4, kv_heads * head_size
    full = length * (length + 1) // 2
    seen = heads * full if attention == "full" else heads // 2 * pairs(length, group, group) + (heads - heads // 2) * pairs(length, group // 2, group)
    frozen = layers * (2 * hidden * heads * head_size + 2 * hidden * kv + 3 * hidden * mlp)
    lora = RANK * layers * (6 * hidden + 2 * kv)
    return length * (4 * frozen + 6 * lora + 4 * vocabulary * hidden) + 3.5 * 4 * head_size * layers * seen


def measure(chosen: argparse.Namespace, length: int, attention: str, policy: str) -> dict:
    few, more = chosen.layers
    whole = SHAPES[chosen.shape][6]
    row = {"op": "training_step", "shape": f"{chosen.shape} T={length} {attention}", "variant": policy, "deterministic": True, "baseline": False,
           "device": chosen.device, "measured_layers": [few, more], "extrapolated_layers": whole}
    first, second = (run(chosen.program, chosen.device, chosen.shape, n, length, attention, policy) for n in (few, more))
    if failed := first.get("failed") or second.get("failed"):
        return row | {"failed": failed}
    layer = (second["seconds"] - first["seconds"]) / (more - few)
    if layer <= 0:
        return row | {"failed": f"{more} layers took no longer than {few}: the time of a layer is lost in noise"}
    rest = max(0.0, first["seconds"] - few * layer)
    step = rest + whole * layer
    return row | {"median_us": 1e6 * step, "layer_us": 1e6 * layer, "rest_us": 1e6 * rest, "measured_us": 1e6 * second["seconds"],
                  "tokens_per_second": length / step, "tflops": step_flops(chosen.shape, whole, length, attention) / step / 1e12,
                  "memory_bytes_measured": second["memory_bytes"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=str(ROOT / "build-cuda/bin/longlora-train"))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="7b")
    parser.add_argument("--lengths", default="8192,32768,65536,102400")
    parser.add_argument("--policies", default="checkpoint,save_attention")
    parser.add_argument("--attentions", default="s2")
    parser.add_argument("--layers", default="2,4")
    parser.add_argument("--seconds", type=float, default=600)
    chosen = parser.parse_args()
    chosen.layers = [int(n) for n in chosen.layers.split(",")]
    if len(chosen.layers) != 2 or chosen.layers[0] >= chosen.layers[1]:
        sys.exit("bench_step.py: --layers wants two numbers, the smaller one first")
    begin, last, failed = time.monotonic(), 0.0, False
    for length in map(int, chosen.lengths.split(",")):
        for attention in chosen.attentions.split(","):
            for policy in chosen.policies.split(","):
                if time.monotonic() - begin + 1.5 * last > chosen.seconds:
                    print(f"bench_step.py: no time left for {length} tokens, {attention}, {policy}", file=sys.stderr)
                    continue
                started = time.monotonic()
                row = measure(chosen, length, attention, policy)
                last = time.monotonic() - started
                failed |= "failed" in row
                print(json.dumps(row), flush=True)
    return 1 if failed else 0


sys.exit(main())
