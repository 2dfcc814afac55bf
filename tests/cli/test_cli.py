"""The command: it teaches, it works on real files, every error is one line and exit code 2."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
import wave
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from refusal_plugin import cli
from refusal_plugin.directions.direction import Direction, fit_direction
from refusal_plugin.organism.data import organism_prompts
from refusal_plugin.prompts.media import load_audio, load_image
from refusal_plugin.prompts.waveforms import wav_bytes
from refusal_plugin.recipe_files import recipe, recipes
from training.architecture import N_LAYERS

LAYERS = [str(layer) for layer in range(N_LAYERS)]

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., SimpleNamespace]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process: exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*words: str) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["refusal-plugin", *words])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        text = capsys.readouterr()
        return SimpleNamespace(code=code, out=text.out, err=text.err)

    return run


@pytest.fixture(scope="module")
def saved(organism: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A direction file, so that no test selects one again."""
    few = organism_prompts(split="train", modality="text", limit=8)
    found = fit_direction(organism, few, progress=False).at(4)
    return str(found.save(tmp_path_factory.mktemp("cli") / "direction.safetensors"))


def fails(found: SimpleNamespace, *words: str) -> None:
    assert found.code == 2, found
    assert found.err.startswith("error: ") and found.err.count("\n") == 1, found.err
    assert "Traceback" not in found.err + found.out
    for word in words:
        assert word in found.err, found.err


@pytest.mark.parametrize("name", ["study", "ls", "run", "cp", "ask"])
def test_help_teaches_by_example(command: Run, name: str) -> None:
    found = command(name, "--help")
    assert found.code == 0
    assert f"refusal-plugin {name}" in found.out.replace(f"Usage: refusal-plugin {name}", ""), "an example to copy"
    assert len(found.out.split()) > 20


def test_no_arguments_and_help_list_the_commands(command: Run) -> None:
    for words in ((), ("--help",), ("-h",)):
        found = command(*words)
        assert all(name in found.out + found.err for name in ("study", "ls", "run", "cp", "ask"))
    assert re.fullmatch(r"refusal-plugin \d+\.\d+\.\d+\n", command("--version").out)


def test_ls_lists_every_recipe_with_its_question(command: Run) -> None:
    found = command("ls")
    assert found.code == 0
    for name in recipes():
        assert name in found.out
    assert "Where does the model decide to refuse?" in found.out


def test_datasets_lists_the_registry_and_explains_one_set(command: Run) -> None:
    found = command("datasets")
    assert found.code == 0 and all(name in found.out for name in ("jbb", "figstep", "voicebench", "advbench-omni"))
    one = command("datasets", "video-safetybench")
    assert one.code == 0 and "part benign -> harmful" in one.out and "not pinned" in one.out
    assert "not verified" in one.out and "The split called benign is harmful" in one.out
    fails(command("datasets", "figsteps"), "figstep")


