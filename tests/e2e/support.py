"""Tiny models, texts and configurations for whole-program tests; runs the program and reads what it wrote."""
import json
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time

PROGRAM = sys.argv[1] if len(sys.argv) > 1 else "build/bin/longlora-train"
ERROR_LINE = re.compile(r"^longlora-train: error\[([a-z-]+)\]: .+ \(.+\); .+$")


def byte_alphabet():
    """GPT-2's printable stand-ins for the 256 bytes."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, extra = {}, 0
    for byte in range(256):
        if byte in kept:
            table[byte] = chr(byte)
        else:
            table[byte] = chr(256 + extra)
            extra += 1
    return table


def write_tokenizer(folder):
    """A byte-level tokenizer without merges: id = rank of the byte, 256 = end of text."""
    vocab = {c: i for i, c in enumerate(sorted(byte_alphabet().values()))}
    added = [{"id": 256, "content": "<|endoftext|>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None, "pre_tokenizer": level,
                 "post_processor": None, "decoder": level,
                 "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                           "fuse_unk": False, "byte_fallback": False, "vocab": vocab | {"<|endoftext|>": 256}, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}))


def model_config(**changes):
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
              "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 257, "max_position_embeddings": 32,
              "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "float32", "eos_token_id": 256}
    return config | changes


def write_text(path, words, seed):
    rng = random.Random(seed)
    lexicon = ["the", "sea", "a", "ship", "of", "light", "and", "wind", "came", "home"]
    path.write_text(" ".join(rng.choice(lexicon) for _ in range(words)) + "\n")


class Workplace:
    """A temporary folder with model/, train.txt and validation.txt."""

    def __init__(self):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="longlora-e2e-"))
        (self.path / "model").mkdir()
        (self.path / "model" / "config.json").write_text(json.dumps(model_config(), indent=2))
        write_tokenizer(self.path / "model")
        write_text(self.path / "train.txt", 1500, 1)
        write_text(self.path / "validation.txt", 300, 2)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)

    def config(self, name="run.yaml", **changes):
        values = {"model": {"path": str(self.path / "model"), "init": "random"}, "data": {"train": [{"path": str(self.path / "train.txt")}],
                  "sequence_length": 64}, "train": {"steps": 6, "global_batch": 2}, "optimizer": {"learning_rate": 0.01},
                  "schedule": {"warmup_steps": 2}, "precision": {"compute": "fp32"}, "output_dir": str(self.path / "out")}
        for key, value in changes.items():
            values[key] = (values[key] | value) if isinstance(value, dict) and isinstance(values.get(key), dict) else value
        file = self.path / name
        file.write_text(json.dumps(values))      # JSON is YAML
        return file


def run(*arguments, expect=0, **options):
    """Runs the program; checks the exit code, and that a failure ends with exactly one error line."""
    options.setdefault("timeout", 300)
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, **options)
    allowed = expect if isinstance(expect, (tuple, list)) else (expect,)
    assert done.returncode in allowed, f"{arguments}: exit {done.returncode}, expected {expect}\n{done.stdout}\n{done.stderr}"
    if done.returncode > 0:
        check_error_line(done.stderr)
    return done


def check_error_line(stderr):
    lines = stderr.strip().splitlines()
    assert lines and ERROR_LINE.match(lines[-1]), f"no error line: {stderr!r}"
    assert len(lines[-1]) <= 240, lines[-1]
    assert sum(line.startswith("longlora-train: error[") for line in lines) == 1, stderr
    return lines[-1]


def metrics(folder):
    return [json.loads(line) for line in (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()]


def write_safetensors(path, tensors):
    """tensors: name -> (shape, list of floats), fp32."""
    header, body = {}, b""
    for name, (shape, values) in sorted(tensors.items()):
        data = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def main(tests):
    """Runs every test, prints one line each; the exit code counts failures."""
    failed = 0
    for test in tests:
        started = time.monotonic()
        try:
            outcome = test() or "ok"
        except Exception as error:  # noqa: BLE001  every failure is reported, none hides the next
            outcome, failed = f"FAILED: {type(error).__name__}: {error}", failed + 1
        print(f"{test.__name__:<45} {time.monotonic() - started:6.1f} s  {outcome}", flush=True)
    print(f"{len(tests)} tests, {failed} failed")
    sys.exit(1 if failed else 0)
