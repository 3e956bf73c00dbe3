// The fake model's text: one token per byte, four special tokens and a small chat template, so that tests and load
// runs need no files. Used by TextModel.bytes().
import type { Place, PlainEncoder } from './plain-tokenizer.ts';
import { SpecialTokens } from './special-tokens.ts';
import { TokenBytes } from './token-bytes.ts';

const special = (id: number, content: string) => ({ id, content, isSpecial: true, lstrip: false, rstrip: false });

export const byteSpecials = new SpecialTokens([
  special(256, '<|start|>'),
  special(257, '<|end|>'),
  special(258, '<|pad|>'),
  special(259, '<|unused|>'),
]);
export const byteEosId = 257;

const encoder = new TextEncoder();

export const byteEncoder: PlainEncoder = {
  encode: (text: string, _place: Place): number[] => Array.from(encoder.encode(text)),
  addsPrefixSpace: () => false,
};

export function byteTokenBytes(): TokenBytes {
  return new TokenBytes(
    Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte)),
    260,
  );
}

export const byteTemplate = `{%- if tools -%}
{{- '<|start|>tools\\n' -}}
{%- for tool in tools -%}{{ tool | tojson }}{{ '\\n' }}{%- endfor -%}
{{- 'Call as <tool_call>\\n{"name": …, "arguments": {…}}\\n</tool_call><|end|>' -}}
{%- endif -%}
{%- for message in messages -%}
{{- '<|start|>' + message.role + '\\n' + message.content -}}
{%- for call in message.tool_calls or [] -%}
{{- '\\n' if message.content or not loop.first else '' -}}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' -}}
{{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson -}}
{{- '}\\n</tool_call>' -}}
{%- endfor -%}
{{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start|>assistant\\n' -}}{%- endif -%}`;