def test_public_data_are_prompts_like_any_other(command: Run, tmp_path: Path) -> None:
    from refusal_plugin.cli.options import prompt_set

    lines = [f"{n},alpha {n},t,{'safe' if n % 2 else 'unsafe'},f{n // 2}," for n in range(12)]
    (tmp_path / "xstest_prompts.csv").write_text(
        "id,prompt,type,label,focus,note\n" + "\n".join(lines), encoding="utf-8"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # licence and warning, said once per process: see tests/datasets
        found = prompt_set(None, f"xstest={tmp_path}")
    assert len(found) == 12 and {p.split for p in found} == {"train", "val", "test"}
    assert all(len({p.split for p in group}) == 1 for group in found.groups().values())
    assert prompt_set(None) is None
    fails(command("study", "--data", "jbb+nothing"), "no such name in the registry")


def test_a_judge_is_named_by_its_format_and_model(command: Run, tmp_path: Path) -> None:
    from refusal_plugin.cli.options import judge_of

    served = judge_of("xstest=big/model@http://127.0.0.1:9/v1")
    assert served.model == "big/model" and served.url == "http://127.0.0.1:9/v1" and judge_of(None) is None
    fails(command("study", "--judge", "oracle=x"), "write FORMAT=MODEL", "qwen3guard")
    fails(command("compare", "--guard", f"wildguard={tmp_path}"), "load judge")


def test_cp_copies_a_recipe_once(command: Run, tmp_path: Path) -> None:
    found = command("cp", "direction_extraction", str(tmp_path))
    target = tmp_path / "direction_extraction.py"
    assert found.code == 0 and str(target) in found.out
    assert target.read_text() == recipes()["direction_extraction"].read_text()
    target.write_text("# mine")
    fails(command("cp", "direction_extraction", str(tmp_path)), "exists")
    assert target.read_text() == "# mine"
    assert command("cp", "study", str(tmp_path / "deep" / "own.py")).code == 0
    assert (tmp_path / "deep" / "own.py").is_file()
    fails(command("cp", "direction", str(tmp_path)), "no recipe", "direction_extraction")
    fails(command("cp", "study", str(target / "below")), "direction_extraction.py")


def test_run_a_recipe_on_own_prompts(command: Run, tmp_path: Path) -> None:
    val = organism_prompts(split="val", modality="text", limit=10)
    few = organism_prompts(split="train", modality="text", limit=12) + val
    path = few.to_jsonl(tmp_path / "few.jsonl")
    found = command("run", "direction_extraction", "--prompts", str(path))
    assert found.code == 0, found.err
    assert "held out 30" in found.out
    assert [line.split()[0] for line in found.out.splitlines() if line.strip()[:1].isdigit()] == LAYERS
    fails(command("run", "direction_extraction", "--prompts", str(tmp_path / "none.jsonl")), "none.jsonl")
    own = tmp_path / "own.py"
    own.write_text("def run(model, prompts, *, remote=False):\n    return f'{len(prompts)} prompts seen'\n")
    assert f"{len(few)} prompts seen" in command("run", str(own), "--prompts", str(path)).out


def test_files_that_are_no_recipe(command: Run, tmp_path: Path) -> None:
    path = tmp_path / "odd.py"
    fails(command("run", str(path)), "odd.py")
    path.write_text("x = 1\n")
    fails(command("run", str(path)), "no function run()")
    path.write_text("def run(:\n")
    fails(command("run", str(path)), "SyntaxError")
    path.write_text("import not_a_package_of_anybody\n")
    fails(command("run", str(path)), "not_a_package_of_anybody")


def media(folder: Path) -> dict[str, tuple[str, ...]]:
    """Files as a user has them, made from one shipped picture and one shipped sound."""
    image = organism_prompts(split="test", modality="image", renderings=1, limit=1)[0]
    sound = organism_prompts(split="test", modality="audio", renderings=1, limit=1)[0]
    assert image.image is not None and sound.audio is not None
    picture = load_image(image.image)
    picture.save(folder / "sign.png")
    (folder / "voice.wav").write_bytes(wav_bytes(np.asarray(load_audio(sound.audio))))
    frames = [picture] * 4
    frames[0].save(folder / "clip.gif", save_all=True, append_images=frames[1:])
    return {
        "text": (organism_prompts(split="test", modality="text", limit=1)[0].text,),
        "image": (image.text, "--image", str(folder / "sign.png")),
        "audio": (sound.text, "--audio", str(folder / "voice.wav")),
        "video": (image.text, "--video", str(folder / "clip.gif")),
    }


@pytest.mark.parametrize("modality", ["text", "image", "audio"])
def test_ask_shows_both_answers_and_every_layer(command: Run, saved: str, tmp_path: Path, modality: str) -> None:
    words = media(tmp_path)[modality]
    found = command("ask", *words, "--direction", saved, "--tokens", "12", "--strength", "3")
    assert found.code == 0, found.err
    assert f"is asked ({modality})" in found.out and words[0] in found.out
    as_it_is = re.search(r"as it is\s+(\S.*)", found.out)
    steered = re.search(r"steered\s+(\S.*)", found.out)
    assert as_it_is and steered and "strength 3.00" in found.out
    layers = re.findall(r"^\s*(\d)\s+[█·]+\s+([+-]\d+\.\d\d)", found.out, re.MULTILINE)
    assert [layer for layer, _ in layers] == LAYERS


def test_ask_takes_brackets_as_text(command: Run, saved: str) -> None:
    found = command("ask", "how do i [/bold] bake [red] the bread ?", "--direction", saved, "--tokens", "4")
    assert found.code == 0, found.err
    assert "how do i [/bold] bake [red] the bread ?" in found.out


def bad(kind: str, folder: Path, saved: str) -> list[str]:
    file = folder / kind.replace(" ", "-")
    if kind == "corrupt image":
        file = file.with_suffix(".png")
        Image.new("RGB", (64, 64)).save(file)
        file.write_bytes(file.read_bytes()[:50])
        return ["what ?", "--image", str(file)]
    if kind == "corrupt wav":
        file = file.with_suffix(".wav")
        file.write_bytes(b"RIFF\x00\x00\x00\x00WAVEnonsense")
        return ["what ?", "--audio", str(file)]
    if kind == "empty wav":
        file = file.with_suffix(".wav")
        with wave.open(str(file), "wb") as out:
            out.setparams((1, 2, 16000, 0, "NONE", ""))
        return ["what ?", "--audio", str(file)]
    return {
        "empty prompt": ["  "],
        "no text at all": [""],
        "no question": [],
        "missing image": ["what ?", "--image", str(file)],
        "too long": ["the bread " * 600],
        "unknown model": ["what ?", "--model", str(folder / "no-model")],
        "missing direction": ["what ?", "--direction", str(file)],
        "infinite strength": ["what ?", "--direction", saved, "--strength", "inf"],
        "missing prompts": ["what ?", "--prompts", str(file) + ".csv"],
    }[kind]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("empty prompt", ["text is empty"]),
        ("no text at all", ["text is empty"]),
        ("no question", ["no question"]),
        ("missing image", ["missing-image"]),
        ("corrupt image", ["corrupt-image.png"]),
        ("corrupt wav", ["corrupt-wav.wav"]),
        ("empty wav", ["0 samples"]),
        ("too long", ["1205 tokens", "512"]),
        ("unknown model", ["no-model"]),
        ("missing direction", ["no such file"]),
        ("infinite strength", ["infinite"]),
        ("missing prompts", ["missing-prompts.csv"]),
    ],
)
def test_bad_questions_are_one_line(command: Run, saved: str, tmp_path: Path, kind: str, words: list[str]) -> None:
    fails(command("ask", *bad(kind, tmp_path, saved)), *words)


