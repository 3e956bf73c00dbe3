// Who asks. Made once per request or connection in this folder and passed down to the engine.
import type { LatencyClass } from '../../protocol/messages.ts';

export interface Caller {
  tenant: string;
  keyId: string;
  scopes: readonly string[];
  /** Default latency class of its requests. */
  class: LatencyClass;
}

/** The caller when no keys are configured. */
export const localCaller: Caller = { tenant: 'local', keyId: 'none', scopes: ['chat'], class: 'chat' };
