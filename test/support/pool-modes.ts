/** The three ways that a tenant's session can have its upstream, for suites in which the same has to hold for all. */
import type { SettingValues } from "../../src/index.ts";
import { POOL_PASSWORD } from "./pooled-proxy.ts";
import { PASSWORD } from "./tenant-fixture.ts";

export interface PoolMode {
  readonly mode: "passthrough" | "session" | "transaction";
  readonly settings: SettingValues;
  /** Of every tenant's client. */
  readonly password: string;
}

const pool = { pool_password: POOL_PASSWORD, upstream_password: PASSWORD };

export const POOL_MODES: readonly PoolMode[] = [
  { mode: "passthrough", settings: {}, password: PASSWORD },
  { mode: "session", settings: { pool_mode: "session", ...pool }, password: POOL_PASSWORD },
  { mode: "transaction", settings: { pool_mode: "transaction", ...pool }, password: POOL_PASSWORD },
];
