/**
 * What the demo writes and asks: text to stdout, in colours on a terminal only; a line of progress for what takes time; a
 * question where somebody sits at the keyboard.
 */
import { createInterface } from "node:readline/promises";
import { systemClock } from "../lib/clock.ts";

const isColoured = process.stdout.isTTY && process.stdout.hasColors();

export const bold = style(1);
export const dim = style(2);
export const red = style(31);
export const green = style(32);
export const yellow = style(33);

/** Writes a line. */
export function say(line = ""): void {
  process.stdout.write(`${line}\n`);
}

/** Says what is being done while it is done: `Creating a database ... 0.6 s`. */
export async function progress<T>(what: string, work: () => Promise<T>): Promise<T> {
  process.stdout.write(`${what} ... `);
  const startedAt = systemClock.now();
  try {
    const result = await work();
    say(green(`${((systemClock.now() - startedAt) / 1000).toFixed(1)} s`));
    return result;
  } catch (error) {
    say(red("failed"));
    throw error;
  }
}

/** True where stdin and stdout are terminals: somebody can answer. */
export function canAsk(): boolean {
  return process.stdin.isTTY && process.stdout.isTTY;
}

/** Asks a question that only `y` or `yes` answers with true. `signal` ends the waiting with false. */
export async function confirm(question: string, signal: AbortSignal): Promise<boolean> {
  const prompt = createInterface({ input: process.stdin, output: process.stdout });
  prompt.once("SIGINT", () => process.kill(process.pid, "SIGINT")); // readline keeps Ctrl-C to itself
  try {
    const answer = await prompt.question(`${question} [y/N] `, { signal });
    return /^y(es)?$/i.test(answer.trim());
  } catch (error) {
    if (signal.aborted) return false;
    throw error;
  } finally {
    prompt.close();
  }
}

function style(code: number): (text: string) => string {
  return (text) => (isColoured ? `\x1b[${code}m${text}\x1b[0m` : text);
}
