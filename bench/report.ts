/**
 * Turns results into text: a head with the machine and the peers, a table for each scenario, and the verdicts on the
 * targets. Called by main.ts, which prints. It never measures.
 */
import type { MachineFacts } from "./machine.ts";
import type { ScenarioResult } from "./run.ts";
import type { Metric } from "./scenario.ts";
import { ratioOf, valueOf, type Figure, type Round } from "./statistics.ts";
import { columns, formatNumber } from "./table.ts";
import type { Verdict } from "./targets.ts";

/** Peers that every other one is compared with, where they took part. */
const baselines = ["pgbouncer", "haproxy"];

export interface PeerFacts {
  readonly name: string;
  readonly version?: string;
  /** Why it is not part of the run. */
  readonly missing?: string;
}

export function head(machine: MachineFacts, peers: readonly PeerFacts[], length: string): string {
  const facts = Object.entries(machine).map(([name, value]) => `  ${name.padEnd(14)} ${value}`);
  const versions = peers.map(
    ({ name, version, missing }) => `  ${name.padEnd(14)} ${version ?? `skipped: ${missing}`}`,
  );
  return ["machine", ...facts, "peers", ...versions, length, ""].join("\n");
}

/** One row for each peer: median and spread of each metric, and of its ratios to the baselines. */
export function scenarioTable(result: ScenarioResult): string {
  const { scenario, rounds, failures } = result;
  const peers = [...new Set(rounds.flatMap((round) => [...round.keys()]))];
  const wanted = scenario.baseline === undefined ? baselines : [scenario.baseline];
  const present = wanted.filter((name) => peers.includes(name));
  const compared = present.length > 0 ? present : ["direct"].filter((name) => peers.includes(name));
  const headRow = ["", ...scenario.metrics.flatMap((metric) => headCells(metric, compared))];
  const rows = peers.map((peer) => [
    peer,
    ...scenario.metrics.flatMap((metric) => metricCells(metric, peer, compared, rounds)),
  ]);
  const failed = failures.map(({ peer, reason }) => `  ${peer} FAILED: ${reason}`);
  const title = `${scenario.name}: ${scenario.title}`;
  return [title, ...(rows.length > 0 ? [columns([headRow, ...rows])] : ["  nothing measured"]), ...failed, ""].join(
    "\n",
  );
}

function headCells(metric: Metric, compared: readonly string[]): string[] {
  return [metric.label, ...(metric.hasRatio ? compared.map((name) => `x ${name}`) : [])];
}

function metricCells(metric: Metric, peer: string, compared: readonly string[], rounds: readonly Round[]): string[] {
  const value = cell(valueOf(rounds, peer, metric.key), metric.digits);
  if (!metric.hasRatio) return [value];
  const ratios = compared.map((name) => {
    if (name === peer) return "1";
    return cell(ratioOf(rounds, peer, name, metric.key), 2);
  });
  return [value, ...ratios];
}

function cell(figure: Figure | undefined, digits: number): string {
  if (figure === undefined) return "-";
  return `${formatNumber(figure.median, digits)} ±${formatNumber(figure.spreadPercent, 0)}%`.padStart(1);
}

export function verdictTable(verdicts: readonly Verdict[]): string {
  if (verdicts.length === 0) return "";
  const rows = verdicts.map(({ target, measured, spreadPercent, medianWithin, isMet }) => [
    `${target.scenario}, ${target.metric}${target.peer === undefined ? "" : ` of ${target.peer}`}${target.against === undefined ? "" : ` x ${target.against}`}`,
    target.atMost === undefined ? `>= ${target.atLeast}` : `<= ${target.atMost}`,
    `${formatNumber(measured, 2)} ±${formatNumber(spreadPercent, 0)}%`,
    medianWithin.map((bound) => formatNumber(bound, 2)).join(" to "),
    isMet ? "met" : "MISSED",
  ]);
  return ["targets of pgvpd", columns([["", "must", "measured", "median within", ""], ...rows]), ""].join("\n");
}
