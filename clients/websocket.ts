// The transport over the WebSocket that browsers and Node 22 have in common. The only file that touches it.
import { SUBPROTOCOL } from '../protocol/constants.ts';
import type { Transport, TransportEvents } from './transport.ts';

/** Opens `url` (ws: or wss:) with the native subprotocol. Throws SyntaxError for a malformed URL. */
export function openWebSocket(url: string, events: TransportEvents): Transport {
  const socket = new WebSocket(url, SUBPROTOCOL);
  socket.binaryType = 'arraybuffer';
  let isClosed = false;
  const closed = (code: number, reason: string): void => {
    if (isClosed) return;
    isClosed = true;
    events.onClose(code, reason);
  };
  socket.addEventListener('open', () => {
    if (!isClosed) events.onOpen();
  });
  socket.addEventListener('message', (event: MessageEvent<unknown>) => {
    if (isClosed) return;
    if (event.data instanceof ArrayBuffer) events.onMessage(new Uint8Array(event.data));
    else events.onForeignMessage();
  });
  socket.addEventListener('close', (event) => closed(event.code, event.reason));
  // Browsers send close right after an error. Node 22 sends no close for a connection that never opened.
  socket.addEventListener('error', () => setTimeout(() => closed(1006, ''), 0));
  return {
    send(bytes) {
      // TypeScript 7 wants to know that the buffer is not shared; frames of the codec never are.
      if (socket.readyState === WebSocket.OPEN) socket.send(bytes as Uint8Array<ArrayBuffer>);
    },
    close(code, reason) {
      if (socket.readyState <= WebSocket.OPEN) socket.close(code, reason);
      // A dead peer never answers the closing handshake: do not make the caller wait for it.
      closed(code, reason);
    },
  };
}
