#!/usr/bin/env python3
"""Encoding and decoding equal to Hugging Face `tokenizers`, on random Unicode strings.

usage: tokenizer_parity.py PROBE DEPS [STRINGS]

PROBE   the program tokenizer_probe
DEPS    folder with vectors/ and models/ (scripts/setup.sh); what is absent there is skipped with a line
Four tokenizers: Llama-2's tokenizer.json, Mistral's tokenizer.model (v1 and v3; the oracle is built here from the protobuf), SmolLM2 from
GGUF metadata, and a Llama-3 style one trained here. Code points assigned after Unicode 14 may be classified differently and are left out:
Python 3.11 knows exactly Unicode 14.
"""
import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
WORDS = ("the of and LongLoRA don't It's WE'LL I'M they'd y'all're context 4096 100,000 3.14 naïve Straße ΣΊΣΥΦΟΣ наука 言語 "
         "ภาษา हिन्दी עברית العربية 한국어 🦙 👩‍👩‍👧 <s> </s> <unk> <|im_start|> <|im_end|> <|endoftext|> <0x0A> [INST] "
         "x=y; {} // --- ...").split(" ")
SPACES = [" ", "  ", "   ", " " * 11, " " * 37, "\n", "\n\n", "\r\n", "\t", " \n", "\u00a0", "\u0085", "\u2028", "\u3000", "\u200b", "\u2581",
          "\ufeff", ""]


