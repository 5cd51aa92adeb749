/**
 * The few statistics that the tables need: the median of the rounds, how far they lie apart, and ratios that are taken
 * within a round before their median is. Pure functions, called by report.ts and targets.ts.
 */
import type { Sample } from "./scenario.ts";

/** One round of a scenario: each peer's numbers by its name. A peer that failed is absent. */
export type Round = ReadonlyMap<string, Sample>;

export interface Figure {
  readonly median: number;
  /** Half the distance between the lowest and the highest round, in per cent of the median. */
  readonly spreadPercent: number;
  /** Where the median of very many rounds would be, in 95 of 100 runs; with five rounds or fewer, from the lowest to the highest. */
  readonly medianWithin: readonly [number, number];
  readonly rounds: readonly number[];
}

export function valueOf(rounds: readonly Round[], peer: string, metric: string): Figure | undefined {
  return figure(rounds.map((round) => round.get(peer)?.[metric]));
}

/** A machine that slows down slows both sides of a round: their ratio is steadier than either. */
export function ratioOf(rounds: readonly Round[], peer: string, baseline: string, metric: string): Figure | undefined {
  return figure(
    rounds.map((round) => {
      const value = round.get(peer)?.[metric];
      const reference = round.get(baseline)?.[metric];
      return value === undefined || reference === undefined || reference <= 0 ? undefined : value / reference;
    }),
  );
}

function figure(values: readonly (number | undefined)[]): Figure | undefined {
  const rounds = values.filter((value) => value !== undefined);
  const sorted = [...rounds].sort((a, b) => a - b);
  const lowest = sorted[0];
  const highest = sorted[sorted.length - 1];
  if (lowest === undefined || highest === undefined) return undefined;
  const upper = sorted[Math.floor(sorted.length / 2)] ?? highest;
  const lower = sorted[Math.floor((sorted.length - 1) / 2)] ?? lowest;
  const median = (lower + upper) / 2;
  const spreadPercent = median === 0 ? 0 : ((highest - lowest) / 2 / Math.abs(median)) * 100;
  const outside = Math.max(0, Math.floor((sorted.length - 1.96 * Math.sqrt(sorted.length)) / 2));
  const medianWithin = [sorted[outside] ?? lowest, sorted[sorted.length - 1 - outside] ?? highest] as const;
  return { median, spreadPercent, medianWithin, rounds };
}

/** The value that `share` of all values are below. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}
