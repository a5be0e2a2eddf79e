"""Checkpoints that TRL and transformers wrote, taken as a warm-up."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer
from truth import adam, example_loss, fold, unit

from gradsift.datastore import checkpoints, features
from gradsift.datastore.errors import InputError
from gradsift.datastore.store import Store
from gradsift.pipelines.model.chats import usable_chats
from gradsift.pipelines.model.load import load_lora, lora_parameters
from gradsift.pipelines.model.work import open_work
from gradsift.pipelines.recipe import parse_recipe
from gradsift.pipelines.runs.curate import curate
from gradsift.pipelines.runs.dryrun import plan_run
from gradsift.pipelines.training.adopted import base_notes, folders, read, with_adapter_of

pytestmark = pytest.mark.filterwarnings("ignore")
MOST = {"per_device_train_batch_size": 2, "max_steps": 4, "save_steps": 2, "logging_steps": 1, "learning_rate": 1e-3}
PLAIN = {"save_strategy": "steps", "report_to": [], "use_cpu": True, "bf16": False, "disable_tqdm": True}


def lora():
    from peft import LoraConfig

    return LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")


def rows(data_dir):
    return [json.loads(line)["messages"] for line in (data_dir / "small.jsonl").read_text().splitlines()[:16]]


@pytest.fixture(scope="session")
def trl_output(built_once, model_dir, data_dir):
    """What `trl sft` with LoRA leaves: checkpoint-2 and checkpoint-4."""

    def build(folder):
        import datasets
        from trl import SFTConfig, SFTTrainer

        SFTTrainer(
            model=str(model_dir),
            args=SFTConfig(
                output_dir=str(folder / "out"), max_length=128, gradient_checkpointing=False, **MOST, **PLAIN
            ),
            train_dataset=datasets.Dataset.from_list([{"messages": row} for row in rows(data_dir)]),
            processing_class=AutoTokenizer.from_pretrained(model_dir),
            peft_config=lora(),
        ).train()

    return built_once("trl", build) / "out"


@pytest.fixture(scope="session")
def trainer_output(built_once, model_dir, data_dir):
    """What transformers' plain Trainer leaves, with weight decay."""

    def build(folder):
        from peft import get_peft_model
        from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

        tokenizer = AutoTokenizer.from_pretrained(model_dir)
        ids = [tokenizer.apply_chat_template(row, return_dict=True)["input_ids"][:32] for row in rows(data_dir)]
        data = [{"input_ids": torch.tensor(i), "labels": torch.tensor(i)} for i in ids if len(i) == 32]
        Trainer(
            model=get_peft_model(AutoModelForCausalLM.from_pretrained(model_dir), lora()),
            args=TrainingArguments(output_dir=str(folder / "out"), weight_decay=0.01, **MOST, **PLAIN),
            train_dataset=data,
        ).train()

    return built_once("trainer", build) / "out"


@pytest.fixture
def adopting(recipe_data, trl_output):
    """A recipe that takes what TRL wrote, and says nothing of an adapter."""
    plain = {key: value for key, value in recipe_data.items() if key not in ("lora", "validate")}
    return {**plain, "warmup": {"from": [str(trl_output)]}, "features": {"projector": {"dim": 512}, "unit_rows": 32}}


