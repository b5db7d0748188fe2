"""Chat templates: rendered as transformers renders them; those without an end, or without the text, are refused."""

import copy
import pickle
import time
from typing import Any

import pytest
import small_model
from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from clara_model.checkpoint.chat_template import ChatTemplate
from clara_model.checkpoint.files import BUNDLED
from clara_model.errors import ClaraError

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " Who? <s> {{ x }} \u4e2d\n"},
    {"role": "assistant", "content": "Ada."},
    {"role": "user", "content": "And?"},
]
ORDINARY = small_model.CHAT_TEMPLATE
TEMPLATES = [
    ORDINARY,
    "{%- for m in messages if m.role != 'tool' -%}\n  {%- set x = loop.index0 ~ m.content|trim + '\\n' -%}\n"
    "    {{- x * 2 }}{% if loop.last %}|{{ loop.length }}|"
    "{{ loop.previtem.role if loop.previtem else '' }}{% endif %}\n{%- endfor -%}",
    "{% macro turn(m, n=2) %}{{ m.role }}: {{ caller() if caller else '' }}{% for i in range(n) %}{{ i }}{% endfor %}"
    "{% endmacro %}{% for m in messages %}{% call turn(m) %}{{ m['content'] | replace('a', 'bb') }}{% endcall %}"
    "{% if loop.first %}{% continue %}{% endif %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "{% set ns = namespace(n=0, text='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% set ns.text = ns.text ~ '%s-%02d ' % (m.role, ns.n) %}{% if ns.n == 3 %}{% break %}{% endif %}{% endfor %}"
    "{{ ns.text }}{{ messages | tojson }}{{ messages | map(attribute='role') | join('/') }}{{ bos_token }}"
    "{{ undefined_thing }}{{ tools is none }}{{ dict(a=1) }}{{ '{:>4}'.format('x') }}{{ 2 ** 3 }}{{ 7 % 4 }}",
    "{% for m in messages recursive %}{{ m.role if m is mapping else m }}{% if m is mapping and loop.depth < 3 %}"
    "({{ loop([m.content]) }}){% endif %}{% endfor %}{% set block %}{{ messages[0]['content'] }}{% endset %}"
    "{{ block }}{{ add_generation_prompt }}{{ enable_thinking }}{{ messages[1:] | length }}{{ 'a' in 'abc' }}",
]
GROWING = "{% set ns = namespace(x=START) %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}"


def growing(start: str, step: str) -> str:
    return GROWING.replace("START", start).replace("STEP", step)


ENDLESS = {
    "nested loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "a macro that calls itself twice": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
    "{{ m(60) }}",
    "a macro without an end": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a recursive loop": "{% for x in range(9999) recursive %}{{ loop(range(9999)) }}{% endfor %}",
    "a text that doubles": growing("'ab'", "ns.x ~ ns.x"),
    "a sum that doubles": growing("'ab'", "ns.x + ns.x"),
    "a block that doubles": "{% set x = 'ab' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60,
    "a repetition": "{{ 'a' * 10000000000 }}",
    "a repetition of a list": "{{ ([1] * 10000000000) | length }}",
    "a power": "{{ 10 ** 10 ** 10 }}",
    "a number that squares": growing("7", "ns.x * ns.x"),
    "a width": "{{ 'a' | center(10000000000) }}",
    "a width by a method": "{{ 'a'.ljust(10000000000) }}",
    "a width in a format": "{{ '%10000000000d' % 1 }}",
    "a width in str.format": "{{ '{:10000000000}'.format(1) }}",
    "a width by its argument": "{{ '{:{}}'.format(1, 10000000000) }}",
    "a width through a map": "{{ ['a'] | map('center', 10000000000) | list }}",
    "a batch": "{{ [1] | batch(10000000000, 0) | list }}",
    "a replacement": "{% set x = 'a' * 90000 %}{{ x | replace('a', x) | length }}",
    "a replacement by a method": "{% set x = 'a' * 90000 %}{{ x.replace('a', x) | length }}",
    "a long range": "{% for i in range(100000) %}{% endfor %}",
    "a list gone through often": "{% set x = range(9999) | list %}"
    "{% for i in range(9999) %}{% set y = x | sort %}{% endfor %}",
    "constant text in a loop": "{% for i in range(9999) %}" + "long text " * 1000 + "{% endfor %}",
}  # fmt: skip


def tokenizer_with(template: Any) -> PreTrainedTokenizerFast:
    tokenizer = small_model.build_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def theirs(tokenizer: PreTrainedTokenizerFast, turns: list[dict[str, str]], ready: bool) -> str:
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=ready, enable_thinking=False))


