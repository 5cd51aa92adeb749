/** Starts flood-clients.ts, which floods from a process of its own: the clients that are measured do not wait for it. */
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { Target } from "../peer.ts";
import type { Child, Workbench } from "./workbench.ts";

export interface FloodPlan {
  readonly target: Target;
  readonly seconds: number;
  /** Clients that run `slowQuery` again and again. */
  readonly slowClients: number;
  readonly slowQuery: string;
  /** Clients that log in and leave, every other one with a wrong password. */
  readonly loginClients: number;
}

export interface FloodFigures {
  readonly logins: number;
  readonly refused: number;
  readonly slowQueries: number;
  /** In milliseconds since 1970. */
  readonly beganAtMs: number;
  readonly endedAtMs: number;
}

const program = fileURLToPath(new URL("flood-clients.ts", import.meta.url));
const startSeconds = 30;

export class Flood {
  readonly #child: Child;

  private constructor(child: Child) {
    this.#child = child;
  }

  /** Resolves when it is ready to begin. */
  static async prepare(workbench: Workbench, plan: FloodPlan): Promise<Flood> {
    // The loader of TypeScript is among the arguments of this very process.
    const child = await workbench.spawn(process.execPath, [...process.execArgv, program, JSON.stringify(plan)]);
    const deadline = Date.now() + startSeconds * 1000;
    while (!child.stdout.startsWith("ready")) {
      if (child.hasExited || Date.now() > deadline) throw new Error(`the flood did not start: ${child.lastWords}`);
      await sleep(20);
    }
    return new Flood(child);
  }

  /** Resolves when it is over, and all of its connections are closed. */
  async run(): Promise<FloodFigures> {
    process.kill(this.#child.pid, "SIGUSR2");
    const code = await this.#child.exited;
    if (code !== 0) throw new Error(`the flood failed (${code}): ${this.#child.lastWords}`);
    return JSON.parse(this.#child.stdout.split("\n")[1] ?? "") as FloodFigures;
  }
}