def assigned_code_points():
    return [c for c in range(1, 0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]


def random_strings(count, seed):
    rng = random.Random(seed)
    code_points = assigned_code_points()
    common = [c for c in code_points if c < 0x3000]
    strings = []
    for _ in range(count):
        kind = rng.random()
        pieces = []
        for _ in range(rng.randint(0, 24)):
            if kind < 0.4:
                pieces.append(rng.choice(WORDS) + rng.choice(SPACES))
            elif kind < 0.7:
                pieces.append(chr(rng.choice(common)) + (rng.choice(SPACES) if rng.random() < 0.3 else ""))
            else:
                pieces.append(chr(rng.choice(code_points)))
        strings.append("".join(pieces))
    return strings


def probe_encode(probe, folder, mode, strings):
    text = "".join(json.dumps(s) + "\n" for s in strings)
    run = subprocess.run([probe, "encode", folder, mode], input=text.encode(), capture_output=True, check=False)
    if run.returncode:
        sys.exit(f"tokenizer_probe failed: {run.stderr.decode()}")
    rows = []
    for line in run.stdout.decode().split("\n")[:-1]:
        ids, text = line.split("\t")
        rows.append(([int(i) for i in ids.split()], json.loads(text)))
    return rows


def compare(name, probe, folder, oracle, strings, decode=True):
    """Counts differences; prints the first three."""
    wrong = 0
    for mode in ("plain", "parsed"):
        oracle.encode_special_tokens = mode == "plain"
        encoded = [e.ids for e in oracle.encode_batch(strings, add_special_tokens=False)]
        rows = probe_encode(probe, folder, mode, strings)
        assert len(rows) == len(strings) == len(encoded)
        for text, ids, (got, got_text) in zip(strings, encoded, rows):
            expected_text = oracle.decode(ids, skip_special_tokens=False) if decode else got_text
            if ids == got and expected_text == got_text:
                continue
            wrong += 1
            if wrong <= 3:
                print(f"{name} ({mode}): {text!r}\n  expected {ids} {expected_text!r}\n  got      {got} {got_text!r}")
    print(f"{name}: {len(strings)} strings, 2 modes, {wrong} differences", flush=True)
    return wrong


# ---- sentencepiece's protobuf, read by hand so that the oracle shares nothing with the program ----

def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def fields(data):
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        if tag & 7 == 0:
            value, at = varint(data, at)
        elif tag & 7 == 2:
            length, at = varint(data, at)
            value, at = data[at:at + length], at + length
        else:
            length = 4 if tag & 7 == 5 else 8
            value, at = data[at:at + length], at + length
        yield tag >> 3, value


def pieces_of(model_bytes):
    pieces = []
    for number, message in fields(model_bytes):
        if number != 1:
            continue
        piece = dict(fields(message))
        pieces.append((piece[1].decode(), struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0, piece.get(3, 1)))
    return pieces


def oracle_from_pieces(pieces):
    """Hugging Face's own recipe for a sentencepiece BPE model: merges are splits of pieces, best score first."""
    vocab = {text: i for i, (text, _, _) in enumerate(pieces)}
    normal = {text for text, _, kind in pieces if kind == 1}
    merges = []
    for text, score, kind in pieces:
        if kind == 1:
            merges += [(score, i, len(text) - i, text) for i in range(1, len(text)) if text[:i] in normal and text[i:] in normal]
    merges.sort(key=lambda m: (-m[0], -m[1], -m[2]))
    oracle = Tokenizer(models.BPE(vocab, [(t[:i], t[i:]) for _, i, _, t in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    oracle.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    oracle.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    oracle.add_special_tokens([AddedToken(t, normalized=False, special=True) for t, _, kind in pieces if kind in (2, 3)])
    return oracle


# ---- the four tokenizers ----

def check_llama2(probe, deps, work, strings):
    folder = deps / "vectors" / "llama2"
    if not (folder / "tokenizer.json").exists():
        print("llama2: skipped, its tokenizer.json is absent")
        return 0
    oracle = Tokenizer.from_file(str(folder / "tokenizer.json"))
    wrong = compare("llama2 tokenizer.json", probe, folder, oracle, strings)
    return wrong + check_llama2_rebuilt(probe, oracle, folder, work, strings)


def check_llama2_rebuilt(probe, oracle, folder, work, strings):
    """The pieces as GGUF metadata: our merges equal the published ones, and tokenizer.model encodes like tokenizer.json."""
    vocab = sorted(oracle.get_vocab().items(), key=lambda item: item[1])
    runs = {259, 268, 308, 418, 462, 539, 632, 795, 965, 1669, 1678, 3986, 4706, 9651, 18884}   # white space, all of one score
    scores = [0.0 if i < 259 else -1e9 if i in runs else float(259 - i) for _, i in vocab]
    types = [2, 3, 3] + [6] * 256 + [1] * (len(vocab) - 259)
    parts = {"model": "llama", "tokens": [t for t, _ in vocab], "scores": scores, "types": types, "bos": 1, "eos": 2, "unknown": 0}
    (work / "llama2.json").write_text(json.dumps(parts))
    made = work / "llama2"
    made.mkdir()
    subprocess.run([probe, "convert", work / "llama2.json", made], check=True)
    published = json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
    ours = [" ".join(m) for m in json.loads((made / "tokenizer.json").read_text())["model"]["merges"]]
    wrong = len(set(ours) ^ set(published)) + abs(len(ours) - len(published))   # merges of one score stand in another order
    print(f"llama2 from parts: {len(ours)} merges, {wrong} differ from the published ones")
    wrong += compare("llama2 tokenizer.json from parts", probe, made, oracle, strings[:2000])
    (made / "tokenizer.json").unlink()
    return wrong + compare("llama2 tokenizer.model from parts", probe, made, oracle, strings[2000:], decode=False)


def check_mistral(probe, deps, name, strings):
    folder = deps / "vectors" / name
    if not (folder / "tokenizer.model").exists():
        print(f"{name}: skipped, its tokenizer.model is absent")
        return 0
    oracle = oracle_from_pieces(pieces_of((folder / "tokenizer.model").read_bytes()))
    return compare(f"{name} tokenizer.model", probe, folder, oracle, strings, decode=False)


def check_smollm2(probe, deps, work, strings):
    path = deps / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.exists():
        print("smollm2: skipped, the GGUF file is absent")
        return 0
    from gguf import GGUFReader
    read = GGUFReader(path).fields
    tokens, merges, types = (read[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "merges", "token_type"))
    parts = {"model": "gpt2", "pre": "smollm", "tokens": tokens, "merges": merges, "types": types, "bos": 1, "eos": 2, "unknown": 0,
             "add_bos": False}
    (work / "smollm2.json").write_text(json.dumps(parts))
    folder = work / "smollm2"
    folder.mkdir()
    subprocess.run([probe, "convert", work / "smollm2.json", folder], check=True)
    oracle = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, [tuple(m.split(" ")) for m in merges]))
    oracle.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    oracle.decoder = decoders.ByteLevel()
    oracle.add_special_tokens([AddedToken(t, normalized=False, special=True) for t, kind in zip(tokens, types) if kind == 3])
    wrong = compare("smollm2", probe, folder, oracle, strings)
    written = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return wrong + compare("smollm2, our file in the oracle", probe, folder, written, strings[:1000])


def check_llama3(probe, work, strings):
    """Pattern, ignore_merges and added tokens of Llama-3 over a small vocabulary."""
    oracle = Tokenizer(models.BPE())
    oracle.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    oracle.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=2000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    oracle.train_from_iterator(strings[:2000] + [" ".join(WORDS)] * 20, trainer)
    oracle.add_special_tokens([AddedToken(t, special=True) for t in ("<|begin_of_text|>", "<|im_start|>", "<|im_end|>")])
    oracle.add_tokens([AddedToken("naïve", single_word=True), AddedToken("<0x0A>", lstrip=True, rstrip=True, normalized=False)])
    folder = work / "llama3"
    folder.mkdir()
    text = json.loads(oracle.to_str())
    text["model"]["ignore_merges"] = True
    (folder / "tokenizer.json").write_text(json.dumps(text))
    oracle = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return compare("llama3 style", probe, folder, oracle, strings)


def main():
    probe, deps = sys.argv[1], pathlib.Path(sys.argv[2])
    strings = random_strings(int(sys.argv[3]) if len(sys.argv) > 3 else 10_000, seed=2309)
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        wrong = check_llama2(probe, deps, work, strings)
        wrong += check_mistral(probe, deps, "mistral_v1", strings)
        wrong += check_mistral(probe, deps, "mistral_v3", strings)
        wrong += check_smollm2(probe, deps, work, strings)
        wrong += check_llama3(probe, work, strings)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
