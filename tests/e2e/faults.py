"""Broken inputs and broken disks: the right exit code, one sentence, nothing lost."""
import json
import os
import pathlib
import pickle
import resource
import subprocess
import sys

from support import PROGRAM, Workplace, check_error_line, main, metrics, model_config, run, write_safetensors


def shapes(config):
    h, f, v = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    q, kv = config["num_attention_heads"] * config["head_dim"], config["num_key_value_heads"] * config["head_dim"]
    table = {"model.embed_tokens.weight": [v, h], "model.norm.weight": [h], "lm_head.weight": [v, h]}
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        table |= {p + "self_attn.q_proj.weight": [q, h], p + "self_attn.k_proj.weight": [kv, h], p + "self_attn.v_proj.weight": [kv, h],
                  p + "self_attn.o_proj.weight": [h, q], p + "mlp.gate_proj.weight": [f, h], p + "mlp.up_proj.weight": [f, h],
                  p + "mlp.down_proj.weight": [h, f], p + "input_layernorm.weight": [h], p + "post_attention_layernorm.weight": [h]}
    return table


def write_weights(folder, name="model.safetensors"):
    import random
    rng = random.Random(5)
    tensors = {}
    for tensor, shape in shapes(model_config()).items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        tensors[tensor] = (shape, [1.0] * count if len(shape) == 1 else [rng.gauss(0, 0.05) for _ in range(count)])
    write_safetensors(folder / name, tensors)


def loading(place):
    return place.config(model={"path": str(place.path / "model"), "init": "load"})


def whole_weights_train():
    with Workplace() as place:
        write_weights(place.path / "model")
        run("train", "-c", loading(place), "--set", "train.steps=1")


def truncated_safetensors():
    with Workplace() as place:
        write_weights(place.path / "model")
        file = place.path / "model" / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        done = run("train", "-c", loading(place), expect=65)
        assert "model.safetensors" in done.stderr
        assert not (place.path / "out" / "metrics.jsonl").exists()


def weight_map_outside_the_folder():
    with Workplace() as place:
        write_weights(place.path, "secret.safetensors")
        index = {"metadata": {}, "weight_map": {name: "../secret.safetensors" for name in shapes(model_config())}}
        (place.path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
        done = run("train", "-c", loading(place), expect=65)
        assert "../secret.safetensors" in done.stderr


def pickle_instead_of_safetensors():
    with Workplace() as place:
        (place.path / "model" / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
        done = run("train", "-c", loading(place), expect=65)
        assert "safetensors" in done.stderr
        (place.path / "model" / "pytorch_model.bin").rename(place.path / "model" / "model.safetensors")
        run("train", "-c", loading(place), expect=65)


def closed_pipe_does_not_stop_training():
    with Workplace() as place:
        process = subprocess.Popen([PROGRAM, "train", "-c", place.config(), "--set", "train.steps=20"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.close()
        process.stderr.close()
        assert process.wait(timeout=120) == 0
        assert len(metrics(place.path / "out")) == 20
        done = subprocess.run([PROGRAM, "train", "-c", place.config(), "--set", "train.steps=22"], close_fds=True, timeout=120,
                              preexec_fn=lambda: (os.close(1), os.close(2)))
        assert done.returncode == 0 and len(metrics(place.path / "out")) == 22


def unreadable_and_read_only_folders():
    if os.geteuid() != 0:
        return skipped("needs root to mount")
    with Workplace() as place:
        script = f"mount -t tmpfs tmpfs {place.path}/ro && mount -o remount,ro {place.path}/ro && exec {PROGRAM} train -c {place.config()} --output-dir {place.path}/ro/out"
        (place.path / "ro").mkdir()
        done = in_namespace(script)
        if done is None:
            return skipped("no private mount namespace")
        assert done.returncode in (74, 77), (done.returncode, done.stderr)
        assert "/ro" in check_error_line(done.stderr)


def full_disk_keeps_the_last_checkpoint():
    """A tmpfs that holds two checkpoints but not all the files of a long run: the run goes on with warnings or ends with 74, and the newest
    checkpoint still verifies: a resume on a larger disk goes on from it."""
    if os.geteuid() != 0:
        return skipped("needs root to mount")
    outcomes, refused_saves = {}, 0
    with Workplace() as place:
        (place.path / "small").mkdir()
        for size_kib in range(300, 660, 40):
            run_line = f"{PROGRAM} train -c {place.config()} --output-dir {place.path}/small/out --set train.steps=40 --set checkpoint.every=1 --set checkpoint.keep=2"
            script = (f"mount -t tmpfs -o size={size_kib}k tmpfs {place.path}/small && {{ {run_line}; echo first $?; ls {place.path}/small/out/checkpoints; "
                      f"mount -o remount,size=64m {place.path}/small; rm -f {place.path}/small/out/STOP; {run_line} --set train.steps=42; echo second $?; }}")
            done = in_namespace(script)
            if done is None:
                return skipped("no private mount namespace")
            first = int(done.stdout.split("first ")[1].split()[0])
            second = int(done.stdout.split("second ")[1].split()[0])
            outcomes[first] = outcomes.get(first, 0) + 1
            refused_saves += done.stderr.count("is not saved, next try")
            assert first in (0, 74), (size_kib, first, done.stderr[-2000:])
            assert second == 0, (size_kib, second, done.stderr[-2000:])
    assert 74 in outcomes and refused_saves > 0, (outcomes, refused_saves)
    return f"ok (exits {outcomes}, {refused_saves} saves refused by the disk)"


def file_size_limit_is_an_io_error():
    with Workplace() as place:
        limit = 64 * 1024
        done = subprocess.run([PROGRAM, "train", "-c", str(place.config()), "--set", "tuning.mode=full"], capture_output=True, text=True, timeout=120,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        assert done.returncode == 74, (done.returncode, done.stderr)
        check_error_line(done.stderr)


def in_namespace(script):
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=600)
    return None if "unshare" in done.stderr and "Operation not permitted" in done.stderr else done


def skipped(reason):
    print(f"SKIPPED: {reason}", file=sys.stderr)
    return f"SKIPPED ({reason})"


if __name__ == "__main__":
    main([whole_weights_train, truncated_safetensors, weight_map_outside_the_folder, pickle_instead_of_safetensors, closed_pipe_does_not_stop_training,
          unreadable_and_read_only_folders, file_size_limit_is_an_io_error, full_disk_keeps_the_last_checkpoint])
