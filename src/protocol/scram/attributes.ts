/**
 * The messages of SCRAM as lists of attributes: `r=nonce,s=salt,i=4096`. [RFC 5802 section 7]
 */

/**
 * The values of exactly these attributes in this order; undefined when the message has others, fewer or more. Extensions
 * behind them are accepted where `mayExtend`, as the RFC wants it.
 */
export function readAttributes(message: string, names: string, mayExtend: boolean): string[] | undefined {
  const parts = message.split(",");
  if (parts.length < names.length || (parts.length > names.length && !mayExtend)) return undefined;
  const isAttribute = (part: string): boolean => /^[A-Za-z]=/.test(part);
  if (!parts.every(isAttribute)) return undefined;
  const known = parts.slice(0, names.length);
  return known.every((part, index) => part[0] === names[index]) ? known.map((part) => part.slice(2)) : undefined;
}

/** Printable ASCII without the comma. */
export function isNonce(text: string): boolean {
  return /^[\x21-\x2b\x2d-\x7e]+$/.test(text);
}

/** The bytes, or undefined for what is not base64 to the letter: Buffer.from would skip what it does not know. */
export function decodeBase64(text: string): Buffer | undefined {
  const isWhole = text.length % 4 === 0 && /^[A-Za-z0-9+/]*={0,2}$/.test(text);
  return isWhole ? Buffer.from(text, "base64") : undefined;
}
