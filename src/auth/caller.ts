// Who asks. Made once per request or connection in this folder and passed down to the engine.
import type { LatencyClass } from '../../protocol/messages.ts';

export interface Caller {
  tenant: string;
  keyId: string;
  scopes: readonly string[];
  /** Default latency class of its requests. */
  class: LatencyClass;
}

/** What a caller may do beside being answered: load and unload models. */
export const ADMIN_SCOPE = 'admin';

/** The caller when no keys are configured. */
export const localCaller: Caller = { tenant: 'local', keyId: 'none', scopes: ['chat'], class: 'chat' };

/** The same where only this machine can connect and no key is for operators alone. */
export const localOperator: Caller = { ...localCaller, scopes: ['chat', ADMIN_SCOPE] };
