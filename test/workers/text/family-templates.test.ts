// Chat templates of the form each family publishes: small ones of our own that use the same parts of Jinja, rendered
// through the door that every prompt takes.
import { describe, expect, it } from 'vitest';
import type { ChatMessage, ToolDefinition } from '../../../protocol/messages.ts';
import { ChatTemplate } from '../../../workers/text/chat-template.ts';
import { specialTokensOf, type TokenizerJson } from '../../../workers/text/plain-tokenizer.ts';

const system: ChatMessage = { role: 'system', content: ' Be brief. ' };
const talk: ChatMessage[] = [
  { role: 'user', content: 'Hi' },
  { role: 'assistant', content: 'Hello!' },
  { role: 'user', content: 'Bye' },
];
const weather: ToolDefinition = { name: 'weather', description: 'now', parameters: { type: 'object', properties: {} } };

const specials = specialTokensOf({
  added_tokens: ['<s>', '</s>', '<|eot|>', '<|im_start|>', '<|im_end|>', '<|end|>', '<start_of_turn>'].map(
    (content, id) => ({
      id,
      content,
      special: true,
      lstrip: false,
      rstrip: false,
      normalized: false,
      single_word: false,
    }),
  ),
} as unknown as TokenizerJson);

const template = (source: string): ChatTemplate =>
  new ChatTemplate({ default: source }, { bos_token: '<s>', eos_token: '</s>' }, specials);

describe('a chat template in the manner of', () => {
  it('Llama 3: headers, trimmed texts, a date where the renderer knows one', () => {
    const llama = template(
      `{{- bos_token }}
{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string = strftime_now("%Y") %}{%- else %}{%- set date_string = "2024" %}{%- endif %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}{%- set instructions = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}{%- else %}{%- set instructions = "" %}{%- endif %}
{{- "<|head|>system<|/head|>\\n\\n" }}{{- "Year: " ~ (date_string | length) ~ "\\n" }}{{- instructions }}{{- "<|eot|>" }}
{%- for message in messages %}{{- '<|head|>' + message['role'] + '<|/head|>\\n\\n' + message['content'] | trim + '<|eot|>' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|head|>assistant<|/head|>\\n\\n' }}{%- endif %}`,
    );
    expect(llama.render([system, ...talk.slice(0, 1)], [])).toBe(
      '<s><|head|>system<|/head|>\n\nYear: 4\nBe brief.<|eot|><|head|>user<|/head|>\n\nHi<|eot|><|head|>assistant<|/head|>\n\n',
    );
    expect(llama.supportsSystem).toBe(true);
  });

  it('Mistral: turns must alternate, and what does not is the caller’s error', () => {
    const mistral = template(
      `{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must alternate') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}`,
    );
    expect(mistral.render(talk, [])).toBe('<s>[INST] Hi [/INST]Hello!</s>[INST] Bye [/INST]');
    expect(mistral.supportsSystem).toBe(false);
    expect(() => mistral.render([system, ...talk], [])).toThrow('this model does not support system messages');
    expect(() => mistral.render([...talk, talk[0]!], [])).toThrow('does not accept these messages');
  });

  it('Qwen: tools as JSON, calls between marks, thinking kept out of old turns', () => {
    const qwen = template(
      `{%- if tools %}{{- '<|im_start|>system\\n' }}{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n' }}{%- endif %}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}{{- '\\nAnswer with <tool_call></tool_call>.<|im_end|>\\n' }}{%- endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}{%- if message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>')) and ns.last == messages|length - 1 %}{%- set ns.last = index %}{%- endif %}{%- endfor %}
{%- for message in messages %}{%- if message.role == 'assistant' %}{%- set content = message.content %}{%- if '</think>' in content %}{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}{{- '<|im_start|>' + message.role + '\\n' + content }}{%- if message.tool_calls %}{%- for call in message.tool_calls %}{{- '<tool_call>' + call.function.name + (call.function.arguments | tojson) + '</tool_call>' }}{%- endfor %}{%- endif %}{{- '<|im_end|>\\n' }}{%- elif not (message.role == 'system' and loop.first and tools) %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}`,
    );
    expect(qwen.supportsTools).toBe(true);
    const thought: ChatMessage = { role: 'assistant', content: '<think>hm</think>\n\nHello!' };
    expect(qwen.render([talk[0]!, thought, talk[2]!], [])).toBe(
      '<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n',
    );
    const called: ChatMessage = {
      role: 'assistant',
      content: '',
      toolCalls: [{ id: 'a', name: 'weather', arguments: '{"in":"Bern"}' }],
    };
    const rendered = qwen.render([system, talk[0]!, called], [weather]);
    expect(rendered).toContain('"name": "weather"');
    expect(rendered).toContain('<tool_call>weather{"in": "Bern"}</tool_call>');
  });

  it('SmolLM: a system text of its own where there is none, and marks around what was generated', () => {
    const smol = template(
      `{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}{% if message['role'] == 'assistant' %}{% generation %}{{ '<|im_start|>assistant\\n' + message['content'] + '<|im_end|>\\n' }}{% endgeneration %}{% else %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}`,
    );
    expect(smol.render(talk, [])).toBe(
      '<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n',
    );
    expect(smol.render([system, talk[0]!], [])).toMatch(/^<\|im_start\|>system\n Be brief\. <\|im_end\|>/);
  });

  it('Phi-3: one mark per role', () => {
    const phi = template(
      `{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}`,
    );
    expect(phi.render([system, talk[0]!], [])).toBe(
      '<|system|>\n Be brief. <|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n',
    );
  });

  it('Gemma 2, which knows no system role, and Gemma 3, which puts it before the first question', () => {
    const turns = `{%- for message in loop_messages %}{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception("roles must alternate") }}{%- endif %}{%- if message['role'] == 'assistant' %}{%- set role = "model" %}{%- else %}{%- set role = message['role'] %}{%- endif %}{{ '<start_of_turn>' + role + '\\n' + (prefix if loop.first else "") }}{%- if message['content'] is string %}{{ message['content'] | trim }}{%- elif message['content'] is iterable %}{%- for item in message['content'] %}{{ item['text'] | trim }}{%- endfor %}{%- else %}{{ raise_exception("invalid content") }}{%- endif %}{{ '<end_of_turn>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{%- endif %}`;
    const two = template(
      `{{ bos_token }}{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{%- endif %}{%- set prefix = "" %}{%- set loop_messages = messages %}${turns}`,
    );
    const three = template(
      `{{ bos_token }}{%- if messages[0]['role'] == 'system' %}{%- set prefix = messages[0]['content'] + '\\n\\n' %}{%- set loop_messages = messages[1:] %}{%- else %}{%- set prefix = "" %}{%- set loop_messages = messages %}{%- endif %}${turns}`,
    );
    const rest =
      'Hi<end_of_turn>\n<start_of_turn>model\nHello!<end_of_turn>\n<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n';
    for (const gemma of [two, three]) expect(gemma.render(talk, [])).toBe(`<s><start_of_turn>user\n${rest}`);
    expect(() => two.render([system, ...talk], [])).toThrow('this model does not support system messages');
    expect(three.render([system, ...talk], [])).toBe(`<s><start_of_turn>user\n Be brief. \n\n${rest}`);
  });
});
