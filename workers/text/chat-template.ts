// Messages and tools → prompt text by the model's own Jinja template: the one door to @huggingface/jinja.
// prompt.ts calls it. What must stay true: every string that came from a caller is guarded before the template sees
// it, and whatever a template does with hostile input ends as a ServiceError.
import { createHash } from 'node:crypto';
import { Template } from '@huggingface/jinja';
import { ServiceError } from '../../protocol/errors.ts';
import type { ChatMessage, ToolDefinition } from '../../protocol/messages.ts';
import { syntaxOf, type CallSyntax } from './call-syntax.ts';
import type { SpecialTokens } from './special-tokens.ts';

export interface TemplateSources {
  default: string;
  /** Some models have a template of their own for requests with tools. */
  toolUse?: string;
}

/** Deepest nesting of a tool's schema or of call arguments. */
const MAX_DEPTH = 64;
const PROBE = 'probe7391';

export class ChatTemplate {
  /** The template shows tools to the model and asks for calls in a form that is known. */
  readonly supportsTools: boolean;
  /** That form; null without tools. */
  readonly callSyntax: CallSyntax | null;
  readonly supportsSystem: boolean;
  /** At first, until it is known: the others take any. */
  #hasShortIds = true;
  readonly #default: Template;
  readonly #toolUse: Template;
  readonly #specials: SpecialTokens;
  /** bos_token, eos_token and so on, as templates know them. */
  readonly #names: Readonly<Record<string, string>>;

  /** Throws an Error when the source is no valid template. */
  constructor(sources: TemplateSources, names: Readonly<Record<string, string>>, specials: SpecialTokens) {
    this.#default = new Template(sources.default);
    this.#toolUse = sources.toolUse === undefined ? this.#default : new Template(sources.toolUse);
    this.#names = names;
    this.#specials = specials;
    const user: ChatMessage = { role: 'user', content: 'hi' };
    const tools = [{ name: PROBE, description: '', parameters: {} }];
    const shown = this.#probe([user], tools);
    const call = { id: PROBE, name: PROBE, arguments: '{}' };
    const called = this.#probe([user, { role: 'assistant', content: '', toolCalls: [call] }], tools);
    this.callSyntax = shown.includes(PROBE) ? syntaxOf(shown, called, PROBE) : null;
    this.supportsTools = this.callSyntax !== null;
    this.#hasShortIds = this.callSyntax?.kind.startsWith('mistral') ?? false;
    this.supportsSystem = this.#probe([{ role: 'system', content: PROBE }, user], []).includes(PROBE);
  }

  /**
   * Prompt text up to where the answer begins, caller strings guarded: only SpecialTokens.mark may read it.
   * Throws invalid_request when the template cannot express the conversation.
   */
  render(messages: readonly ChatMessage[], tools: readonly ToolDefinition[]): string {
    if (tools.length > 0 && !this.supportsTools) {
      throw new ServiceError('invalid_request', 'this model does not support tools', { param: 'tools' });
    }
    if (!this.supportsSystem && messages.some((message) => message.role === 'system')) {
      throw new ServiceError('invalid_request', 'this model does not support system messages', { param: 'messages' });
    }
    try {
      return this.#render(messages, tools);
    } catch (error) {
      if (error instanceof ServiceError) throw error;
      throw new ServiceError('invalid_request', "the model's chat template does not accept these messages", {
        param: 'messages',
        cause: error,
      });
    }
  }

  #probe(messages: readonly ChatMessage[], tools: readonly ToolDefinition[]): string {
    try {
      return this.#render(messages, tools);
    } catch {
      return '';
    }
  }

  #render(messages: readonly ChatMessage[], tools: readonly ToolDefinition[]): string {
    const template = tools.length > 0 ? this.#toolUse : this.#default;
    return template.render({
      ...this.#names,
      messages: this.#messages(messages),
      tools: tools.length > 0 ? tools.map((tool) => this.#tool(tool)) : null,
      add_generation_prompt: true,
    });
  }

  #tool(tool: ToolDefinition): object {
    return {
      type: 'function',
      function: {
        name: this.#specials.guard(tool.name),
        description: this.#specials.guard(tool.description ?? ''),
        parameters: this.#guardJson(tool.parameters ?? { type: 'object', properties: {} }, 'tools'),
      },
    };
  }

  #messages(messages: readonly ChatMessage[]): object[] {
    // Templates of some models want the function's name on its result, which OpenAI's form leaves out.
    const nameOfCall = new Map<string, string>();
    return messages.map((message) => {
      for (const call of message.toolCalls ?? []) nameOfCall.set(call.id, call.name);
      const name = message.name ?? nameOfCall.get(message.toolCallId ?? '');
      return {
        role: message.role,
        content: this.#specials.guard(message.content),
        ...(name === undefined ? {} : { name: this.#specials.guard(name) }),
        ...(message.toolCallId === undefined ? {} : { tool_call_id: this.#callId(message.toolCallId) }),
        ...(message.toolCalls === undefined || message.toolCalls.length === 0
          ? {}
          : { tool_calls: message.toolCalls.map((call) => this.#call(call)) }),
      };
    });
  }

  #call(call: { id: string; name: string; arguments: string }): object {
    let parsed: unknown = null;
    try {
      parsed = JSON.parse(call.arguments);
    } catch {
      // Kept as text: most templates print a string as it is.
    }
    const isObject = typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed);
    return {
      id: this.#callId(call.id),
      type: 'function',
      function: {
        name: this.#specials.guard(call.name),
        arguments: isObject ? this.#guardJson(parsed, 'messages') : this.#specials.guard(call.arguments),
      },
    };
  }

  /** Nine letters and digits for Mistral: its templates refuse others. */
  #callId(id: string): string {
    if (this.#hasShortIds) {
      return createHash('sha256').update(id).digest('hex').slice(0, 9);
    }
    return this.#specials.guard(id);
  }

  /** A copy with every string guarded, property names too. */
  #guardJson(value: unknown, param: string, depth = 0): unknown {
    if (depth > MAX_DEPTH) {
      throw new ServiceError('invalid_request', `JSON is nested deeper than ${MAX_DEPTH} levels`, { param });
    }
    if (typeof value === 'string') return this.#specials.guard(value);
    if (typeof value !== 'object' || value === null) return value;
    if (Array.isArray(value)) return value.map((item) => this.#guardJson(item, param, depth + 1));
    return Object.fromEntries(
      Object.entries(value).map(([key, item]) => [this.#specials.guard(key), this.#guardJson(item, param, depth + 1)]),
    );
  }
}
