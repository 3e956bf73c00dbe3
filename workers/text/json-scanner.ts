// Reads one JSON value character by character and says at once when it stops being JSON. Used by tool-calls.ts,
// which must know the moment a call is complete, or can no longer become one. Strict: what it accepts, JSON.parse
// accepts. Remembers where the top-level properties of an object stand, to hand out their exact source.

export type ScanStatus = 'more' | 'done' | 'bad';

/** Property of the outermost object: positions in the text fed so far; the key's include its quotes. */
export interface ScannedProperty {
  keyStart: number;
  keyEnd: number;
  valueStart: number;
  valueEnd: number;
}

type Expect = 'value' | 'firstItem' | 'firstKey' | 'key' | 'colon' | 'next' | 'string' | 'escape' | 'hex' | 'word';

/** Deepest nesting followed; deeper input is bad. */
const MAX_DEPTH = 128;
const wordPattern = /^(?:-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null)$/;
const wordCharacter = /[-+.0-9A-Za-z]/;
const spaces = ' \t\n\r';

export class JsonScanner {
  readonly properties: ScannedProperty[] = [];
  #expect: Expect = 'value';
  /** Open brackets, outermost first. */
  readonly #open: string[] = [];
  #isKey = false;
  #numHex = 0;
  #word = '';
  #start = 0;
  #position = 0;

  /** Takes the next UTF-16 unit. After 'done' or 'bad' the scanner must not be fed again. */
  feed(unit: string): ScanStatus {
    const status = this.#step(unit);
    this.#position++;
    return status;
  }

  #step(unit: string): ScanStatus {
    switch (this.#expect) {
      case 'string':
        if (unit === '\\') this.#expect = 'escape';
        else if (unit === '"') return this.#endString();
        else if (unit < ' ') return 'bad';
        return 'more';
      case 'escape':
        if (unit === 'u') {
          this.#expect = 'hex';
          this.#numHex = 0;
          return 'more';
        }
        this.#expect = 'string';
        return '"\\/bfnrt'.includes(unit) ? 'more' : 'bad';
      case 'hex':
        if (!/[0-9a-fA-F]/.test(unit)) return 'bad';
        if (++this.#numHex === 4) this.#expect = 'string';
        return 'more';
      case 'word':
        if (wordCharacter.test(unit)) {
          this.#word += unit;
          return this.#word.length > 64 ? 'bad' : 'more';
        }
        if (!wordPattern.test(this.#word)) return 'bad';
        this.#endValue(this.#position);
        return this.#step(unit);
      default:
        return spaces.includes(unit) ? 'more' : this.#structure(unit);
    }
  }

  /** Everything outside strings and words. */
  #structure(unit: string): ScanStatus {
    const inner = this.#open.at(-1);
    switch (this.#expect) {
      case 'colon':
        this.#expect = 'value';
        return unit === ':' ? 'more' : 'bad';
      case 'firstKey':
        if (unit === '}') return this.#close(unit);
        return this.#beginKey(unit);
      case 'key':
        return this.#beginKey(unit);
      case 'next':
        if (unit === ',') {
          this.#expect = inner === '{' ? 'key' : 'value';
          return 'more';
        }
        return this.#close(unit);
      case 'firstItem':
        if (unit === ']') return this.#close(unit);
        return this.#beginValue(unit);
      default:
        return this.#beginValue(unit);
    }
  }

  #beginKey(unit: string): ScanStatus {
    if (unit !== '"') return 'bad';
    this.#isKey = true;
    this.#start = this.#position;
    this.#expect = 'string';
    return 'more';
  }

  #beginValue(unit: string): ScanStatus {
    const property = this.properties.at(-1);
    if (this.#open.length === 1 && this.#open[0] === '{' && property !== undefined) {
      property.valueStart = this.#position;
    }
    if (unit === '{' || unit === '[') {
      this.#open.push(unit);
      this.#expect = unit === '{' ? 'firstKey' : 'firstItem';
      return this.#open.length > MAX_DEPTH ? 'bad' : 'more';
    }
    // A call is an object: a bare string or word at the outermost level has no end of its own.
    if (this.#open.length === 0) return 'bad';
    if (unit === '"') {
      this.#isKey = false;
      this.#expect = 'string';
      return 'more';
    }
    this.#word = unit;
    this.#expect = 'word';
    return /[-0-9tfn]/.test(unit) ? 'more' : 'bad';
  }

  #endString(): ScanStatus {
    if (!this.#isKey) return this.#endValue(this.#position + 1);
    if (this.#open.length === 1) {
      this.properties.push({ keyStart: this.#start, keyEnd: this.#position + 1, valueStart: 0, valueEnd: 0 });
    }
    this.#expect = 'colon';
    return 'more';
  }

  #close(unit: string): ScanStatus {
    const opener = this.#open.pop();
    if (unit !== (opener === '{' ? '}' : ']')) return 'bad';
    return this.#open.length === 0 ? 'done' : this.#endValue(this.#position + 1);
  }

  #endValue(end: number): ScanStatus {
    const property = this.properties.at(-1);
    if (this.#open.length === 1 && this.#open[0] === '{' && property !== undefined) property.valueEnd = end;
    this.#expect = 'next';
    return 'more';
  }
}