def test_less_at_checkpoints_of_trl_has_the_rows_of_its_own_moments(adopting, trl_output, tmp_path):
    recipe = parse_recipe(adopting)
    with Store(tmp_path / "store") as store:
        result = curate(recipe, store)
        spaces = [row for row in result.rows if row.role == "pool"]
        assert len(spaces) == 2
        work = open_work(store, with_adapter_of(recipe))
        assert (work.recipe.lora.r, work.recipe.lora.alpha) == (4, 16)
        name = _first(store, result)
        spec = features.space_spec(store, spaces[1].space_id)
        point = checkpoints.by_digest(store, spec["checkpoint"])
        assert point.step == 4
        logged = json.loads((trl_output / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
        rates = {line["step"]: line["learning_rate"] for line in logged if "learning_rate" in line}
        assert point.mean_lr == pytest.approx((rates[3] + rates[4]) / 2)
        stored = features.read_all(store, spaces[1].space_id, [name]).unit()[0]
        assert stored @ true_row(work, trl_output / "checkpoint-4", name) == pytest.approx(1, abs=1e-4)
        assert abs(stored @ true_row(work, trl_output / "checkpoint-2", name)) < 0.9999, "the test tells them apart"
        again = curate(recipe, store)
        assert [row.computed for row in again.rows] == [0] * len(again.rows)
        plan = plan_run(recipe, store.root)
        assert (plan.checkpoints, plan.minutes.get("warmup", 0.0)) == (2, 0.0)


def _first(store, result):
    from gradsift.datastore.examples import get_dataset

    return get_dataset(store, result.ingest.pool.used_dataset_id).example_ids[0]


def true_row(work, folder, name):
    """The row of one example by autograd, with peft's own loading and that trainer's own optimizer, made anew."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    base = AutoModelForCausalLM.from_pretrained(work.model.folder)
    model = PeftModel.from_pretrained(base, folder, is_trainable=True)
    trainer = Trainer(model=model, args=TrainingArguments(output_dir=str(folder.parent / "x"), **PLAIN))
    optimizer = trainer.create_optimizer()
    optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
    model.eval()
    (chat,) = usable_chats(work, [name])[1]
    example_loss(model, chat.input_ids, chat.labelled)[0].backward()
    steps = {}
    for n, p in model.named_parameters():
        if p.requires_grad:
            state = optimizer.state[p]
            m, v, step = (state[key].double().numpy() for key in ("exp_avg", "exp_avg_sq", "step"))
            steps[n] = _by(work.recipe.features.transform, p.grad.double().numpy(), m, v, int(step))
    return unit(fold(steps, 512)[None])[0]


def _by(transform, g, m, v, step):
    if transform == "adam_exact":
        return adam(g, m, v, step)
    return (0.9 * m + 0.1 * g) / np.sqrt(0.999 * v + 0.001 * g**2 + 1e-8)


def adopted_of(recipe, tmp_path):
    recipe = with_adapter_of(parse_recipe(recipe))
    with Store(tmp_path / "s") as store:
        work = open_work(store, recipe)
        return read(recipe, work.model), work


def test_the_plain_trainers_moments_are_found_by_name(adopting, trainer_output, tmp_path):
    found, work = adopted_of({**adopting, "warmup": {"from": [str(trainer_output)]}}, tmp_path)
    assert [one.step for one in found] == [2, 4]
    model = load_lora(work.model, work.recipe.model, work.recipe.lora, 0)
    saved = torch.load(trainer_output / "checkpoint-2" / "optimizer.pt", weights_only=True)
    for number, name in enumerate(lora_parameters(model)):
        np.testing.assert_array_equal(found[0].state.exp_avg[name], saved["state"][number]["exp_avg"].numpy())


@pytest.fixture
def changed(trl_output, adopting, tmp_path):
    """A copy of TRL's last checkpoint, and the recipe that takes it."""
    folder = tmp_path / "checkpoint-4"
    shutil.copytree(trl_output / "checkpoint-4", folder)
    return folder, {**adopting, "warmup": {"from": [str(folder)]}}


def alter(folder, change):
    saved = torch.load(folder / "optimizer.pt", weights_only=True)
    change(saved)
    torch.save(saved, folder / "optimizer.pt")


def wrong_shape(saved):
    saved["state"][1]["exp_avg"] = torch.zeros(3, 5)


def eight_bit(saved):
    saved["state"] = {
        k: {"step": 2, "state1": v["exp_avg"], "state2": v["exp_avg_sq"]} for k, v in saved["state"].items()
    }


def fewer(saved):
    saved["param_groups"][0]["params"].pop()


def other_betas(saved):
    for group in saved["param_groups"]:
        group["betas"] = (0.8, 0.999)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (wrong_shape, r"q_proj\.lora_B\.default\.weight has the shape \[3, 5\], and in this model \[128, 4\]"),
        (eight_bit, "state1, state2, step and not exp_avg .* 8-bit"),
        (fewer, r"has \d+ parameters, the adapter \d+"),
        (other_betas, "other betas"),
    ],
)
def test_an_optimizer_that_does_not_fit_is_refused_in_words(changed, tmp_path, change, said):
    folder, recipe = changed
    alter(folder, change)
    with pytest.raises(InputError, match=said):
        adopted_of(recipe, tmp_path)