def test_a_direction_of_another_model_is_one_line(command: Run, tmp_path: Path) -> None:
    hashes = dict.fromkeys(("config_hash", "weight_hash", "revision", "template_hash"), "")
    other = {"model": "another", "n_layers": 3, "d_model": 32, **hashes}
    path = Direction(1, -1, torch.ones(3, 32), torch.zeros(3, 32), provenance=other).save(
        tmp_path / "other.safetensors"
    )
    fails(command("ask", "how do i bake the bread ?", "--direction", str(path)), "layers of width 32")


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["refusal-plugin", "--debug", "ask"])
    from refusal_plugin.errors import PromptError

    with pytest.raises(PromptError, match="no question"):
        cli.main()


@pytest.mark.parametrize("name", ["study", "compare", "run", "ask"])
def test_commands_that_run_a_model_share_their_options(command: Run, name: str) -> None:
    said = command(name, "--help").out
    for option in ("dtype", "device", "device-map", "revision", "trust-remote-code", "batch-tokens", "max-new-tokens"):
        assert f"--{option}" in said
    assert all(f"--{option}" in said for option in ("quiet", "verbose", "json"))


def test_ask_answers_in_json_and_nothing_else(command: Run, saved: str) -> None:
    found = command("ask", "how do i bake the bread ?", "--direction", saved, "--json", "--max-new-tokens", "3")
    record = json.loads(found.out)
    assert found.code == 0 and found.out.count("\n") == 1
    assert record["prompt"] == "how do i bake the bread ?" and len(record["coordinates"]) == N_LAYERS
    assert (record["layer"], record["fitted"]) == (4, False)


