/**
 * Metrics of the process: its version, CPU, memory, and how late the event loop is, which is what every session feels.
 * Collected while somebody can ask for them.
 */
import { monitorEventLoopDelay } from "node:perf_hooks";
import { Counter, Gauge, type Registry } from "prom-client";
import { readVersion } from "../lib/version.ts";

/** How often the event loop is looked at, in milliseconds. */
const RESOLUTION_MS = 20;

/** Disposing of the result ends the measurement; the metrics stay. */
export function collectProcessMetrics(registry: Registry): Disposable {
  const delay = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
  delay.enable();
  const metrics = [
    new Gauge({
      name: "pgvpd_build_info",
      help: "The versions of pgvpd and Node.js; the value is 1.",
      labelNames: ["version", "node"],
      registers: [],
      collect() {
        this.set({ version: readVersion(), node: process.version }, 1);
      },
    }),
    new Gauge({
      name: "process_start_time_seconds",
      help: "When the process started, in seconds since 1970.",
      registers: [],
      collect() {
        this.set(performance.timeOrigin / 1000);
      },
    }),
    new Gauge({
      name: "process_resident_memory_bytes",
      help: "Resident memory of the process.",
      registers: [],
      collect() {
        this.set(process.memoryUsage.rss());
      },
    }),
    new Counter({
      name: "process_cpu_seconds_total",
      help: "CPU time of the process, user and system.",
      registers: [],
      collect() {
        const { user, system } = process.cpuUsage();
        this.reset();
        this.inc((user + system) / 1e6);
      },
    }),
    new Gauge({
      name: "pgvpd_event_loop_delay_seconds",
      help: "How late the event loop was since the last time that this was asked.",
      labelNames: ["percentile"],
      registers: [],
      collect() {
        for (const [percentile, nanoseconds] of [
          ["50", delay.percentile(50)],
          ["99", delay.percentile(99)],
          ["100", delay.max],
        ] as const) {
          // Of no measurement at all it is not a number.
          this.set({ percentile }, Math.max(0, nanoseconds / 1e9 - RESOLUTION_MS / 1000) || 0);
        }
        delay.reset();
      },
    }),
  ];
  for (const metric of metrics) registry.registerMetric(metric);
  return { [Symbol.dispose]: () => void delay.disable() };
}