class Evil:
    def __reduce__(self):
        return (print, ("ran",))


def test_promise_7_a_pickle_does_not_run(changed, tmp_path, capsys):
    folder, recipe = changed
    torch.save({"state": Evil(), "param_groups": []}, folder / "optimizer.pt")
    with pytest.raises(InputError, match="without running code"):
        adopted_of(recipe, tmp_path)
    assert "ran" not in capsys.readouterr().out
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InputError, match=r"adapter_model\.bin is a pickle"):
        adopted_of(recipe, tmp_path)


def test_without_an_optimizer_only_plain_rows(changed, tmp_path):
    folder, recipe = changed
    (folder / "optimizer.pt").unlink()
    with pytest.raises(InputError, match=r"no optimizer\.pt.*transform: sgd"):
        adopted_of(recipe, tmp_path)
    plain = {**recipe["features"], "transform": "sgd", "query_transform": "sgd"}
    (one,), _ = adopted_of({**recipe, "features": plain}, tmp_path)
    assert one.step == 4
    assert one.state.exp_avg == {}


def test_learning_rates_that_were_not_logged_are_given(changed, tmp_path):
    folder, recipe = changed
    state = json.loads((folder / "trainer_state.json").read_text())
    (folder / "trainer_state.json").write_text(json.dumps(state | {"log_history": []}))
    with pytest.raises(InputError, match=r"no learning rates.*warmup\.lr"):
        adopted_of(recipe, tmp_path)
    (one,), _ = adopted_of({**recipe, "warmup": {**recipe["warmup"], "lr": 3e-4}}, tmp_path)
    assert one.mean_lr == 3e-4


@pytest.mark.parametrize(
    ("config", "lora", "said"),
    [
        ({"use_dora": True}, {}, "use_dora is True"),
        ({"rank_pattern": {"q_proj": 2}}, {}, "rank_pattern"),
        ({"peft_type": "IA3"}, {}, "only LORA"),
        ({}, {"r": 8}, r"lora\.r is 8, but .* has 4"),
        ({}, {"alpha": 4.0}, r"lora\.alpha is 4\.0"),
        ({"target_modules": ["q_proj"]}, {}, "is no LoRA matrix of this model"),
    ],
)
def test_another_adapter_is_refused_by_its_field(changed, tmp_path, config, lora, said):
    folder, recipe = changed
    known = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(known | config))
    with pytest.raises(InputError, match=said):
        adopted_of(recipe | ({"lora": lora} if lora else {}), tmp_path)


def test_paths(trl_output, tmp_path):
    assert [folder.name for folder in folders([str(trl_output)])] == ["checkpoint-2", "checkpoint-4"]
    with pytest.raises(InputError, match=r"warmup\.from: .* has no adapter_config"):
        folders([str(tmp_path)])
    with pytest.raises(InputError, match=r"is not there\. A run looks at it each time"):
        folders([str(tmp_path / "gone")])


def test_another_base_model_is_told(changed):
    """By its name alone: shapes do not tell two trainings of one architecture apart."""
    folder, recipe = changed
    known = json.loads((folder / "adapter_config.json").read_text())
    assert base_notes(parse_recipe(recipe)) == []
    (folder / "adapter_config.json").write_text(json.dumps(known | {"base_model_name_or_path": "owner/other-1b"}))
    (note,) = base_notes(parse_recipe(recipe))
    assert "was trained on 'owner/other-1b', and the model here is" in note


def test_a_damaged_adopted_checkpoint_is_read_again(adopting, tmp_path):
    from gradsift.pipelines.runs.repair import mend

    with Store(tmp_path / "store") as store:
        result = curate(parse_recipe(adopting), store)
        (name,) = (
            row["name"]
            for row in store.catalog.rows("SELECT name FROM shard JOIN checkpoint USING (shard_id) WHERE ordinal=1")
        )
        path = store.root / name
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-8] + b"\1" * 8)
        (mended,) = mend(store)
        assert (mended.kind, mended.state) == ("checkpoint", "mended")
        space = next(row.space_id for row in result.rows if row.role == "pool" and row.checkpoint == 1)
        checkpoints.load(store, checkpoints.by_digest(store, features.space_spec(store, space)["checkpoint"]))