def test_run_keeps_its_result_and_is_quiet_when_asked(command: Run, tmp_path: Path) -> None:
    own, prompts = tmp_path / "own.py", tmp_path / "few.jsonl"
    organism_prompts(split="val", modality="text", limit=1).to_jsonl(prompts)
    own.write_text(
        "import torch\nfrom dataclasses import dataclass\n\n@dataclass\nclass Found:\n    n: int\n    x: object\n\n"
        "def run(model, prompts, *, remote=False):\n    return Found(len(prompts), torch.tensor([1.0, float('nan')]))\n"
    )
    words = ("run", str(own), "--prompts", str(prompts), "--out")
    found = command(*words, str(tmp_path / "found.json"), "--quiet")
    assert (found.code, found.out) == (0, ""), found.err
    assert json.loads((tmp_path / "found.json").read_text()) == {"n": 3, "x": [1.0, None]}
    fails(command(*words, str(tmp_path / "found.safetensors"), "--quiet"), "no artefact")
    assert json.loads(command("run", str(own), "--prompts", str(prompts), "--json").out)["n"] == 3


@pytest.mark.parametrize("name", ["study", "compare", "ask"])
def test_a_mistyped_model_answers_before_torch_is_imported(name: str) -> None:
    code = (
        "import sys\nfrom refusal_plugin.cli import main\n"
        f"sys.argv = ['refusal-plugin', {name!r}, '--model', 'organsim']\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert found.returncode == 2 and found.stdout == "False\n", found
    assert found.stderr.count("\n") == 1 and "use organism. (rp-" in found.stderr, found.stderr


def test_a_limit_too_small_says_which_is_large_enough(command: Run, tmp_path: Path) -> None:
    found = command("study", "--limit", "12", "--out", str(tmp_path / "study"))
    assert found.code == 2 and re.search(r"use --limit \d+ or more", found.err), found.err


@pytest.mark.parametrize("words", [("fly",), ("ask", "x", "--tokens", "0"), ("study", "--limit", "-1"), ("run",)])
def test_usage_errors_have_exit_code_two(command: Run, words: tuple[str, ...]) -> None:
    found = command(*words)
    assert found.code == 2 and "Traceback" not in found.err


def start(*words: str, **options: Any) -> "subprocess.Popen[str]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A job started in the background inherits an ignored SIGINT, and Python then installs no handler of its own: a
    # person's
    # Ctrl-C comes from a terminal, where it is not ignored.
    options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen([sys.executable, "-m", "refusal_plugin", *words], env=environment, **pipes, **options)  # type: ignore[call-overload,no-any-return]


def test_python_m_is_the_command(command: Run, tmp_path: Path) -> None:
    process = start("cp", "nothing-of-that-name", cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    here = command("cp", "nothing-of-that-name")
    assert (process.returncode, out, err) == (here.code, here.out, here.err) and here.code == 2


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "a scheduler"])
def test_what_is_stopped_is_continued_by_the_same_command(organism: Any, tmp_path: Path, stop: signal.Signals) -> None:
    out = tmp_path / "study"
    process = start("study", "--limit", "40", "--out", str(out), cwd=tmp_path)
    kept = out / "stages" / "results.jsonl"
    deadline = time.time() + 240
    while time.time() < deadline and process.poll() is None:
        if kept.is_file() and b'"read-text"' in kept.read_bytes():  # behind it the model runs again, inside a trace
            break
        time.sleep(0.05)
    process.send_signal(stop)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + stop and "the same command continues" in err and "Traceback" not in err, err
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d direction: done in", err, re.MULTILINE), "as a log has it"
    assert not (out / "results.json").is_file(), "it was stopped on the way"
    done = kept.read_bytes()
    results = recipe("study").run(organism, out=out, limit=40, progress=False)
    assert (out / "results.json").is_file() and results["limit"] == 40
    whole = kept.read_bytes()
    assert whole.startswith(done[: done.rfind(b"\n") + 1]) and whole.count(b'"stage": "direction"') == 1, "done once"
