"""Writes tests/config/golden_rope.inc: rotary frequencies as transformers computes them, for every RoPE type and shape.

usage: .deps/venv/bin/python tests/hf/make_rope_golden.py > tests/config/golden_rope.inc
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import json

import torch
import transformers
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
SMALL_LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 512}
YARN = {"type": "yarn", "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096}

# name, head size, M, sequence length, keys of config.json
CASES = [
    ("default_no_keys", 64, 2048, 2048, {}),
    ("default_theta", 128, 8192, 8192, {"rope_theta": 500000.0, "rope_scaling": None}),
    ("default_head_80", 80, 2048, 2048, {"rope_theta": 10000}),
    ("linear_old_shape", 128, 4096, 4096, {"rope_scaling": {"type": "linear", "factor": 8.0}}),
    ("linear_new_shape", 64, 4096, 4096, {"rope_theta": 100000.0, "rope_scaling": {"rope_type": "linear", "factor": 2.5}}),
    ("linear_parameters", 64, 4096, 4096, {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 20000.0}}),
    ("default_parameters", 128, 4096, 4096, {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}}),
    ("dynamic_at_m", 128, 4096, 4096, {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    ("dynamic_beyond", 128, 4096, 16384, {"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
    ("dynamic_below", 64, 4096, 100, {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}),
    ("llama3_8", 128, 131072, 131072, {"rope_theta": 500000.0, "rope_scaling": LLAMA3}),
    ("llama3_32", 64, 131072, 131072, {"rope_theta": 500000.0, "rope_scaling": {**LLAMA3, "factor": 32.0}}),
    ("llama3_parameters", 64, 2048, 2048, {"rope_parameters": {**SMALL_LLAMA3, "rope_theta": 10000.0}}),
    ("yarn_8", 128, 32768, 32768, {"rope_scaling": YARN}),
    ("yarn_betas", 64, 32768, 32768, {"rope_theta": 100000.0, "rope_scaling": {**YARN, "beta_fast": 16.0, "beta_slow": 2.0}}),
    ("yarn_not_truncated", 64, 32768, 32768, {"rope_scaling": {**YARN, "truncate": False}}),
    ("yarn_mscale", 64, 32768, 32768, {"rope_scaling": {**YARN, "mscale": 0.707, "mscale_all_dim": 1.0}}),
    ("yarn_attention_factor", 64, 32768, 32768, {"rope_scaling": {**YARN, "attention_factor": 1.25}}),
    ("yarn_parameters", 128, 16384, 16384, {"rope_parameters": {**YARN, "factor": 4.0, "rope_theta": 10000.0}}),
]


def frequencies(config, sequence_length):
    rotary = LlamaRotaryEmbedding(config)
    if rotary.rope_type == "dynamic" and sequence_length > config.max_position_embeddings:
        rotary(torch.zeros(1, dtype=torch.float32), torch.arange(sequence_length)[None])
    return rotary.inv_freq.to(torch.float32).tolist(), float(rotary.attention_scaling)


def main():
    print(f"// Written by tests/hf/make_rope_golden.py with transformers {transformers.__version__}, torch {torch.__version__}. Not edited by hand.")
    for name, head_dim, max_position, length, keys in CASES:
        full = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32, "hidden_size": head_dim * 2,
                "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": max_position, **keys}
        values, scale = frequencies(LlamaConfig.from_dict(json.loads(json.dumps(full))), length)
        print(f'{{"{name}", R"json({json.dumps(full)})json", {length}, {scale!r},')
        for i in range(0, len(values), 8):
            print(" {" * (i == 0) + "  " * (i > 0) + ", ".join(f"{v:.9g}" for v in values[i:i + 8]) + ("}}," if i + 8 >= len(values) else ","))


if __name__ == "__main__":
    main()
