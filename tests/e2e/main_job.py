"""The main job on a tiny model: train, stop, resume, export, evaluate, generate, report."""
import json
import signal
import subprocess
import time

from support import PROGRAM, Workplace, check_error_line, main, metrics, run


def start(*arguments):
    return subprocess.Popen([PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(folder, step, process):
    for _ in range(1200):
        try:
            if len(metrics(folder)) >= step:
                return
        except (FileNotFoundError, json.JSONDecodeError):
            pass
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    raise AssertionError("no step in a minute")


def pretrain_extend_export_evaluate():
    with Workplace() as place:
        base_run, base = place.path / "base_run", place.path / "base"
        run("train", "-c", place.config(tuning={"mode": "full"}, output_dir=str(base_run)), "--set", "data.sequence_length=32", "--set", "train.steps=30")
        run("export", "--run", base_run, "--to", base, "--dtype", "bf16")
        assert json.loads((base / "config.json").read_text())["torch_dtype"] == "bfloat16"

        long_run, merged, adapter = place.path / "long_run", place.path / "merged", place.path / "adapter"
        config = place.config(model={"path": str(base), "init": "load"}, data={"sequence_length": 128}, output_dir=str(long_run),
                              attention={"kind": "s2", "full_steps": 2})
        run("train", "-c", config, "--set", "train.steps=12")
        kinds = [line["attention"] for line in metrics(long_run)]
        assert kinds == ["s2"] * 10 + ["full"] * 2, kinds
        run("export", "--run", long_run, "--to", merged)
        run("export", "--adapter", long_run / "adapter", "--base", base, "--to", adapter, "--format", "peft")
        written = json.loads((merged / "config.json").read_text())
        assert written["max_position_embeddings"] == 128 and written["rope_scaling"]["factor"] == 4.0, written

        def perplexity(*extra):
            out = run("eval", "perplexity", "--data", place.path / "validation.txt", "--context", "32,128", "--json", *extra).stdout
            return json.loads(out)
        one = perplexity("--model", merged)
        two = perplexity("--model", base, "--adapter", long_run / "adapter")
        three = perplexity("--model", base, "--adapter", adapter)
        plain = perplexity("--model", base, "--rope-factor", "4")
        assert [c["context"] for c in one["contexts"]] == [32, 128] and one["rope_factor"] == 4.0
        tokens = len((place.path / "validation.txt").read_text().encode()) + 1
        for a, b, c, d in zip(one["contexts"], two["contexts"], three["contexts"], plain["contexts"]):
            assert a["tokens"] == b["tokens"] == tokens - 1, (a, tokens)
            assert abs(a["nll"] / b["nll"] - 1) < 2e-3, (a, b)        # the merged folder is rounded to bf16
            assert b["nll"] == c["nll"], (b, c)
            assert a["perplexity"] < d["perplexity"], (a, d)          # trained beats interpolation alone
        grouped = perplexity("--model", base, "--adapter", long_run / "adapter", "--attention", "as_trained")
        assert grouped["attention"] == "as_trained" and grouped["contexts"][1]["nll"] != two["contexts"][1]["nll"]

        side_by_side = perplexity("--model", merged, "--stride", "31,127")["contexts"]
        alone = json.loads(run("eval", "perplexity", "--model", merged, "--data", place.path / "validation.txt", "--context", "128", "--stride", "127",
                               "--json").stdout)["contexts"]
        assert side_by_side[1] == alone[0] and side_by_side[0]["windows"] > one["contexts"][0]["windows"] / 2 > side_by_side[1]["windows"]
        run("eval", "perplexity", "--model", merged, "--data", place.path / "validation.txt", "--context", "32,128", "--stride", "1,2,3", expect=64)

        text = run("generate", "--model", merged, "--prompt", "the sea", "--max-new-tokens", "8").stdout
        assert text.startswith("the sea") and len(text) > 8, text
        again = run("generate", "--model", merged, "--prompt", "the sea", "--max-new-tokens", "8").stdout
        assert text == again
        (long_run / "evaluation.json").write_text(json.dumps([{"label": "after <training>", "contexts": one["contexts"]},
                                                               {"label": "before", "contexts": plain["contexts"]}]))
        run("report", long_run)
        html = (long_run / "report.html").read_text()
        assert html.count("<svg") == 6 and "after &lt;training&gt;" in html and "http" not in html.replace("http-equiv", "")
        assert json.loads((long_run / "exit.json").read_text())["code"] == 0


def import_of_an_export_gives_the_same_bytes():
    with Workplace() as place:
        out = place.path / "out"
        run("train", "-c", place.config(tuning={"mode": "full"}), "--set", "train.steps=1")
        run("export", "--run", out, "--to", place.path / "a")
        run("import", "--from", place.path / "a", "--to", place.path / "b")
        for name in ("model.safetensors", "config.json"):
            assert (place.path / "a" / name).read_bytes() == (place.path / "b" / name).read_bytes(), name


def signal_saves_and_the_rest_gives_the_same_hash():
    with Workplace() as place:
        whole, parts = place.path / "whole", place.path / "parts"
        steps = ("--set", "train.steps=40")
        run("train", "-c", place.config(), "--output-dir", whole, *steps)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            done = len(metrics(parts)) if parts.exists() else 0
            if done + 3 > 40:
                break                                   # the earlier signals came late: nothing is left to interrupt
            process = start("train", "-c", place.config(), "--output-dir", parts, *steps)
            wait_for_step(parts, done + 3, process)
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
            if process.returncode == 0:
                break                                   # the run was faster than the signal
            assert process.returncode == 75, (process.returncode, err)
            assert "stopped by " + number.name in check_error_line(err)
            assert "saved step" in out
            assert json.loads((parts / "exit.json").read_text())["name"] == "preempted"
        run("train", "-c", place.config(), "--output-dir", parts, *steps)
        a, b = metrics(whole), metrics(parts)
        assert [x["step"] for x in b] == list(range(1, 41))
        assert a[-1]["hash"] == b[-1]["hash"]


def stop_file_saves():
    with Workplace() as place:
        process = start("train", "-c", place.config(), "--set", "train.steps=100000")
        wait_for_step(place.path / "out", 2, process)
        (place.path / "out" / "STOP").touch()
        _, err = process.communicate(timeout=60)
        assert process.returncode == 75, err
        assert "file STOP" in err and not (place.path / "out" / "STOP").exists()


def second_signal_ends_at_once():
    with Workplace() as place:
        # one step takes seconds, so the second signal comes while the first waits for it
        config = place.config(data={"sequence_length": 4096}, train={"steps": 50, "global_batch": 64})
        process = start("train", "-c", config)
        time.sleep(2.5)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (-signal.SIGTERM, 75), (process.returncode, err)
        if process.returncode == 75:
            return "ok (the step ended before the second signal)"
        assert "error[forced]" in err, err


def kill_at_random_moments_gives_the_same_hash():
    import random
    rng = random.Random(11)
    with Workplace() as place:
        whole, parts = place.path / "whole", place.path / "parts"
        options = ("--set", "train.steps=60", "--set", "checkpoint.every=3")
        run("train", "-c", place.config(), "--output-dir", whole, *options)
        kills = 0
        for _ in range(200):
            process = start("train", "-c", place.config(), "--output-dir", parts, *options)
            time.sleep(rng.uniform(0.3, 1.2))
            process.kill()
            process.communicate()
            if process.returncode == 0 or kills >= 30:
                break
            kills += 1
        run("train", "-c", place.config(), "--output-dir", parts, *options)
        assert metrics(whole)[-1]["hash"] == metrics(parts)[-1]["hash"]
        assert [x["step"] for x in metrics(parts)] == list(range(1, 61))
        return f"ok ({kills} kills)"


def long_lora_flags_are_understood():
    with Workplace() as place:
        done = run("train", "--model_name_or_path", place.path / "model", "--model_max_length", "64", "--use_flash_attn", "True", "--low_rank_training",
                   "True", "--max_steps", "1", "--per_device_train_batch_size", "1", "--gradient_accumulation_steps", "2", "--data_path",
                   place.path / "train.txt", "--output_dir", place.path / "out", "--set", "model.init=random", "--set", "precision.compute=fp32")
        assert "data.sequence_length" in done.stderr or "model_max_length" in done.stderr
        assert len(metrics(place.path / "out")) == 1


if __name__ == "__main__":
    main([pretrain_extend_export_evaluate, import_of_an_export_gives_the_same_bytes, signal_saves_and_the_rest_gives_the_same_hash, stop_file_saves,
          second_signal_ends_at_once, kill_at_random_moments_gives_the_same_hash, long_lora_flags_are_understood])
