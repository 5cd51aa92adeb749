/**
 * The types of settings: how the text of a setting becomes a value, and what is said when it does not. A parser throws
 * a SettingError that says what is allowed; who wrote the text, and where, is load.ts's to add.
 */

/** What is wrong with a value, and what is allowed; without the setting's name. */
export class SettingError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "SettingError";
  }
}

export interface SettingType<T> {
  readonly parse: (input: string) => T;
  /** What is allowed, for help and documentation. */
  readonly allowed: string;
  /** True when a bare flag, without a value, means true. */
  readonly isBoolean?: boolean;
}

/** A whole number from `min` to `max`. */
export function integer(min: number, max: number): SettingType<number> {
  const allowed = `a whole number from ${min} to ${max}`;
  return { allowed, parse: (input) => parseInteger(input, min, max, allowed) };
}

/** Seconds in the file, milliseconds in the program. A fraction is allowed where it is at least a millisecond. */
export function seconds(min: number, max: number): SettingType<number> {
  const allowed = `seconds, from ${min} to ${max}`;
  return {
    allowed,
    parse(input) {
      const value = /^\d+(\.\d{1,3})?$/.test(input) ? Number(input) : Number.NaN;
      if (!(value >= min && value <= max)) throw new SettingError(`expected ${allowed}`);
      return Math.round(value * 1000);
    },
  };
}

function parseInteger(input: string, min: number, max: number, allowed: string): number {
  const value = /^\d{1,15}$/.test(input) ? Number(input) : Number.NaN;
  if (!(value >= min && value <= max)) throw new SettingError(`expected ${allowed}`);
  return value;
}

const YES = ["true", "1", "yes", "on"];
const NO = ["false", "0", "no", "off"];

export const boolean: SettingType<boolean> = {
  allowed: "true, yes, on, 1 or false, no, off, 0",
  isBoolean: true,
  parse(input) {
    const lower = input.toLowerCase();
    if (YES.includes(lower)) return true;
    if (NO.includes(lower)) return false;
    throw new SettingError(`expected ${boolean.allowed}`);
  },
};

/** One of the given words, in lower or upper case. */
export function oneOf<const T extends string>(...words: readonly T[]): SettingType<T> {
  const allowed = words.join(", ").replace(/, ([^,]*)$/, " or $1");
  return {
    allowed,
    parse(input) {
      const word = words.find((candidate) => candidate === input.toLowerCase());
      if (word === undefined) throw new SettingError(`expected ${allowed}`);
      return word;
    },
  };
}

/** Text that may not be empty. */
export function text(allowed: string, check: (value: string) => void = () => {}): SettingType<string> {
  return {
    allowed,
    parse(value) {
      if (value === "" || hasControlCharacters(value)) throw new SettingError(`expected ${allowed}`);
      check(value);
      return value;
    },
  };
}

/** Parts separated by commas, spaces around them dropped; empty parts are dropped too. */
export function list(
  allowed: string,
  check: (parts: readonly string[]) => void = () => {},
): SettingType<readonly string[]> {
  return {
    allowed,
    parse(value) {
      const parts = value.split(",").map((part) => part.trim());
      const found = parts.filter((part) => part !== "");
      if (found.some(hasControlCharacters)) throw new SettingError(`expected ${allowed}`);
      check(found);
      return Object.freeze(found);
    },
  };
}

/** Empty text means "not set". */
export function optional<T>(type: SettingType<T>): SettingType<T | undefined> {
  return { ...type, parse: (value) => (value === "" ? undefined : type.parse(value)) };
}

function hasControlCharacters(value: string): boolean {
  // oxlint-disable-next-line no-control-regex -- control characters are what it looks for
  return /[\u0000-\u001f\u007f]/.test(value);
}
