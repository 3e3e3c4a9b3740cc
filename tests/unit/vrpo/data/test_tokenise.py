"""Rows in tokens: a seam that is never merged, and an end token only where an answer ended."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from vrpo.data.fields import Answer, Message
from vrpo.data.prepared import read_rows, write_rows
from vrpo.data.rows import Row
from vrpo.data.tokenise import end_ids, prompt_ids, tokenise
from vrpo.errors import InvalidTrainingFile

STORIES = Path(__file__).resolve().parents[5] / "shared" / "data" / "stories260k"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def byte_tokenizer(*, bos="<s>", template=None):
    """Return a byte-level tokenizer that merges ``ab``."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "</s>", *letters, "ab"]
    inner = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, [("a", "b")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos, eos_token="</s>")
    tokenizer.chat_template = template
    return tokenizer


def row(prompt, *texts, cut_off=False):
    return Row(3, prompt, tuple(Answer(text, is_cut_off=cut_off) for text in texts), label=0.5)


def test_a_prompt_and_its_answer_are_never_merged_at_the_seam():
    tokenizer = byte_tokenizer()
    [tokenised] = tokenise([row("xa", "b", "c")], tokenizer)
    apart = [tokenizer.convert_tokens_to_ids(token) for token in ("<s>", "x", "a")]
    assert list(tokenised.prompt_ids) == apart
    assert tokenizer.decode(tokenised.prompt_ids + tokenised.completions[0]) == "<s>xab</s>"
    assert tokenizer("xab").input_ids[-1] == tokenizer.convert_tokens_to_ids("ab")


def test_an_end_token_follows_an_answer_unless_it_was_cut_off():
    tokenizer = byte_tokenizer()
    [end] = end_ids(tokenizer)
    [whole] = tokenise([row("x", "yes", "no")], tokenizer)
    [cut] = tokenise([row("x", "yes", "no", cut_off=True)], tokenizer)
    assert [ids[-1] for ids in whole.completions] == [end, end]
    assert [ids[:-1] for ids in whole.completions] == list(cut.completions)
    assert all(end not in ids for ids in cut.completions)


def test_a_row_keeps_its_line_prompt_label_and_weight_and_counts_its_longest_completion():
    [tokenised] = tokenise([row("x", "yes", "no")], byte_tokenizer())
    assert (tokenised.line, tokenised.prompt_text, tokenised.label) == (3, "x", 0.5)
    assert tokenised.num_tokens == 2 + 4


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Why?", "<s>Why?"),
        ((Message("user", "Why?"),), "<s>Why?"),
        (
            (Message("system", "Be brief."), Message("user", "Why?")),
            "<s>Be brief.\n\nHuman: Why?\n\nAssistant:",
        ),
        (
            (Message("user", "A"), Message("assistant", "B"), Message("user", "C")),
            "<s>\n\nHuman: A\n\nAssistant: B\n\nHuman: C\n\nAssistant:",
        ),
    ],
)
def test_without_a_template_a_single_text_stands_as_it_is_and_more_become_a_dialogue(prompt, text):
    tokenizer = byte_tokenizer()
    assert tokenizer.decode(prompt_ids(prompt, tokenizer)) == text


@pytest.mark.parametrize("prompt", ["Why?", (Message("user", "Why?"),)])
def test_a_chat_template_frames_messages_and_plain_text_alike(prompt):
    tokenizer = byte_tokenizer(template=TEMPLATE)
    assert tokenizer.decode(prompt_ids(prompt, tokenizer)) == "<s>[user]Why?[assistant]"


def test_a_tokenizer_without_bos_starts_with_the_prompt():
    tokenizer = byte_tokenizer(bos=None)
    assert tokenizer.decode(prompt_ids("Why?", tokenizer)) == "Why?"


def test_a_row_that_leaves_no_token_to_condition_on_is_refused_by_its_line():
    with pytest.raises(InvalidTrainingFile, match=r"line 3.*prompt"):
        tokenise([row((Message("user", ""),), "yes", "no")], byte_tokenizer(bos=None))


def test_rows_come_back_from_disk_as_they_were(tmp_path):
    rows = tokenise([row("é\u2028x", "yes", "no")], byte_tokenizer())
    write_rows(tmp_path / "rows.jsonl", rows)
    assert read_rows(tmp_path / "rows.jsonl") == rows


@pytest.mark.skipif(not STORIES.exists(), reason="the weights of stories260k are not here")
def test_a_sentencepiece_tokenizer_gives_back_the_text_of_prompt_and_answer():
    tokenizer = AutoTokenizer.from_pretrained(STORIES)
    [tokenised] = tokenise([row("Once upon", " a time", " no")], tokenizer)
    whole = tokenizer.decode(
        tokenised.prompt_ids + tokenised.completions[0], skip_special_tokens=True
    )
    assert whole == "Once upon a time"
