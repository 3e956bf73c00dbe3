// Entry of the page: one client for the server that served it, the app, and the banner about the connection.
import { connect } from '../index.ts';
import { App } from './app.ts';
import { Banner } from './banner.ts';
import { readStored, writeStored } from './store.ts';

const apiKey = readStored('key');
const banner = new Banner({
  retryNow: () => client.retryNow(),
  useKey: (key) => {
    writeStored('key', key);
    location.reload();
  },
});
const client = connect(location.origin, {
  name: 'tokenwire-web',
  retryMaxMs: 5000,
  ...(apiKey === null ? {} : { apiKey }),
});
const app = new App(client);
app.onLoading = (message) => banner.loading(message);
client.onState((state) => {
  banner.show(state);
  app.stateChanged(state);
});
client.onModels(() => app.modelsChanged());
banner.show(client.state);
addEventListener('pageshow', (event) => {
  if (event.persisted) location.reload();
});
addEventListener('online', () => client.retryNow());
document.addEventListener('visibilitychange', () => {
  if (document.visibilityState === 'visible') client.retryNow();
});
document.body.replaceChildren(app.root, banner.root);
app.focus();
