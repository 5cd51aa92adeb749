/**
 * Random numbers that a failed run can repeat: `PGVPD_FUZZ_SEED` chooses the seed, `PGVPD_FUZZ_RUNS` how many inputs all
 * fuzz tests make together.
 */

/** Inputs of all fuzz tests together. */
export const FUZZ_RUNS = Number(process.env["PGVPD_FUZZ_RUNS"] ?? 1_000_000);

const SEED = Number(process.env["PGVPD_FUZZ_SEED"] ?? 20_260_101);

export class SeededRandom {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0;
  }

  /** A whole number from 0 to `below` - 1. (mulberry32) */
  below(below: number): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296) * below);
  }

  /** True once in `n` times. */
  oneIn(n: number): boolean {
    return this.below(n) === 0;
  }

  pick<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)] as T;
  }

  bytes(length: number): Buffer {
    const buffer = Buffer.allocUnsafe(length);
    for (let i = 0; i < length; i++) buffer[i] = this.below(256);
    return buffer;
  }

  /** `input` with up to four small damages: bytes changed, inserted, removed, cut off, repeated. */
  mutate(input: Buffer): Buffer {
    let result = Buffer.from(input);
    for (let left = this.below(4) + 1; left > 0; left--) {
      const at = this.below(result.length + 1);
      switch (this.below(6)) {
        case 0:
          if (at < result.length) result[at] = this.below(256);
          break;
        case 1:
          result = Buffer.concat([result.subarray(0, at), this.bytes(this.below(5)), result.subarray(at)]);
          break;
        case 2:
          result = Buffer.concat([result.subarray(0, at), result.subarray(at + this.below(5))]);
          break;
        case 3:
          result = result.subarray(0, at);
          break;
        case 4:
          if (at < result.length) result[at] = this.pick([0, 1, 0x7f, 0x80, 0xff, 0x5c, 0x20, 0x2d, 0x3d]);
          break;
        default:
          result = Buffer.concat([result.subarray(0, at), result.subarray(0, this.below(16)), result.subarray(at)]);
      }
    }
    return result;
  }
}

/**
 * Calls `attempt` `runs` times, each time with random numbers of its own. What it throws is thrown on, with the seed that
 * repeats this one input: `PGVPD_FUZZ_SEED=... PGVPD_FUZZ_RUNS=1`.
 */
export function fuzz(runs: number, attempt: (random: SeededRandom) => void): void {
  for (let run = 0; run < runs; run++) {
    const seed = SEED + run;
    try {
      attempt(new SeededRandom(seed));
    } catch (cause) {
      const text = cause instanceof Error ? cause.message : String(cause);
      throw new Error(`PGVPD_FUZZ_SEED=${seed} PGVPD_FUZZ_RUNS=1 repeats this: ${text}`, { cause });
    }
  }
}
