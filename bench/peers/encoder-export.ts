// Writes an embedding model as a directory that transformers.js loads: its config, its tokenizer, and onnx/model.onnx with
// the inputs and outputs of the usual export (padded rows, a mask, last_hidden_state), in float32 from the same weights.
import fs from 'node:fs';
import path from 'node:path';
import { DataType, OnnxWriter } from '../../workers/model/onnx-writer.ts';
import { EMBEDDING_NORM, encoderPart, POSITIONS, TOKEN_TYPES, WORDS } from '../../workers/model/specs/bert.ts';
import { bertSpec } from '../../workers/model/specs/bert.ts';
import { openSafetensors } from '../../workers/model/weights/safetensors.ts';
import { toFloats } from '../../workers/model/weights/source.ts';

const MS = 'com.microsoft';

/** `from`: directory of the model; `to`: made anew. Throws an Error when the weights cannot be read. */
export function exportEncoder(from: string, to: string): void {
  const config = JSON.parse(fs.readFileSync(path.join(from, 'config.json'), 'utf8')) as Record<string, unknown>;
  const spec = bertSpec(config, path.join(from, 'config.json'));
  const source = openSafetensors(from);
  if (source === null) throw new Error(`${from}: no weights`);
  const { hiddenSize: h, intermediateSize: f, vocabSize, maxPositions, numTokenTypes, numHeads } = spec;
  fs.mkdirSync(path.join(to, 'onnx'), { recursive: true });
  const w = new OnnxWriter(null);
  const constant = (name: string, dims: number[]): string =>
    w.tensor(name, DataType.float32, dims, toFloats(source.read(name, dims)));
  const norm = (x: string, name: string): string =>
    w.node('LayerNormalization', [x, constant(`${name}.weight`, [h]), constant(`${name}.bias`, [h])], `${name}_out`, {
      axis: -1,
      epsilon: { float: spec.normEpsilon },
    });
  const linear = (x: string, name: string, rows: number, cols: number): string => {
    const values = toFloats(source.read(`${name}.weight`, [rows, cols]));
    const turned = Float32Array.from(
      { length: rows * cols },
      (_, i) => values[(i % rows) * cols + Math.floor(i / rows)]!,
    );
    w.tensor(`${name}_w`, DataType.float32, [cols, rows], turned);
    w.node('MatMul', [x, `${name}_w`], `${name}_product`);
    return w.node('Add', [`${name}_product`, constant(`${name}.bias`, [rows])], `${name}_sum`);
  };
  for (const name of ['input_ids', 'attention_mask', 'token_type_ids']) w.input(name, DataType.int64, ['B', 'S']);
  w.tensor('zero', DataType.int64, [], BigInt64Array.of(0n));
  w.tensor('one', DataType.int64, [], BigInt64Array.of(1n));
  w.node('Shape', ['input_ids'], 'shape');
  w.node('Gather', ['shape', 'one'], 'length', { axis: 0 });
  w.node('Range', ['zero', 'length', 'one'], 'positions');
  w.node('Gather', [constant(WORDS, [vocabSize, h]), 'input_ids'], 'words', { axis: 0 });
  w.node('Gather', [constant(POSITIONS, [maxPositions, h]), 'positions'], 'places', { axis: 0 });
  w.node('Gather', [constant(TOKEN_TYPES, [numTokenTypes, h]), 'token_type_ids'], 'types', { axis: 0 });
  w.node('Add', ['words', 'types'], 'typed');
  w.node('Add', ['typed', 'places'], 'embedded');
  w.node('Cast', ['attention_mask'], 'mask', { to: DataType.int32 });
  let x = norm('embedded', EMBEDDING_NORM);
  for (let l = 0; l < spec.numLayers; l++) {
    const qkv = (['query', 'key', 'value'] as const).map((kind) => {
      return linear(x, encoderPart(l, `attention.self.${kind}`), h, h);
    });
    w.node('MultiHeadAttention', [...qkv, '', 'mask'], `l${l}_attention`, { num_heads: numHeads }, MS);
    w.node('Add', [x, linear(`l${l}_attention`, encoderPart(l, 'attention.output.dense'), h, h)], `l${l}_sum`);
    x = norm(`l${l}_sum`, encoderPart(l, 'attention.output.LayerNorm'));
    w.node('Gelu', [linear(x, encoderPart(l, 'intermediate.dense'), f, h)], `l${l}_gelu`);
    w.node('Add', [x, linear(`l${l}_gelu`, encoderPart(l, 'output.dense'), h, f)], `l${l}_result`);
    x = norm(`l${l}_result`, encoderPart(l, 'output.LayerNorm'));
  }
  w.node('Identity', [x], 'last_hidden_state');
  w.output('last_hidden_state', DataType.float32, ['B', 'S', h]);
  fs.writeFileSync(path.join(to, 'onnx', 'model.onnx'), w.finish());
  fs.writeFileSync(path.join(to, 'config.json'), JSON.stringify(config));
  // The lengths of padding and truncation are the library's to choose.
  const tokenizer = JSON.parse(fs.readFileSync(path.join(from, 'tokenizer.json'), 'utf8')) as Record<string, unknown>;
  fs.writeFileSync(path.join(to, 'tokenizer.json'), JSON.stringify({ ...tokenizer, padding: null, truncation: null }));
  const names = { tokenizer_class: 'BertTokenizer', model_max_length: 256, pad_token: '[PAD]', unk_token: '[UNK]' };
  fs.writeFileSync(
    path.join(to, 'tokenizer_config.json'),
    JSON.stringify({ ...names, cls_token: '[CLS]', sep_token: '[SEP]', mask_token: '[MASK]', do_lower_case: true }),
  );
}
