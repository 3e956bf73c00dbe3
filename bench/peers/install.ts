// Installs the peers' libraries with npm, pinned, each in a folder of its own far from the product's dependencies. No
// install scripts run: node-llama-cpp's binary comes as a package of its own per platform, onnxruntime's in its package.
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';

export interface PeerPackage {
  /** What the wrapper imports: re-exports of these. */
  exports: readonly string[];
  dependencies(): Record<string, string>;
  /** Optional packages of all platforms and GPUs would be gigabytes for one, and are needed by the other. */
  omitOptional: boolean;
}

const LLAMA_VERSION = '3.22.1';

/** Packages with a CPU binary, by process.platform and process.arch. */
const llamaBinaries: Readonly<Record<string, string>> = {
  'linux-x64': 'linux-x64',
  'linux-arm64': 'linux-arm64',
  'darwin-arm64': 'mac-arm64-metal',
  'darwin-x64': 'mac-x64',
  'win32-x64': 'win-x64',
  'win32-arm64': 'win-arm64',
};

export const nodeLlamaCpp: PeerPackage = {
  exports: ["export { getLlama } from 'node-llama-cpp';", "export { Template } from '@huggingface/jinja';"],
  dependencies() {
    const platform = `${process.platform}-${process.arch}`;
    const binary = llamaBinaries[platform];
    if (binary === undefined) throw new Error(`node-llama-cpp has no prebuilt binary for ${platform}`);
    return {
      'node-llama-cpp': LLAMA_VERSION,
      [`@node-llama-cpp/${binary}`]: LLAMA_VERSION,
      '@huggingface/jinja': '0.5.11',
    };
  },
  omitOptional: true,
};

export const transformersJs: PeerPackage = {
  exports: ["export * from '@huggingface/transformers';"],
  dependencies: () => ({ '@huggingface/transformers': '4.3.1' }),
  omitOptional: false,
};

const INSTALL_TIMEOUT_MS = 300_000;

/** Installs what is missing and returns the file to import. Throws an Error with npm's last words. */
export async function installPeer(folder: string, peer: PeerPackage): Promise<string> {
  const entry = path.join(folder, 'entry.mjs');
  const dependencies = peer.dependencies();
  fs.mkdirSync(folder, { recursive: true });
  if (!isInstalled(folder, dependencies)) {
    const manifest = { private: true, dependencies };
    fs.writeFileSync(path.join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`);
    await npm(folder, peer.omitOptional ? ['--omit=optional'] : []);
    if (!isInstalled(folder, dependencies)) throw new Error(`npm installed other versions than asked for in ${folder}`);
  }
  fs.writeFileSync(entry, `${peer.exports.join('\n')}\n`);
  return entry;
}

function isInstalled(folder: string, dependencies: Record<string, string>): boolean {
  return Object.entries(dependencies).every(([name, version]) => {
    const file = path.join(folder, 'node_modules', name, 'package.json');
    return (
      fs.existsSync(file) && (JSON.parse(fs.readFileSync(file, 'utf8')) as { version?: string }).version === version
    );
  });
}

async function npm(folder: string, more: readonly string[]): Promise<void> {
  const args = ['install', '--ignore-scripts', '--no-audit', '--no-fund', '--prefix', folder, ...more];
  // Under `npm run` the running npm is known, and no shell is needed to find it.
  const script = process.env['npm_execpath'];
  const [file, all] = script?.endsWith('.js') ? [process.execPath, [script, ...args]] : ['npm', args];
  try {
    await promisify(execFile)(file, all, {
      cwd: folder,
      timeout: INSTALL_TIMEOUT_MS,
      shell: process.platform === 'win32',
    });
  } catch (error) {
    const { stderr, message } = error as Error & { stderr?: string };
    throw new Error(`npm install failed: ${(stderr || message).trim().slice(-400)}`, { cause: error });
  }
}
