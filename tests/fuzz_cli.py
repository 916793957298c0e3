"""Calls of the command line made up at random: ``python -m tests.fuzz_cli --calls 10000``.

Each call ends with 0, 1, 2 or 130, without a traceback, and where settings of ours are refused,
with one line. Most calls are refused; those that are not do tiny work on made-up data. The calls
are made in processes of a few hundred each, so that one that crashes, or eats all memory, is found.
"""

import argparse
import contextlib
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from dataclasses import replace
from pathlib import Path
from typing import get_args

CHUNK = 250
SECONDS = 20
"""For one call."""
MEMORY = 12 << 30

LONG = "x" * 300
INTEGERS = [
    *("-1", "1.5", "nan", "inf", "1e3", "x", "", "0x10", "１２", "99999999999"),
    *(str(2**63 - 1), str(2**63), "1" + "0" * 40, "9" * 5000, "-" + "9" * 30),
]
FLOATS = [
    *("-1", "nan", "inf", "-inf", "1e30", "1e308", "1e400", "1e-320", "x", "", "0,5"),
    "1" + "0" * 400,
]
PATHS = [
    *("good", "good", "good/checkpoint", "good/checkpoint/x", "good/config.json", "loop", "loop/x"),
    *("good/metrics.jsonl", "file", "file/x", LONG, f"a/{LONG}", "nul\0x", "\udcff", "\ud800", ""),
    *("folders", "wrong-metrics", "wrong-checkpoint", "nested", "other", "link", "hard", "torn"),
    *("/dev/null", "/dev/null/x", "/proc/x", "nowhere", "a\nb", "-", "--", "é", "a", "b/c"),
]
SHARES = {
    **{"run": 12, "report": 4, "reproduce": 3, "bench": 2, "launch": 3, "stage": 3, "store": 1},
    **{"demo": 0.5, "list": 0.5, "x": 0.5},
}
"""How often each command is called. What is misspelt, and the demo, take the longest."""
SANE = {"int": ("1", "2", "3", "8"), "float": ("0", "0.5", "1", "0.001", "1e30")}
WORDS = ["", "x", "all", "1,2", "1,99999999999", ",", "0", "\0", "\ud800", "cpu", "auto", "no", "*"]
DEVICES = ["cpu", "auto", "meta", "cuda:99", "cuda:-1", "cpu:1", "mps", "", "x", "cpu:" + "9" * 30]


def _prepare():
    """Replaces what takes long, before the command line is imported; returns its ``main``."""
    import torch

    from synthgrad.lab.data import DataSet
    from synthgrad.lab.data.text import TextData
    from synthgrad.lab.experiments import ALL, image_recipes, multirate, recurrent
    from synthgrad.lab.experiments import images as of_images
    from synthgrad.lab.experiments import text as of_text

    torch.set_num_threads(1)

    def images(name, root=None, device="cpu"):
        generator = torch.Generator().manual_seed(0)
        shape = of_images.SHAPES[name]
        x = torch.rand(80, *shape, generator=generator)
        y = torch.arange(80) % 10
        return DataSet(name, x[:60], y[:60], x[60:], y[60:], classes=10)

    def text(name, root, device):
        symbols = torch.arange(3000) % 7
        return TextData(name, "abcdefg", symbols[:2000], symbols[:500], symbols[:500])

    of_images.load = multirate.load = images
    of_text.load_text = text
    for module in (of_images, multirate, recurrent):  # --schedule paper would take days
        vars(module)["PAPER"] = {**vars(module)["PAPER"], "iterations": 2}
    for name, recipe in list(image_recipes.RECIPES.items()):
        defaults = recipe.defaults.changed(units=4, batch_size=8, layers=3, threads=1)
        hidden = {"dni": (4,), "cdni": ()}
        ALL[name] = image_recipes.RECIPES[name] = replace(
            recipe, defaults=defaults, iterations=2, suits=(), feedback_hidden=hidden
        )
    of_images._FULLY_UNLOCKED = {**of_images._FULLY_UNLOCKED, "iterations": 2, "input_hidden": (4,)}
    for name in ("copy", "repeat-copy", "ptb"):
        recipe = ALL[name]
        assert isinstance(recipe, recurrent.RecurrentExperiment)
        small = {**recipe.suits, "samples": 100, "units": 4, "batch_size": 4}
        ALL[name] = replace(recipe, suits=small, defaults=recipe.defaults.changed(threads=1))
    two = multirate.RECIPES["multi-network"]
    ALL[two.name] = replace(
        two, iterations=2, defaults=two.defaults.changed(units=4, batch_size=2, unroll=2, threads=1)
    )

    from benchmarks import recurrent as bench_recurrent
    from benchmarks import step, train
    from benchmarks.pipeline import main as pipeline
    from synthgrad.lab import cli, reproduce
    from synthgrad.lab.errors import RunError
    from synthgrad.lab.stages import launch, store, work

    def nothing(*_, **__):
        return {"metrics": {}, "iterations": 1, "seconds": 0.0}

    def fails(*_, **__):
        raise RunError("not in a test")

    launch.launch, work.work, store.keep = nothing, nothing, nothing
    reproduce.run_cell = nothing
    step.main, train.contest = nothing, fails
    bench_recurrent._times = lambda *_: dict.fromkeys(bench_recurrent.METHODS, 1.0)
    pipeline.PARTS = dict.fromkeys(pipeline.PARTS, fails)
    return cli


