"""Every tensor of an imported GGUF file against gguf-py's dequantisation and an un-permute written from the definition.

usage: gguf_parity.py FILE.gguf IMPORTED_FOLDER [--logits]
IMPORTED_FOLDER is what `longlora-train import --from FILE.gguf --to FOLDER` wrote (fp32). --logits also compares the logits of
the folder with those of transformers' own GGUF loader.
"""

import json
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gguf
import numpy as np
from safetensors import safe_open

NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
         "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}


def hf_name(name):
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{NAMES[part]}.weight"


def unpermuted(rows, head_dim):
    out = np.empty_like(rows)
    for row in range(rows.shape[0]):
        head, rest = divmod(row, head_dim)
        half, i = divmod(rest, head_dim // 2)
        out[row] = rows[head * head_dim + 2 * i + half]
    return out


def check_tensors(path, folder):
    reader = gguf.GGUFReader(path)
    config = json.load(open(os.path.join(folder, "config.json")))
    files = [f for f in os.listdir(folder) if f.endswith(".safetensors")]
    ours = {}
    for f in files:
        opened = safe_open(os.path.join(folder, f), "np")
        ours.update({key: opened for key in opened.keys()})
    checked = 0
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            continue
        shape = [int(n) for n in reversed(tensor.shape)]
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(shape).astype(np.float32)
        name = hf_name(tensor.name)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            expected = unpermuted(expected, config["head_dim"])
        found = ours.pop(name).get_tensor(name)
        assert found.dtype == np.float32 and list(found.shape) == shape, (name, found.dtype, found.shape, shape)
        assert np.array_equal(found.view(np.uint32), expected.view(np.uint32)), f"{name}: {np.abs(found - expected).max()}"
        checked += 1
    assert not ours, f"tensors that the GGUF file does not have: {sorted(ours)}"
    assert checked == len([t for t in reader.tensors if t.name != "rope_freqs.weight"]) and checked > 0
    return checked


def check_logits(path, folder):
    import torch
    from transformers import AutoModelForCausalLM
    ids = torch.arange(1, 257).reshape(1, -1) * 37 % 1000
    with torch.no_grad():
        ours = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
        theirs = AutoModelForCausalLM.from_pretrained(os.path.dirname(path), gguf_file=os.path.basename(path), dtype=torch.float32)(ids).logits
    difference = (ours - theirs).abs().max().item()
    assert difference <= 1e-3, f"logits differ by {difference}"
    return difference


if __name__ == "__main__":
    count = check_tensors(sys.argv[1], sys.argv[2])
    print(f"gguf parity: {count} tensors, 0 differences")
    if "--logits" in sys.argv:
        print(f"gguf parity: logits differ by at most {check_logits(sys.argv[1], sys.argv[2]):.2e}")
