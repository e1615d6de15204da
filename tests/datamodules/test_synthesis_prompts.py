"""Prompts from captions: by rules, by language models that run here, and through an endpoint on this machine."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flask import Flask, Response, request
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.serving import make_server

from datamodules.errors import DataError
from datamodules.sample import Sample
from datamodules.synthesis.merge_rules import _things, merge_captions
from datamodules.synthesis.prompt_endpoint import EndpointWriter
from datamodules.synthesis.prompts import PromptSettings, make_writer, split_captions

KEY = "sk-test-0123456789abcdef"
WORDS = ["a", "dog", "dogs", "running", "runs", "red", "ball", "on", "the", "with", "grass", "and", ",", "man", "guy"]
sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join)


@given(st.lists(sentences, min_size=1, max_size=5))
def test_merging_names_everything_once_enough_and_always_the_same(captions: list[str]) -> None:
    prompt = merge_captions(captions, max_words=1000)
    assert prompt == merge_captions(list(captions), max_words=1000)
    assert _things(prompt) == set().union(*(_things(caption) for caption in captions))
    assert len(merge_captions(captions, max_words=6).split()) <= 6


def test_merging_keeps_the_richest_caption_and_drops_repetition() -> None:
    captions = ["There is a man with a hat .", "A guy in a hat", "an old man wears an orange hat , near a tree ."]
    assert merge_captions(captions) == "an old man wears an orange hat, near a tree"
    assert merge_captions(["a dog", "a dog ."]) == "a dog"


def test_captions_as_they_are() -> None:
    captions = [("a dog", "a cat"), ("a ball",)]
    assert make_writer(PromptSettings("first"))(captions) == [("a dog",), ("a ball",)]
    assert make_writer(PromptSettings("each"))(captions) == [("a dog", "a cat"), ("a ball",)]


def test_one_caption_is_held_out() -> None:
    sample = Sample("k", ("a", "b", "c"))
    for slot, used in ((0, ("b", "c")), (-1, ("a", "b")), (1, ("a", "c"))):
        split = split_captions(sample, PromptSettings(hold_out=slot), 0)
        assert split is not None
        assert split.used == used
        assert split.held_out == sample.captions[slot]
        assert split.slot == slot % 3
    assert split_captions(sample, PromptSettings(hold_out=3), 0) is None
    assert split_captions(Sample("k", ("a",)), PromptSettings(hold_out=0), 0) is None
    found = [split_captions(Sample(f"k{n}", ("a", "b", "c")), PromptSettings(hold_out="random"), 5) for n in range(60)]
    assert {split.slot for split in found if split} == {0, 1, 2}


# Language models that run here ---------------------------------------------------------------------------------------


def word_tokenizer(folder: Path, chat: bool) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", "red", "dog", "cat", "ball", "grass", "user", "say"]
    core = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )  # fmt: skip
    if chat:
        tokenizer.chat_template = "{% for m in messages %}user {{ m['content'] }}{% endfor %} say"
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("kind", ["chat", "continuing", "seq2seq"])
def test_a_model_of_transformers_words_prompts(kind: str, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

    word_tokenizer(tmp_path, chat=kind == "chat")
    torch.manual_seed(0)
    if kind == "seq2seq":
        model: Any = T5ForConditionalGeneration(
            T5Config(vocab_size=10, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0,
                     pad_token_id=0, eos_token_id=1)
        )  # fmt: skip
    else:
        model = LlamaForCausalLM(
            LlamaConfig(vocab_size=10, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
                        pad_token_id=0, eos_token_id=1, bos_token_id=1)
        )  # fmt: skip
    model.save_pretrained(tmp_path, safe_serialization=True)
    captions = [("red dog", "dog on grass"), ("a cat",), ("ball",) * 9]
    writer = make_writer(PromptSettings("hf", model=str(tmp_path)))
    prompts = writer(captions)
    assert len(prompts) == 3
    assert all(len(its) == 1 and its[0].strip() for its in prompts)
    assert prompts == make_writer(PromptSettings("hf", model=str(tmp_path)))(captions)
    writer.close()

    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match="cannot be loaded, from safetensors"):
        make_writer(PromptSettings("hf", model=str(tmp_path)))


# An endpoint ---------------------------------------------------------------------------------------------------------


class Endpoint:
    """A chat completion server that fails as often as it is told.

    Attributes:
        faults: statuses of the next answers.
        asked: (authorization, body) of every request.
    """

    def __init__(self) -> None:
        self.faults: list[int] = []
        self.asked: list[tuple[str | None, dict[str, Any]]] = []
        self.lock = threading.Lock()
        app = Flask("endpoint")
        app.add_url_rule("/v1/chat/completions", view_func=self.answer, methods=["POST"])
        self.server = make_server("127.0.0.1", 0, app, threaded=True)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def answer(self) -> Response:
        with self.lock:
            authorization = request.headers.get("Authorization")
            self.asked.append((authorization, request.get_json()))
            if self.faults:
                status = self.faults.pop(0)
                # As careless servers do, it repeats what it was sent.
                return Response(f"no: {authorization}", status=status, headers={"Retry-After": "0"})
        lines = re.findall(r"^\d+\. (.*)$", request.get_json()["messages"][-1]["content"], re.MULTILINE)
        answer = {"choices": [{"message": {"role": "assistant", "content": f'Prompt: "{" + ".join(lines)}"'}}]}
        return Response(json.dumps(answer), mimetype="application/json")


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("TEST_PROMPT_KEY", KEY)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    its = Endpoint()
    thread = threading.Thread(target=its.server.serve_forever, daemon=True)
    thread.start()
    yield its
    its.server.shutdown()
    thread.join()


def writer(endpoint: Endpoint, **options: Any) -> EndpointWriter:
    return EndpointWriter(
        endpoint.url, "some-model", "Merge.", key_env="TEST_PROMPT_KEY", backoff_s=0.01, **options
    )  # fmt: skip


def test_an_endpoint_that_fails_at_first(endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    endpoint.faults = [503, 429, 500]
    captions = [(f"dog {n}", f"cat {n}") for n in range(12)]
    assert writer(endpoint)(captions) == [(f"dog {n} + cat {n}",) for n in range(12)]
    assert len(endpoint.asked) == 15
    for authorization, body in endpoint.asked:
        assert authorization == f"Bearer {KEY}"
        assert body["model"] == "some-model"
        assert body["temperature"] == 0
        assert body["messages"][0]["content"].startswith("Merge.\n\n1. dog")
    assert len([record for record in caplog.records if "503" in record.getMessage()]) == 1
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ([401], "status 401.*environment variable TEST_PROMPT_KEY"),
        ([404], "status 404"),
        ([503] * 3, "status 503.*after 3 tries; run the same command again"),
    ],
)
def test_an_endpoint_that_goes_on_failing(
    endpoint: Endpoint, faults: list[int], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.faults = list(faults)
    with pytest.raises(DataError, match=said) as caught:
        writer(endpoint, tries=3)([("a dog",)])
    assert len(endpoint.asked) == len(faults)
    assert KEY not in str(caught.value) + caplog.text


def test_an_endpoint_that_is_not_there(endpoint: Endpoint) -> None:
    endpoint.server.server_close()
    with pytest.raises(DataError, match="after 2 tries"):
        writer(endpoint, tries=2)([("a dog",)])


def test_urls_that_would_give_a_secret_away() -> None:
    for url in ("https://me:word@host/v1", "https://host/v1?key=abc", "host/v1"):
        with pytest.raises(DataError, match="--prompt-url"):
            EndpointWriter(url, "m", "Merge.")