def _folders():
    """Makes what the paths name, in the present folder."""
    Path("loop").symlink_to("loop")
    Path("file").write_text("x")
    Path("other").mkdir()
    Path("other/notes.txt").write_text("mine")
    Path("wrong-metrics/metrics.jsonl").mkdir(parents=True)
    Path("wrong-checkpoint").mkdir()
    Path("wrong-checkpoint/checkpoint").write_text("")
    Path("nested").mkdir()
    Path("nested/config.json").write_text("[" * 100_000)
    Path("folders/a/b").mkdir(parents=True)
    Path("torn").mkdir()
    config = {"recipe": "digits-fcn", "method": "cdni", "seed": 0}
    Path("torn/config.json").write_text(json.dumps(config))
    Path("torn/metrics.jsonl").write_text('{"step": 1, "test_error": 3}\n{"ste')


def _value(random_, annotation, name):
    """One value, or several, for an option of a type."""
    sane, text = random_.random() < 0.75, str(annotation)
    if name in ("iterations", "samples") and not sane:  # what is valid has to be short
        return [random_.choice([text for text in INTEGERS if not text.isdigit() or len(text) < 3])]
    if name == "device":
        return ["cpu" if sane else random_.choice(DEVICES)]
    if sane and "Literal" not in text:
        kind = "float" if "float" in text else "int"
        many = random_.randrange(4) if "tuple" in text else 0 if "bool" in text else 1
        return [random_.choice(SANE[kind]) for _ in range(many)]
    if "tuple" in text:
        return [random_.choice(INTEGERS) for _ in range(random_.randrange(4))]
    if "Literal" in text:
        known = [word for word in _words(annotation) if word]
        return [random_.choice(known if sane else WORDS)]
    if "int" in text:
        return [random_.choice(INTEGERS)]
    if "float" in text:
        return [random_.choice(FLOATS)]
    if "bool" in text:
        return []
    return [random_.choice(WORDS)]


def _words(annotation):
    """The words that a type allows."""
    inner = [word for part in get_args(annotation) for word in _words(part)]
    return inner or ([annotation] if isinstance(annotation, str) else [])


def _options(random_, fields, most):
    words = []
    for name in random_.sample(sorted(fields), random_.randrange(min(most, len(fields)) + 1)):
        option = "--" + (fields[name].alias or name).rstrip("_").replace("_", "-")
        words += [option, *_value(random_, fields[name].annotation, name)]
    return words


def _some(random_, **options):
    """Each of some options, with one of its values, by chance."""
    words = []
    for name, values in options.items():
        if random_.random() < 0.4:
            words += [f"--{name.replace('_', '-')}", *([random_.choice(values)] if values else [])]
    return words


