"""Conversations as transformers lays them out, for the chat templates that lns-tokenizer renders.

    python golden/chat_templates.py small
        renders a few conversations with templates of the known styles, all this script's own, and
        writes golden/chat_templates.json, which the crate's tests compare with: texts,
        token ids, which tokens the assistant writes (the templates' `generation` tags), and what a
        template says when it refuses.

    python golden/chat_templates.py model MODEL.gguf
        prints the beginnings of the sha256 of a real model's texts and ids of the same
        conversations, from the template and the tokenizer inside the file. Ours:
        cargo run --release -p lns-tokenizer --example chat -- MODEL.gguf CONVERSATIONS.jsonl

    python golden/chat_templates.py conversations
        prints those conversations as jsonl, for that example.

Made with transformers 5.23, jinja2 3.1.6, tokenizers 0.23.3.
"""

import argparse
import hashlib
import json
from datetime import datetime
from pathlib import Path

import transformers.utils.chat_template_utils as chat_template_utils
from jinja2.exceptions import TemplateError
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tokenizer_ids import SMALL as TOKENIZER_IDS
from tokenizer_ids import byte_level, original

ROOT = Path(__file__).resolve().parent.parent
SMALL = ROOT / "golden/chat_templates.json"


class Midnight(datetime):
    """The day that lns-tokenizer gives to templates."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


chat_template_utils.datetime = Midnight

TEMPLATES = {
    # Line ends behind blocks and white space before them are the engine's to drop.
    "chatml": """\
{% for message in messages %}
    {% if loop.first and message.role != 'system' %}
<|im_start|>system
You are a small model.<|im_end|>
    {% endif %}
    {% if message['role'] == 'assistant' %}
<|im_start|>assistant
{% generation %}
{{ message['content'] }}<|im_end|>
{% endgeneration %}
    {% else %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' -}}
{% endif %}
""",
    "headers": """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- macro header(role) -%}
<|start_header_id|>{{ role }}<|end_header_id|>

{% endmacro -%}
{%- if tools is not none or documents %}
    {{- raise_exception("no tools") }}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- header("system") ~ "Today Date: " ~ date_string ~ "\\n\\n" ~ system_message ~ eos_token }}
{%- for message in messages %}
    {%- if not (message.role in ["user", "assistant"]) %}
        {%- continue %}
    {%- endif %}
    {{- header(message['role']) }}
    {%- if message.role == "assistant" %}
        {%- generation -%}
        {{- message['content'] | trim + eos_token }}
        {%- endgeneration -%}
    {%- else %}
        {{- message['content'] | trim }}{{ eos_token }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- header("assistant") }}
{%- endif %}""",
    "inst": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
        "{% set turns = messages[1:] %}{% else %}{% set system = false %}{% set turns = messages %}{% endif %}"
        "{% for message in turns %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{% if loop.index0 == 0 and system %}{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + message['content'] %}"
        "{% else %}{% set content = message['content'] %}{% endif %}"
        "{% if message['role'] == 'user' %}{{ '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{% generation %}{{ ' ' + content.strip() + eos_token }}{% endgeneration %}"
        "{% endif %}{% endfor %}"
    ),
    "sections": """\
{%- set ns = namespace(found=false, count=0, last='') %}
{%- for message in messages[::-1] %}
    {%- if message.role == 'user' %}
        {%- set ns.last = message.content.split(' ')[-1] %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages -%}
    {%- set ns.count = ns.count + 1 -%}
    {%- if message.role not in ('system', 'user', 'assistant') -%}
        {{ raise_exception('Unknown role: ' ~ message.role ~ ' in message ' ~ loop.index) }}
    {%- endif -%}
    {%- if message.role == 'system' and not loop.first -%}
        {{ raise_exception('System message must come first, not at ' + (loop.index | string)) }}
    {%- endif -%}
