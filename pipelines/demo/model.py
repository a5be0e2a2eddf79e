"""The demo's language model: a small Llama and its tokenizer, trained here from nothing in about a minute."""

import random
from pathlib import Path
from typing import Any

import torch

from gradsift.datastore.runs import Json
from gradsift.pipelines.demo.data import general_text, sql
from gradsift.pipelines.model.batches import collate, pad_id
from gradsift.pipelines.model.devices import best_device
from gradsift.pipelines.model.encode import encode
from gradsift.pipelines.model.head import example_losses
from gradsift.pipelines.model.load import seed_all
from gradsift.pipelines.progress import Progress, quiet
from gradsift.pipelines.recipe import Recipe

TEMPLATE = (
    "{% if tools %}{{ '<|start|>tools\\n' + (tools | tojson) + '<|end|>' + '\\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\\n' + m['content'] }}"
    "{% for call in m['tool_calls'] %}{{ '\\ncall ' + (call['function'] | tojson) }}{% endfor %}"
    "{{ '<|end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}"
)
STEPS, BATCH, LR, VOCABULARY = 350, 32, 3e-3, 640


def make_demo_model(folder: Path, progress: Progress = quiet, steps: int = STEPS, seed: int = 0) -> None:
    """Train and save a model in `folder` as `save_pretrained` does; does nothing if it is there."""
    if (folder / "model.safetensors").exists():
        return
    from transformers import LlamaConfig, LlamaForCausalLM

    rng = random.Random(seed)  # noqa: S311 - a generator of examples
    tokenizer = _tokenizer(rng)
    seed_all(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config).to(best_device())
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.01)
    model.train()
    for step in range(steps):
        chats = [encode(tokenizer, chat, 256) for chat in general_text(rng, BATCH)]
        loss = example_losses(model, collate(chats, pad_id(tokenizer)).to(best_device())).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1.0, (step + 1) / 20) * (1 - step / steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        progress("train the demo's base model", step + 1, steps)
    model.eval()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def _tokenizer(rng: random.Random) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|start|>", "<|end|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [turn["content"] for chat in general_text(rng, 2_000) for turn in chat]
    raw.train_from_iterator(texts + [t for _ in range(200) for t in sql(rng)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|end|>",  # noqa: S106 - a token of a tokenizer
        pad_token="<|pad|>",  # noqa: S106
        chat_template=TEMPLATE,
        model_max_length=256,
    )


def demo_recipe() -> Json:
    """The demo's recipe, with paths relative to its folder."""
    return Recipe.model_validate(
        {
            "name": "demo",
            "pool": [{"path": "data/pool.jsonl"}],
            "targets": {
                "sql": {
                    "val": {"path": "data/val.jsonl"},
                    "test": {"path": "data/test.jsonl"},
                    "own_sources": ["sql", "sql-near-duplicate"],
                }
            },
            # The target's questions are one sentence with other words in it: only whole questions are leaks here.
            "decontaminate": {"share": 0.9},
            "model": {"path": "model"},
            "encoding": {"max_length": 256},
            "warmup": {"fraction": 0.1, "epochs": 2, "batch_size": 16, "lr": 1e-3},
            "features": {"plain_rows": True},  # for neighbours by gradients, and the map of them
            "select": {"fraction": 0.05},
            "validate": {"seeds": [0, 1, 2], "epochs": 4, "batch_size": 8, "lr": 2e-3},
        }
    ).model_dump(mode="json", by_alias=True, exclude_defaults=True)