def call(random_, number):
    """One call's arguments."""
    from synthgrad.lab.experiments import ALL
    from synthgrad.lab.experiments.image_recipes import RECIPES
    from synthgrad.lab.stages.options import PipelineConfig
    from synthgrad.lab.tables import TABLES

    def path():
        return random_.choice(PATHS)

    command = random_.choices(list(SHARES), SHARES.values())[0]
    if command == "run":
        name = random_.choice([*ALL, *ALL, *ALL, "digits-fcn", "x"])
        fields = type(ALL[name].defaults).model_fields if name in ALL else {}
        words = [command, name, *_options(random_, fields, 4)]
        out = path() if random_.random() < 0.4 else f"fresh/{number}"
        words += ["--out", out]
        if random_.random() < 0.2:
            words += _some(random_, resume=(), data_root=PATHS)
    elif command in ("launch", "stage"):
        name = random_.choice(list(RECIPES))
        fields = dict(type(RECIPES[name].defaults).model_fields)
        fields |= {k: v for k, v in PipelineConfig.model_fields.items() if k != "interface"}
        words = [command, name, *_options(random_, fields, 4)]
        words += _some(random_, out=PATHS, resume=(), store=["x", "127.0.0.1:1", ""])
        own = "restarts" if command == "launch" else "stage"
        words += _some(random_, **{own: [*INTEGERS, "0", "1"]})
    elif command == "report":
        words = [command, *(path() for _ in range(random_.randrange(3)))]
        words += _some(random_, out=[*PATHS, "page.html"])
    elif command == "reproduce":
        words = [command, random_.choice(["fig5", "deep21", "table1", "x", *TABLES])]
        words += _some(
            random_, jobs=[n for n in INTEGERS if not n.isdigit() or len(n) > 4],
            budget=[*FLOATS, "1"], seeds=[*INTEGERS, "1"], only=[*WORDS, "[", "backprop*"],
            threads=[*INTEGERS, "1"], device=DEVICES, schedule=["ours", "paper", "x"],
            out=PATHS, data_root=PATHS,
        )  # fmt: skip
    elif command == "bench":
        words = [command, random_.choice(["step", "train", "recurrent", "recurrent", "pipeline"])]
        words += _some(
            random_, threads=[*INTEGERS, "1"], units=[*INTEGERS, "4"], unrolls=[*INTEGERS, "2"],
            batch_size=[*INTEGERS, "4"],
            recipes=[*RECIPES, "x"], methods=["dni", "x"], out=PATHS, parts=["rate", "x"],
            quick=(), device=DEVICES, data_root=PATHS,
        )  # fmt: skip
    elif command == "demo":
        words = [command, *_some(random_, seed=INTEGERS, out=PATHS)]
    elif command == "store":
        words = [command, *_some(random_, port=INTEGERS, host=WORDS)]
    else:
        words = [command, *random_.sample([*WORDS, *PATHS], random_.randrange(2))]
    if random_.random() < 0.1:  # anything anywhere
        words.insert(random_.randrange(len(words) + 1), random_.choice([*WORDS, *PATHS, "--help"]))
    return words


def wrong(cli, words):
    """What is wrong with how a call ends; None where nothing is."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))

    def late(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    code = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main(words)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        with contextlib.suppress(OSError, ValueError):
            out.flush()
            err.flush()
    said = err.buffer.getvalue().decode("utf-8", "replace")
    if code not in (0, 1, 2, 130):
        return f"exit code {code}: {said}"
    if "Traceback" in said:
        return said
    ours = [line for line in said.splitlines() if line.startswith("synthgrad:")]
    if code == 2 and ours and len(said.splitlines()) != 1:
        return f"{len(said.splitlines())} lines: {said}"
    if code and not said:
        return f"exit code {code}, and nothing is said"
    return None


def _chunk(seed, begin, end):
    """Makes some of the calls in this process, and prints what is wrong, and where it is."""
    cli = _prepare()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        _folders()
        good = ["run", "digits-fcn", "--iterations", "2", "--units", "4", "--out", "good"]
        assert wrong(cli, good) is None
        Path("link").symlink_to("good/config.json")
        os.link("good/metrics.jsonl", "hard")
        before = {p: p.read_bytes() for p in Path("good").rglob("*") if p.is_file()}
        for number in range(begin, end):
            words = call(random.Random(seed * 1_000_003 + number), number)
            print(json.dumps({"call": number}), flush=True)
            problem = wrong(cli, words)
            if problem is None and before != {p: p.read_bytes() for p in before if p.exists()}:
                problem = "the finished run has changed"
            if problem is not None:
                print(json.dumps({"words": words, "problem": problem}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--chunk", action="store_true", help="all in this process")
    chosen = parser.parse_args()
    begin, end = chosen.first, chosen.first + chosen.calls
    if chosen.chunk:
        return _chunk(chosen.seed, begin, end)
    problems = 0
    while begin < end:
        count = min(CHUNK, end - begin)
        command = [sys.executable, "-m", "tests.fuzz_cli", "--chunk", "--seed", str(chosen.seed)]
        command += ["--first", str(begin), "--calls", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        for found in (line for line in said if "problem" in line):
            problems += 1
            print(f"{found['words']!r}\n  {found['problem']}", flush=True)
        last = max((line["call"] for line in said if "call" in line), default=begin - 1)
        if done.returncode:
            problems += 1
            words = call(random.Random(chosen.seed * 1_000_003 + last), last)
            print(f"{words!r}\n  ended the process: {done.returncode} {done.stderr[-500:]}")
            if last < begin:
                break
        begin = last + 1
        print(f"{begin - chosen.first} calls, {problems} problems", flush=True)
    sys.exit(problems > 0)


if __name__ == "__main__":
    main()
