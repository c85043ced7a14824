/** A document that does not fit its type. `path` is in msgspec's notation. */
export class DecodeError extends Error {
  readonly path: string;
  constructor(reason: string, path: string) {
    super(`${reason} - at \`${path}\``);
    this.name = "DecodeError";
    this.path = path;
  }
}

type Decoder<T> = (value: unknown, path: string) => T;
type Source = { readonly [name: string]: unknown };
/** Text in a format. Only a decoder makes one. */
export type Formatted<K extends string> = string & { readonly __format: K };

function kindOf(value: unknown): string {
  if (value === null) return "null";
  return Array.isArray(value) ? "array" : typeof value;
}
function wrong(expected: string, value: unknown, path: string): never {
  throw new DecodeError(`Expected \`${expected}\`, got \`${kindOf(value)}\``, path);
}
function toObject(value: unknown, path: string): Source {
  if (typeof value !== "object" || value === null || Array.isArray(value)) wrong("object", value, path);
  return value as Source;
}
function toArray(value: unknown, path: string): readonly unknown[] {
  if (!Array.isArray(value)) wrong("array", value, path);
  return value as readonly unknown[];
}
function has(from: Source, name: string): boolean {
  return Object.prototype.hasOwnProperty.call(from, name);
}
function inside(path: string, name: string): string {
  return `${path}.${name}`;
}
function required<T>(from: Source, name: string, decode: Decoder<T>, path: string): T {
  if (!has(from, name)) throw new DecodeError(`Object missing required field \`${name}\``, path);
  return decode(from[name], inside(path, name));
}
function defaulted<T>(from: Source, name: string, decode: Decoder<T>, path: string, other: unknown): T {
  return decode(has(from, name) ? from[name] : other, inside(path, name));
}
function checkTag(from: Source, name: string, tag: string | number, path: string): void {
  if (has(from, name) && from[name] !== tag) throw new DecodeError("Invalid value", inside(path, name));
}
function refuseUnknown(from: Source, names: readonly string[], path: string): void {
  for (const name of Object.keys(from)) {
    if (!names.includes(name)) throw new DecodeError(`Object contains unknown field \`${name}\``, path);
  }
}
function checkLength(length: number, least: number, most: number, path: string): void {
  if (length < least || length > most) {
    throw new DecodeError(`Expected a length of ${least} to ${most}, got ${length}`, path);
  }
}
// msgspec decodes the elements that are present before it finds that one is missing.
function itemOf(from: readonly unknown[], index: number, least: number, path: string): unknown {
  if (index >= from.length) {
    throw new DecodeError(`Expected \`array\` of at least length ${least}, got ${from.length}`, path);
  }
  return from[index];
}
const toJson: Decoder<unknown> = (value) => value;
const toBool: Decoder<boolean> = (value, path) =>
  typeof value === "boolean" ? value : wrong("bool", value, path);
const toNumber: Decoder<number> = (value, path) =>
  typeof value === "number" ? value : wrong("float", value, path);
const toText: Decoder<string> = (value, path) =>
  typeof value === "string" ? value : wrong("str", value, path);
function toLimitedText(least: number, most: number): Decoder<string> {
  return (value, path) => {
    const text = toText(value, path);
    checkLength([...text].length, least, most, path);
    return text;
  };
}
function toInt(low: number, high: number): Decoder<number> {
  return (value, path) => {
    if (typeof value !== "number") wrong("int", value, path);
    if (!Number.isInteger(value)) wrong("int", value, path);
    if (!Number.isSafeInteger(value)) throw new DecodeError("Integer is beyond 2^53 - 1", path);
    if (value < low || value > high) throw new DecodeError(`Expected \`int\` from ${low} to ${high}`, path);
    return value;
  };
}
function isDay(text: string): boolean {
  const [year, month, day] = text.slice(0, 10).split("-").map(Number) as [number, number, number];
  const leap = year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0);
  const days = [31, leap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
  return year >= 1 && day >= 1 && day <= (days[month - 1] ?? 0);
}
function toFormat<K extends string>(kind: K, format: RegExp, dated: boolean): Decoder<Formatted<K>> {
  return (value, path) => {
    const text = toText(value, path);
    if (!format.test(text) || (dated && !isDay(text))) throw new DecodeError(`Invalid ${kind}`, path);
    return text as Formatted<K>;
  };
}
function toChoice<T extends string | number>(values: readonly T[]): Decoder<T> {
  return (value, path) => {
    if (!(values as readonly unknown[]).includes(value)) {
      const kinds = new Set(values.map((each) => typeof each as string));
      if (!kinds.has(typeof value)) wrong([...kinds].join(" | "), value, path);
      throw new DecodeError("Invalid enum value", path);
    }
    return value as T;
  };
}
function toList<T>(decode: Decoder<T>, least: number, most: number): Decoder<readonly T[]> {
  return (value, path) => {
    const items = toArray(value, path);
    checkLength(items.length, least, most, path);
    return items.map((each, index) => decode(each, `${path}[${index}]`));
  };
}
function toMap<T>(decode: Decoder<T>): Decoder<{ readonly [name: string]: T }> {
  return (value, path) =>
    Object.fromEntries(
      Object.entries(toObject(value, path)).map(([name, each]) => [name, decode(each, `${path}[...]`)]),
    );
}
function toTuple(value: unknown, decoders: readonly Decoder<unknown>[], path: string): readonly unknown[] {
  const items = toArray(value, path);
  const found = items.slice(0, decoders.length).map((each, n) => (decoders[n] ?? toJson)(each, `${path}[${n}]`));
  if (items.length !== decoders.length) {
    throw new DecodeError(`Expected \`array\` of length ${decoders.length}`, path);
  }
  return found;
}
// msgspec decodes a decimal from a number too.
function toDecimal(decode: Decoder<Formatted<"decimal">>): Decoder<Formatted<"decimal">> {
  return (value, path) => decode(typeof value === "number" ? String(value) : value, path);
}
function toNullable<T>(decode: Decoder<T>): Decoder<T | null> {
  return (value, path) => (value === null ? null : decode(value, path));
}
function toOneOf<T>(members: { readonly [kind: string]: Decoder<T> }): Decoder<T> {
  return (value, path) => {
    const kind = kindOf(value);
    const decode = has(members, kind) ? members[kind] : undefined;
    return decode === undefined ? wrong(Object.keys(members).join(" | "), value, path) : decode(value, path);
  };
}
function toTagged<T>(name: string, members: readonly (readonly [string | number, Decoder<T>])[]): Decoder<T> {
  return (value, path) => {
    const from = toObject(value, path);
    if (!has(from, name)) throw new DecodeError(`Object missing required field \`${name}\``, path);
    return byTag(from[name], members, inside(path, name))(value, path);
  };
}
function toTaggedArray<T>(members: readonly (readonly [string | number, Decoder<T>])[]): Decoder<T> {
  return (value, path) => {
    const from = toArray(value, path);
    if (from.length === 0) throw new DecodeError("Expected `array` of at least length 1, got 0", path);
    return byTag(from[0], members, `${path}[0]`)(value, path);
  };
}
function byTag<T>(
  tag: unknown,
  members: readonly (readonly [string | number, Decoder<T>])[],
  path: string,
): Decoder<T> {
  const found = members.find(([each]) => each === tag);
  if (found === undefined) throw new DecodeError("Invalid value", path);
  return found[1];
}