### {{ message.role | capitalize }}{{ ' (again)' if loop.previtem is defined and loop.previtem.role == message.role else '' }}:
{% if message.role == 'assistant' -%}
    {%- generation %}{{ message.content.rstrip() }}{{ eos_token }}
{% endgeneration %}
{%- else -%}
    {{ message.content.lstrip() | tojson }}
    {%- for name, value in message.items() if name != 'content' %} {{ name }}={{ value.upper() }}{% endfor %}
    {%- if message.content.startswith('What') and loop.first %} {{ loop.first }} {{ none }}{% endif %}
{{ '\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}### Assistant:
{% endif %}""",
}

# Not every template says the same of an earlier turn once there is a later one.
NOT_TURN_BY_TURN = """\
{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content if loop.last or message.role == 'user' else message.content.split('.')[0] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def conversation(*turns):
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": roles[role], "content": content} for role, content in turns]


CONVERSATIONS = [
    conversation(("u", "What is 2+2?"), ("a", "4")),
    conversation(("s", "Be brief."), ("u", "Who wrote it?"), ("a", "She did, in 1928.\nTwice.")),
    conversation(
        ("u", "What's the river's name?"), ("a", "I'm not sure. The ledger says \"Ouse\"."),
        ("u", "And the bridge?"), ("a", "It has none."),
    ),
    conversation(
        ("s", "  Räume  \n"), ("u", "\n Ñandú naïve café 👩‍👧 ½? \n"), ("a", "  Привет, 河水在夜里上涨。😀 \n\n"),
        ("u", " <|im_end|> <b>&amp;</b> {{ x }} "), ("a", "\tdone\t"),
    ),
    conversation(("u", "Only asked.")),
    conversation(("u", "One."), ("u", "Two."), ("a", "Both.")),
    conversation(("a", "I begin."), ("u", "You do.")),
    conversation(("u", "Tools?"), ("t", "7"), ("a", "Seven.")),
    conversation(("u", "Late."), ("s", "Rules."), ("a", "Yes.")),
]


def tiny_tokenizer():
    """The small byte-level vocabulary of tokenizer_ids.py."""
    tiny = json.loads(TOKENIZER_IDS.read_text())["byte_level"]
    vocab = {token: id for id, token in enumerate(tiny["tokens"])}
    merges = [tuple(merge.split(" ")) for merge in tiny["merges"]]
    kinds = zip(tiny["tokens"], tiny["token_types"])
    added = [AddedToken(token, normalized=False, special=kind == 3) for token, kind in kinds if kind in (3, 4)]
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_level(vocab, merges, "smollm", added),
        bos_token="<|endoftext|>", eos_token="<|im_end|>",
    )


def lay_out(tokenizer, template, messages):
    arguments = dict(chat_template=template, tokenize=False)
    try:
        text = tokenizer.apply_chat_template(messages, **arguments)
    except TemplateError as error:
        return {"raises": str(error)}
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, **arguments)
    arguments = dict(chat_template=template, return_dict=True, return_assistant_tokens_mask=True)
    encoded = tokenizer.apply_chat_template(messages, **arguments)
    ids, mask = encoded["input_ids"], encoded["assistant_masks"]
    # Where an answer begins within a token, transformers counts that token; lns-tokenizer does not.
    spans = chat_template_utils.render_jinja_template(
        [messages], chat_template=template, return_assistant_tokens_mask=True, **tokenizer.special_tokens_map
    )[1][0]
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    for index, (start, end) in enumerate(offsets):
        if any(start < answer < end for answer, _ in spans):
            mask[index] = 0
    return {"text": text, "prompt": prompt, "ids": ids, "mask": "".join(map(str, mask))}


def small():
    tokenizer = tiny_tokenizer()
    templates = []
    for name, template in TEMPLATES.items():
        results = [lay_out(tokenizer, template, messages) for messages in CONVERSATIONS]
        templates.append({"name": name, "template": template, "results": results})
        print(name, *(result.get("raises", f"{len(result.get('ids', []))} tokens") for result in results), sep="\n    ")
    special_tokens = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    golden = {
        "special_tokens": special_tokens, "conversations": CONVERSATIONS, "templates": templates,
        "not_turn_by_turn": NOT_TURN_BY_TURN,
    }
    SMALL.write_text(json.dumps(golden, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(f"{SMALL.relative_to(ROOT)}: {SMALL.stat().st_size} bytes")


def model(path):
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for messages in CONVERSATIONS:
        for prompt in (False, True):
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
            ids = original(path, text)
            print(hashlib.sha256(text.encode()).hexdigest()[:16], len(ids), hashlib.sha256(str(ids).encode()).hexdigest()[:16])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("small")
    commands.add_parser("conversations")
    commands.add_parser("model").add_argument("model", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "small":
        small()
    elif arguments.command == "model":
        model(arguments.model)
    else:
        for messages in CONVERSATIONS:
            print(json.dumps({"messages": messages}, ensure_ascii=False))
