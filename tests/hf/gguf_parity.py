"""Every tensor of an imported GGUF file against gguf-py's dequantisation and an un-permute written from the definition."""
import json
import os

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
    """`folder` is what `longlora-train import --from path` wrote in fp32; returns the number of tensors, all equal bit for bit."""
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
