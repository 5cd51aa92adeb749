/**
 * Tells on stderr what is being measured while one waits: one line that changes on a terminal, a line for each change
 * elsewhere. Called by main.ts. It never writes to stdout, where the tables go.
 */
const eraseLine = "\r\u001b[K";

export function reportProgress(text: string): void {
  process.stderr.write(process.stderr.isTTY ? `${eraseLine}${text}` : `${text}\n`);
}

export function clearProgress(): void {
  if (process.stderr.isTTY) process.stderr.write(eraseLine);
}
