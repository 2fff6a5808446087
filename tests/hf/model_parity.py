#!/usr/bin/env python3
"""Logits, loss and every gradient equal to transformers (and peft) with autograd, on random tiny models.

usage: model_parity.py PROBE [--keep FOLDER]

Grid: heads/KV 8/8, 8/2, 9/3, 5/5; head size 64, 80; tied and untied; RoPE linear and llama3; full and shifted sparse attention with ragged
lengths; full tuning (all weights) and LoRA (q k v o, or all seven, with norms, embedding and head) in turn. Bounds: logits 1e-4 of the
largest logit, every gradient 1e-4 relative (of its norm, and its largest error of its largest element), loss 1e-5.
"""
import argparse
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import hf_oracle  # noqa: E402

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ROPE = {
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "llama3": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64},
}
BOUND, LOSS_BOUND = 1e-4, 1e-5


def grid():
    cells = itertools.product([(8, 8), (8, 2), (9, 3), (5, 5)], [64, 80], [False, True], ["linear", "llama3"], ["full", "s2"])
    for index, (heads, size, tied, rope, attention) in enumerate(cells):
        tuning = "full" if bin(index).count("1") % 2 else "lora"           # both with every pair of the other factors
        yield dict(index=index, heads=heads[0], kv_heads=heads[1], head_dim=size, tied=tied, rope=rope, attention=attention,
                   tuning=tuning, tokens=(37, 53, 97, 131)[index // 2 % 4], group=(16, 26, 40, 64)[index % 4], rank=(4, 3)[index % 2],
                   alpha=6.0, targets=list(range(7 if index % 3 else 4)), train_head=not tied, row_tile=(4096, 32)[index // 3 % 2])


def build(case):
    torch.manual_seed(case["index"])
    config = LlamaConfig(vocab_size=160, hidden_size=16 * case["heads"], intermediate_size=104, num_hidden_layers=2,
                         num_attention_heads=case["heads"], num_key_value_heads=case["kv_heads"], head_dim=case["head_dim"],
                         max_position_embeddings=256, rms_norm_eps=1e-5,
                         tie_word_embeddings=case["tied"], initializer_range=0.1, rope_parameters=dict(ROPE[case["rope"]]))
    model = LlamaForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.1 * torch.randn_like(parameter))
    return model


def add_adapters(model, case):
    """peft's LoRA with random A and B; everything that LoRA+ trains requires a gradient."""
    model = get_peft_model(model, LoraConfig(r=case["rank"], lora_alpha=case["alpha"], task_type="CAUSAL_LM",
                                             target_modules=[TARGETS[t] for t in case["targets"]])).eval()
    adapters = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn_like(parameter))
                adapters[name.removeprefix("base_model.model.").replace(".default", "")] = parameter.detach().clone()
            parameter.requires_grad_(any(part in name for part in ("lora_", "norm", "embed_tokens", "lm_head")))
    return model, adapters


def write_case(folder, case):
    """The folder that the probe reads, and what the oracle says about it."""
    model = build(case)
    model.save_pretrained(folder / "model")
    adapters = {}
    if case["tuning"] == "lora":
        model, adapters = add_adapters(model, case)
    hf_oracle.use_attention(model, case["attention"], case["group"])
    ids = torch.randint(0, 160, (2, case["tokens"] + 1))
    labels = ids[:, 1:].masked_fill(torch.rand(2, case["tokens"]) < 0.15, -100)
    save_file({"ids": ids[:, :-1].int().contiguous(), "labels": labels.int().contiguous(), **adapters}, folder / "input.safetensors")
    (folder / "probe.json").write_text(json.dumps(case))
    return hf_oracle.run(model, ids[:, :-1], labels)


def error_of(got, expected):
    """The larger of: norm of the difference over norm, largest difference over largest element."""
    if got.shape != expected.shape:
        return float("inf")
    difference = (got.double() - expected.double()).abs()
    expected = expected.double()
    return max(float(difference.norm() / expected.norm()), float(difference.max() / expected.abs().max()))


def compare(folder, case, oracle):
    """(largest logit error, largest gradient error, problems)"""
    nll, logits, gradients = oracle
    out = load_file(folder / "out.safetensors")
    problems = []
    logit_error = float((out["logits"] - logits).abs().max() / logits.abs().max())
    if not logit_error < BOUND:
        problems.append(f"logits {logit_error:.1e}")
    if not abs(out["nll_sum"].item() / nll - 1) < LOSS_BOUND:
        problems.append(f"loss sum {out['nll_sum'].item()} against {nll}")
    ours = {name.removeprefix("grad."): t for name, t in out.items() if name.startswith("grad.")}
    if set(ours) != set(gradients):
        problems.append(f"gradients of {sorted(set(ours) ^ set(gradients))} on one side only")
    errors = {name: error_of(ours[name], gradients[name]) for name in sorted(set(ours) & set(gradients))}
    problems += [f"{name} {error:.1e}" for name, error in errors.items() if not error < BOUND]
    return logit_error, max(errors.values()), len(errors), problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("probe")
    parser.add_argument("--keep", type=pathlib.Path, help="write the cases here instead of a temporary folder")
    arguments = parser.parse_args()
    torch.set_num_threads(1)                                               # tiny products gain nothing from a second thread
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.keep or pathlib.Path(temporary)
        runs = []
        for case in grid():
            folder = root / f"case{case['index']:02d}"
            (folder / "model").mkdir(parents=True, exist_ok=True)
            runs.append((folder, case, write_case(folder, case)))
        subprocess.run([arguments.probe, *[str(folder) for folder, _, _ in runs]], check=True)
        failures, worst_logit, worst_gradient, gradients = 0, 0.0, 0.0, 0
        for folder, case, oracle in runs:
            logit_error, gradient_error, count, problems = compare(folder, case, oracle)
            worst_logit, worst_gradient, gradients = max(worst_logit, logit_error), max(worst_gradient, gradient_error), gradients + count
            for problem in problems:
                print(f"{json.dumps(case)}: {problem}")
            failures += bool(problems)
        print(f"{len(runs)} models, {gradients} gradients: largest error of logits {worst_logit:.1e}, of gradients {worst_gradient:.1e}")
        return 1 if failures or len(runs) != 64 else 0


sys.exit(main())
