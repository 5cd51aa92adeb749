/**
 * Text from outside, made fit for a line of a message: control characters are escaped, so that a value can neither break
 * the line nor speak to the terminal, and what is too long is cut.
 */

const MAX_QUOTED_CHARACTERS = 100;

/** The text with every control character, and every line or paragraph separator, as an escape. */
export function oneLine(text: string): string {
  // oxlint-disable-next-line no-control-regex -- control characters are what it looks for
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, (character) => {
    return `\\x${character.charCodeAt(0).toString(16).padStart(2, "0")}`;
  });
}

/** A value as a message shows it: in quotes, and cut where it is long. */
export function quoted(value: string): string {
  const shown = value.length > MAX_QUOTED_CHARACTERS ? `${value.slice(0, MAX_QUOTED_CHARACTERS)}...` : value;
  return `"${oneLine(shown)}"`;
}
