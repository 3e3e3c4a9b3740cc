"""What the heads of p_eta read: frozen features of completions behind their prompts.

A causal language model gives hidden states. An embedder (a sentence-embedding model such as MiniLM,
for small machines) gives the completion's embedding, and its product with the prompt's.

Letters: C completions of an example, F features, N texts, H size of an embedding.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vrpo.contract.task import ModelSource
from vrpo.data.tokenise import completion_ids, prompt_ids
from vrpo.engine import Engine, Example, make_example, padded_groups
from vrpo.errors import ContextTooLong
from vrpo.models import load_context_length, load_embedder, load_model, load_tokenizer

Progress = Callable[[int, int], None]
_TOKENS_AT_ONCE = 4096


class Backbone(Protocol):
    """Anything that has features of completions."""

    def features(
        self,
        prompts: Sequence[str],
        examples: Sequence[Example],
        *,
        progress: Progress | None = None,
        raise_if_cancelled: Callable[[], None] | None = None,
    ) -> list[Tensor]:
        """Return (C, F) float32 per example, on the CPU.

        ``prompts`` are the examples' prompts as text; the examples are in the policy's tokens.
        ``progress(done, total)`` counts examples.
        """


class LanguageModelBackbone:
    """Hidden states of a causal language model, which may have another tokenizer or less room."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        policy_tokenizer: PreTrainedTokenizerBase,
        *,
        room: int,
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._room = room
        self._policy_tokenizer = policy_tokenizer
        template = tokenizer.chat_template == policy_tokenizer.chat_template
        self._shares_tokens = template and tokenizer.get_vocab() == policy_tokenizer.get_vocab()

    def features(
        self,
        prompts: Sequence[str],
        examples: Sequence[Example],
        *,
        progress: Progress | None = None,
        raise_if_cancelled: Callable[[], None] | None = None,
    ) -> list[Tensor]:
        """Return the last token's hidden state beside the mean over the completion.

        What is longer than the model's context loses the start of its prompt. Raises
        ``ContextTooLong`` for a completion that fills the context by itself.
        """
        if not self._shares_tokens:
            examples = [
                self._in_own_tokens(prompt, example)
                for prompt, example in zip(prompts, examples, strict=True)
            ]
        fitting = [self._cut(example) for example in examples]
        scored = self._engine.score(
            fitting, features=True, progress=progress, raise_if_cancelled=raise_if_cancelled
        )
        return [o.features_CF.cpu() for o in scored if o.features_CF is not None]

    def _cut(self, example: Example) -> Example:
        longest = max(map(len, example.completions))
        room = self._room - longest
        if len(example.prompt_ids) <= room:
            return example
        if room < 1:
            raise ContextTooLong(
                f"a completion of {longest} tokens fills the context of {self._room} tokens of "
                "method.vrpo.preference.backbone; name another backbone, or lower "
                "run.training.max_length and method.vrpo.reference.max_new_tokens"
            )
        return make_example(example.prompt_ids[-room:], example.completions)

    def _in_own_tokens(self, prompt: str, example: Example) -> Example:
        end = int(self._policy_tokenizer.eos_token_id)
        return make_example(
            prompt_ids(prompt, self._tokenizer),
            [
                completion_ids(text, self._tokenizer, is_cut_off=ids[-1] != end)
                for ids, text in zip(
                    example.completions, _texts(example, self._policy_tokenizer), strict=True
                )
            ],
        )


class EmbedderBackbone:
    """Sentence embeddings of the text: mean over tokens, of length 1."""

    def __init__(self, source: ModelSource, policy_tokenizer: PreTrainedTokenizerBase) -> None:
        self._model, self._tokenizer, self._max_tokens = load_embedder(source)
        self._policy_tokenizer = policy_tokenizer

    def features(
        self,
        prompts: Sequence[str],
        examples: Sequence[Example],
        *,
        progress: Progress | None = None,
        raise_if_cancelled: Callable[[], None] | None = None,
    ) -> list[Tensor]:
        """Return ``e(completion)`` beside ``e(prompt) * e(completion)``: (C, 2H).

        What is longer than the embedder reads is cut off: the start of a prompt, the end of a
        completion.
        """
        completions = [_texts(example, self._policy_tokenizer) for example in examples]
        prompt_NH = self.embed(prompts, keep_end=True, raise_if_cancelled=raise_if_cancelled)
        flat = [text for texts in completions for text in texts]
        flat_NH = self.embed(flat, keep_end=False, raise_if_cancelled=raise_if_cancelled)
        if progress:
            progress(len(examples), len(examples))
        parts = torch.split(flat_NH, [len(texts) for texts in completions])
        return [
            torch.cat([part_CH, part_CH * prompt_H], dim=1)
            for part_CH, prompt_H in zip(parts, prompt_NH, strict=True)
        ]

    def embed(
        self,
        texts: Sequence[str],
        *,
        keep_end: bool = False,
        raise_if_cancelled: Callable[[], None] | None = None,
    ) -> Tensor:
        """Return (N, H) float32 embeddings of length 1, on the CPU."""
        start, end = self._frame()
        room = self._max_tokens - len(start) - len(end)
        rows: list[list[int]] = []
        for text in texts:
            ids = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
            rows.append(start + (ids[-room:] if keep_end else ids[:room]) + end)
        embedding_NH = torch.empty(len(rows), int(self._model.config.hidden_size))
        for group in padded_groups([len(row) for row in rows], max_tokens=_TOKENS_AT_ONCE):
            if raise_if_cancelled:
                raise_if_cancelled()
            embedding_NH[torch.tensor(group)] = self._forward([rows[index] for index in group])
        return embedding_NH

    def _forward(self, rows: Sequence[Sequence[int]]) -> Tensor:
        width = max(map(len, rows))
        input_ids = torch.full((len(rows), width), int(self._tokenizer.pad_token_id))
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for place, row in enumerate(rows):
            input_ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
        with torch.no_grad():
            hidden = self._model(input_ids=input_ids, attention_mask=mask).last_hidden_state
        mean = (hidden * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return torch.nn.functional.normalize(mean.float(), dim=1)

    def _frame(self) -> tuple[list[int], list[int]]:
        """Return what the tokenizer puts before and behind a text."""
        ids = list(self._tokenizer("a")["input_ids"])
        inner = list(self._tokenizer("a", add_special_tokens=False)["input_ids"])
        place = ids.index(inner[0])
        return ids[:place], ids[place + len(inner) :]


def load_backbone(
    source: ModelSource,
    policy: ModelSource,
    *,
    device: str,
    on_warning: Callable[[str], None] | None = None,
) -> Backbone:
    """Return the backbone at ``source`` for a policy in whose tokens the examples are.

    Embedders are small and stay on the CPU. Raises ``ModelNotAllowed`` for weights that cannot be
    had.
    """
    policy_tokenizer = load_tokenizer(policy)
    if source.kind == "embedder":
        return EmbedderBackbone(source, policy_tokenizer)
    engine = Engine(load_model(source, device=device), on_warning=on_warning)
    return LanguageModelBackbone(
        engine, load_tokenizer(source), policy_tokenizer, room=load_context_length(source)
    )


def _texts(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [
        str(tokenizer.decode(list(ids), skip_special_tokens=True)) for ids in example.completions
    ]