@pytest.mark.parametrize("ready", [True, False])
@pytest.mark.parametrize("template", TEMPLATES)
def test_rendered_as_by_transformers(template: str, ready: bool):
    tokenizer = tokenizer_with(template)
    for turns in (TURNS, TURNS[:1], TURNS[1:3]):
        assert ChatTemplate(tokenizer).render(turns, ready) == theirs(tokenizer, turns, ready)


def test_a_template_may_use_all_special_tokens():
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED / "clara-tiny" / "base")
    assert ChatTemplate(tokenizer).render(TURNS, True) == theirs(tokenizer, TURNS, True)


def test_recorded_bases_render_as_by_transformers(goldens: Any):
    folders = sorted(path.parent for path in (goldens / "bases").glob("*/tokenizer_config.json"))
    assert folders
    for folder in folders:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert ChatTemplate(tokenizer).render(TURNS[1:], True) == theirs(tokenizer, TURNS[1:], True)


@pytest.mark.parametrize("name", ENDLESS)
def test_templates_without_an_end_are_refused(name: str):
    start = time.process_time()
    with pytest.raises((TemplateError, ClaraError)):
        ChatTemplate(tokenizer_with(ENDLESS[name])).render(TURNS, True)
    assert time.process_time() - start < 5


def test_a_template_can_be_copied_and_sent_to_another_process():
    chat = ChatTemplate(tokenizer_with(ORDINARY))
    for again in (copy.deepcopy(chat), pickle.loads(pickle.dumps(chat))):
        assert again.render(TURNS, True) == chat.render(TURNS, True)


def test_a_long_conversation_is_rendered():
    tokenizer = tokenizer_with(ORDINARY)
    turns = [{"role": "user", "content": "Who was it? " * 100}] * 2000
    assert ChatTemplate(tokenizer).render(turns, True) == theirs(tokenizer, turns, True)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}", r"cannot be used \(Unexpected end of template"),
        ("{{ messages[0].content.x.y }}", "has no attribute .x"),
        ("{{ messages.__class__.x }}", "unsafe"),
        ("{{ raise_exception('No.') }}", r"cannot be used \(No\)"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% include 'x' %}", "cannot be used"),
        ("{{ namespace(_x=1) }}", "stores the attribute '_x'"),
        ("(" * 100 + "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "cannot be used"),
        ("hello", "renders the user's text 0 times instead of once"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "the user's text 2 times instead"),
        ("{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}", "the system's text 0 times"),
        ("x" * 300_000, "a text of at most 262144 characters"),
        ({"tool_use": "x"}, "cannot be used"),
    ],
)  # fmt: skip
def test_what_a_probe_finds(template: Any, message: str):
    with pytest.raises(ClaraError, match=message) as caught:
        ChatTemplate(tokenizer_with(template)).check(system=True)
    assert "\n" not in str(caught.value) and "the chat template in the tokenizer " in str(caught.value)


def test_a_template_without_a_place_for_a_system_message():
    refusing = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{{ m.content }}{% endfor %}"
    )
    ChatTemplate(tokenizer_with(refusing)).check(system=True)
    ChatTemplate(tokenizer_with(refusing.replace("System role not supported", "No."))).check(system=False)
