"""The demo, whole, as a stranger runs it: real Prefect flow, real training, planted truth counted."""

import json
import os
import signal
import subprocess

import pytest
from running import PATIENCE, ROOT, gradsift_apart, start

from gradsift.pipelines.model.opened import open_model
from gradsift.pipelines.recipe import Model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo run")  # a path with a space
    return folder, gradsift_apart("demo", "--folder", "demo", cwd=folder)


def test_the_demo_leaves_what_it_promises(demo):
    folder, out = demo
    result = json.loads((folder / "demo" / "result.json").read_text())
    assert {tuple(sorted(arm)) for arm in result["arms"]} == {
        ("arm", "seeds", "source_precision", "target", "test_loss_ci95", "test_loss_mean")
    }
    assert {s["stage"] for s in result["stages"]} >= {"ingest", "warmup", "gradients-0", "select", "validate"}
    assert (folder / "demo" / "store" / "catalog.sqlite").exists()
    assert (folder / "demo" / "export" / "demo-sql" / "manifest.json").exists()
    assert "Planted truth" in out.stdout


def test_the_demo_finds_the_planted_truth_and_beats_random(demo):
    folder, _ = demo
    result = json.loads((folder / "demo" / "result.json").read_text())
    arms = {arm["arm"]: arm for arm in result["arms"]}
    assert arms["selected"]["source_precision"] > 0.9 > 0.2 > arms["random"]["source_precision"]
    for other in ("base", "random", "random_tokens"):
        assert arms["selected"]["test_loss_mean"] < arms[other]["test_loss_mean"]
    planted = result["planted"]
    assert planted["bad_rows"]["quarantined"] == planted["bad_rows"]["planted"]
    assert planted["exact_duplicates"]["found"] == planted["exact_duplicates"]["planted"]
    assert planted["leaks"]["found"] == planted["leaks"]["planted"]
    assert planted["leaks"]["selected"] == 0
    assert planted["wrong_answers"]["selected"] <= 0.05 * planted["selected"]


def test_the_demo_chooses_what_it_chose_before(demo):
    """Where the demo's model has the weights that it had on the machine which recorded this (see fixtures/README.md)."""
    folder, _ = demo
    then = json.loads((ROOT / "tests" / "fixtures" / "store-0.1.json").read_text())["demo"]
    if open_model(Model(path=str(folder / "demo" / "model"))).model_digest != then["model"]:
        pytest.skip("this machine's arithmetic gives the model other weights")
    manifest = json.loads((folder / "demo" / "export" / "demo-sql" / "manifest.json").read_text())
    assert manifest["selection"]["digest"] == then["selection"]
    assert manifest["digest"] == then["export"]


def test_a_greedy_query_uses_the_models_own_answer(demo):
    folder, _ = demo
    out = gradsift_apart(
        "query", "What is 12 plus 30?", "--greedy", "--store", "demo/store", "-k", "3", "--json", cwd=folder
    )
    found = json.loads(out.stdout)
    assert found["generated"]
    assert found["assistant"]
    assert [hit["source"] for hit in found["hits"]] == ["addition"] * 3


def test_errors_pass_through_prefect(demo, tmp_path):
    folder, _ = demo
    recipe = (folder / "demo" / "recipe.yaml").read_text().replace("data/pool.jsonl", "data/gone.jsonl")
    (folder / "demo" / "broken.yaml").write_text(recipe)
    out = gradsift_apart("run", "demo/broken.yaml", "--store", "s2", cwd=folder, code=2)
    assert "there is no file or folder" in out.stderr
    assert "Traceback" not in out.stderr


@pytest.mark.parametrize("flags", [(), ("--no-prefect",)], ids=["prefect", "no-prefect"])
def test_ctrl_c_is_one_line_and_the_next_run_goes_on(demo, flags):
    """As in a terminal, the signal goes to the whole process group, Prefect's temporary server included."""
    folder, _ = demo
    store = f"stopped{len(flags)}"
    process = start(
        "-m", "gradsift", "run", "demo/recipe.yaml", "--store", store, *flags,
        cwd=folder, stdout=subprocess.DEVNULL, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )  # fmt: skip
    shown = []
    for line in process.stderr:
        shown.append(line)
        if "gradients of demo" in line and len(shown) > 1:
            os.killpg(process.pid, signal.SIGINT)
            break
    rest = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 130, rest
    assert "run the same command again" in rest
    assert "Traceback" not in rest
